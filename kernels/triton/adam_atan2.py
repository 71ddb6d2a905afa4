"""One update of flat float32 weights, in place: AdamATan2 on the body, sign-SGD on the tail (the
puzzle token), learning-rate schedule, moving average of the weights, gradients back to 0.

    body     kernels.adam_atan2, with t the number of this update, from 1
    tail     w <- w * (1 - lr * weight_decay) - lr * sign(g)
    all      average <- average_decay * average + (1 - average_decay) * w,   g <- 0

Both learning rates are multiplied by a share that rises linearly over `warmup` updates to 1, then
falls linearly to `final` at update `updates`. The count of updates lives on the device, so that a
CUDA graph of one update can be replayed. The first kernel, of one warp, reads and advances it and
computes in float64 what all weights share (1 - beta^t loses all its digits in float32); the second
passes once over the memory.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import register

BLOCK = 512


@triton.jit
def rates_kernel(
    step, rates, warmup: tl.float64, rise: tl.float64, fall: tl.float64, final: tl.float64,
    lr: tl.float64, log2_beta1: tl.float64, log2_beta2: tl.float64, weight_decay: tl.float64,
    tail_lr: tl.float64, tail_weight_decay: tl.float64,
):  # fmt: skip
    done = tl.load(step)
    tl.store(step, done + 1)
    update = done.to(tl.float64)
    t = update + 1
    fallen = tl.minimum((update - warmup) / fall, 1.0)
    share = tl.where(update < warmup, t / rise, 1 - fallen * (1 - final))
    tl.store(rates + 0, (1 - share * lr * weight_decay).to(tl.float32))
    tl.store(rates + 1, (share * lr / (1 - tl.exp2(t * log2_beta1))).to(tl.float32))
    tl.store(rates + 2, tl.sqrt(1 - tl.exp2(t * log2_beta2)).to(tl.float32))
    tl.store(rates + 3, (1 - share * tail_lr * tail_weight_decay).to(tl.float32))
    tl.store(rates + 4, (share * tail_lr).to(tl.float32))


@triton.jit
def atan2_positive(y, x):
    """atan2(y, x) for x >= 0, to 2 ulp, 0 at (0, 0); libdevice's does not run in the interpreter.

    atan(t) = t + t^3 P(t^2) on |t| <= tan(pi / 8), reduced by atan(t) = pi / 4 + atan((t - 1) /
    (t + 1)) and atan(t) = pi / 2 - atan(1 / t).
    """
    size = tl.abs(y)
    steep = size > x
    low, high = tl.where(steep, x, size), tl.where(steep, size, x)
    upper = low > high * 0.4142135623730950
    over, under = tl.where(upper, low - high, low), tl.where(upper, low + high, high)
    t = tl.div_rn(over, tl.where(under == 0, 1.0, under))
    z = t * t
    p = (z * 8.05374449538e-2 - 1.38776856032e-1) * z + 1.99777106478e-1
    angle = (p * z - 3.33329491539e-1) * z * t + t
    angle = tl.where(upper, angle + 0.78539816339744831, angle)
    angle = tl.where(steep, 1.57079632679489662 - angle, angle)
    return tl.where(y < 0, -angle, angle)


@triton.jit
def update_kernel(
    w_at, g_at, m_at, v_at, average_at, rates, size, body,
    one_minus_beta1, beta2, one_minus_beta2, one_minus_average, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, in_body = i < size, i < body
    w, g = tl.load(w_at + i, inside, other=0.0), tl.load(g_at + i, inside, other=0.0)
    m, v = tl.load(m_at + i, in_body, other=0.0), tl.load(v_at + i, in_body, other=0.0)
    average = tl.load(average_at + i, inside, other=0.0)
    m += (g - m) * one_minus_beta1
    v = v * beta2 + g * g * one_minus_beta2
    root = tl.div_rn(tl.sqrt_rn(v), tl.load(rates + 2))
    adam = w * tl.load(rates + 0) - tl.load(rates + 1) * atan2_positive(m, root)
    sign = tl.where(g > 0, 1.0, tl.where(g < 0, -1.0, g))  # NaN stays NaN
    w = tl.where(in_body, adam, w * tl.load(rates + 3) - tl.load(rates + 4) * sign)
    tl.store(w_at + i, w, inside)
    tl.store(g_at + i, tl.zeros_like(g), inside)
    tl.store(m_at + i, m, in_body)
    tl.store(v_at + i, v, in_body)
    tl.store(average_at + i, average + (w - average) * one_minus_average, inside)


def launch(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, average: Tensor, step: Tensor,
    warmup: int, updates: int, final: float, lr: float, beta1: float, beta2: float,
    weight_decay: float, tail_lr: float, tail_weight_decay: float, average_decay: float,
) -> None:  # fmt: skip
    """Write w, g, average [P], m, v [P - tail] and step [1]: two kernels."""
    rates = w.new_empty(5)
    rates_kernel[(1,)](
        step, rates, float(warmup), float(max(1, warmup)), float(max(1, updates - warmup)), final,
        lr, _log2(beta1), _log2(beta2), weight_decay, tail_lr, tail_weight_decay, num_warps=1,
    )  # fmt: skip
    update_kernel[(triton.cdiv(len(w), BLOCK),)](
        w, g, m, v, average, rates, len(w), len(m),
        1 - beta1, beta2, 1 - beta2, 1 - average_decay, BLOCK,
    )  # fmt: skip


def _log2(beta: float) -> float:
    return math.log2(beta) if beta else -math.inf


def _fake(*_: object) -> None:
    return None


op = register(
    "update(Tensor(a!) w, Tensor(b!) g, Tensor(c!) m, Tensor(d!) v, Tensor(e!) average, "
    "Tensor(f!) step, int warmup, int updates, float final, float lr, float beta1, float beta2, "
    "float weight_decay, float tail_lr, float tail_weight_decay, float average_decay) -> ()",
    launch,
    _fake,
)


@torch.no_grad()
def update(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    average: Tensor,
    step: Tensor,
    *,
    warmup: int,
    updates: int,
    final: float,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    tail_lr: float,
    tail_weight_decay: float,
    average_decay: float,
) -> None:
    """w, g, average [P], m, v [P - tail] float32; step [1] int64, updates done so far: all written.

    ValueError: a dtype or shape does not fit, or a tensor is not contiguous.
    """
    P, body = len(w), len(m)
    if not 0 <= body <= P:
        raise ValueError(f"m is [{body}]: expected at most [{P}]")
    sizes = {"w": (w, P), "g": (g, P), "m": (m, body), "v": (v, body), "average": (average, P)}
    for name, (tensor, size) in {**sizes, "step": (step, 1)}.items():
        dtype = torch.int64 if name == "step" else torch.float32
        if tensor.dtype != dtype or tensor.shape != (size,) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, strides {tensor.stride()}: "
                f"expected {dtype} [{size}], contiguous"
            )
    op(
        w, g, m, v, average, step, warmup, updates, final, lr, beta1, beta2,
        weight_decay, tail_lr, tail_weight_decay, average_decay,
    )  # fmt: skip
