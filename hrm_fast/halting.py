"""The loss of adaptive computation time: when may a decision stop thinking?"""

import torch
import torch.nn.functional as F


def halting_loss(
    logits: torch.Tensor, is_right: torch.Tensor, next_logits: torch.Tensor, is_last: torch.Tensor
) -> torch.Tensor:
    """Q-learning loss of the (halt, continue) logits of one segment, a scalar.

    logits       [B, 2]  after this segment; carries the gradient
    is_right     [B]     whether this segment's answer is right (for a Q function the caller's
                         choice, such as: its greedy action is the target network's last one)
    next_logits  [B, 2]  after the next segment; gets no gradient
    is_last      [B]     whether this segment is the last one allowed

    Halting is worth is_right; continuing is worth the best that the next segment can do:
    sigmoid(max(halt, continue)), or after the last segment its sigmoid(halt). The loss is the mean
    of the two binary cross-entropies. Source: HRM, arXiv 2506.21734, and its published code.
    """
    halt, proceed = logits.float().unbind(1)
    next_halt, next_proceed = next_logits.detach().float().unbind(1)
    best = torch.where(is_last, next_halt, torch.maximum(next_halt, next_proceed))
    bce = F.binary_cross_entropy_with_logits
    return (bce(halt, is_right.float()) + bce(proceed, best.sigmoid())) / 2
