"""The whole model and its updates on the Triton kernels, against the same on plain PyTorch."""

import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import all_goals

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig
from kernels import ops
from train.config import Config, DQNConfig, fit_model_to_board
from train.trainer import Trainer

pytestmark = pytest.mark.triton

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = HRMConfig(
    width=32, inner=24, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1, segments=2, kernels="triton"
)
RUN = fit_model_to_board(
    Config(
        preset="quick",
        updates=10,
        env=MazeSpec(map="room", size=3, max_steps=10),
        hrm=replace(TINY, q_token="agent", carry="carry"),
        dqn=DQNConfig(
            num_mazes=2, batch_size=2, learning_starts=4, learning_rate=1e-4, warmup_updates=4,
            final_learning_rate=0.5, epsilon_updates=10, target_decay=0.9, weight_decay=0.1,
        ),
    )
)  # fmt: skip


def relative(mine: torch.Tensor, plain: torch.Tensor) -> float:
    return ((mine - plain).double().norm() / plain.double().norm()).item()


@pytest.mark.parametrize("width, positions", [(32, "rope2d+learned"), (160, "rope")])
def test_segment_and_gradients(width: int, positions: str) -> None:
    """A width of 160 takes the kernels for larger models."""
    shape = replace(TINY, cells=12, columns=4, width=width, positions=positions, l_cycles=2)
    torch.manual_seed(0)
    plain, mine = HRM(replace(shape, kernels="reference")).to(DEVICE), HRM(shape).to(DEVICE)
    mine.load_state_dict(plain.state_dict())
    assert mine.ops is not plain.ops
    tokens = torch.randint(130, (2, 12), dtype=torch.uint8, device=DEVICE)
    a_tm1, target = torch.tensor([1, 3], device=DEVICE), torch.randn(2, device=DEVICE)
    results = []
    for hrm in (mine, plain):
        carry, q, loss = hrm.td_segment(hrm.start(2), tokens, a_tm1, target)
        loss.backward()
        assert all(p.grad is not None for p in hrm.parameters())
        results.append([q.detach(), loss.detach(), *carry, *(p.grad for p in hrm.parameters())])
    for one, other in zip(*results, strict=True):
        assert relative(one, other) < 1e-5


def test_a_segment_compiles_whole() -> None:
    torch.manual_seed(0)
    hrm = HRM(replace(TINY, cells=12)).to(DEVICE)
    tokens = torch.randint(130, (2, 12), dtype=torch.uint8, device=DEVICE)
    given = tokens, torch.tensor([1, 3], device=DEVICE), torch.randn(2, device=DEVICE)
    compiled = torch.compile(hrm.td_segment, fullgraph=True, backend="aot_eager")
    results = []
    for segment in (hrm.td_segment, compiled):
        hrm.zero_grad()
        _, q, loss = segment(hrm.start(2), *given)
        loss.backward()
        results.append([q.detach(), loss.detach(), *(p.grad for p in hrm.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("run", [RUN, all_goals(RUN)], ids=["own goal", "all goals"])
def test_ten_updates(run: Config) -> None:
    """The same mazes, actions, losses and weights, target network and puzzle token included."""
    mine, plain, *fused = (
        Trainer(replace(run, hrm=replace(run.hrm, kernels=kernels)), DEVICE)
        for kernels in ("triton", "reference", *(("cpu",) if DEVICE.type == "cpu" else ()))
    )
    assert mine.optimiser.fused is not None and plain.optimiser.fused is None
    while plain.update < run.updates:
        right, *losses = (one.cycle()[0].item() for one in (plain, mine, *fused))
        assert losses == pytest.approx([right] * len(losses), rel=1e-5)
    for one in (mine, *fused):
        assert torch.equal(one.collector.obs, plain.collector.obs)
        for name, x in plain.optimiser.state().items():
            assert relative(one.optimiser.state()[name], x) < 1e-5, name
        assert not one.optimiser.grad.any()


def test_walker_sees_only_the_tokens_it_asked_for() -> None:
    torch.manual_seed(0)
    plain = HRM(replace(TINY, cells=12, kernels="reference", segments=1)).to(DEVICE)
    mine = HRM(replace(plain.config, kernels="triton")).to(DEVICE)
    mine.load_state_dict(plain.state_dict())
    tokens = torch.randint(130, (2, 12), dtype=torch.uint8, device=DEVICE)
    (q, z), (plain_q, plain_z) = (m.act(tokens, m.stored_start(2)) for m in (mine, plain))
    assert relative(q, plain_q) < 1e-5
    assert relative(z.z_H, plain_z.z_H) < 1e-5


@pytest.mark.parametrize(
    "change, named",
    [
        ({"cells": 1024}, "tokens is 1025: kernels 'triton' takes 1 to 1024"),
        ({"width": 516}, "width is 516: kernels 'triton' takes 1 to 512"),
        ({"width": 260, "heads": 2}, "head size is 130: kernels 'triton' takes 1 to 128"),
    ],
)
def test_a_shape_beyond_the_kernels(
    change: dict[str, int],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error under "triton", one logged line under "auto"."""
    with pytest.raises(ValueError, match=re.escape(named)):
        HRM(replace(TINY, **change))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING):
        hrm = HRM(replace(TINY, **change, kernels="auto"))
    assert [r.getMessage() for r in caplog.records] == [f"plain PyTorch on a GPU: {named}"]
    assert hrm.ops is ops.REFERENCE


def test_weights_in_another_precision() -> None:
    with pytest.raises(
        ValueError,
        match=r"kernels is 'triton' and the weights are torch\.float64: expected torch\.float32",
    ):
        _ = HRM(TINY).double().ops


def test_train_dqn(tmp_path: Path) -> None:
    """The program, whole: on a CPU through the interpreter."""
    flags = (
        "--updates 2 --env.map room --env.size 3 --hrm.kernels triton --hrm.segments 1 "
        "--dqn.num-mazes 2 --dqn.batch-size 2 --dqn.learning-starts 4"
    )
    command = [sys.executable, "-m", "train.dqn", "--preset", "quick", *flags.split()]
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "last.safetensors").exists()
