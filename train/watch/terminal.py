"""Greedy episodes, board by board, in the terminal: each with the Q values of its decision."""

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from envs import MazeBatch, MazeSpec
from envs.render import Bytes, ansi, kinds
from hrm_fast import HRM, Carry
from train.episodes import greedily, walk

ACTIONS = ("N", "E", "S", "W", "NE", "SE", "SW", "NW")


class Moment(NamedTuple):
    """One board, what led to it, and what the agent decides on it."""

    episode: int
    step: int
    board: Bytes  # [rows, cols]
    reward: float  # of the step that led here
    changed: bool  # doors moved in that step
    q: list[float]  # [A]; empty on an episode's last board
    end: str  # "goal", "time limit", or "" while the episode goes on

    @property
    def action(self) -> int | None:
        return int(np.argmax(self.q)) if self.q else None

    def headline(self) -> str:
        what = f"episode {self.episode}  step {self.step}  reward {self.reward:.2f}"
        return "  ".join(filter(None, (what, "doors changed" * self.changed, self.end)))


def moments(
    hrm: HRM, spec: MazeSpec, episodes: int, seed: int, segments: int | None = None
) -> Iterator[Moment]:
    """Play greedy episodes of maze 0 of `MazeBatch(spec, 1, seed)`, board by board."""
    mazes = MazeBatch(spec, 1, seed=seed)
    obs = mazes.reset()  # uint8 [1, cells]
    q: list[float] = []

    def decide(obs: Tensor, z: Carry) -> tuple[Tensor, Carry]:
        values, carry = hrm.decide(obs, z, segments)
        q[:] = values[0].tolist()
        return values, hrm.stored(carry)

    for episode in range(1, episodes + 1):
        reward, changed = 0.0, False
        for number, (_, step, _) in enumerate(walk(mazes, greedily(hrm, 1, decide), obs)):
            board, final = (x.numpy().reshape(spec.rows, spec.cols) for x in (obs, step.final_obs))
            yield Moment(episode, number, board, reward, changed, [*q], "")
            obs, reward = step.obs, step.reward.item()
            changed = doors_changed(board, final, spec)
        end = "goal" if step.terminated else "time limit"
        yield Moment(episode, number + 1, final, reward, changed, [], end)


def doors_changed(before: Bytes, after: Bytes, spec: MazeSpec) -> bool:
    """Whether a door has opened or closed among the cells [rows, cols] seen both times."""
    (before, _), (after, _) = kinds(before, spec), kinds(after, spec)
    seen = (before != ord("?")) & (after != ord("?"))
    return bool(((before == ord("#")) != (after == ord("#")))[seen].any())


def text_of(moment: Moment, spec: MazeSpec, colour: bool) -> str:
    """The moment as text: a headline, then the board with the Q values beside it."""
    board = ansi(moment.board, spec, colour).split("\n")
    width = spec.cols * (2 if colour else 1)
    board += [" " * width] * (len(moment.q) - len(board))
    beside = []
    for action, value in enumerate(moment.q):
        mark = "<" if action == moment.action else " "
        bar = ("█" if colour else "=") * round(12 * min(max(value, 0.0), 1.0))
        beside.append(f"   {ACTIONS[action]:2} {value:6.3f} {mark} {bar}")
    lines = [f"{a}{b}".rstrip() for a, b in itertools.zip_longest(board, beside, fillvalue="")]
    return "\n".join([moment.headline(), *lines])


def draws_colour() -> bool:
    """Whether stdout is a terminal that shows colours and block characters."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain and "utf" in (sys.stdout.encoding or "").lower()


def show(scenes: Iterable[tuple[str, bool]], delay: float) -> None:
    """Play scenes, (text, whether an episode ends there), in the terminal, in place.

    An end stays longer. Where stdout is no terminal: plain lines, without waiting.
    """
    terminal = sys.stdout.isatty()
    for text, ends in scenes:
        clear = "\x1b[2J\x1b[H" if terminal else ""
        print(f"{clear}{text}\n", flush=True)
        if terminal:
            time.sleep(delay * (4 if ends else 1))
