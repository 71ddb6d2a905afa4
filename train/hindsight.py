"""Goal relabelling: what if the goal had been a cell that the agent reached later on?

Any walk shows how to reach the cells it visits, so a share of a batch gets such a cell as its goal:
its boards are redrawn and its rewards counted anew. Source: Andrychowicz et al. 2017,
arXiv 1707.01495 (strategy "future").
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import Carry

AGENT, FLOOR, GOAL, UNSEEN = (ord(glyph) for glyph in "@.>?")


class Relabel(NamedTuple):
    """What `Replay.sample` is asked for."""

    share: float | Tensor  # of the batch; rows whose drawn cell cannot be a goal stay as they are
    start: Carry  # [B, ...]; z has seen the old goal, so it starts anew from this


class Goal(NamedTuple):
    """Another goal for the chosen rows of a batch."""

    cell: Tensor  # int64 [B]
    chosen: Tensor  # bool [B]


class Steps(NamedTuple):
    """n consecutive steps of B mazes, [B, n] each."""

    r_t: Tensor
    discount_t: Tensor
    ends_t: Tensor


def agent_cell(boards: Tensor) -> Tensor:
    """Index of '@' in boards uint8 [..., cells] -> int64 [...]."""
    return (boards == AGENT).to(torch.uint8).argmax(-1)


def may_be_goal(boards: Tensor, cell: Tensor) -> Tensor:
    """bool [B]: plain floor, neither the agent, its start, the goal, a closed door nor unseen."""
    return boards.gather(1, cell[:, None])[:, 0] == FLOOR


def draw_goal(boards: Tensor, goal: Goal) -> Tensor:
    """Boards uint8 [..., B, cells] with the chosen ones' goal moved; an agent there hides it."""
    cells = torch.arange(boards.shape[-1], dtype=torch.int64, device=boards.device)
    there = (cells == goal.cell[:, None]) & (boards != AGENT) & (boards != UNSEEN)
    moved = boards.masked_fill(boards == GOAL, FLOOR).masked_fill(there, GOAL)
    return torch.where(goal.chosen[:, None], moved, boards)


def with_goal(steps: Steps, goal: Goal, agent: Tensor, gamma: float) -> Steps:
    """What the steps had been worth with that goal; agent int64 [B, n] is where each one led."""
    hit = agent == goal.cell[:, None]
    r_t = steps.r_t.clamp(max=0.0).masked_fill(hit, 1.0)  # bumps still count, the old goal does not
    discount_t = torch.full_like(r_t, gamma).masked_fill(hit, 0.0)
    changed = Steps(r_t, discount_t, steps.ends_t | hit)
    chosen = goal.chosen[:, None]
    return Steps(*(torch.where(chosen, new, old) for new, old in zip(changed, steps, strict=True)))
