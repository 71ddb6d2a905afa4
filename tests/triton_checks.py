"""How tests compare a kernel with its reference: in float64, by what plain PyTorch loses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.attention_block import Rope
from kernels.rms_norm import rms_norm


def tables(T: int, K: int) -> Rope:
    """Any angles will do; the second half of the columns turns with the first."""
    angle = 9 * torch.rand(T, 1, K // 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), 2), torch.cat((-sin, sin), 2)


def results(f: Callable[..., Tensor], dy: Tensor, given: list[Tensor], dtype: Any) -> list[Tensor]:
    """Output and the gradient of every input at `dtype`, as float64."""
    given = [x.detach().to(dtype).requires_grad_() for x in given]
    y = f(*given)
    assert y.dtype == dtype
    y.backward(dy.to(dtype))
    return [t.detach().double() for t in (y, *(x.grad for x in given if x.grad is not None))]


def assert_as_good(
    mine: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    draw: Callable[[], list[Tensor]],
    dtype: Any,
    draws: int = 3,
    parts: Callable[[list[Tensor]], list[Tensor]] = lambda x: x,
    terms: Callable[..., list[Tensor]] | None = None,
) -> None:
    """`draw` gives inputs, then an upstream gradient; `parts` what is to be judged by itself.

    `terms`, of what was drawn in float64, where nothing may be left of a sum: for each part what is
    added up, without the signs. Sums are taken in float32, and lose one unit in the last place of
    that: with one token the gradient of a score is exactly 0, and whether plain PyTorch finds it
    depends on the processor.
    """
    ours, theirs, floor = [], [], []
    for _ in range(draws):
        *given, dy = (x.to(dtype) for x in draw())
        exact = parts(results(plain, dy, given, torch.float64))
        summed = exact if terms is None else terms(*(x.double() for x in (*given, dy)))
        floor.append(
            [
                max(torch.finfo(dtype).eps * x.norm(), torch.finfo(torch.float32).eps * y.norm())
                for x, y in zip(exact, summed, strict=True)
            ]
        )
        for f, errors in ((mine, ours), (plain, theirs)):
            found = parts(results(f, dy, given, dtype))
            errors.append([(a - b).norm() for a, b in zip(found, exact, strict=True)])
    of_draws = torch.tensor([ours, theirs, floor], dtype=torch.float64, device="cpu")
    lost, allowed, least = of_draws.square().mean(1).sqrt()
    assert (lost <= (2 * allowed).maximum(least)).all(), (lost, allowed, least)


def strided(*shape: int, std: float = 1.0) -> Tensor:
    """A matrix or batch of them whose last axis is not the one that is next in memory."""
    return std * torch.randn(*shape[:-2], shape[-1], shape[-2]).mT


def attention_terms(qkv: Tensor, do: Tensor, heads: int) -> list[Tensor]:
    """What o, dq, dk and dv add up for boards of one token, [B, 1, heads * K] each: where dq and dk
    are 0, since a softmax over one score is 1."""
    q, k, v = (x.abs().unflatten(2, (heads, -1)) for x in qkv.chunk(3, dim=2))
    do = do.abs().view_as(v)
    ds = 2 * (do * v).sum(3, keepdim=True) * v.shape[3] ** -0.5  # do v, less the sum of do o
    return [x.flatten(2) for x in (v, ds * k, ds * q, do)]


def block_terms(
    z: Tensor, injection: Tensor, w_qkv: Tensor, w_o: Tensor, dy: Tensor, heads: int
) -> list[Tensor]:
    """The same for an attention block: y, dz, d_injection, dw_qkv, dw_o."""
    x = z + injection
    qkv = x @ w_qkv.T
    o = qkv.chunk(3, dim=2)[2]
    u = (x + o @ w_o.T).detach().requires_grad_()
    y = rms_norm(u)
    (du,) = torch.autograd.grad(y, u, dy)
    dqkv = torch.cat(attention_terms(qkv, du @ w_o, heads)[1:], 2)
    dx = du.abs() + dqkv @ w_qkv.abs()
    dw_qkv, dw_o = (torch.einsum("btc,btd->cd", *pair) for pair in ((dqkv, x.abs()), (du, o)))
    return [y.detach(), dx, dx, dw_qkv, dw_o]
