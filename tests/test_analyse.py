"""The convergence study: against a closed form, against a slow loop over mazes, and its program."""

import csv
import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, Carry, HRMConfig
from train.analyse import __main__ as analyse
from train.analyse import convergence, curve, study
from train.analyse.study import Analyse, move_goal, think, to_references
from train.config import SEED_LIMIT, Config, fit_model_to_board
from train.episodes import agent
from train.evaluate import rollout
from train.files import checkpoint

SPEC = MazeSpec(map=("..d..", "--d|d", "..d.."), closed_doors=2, p_change=0.5, max_steps=12)
TINY = HRMConfig(
    width=8,
    heads=1,
    inner=8,
    h_layers=1,
    l_layers=1,
    h_cycles=1,
    l_cycles=1,
    segments=3,
    kernels="reference",
)


def tiny(mode="carry", spec=SPEC, seed=0):
    torch.manual_seed(seed)
    config = Config(preset="quick", env=spec, hrm=replace(TINY, carry=mode))
    return HRM(fit_model_to_board(config).hrm)


class Halving(HRM):
    """Every segment halves z, which so converges to 0; Q is the agent's wish to go east."""

    def segment(self, carry, tokens):
        q = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).expand(len(tokens), -1)
        return Carry(carry.z_H / 2, carry.z_L / 2), q


@pytest.mark.parametrize("mode", ["carry", "reset", "full"])
def test_distances_of_a_z_that_halves(mode):
    """Closed form: after k segments of the t-th decision z is 2^-n of the start state."""
    hrm = Halving(tiny(mode).config)
    tokens = MazeBatch(SPEC, 5).reset()
    size = torch.stack((hrm.start_H, hrm.start_L)).square().mean(-1).detach()  # [2]
    seed, S = hrm.stored_start(5), 6
    for t in range(3):
        q, distance, seed = think(hrm, tokens, seed, "none", S, "last")
        begun = 0.0 if mode == "reset" else t * S
        z = torch.exp2(-begun - torch.arange(1, S + 1))
        for j, reference in enumerate((z[-1], z[0], 2.0**-begun, 1.0)):
            expected = size[:, None] * (z - reference).square()
            torch.testing.assert_close(distance[:, j], expected[..., None].expand(-1, -1, 5))
        assert q.argmax(-1).tolist() == [1] * 5


def test_z_reset_makes_every_segment_the_first():
    hrm, tokens = tiny("carry"), MazeBatch(SPEC, 5, seed=1).reset()
    seed = Carry(*torch.randn(2, 5, 8))
    q, distance, kept = think(hrm, tokens, seed, "z reset", 4, "last")
    once, carry = hrm.decide(tokens, None, segments=1)
    assert torch.equal(q, once)
    assert all(torch.equal(k, s) for k, s in zip(kept, hrm.stored_start(5), strict=True))
    assert (distance[:, :2] == 0).all()
    moved = (carry.z_H - hrm.start(5).z_H)[:, -1].square().mean(-1)
    for reference in (2, 3):
        torch.testing.assert_close(distance[0, reference], moved.expand(4, 5))


def test_the_agent_token():
    hrm, tokens = tiny(), MazeBatch(SPEC, 7, seed=1).reset()
    _, distance, _ = think(hrm, tokens, hrm.stored_start(7), "none", 3, "agent")
    for i in range(7):
        at = bytes(tokens[i].tolist()).index(b"@") + 1
        _, after = hrm.decide(tokens[i : i + 1], None, 2)
        _, end = hrm.decide(tokens[i : i + 1], None, 3)
        expected = (after.z_L[0, at] - end.z_L[0, at]).square().mean()
        torch.testing.assert_close(distance[1, 0, 1, i], expected)


def test_move_goal_changes_the_goal_alone():
    mazes = MazeBatch(MazeSpec(), 64, seed=3)
    mazes.reset()
    boards = mazes.step(torch.ones(64, dtype=torch.int64)).obs
    moved = move_goal(boards, torch.Generator().manual_seed(0))
    old, new = boards == ord(">"), moved == ord(">")
    assert (new.sum(1) == 1).all() and not (old & new).any()
    assert (moved[old] == ord(".")).all() and (boards[new] == ord(".")).all()
    assert torch.equal(moved[~old & ~new], boards[~old & ~new])
    assert len(new.nonzero()[:, 1].unique()) > 20  # anywhere
    unmovable = torch.tensor([list(b"@>|"), list(b"@.|")], dtype=torch.uint8)
    assert torch.equal(move_goal(unmovable, torch.Generator()), unmovable)


