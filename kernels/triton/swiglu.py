"""The gate between the two products of a larger model's SwiGLU block: a = silu(gate) * up.

    gate_up  [..., 2 F]   gate, then up
    a        [..., F]

Backward takes gate_up again, and computes in float32 like forward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import contiguous, expect, load_rows, register, store_rows, tuned

TILES = (8, 256, 4, 3), (4, 512, 4, 3), (16, 128, 4, 3), (16, 64, 2, 3)  # rows, columns


@triton.jit
def gate_up_tile(gate_up_at, rows, F: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr):
    """This program's rows and columns, and gate and up there, float32 [BR, BF]."""
    across: tl.constexpr = (F + BF - 1) // BF
    r = (tl.program_id(0) // across).to(tl.int64) * BR + tl.arange(0, BR)
    f = tl.program_id(0) % across * BF + tl.arange(0, BF)
    inside = (r < rows)[:, None] & (f < F)[None, :]
    at = gate_up_at + r[:, None] * (2 * F) + f[None, :]
    gate, up = tl.load(at, inside, other=0.0), tl.load(at + F, inside, other=0.0)
    return r, f, gate.to(tl.float32), up.to(tl.float32)


@tuned("BR BF", *TILES, key="F")
@triton.jit
def forward_kernel(
    gate_up_at, a_at, rows, F: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr
):  # fmt: skip
    r, f, gate, up = gate_up_tile(gate_up_at, rows, F, BR, BF)
    a = gate * tl.sigmoid(gate) * up
    store_rows(a_at, a.to(a_at.dtype.element_ty), r, rows, f, F)


@tuned("BR BF", *TILES, key="F")
@triton.jit
def backward_kernel(
    gate_up_at, da_at, d_gate_up_at, rows, F: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr
):  # fmt: skip
    r, f, gate, up = gate_up_tile(gate_up_at, rows, F, BR, BF)
    da = load_rows(da_at, r, rows, f, F).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    d_gate = da * up * (sigmoid + silu * (1 - sigmoid))
    inside = (r < rows)[:, None] & (f < F)[None, :]
    at = d_gate_up_at + r[:, None] * (2 * F) + f[None, :]
    tl.store(at, d_gate.to(at.dtype.element_ty), inside)
    tl.store(at + F, (da * silu).to(at.dtype.element_ty), inside)


def _grid(rows: int, F: int):
    return lambda meta: (triton.cdiv(rows, meta["BR"]) * triton.cdiv(F, meta["BF"]),)


def launch_forward(gate_up: Tensor) -> Tensor:
    """a [..., F] of gate_up [..., 2 F]."""
    a = _forward_fake(gate_up)
    (gate_up,) = contiguous(gate_up)
    F = a.shape[-1]
    rows = a.numel() // F
    forward_kernel[_grid(rows, F)](gate_up, a, rows, F)
    return a


def _forward_fake(gate_up: Tensor) -> Tensor:
    if not gate_up.ndim or not gate_up.shape[-1] or gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up is {list(gate_up.shape)}: expected [..., 2 * F]")
    expect(gate_up)
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def launch_backward(gate_up: Tensor, da: Tensor) -> Tensor:
    """d_gate_up [..., 2 F] of gate_up [..., 2 F] and da [..., F]."""
    d_gate_up = _backward_fake(gate_up, da)
    gate_up, da = contiguous(gate_up, da)
    F = da.shape[-1]
    rows = da.numel() // F
    backward_kernel[_grid(rows, F)](gate_up, da, d_gate_up, rows, F)
    return d_gate_up


def _backward_fake(gate_up: Tensor, da: Tensor) -> Tensor:
    expect(gate_up, da=(da, (*gate_up.shape[:-1], gate_up.shape[-1] // 2)))
    return gate_up.new_empty(gate_up.shape)


forward_op = register("swiglu(Tensor gate_up) -> Tensor", launch_forward, _forward_fake)
backward_op = register(
    "swiglu_backward(Tensor gate_up, Tensor da) -> Tensor", launch_backward, _backward_fake
)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        return forward_op(gate_up)

    @staticmethod
    def backward(ctx, da):
        return backward_op(*ctx.saved_tensors, da)


def swiglu(gate_up: Tensor) -> Tensor:
    """a [..., F] of gate_up [..., 2 F]; ValueError for an odd width.

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    return _Swiglu.apply(gate_up)
