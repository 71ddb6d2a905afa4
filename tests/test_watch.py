"""The programs that show an agent or let a person walk: as processes, where that is what counts."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from envs import MazeBatch, MazeSpec
from envs.render import COLOURS
from hrm_fast import HRM, HRMConfig
from train import play
from train.config import SEED_LIMIT, Config, fit_model_to_board
from train.files import checkpoint
from train.watch import __main__ as watch
from train.watch.film import FAINT, picture, write_gif
from train.watch.terminal import Moment, doors_changed, moments, text_of

SPEC = MazeSpec(map="room", size=3, max_steps=6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of a tiny random model, and the model."""
    torch.manual_seed(0)
    hrm = HRMConfig(
        width=8, heads=1, inner=8, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1, segments=2
    )
    config = fit_model_to_board(Config(preset="quick", env=SPEC, hrm=hrm))
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    model = HRM(config.hrm)
    checkpoint.save(path, model, config)
    return path, model


def test_moments_are_the_greedy_episodes(saved):
    """Boards and Q values of a loop written out by hand, z starting anew at every episode."""
    _, hrm = saved
    played = list(moments(hrm, SPEC, 4, seed=5))
    mazes = MazeBatch(SPEC, 1, seed=5)
    obs, z, episode, step, result = mazes.reset(), None, 1, 0, None
    for moment in played:
        assert (moment.episode, moment.step) == (episode, step)
        if moment.end:
            assert (moment.board.ravel() == result.final_obs[0].numpy()).all()
            assert moment.end == ("goal" if result.terminated[0] else "time limit")
            assert moment.action is None
            episode, step, z = episode + 1, 0, None
            continue
        assert (moment.board.ravel() == obs[0].numpy()).all()
        q, carry = hrm.decide(obs, z)
        assert moment.q == q[0].tolist() and moment.action == q.argmax().item()
        z = (carry.z_H[:, -1], carry.z_L[:, -1])
        result = mazes.step(q.argmax(-1))
        obs, step = result.obs, step + 1
    assert episode == 5


def test_doors_changed():
    spec = MazeSpec(map="four-rooms", p_change=1.0)
    mazes = MazeBatch(spec, 1, seed=1)
    said = []
    before = mazes.reset().numpy().reshape(11, 11)
    for _ in range(40):
        after = mazes.step(np.zeros(1, np.int64)).final_obs.numpy().reshape(11, 11)
        doors = [(2, 5), (5, 1), (6, 8), (9, 5)]
        really = any((before[d] == ord("|")) != (after[d] == ord("|")) for d in doors)
        said.append(doors_changed(before, after, spec))
        assert said[-1] == really
        before = after
    assert set(said) == {True, False}


def test_page_marks_the_chosen_action():
    spec = MazeSpec(map=("@>", ".."))
    board = np.frombuffer(b"@>..", np.uint8).reshape(2, 2)
    moment = Moment(2, 3, board, -0.01, True, [0.5, 1.25, -0.1, 0.0], "")
    assert text_of(moment, spec, colour=False).split("\n") == [
        "episode 2  step 3  reward -0.01  doors changed",
        "@>   N   0.500   ======",
        "..   E   1.250 < ============",
        "     S  -0.100",
        "     W   0.000",
    ]


def test_watch_prints_plain_lines_where_stdout_is_no_terminal(saved, run):
    path, hrm = saved
    code, out, err = run(watch, path.parent, "--episodes", 2, "--seed", 3)
    assert (code, err) == (0, "")
    played = list(moments(hrm, SPEC, 2, SEED_LIMIT + 3))
    assert out == "".join(text_of(m, SPEC, colour=False) + "\n\n" for m in played)
    assert "\x1b" not in out