def plain_path(board, goal):
    """Cells of a shortest path by breadth-first search from the goal, ties north, east, south,
    west; None: there is none."""
    rows, cols = board.shape
    far, queue = {goal: 0}, [goal]
    for row, col in queue:
        for there in ((row - 1, col), (row, col + 1), (row + 1, col), (row, col - 1)):
            inside = 0 <= there[0] < rows and 0 <= there[1] < cols
            if inside and there not in far and chr(board[there]) in ".<>@":
                far[there] = far[row, col] + 1
                queue.append(there)
    here = tuple(np.argwhere(board == ord("@"))[0])
    if here not in far:
        return None
    path = []
    while here != goal:
        row, col = here
        near = ((row - 1, col), (row, col + 1), (row + 1, col), (row, col - 1))
        here = next(there for there in near if far.get(there, 999) == far[here] - 1)
        path.append(here)
    return path


def plain_changed(spec, before, after):
    goal = tuple(np.argwhere(before == ord(">"))[0])
    path = plain_path(before, goal)
    if path is None:
        return plain_path(after, goal) is not None
    doors = [(r, c) for r, row in enumerate(spec.board) for c, x in enumerate(row) if x == "d"]
    door = ord(spec.door_glyph)
    return any((before[d] == door) != (after[d] == door) for d in doors if d in path)


@pytest.mark.parametrize("spec", [SPEC, MazeSpec(p_change=0.3, max_steps=10)], ids=["own", "maze"])
@pytest.mark.parametrize("mode", ["carry", "reset"])
def test_a_walk_is_a_plain_loop_over_mazes(spec, mode, monkeypatch):
    monkeypatch.setattr(study, "CHUNK", 3)
    hrm, options = tiny(mode, spec), Analyse(Path(), mazes=8, seed=4)
    result = study.measure(hrm, spec, "none", options, 3)
    expected, changes, solved = [], [], 0
    for i in range(8):
        mazes, z = MazeBatch(spec, 8, seed=SEED_LIMIT + 4), None
        obs = mazes.reset()[i : i + 1]
        previous = board = mazes.get_state()["boards"][i].numpy()
        for t in range(spec.step_limit):
            states = [hrm.carry_from(z or hrm.stored_start(1))]
            for _ in range(3):
                carry, q = hrm.segment(states[-1], obs)
                states.append(carry)
            at = [torch.stack([s[level][:, -1] for s in states]) for level in (0, 1)]
            start = (hrm.start_H[None], hrm.start_L[None])
            if t > 0:
                both = [to_references(s[1:], s[0], o) for s, o in zip(at, start, strict=True)]
                expected.append((t, i, torch.stack(both)))
                changes.append((t, i, plain_changed(spec, previous, board)))
            z = hrm.stored(carry)
            action = torch.zeros(8, dtype=torch.int64)
            action[i] = q.argmax()
            step = mazes.step(action)
            previous, board = board, mazes.get_state()["boards"][i].numpy()
            obs = step.obs[i : i + 1]
            solved += int(step.terminated[i])
            if step.terminated[i] or step.truncated[i]:
                break
    expected.sort(key=lambda x: x[:2])
    torch.testing.assert_close(
        result.distance, torch.cat([x[2] for x in expected], -1), rtol=1e-4, atol=1e-6
    )
    assert result.changed.tolist() == [x[2] for x in sorted(changes)]
    assert 0 < result.changed.sum() < len(changes)
    assert result.solved == solved


def test_as_many_are_solved_as_evaluate_says():
    hrm, options = tiny(), Analyse(Path(), mazes=64, seed=2)
    said = rollout(SPEC, agent(hrm, 64, 2), 64, 2, torch.device("cpu"))
    solved = study.measure(hrm, SPEC, "none", options, 2).solved
    assert 0 < solved < 64
    assert solved == round(64 * said.success)
    elsewhere = study.measure(hrm, SPEC, "goal moved", options, 2)
    assert elsewhere.solved != solved


@pytest.fixture
def run(run):
    return functools.partial(run, analyse)


def save(folder, hrm, spec=SPEC):
    path = folder / "best.safetensors"
    checkpoint.save(path, hrm, Config(preset="quick", env=spec, hrm=hrm.config))
    return path


