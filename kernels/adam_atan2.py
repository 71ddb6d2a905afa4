"""AdamATan2 (Everett et al. 2024, arXiv 2407.05872), in place on flat float32 vectors [P].

    w <- w * (1 - lr * weight_decay)
    m <- beta1 * m + (1 - beta1) * g
    v <- beta2 * v + (1 - beta2) * g^2
    w <- w - lr / (1 - beta1^t) * atan2(m, sqrt(v / (1 - beta2^t)))

Adam's m / (sqrt(v) + eps) with the division replaced by atan2: no epsilon to choose, and no weight
ever moves further than lr * pi / 2 / (1 - beta1^t). t counts from 1.
"""

import math

import torch
from torch import Tensor


@torch.no_grad()
def adam_atan2_reference(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
) -> None:
    if weight_decay:
        w.mul_(1 - lr * weight_decay)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = v.sqrt().div_(math.sqrt(1 - beta2**t))
    w.sub_(torch.atan2(m, denominator), alpha=lr / (1 - beta1**t))


adam_atan2 = adam_atan2_reference