def test_watch_writes_a_gif(saved, run, tmp_path):
    path, hrm = saved
    gif = tmp_path / "agent.gif"
    args = ("--episodes", 2, "--gif", gif, "--delay", 0.1, "--tile", 16)
    code, out, err = run(watch, path, *args)
    played = list(moments(hrm, SPEC, 2, SEED_LIMIT))
    assert (code, err) == (0, "")
    assert out == f"{gif}: {len(played)} frames, 2 episodes\n"
    assert os.listdir(tmp_path) == ["agent.gif"]
    with Image.open(gif) as image:
        assert image.n_frames == len(played)
        for i, moment in enumerate(played):
            image.seek(i)
            assert image.info["duration"] == (400 if moment.end else 100)
            drawn = np.asarray(image.convert("RGB")).astype(int)
            wanted = np.asarray(picture(moment, SPEC, 16)).astype(int)
            assert np.abs(drawn - wanted).mean() < 2  # at most 256 colours


def test_picture_shows_the_q_values_as_bars():
    board = np.full((3, 3), ord("."), np.uint8)
    board[0, 0], board[2, 2] = ord("@"), ord(">")

    def bar(moment, colour):
        panel = np.asarray(picture(moment, SPEC, 16))[:, 3 * 16 :]
        return (panel == colour).all(-1).sum()

    moment = Moment(1, 0, board, 0.0, False, [0.0, 0.9, 0.0, 0.0], "")
    blue = bar(moment, COLOURS["@"])
    assert blue > 2 * bar(moment._replace(q=[0.0, 0.4, 0.0, 0.0]), COLOURS["@"]) > 0
    assert blue == bar(moment._replace(q=[0.9, 0.0, 0.0, 0.0]), COLOURS["@"])
    assert bar(moment._replace(q=[0.8, 0.9, 0.0, 0.0]), FAINT) > 500


def test_watch_thinks_as_many_segments_as_asked(saved, run):
    path, hrm = saved
    code, out, _ = run(watch, path, "--episodes", 1, "--segments", 3)
    played = list(moments(hrm, SPEC, 1, SEED_LIMIT, 3))
    assert (code, out) == (0, "".join(text_of(m, SPEC, colour=False) + "\n\n" for m in played))
    obs = MazeBatch(SPEC, 1, seed=SEED_LIMIT).reset()
    assert played[0].q == hrm.decide(obs, segments=3)[0][0].tolist()
    assert played[0].q != hrm.decide(obs)[0][0].tolist()


@pytest.mark.parametrize("what", ["missing", "truncated", "text", "folder"])
def test_watch_refuses_what_is_no_checkpoint(saved, run, tmp_path, what):
    path = tmp_path / "model.safetensors"
    if what == "truncated":
        path.write_bytes(saved[0].read_bytes()[:-100])
    elif what == "text":
        path.write_text("not a checkpoint")
    elif what == "folder":
        path.mkdir()
    there = set(os.listdir(tmp_path))
    code, out, err = run(watch, path, "--gif", tmp_path / "agent.gif")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert str(path) in err and "expected" in err
    assert set(os.listdir(tmp_path)) == there


def test_watch_leaves_no_unfinished_gif(saved, tmp_path, monkeypatch):
    gif = tmp_path / "agent.gif"
    gif.write_text("earlier")
    monkeypatch.setattr(
        "train.watch.film.picture", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="could not be written"):
        write_gif(gif, moments(saved[1], SPEC, 1, 0), SPEC, 16, 0.1)
    assert os.listdir(tmp_path) == ["agent.gif"] and gif.read_text() == "earlier"


