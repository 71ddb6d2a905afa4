"""Adaptive computation time: when may a decision stop thinking? Off by default and in every preset.

A segment's answer counts as right when its greedy action is the one that the target network
chooses after all its segments. Source: HRM, arXiv 2506.21734, and its published code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_fast.model import HRM, Carry


def halting_loss(logits: Tensor, is_right: Tensor, next_logits: Tensor, is_last: Tensor) -> Tensor:
    """Q-learning loss of the (halt, continue) logits of one segment, a scalar.

    logits       [B, 2]  after this segment; carries the gradient
    is_right     [B]     whether this segment's answer is right
    next_logits  [B, 2]  after the next segment; gets no gradient
    is_last      [B]     whether this segment is the last one allowed

    Halting is worth is_right. Continuing is worth the best that the next segment can do:
    sigmoid(max(halt, continue)) of next_logits, or sigmoid(halt) of them where is_last. The loss
    is the mean of the two binary cross-entropies.
    """
    halt, proceed = logits.float().unbind(1)
    next_halt, next_proceed = next_logits.detach().float().unbind(1)
    best = torch.where(is_last, next_halt, torch.maximum(next_halt, next_proceed))
    bce = F.binary_cross_entropy_with_logits
    return (bce(halt, is_right.float()) + bce(proceed, best.sigmoid())) / 2


def best_action(target: HRM, tokens: Tensor, z: Carry) -> Tensor:
    """Greedy actions int64 [B] of the target network after all its segments."""
    q, _ = target.decide(tokens, z, target.config.segments)
    return q.argmax(-1)


def segment_with_halting(
    hrm: HRM, carry: Carry, tokens: Tensor, a_tm1: Tensor, y: Tensor, best: Tensor, segment: int
) -> tuple[Carry, Tensor, Tensor]:
    """Compute `HRM.td_segment` with the halting loss added to its TD loss.

    best int64 [B]: of `best_action`; segment: its number in the decision, from 0.
    """
    states = hrm.think(carry, tokens)
    q = hrm.q_values(states.z_H, tokens)
    detached = Carry(states.z_H.detach(), states.z_L.detach())
    with torch.no_grad():
        next_logits = hrm.halt_logits(hrm.think(detached, tokens))
    is_last = torch.full_like(best, segment + 1 >= hrm.config.segments, dtype=torch.bool)
    halting = halting_loss(hrm.halt_logits(states), q.argmax(-1) == best, next_logits, is_last)
    return detached, q, hrm.ops.td_loss(q, a_tm1, y) + halting
