"""The TD loss: mean over the batch of weight * (Q(s_tm1, a_tm1) - y)^2.

q [B, A] float32, a_tm1 [B] int64, target y [B] float32, weight [B] float32 (None: all 1) ->
scalar float32. No gradient flows into y.
"""

import torch
from torch import Tensor


def td_loss_reference(
    q: Tensor, a_tm1: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    q_a = q.gather(1, a_tm1.unsqueeze(1)).squeeze(1)  # [B]
    squared = (q_a - target.detach()) ** 2
    return torch.mean(squared if weight is None else weight * squared)
