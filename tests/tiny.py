"""Runs that take moments, for tests of what a trainer does; and a file that would do harm."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs import MazeSpec
from hrm_fast import HRMConfig
from train.config import Config, DQNConfig, fit_model_to_board

TINY = fit_model_to_board(
    Config(
        preset="quick",
        updates=40,
        env=MazeSpec(map="room", size=3, max_steps=6),
        hrm=HRMConfig(width=8, inner=8, h_layers=1, l_layers=1, h_cycles=1, segments=2),
        dqn=DQNConfig(
            num_mazes=4, batch_size=8, replay_size=200, learning_starts=80, n_step=2,
            warmup_updates=0, learning_rate=0.01, epsilon_updates=100,
        ),
    )
)  # fmt: skip
ALL_GOALS: dict[str, Any] = {  # all that goes with the values of all goals
    "n_step": 1,
    "hindsight": 5,
    "muon_learning_rate": 0.02,
    "max_grad_norm": 0.1,
}


def all_goals(config: Config, **hrm: Any) -> Config:
    """The same run, but that every floor cell is trained as the goal."""
    return replace(
        config,
        hrm=replace(config.hrm, q_token="goal", **hrm),
        dqn=replace(config.dqn, **ALL_GOALS),
    )


class Attack:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)
