"""Corridors of other sizes through the programs, and agents on a size new to them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, HRMConfig
from hrm_fast.layers import rope_tables
from train import cli, evaluate
from train.analyse import __main__ as analyse
from train.config import PRESETS, Config, fit_model_to_board
from train.dqn import program as train_dqn
from train.files import checkpoint
from train.watch import __main__ as watch

SHAPE = HRMConfig(
    walls=(), width=8, heads=1, inner=8, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1,
    segments=1, positions="rope2d", q_token="goal", columns=1, carry="reset",
)  # fmt: skip


def saved(folder: Path, spec: MazeSpec, **shape: Any) -> tuple[Path, Config, HRM]:
    torch.manual_seed(0)
    config = fit_model_to_board(Config("maze", env=spec, hrm=replace(SHAPE, **shape)))
    hrm = HRM(config.hrm)
    checkpoint.save(folder / "best.safetensors", hrm, config)
    return folder / "best.safetensors", config, hrm


def run(program: ModuleType, *args: object) -> int:
    """Its exit status."""
    main = getattr(program, "main", lambda: cli.parse(evaluate.program))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["program", *map(str, args)])
        cli.main(main)
    return int(stop.value.code or 0)


@pytest.mark.parametrize("size", [21, 31])
def test_every_program(size: int, tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path, MazeSpec(size=size, max_steps=6), positions="rope2d+learned")
    out = tmp_path / "out"
    out.mkdir()
    assert run(evaluate, path, "--episodes", 8, "--json", out / "a.json") == 0
    assert json.loads((out / "a.json").read_text())["mean_length"] <= 6
    page = ("--html", out / "a.html", "--among", 3)
    assert run(watch, path, *page, "--gif", out / "a.gif", "--episodes", 2) == 0
    assert f'"rows":{size},"cols":{size}' in (out / "a.html").read_text()
    assert (out / "a.gif").stat().st_size > 1000
    assert run(watch, path, "--episodes", 1, "--delay", 0) == 0
    assert run(analyse, path, "--mazes", 2, "--segments", 2, "--out", out) == 0
    assert (out / "convergence.csv").read_text().count("\n") > 1


def test_training_on_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--preset maze --env.size 31 --updates 2 --eval-every 2 --eval-episodes 2 --device cpu "
        "--dqn.num-mazes 4 --dqn.batch-size 2 --dqn.learning-starts 64 --dqn.replay-size 400 "
        f"--hrm.width 16 --hrm.inner 16 --env.max-steps 5 --run-dir {tmp_path / 'run'}"
    )
    monkeypatch.setattr(sys, "argv", ["program", *flags.split()])
    assert train_dqn() == 0
    config, _ = checkpoint.load(tmp_path / "run")
    assert (config.env.cols, config.hrm.tokens) == (29, 646)


@pytest.mark.parametrize("carry", ["reset", "carry", "full"])
def test_an_agent_on_another_size(carry: str, tmp_path: Path) -> None:
    """The same weights on that board's tokens: what a model made for the board computes."""
    trained_on = MazeSpec(crop_wall=True, max_steps=80)
    path, config, hrm = saved(tmp_path, trained_on, carry=carry)
    larger, other = evaluate.of_size(config, hrm, 21)
    assert larger.env == MazeSpec(size=21, crop_wall=True)
    assert (other.config.columns, other.config.tokens) == (19, 281)
    made = HRM(replace(other.config, kernels="reference"))
    made.load_state_dict(hrm.state_dict())
    boards = MazeBatch(larger.env, 3).reset()
    for segments in (1, 2, 4, 8):
        q = other.decide(boards, segments=segments)[0]
        torch.testing.assert_close(q, made.decide(boards, segments=segments)[0])
    assert evaluate.of_size(config, hrm, None) == (config, hrm)
    there = ("--env.size", 21, "--segments", 2)
    assert run(evaluate, path, *there, "--episodes", 2, "--json", tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text())["env_size"] == 21
    assert (
        run(watch, path, *there, "--episodes", 1, "--among", 2, "--html", tmp_path / "a.html") == 0
    )
    assert '"rows":19,"cols":19' in (tmp_path / "a.html").read_text()


def test_positions_turn_by_row_and_column_alone() -> None:
    """What lets an agent move: a cell is turned alike on boards of both sizes."""
    tables = []
    for n in (5, 9):
        shape = replace(SHAPE, walls=None, cells=n * n, columns=n, rope_base=100.0)
        tables.append([table[1:].view(n, n, -1) for table in rope_tables(shape) or ()])
    for small, large in zip(*tables, strict=True):
        assert torch.equal(small, large[:5, :5])


REFUSED = {
    (MazeSpec(), "rope2d+learned", 21): "hrm.positions is 'rope2d+learned': expected 'rope2d'",
    (MazeSpec(), "learned", 21): "hrm.positions is 'learned': expected 'rope2d'",
    (MazeSpec(), "rope2d", 20): "size is 20: expected an odd number, 5 to 31",
    (MazeSpec(map="four-rooms"), "rope2d", 21): "size is 21: expected None, as four-rooms has its",
    (PRESETS["quick"].env, "rope2d", 21): "size is 21: expected None, as a drawn map has its own",
}


@pytest.mark.parametrize(("case", "words"), REFUSED.items(), ids=lambda x: str(x)[-40:])
def test_where_it_cannot_walk(
    case: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spec, positions, size = case
    path, _, _ = saved(tmp_path, spec, positions=positions)
    for program in (evaluate, watch):
        assert run(program, path, "--env.size", size) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"error: {words}") and err.count("\n") == 1
