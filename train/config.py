"""What a run is made of: one frozen dataclass, its presets, its command line and its JSON."""

import dataclasses
import json
import os
import sys
import types
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from envs import GymSpec, MazeSpec
from hrm_fast import HRMConfig
from hrm_fast.config import DType, make_plain
from train import cli, remote
from train.dqn_config import DQNConfig, require

PresetName = Literal["quick", "four-rooms", "maze", "paper-maze", "paper-four-rooms"]
SEED_LIMIT = 2**31  # training's maze seeds lie below it, evaluation's above


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    preset: PresetName
    """Named starting point; every other flag changes one of its values."""
    updates: int = 200_000
    """Optimiser updates in all."""
    seed: int = 0
    """Seed of weights, mazes, exploration and sampling."""
    device: str = "auto"
    """Where the model runs: auto (cuda where there is one), cpu, cuda, cuda:1 ..."""
    run_dir: str | None = None
    """Folder of the run, or a URL that fsspec knows, such as s3://bucket/runs/a (None:
    runs/PRESET-SEED, with a number behind it if that is taken)."""
    resume: str | None = None
    """Folder or URL of a run to continue; its config is taken, flags beside this one change it."""
    log_every: int = 1_000
    """Updates between two lines of the log."""
    eval_every: int = 2_000
    """Updates between two greedy evaluations on mazes that training never sees."""
    eval_episodes: int = 256
    """Episodes of one such evaluation."""
    save_every: int = 20_000
    """Updates between two saves of all that --resume needs."""
    cuda_graph: bool = True
    """Repeat a whole cycle as one CUDA graph where the device is a GPU; off for debugging."""
    deterministic: bool = False
    """On a GPU, take only operations that give the same bits every time; a CPU always does."""
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


def in_gym(start: Config, asked: str, resumes: bool) -> Config:
    """A starting point on the environment `gym:ID` instead of a maze, or of the one it has."""
    require("env", asked, not resumes or isinstance(start.env, GymSpec), "none: it began in a maze")
    spec = GymSpec.parse(asked)
    if isinstance(start.env, GymSpec):
        require("env", asked, spec.id == start.env.id, f"gym:{start.env.id}, as the run began")
        return start
    if start.hrm.q_token == "goal":  # nobody says that a goal is drawn, or an '@'
        start = replace(start, **WITHOUT_GOAL)
    hrm = replace(start.hrm, q_token="mean", cells=1, columns=1, walls=None)
    return replace(start, env=spec, hrm=hrm, eval_episodes=64)


def check_env_flags(args: list[str], env: MazeSpec | GymSpec) -> None:
    """ValueError: a flag of a maze beside a Gymnasium environment, or the other way round."""
    own, other = (
        {name.name.replace("_", "-") for name in dataclasses.fields(kind)}
        for kind in ((GymSpec, MazeSpec) if isinstance(env, GymSpec) else (MazeSpec, GymSpec))
    )
    if isinstance(env, GymSpec):
        what = "is of a maze", f"one of gym:{env.id}'s: {', '.join(sorted(own - {'id'}))}"
    else:
        what = "is of another environment than a maze", "--env gym:ID, at the beginning of a run"
    for arg in args:
        name = arg.split("=")[0].replace("_", "-").removeprefix("--env.").removeprefix("no-")
        if arg.startswith("--env.") and name in other - own:
            raise ValueError(f"--env.{name} {what[0]}: expected {what[1]}")


def maze_of(config: Config) -> MazeSpec:
    """The run's maze. ValueError: it has none."""
    if isinstance(config.env, GymSpec):
        raise ValueError(f"env is gym:{config.env.id}: expected a maze, whose board can be read")
    return config.env


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


