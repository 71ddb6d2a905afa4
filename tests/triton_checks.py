"""How tests compare a kernel with its reference: in float64, by what plain PyTorch loses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.attention_block import Rope


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
) -> None:
    """`draw` gives inputs, then an upstream gradient; `parts` what is to be judged by itself."""
    errors = torch.zeros(2, 1, device="cpu")
    for _ in range(draws):
        *given, dy = (x.to(dtype) for x in draw())
        exact = parts(results(plain, dy, given, torch.float64))
        size = max(x.norm().item() for x in exact)
        for i, f in enumerate((mine, plain)):
            found = parts(results(f, dy, given, dtype))
            assert len(found) == len(exact)
            squares = [
                ((a - b).norm().item() / (b.norm().item() or size)) ** 2
                for a, b in zip(found, exact, strict=True)
            ]
            errors = errors.expand(2, len(squares)).clone()
            errors[i] += torch.tensor(squares, device="cpu")
    ours, theirs = (errors / draws).sqrt()
    assert (ours <= (2 * theirs).clamp_min(torch.finfo(dtype).eps)).all(), (ours, theirs)


def strided(*shape: int, std: float = 1.0) -> Tensor:
    """A matrix or batch of them whose last axis is not the one that is next in memory."""
    return std * torch.randn(*shape[:-2], shape[-1], shape[-2]).mT
