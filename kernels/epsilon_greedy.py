"""Epsilon-greedy choice of actions from Q values and one random number each.

    action = min(floor(uniform / epsilon * A), A - 1)   where uniform < epsilon
             argmax(q), the first of equals             elsewhere

    q        [N, A]
    epsilon  a number, or float32 [1]
    uniform  [N] float32 in [0, 1), such as torch.rand's
    action   [N] int64

Given that uniform < epsilon, uniform / epsilon is uniform in [0, 1) itself: no second draw.
"""

import torch
from torch import Tensor


def epsilon_greedy_reference(q: Tensor, epsilon: float | Tensor, uniform: Tensor) -> Tensor:
    """In plain PyTorch; shapes in the file's head."""
    if not isinstance(epsilon, Tensor):
        epsilon = uniform.new_full((1,), epsilon)  # a number would be rounded as the device likes
    A = q.shape[1]
    anything = (uniform / epsilon * A).clamp(max=A - 1).long()
    return torch.where(uniform < epsilon, anything, q.argmax(-1))
