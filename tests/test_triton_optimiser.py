"""The optimiser's one pass in Triton against plain PyTorch in float64: at most twice the error of
plain PyTorch in float32, and a few units in the last place where that is exactly right."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

import train.optimiser
from kernels.adam_atan2 import adam_atan2_reference
from kernels.ops import REFERENCE
from kernels.triton.adam_atan2 import op, update
from train.config import Config, DQNConfig
from train.optimiser import Optimiser

pytestmark = pytest.mark.triton

UPDATES = 10
DQN = DQNConfig(
    learning_rate=0.02, warmup_updates=4, final_learning_rate=0.1, weight_decay=0.3, beta1=0.85,
    puzzle_learning_rate=0.05, puzzle_weight_decay=0.2, target_decay=0.99,
)  # fmt: skip
WRITTEN = ("flat", "target", "m", "v")


class Parameters(nn.Module):
    """As many parameters as wanted: what `Optimiser` asks of a model."""

    ops = REFERENCE

    def __init__(self, body: int, tail: int) -> None:
        super().__init__()
        self.puzzle = nn.Parameter(torch.randn(tail))
        self.body = nn.Parameter(torch.randn(body))


def optimisers(body: int, tail: int, dqn: DQNConfig = DQN) -> list[Optimiser]:
    """Three with the same numbers: by the kernels, in plain float32, in float64."""
    config = replace(Config("quick", updates=UPDATES), dqn=dqn)
    hrm, target = Parameters(body, tail), Parameters(body, tail)
    three = []
    for dtype in (torch.float32, torch.float32, torch.float64):
        pair = [Parameters(body, tail).to(dtype) for _ in range(2)]
        for mine, start in zip(pair, (hrm, target), strict=True):
            mine.load_state_dict(start.state_dict())
        three.append(Optimiser(*pair, config))  # type: ignore[arg-type]
    three[0].fused = update
    return three


def assert_as_good(three: list[Optimiser]) -> None:
    for name in WRITTEN:
        mine, plain, exact = (one.state()[name].double() for one in three)
        ours, theirs = ((x - exact).norm() / exact.norm() for x in (mine, plain))
        assert ours <= 2 * theirs + 2 * torch.finfo(torch.float32).eps, (name, ours, theirs)


@pytest.mark.parametrize("body, tail", [(1, 1), (1000, 24), (1024, 64), (3000, 33)])
def test_update(body: int, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.optimiser, "adam_atan2", adam_atan2_reference)
    three = optimisers(body, tail)
    for _ in range(UPDATES + 3):  # beyond the schedule's end the learning rate stays
        gradient = torch.randn(body + tail) * 10.0 ** torch.randint(-6, 3, (body + tail,))
        gradient *= torch.rand(body + tail) > 0.2  # some are 0
        for optimiser in three:
            optimiser.grad.copy_(gradient)
            optimiser.step()
        assert not three[0].grad.any()
        assert_as_good(three)
    assert three[0].done.item() == UPDATES + 3


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
        optimiser.done.fill_(done)
        optimiser.step()
    assert_as_good(three)
    relative = (three[0].flat.double() / three[2].flat - 1).abs()
    assert relative[three[2].flat != 0].max() < 8 * torch.finfo(torch.float32).eps


def test_update_shows_nan_and_survives_zero() -> None:
    calm = replace(DQN, weight_decay=0.0, puzzle_weight_decay=0.0)
    (optimiser, *_) = optimisers(8, 2, calm)
    before = optimiser.flat.clone()
    optimiser.grad[[3, 9]] = float("nan")
    optimiser.step()
    assert optimiser.flat.isnan().nonzero().flatten().tolist() == [3, 9]
    still = [0, 1, 2, 4, 5, 6, 7, 8]
    assert torch.equal(optimiser.flat[still], before[still])


def test_opcheck() -> None:
    w, g, average, m, v = (torch.rand(size) for size in (9, 9, 9, 6, 6))
    step = torch.zeros(1, dtype=torch.int64)
    rates = (4, 10, 0.1, 1e-3, 0.9, 0.999, 0.1, 1e-2, 0.1, 0.99)
    torch.library.opcheck(op, (w, g, m, v, average, step, *rates))


def test_compiles_whole() -> None:
    def results(compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        (optimiser, *_) = optimisers(9, 4)
        optimiser.grad.copy_(torch.linspace(-1, 1, 13))
        step = optimiser.step
        if compiled:
            step = torch.compile(step, fullgraph=True, backend="aot_eager")
        step()
        return [optimiser.state()[name] for name in WRITTEN]

    for a, b in zip(results(False), results(True), strict=True):
        assert torch.equal(a, b)


def test_bad_input() -> None:
    (optimiser, *_) = optimisers(8, 2)
    optimiser.done = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(
        ValueError, match=r"^step is torch.int32 \[1\].* expected torch.int64 \[1\]"
    ):
        optimiser.step()
    optimiser.m = torch.zeros(12)[:8:2]
    with pytest.raises(ValueError, match=r"^m is .* expected torch.float32 \[4\], contiguous"):
        optimiser.step()
