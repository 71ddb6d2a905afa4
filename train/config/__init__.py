"""What decides a run: settings with their limits, presets, and the same as JSON."""

from train.config.as_json import from_json, load, to_json
from train.config.config import SEED_LIMIT, Config, PresetName, fit_model_to_board, maze_of
from train.config.dqn import DQNConfig, require
from train.config.presets import PRESETS, WITHOUT_GOAL

__all__ = [
    "PRESETS",
    "SEED_LIMIT",
    "WITHOUT_GOAL",
    "Config",
    "DQNConfig",
    "PresetName",
    "fit_model_to_board",
    "from_json",
    "load",
    "maze_of",
    "require",
    "to_json",
]
