"""Adaptive computation time in the trainer: off by default, off in every preset.

A segment's answer counts as right when its greedy action is the one that the target network
chooses after all its segments. Source: HRM, arXiv 2506.21734, section on ACT.
"""

import torch
from torch import Tensor

from hrm_fast import HRM, Carry, halting_loss
from train.replay import Transition


def best_action(target: HRM, batch: Transition) -> Tensor:
    """Greedy actions int64 [B] of the target network after all its segments."""
    q, _ = target.decide(batch.s_tm1, batch.seed_tm1, target.config.segments)
    return q.argmax(-1)


def segment_with_halting(
    hrm: HRM, carry: Carry, batch: Transition, y: Tensor, best: Tensor, segment: int
) -> tuple[Carry, Tensor, Tensor]:
    """As `HRM.segment`, and the TD loss with the halting loss added to it."""
    states = hrm.think(carry, batch.s_tm1)
    q = hrm.q_values(states.z_H, batch.s_tm1)
    detached = Carry(states.z_H.detach(), states.z_L.detach())
    with torch.no_grad():
        next_logits = hrm.halt_logits(hrm.think(detached, batch.s_tm1))
    is_last = torch.full_like(best, segment + 1 >= hrm.config.segments, dtype=torch.bool)
    halting = halting_loss(hrm.halt_logits(states), q.argmax(-1) == best, next_logits, is_last)
    return detached, q, hrm.ops.td_loss(q, batch.a_tm1, y) + halting
