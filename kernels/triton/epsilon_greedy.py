"""`kernels.epsilon_greedy` in one kernel, equal to its reference in every action."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import contiguous, register


@triton.jit
def kernel(
    q_at, epsilon_at, uniform_at, action, N,
    A: tl.constexpr, BN: tl.constexpr, BA: tl.constexpr,
):  # fmt: skip
    n, a = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BA)
    inside = (n < N)[:, None] & (a < A)[None, :]
    q = tl.load(q_at + n.to(tl.int64)[:, None] * A + a[None, :], inside, other=float("-inf"))
    q = tl.where(q == q, q, float("inf"))  # noqa: PLR0124 - NaN wins, as in torch
    best = tl.argmax(q, 1, tie_break_left=True).to(tl.int64)
    uniform = tl.load(uniform_at + n, n < N, other=1.0)
    epsilon = tl.load(epsilon_at)
    explore = uniform < epsilon
    share = tl.div_rn(uniform, tl.where(explore, epsilon, 1.0))  # rounded as PyTorch does
    anything = tl.minimum((share * A).to(tl.int64), A - 1)
    tl.store(action + n, tl.where(explore, anything, best), n < N)


def launch(q: Tensor, epsilon: Tensor, uniform: Tensor) -> Tensor:
    """Actions int64 [N] of q [N, A], epsilon [1] and uniform [N]."""
    q, epsilon, uniform = contiguous(q, epsilon, uniform)
    N, A = q.shape
    BA = triton.next_power_of_2(A)
    BN = max(1, 1024 // BA)
    action = _fake(q, epsilon, uniform)
    kernel[(triton.cdiv(N, BN),)](q, epsilon, uniform, action, N, A, BN, BA)
    return action


def _fake(q: Tensor, epsilon: Tensor, uniform: Tensor) -> Tensor:
    return q.new_empty(len(q), dtype=torch.int64)


op = register("epsilon_greedy(Tensor q, Tensor epsilon, Tensor uniform) -> Tensor", launch, _fake)


@torch.no_grad()
def epsilon_greedy(q: Tensor, epsilon: float | Tensor, uniform: Tensor) -> Tensor:
    """As `epsilon_greedy.epsilon_greedy_reference`. ValueError: a shape or dtype does not fit."""
    if q.dim() != 2 or not q.numel():
        raise ValueError(f"q is {list(q.shape)}: expected [N, A], N and A at least 1")
    if not isinstance(epsilon, Tensor):
        epsilon = uniform.new_full((1,), epsilon)
    for name, tensor, size in (("epsilon", epsilon, 1), ("uniform", uniform, len(q))):
        if tensor.dtype != torch.float32 or tensor.shape != (size,):
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}: expected torch.float32 [{size}]"
            )
    return op(q, epsilon, uniform)
