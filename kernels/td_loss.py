"""The TD loss: mean over the batch of (Q(s_tm1, a_tm1) - y)^2.

q [B, A] float32, a_tm1 [B] int64, target y [B] float32 -> scalar float32. No gradient flows into y.
"""

import torch
from torch import Tensor


def td_loss_reference(q: Tensor, a_tm1: Tensor, target: Tensor) -> Tensor:
    q_a = q.gather(1, a_tm1.unsqueeze(1)).squeeze(1)  # [B]
    return torch.mean((q_a - target.detach()) ** 2)
