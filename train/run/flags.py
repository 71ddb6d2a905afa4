"""The command line of `python -m train.dqn` -> Config."""

import dataclasses
import sys
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from tyro.conf import Suppress

from envs import GymSpec, MazeSpec
from hrm_fast import HRMConfig
from train import cli
from train.config import (
    PRESETS,
    WITHOUT_GOAL,
    Config,
    DQNConfig,
    fit_model_to_board,
    load,
    require,
)
from train.files import remote
from train.files.names import CONFIG


@dataclass(frozen=True)
class FirstFlags(Config):
    """What --help shows: a run's flags without those that few runs change."""

    log_every: Suppress[int] = 0
    eval_every: Suppress[int] = 0
    eval_episodes: Suppress[int] = 0
    save_every: Suppress[int] = 0
    cuda_graph: Suppress[bool] = True
    deterministic: Suppress[bool] = False
    env: Suppress[MazeSpec | GymSpec] = dataclasses.field(default_factory=MazeSpec)
    hrm: Suppress[HRMConfig] = dataclasses.field(default_factory=HRMConfig)
    dqn: Suppress[DQNConfig] = dataclasses.field(default_factory=DQNConfig)


MORE = """\
Maze, model and method have flags of their own. Often changed:
  --env.map FILE  --env.size  --env.p-change  --env.actions  --env gym:ID
  --hrm.width  --hrm.segments  --hrm.carry  --hrm.kernels
  --dqn.num-mazes  --dqn.batch-size  --dqn.gamma  --dqn.learning-rate
--help-all lists every flag with a sentence."""


def parse(args: list[str] | None = None, description: str = "") -> Config:
    """The command line of `python -m train.dqn`: --preset or --resume first, then the changes."""
    args = sys.argv[1:] if args is None else args
    resume = cli.flag(args, "--resume")
    if resume is not None:
        require("resume", resume, resume != "", "a run's folder or URL")
        start = load(remote.here(resume) / CONFIG)
    else:
        default = "paper-maze" if torch.cuda.is_available() else "maze"
        start = PRESETS.get(cli.flag(args, "--preset") or default, PRESETS[default])
    if {"-h", "--help"} & {*args}:
        show_first_flags(start, description)
    args = ["--help" if word == "--help-all" else word for word in args]
    asked, args = cli.take(args, "--env")
    if asked is not None:
        start = in_gym(start, asked, resume is not None)
    check_env_flags(args, start.env)
    has_map = cli.flag(args, "--env.map") is not None
    if has_map and resume is None and isinstance(start.env, MazeSpec):
        # the preset's doors belong to its map, and its time limit to the map's size
        plain = MazeSpec(map="room")
        limit = () if cli.flag(args, "--env.size") else ("max_steps",)
        kept = {n: getattr(start.env, n) for n in ("actions", "p_change", "crop_wall", *limit)}
        start = replace(start, env=replace(plain, **kept))
    config = cli.parse(Config, description, start, args)
    if isinstance(start.env, GymSpec) and isinstance(config.env, GymSpec):
        own, new = start.env.id, config.env.id
        require("env.id", new, own == new, f"{own}, as the run began, or --env gym:ID")
    if resume is not None:
        check_resumed(start, config)
    fitted = fit_model_to_board(config)
    reach = config.dqn.hindsight
    good = reach == fitted.dqn.hindsight or cli.flag(args, "--dqn.hindsight") is None
    require("dqn.hindsight", reach, good, "0 without hrm.q-token goal")
    for name in ("cells", "columns", "walls", "actions"):
        asked, right = getattr(config.hrm, name), getattr(fitted.hrm, name)
        good = asked in (right, getattr(start.hrm, name), ())
        require(f"hrm.{name}", asked, good, f"{right}, which follows from env")
    return fitted


def check_resumed(start: Config, config: Config) -> None:
    """ValueError: a flag that would not fit what the run has saved."""
    free = ("segments", "h_cycles", "l_cycles", "kernels")
    shape = tuple(f.name for f in dataclasses.fields(HRMConfig) if f.name not in free)
    board = ("map", "size", "crop_wall", "actions") if isinstance(start.env, MazeSpec) else ()
    own = ("preset", "seed", "run_dir")
    for part, names in {"": own, "env": board, "hrm": shape, "dqn": ("num_mazes",)}.items():
        was, now = (getattr(c, part) if part else c for c in (start, config))
        for name in names:
            kept, asked = getattr(was, name), getattr(now, name)
            flag = f"{part}.{name}".strip(".").replace("_", "-")
            require(flag, asked, asked == kept, f"{kept!r}, as the run began")


def show_first_flags(start: Config, description: str) -> NoReturn:
    """Print the help of the flags that people change, and end the program."""
    first = FirstFlags(**{f.name: getattr(start, f.name) for f in dataclasses.fields(Config)})
    try:
        cli.parse(FirstFlags, description, first, ["--help"])
    finally:
        print(MORE)
    raise SystemExit


def in_gym(start: Config, asked: str, resumes: bool) -> Config:
    """A starting point on the environment `gym:ID` instead of a maze, or of the one it has."""
    require("env", asked, not resumes or isinstance(start.env, GymSpec), "none: it began in a maze")
    spec = GymSpec.parse(asked)
    if isinstance(start.env, GymSpec):
        require("env", asked, spec.id == start.env.id, f"gym:{start.env.id}, as the run began")
        return start
    if start.hrm.q_token == "goal":  # a Gymnasium board need not show a goal
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
