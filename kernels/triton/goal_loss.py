"""`kernels.goal_loss`, the head in it, and all its gradients in one kernel: a program per board.

z_H is read once; its gradient and the board's part of the head's are written beside the loss.
Backward only scales them, and adds the parts of boards that took the same action.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.triton.common import DTYPES, contiguous, load_rows, register, store_rows


@triton.jit
def kernel(
    z, head, a_tm1, target, weight, loss, dz, dhead, scale,
    T: tl.constexpr, D: tl.constexpr, A: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    a = tl.load(a_tm1 + b)
    known = (a >= 0) & (a < A)
    h = tl.load(head + a * D + d, known & (d < D), other=0.0)
    h = tl.where(known, h, float("nan"))
    total, dh = tl.zeros((BT,), tl.float32), tl.zeros((BD,), tl.float32)
    for t0 in range(0, T, BT):
        t = t0 + tl.arange(0, BT)
        g = b * (T - 1) + t - 1
        is_cell = (t > 0) & (t < T)
        y = tl.load(target + g, is_cell, other=0.0)
        w = tl.load(weight + g, is_cell, other=0.0) * scale
        x = load_rows(z + b * T * D, t, T, d, D).to(tl.float32)
        logit = tl.sum(tl.where((d < D)[None, :], x * h[None, :], 0.0), 1)
        decay = tl.exp(-tl.abs(logit))
        cross_entropy = tl.maximum(logit, 0.0) - y * logit + log1p(decay)
        total += tl.where(is_cell, w * cross_entropy, 0.0)
        value = tl.where(logit > 0, 1.0, decay) / (1 + decay)
        dlogit = tl.where(is_cell, w * (value - y), 0.0)
        dx = dlogit[:, None] * h[None, :]
        store_rows(dz + b * T * D, dx.to(dz.dtype.element_ty), t, T, d, D)
        dh += tl.sum(dlogit[:, None] * x, 0)
    tl.store(loss + b, tl.sum(total, 0))
    tl.store(dhead + b * D + d, dh, d < D)


@triton.jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: what 1 + x rounds away is put back."""
    y = 1 + x
    return tl.log(y) + (x - (y - 1)) / y


def launch(
    z_H: Tensor, head: Tensor, a_tm1: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A board's loss [B], dz_H [B, T, D], and a board's part of dhead [B, D]."""
    z_H, head, a_tm1, target, weight = contiguous(z_H, head, a_tm1, target, weight)
    loss, dz, dhead = _fake(z_H, head, a_tm1, target, weight)
    B, T, D = z_H.shape
    BD = triton.next_power_of_2(D)
    BT = min(max(1, 4096 // BD), triton.next_power_of_2(T))
    kernel[(B,)](z_H, head, a_tm1, target, weight, loss, dz, dhead, 1 / B, T, D, len(head), BT, BD)
    return loss, dz, dhead


def _fake(
    z_H: Tensor, head: Tensor, a_tm1: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B, _, D = z_H.shape
    numbers = torch.float32
    return (
        z_H.new_empty(B, dtype=numbers),
        z_H.new_empty(z_H.shape),
        z_H.new_empty(B, D, dtype=numbers),
    )


op = register(
    "goal_loss(Tensor z_H, Tensor head, Tensor a_tm1, Tensor target, Tensor weight) "
    "-> (Tensor, Tensor, Tensor)",
    launch,
    _fake,
)


class _GoalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z_H, head, a_tm1, target, weight):
        loss, dz, dhead = op(z_H, head, a_tm1, target, weight)
        ctx.save_for_backward(dz, dhead, a_tm1)
        ctx.actions = len(head)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dz, dhead, a_tm1 = ctx.saved_tensors
        taken = (
            torch.arange(ctx.actions, dtype=torch.int64, device=a_tm1.device)[:, None] == a_tm1
        )  # [A, B]
        return (dz * dloss).to(dz.dtype), taken.float() @ dhead * dloss, None, None, None


def goal_loss(z_H: Tensor, head: Tensor, a_tm1: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As `kernels.goal_loss.goal_loss_reference`, z_H in any dtype that kernels take; an action
    that does not exist makes the loss NaN.

    ValueError: a shape or dtype does not fit, or target or weight wants a gradient (they get none).
    """
    if z_H.dim() != 3 or not z_H.numel() or z_H.shape[1] < 2 or z_H.dtype not in DTYPES:
        found = f"{z_H.dtype} {list(z_H.shape)}"
        raise ValueError(f"z_H is {found}: expected [B, T, D], T at least 2, B and D at least 1")
    B, T, D = z_H.shape
    f32 = torch.float32
    for name, tensor, dtype, shape in (
        ("head", head, f32, (len(head), D)),
        ("a_tm1", a_tm1, torch.int64, (B,)),
        ("target", target, f32, (B, T - 1)),
        ("weight", weight, f32, (B, T - 1)),
    ):
        if tensor.dtype != dtype or tensor.shape != shape:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"{name} is {found}: expected {dtype} {list(shape)}")
    if target.requires_grad or weight.requires_grad:
        raise ValueError("target or weight requires a gradient: expected neither")
    return _GoalLoss.apply(z_H, head, a_tm1, target, weight)
