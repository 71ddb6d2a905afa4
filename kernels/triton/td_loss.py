"""`kernels.td_loss` and its gradient in one kernel of one program: a batch is a few thousand rows.

The loss and its derivative by q come out together; backward only scales the second.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.triton.common import contiguous, register


@triton.jit
def kernel(
    q, a_tm1, target, loss, dq, share, B: tl.constexpr,
    A: tl.constexpr, BB: tl.constexpr, BA: tl.constexpr,
):  # fmt: skip
    a = tl.arange(0, BA)
    total = tl.zeros((BB,), tl.float32)
    for b0 in range(0, B, BB):
        b = b0 + tl.arange(0, BB)
        chosen = tl.load(a_tm1 + b, b < B, other=0)
        known = (b < B) & (chosen >= 0) & (chosen < A)
        q_a = tl.load(q + b.to(tl.int64) * A + chosen, known, other=float("nan")).to(tl.float32)
        error = tl.where(b < B, q_a - tl.load(target + b, b < B, other=0.0), 0.0)
        total += error * error
        gradient = tl.where(a[None, :] == chosen[:, None], (2 * error * share)[:, None], 0.0)
        at = dq + b.to(tl.int64)[:, None] * A + a[None, :]
        tl.store(at, gradient.to(dq.dtype.element_ty), (b < B)[:, None] & (a < A)[None, :])
    tl.store(loss, tl.sum(total, 0) * share)


def launch(q: Tensor, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [] and its gradient dq [B, A] of q [B, A], a_tm1 [B] and target [B]."""
    q, a_tm1, target = contiguous(q, a_tm1, target)
    loss, dq = _fake(q, a_tm1, target)
    B, A = q.shape
    BA = triton.next_power_of_2(A)
    BB = min(max(1, 4096 // BA), triton.next_power_of_2(B))
    kernel[(1,)](q, a_tm1, target, loss, dq, 1 / B, B, A, BB, BA)
    return loss, dq


def _fake(q: Tensor, a_tm1: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty((), dtype=torch.float32), q.new_empty(q.shape)


op = register("td_loss(Tensor q, Tensor a_tm1, Tensor target) -> (Tensor, Tensor)", launch, _fake)


class _TdLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, a_tm1, target):
        loss, dq = op(q, a_tm1, target)
        ctx.save_for_backward(dq)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        (dq,) = ctx.saved_tensors
        return (dq * dloss).to(dq.dtype), None, None


def td_loss(q: Tensor, a_tm1: Tensor, target: Tensor) -> Tensor:
    """As `td_loss.td_loss_reference`; an action that does not exist makes the loss NaN.

    ValueError: a shape or dtype does not fit, or B is 0.
    """
    if q.dim() != 2 or not q.numel():
        raise ValueError(f"q is {list(q.shape)}: expected [B, A], B and A at least 1")
    for name, tensor, dtype in (
        ("a_tm1", a_tm1, torch.int64),
        ("target", target, torch.float32),
    ):
        if tensor.dtype != dtype or tensor.shape != q.shape[:1]:
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}: expected {dtype} [{len(q)}]"
            )
    return _TdLoss.apply(q, a_tm1, target.detach())