def parse(args: list[str] | None = None, description: str = "") -> Config:
    """The command line of `python -m train.dqn`: --preset or --resume first, then the changes."""
    args = sys.argv[1:] if args is None else args
    resume = cli.flag(args, "--resume")
    if resume is not None:
        require("resume", resume, resume != "", "a run's folder or URL")
        start = load(remote.here(resume) / "config.json")
    else:
        default = "paper-maze" if torch.cuda.is_available() else "maze"
        start = PRESETS.get(cli.flag(args, "--preset") or default, PRESETS[default])
    asked, args = cli.take(args, "--env")
    if asked is not None:
        start = in_gym(start, asked, resume is not None)
    check_env_flags(args, start.env)
    has_map = cli.flag(args, "--env.map") is not None
    if has_map and isinstance(start.env, MazeSpec):  # the preset's doors belong to its map
        plain = MazeSpec(map="room")
        kept = {n: getattr(start.env, n) for n in ("actions", "p_change", "max_steps", "crop_wall")}
        start = replace(start, env=replace(plain, **kept))
    config = cli.parse(Config, description, start, args)
    if isinstance(start.env, GymSpec) and isinstance(config.env, GymSpec):
        own, new = start.env.id, config.env.id
        require("env.id", new, own == new, f"{own}, as the run began, or --env gym:ID")
    if resume is not None:
        for name in ("preset", "seed", "run_dir"):
            asked, kept = getattr(config, name), getattr(start, name)
            require(name.replace("_", "-"), asked, asked == kept, f"{kept!r}, as the run began")
    fitted = fit_model_to_board(config)
    reach = config.dqn.hindsight
    good = reach == fitted.dqn.hindsight or cli.flag(args, "--dqn.hindsight") is None
    require("dqn.hindsight", reach, good, "0 without hrm.q-token goal")
    for name in ("cells", "columns", "walls", "actions"):
        asked, right = getattr(config.hrm, name), getattr(fitted.hrm, name)
        good = asked in (right, getattr(start.hrm, name), ())
        require(f"hrm.{name}", asked, good, f"{right}, which follows from env")
    return fitted


def choose_device(name: str) -> torch.device:
    """ValueError: there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, dtype=torch.uint8, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r} ({why}): expected auto, cpu or cuda") from None
    require("device", name, device.type in ("cpu", "cuda"), "auto, cpu or cuda")
    return device


def use_deterministic_algorithms(config: Config, device: torch.device) -> None:
    """Make torch refuse operations that a GPU does not repeat bit for bit."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Inverse of `to_json`. ValueError: what is not such a JSON, or a field's value is bad."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}: expected what train.dqn wrote") from None
    except RecursionError:
        raise ValueError("nested too deeply: expected JSON that train.dqn wrote") from None
    return _build(Config, data, "config")


def load(path: Path) -> Config:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a run's config.json") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: expected a run's config.json") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _build(cls: Any, data: Any, where: str) -> Any:
    """A dataclass from a dictionary, strictly: unknown names and wrong types are errors."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {type(data).__name__}: expected an object")
    hints = typing.get_type_hints(cls)
    data = _without_gone(data) if cls is DQNConfig else data
    unknown = sorted(set(data) - set(hints))
    if unknown:
        name = ascii(unknown[0])[1:-1]  # in one line, whatever it holds
        raise ValueError(f"{where}.{name} is unknown: expected one of {', '.join(hints)}")
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory}
    if not required <= set(data):
        raise ValueError(f"{where}.{min(required - set(data))} is missing: expected its value")
    values = {}
    for name, value in data.items():
        hint = hints[name]
        if hint == MazeSpec | GymSpec:
            hint = GymSpec if isinstance(value, dict) and "id" in value else MazeSpec
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{where}.{name}")
            continue
        values[name] = tuple(value) if isinstance(value, list) else value
        require(f"{where}.{name}", value, _fits(values[name], hint), str(hint))
    return cls(**values)


# Fields of older runs -> the value at which they did nothing; None: they only served another.
GONE = {
    "priority": 0,
    "priority_correction": None,
    "relabel": 0,
    "relabel_reach": None,
    "refresh": 0,
}


def _without_gone(dqn: dict[str, Any]) -> dict[str, Any]:
    """ValueError: a field that is gone did something in that run."""
    for name, at_rest in GONE.items():
        value = dqn.get(name, at_rest)
        good = at_rest is None or value == at_rest
        require(
            f"config.dqn.{name}", value, good, f"{at_rest}: commit ee548fa is the last that has it"
        )
    return {name: value for name, value in dqn.items() if name not in GONE}


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
