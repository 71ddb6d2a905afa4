"""The Triton kernels around the model's blocks - embedding, TD loss, optimiser, epsilon-greedy -
against their references in float64: at most twice the error of plain PyTorch at the same dtype.

A floor of a few units in the last place allows for draws that PyTorch gets exactly right. bfloat16
runs through the interpreter too: its products are taken in float32, which holds them exactly.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

import train.optimiser
from kernels.adam_atan2 import adam_atan2_reference
from kernels.embedding import embedding_reference
from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.ops import REFERENCE
from kernels.td_loss import td_loss_reference
from kernels.triton import embedding as embedding_file
from kernels.triton.adam_atan2 import op as update_op
from kernels.triton.adam_atan2 import update
from kernels.triton.embedding import backward_op, embedding, forward_op
from kernels.triton.epsilon_greedy import epsilon_greedy
from kernels.triton.epsilon_greedy import op as greedy_op
from kernels.triton.td_loss import op as td_op
from kernels.triton.td_loss import td_loss
from train.config import Config, DQNConfig
from train.optimiser import Optimiser

pytestmark = pytest.mark.triton

FLOOR_ULPS = 4


def error(x: Tensor, exact: Tensor) -> float:
    norm = exact.double().norm().item()
    return (x.double() - exact).norm().item() / (norm or 1.0)


def assert_as_good(name: str, mine: Tensor, plain: Tensor, exact: Tensor) -> None:
    assert mine.shape == exact.shape, name
    assert mine.dtype == plain.dtype, name
    limit = 2 * error(plain, exact) + FLOOR_ULPS * torch.finfo(mine.dtype).eps / 2
    assert error(mine, exact) <= limit, (name, error(mine, exact), limit)


EMBEDDING_SHAPES = [  # B, T, D, vocab, learned positions
    (1, 1, 32, 131, False),
    (3, 7, 64, 131, True),
    (1, 49, 128, 135, True),
    (2, 122, 96, 131, False),
    (3, 144, 32, 131, True),
    (2, 145, 64, 300, True),
]


def draw_embedding(B: int, T: int, D: int, vocab: int, learned: bool) -> tuple[Any, ...]:
    tokens = torch.randint(min(vocab, 256), (B, T - 1)).to(torch.uint8)
    embed, puzzle = torch.randn(vocab, D), torch.randn(D)
    return tokens, embed, puzzle, torch.randn(T, D) if learned else None


def with_gradients(f: Callable[..., Tensor], upstream: Tensor, *given: Any) -> list[Tensor | None]:
    given = tuple(
        x.detach().clone().requires_grad_()
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in given
    )
    y = f(*given)
    y.backward(upstream.to(y.dtype))
    return [y.detach()] + [x.grad for x in given if isinstance(x, Tensor)]


def double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", EMBEDDING_SHAPES, ids=str)
def test_embedding(
    shape: tuple[int, int, int, int, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_file, "PARTS", 2)  # several rounds on few boards
    B, T, D, *_ = shape
    given = (*draw_embedding(*shape), (D / 2) ** 0.5)
    upstream = torch.randn(B, T, D).to(dtype)
    mine = with_gradients(embedding, upstream, *given, dtype)
    plain = with_gradients(embedding_reference, upstream, *given, dtype)
    exact = with_gradients(embedding_reference, upstream, *map(double, given), torch.float64)
    for name, *three in zip(
        ("e", "tokens", "embed", "puzzle", "position"), mine, plain, exact, strict=False
    ):
        if name != "tokens":
            assert_as_good(name, *three)


def test_embedding_gradient_is_deterministic_and_zero_where_no_token_is() -> None:
    tokens, embed, _, _ = draw_embedding(2, 145, 64, 131, False)
    tokens = tokens % 40
    de = torch.randn(2, 145, 64)
    first = backward_op(tokens, de, len(embed), 8.0)
    assert torch.equal(first, backward_op(tokens, de, len(embed), 8.0))
    assert not first[41:].any()
    assert first[:41].all()


def test_embedding_takes_strides_and_expanded_gradients() -> None:
    tokens, embed, puzzle, position = draw_embedding(3, 7, 32, 131, True)

    def every_other(x: Tensor) -> Tensor:
        return torch.stack((x, x), -1)[..., 0]

    strided = [every_other(x) for x in (tokens, embed, puzzle, position)]
    for reduce in (torch.sum, torch.mean):

        def run(f: Callable[..., Tensor], given: Any, reduce: Any = reduce) -> list[Tensor | None]:
            return with_gradients(
                lambda *x: reduce(f(*x, 2.0, torch.float32)), torch.ones(()), *given
            )

        for a, b in zip(run(embedding, strided), run(embedding_reference, strided), strict=True):
            if b is not None:
                torch.testing.assert_close(a, b)


def test_a_token_beyond_the_vocabulary_gives_nan() -> None:
    _, embed, puzzle, _ = draw_embedding(1, 4, 32, 131, False)
    tokens = torch.tensor([[130, 131, 255]], dtype=torch.uint8)
    e = embedding(tokens, embed, puzzle, None, 1.0, torch.float32)
    assert e.isnan().all(-1).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("B, A", [(1, 1), (3, 4), (7, 8), (256, 8), (1500, 5)])
def test_td_loss(B: int, A: int, weighted: bool) -> None:
    q, target = torch.randn(B, A), torch.randn(B)
    a_tm1, weight = torch.randint(A, (B,)), torch.rand(B) if weighted else None
    upstream = torch.tensor(-1.7)

    def run(f: Callable[..., Tensor], *given: Any) -> list[Tensor | None]:
        q, *rest = given
        return with_gradients(lambda q: f(q, *rest), upstream, q)

    given = (q, a_tm1, target, weight)
    triple = run(td_loss, *given), run(td_loss_reference, *given)
    exact = run(td_loss_reference, *map(double, given))
    for name, *three in zip(("loss", "q"), *triple, exact, strict=True):
        assert_as_good(name, *three)


def test_td_loss_takes_strides_and_leaves_target_alone() -> None:
    q = torch.randn(8, 6).T.detach().requires_grad_()
    target = torch.randn(6, requires_grad=True)
    a_tm1, weight = torch.randint(8, (12,))[::2], torch.rand(1).expand(6)
    results = []
    for f in (td_loss, td_loss_reference):
        q.grad = None
        f(q, a_tm1, target, weight).expand(5).sum().backward()
        results.append(q.grad)
    torch.testing.assert_close(*results)
    assert target.grad is None
    wrong = torch.full((6,), 8)
    assert td_loss(q, wrong, target).isnan()


class Parameters(nn.Module):
    """As many parameters as wanted: what `Optimiser` asks of a model."""

    ops = REFERENCE

    def __init__(self, body: int, tail: int) -> None:
        super().__init__()
        self.puzzle = nn.Parameter(torch.randn(tail))
        self.body = nn.Parameter(torch.randn(body))


DQN = DQNConfig(
    learning_rate=0.02, warmup_updates=4, final_learning_rate=0.1, weight_decay=0.3, beta1=0.85,
    puzzle_learning_rate=0.05, puzzle_weight_decay=0.2, target_decay=0.99,
)  # fmt: skip
UPDATES = 10


def optimisers(body: int, tail: int) -> list[Optimiser]:
    """Three with the same numbers: for the kernels, plain float32, float64."""
    config = replace(Config("quick", updates=UPDATES), dqn=DQN)
    hrm, target = Parameters(body, tail), Parameters(body, tail)
    three = []
    for dtype in (torch.float32, torch.float32, torch.float64):
        pair = [Parameters(body, tail).to(dtype) for _ in range(2)]
        for mine, start in zip(pair, (hrm, target), strict=True):
            mine.load_state_dict(start.state_dict())
        three.append(Optimiser(*pair, config))  # type: ignore[arg-type]
    return three


def fused(optimiser: Optimiser, step: Tensor, dqn: DQNConfig = DQN) -> None:
    update(
        optimiser.flat, optimiser.grad, optimiser.m, optimiser.v, optimiser.target_flat, step,
        warmup=dqn.warmup_updates, updates=UPDATES, final=dqn.final_learning_rate,
        lr=dqn.learning_rate, beta1=dqn.beta1, beta2=dqn.beta2, weight_decay=dqn.weight_decay,
        tail_lr=dqn.puzzle_learning_rate, tail_weight_decay=dqn.puzzle_weight_decay,
        average_decay=dqn.target_decay,
    )  # fmt: skip


@pytest.mark.parametrize("body, tail", [(1, 1), (1000, 24), (1024, 64), (3000, 33)])
def test_update(body: int, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.optimiser, "adam_atan2", adam_atan2_reference)
    three = optimisers(body, tail)
    step = torch.zeros(1, dtype=torch.int64)
    for t in range(UPDATES + 3):  # beyond the schedule's end the learning rate stays
        gradient = torch.randn(body + tail) * 10.0 ** torch.randint(-6, 3, (body + tail,))
        gradient *= torch.rand(body + tail) > 0.2  # some are 0
        for optimiser in three:
            optimiser.grad.copy_(gradient)
        fused(three[0], step)
        for optimiser in three[1:]:
            optimiser.step(t)
        assert not three[0].grad.any()
        for name, exact in three[2].state().items():
            assert_as_good(name, *(x.state()[name] for x in three[:2]), exact)
    assert step.item() == UPDATES + 3


@pytest.mark.parametrize("done", [0, 5, 300, 10**6])
def test_update_from_nothing_at_any_count(done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 0 show the movement's own error: beta^t, square root and arctangent."""
    monkeypatch.setattr(train.optimiser, "adam_atan2", adam_atan2_reference)
    three = optimisers(4000, 8)
    start = torch.randn(2, 4000)
    gradient = torch.linspace(0.01, 1, 4008)
    gradient[:4000] *= start[0].sign()  # m is the movement's sign: no digits cancel in it
    for optimiser in three:
        optimiser.flat.zero_()
        optimiser.m.copy_(start[0] * 10.0 ** torch.linspace(-4, 4, 4000))
        optimiser.v.copy_(start[1] ** 2)
        optimiser.grad.copy_(gradient)
    fused(three[0], torch.full((1,), done))
    for optimiser in three[1:]:
        optimiser.step(done)
    for name, exact in three[2].state().items():
        assert_as_good(name, *(x.state()[name] for x in three[:2]), exact)
    relative = (three[0].flat.double() / three[2].flat - 1).abs()
    assert relative[three[2].flat != 0].max() < 8 * torch.finfo(torch.float32).eps


