"""Curves of runs and the sweep of segments: groups, numbers, files, and what is refused."""

import csv
import functools
import os
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig
from train import config as configs
from train.analyse import curve, figures
from train.config import Config, fit_model_to_board
from train.episodes import agent
from train.evaluate import rollout
from train.files import checkpoint
from train.run.log import COLUMNS

SPEC = MazeSpec(map=("..d..", "--d|d", "..d.."), closed_doors=2, max_steps=12)
TINY = HRMConfig(
    width=8, heads=1, inner=8, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1, segments=2
)
BASE = fit_model_to_board(Config(preset="quick", updates=30, env=SPEC, hrm=TINY))


def write_run(folder, config, successes=(0.1, 0.4, 0.9), last=None):
    """A run's folder, with evaluations at equal distances up to its last update."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(configs.to_json(replace(config, run_dir=str(folder))))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for i, success in enumerate(successes, start=1):
            update = (last or config.updates) * i // len(successes)
            row = {"update": update, "seconds": 6.0 * update, "charts/success": 0.5}
            row |= {"eval/success": success, "eval/episodic_length": 9, "eval/shortest_ratio": 1.2}
            writer.writerow(row)
    torch.manual_seed(config.seed)
    checkpoint.save(folder / "best.safetensors", HRM(config.hrm), config)
    return folder


@pytest.fixture
def run(run):
    return functools.partial(run, figures)


def test_groups_are_named_by_what_sets_them_apart(tmp_path):
    def labels(*runs):
        groups = figures.group({tmp_path / str(i): config for i, config in enumerate(runs)})
        return {label: [int(folder.name) for folder in own] for label, own in groups.items()}

    again = replace(BASE, seed=1, run_dir="elsewhere", device="cpu", save_every=7)
    reset = replace(BASE, hrm=replace(BASE.hrm, carry="reset"))
    both = replace(reset, seed=2, dqn=replace(BASE.dqn, n_step=2))
    assert labels(BASE, again) == {"quick": [0, 1]}
    assert labels(BASE, reset, again) == {"Carry": [0, 2], "Reset": [1]}
    every = replace(BASE, hrm=replace(BASE.hrm, walls=None))
    none = replace(BASE, hrm=replace(BASE.hrm, walls=(1, 3)))
    assert labels(every, none) == {"every cell a token": [0], "no token for walls": [1]}
    assert labels(BASE, both) == {"Carry, n_step 1": [0], "Reset, n_step 2": [1]}
    maze = configs.PRESETS["maze"]
    assert labels(BASE, maze, reset) == {
        "quick, Carry": [0],
        "maze": [1],
        "quick, Reset": [2],
    }


def test_multiply_adds_are_those_of_the_blocks():
    config = replace(BASE.hrm, kernels="reference", h_layers=2, l_cycles=3, heads=2)
    hrm = HRM(config)
    tokens = torch.full((1, config.cells), ord("."), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        hrm.decide(tokens, None, 3)
    head = config.width * config.actions
    attended = 3 * (3 + 2) * 2 * config.tokens**2 * config.width
    counted = counter.get_total_flops() // 2 - head
    mine = figures.multiply_adds(config, 3)
    assert counted in (mine, mine - attended)  # fused attention may go uncounted


def test_a_curve_is_median_and_range(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curve, "write", lambda figure, *paths: drawn.append(figure))
    successes = ((0.0, 0.2, 0.4), (0.3, 0.9, 0.8), (0.1, 0.3, 0.9))
    folders = [write_run(tmp_path / str(i), BASE, y) for i, y in enumerate(successes)]
    curve.draw({"these": folders})
    updates, minutes = drawn[0].axes[0], drawn[0].axes[3]
    assert updates.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert minutes.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert updates.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.3, 0.8])
    edge = updates.collections[0].get_paths()[0].vertices
    assert sorted(set(edge[edge[:, 0] == 20][:, 1])) == pytest.approx([0.2, 0.9])
    assert [axis.get_ylabel() for axis in drawn[0].axes[:3]] == list(curve.MEASURES.values())


def test_training_curves_of_two_groups(run, tmp_path):
    reset = replace(BASE, hrm=replace(BASE.hrm, carry="reset"))
    runs = [write_run(tmp_path / "c0", BASE), write_run(tmp_path / "r0", reset)]
    out = tmp_path / "out"
    code, said, err = run(*runs, "--out", out)
    assert (code, err) == (0, "")
    assert said == f"{out}/training.png\n{out}/training.svg\n"
    assert sorted(os.listdir(out)) == ["training.png", "training.svg"]


def test_the_sweep_of_segments(run, tmp_path, monkeypatch):
    runs = [write_run(tmp_path / f"run{i}", replace(BASE, seed=i)) for i in range(2)]
    out = tmp_path / "out"
    monkeypatch.setattr(curve, "draw", lambda groups, *paths: None)  # drawn in the test above
    args = ("--segments", 1, 3, "--episodes", 40, "--seed", 5, "--out", out)
    code, _, err = run(*runs, *args)
    assert (code, err) == (0, "")
    assert sorted(os.listdir(out)) == ["segments.csv", "segments.png", "segments.svg"]
    rows = figures.read_sweep(out / "segments.csv")
    wanted = [("run0", "1"), ("run0", "3"), ("run1", "1"), ("run1", "3")]
    assert [(row["run"], row["segments"]) for row in rows] == wanted
    hrm = checkpoint.load(runs[1])[1]
    result = rollout(SPEC, agent(hrm, 40, 3), 40, 5, torch.device("cpu"))
    assert float(rows[3]["success"]) == result.success
    assert float(rows[3]["mean_length"]) == result.mean_length
    assert int(rows[3]["multiply_adds"]) == 3 * int(rows[2]["multiply_adds"])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, err = run(out / "segments.csv", "--out", out)
    assert (code, err) == (0, "")
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_bad_input(run, tmp_path):
    good = write_run(tmp_path / "good", BASE)
    unfinished = write_run(tmp_path / "unfinished", BASE, last=20)
    unjudged = write_run(tmp_path / "unjudged", BASE, successes=("", ""))
    (tmp_path / "empty").mkdir()
    damaged = write_run(tmp_path / "damaged", BASE)
    (damaged / "metrics.csv").write_text("update,seconds\nmany,1\n")
    bare = write_run(tmp_path / "bare", BASE)
    (bare / "best.safetensors").unlink()
    other = write_run(tmp_path / "other", BASE)
    wide = replace(BASE, hrm=replace(BASE.hrm, actions=8))
    checkpoint.save(other / "best.safetensors", HRM(wide.hrm), wide)
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    sweep = ("--segments", 2, "--episodes", 2)
    cases = {
        (): "runs",
        (tmp_path / "nowhere",): "nowhere': expected a run's folder",
        (good, tmp_path / "empty"): "empty/config.json: No such file",
        (good, unfinished): "last update is 20: expected 30, a finished run",
        (unjudged,): "evaluations is 0: expected 1 or more",
        (damaged,): "damaged/metrics.csv is damaged: expected a run's log",
        (good, "--segments", 0): "segments is (0,): expected numbers from 1 to 1024",
        (good, *sweep, "--episodes", 0): "episodes is 0: expected 1 to",
        (tmp_path / "no.csv",): "no.csv is damaged: expected what train.analyse.figures wrote",
    }
    out = tmp_path / "out"
    for args, words in cases.items():
        code, _, err = run(*args, "--out", out)
        assert (code, err.count("\n")) == (2, 1), (args, err)
        assert words in err, (args, err)
    assert not out.exists()
    for args, words in {(bare, *sweep): "no checkpoint", (other, *sweep): "actions is 8"}.items():
        code, _, err = run(*args, "--out", out)
        assert code == 2 and words in err
        assert sorted(os.listdir(out)) == ["training.png", "training.svg"]
    code, _, err = run(good, "--out", good / "config.json")
    assert code == 2 and "training.png could not be written" in err
