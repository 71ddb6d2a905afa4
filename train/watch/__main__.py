"""Watch a trained agent walk, greedily: in the terminal, on a page or in an animated GIF.

    python -m train.watch quick [--html agent.html] [--gif agent.gif]

Beside the board stand the Q values of the decision: the length of a bar is the value from 0 to 1,
and the chosen action is marked.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from envs import GymSpec
from train import cli
from train.config import SEED_LIMIT, maze_of, require
from train.evaluate import env_of, of_size
from train.files import agents, checkpoint
from train.files.writing import check_outputs
from train.watch import gym, page
from train.watch.film import write_gif
from train.watch.terminal import draws_colour, moments, show, text_of


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
    env: str | None = None
    """Walk in gym:ID or gym:MODULE:ID instead of where the agent was trained."""
    env_size: Annotated[int | None, tyro.conf.arg(name="env.size")] = None
    """Walk mazes of this size: corridors odd, 5 to 31, rooms 2 to 32 (None: as trained)."""
    delay: float = 0.3
    """Seconds between two steps."""
    html: Path | None = None
    """Write a page there, which needs nothing else, instead of playing in the terminal."""
    among: int = 256
    """Episodes played for the page; it shows failures first, then the longest."""
    gif: Path | None = None
    """Write an animated GIF there instead."""
    tile: int = 24
    """Pixels along a cell of the GIF."""

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


def main() -> None:
    options = cli.parse(Watch, __doc__ or "")
    path = agents.find(options.checkpoint)
    config, hrm = of_size(*checkpoint.load(path), options.env_size)
    check_outputs(path, html=options.html, gif=options.gif)
    seed, segments = SEED_LIMIT + options.seed, options.segments
    where = env_of(config, options.env)
    if isinstance(where, GymSpec) and options.html is options.gif is None:
        scenes = gym.scenes(hrm, where, options.episodes or 3, seed, segments)
        return show(scenes, options.delay)
    spec = maze_of(replace(config, env=where))
    if options.html is not None:
        among, most = options.among, options.episodes or 12
        record = functools.partial(page.record, hrm, config, most, among, seed, segments)
        shown = page.write(options.html, record)
        print(f"{options.html}: {shown} of {among} episodes, failures first, then the longest")
    episodes = options.episodes or 3
    if options.gif is not None:
        played = moments(hrm, spec, episodes, seed, segments)
        frames = write_gif(options.gif, played, spec, options.tile, options.delay)
        print(f"{options.gif}: {frames} frames, {episodes} episodes")
    if options.html is options.gif is None:
        played, colour = moments(hrm, spec, episodes, seed, segments), draws_colour()
        show(((text_of(m, spec, colour), bool(m.end)) for m in played), options.delay)


if __name__ == "__main__":
    cli.main(main)
