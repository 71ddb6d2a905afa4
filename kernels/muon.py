"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), in place on stacks of matrices.

    m <- momentum * m + (1 - momentum) * g
    u <- orthogonal(momentum * m + (1 - momentum) * g)           Nesterov's momentum
    w <- w * (1 - lr * weight_decay) - lr * sqrt(max(1, rows / columns)) * u

orthogonal(x) is near the U V^T of x = U S V^T: five Newton-Schulz steps
x <- a x + (b x x^T + c (x x^T)^2) x from x / |x|, which bring every singular value
of at least 0.002 |x| near 1; smaller ones stay below.

w, g, m float32 [n, rows, columns], views allowed; lr a number or a tensor on their device. It does
what `torch.optim.Muon` does, but on n matrices at a time, in float32, and so that a CUDA graph may
repeat it while the learning rate changes.
"""

import torch
from torch import Tensor

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # the steepest rise at 0 for which all ends within [0.7, 1.2]


def orthogonal(x: Tensor) -> Tensor:
    """[n, rows, columns] -> the same, singular values near 1."""
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if is_tall else x


@torch.no_grad()
def muon(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    lr: float | Tensor,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
) -> None:
    m.lerp_(g, 1 - momentum)
    update = orthogonal(g.lerp(m, momentum))
    rows, columns = w.shape[1:]
    w.mul_(1 - lr * weight_decay).sub_(update * (lr * max(1.0, rows / columns) ** 0.5))
