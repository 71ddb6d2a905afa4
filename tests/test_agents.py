"""Trained agents by name, for the programs that take a checkpoint."""

import sys
from pathlib import Path

import pytest

from train import cli, evaluate
from train.files import agents, checkpoint
from train.watch import __main__ as watch


def test_every_agent_in_the_box_loads_and_is_of_its_preset() -> None:
    found = agents.trained()
    assert "quick" in found
    for name, path in found.items():
        assert agents.find(name) == path
        config, hrm = checkpoint.load(path)
        assert config.preset == name
        assert hrm.config == config.hrm


def test_the_lowest_seed_stands_for_the_preset(tmp_path: Path) -> None:
    for name in ("maze/seed10", "maze/seed2", "quick/seed0", "other/seed0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "best.safetensors").touch()
    (tmp_path / "quick/seed0/best.safetensors").unlink()
    assert agents.trained(tmp_path) == {"maze": tmp_path / "maze/seed2/best.safetensors"}


def test_a_path_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maze").mkdir()
    for path in ("maze", "runs/quick-0", "quick.safetensors"):
        assert agents.find(path) == Path(path)
    assert agents.find("quick") == agents.trained()["quick"]


@pytest.mark.parametrize("name", ["quik", "paper-maze"])
@pytest.mark.parametrize("program", [watch, evaluate])
def test_an_unknown_name_lists_those_there_are(
    program: object, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", name])
    with pytest.raises(SystemExit) as stop:
        cli.main(watch.main if program is watch else lambda: cli.parse(evaluate.program))
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert f"checkpoint is '{name}'" in err and "(quick, four-rooms, maze)" in err


def test_without_the_repository_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none here: they come with a clone of the repository"):
        agents.find("quick", tmp_path)


def test_evaluate_takes_a_name(capsys: pytest.CaptureFixture) -> None:
    cli.parse(evaluate.program, args=["quick", "--episodes", "64"])
    agent = next(line for line in capsys.readouterr().out.split("\n") if line.startswith("agent"))
    assert float(agent.split()[2].rstrip("%")) > 90
