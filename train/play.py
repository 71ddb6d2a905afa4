"""Walk a maze yourself: python -m train.play --map four-rooms

Arrow keys, WASD or hjkl walk, yubn go diagonally where there are 8 actions, q quits.
"""

import contextlib
import os
import random
import select
import sys
import termios  # not curses: the board is drawn by the same few lines as everywhere else
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import tyro

from envs import MazeBatch, MazeSpec
from envs.render import Bytes, ansi
from train import cli
from train.watch.terminal import doors_changed, draws_colour

N, E, S, W, NE, SE, SW, NW = range(8)
KEYS = {
    **{"w": N, "d": E, "s": S, "a": W},
    **{"k": N, "l": E, "j": S, "h": W},
    **{"y": NW, "u": NE, "b": SW, "n": SE},
    **{"\x1b[A": N, "\x1b[C": E, "\x1b[B": S, "\x1b[D": W},
    **{"\x1bOA": N, "\x1bOC": E, "\x1bOB": S, "\x1bOD": W},  # in application mode
}
QUIT = ("q", "\x03", "\x04", "")
HELP = "Walk with the arrow keys, WASD or hjkl{diagonals}; q quits."


@dataclass(frozen=True)
class Play:
    """Which mazes to walk."""

    env: Annotated[MazeSpec, tyro.conf.arg(name="")] = field(default_factory=MazeSpec)
    seed: int | None = None
    """Seed of the mazes (None: others every time)."""

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: expected 0 to {2**63 - 1}")


@contextlib.contextmanager
def keyboard() -> Iterator[None]:
    """Keys arrive at once and unechoed; the terminal gets its settings back in any case."""
    if not sys.stdin.isatty():
        raise ValueError("stdin is not a terminal: expected one, to read keys from")
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def read_key() -> str:
    """The next key; an arrow is three characters that arrive together. "" at the input's end."""
    fd = sys.stdin.fileno()
    key = os.read(fd, 1)
    while key.startswith(b"\x1b") and len(key) < 3 and select.select([fd], [], [], 0.05)[0]:
        key += os.read(fd, 1)
    return key.decode("ascii", "replace")


def draw(board: Bytes, spec: MazeSpec, lines: list[str]) -> None:
    clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
    help_ = HELP.format(diagonals=", yubn diagonally" if spec.actions == 8 else "")
    text = "\n".join([help_, "", ansi(board, spec, draws_colour()), "", *lines])
    print(clear + text, flush=True)


def ending(goal: bool, steps: int, shortest: int) -> str:
    what = f"The goal in {steps} steps" if goal else f"No more time after {steps} steps"
    return f"{what}{_shortest(shortest)}. Any key: next maze. q: quit."


def _shortest(shortest: int) -> str:
    if shortest < 0:
        return "; at the start no way led there"
    return f"; the shortest way at the start: {shortest}"


def walk(spec: MazeSpec, seed: int) -> None:
    """Episodes one after another until the quit key."""
    mazes = MazeBatch(spec, 1, seed=seed)
    obs = mazes.reset()  # uint8 [1, cells]
    while True:
        shortest = int(mazes.shortest_path()[0])
        steps, total, news, end = 0, 0.0, "", ""
        board = obs.numpy().reshape(spec.rows, spec.cols)
        while not end:
            status = f"Step {steps} of {spec.step_limit}, reward {total:.2f}{_shortest(shortest)}."
            draw(board, spec, [status, news])
            key = read_key()
            if key in QUIT:
                return
            action = KEYS.get(key)
            if action is None or action >= spec.actions:
                continue
            step = mazes.step(np.array([action]))
            steps, total, obs = steps + 1, total + step.reward.item(), step.obs
            after = step.final_obs.numpy().reshape(spec.rows, spec.cols)
            changed = doors_changed(board, after, spec)
            bump = "Bump. " if step.reward.item() < 0 else ""
            news, board = bump + ("Doors changed." if changed else ""), after
            if step.terminated or step.truncated:
                end = ending(bool(step.terminated), steps, shortest)
        draw(board, spec, [f"Reward {total:.2f}.", end])
        if read_key() in QUIT:
            return


def main() -> None:
    options = cli.parse(Play, __doc__ or "")
    seed = random.randrange(2**31) if options.seed is None else options.seed
    with keyboard(), contextlib.suppress(KeyboardInterrupt):
        walk(options.env, seed)


if __name__ == "__main__":
    cli.main(main)
