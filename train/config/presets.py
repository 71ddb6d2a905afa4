"""Named starting points: the published settings, and those that learn soonest on a CPU."""

from dataclasses import replace
from typing import Any

import torch

from envs import MazeSpec
from hrm_fast import HRMConfig
from hrm_fast.config import DType
from train.config.config import Config, fit_model_to_board
from train.config.dqn import DQNConfig

# The four rooms that quick walks: 7 x 7 cells, rooms of 3 x 3.
SMALL_FOUR_ROOMS = (
    "...|...",
    "...d...",
    "...|...",
    "-d---d-",
    "...|...",
    "...d...",
    "...|...",
)

# The published arithmetic is bfloat16; a CPU without units for it takes six times as long.
PAPER_DTYPE: DType = "bfloat16" if torch.cuda.is_available() else "float32"

# What learns soonest on a CPU: docs/learning.md has the study behind every value.
SMALL_HRM = HRMConfig(
    columns=13,
    walls=(),
    width=48,
    heads=4,
    inner=96,
    h_layers=2,
    l_layers=2,
    h_cycles=1,
    l_cycles=1,
    segments=1,
    positions="rope2d+learned",
    position_start="sincos",
    rope_base=100.0,
    q_token="goal",
    carry="reset",
    zero_head=True,
)
GOALS_DQN = DQNConfig(
    num_mazes=32,
    batch_size=64,
    replay_size=100_000,
    hindsight=30,
    gamma=0.9,
    epsilon_end=0.1,
    epsilon_updates=500,
    target_decay=0.98,
    learning_rate=3e-3,
    warmup_updates=200,
    final_learning_rate=0.1,
    beta2=0.99,
    muon_learning_rate=0.02,
    max_grad_norm=1.0,
    averaged=True,
)
# Where no goal is drawn, there is one TD error a board; environments of others start from this.
WITHOUT_GOAL: dict[str, Any] = {
    "updates": 8_000,
    "log_every": 250,
    "eval_every": 250,
    "save_every": 4_000,
    "hrm": replace(SMALL_HRM, width=32, heads=2, inner=64, h_layers=1, l_layers=1, l_cycles=2),
    "dqn": DQNConfig(
        num_mazes=64,
        batch_size=128,
        replay_size=100_000,
        n_step=3,
        epsilon_end=0.05,
        epsilon_updates=2_000,
        target_decay=0.99,
        learning_rate=1.5e-3,
        warmup_updates=200,
        final_learning_rate=0.1,
        beta2=0.99,
        averaged=True,
    ),
}

_PRESETS = (
    Config(
        preset="paper-maze",
        hrm=HRMConfig(dtype=PAPER_DTYPE),
        dqn=DQNConfig(timeout_is_terminal=True),
    ),
    Config(
        preset="paper-four-rooms",
        env=MazeSpec(map="four-rooms"),
        hrm=HRMConfig(dtype=PAPER_DTYPE),
        dqn=DQNConfig(timeout_is_terminal=True),
    ),
    Config(
        preset="quick",
        updates=1_500,
        log_every=100,
        eval_every=100,
        save_every=1_000,
        env=MazeSpec(map=SMALL_FOUR_ROOMS, closed_doors=1, max_steps=40),
        hrm=replace(SMALL_HRM, h_layers=1, l_layers=1),
        dqn=replace(GOALS_DQN, gamma=0.95, hindsight=20, epsilon_updates=200),
    ),
    Config(
        preset="four-rooms",
        updates=2_000,
        log_every=250,
        eval_every=250,
        save_every=1_000,
        env=MazeSpec(map="four-rooms"),
        hrm=SMALL_HRM,
        dqn=GOALS_DQN,
    ),
    Config(
        preset="maze",
        updates=3_750,
        log_every=250,
        eval_every=250,
        save_every=1_250,
        env=MazeSpec(crop_wall=True),
        hrm=replace(SMALL_HRM, h_layers=3, l_layers=3),
        dqn=replace(GOALS_DQN, weight_decay=0.3),
    ),
)


PRESETS: dict[str, Config] = {config.preset: fit_model_to_board(config) for config in _PRESETS}
