"""`kernels.swiglu_block` in one kernel each way: a tile of tokens stays on chip from x to y.

Backward recomputes gate and up from x, and takes y and the norm's scale from forward. It leaves the
gradients of all activations; the weights' are two products over all tokens, which cuBLAS does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    contiguous,
    dot,
    expect,
    load_rows,
    register,
    rms,
    rms_backward,
    store_rows,
    tile,
    tuned,
)


@triton.jit
def gates(x, w_gate_up, f, d, D: tl.constexpr, F: tl.constexpr):
    """gate, up float32 [R, f] of x [R, d], and their weights [f, d]."""
    w_gate = load_rows(w_gate_up, f, F, d, D)
    w_up = load_rows(w_gate_up + F * D, f, F, d, D)
    return dot(x, tl.trans(w_gate)), dot(x, tl.trans(w_up)), w_gate, w_up


@tuned("BR BF", (64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 3), (32, 64, 4, 2), key="D F")
@triton.jit
def forward_kernel(
    x_at, w_gate_up, w_down, y_at, scale_at, rows,
    D: tl.constexpr, F: tl.constexpr, BD: tl.constexpr, SAVE: tl.constexpr,
    BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    x = load_rows(x_at, r, rows, d, D)
    u = x.to(tl.float32)
    for f0 in range(0, F, BF):
        f = f0 + tl.arange(0, BF)
        gate, up, _, _ = gates(x, w_gate_up, f, d, D, F)
        a = (gate * tl.sigmoid(gate) * up).to(x.dtype)
        u = dot(a, tl.trans(load_rows(w_down, d, D, f, F)), u)
    y, scale = rms(u, D)
    store_rows(y_at, y.to(x.dtype), r, rows, d, D)
    if SAVE:
        tl.store(scale_at + r, scale, r < rows)


@tuned("BR BF", (64, 32, 4, 2), (64, 64, 8, 2), (32, 64, 4, 2), (128, 32, 8, 2), key="D F")
@triton.jit
def backward_kernel(
    x_at, w_gate_up, w_down, y_at, scale_at, dy_at, dx_at, du_at, a_at, d_gate_up, rows,
    D: tl.constexpr, F: tl.constexpr, BD: tl.constexpr,
    BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    x = load_rows(x_at, r, rows, d, D)
    y = load_rows(y_at, r, rows, d, D).to(tl.float32)
    dy = load_rows(dy_at, r, rows, d, D).to(tl.float32)
    dx = rms_backward(y, tl.load(scale_at + r, r < rows, other=0.0), dy, D)
    du = dx.to(x.dtype)
    store_rows(du_at, du, r, rows, d, D)
    for f0 in range(0, F, BF):
        f = f0 + tl.arange(0, BF)
        gate, up, w_gate, w_up = gates(x, w_gate_up, f, d, D, F)
        da = dot(du, load_rows(w_down, d, D, f, F))
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        d_up = (da * silu).to(x.dtype)
        d_gate = (da * up * (sigmoid + silu * (1 - sigmoid))).to(x.dtype)
        dx = dot(d_up, w_up, dot(d_gate, w_gate, dx))
        store_rows(a_at, (silu * up).to(x.dtype), r, rows, f, F)
        inside = (r < rows)[:, None] & (f < F)[None, :]
        at = d_gate_up + r[:, None] * (2 * F) + f[None, :]
        tl.store(at, d_gate, inside)
        tl.store(at + F, d_up, inside)
    store_rows(dx_at, dx.to(x.dtype), r, rows, d, D)


def launch_forward(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, save: bool
) -> tuple[Tensor, Tensor]:
    """y [..., D] and the norm's scale [...], or [0] if it is not saved, of x [..., D]."""
    y, scale = _forward_fake(x, w_gate_up, w_down, save)
    x, w_gate_up, w_down = contiguous(x, w_gate_up, w_down)
    (D, F), rows = w_down.shape, x.numel() // x.shape[-1]
    forward_kernel[lambda meta: (triton.cdiv(rows, meta["BR"]),)](
        x, w_gate_up, w_down, y, scale, rows, D, F, tile(D), save
    )
    return y, scale


def _forward_fake(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, save: bool
) -> tuple[Tensor, Tensor]:
    D, F = x.shape[-1], w_down.shape[-1]
    if not 1 <= D <= 128:
        raise ValueError(f"D is {D}: expected 1 to 128")
    expect(x, w_gate_up=(w_gate_up, (2 * F, D)), w_down=(w_down, (D, F)))
    y = x.new_empty(x.shape)
    return y, x.new_empty(x.shape[:-1] if save else (0,), dtype=torch.float32)


def launch_backward(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, y: Tensor, scale: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dx [..., D], dw_gate_up [2 F, D] and dw_down [D, F] of dy [..., D]."""
    x, w_gate_up, w_down, y, scale, dy = contiguous(x, w_gate_up, w_down, y, scale, dy)
    (D, F), rows = w_down.shape, x.numel() // x.shape[-1]
    expect(x, y=(y, tuple(x.shape)), dy=(dy, tuple(x.shape)))
    dx, du = torch.empty_like(x), x.new_empty(rows, D)
    a, d_gate_up = x.new_empty(rows, F), x.new_empty(rows, 2 * F)
    backward_kernel[lambda meta: (triton.cdiv(rows, meta["BR"]),)](
        x, w_gate_up, w_down, y, scale, dy, dx, du, a, d_gate_up, rows, D, F, tile(D)
    )
    return dx, d_gate_up.T @ x.view(rows, D), du.T @ a


def _backward_fake(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, y: Tensor, scale: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, w_gate_up, w_down))  # type: ignore[return-value]


forward_op = register(
    "swiglu_block(Tensor x, Tensor w_gate_up, Tensor w_down, bool save) -> (Tensor, Tensor)",
    launch_forward,
    _forward_fake,
)
backward_op = register(
    "swiglu_block_backward(Tensor x, Tensor w_gate_up, Tensor w_down, Tensor y, Tensor scale, "
    "Tensor dy) -> (Tensor, Tensor, Tensor)",
    launch_backward,
    _backward_fake,
)


class _SwigluBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_gate_up, w_down):
        y, scale = forward_op(x, w_gate_up, w_down, True)
        ctx.save_for_backward(x, w_gate_up, w_down, y, scale)
        return y

    @staticmethod
    def backward(ctx, dy):
        return backward_op(*ctx.saved_tensors, dy)


def swiglu_block(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """As `swiglu_block.swiglu_block_reference`, for D up to 128."""
    if not torch.is_grad_enabled():
        return forward_op(x, w_gate_up, w_down, False)[0]
    return _SwigluBlock.apply(x, w_gate_up, w_down)
