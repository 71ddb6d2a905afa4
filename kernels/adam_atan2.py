"""AdamATan2 (Everett et al. 2024, arXiv 2407.05872), in place on flat float32 vectors [P].

    w <- w * (1 - lr * weight_decay)
    m <- beta1 * m + (1 - beta1) * g
    v <- beta2 * v + (1 - beta2) * g^2
    w <- w - lr / (1 - beta1^t) * atan2(m, sqrt(v / (1 - beta2^t)))
    average <- average_decay * average + (1 - average_decay) * w        where there is one

Adam's m / (sqrt(v) + eps) with the division replaced by atan2: no epsilon to choose, and no weight
ever moves further than lr * pi / 2 / (1 - beta1^t). t counts from 1.
"""

import math

import torch
from torch import Tensor

from kernels import native
from kernels.native import _native, ptr


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
    average: Tensor | None = None,
    average_decay: float = 0.0,
) -> None:
    if weight_decay:
        w.mul_(1 - lr * weight_decay)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = v.sqrt().div_(math.sqrt(1 - beta2**t))
    w.sub_(torch.atan2(m, denominator), alpha=lr / (1 - beta1**t))
    if average is not None:
        average.lerp_(w, 1 - average_decay)


@torch.no_grad()
def adam_atan2(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
    average: Tensor | None = None,
    average_decay: float = 0.0,
) -> None:
    """One pass over the memory in C++ for float32 on a CPU, else the reference."""
    if w.device.type != "cpu" or w.dtype != torch.float32:
        numbers = (t, lr, beta1, beta2, weight_decay)
        return adam_atan2_reference(w, g, m, v, *numbers, average, average_decay)
    vectors = {"w": w, "g": g, "m": m, "v": v}
    at = {name: ptr(name, x, torch.float32, len(w)) for name, x in vectors.items()}
    at["average"] = 0 if average is None else ptr("average", average, torch.float32, len(w))
    _native.adam_atan2(
        **at,
        n=len(w),
        t=t,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        average_decay=average_decay,
        instructions=native.INSTRUCTIONS,
    )
