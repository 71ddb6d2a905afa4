"""Watch a trained agent walk, greedily: in the terminal, on a page, in an animated GIF or an MP4.

    python -m train.watch quick [--html agent.html] [--gif agent.gif] [--mp4 agent.mp4]

Beside the board stand the Q values of the decision: the length of a bar is the value from 0 to 1,
and the chosen action is marked. The page is `train.viewer`'s.
"""

import functools
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from envs import GymSpec, MazeBatch, MazeSpec
from envs.render import COLOURS, Bytes, ansi, kinds, rgb
from hrm_fast import HRM
from train import agents, checkpoint, cli, viewer, watch_gym
from train.config import SEED_LIMIT, maze_of, require
from train.evaluate import env_of

ACTIONS = ("N", "E", "S", "W", "NE", "SE", "SW", "NW")
PANEL, LINE, BAR = 190, 20, 84  # pixels: width beside the board, height of a line, longest bar
INK, FAINT, PAPER = COLOURS[" "], (190, 190, 184), (250, 249, 245)


@dataclass(frozen=True)
class Watch:
    """What to show."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, one of its .safetensors files, or the name of a trained preset."""
    episodes: int | None = None
    """Episodes to show (None: 3, on a page 12)."""
    seed: int = 0
    """Which mazes; training sees none of them whatever the seed."""
    segments: int | None = None
    """Segments per decision (None: as trained)."""
    delay: float = 0.3
    """Seconds between two steps."""
    html: Path | None = None
    """Write a page there, which needs nothing else, instead of playing in the terminal."""
    among: int = 256
    """Episodes played for the page; it shows failures first, then the longest."""
    gif: Path | None = None
    """Write an animated GIF there instead."""
    mp4: Path | None = None
    """Write a video there instead; needs ffmpeg."""
    tile: int = 24
    """Pixels along a cell of the GIF or the video."""

    def __post_init__(self) -> None:
        for name in ("episodes", "segments"):
            value = getattr(self, name)
            require(name, value, value is None or value >= 1, "1 or more")
        require("among", self.among, 1 <= self.among <= 2**16, f"1 to {2**16}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed is {self.seed}: expected 0 to {SEED_LIMIT - 1}")
        if not 0 <= self.delay <= 60:
            raise ValueError(f"delay is {self.delay}: expected 0 to 60 seconds")
        if not 8 <= self.tile <= 128:
            raise ValueError(f"tile is {self.tile}: expected 8 to 128 pixels")


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
    for episode in range(1, episodes + 1):
        z = hrm.start_seed(1)
        reward, changed, end = 0.0, False, ""
        for step in itertools.count():
            q, carry = hrm.decide(obs, z, segments)
            board = obs.numpy().reshape(spec.rows, spec.cols)
            yield Moment(episode, step, board, reward, changed, q[0].tolist(), "")
            z = hrm.seed(carry)
            result = mazes.step(q.argmax(-1))
            obs, reward = result.obs, result.reward.item()
            final = result.final_obs.numpy().reshape(spec.rows, spec.cols)
            changed = doors_changed(board, final, spec)
            end = "goal" if result.terminated else "time limit" if result.truncated else ""
            if end:
                yield Moment(episode, step + 1, final, reward, changed, [], end)
                break


def doors_changed(before: Bytes, after: Bytes, spec: MazeSpec) -> bool:
    """Whether a door has opened or closed among the cells [rows, cols] seen both times."""
    (before, _), (after, _) = kinds(before, spec), kinds(after, spec)
    seen = (before != ord("?")) & (after != ord("?"))
    return bool(((before == ord("#")) != (after == ord("#")))[seen].any())


def page(moment: Moment, spec: MazeSpec, colour: bool) -> str:
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


