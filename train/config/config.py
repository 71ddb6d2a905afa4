"""What a run is made of: one frozen dataclass, and how its parts fit together."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from envs import GymSpec, MazeSpec
from hrm_fast import HRMConfig
from hrm_fast.config import make_plain
from train.config.dqn import DQNConfig, require

PresetName = Literal["quick", "four-rooms", "maze", "paper-maze", "paper-four-rooms"]
SEED_LIMIT = 2**31  # training's maze seeds lie below it, evaluation's above


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    preset: PresetName
    """Start from these settings; every other flag changes one of them."""
    updates: int = 200_000
    """Stop after so many optimiser updates."""
    seed: int = 0
    """Seed weights, mazes, exploration and sampling."""
    device: str = "auto"
    """Run the model there: auto (a GPU where there is one), cpu, cuda, cuda:1 ..."""
    run_dir: str | None = None
    """Write the run to this folder, or to a URL that fsspec knows, such as s3://bucket/runs/a
    (None: runs/PRESET-SEED, or the next free name)."""
    resume: str | None = None
    """Continue the run in this folder or URL with its own settings; other flags change them."""
    log_every: int = 1_000
    """Write a line of the log every so many updates."""
    eval_every: int = 2_000
    """Evaluate greedily, on mazes that training never sees, every so many updates."""
    eval_episodes: int = 256
    """Walk so many episodes in each evaluation."""
    save_every: int = 20_000
    """Save all that --resume needs every so many updates."""
    cuda_graph: bool = True
    """On a GPU, run every cycle as one CUDA graph; turn it off for debugging."""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits every time, as a CPU always does."""
    wandb: bool = False
    """Log to Weights & Biases as well (pip install wandb)."""
    env: Annotated[MazeSpec | GymSpec, tyro.conf.AvoidSubcommands] = field(default_factory=MazeSpec)
    hrm: HRMConfig = field(default_factory=HRMConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("updates", "log_every", "eval_every", "eval_episodes", "save_every"):
            value, most = getattr(self, name), 2**20 if name == "eval_episodes" else 10**12
            good = type(value) is int and 1 <= value <= most
            require(name.replace("_", "-"), value, good, f"an integer of 1 to {most}")
        good = type(self.seed) is int and 0 <= self.seed < SEED_LIMIT
        require("seed", self.seed, good, f"an integer of 0 to {SEED_LIMIT - 1}")


def fit_model_to_board(config: Config) -> Config:
    """The model's tokens and actions follow from the environment; they are not set by hand."""
    env, hrm, vocab, dqn = config.env, config.hrm, config.hrm.vocab, config.dqn
    if hrm.q_token == "goal":
        _check_goals(config)
    else:
        dqn = replace(dqn, hindsight=0)
    if isinstance(env, GymSpec):
        highest, vocab = env.vocab - 1, vocab or env.vocab
        require("hrm.vocab", vocab, vocab > highest, f"more than {highest}")
    else:
        highest = ord("|")  # of the codes on a board
        require("hrm.vocab", vocab, hrm.vocab_size > highest, f"more than {highest}")
    walls = env.walls if isinstance(env, MazeSpec) and hrm.walls is not None else None
    fitted = replace(
        hrm, cells=env.cells, columns=env.cols, walls=walls, actions=env.actions, vocab=vocab
    )
    return replace(config, hrm=fitted, dqn=dqn)


def _check_goals(config: Config) -> None:
    """ValueError: what does not go with the values of all goals."""
    env, dqn = config.env, config.dqn
    is_shown = isinstance(env, MazeSpec) and env.view_radius is None
    why = "agent, last or mean where the whole board, with its goal, is not seen"
    require("hrm.q-token", config.hrm.q_token, is_shown, why)
    why = "with hrm.q-token 'goal'"
    require("dqn.n-step", dqn.n_step, dqn.n_step == 1, f"1 {why}")
    terminal = dqn.timeout_is_terminal
    require("dqn.timeout-is-terminal", terminal, not terminal, f"False {why}")


def maze_of(config: Config) -> MazeSpec:
    """The run's maze. ValueError: it has none."""
    if isinstance(config.env, GymSpec):
        raise ValueError(f"env is gym:{config.env.id}: expected a maze, whose board can be read")
    return config.env
