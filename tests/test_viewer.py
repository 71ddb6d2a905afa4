"""The page of recorded episodes: what is recorded and written; test_viewer_page.py opens it."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs import MazeSpec
from hrm_fast import HRM, Carry, HRMConfig
from train import cli
from train.config import SEED_LIMIT, Config, fit_model_to_board
from train.files import checkpoint
from train.watch import __main__ as watch
from train.watch import page
from train.watch.terminal import moments as play_in_terminal

# agents that do not learn stay near their start, so two doors beside it and many changes
SPEC = MazeSpec(map=("..d..", ".@|.>", "..d.."), closed_doors=1, p_change=0.4, max_steps=8)
SHAPE = HRMConfig(width=8, heads=1, inner=8, h_layers=1, l_layers=1, h_cycles=1, l_cycles=2)


def model(spec: MazeSpec = SPEC, **shape: Any) -> tuple[Config, HRM]:
    torch.manual_seed(5)
    hrm = page.replace(SHAPE, **{"segments": 3, **shape})
    config = fit_model_to_board(Config(preset="quick", env=spec, hrm=hrm))
    return config, HRM(config.hrm)


def record(**shape: Any) -> dict[str, Any]:
    config, hrm = model(**shape)
    return page.record(hrm, config, show=3, among=6, seed=7, segments=None)


def test_an_episode_is_the_one_that_the_terminal_shows() -> None:
    _, hrm = model()
    think, unit = page.thinker(hrm, None)
    assert unit == "segment"
    episode = page.play(hrm, think, SPEC, 5, seed=3)[0]
    shown = list(play_in_terminal(hrm, SPEC, 1, seed=3))
    for mine, other in zip(episode, shown, strict=True):
        assert (mine.board.numpy() == other.board.ravel()).all()
        assert (mine.reward, mine.end) == (other.reward, other.end)
        assert (mine.q is None) == (not other.q)
        if mine.q is not None:
            np.testing.assert_allclose(mine.q[-1], other.q, atol=1e-6)


def test_distances() -> None:
    _, hrm = model()
    boards = torch.tensor([[ord(c) for c in "..d...@|.>..d..".replace("d", ".")]]).to(torch.uint8)
    start = hrm.start(1)
    thought = page.decide_and_record(hrm, boards)
    away = page.distances(start, thought)
    assert away.shape == (2, 3, 1)
    for level, (first, z) in enumerate(((start.z_H, thought.z_H), (start.z_L, thought.z_L))):
        for k, before in enumerate((first, z[0], z[1])):
            by_hand = sum((a - b) ** 2 for a, b in zip(before.ravel(), z[2].ravel(), strict=True))
            assert away[level, k, 0].item() == pytest.approx(by_hand.item() / z[2].numel())


def test_one_segment_is_followed_cycle_by_cycle() -> None:
    _, hrm = model(segments=1, l_cycles=3)
    think, unit = page.thinker(hrm, None)
    assert unit == "cycle"
    boards = torch.full((2, 15), ord("."), dtype=torch.uint8)
    seed = Carry(torch.randn(2, 8), torch.randn(2, 8))
    thought = think(boards, seed)
    q, carry = hrm.decide(boards, seed)
    assert torch.equal(thought.q[-1], q) and torch.equal(thought.z_L[-1], carry.z_L)
    assert thought.q.shape == (3, 2, 4)
    one = hrm.__class__(page.replace(hrm.config, l_cycles=1))
    one.load_state_dict(hrm.state_dict())
    assert torch.equal(thought.z_L[0], one.decide(boards, seed)[1].z_L)
    longer, unit = page.thinker(hrm, 2)
    assert unit == "segment"
    assert torch.equal(longer(boards, seed).q[-1], hrm.decide(boards, seed, 2)[0])


def test_the_value_of_every_cell_is_on_the_page() -> None:
    data = record(q_token="goal", segments=1, l_cycles=2)
    for moment in data["episodes"][0]["moments"][:-1]:
        assert len(moment["values"]) == 2  # cycles
        assert all(len(row) == 15 and 0 <= min(row) <= max(row) <= 100 for row in moment["values"])
        goal = moment["board"].index(">")
        best = [100 * max(q) for q in moment["q"]]
        assert [row[goal] for row in moment["values"]] == pytest.approx(best, abs=0.51)
    assert "values" not in record()["episodes"][0]["moments"][0]


def test_failures_come_first_and_leave_room_for_others() -> None:
    ends = ["goal", "time limit", "goal", "time limit", "time limit", "goal", "goal"]
    board = torch.zeros(1, dtype=torch.uint8)
    lengths = [2, 9, 4, 9, 9, 3, 4]
    moments = (page.Frame(board, 0.0, end) for end in ends)
    played = [[moment] * n for moment, n in zip(moments, lengths, strict=True)]
    assert page.choose(played, 4) == [1, 3, 2, 6]
    assert page.choose(played, 3) == [1, 3, 2]
    assert page.choose(played, 7) == [1, 3, 4, 2, 6, 5, 0]
    assert page.choose(played, 1) == [1]
    assert page.choose(played[1:2] + played[3:5], 2) == [0, 1]


def test_the_page_holds_its_data_and_asks_for_nothing() -> None:
    data = record()
    text = page.page(data)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found and json.loads(found[1]) == data
    assert "{{" not in text
    assert not re.search(
        r"\bsrc=|@import|url\((?!#)|fetch\(|<link(?! rel=\"icon\" href=\"data:)", text
    )
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_broken_weights_are_named() -> None:
    config, hrm = model()
    torch.nn.init.constant_(hrm.q_head, float("nan"))
    with pytest.raises(ValueError, match="q of episode 1 is not finite"):
        page.record(hrm, config, 1, 1, 0, None)


def test_no_unfinished_page_stays(tmp_path: Path) -> None:
    path = tmp_path / "agent.html"
    path.write_text("earlier")
    with pytest.raises(OSError, match=r"agent\.html could not be written"):
        page.write(path, lambda: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ValueError, match="thought"):
        page.write(path, lambda: (_ for _ in ()).throw(ValueError("thought")))
    assert os.listdir(tmp_path) == ["agent.html"] and path.read_text() == "earlier"


@pytest.mark.parametrize("where", [".", "/dev/null/agent.html"])
def test_a_bad_place_is_named_before_anything_is_played(where: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" if where == "." else Path(where)
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        OSError, match=rf"{path} could not be written: (it is a folder|File exists)"
    ):
        page.write(path, lambda: pytest.fail("played"))
    assert os.listdir(tmp_path) == ["folder"] and not os.listdir(tmp_path / "folder")


def test_watch_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config, hrm = model()
    saved, out = tmp_path / "best.safetensors", tmp_path / "agent.html"
    checkpoint.save(saved, hrm, config)
    flags = ["--among", "6", "--episodes", "2", "--seed", "4", "--segments", "2"]
    monkeypatch.setattr(sys, "argv", ["watch", str(saved), "--html", str(out), *flags])
    with pytest.raises(SystemExit) as stop:
        cli.main(watch.main)
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"{out}: 2 of 6 episodes, failures first, then the longest\n"
    expected = page.record(hrm, config, 2, 6, SEED_LIMIT + 4, 2)
    assert out.read_text() == page.page(expected)
    assert sorted(os.listdir(tmp_path)) == ["agent.html", "best.safetensors"]