def test_update_shows_nan_and_survives_zero() -> None:
    (optimiser, *_) = optimisers(8, 2)
    before = optimiser.flat.clone()
    optimiser.grad[[3, 9]] = float("nan")
    calm = replace(DQN, weight_decay=0.0, puzzle_weight_decay=0.0)
    fused(optimiser, torch.zeros(1, dtype=torch.int64), calm)
    assert optimiser.flat.isnan().nonzero().flatten().tolist() == [3, 9]
    still = [0, 1, 2, 4, 5, 6, 7, 8]
    assert torch.equal(optimiser.flat[still], before[still])


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
    tokens, embed, puzzle, position = draw_embedding(2, 7, 32, 131, True)
    for where in (position, None):
        torch.library.opcheck(forward_op, (tokens, embed, puzzle, where, 2.0, torch.bfloat16))
    torch.library.opcheck(backward_op, (tokens, torch.randn(2, 7, 32), 131, 2.0))
    q, a_tm1, target = torch.randn(6, 4), torch.randint(4, (6,)), torch.randn(6)
    for weight in (None, torch.rand(6)):
        torch.library.opcheck(td_op, (q, a_tm1, target, weight))
    torch.library.opcheck(greedy_op, (q, torch.rand(6), torch.rand(6)))
    w, g, average, m, v = (torch.rand(size) for size in (9, 9, 9, 6, 6))
    step = torch.zeros(1, dtype=torch.int64)
    rates = (4, 10, 0.1, 1e-3, 0.9, 0.999, 0.1, 1e-2, 0.1, 0.99)
    torch.library.opcheck(update_op, (w, g, m, v, average, step, *rates))


