"""One decision, with what the model holds in mind after each of its segments."""

from typing import NamedTuple

import torch

from hrm_fast import HRM, Carry


class Thought(NamedTuple):
    """A decision of B boards, segment by segment."""

    q: torch.Tensor  # float32 [S, B, A]; the decision's are q[-1]
    z_H: torch.Tensor  # [S, B, T, D], after each segment
    z_L: torch.Tensor
    stored: Carry  # of the next decision, [B, *stored_shape] twice
    values: torch.Tensor | None  # float32 [S, B, cells], of every cell as the goal: its best Q


@torch.no_grad()
def decide_and_record(
    hrm: HRM,
    tokens: torch.Tensor,
    seed: Carry | tuple[torch.Tensor, torch.Tensor] | None = None,
    segments: int | None = None,
) -> Thought:
    """`HRM.decide`, whose arguments these are, with every segment's Q and carry kept.

    A board that halts keeps its z from there on: S is the config's all the same.
    """
    carry = hrm.start(len(tokens)) if seed is None else hrm.carry_from(seed)
    S = hrm.config.segments if segments is None else segments
    qs, carries = [], []
    if hrm.config.halting and segments is None:
        carries = [*hrm.until_halted(carry, tokens)]
        carries += carries[-1:] * (S - len(carries))
        qs = [hrm.q_values(z_H, tokens) for z_H, _ in carries]
    else:
        for _ in range(S):
            carry, q = hrm.segment(carry, tokens)
            qs.append(q)
            carries.append(carry)
    z_H, z_L = (torch.stack(z) for z in zip(*carries, strict=True))
    every_cell = None
    if hrm.config.q_token == "goal":
        every_cell = torch.stack([hrm.values_of_cells(z).amax(-1) for z in z_H])
    return Thought(torch.stack(qs), z_H, z_L, hrm.stored(carries[-1]), every_cell)