@pytest.mark.parametrize(
    "args, words",
    [
        (["--episodes", "0"], "episodes is 0: expected 1 or more"),
        (["--seed", "-1"], "seed is -1: expected 0 to 2147483647"),
        (["--segments", "0"], "segments is 0: expected 1 or more"),
        (["--among", "0"], "among is 0: expected 1 to 65536"),
        (["--delay", "61"], "delay is 61.0: expected 0 to 60 seconds"),
        (["--tile", "4"], "tile is 4: expected 8 to 128 pixels"),
        (["--tile", "x"], "tile"),
        (["--colour"], "colour"),
        (["--gif", "a", "--html", "a"], "gif is a: expected a file that is not in use"),
        (["--gif", "a", "--html", "b/../a"], "gif is a: expected a file that is not in use"),
        (["--html", "a.html", "--gif", "/"], "/ could not be written: it is a folder"),
        (["--gif", ""], "could not be written: it is a folder"),
        (["--html", "/proc/a"], "/proc/a could not be written"),
        (["--env", "gym:Blackjack-v1"], "cells of Blackjack-v1 is 3: expected 9"),
    ],
)
def test_bad_flags_of_watch(saved, run, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(watch, saved[0], *args)
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1


class Terminal:
    """A program on a pseudo terminal: what it has written so far, and keys to press."""

    def __init__(self, *command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
            os.environ.pop("NO_COLOR", None)
            os.execv(sys.executable, [sys.executable, "-m", *command])
        self.text = ""

    def until(self, words):
        """The text up to and with the words, which must come within half a minute."""
        end = time.monotonic() + 30
        while words not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
        before, _, self.text = self.text.partition(words)
        return before + words

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def end(self):
        """Exit status."""
        with contextlib.suppress(OSError):  # EIO once the program has gone
            while os.read(self.fd, 65536):
                pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


MAP = "@..\n..>"


def test_play_walks_with_the_keys():
    terminal = Terminal("train.play", "--map", MAP, "--max-steps", "9", "--seed", "1")
    terminal.until("Step 0 of 9, reward 0.00; the shortest way at the start: 3.")
    terminal.press("\x1b[A")  # up, into the wall
    terminal.until("Step 1 of 9, reward -0.01")
    terminal.until("Bump.")
    terminal.press("lyx")  # right; y and x are no keys here
    terminal.until("Step 2 of 9")
    terminal.press("\x1bOC")
    terminal.until("Step 3 of 9")
    terminal.press("s")
    terminal.until("Reward 0.99.")
    terminal.until("The goal in 4 steps; the shortest way at the start: 3.")
    terminal.press(" ")
    terminal.until("Step 0 of 9")
    terminal.press("q")
    assert terminal.end() == 0


@pytest.mark.parametrize("size", [21, 31])
def test_play_in_corridors_of_a_size(size):
    terminal = Terminal("train.play", "--map", "corridors", "--size", str(size), "--seed", "1")
    screen = terminal.until(f"Step 0 of {round(80 * size / 12)}, reward 0.00")
    assert screen.count("\n") > size
    terminal.press("q")
    assert terminal.end() == 0


def test_play_with_eight_actions_and_ctrl_c():
    terminal = Terminal("train.play", "--map", MAP, "--actions", "8", "--max-steps", "2")
    assert "yubn diagonally" in terminal.until("start: 2.")
    terminal.press("n")
    terminal.until("Step 1 of 2")
    terminal.press("k")
    terminal.until("No more time after 2 steps")
    terminal.press("\x03")
    assert terminal.end() == 0


def test_programs_as_processes():
    """What the shell sees: one line on stderr, exit status 2, no traceback."""
    for command, words in (
        (("train.play",), "stdin is not a terminal: expected one, to read keys from"),
        (("train.watch", "nowhere.safetensors"), "nowhere.safetensors does not exist"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {words}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args, words",
    [
        (["--p-change", "1.5"], "p_change is 1.5: expected 0 to 1"),
        (["--map", "castle"], "map is castle (No such file or directory): expected four-rooms"),
        (["--map", "@..\n..", "--max-steps", "9"], "map row 1 has 2 cells: expected 3"),
        (["--size", "20"], "size is 20: expected an odd number, 5 to 31, for 'corridors'"),
        (["--map", "four-rooms", "--size", "9"], "size is 9: expected None, as four-rooms has its"),
        (["--seed", "-1"], "seed is -1: expected 0 to "),
        (["--colour", "1"], "colour"),
    ],
)
def test_bad_flags_of_play(run, args, words):
    code, out, err = run(play, *args)
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1


def test_watch_draws_in_place_on_a_terminal(saved):
    terminal = Terminal("train.watch", str(saved[0]), "--episodes", "1", "--delay", "0.01")
    seen = terminal.until("\x1b[2J\x1b[Hepisode 1  step 1")
    assert "●" in seen and "★" in seen
    assert terminal.end() == 0
