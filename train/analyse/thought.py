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
    halting = hrm.config.halting and segments is None
    halted = torch.zeros(len(tokens), 1, 1, dtype=torch.bool, device=tokens.device)
    qs, carries, values = [], [], []
    for _ in range(hrm.config.segments if segments is None else segments):
        new, q = hrm.segment(carry, tokens)
        if halting:
            z_H, z_L = (torch.where(halted, *pair) for pair in zip(carry, new, strict=True))
            new, q = Carry(z_H, z_L), hrm.q_values(z_H, tokens)
            halt, proceed = hrm.halt_logits(new).unbind(1)
            halted = halted | (halt > proceed)[:, None, None]
        carry = new
        qs.append(q)
        carries.append(carry)
        if hrm.config.q_token == "goal":
            values.append(hrm.values_of_cells(carry.z_H).amax(-1))
    z_H, z_L = (torch.stack(z) for z in zip(*carries, strict=True))
    every_cell = torch.stack(values) if values else None
    return Thought(torch.stack(qs), z_H, z_L, hrm.stored(carry), every_cell)