def picture(moment: Moment, spec: MazeSpec, tile: int) -> Image.Image:
    """The moment as a picture: the board, and beside it the step and the Q values."""
    board = Image.fromarray(rgb(moment.board, spec, tile))
    actions = spec.actions
    height = max(board.height, (actions + 5) * LINE)
    image = Image.new("RGB", (board.width + PANEL, height), PAPER)
    image.paste(board, (0, (height - board.height) // 2))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    left, top = board.width + 16, LINE // 2
    said = (moment.end or "doors changed" * moment.changed).capitalize()
    head = (f"Episode {moment.episode}, step {moment.step}", f"Reward {moment.reward:.2f}", said)
    for i, text in enumerate(head):
        draw.text((left, top + i * LINE), text, INK, font)
    for action, value in enumerate(moment.q):
        y = top + (action + 4) * LINE
        colour = COLOURS["@"] if action == moment.action else FAINT
        long = round(BAR * min(max(value, 0.0), 1.0))
        if action == moment.action:
            draw.polygon([(left - 9, y + 4), (left - 9, y + 12), (left - 4, y + 8)], INK)
        draw.text((left, y), ACTIONS[action], INK, font)
        draw.rectangle((left + 26, y + 2, left + 26 + long, y + 14), colour)
        draw.line((left + 26, y, left + 26, y + 16), INK)
        draw.text((left + 34 + BAR, y), f"{value:.2f}", INK, font)
    return image


def write_gif(path: Path, played: Iterator[Moment], spec: MazeSpec, tile: int, delay: float) -> int:
    """Write the moments to a GIF and return how many frames; the file is whole or not there."""
    with checkpoint.replacing(path) as part, part.open("wb") as file:  # a bad path fails here
        shown = list(played)
        milliseconds = [max(20, round(1000 * delay * (4 if m.end else 1))) for m in shown]
        first, *rest = (picture(moment, spec, tile) for moment in shown)
        first.save(file, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return len(shown)


def write_mp4(path: Path, played: Iterator[Moment], spec: MazeSpec, tile: int, delay: float) -> int:
    """Write the moments to a video and return how many; the file is whole or not there.

    ValueError: there is no ffmpeg. OSError: it failed, with the last line that it said.
    """
    if (ffmpeg := shutil.which("ffmpeg")) is None:
        raise ValueError(f"mp4 is {path}: expected ffmpeg on the PATH, which is not there")
    with checkpoint.replacing(path) as part:
        part.touch()  # a bad path fails here
        shown = list(played)
        images = [picture(moment, spec, tile) for moment in shown]
        even = f"pad=ceil(iw/2)*2:ceil(ih/2)*2:color=0x{bytes(PAPER).hex()}"  # as yuv420p wants
        size, rate = f"{images[0].width}x{images[0].height}", 1 / max(delay, 0.02)
        source = f"-f rawvideo -pix_fmt rgb24 -s {size} -r {rate:.6f} -i -".split()
        result = f"-vf {even} -pix_fmt yuv420p -movflags +faststart -f mp4".split()
        command = [ffmpeg, "-v", "error", "-y", *source, *result, str(part)]
        frames = (
            image.tobytes() * (4 if m.end else 1) for m, image in zip(shown, images, strict=True)
        )
        done = subprocess.run(command, input=b"".join(frames), stderr=subprocess.PIPE, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(said[-1] if said else f"ffmpeg ended with {done.returncode}")
    return len(shown)


def draws_colour() -> bool:
    """Whether stdout is a terminal that shows colours and block characters."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain and "utf" in (sys.stdout.encoding or "").lower()


def show(played: Iterator[Moment], spec: MazeSpec, delay: float) -> None:
    """Play in the terminal, in place; where stdout is none, as plain lines without waiting."""
    terminal, colour = sys.stdout.isatty(), draws_colour()
    for moment in played:
        clear = "\x1b[2J\x1b[H" if terminal else ""
        print(f"{clear}{page(moment, spec, colour)}\n", flush=True)
        if terminal:
            time.sleep(delay * (4 if moment.end else 1))


def main() -> None:
    options = cli.parse(Watch, __doc__ or "")
    config, hrm = checkpoint.load(agents.find(options.checkpoint))
    seed, segments = SEED_LIMIT + options.seed, options.segments
    where = env_of(config)
    if isinstance(where, GymSpec) and options.html is options.gif is options.mp4 is None:
        scenes = watch_gym.scenes(hrm, where, options.episodes or 3, seed, segments)
        return watch_gym.show(scenes, options.delay)
    spec = maze_of(config)
    if options.html is not None:
        among, most = options.among, options.episodes or 12
        record = functools.partial(viewer.record, hrm, config, most, among, seed, segments)
        shown = viewer.write(options.html, record)
        print(f"{options.html}: {shown} of {among} episodes, failures first, then the longest")
    episodes = options.episodes or 3
    for path, write in ((options.gif, write_gif), (options.mp4, write_mp4)):
        if path is not None:
            played = moments(hrm, spec, episodes, seed, segments)
            frames = write(path, played, spec, options.tile, options.delay)
            print(f"{path}: {frames} frames, {episodes} episodes")
    if options.html is options.gif is options.mp4 is None:
        show(moments(hrm, spec, episodes, seed, segments), spec, options.delay)


if __name__ == "__main__":
    cli.main(main)