def test_the_program(run, tmp_path, monkeypatch):
    path, out, draw = save(tmp_path, tiny()), tmp_path / "out", curve.write
    monkeypatch.setattr(curve, "write", lambda figure, *paths: [p.touch() for p in paths])
    code, said, err = run(path, "--mazes", 8, "--out", out)
    assert (code, err) == (0, "")
    stems = ("convergence", "convergence-z-reset", "convergence-goal-moved")
    figures = [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert sorted(os.listdir(out)) == sorted([*figures, "convergence.csv"])
    assert all(str(out / name) in said for name in figures)
    rows = convergence.read(out / "convergence.csv")
    assert len(rows) == 2 * 3 * 2 * 2 * 4 * 3  # modes ... references, segments
    hrm, options = tiny("reset"), Analyse(Path(), mazes=8)
    result = study.measure(hrm, SPEC, "none", options, 3)
    wanted = {"mode": "reset", "intervention": "none", "environment": "static", "level": "z_L"}
    wanted |= {"reference": "first segment", "segment": "3", "solved": str(result.solved)}
    (row,) = (row for row in rows if wanted.items() <= row.items())
    values = result.distance[1, 1, 2, ~result.changed]
    assert int(row["decisions"]) == len(values)
    for name, share in (("quartile_1", 0.25), ("median", 0.5), ("quartile_3", 0.75)):
        assert float(row[name]) == pytest.approx(values.quantile(share).item(), rel=1e-5)

    monkeypatch.setattr(curve, "write", draw)
    one, drawn = tmp_path / "one.csv", []  # a table of one intervention, which is quicker to draw
    write(one, [row for row in rows if row["intervention"] == "goal moved"])
    for name in ("a", "b"):
        code, _, err = run(one, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0]) == ["convergence-goal-moved.png", "convergence-goal-moved.svg"]
    assert drawn[0]["convergence-goal-moved.png"].startswith(b"\x89PNG")
    assert b"</svg>" in drawn[0]["convergence-goal-moved.svg"]


def write(table, rows):
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, convergence.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_no_decision_after_a_change(tmp_path):
    """Empty medians in the table, and a figure all the same."""
    still = replace(SPEC, p_change=0.0)
    config, table = Config(preset="quick", env=still, hrm=tiny().config), tmp_path / "x.csv"
    write(table, study.study(config, tiny(), Analyse(Path(), mazes=4)))
    rows = convergence.read(table)
    assert {row["median"] for row in rows if row["environment"] == "changed"} == {""}
    assert "" not in {row["median"] for row in rows if row["environment"] == "static"}
    axes = convergence.figure([row for row in rows if row["intervention"] == "none"]).axes
    assert axes[0].get_title() == "z_H to its value after the last segment"
    lines = axes[0].lines  # of Carry and Reset, changed and static
    assert [int(np.isfinite(line.get_ydata()).sum()) for line in lines] == [0, 2, 0, 2]
    bottom, top = axes[0].get_ylim()
    quartiles = [
        float(row[name])
        for row in rows
        if (row["intervention"], row["reference"]) == ("none", "last segment")
        for name in ("quartile_1", "quartile_3")
        if float(row["median"] or 0) > 0
    ]
    assert bottom <= min(quartiles) and max(quartiles) <= top


def test_bad_input(run, tmp_path):
    path = save(tmp_path, tiny())
    one = tmp_path / "one"
    one.mkdir()
    short = save(one, HRM(replace(tiny().config, segments=1)))
    other = tmp_path / "other"
    other.mkdir()
    large = save(other, tiny(spec=MazeSpec()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    out = ("--out", tmp_path / "out")
    cases = {
        ("castle",): "castle",
        (tmp_path / "empty",): "holds no checkpoint: expected one of best",
        (short,): "segments is 1: expected 2 or more, such as --segments 8",
        (path, "--segments", 1): "segments is 1: expected 2 to 1024",
        (path, "--mazes", 0): "mazes is 0: expected 1 to",
        (path, "--seed", -1): "seed is -1: expected 0 to",
        (large, "--mazes", 2): "hrm.cells is 143: expected 15, as its maze has",
        (tmp_path / "no.csv",): "no.csv is damaged: expected what train.analyse wrote",
        (tmp_path / "none.csv",): "none.csv: No such file",
    }
    for args, words in cases.items():
        code, _, err = run(*args, *out)
        assert (code, err.count("\n")) == (2, 1), args
        assert words in err, (args, err)
        assert not (tmp_path / "out").exists()
    code, _, err = run(path, "--mazes", 4, "--out", path)
    assert code == 2 and f"{path}/convergence.csv could not be written" in err
