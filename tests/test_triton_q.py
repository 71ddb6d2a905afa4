"""What is done with Q values in Triton: the losses, against their references in float64 at most
twice the error of plain PyTorch, and the epsilon-greedy choice, equal to its reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.goal_loss import goal_loss_reference
from kernels.triton.epsilon_greedy import epsilon_greedy
from kernels.triton.epsilon_greedy import op as greedy_op
from kernels.triton.goal_loss import goal_loss
from kernels.triton.goal_loss import op as goal_op
from kernels.triton.td_loss import op as td_op
from kernels.triton.td_loss import td_loss
from profiling.kernel_cases import goal_loss_case, goal_targets, judge, td_loss_case

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("B, A", [(1, 1), (3, 4), (7, 8), (256, 8), (1500, 5)])
def test_td_loss(B: int, A: int) -> None:
    assert judge(td_loss_case(B, A), torch.float32).passed


def test_td_loss_leaves_target_alone_and_shows_an_action_that_is_none() -> None:
    q, target = torch.randn(6, 8, requires_grad=True), torch.randn(6, requires_grad=True)
    td_loss(q, torch.randint(8, (6,)), target).backward()
    assert target.grad is None
    assert td_loss(q, torch.full((6,), 8), target).isnan()


@pytest.mark.parametrize(
    "B, T, D, A", [(1, 2, 1, 1), (3, 50, 48, 4), (7, 100, 20, 8), (2, 9, 200, 3)]
)
def test_goal_loss(B: int, T: int, D: int, A: int) -> None:
    assert judge(goal_loss_case(B, T, D, A), torch.float32).passed


def test_goal_loss_of_bfloat16_states() -> None:
    """The head stays in float32: only what z_H lost by rounding is lost."""
    (a_tm1, target, weight), head = goal_targets(3, 50, 4), torch.randn(4, 48)
    z = torch.randn(3, 50, 48).bfloat16()
    losses, gradients = [], []
    for f, dtype in ((goal_loss, torch.bfloat16), (goal_loss_reference, torch.float32)):
        given = z.detach().clone().to(dtype).requires_grad_()
        loss = f(given, head, a_tm1, target, weight)
        loss.backward()
        assert given.grad is not None and given.grad.dtype == dtype
        losses.append(loss.detach())
        gradients.append(given.grad.bfloat16())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_goal_loss_far_from_even_chances() -> None:
    """Values that round to 0 and 1 are still pulled at, and an action that is none shows."""
    z, head = torch.ones(1, 5, 1), torch.tensor([[90.0], [-90.0]], requires_grad=True)
    target, weight = torch.tensor([[0.0, 1.0, 0.5, 0.25]]), torch.ones(1, 4)
    for action, loss in ((0, 90 * 2.25), (1, 90 * 1.75)):
        found = goal_loss(z, head, torch.tensor([action]), target, weight)
        assert found.item() == pytest.approx(loss)
        (gradient,) = torch.autograd.grad(found, head)
        assert gradient[action].item() == pytest.approx(2.25 if action == 0 else -1.75)
    assert goal_loss(z, head, torch.tensor([2]), target, weight).isnan()


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
    torch.library.opcheck(td_op, (q, a_tm1, target))
    torch.library.opcheck(
        goal_op, (torch.randn(6, 9, 5), torch.randn(4, 5), *goal_targets(6, 9, 4))
    )
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
        "q": (q[0], a_tm1, target),
        "a_tm1": (q, a_tm1.int(), target),
        "target": (q, a_tm1, target[1:]),
        "target is torch.float64": (q, a_tm1, target.double()),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} .* expected"):
            td_loss(*losers)
    z, head, goals = torch.randn(6, 9, 5), torch.randn(4, 5), torch.rand(6, 8)
    for name, losers in {
        "z_H": (z[0], head, a_tm1, goals, goals),
        "z_H is torch.float64": (z.double(), head, a_tm1, goals, goals),
        "head": (z, head.T, a_tm1, goals, goals),
        "a_tm1": (z, head, a_tm1[1:], goals, goals),
        "target": (z, head, a_tm1, goals[:, 1:], goals),
        "weight": (z, head, a_tm1, goals, goals.double()),
        "target or weight": (z, head, a_tm1, goals.clone().requires_grad_(), goals),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} .* expected"):
            goal_loss(*losers)
    for name, choice in {
        "q": (q[0], 0.1, target),
        "epsilon": (q, torch.rand(2), target),
        "uniform": (q, torch.rand(1), target.double()),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .* expected"):
            epsilon_greedy(*choice)
