"""A run in a folder, for tests that damage it."""

import shutil
from dataclasses import replace
from pathlib import Path

from test_continuation import small, walk

from train.config import Config


def train(folder: Path) -> Config:
    """A run of 12 updates that saved at 0, 4, 8 and 12."""
    config = replace(small("quick", "carry"), updates=12, save_every=4, eval_every=4)
    config = replace(config, eval_episodes=4, run_dir=str(folder))
    walk(config)
    return config


def copy(config: Config, to: Path) -> Config:
    """The run in another folder, to be resumed there."""
    shutil.copytree(config.run_dir or "", to)
    return replace(config, run_dir=str(to), resume=str(to), updates=16)