def test_compiles_whole() -> None:
    tokens, embed, puzzle, _ = draw_embedding(2, 7, 32, 131, False)
    a_tm1, target, uniform = torch.randint(32, (2,)), torch.randn(2), torch.rand(2)

    def f(embed: Tensor) -> tuple[Tensor, Tensor]:
        q = embedding(tokens, embed, puzzle, None, 2.0, torch.float32).sum(1)
        return td_loss(q, a_tm1, target), epsilon_greedy(q, 0.5, uniform)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    results = []
    for g in (f, compiled):
        leaf = embed.clone().requires_grad_()
        loss, action = g(leaf)
        loss.backward()
        results.append((loss.detach(), action, leaf.grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)

    whole = torch.compile(fused, fullgraph=True, backend="aot_eager")
    one, two, _ = optimisers(9, 4)
    for optimiser, g in ((one, fused), (two, whole)):
        optimiser.grad.copy_(torch.linspace(-1, 1, 13))
        g(optimiser, torch.zeros(1, dtype=torch.int64))
    for name, x in one.state().items():
        assert torch.equal(x, two.state()[name]), name


def test_bad_input() -> None:
    tokens, embed, puzzle, position = draw_embedding(2, 7, 32, 131, True)
    for name, given in {
        "tokens": (tokens.int(), embed, puzzle, position),
        "puzzle": (tokens, embed, puzzle[1:], position),
        "position": (tokens, embed, puzzle, position[1:]),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .* expected"):
            embedding(*given, 1.0, torch.float32)
    q, a_tm1, target = torch.randn(6, 4), torch.randint(4, (6,)), torch.randn(6)
    for name, losers in {
        "q": (q[0], a_tm1, target, None),
        "a_tm1": (q, a_tm1.int(), target, None),
        "target": (q, a_tm1, target[1:], None),
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
    (optimiser, *_) = optimisers(8, 2)
    with pytest.raises(
        ValueError, match=r"^step is torch.int32 \[1\].* expected torch.int64 \[1\]"
    ):
        fused(optimiser, torch.zeros(1, dtype=torch.int32))
    optimiser.m = torch.zeros(12)[:8:2]
    with pytest.raises(ValueError, match=r"^m is .* expected torch.float32 \[4\], contiguous"):
        fused(optimiser, torch.zeros(1, dtype=torch.int64))
