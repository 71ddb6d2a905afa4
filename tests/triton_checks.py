"""How tests compare a kernel with its reference: in float64, by what plain PyTorch loses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.attention_block import Rope, attend, rotate
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

    `terms`, of what was drawn in float64: for each part the size that its sums would have if their
    terms had nothing to do with each other. Sums are taken in float32, and lose one unit in the
    last place of that size, whatever is left of it: with one token the gradient of a score is
    exactly 0, and whether plain PyTorch finds it depends on the processor.
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


def attention_terms(qkv: Tensor, do: Tensor, heads: int, rope: Rope | None) -> list[Tensor]:
    """Roots of the summed squares of what o, dq, dk and dv add up, [B, T, heads, K] each."""
    qk, v = qkv.view(*qkv.shape[:2], 3 * heads, -1).split((2 * heads, heads), dim=2)
    if rope is not None:
        qk = rotate(qk, (rope[0].double(), rope[1].double()))
    q, k = qk.chunk(2, dim=2)
    p = torch.einsum("bthk,bshk->bhts", q * q.shape[-1] ** -0.5, k).softmax(-1)
    do, o = do.view_as(v), torch.einsum("bhts,bshk->bthk", p, v)
    q, k, v, do, o, p = (x.square() for x in (q, k, v, do, o, p))
    delta = torch.einsum("bthk,bthk->bht", do, o).unsqueeze(-1)
    ds = p * (torch.einsum("bthk,bshk->bhts", do, v) + delta) / q.shape[-1]
    sums = (
        torch.einsum("bhts,bshk->bthk", p, v),
        torch.einsum("bhts,bshk->bthk", ds, k),
        torch.einsum("bhts,bthk->bshk", ds, q),
        torch.einsum("bhts,bthk->bshk", p, do),
    )
    return [x.sqrt() for x in sums]


def block_terms(
    z: Tensor,
    injection: Tensor,
    w_qkv: Tensor,
    w_o: Tensor,
    dy: Tensor,
    heads: int,
    rope: Rope | None,
) -> list[Tensor]:
    """The same for an attention block: y, dz, d_injection, dw_qkv, dw_o."""
    x = z + injection
    qkv = x @ w_qkv.T
    turned = qkv.view(*x.shape[:2], 3 * heads, -1)[:, :, : 2 * heads]
    if rope is not None:
        turned = rotate(turned, (rope[0].double(), rope[1].double()))
    q, k = turned.chunk(2, dim=2)
    v = qkv.view(*x.shape[:2], 3 * heads, -1)[:, :, 2 * heads :]
    o = attend(q, k, v).reshape(x.shape)
    u = (x + o @ w_o.T).detach().requires_grad_()
    y = rms_norm(u)
    (du,) = torch.autograd.grad(y, u, dy)
    _, *dqkv = (t.reshape(x.shape) for t in attention_terms(qkv, du @ w_o, heads, rope))
    squares = torch.cat(dqkv, 2).square()
    dx = (du.square() + squares @ w_qkv.square()).sqrt()
    dw_qkv = torch.einsum("btc,btd->cd", squares, x.square()).sqrt()
    return [y.detach(), dx, dx, dw_qkv, torch.einsum("btd,btc->dc", du.square(), o.square()).sqrt()]
