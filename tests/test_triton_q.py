"""What is done with Q values in Triton: the TD loss, against its reference in float64 at most twice
the error of plain PyTorch, and the epsilon-greedy choice, equal to its reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.td_loss import td_loss_reference
from kernels.triton.epsilon_greedy import epsilon_greedy
from kernels.triton.epsilon_greedy import op as greedy_op
from kernels.triton.td_loss import op as td_op
from kernels.triton.td_loss import td_loss
from tests.triton_checks import assert_as_good, strided

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("B, A", [(1, 1), (3, 4), (7, 8), (256, 8), (1500, 5)])
def test_td_loss(B: int, A: int, weighted: bool) -> None:
    """Strided q and actions; an upstream gradient that is one number expanded."""
    a_tm1, target = torch.randint(A, (2 * B,))[::2], torch.randn(B)
    weight = torch.rand(B) if weighted else None

    def at(f: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda q: f(q, a_tm1, target, weight).expand(5)

    def draw() -> list[Tensor]:
        return [strided(B, A), torch.tensor(-1.7).expand(5)]

    assert_as_good(at(td_loss), at(td_loss_reference), draw, torch.float32, draws=10)


def test_td_loss_leaves_target_alone_and_shows_an_action_that_is_none() -> None:
    q, target = torch.randn(6, 8, requires_grad=True), torch.randn(6, requires_grad=True)
    td_loss(q, torch.randint(8, (6,)), target).backward()
    assert target.grad is None
    assert td_loss(q, torch.full((6,), 8), target).isnan()


@pytest.mark.parametrize("N, A", [(1, 1), (3, 4), (200, 5), (257, 8)])
def test_epsilon_greedy(N: int, A: int) -> None:
    q = torch.randint(3, (N, A)).float()  # many equals
    uniform = torch.rand(N)
    uniform[::3] *= 1e-4
    uniform[N // 2] = 0.0
    for epsilon in (0.0, 1.0, 0.3, torch.tensor([0.7])):
        expected = epsilon_greedy_reference(q, epsilon, uniform)
        assert torch.equal(epsilon_greedy(q, epsilon, uniform), expected)
    for epsilon in (0.4 ** torch.linspace(1, 8, 9)).view(-1, 1):
        below = torch.nextafter(epsilon, torch.zeros(1)).repeat(N)  # its share rounds to 1 or so
        expected = epsilon_greedy_reference(q, epsilon, below)
        assert torch.equal(epsilon_greedy(q, epsilon, below), expected)
    assert torch.equal(epsilon_greedy(q, 0.0, uniform), q.argmax(1))


def test_epsilon_greedy_explores_evenly_and_takes_strides() -> None:
    uniform, q = torch.rand(4000, 2)[:, 1], torch.randn(5, 4000).T
    action = epsilon_greedy(q, 0.25, uniform)
    explored = torch.bincount(action[uniform < 0.25], minlength=5)
    assert explored.float().div(1000).sub(0.2).abs().max() < 0.05
    assert torch.equal(action, epsilon_greedy_reference(q, 0.25, uniform))
    strange = torch.tensor([[0.0, float("nan"), 1.0], [-float("inf")] * 3])
    assert epsilon_greedy(strange, 0.0, torch.rand(2)).tolist() == [1, 0]


def test_opcheck() -> None:
    q, a_tm1, target = torch.randn(6, 4), torch.randint(4, (6,)), torch.randn(6)
    for weight in (None, torch.rand(6)):
        torch.library.opcheck(td_op, (q, a_tm1, target, weight))
    torch.library.opcheck(greedy_op, (q, torch.rand(1), torch.rand(6)))


def test_compiles_whole() -> None:
    a_tm1, target, uniform = torch.randint(4, (6,)), torch.randn(6), torch.rand(6)

    def f(q: Tensor) -> tuple[Tensor, Tensor]:
        return td_loss(q, a_tm1, target), epsilon_greedy(q, 0.5, uniform)

    results: list[tuple[Any, ...]] = []
    for g in (f, torch.compile(f, fullgraph=True, backend="aot_eager")):
        q = torch.linspace(-1, 1, 24).view(6, 4).requires_grad_()
        loss, action = g(q)
        loss.backward()
        results.append((loss.detach(), action, q.grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_bad_input() -> None:
    q, a_tm1, target = torch.randn(6, 4), torch.randint(4, (6,)), torch.randn(6)
    for name, losers in {
        "q": (q[0], a_tm1, target, None),
        "a_tm1": (q, a_tm1.int(), target, None),
        "target": (q, a_tm1, target[1:], None),
        "target is torch.float64": (q, a_tm1, target.double(), None),
        "weight": (q, a_tm1, target, torch.rand(6, requires_grad=True)),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} .* expected"):
            td_loss(*losers)
    for name, choice in {
        "q": (q[0], 0.1, target),
        "epsilon": (q, torch.rand(2), target),
        "uniform": (q, torch.rand(1), target.double()),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .* expected"):
            epsilon_greedy(*choice)
