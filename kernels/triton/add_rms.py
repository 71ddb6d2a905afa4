"""The end of a block of a larger model: y = rms(x + f), one pass over rows of up to a few thousand.

    x, f, y  [..., D]
    scale    [...]      float32, 1 / sqrt(mean((x + f)^2) + 1e-5), for backward

The sum and its statistics stay in float32. Backward needs y and scale alone, and its result is the
gradient of x and of f alike.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    contiguous,
    expect,
    load_rows,
    register,
    rms,
    rms_backward,
    store_rows,
    tile,
    tuned,
)

ROWS = (8, 4, 3), (32, 4, 3), (4, 4, 3), (1, 1, 3)  # 4 to 32 numbers a thread for D from 64 to 512


@tuned("BR", *ROWS, key="D")
@triton.jit
def forward_kernel(
    x_at, f_at, y_at, scale_at, rows,
    D: tl.constexpr, BD: tl.constexpr, SAVE: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    x = load_rows(x_at, r, rows, d, D)
    f = load_rows(f_at, r, rows, d, D)
    y, scale = rms(x.to(tl.float32) + f.to(tl.float32), D)
    store_rows(y_at, y.to(x.dtype), r, rows, d, D)
    if SAVE:
        tl.store(scale_at + r, scale, r < rows)


@tuned("BR", *ROWS, key="D")
@triton.jit
def backward_kernel(
    y_at, scale_at, dy_at, du_at, rows,
    D: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    y = load_rows(y_at, r, rows, d, D)
    dy = load_rows(dy_at, r, rows, d, D).to(tl.float32)
    scale = tl.load(scale_at + r, r < rows, other=0.0)
    du = rms_backward(y.to(tl.float32), scale, dy, D)
    store_rows(du_at, du.to(y.dtype), r, rows, d, D)


def launch_forward(x: Tensor, f: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    """y [..., D] and scale [...], or scale [0] if it is not saved, of x and f [..., D]."""
    y, scale = _forward_fake(x, f, save)
    x, f = contiguous(x, f)
    D, rows = x.shape[-1], x.numel() // x.shape[-1]
    forward_kernel[lambda meta: (triton.cdiv(rows, meta["BR"]),)](
        x, f, y, scale, rows, D, tile(D), save
    )
    return y, scale


def _forward_fake(x: Tensor, f: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    expect(x, f=(f, x.shape))
    scale = x.new_empty(x.shape[:-1] if save else (0,), dtype=torch.float32)
    return x.new_empty(x.shape), scale


def launch_backward(y: Tensor, scale: Tensor, dy: Tensor) -> Tensor:
    """du [..., D] of y [..., D], scale [...] and dy [..., D]."""
    du = _backward_fake(y, scale, dy)
    y, scale, dy = contiguous(y, scale, dy)
    D, rows = y.shape[-1], y.numel() // y.shape[-1]
    backward_kernel[lambda meta: (triton.cdiv(rows, meta["BR"]),)](
        y, scale, dy, du, rows, D, tile(D)
    )
    return du


def _backward_fake(y: Tensor, scale: Tensor, dy: Tensor) -> Tensor:
    expect(y, dy=(dy, y.shape))
    if scale.shape != y.shape[:-1]:
        raise ValueError(f"scale is {list(scale.shape)}: expected {list(y.shape[:-1])}")
    return y.new_empty(y.shape)


forward_op = register(
    "add_rms(Tensor x, Tensor f, bool save) -> (Tensor, Tensor)", launch_forward, _forward_fake
)
backward_op = register(
    "add_rms_backward(Tensor y, Tensor scale, Tensor dy) -> Tensor", launch_backward, _backward_fake
)


class _AddRms(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f):
        y, scale = forward_op(x, f, any(ctx.needs_input_grad))
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, dy):
        du = backward_op(*ctx.saved_tensors, dy)
        return du, du


def add_rms(x: Tensor, f: Tensor) -> Tensor:
    """`kernels.rms_norm.rms_norm`(x + f) of x, f [..., D]; ValueError where they differ."""
    return _AddRms.apply(x, f)
