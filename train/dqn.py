"""Train an HRM to walk mazes, by deep Q-learning.

python -m train.dqn --preset quick

torchrun --nproc-per-node 2 -m train.dqn --preset quick
"""

import os
import shlex
import signal
import sys

import torch

from envs import GymSpec, MazeSpec
from train import cli
from train.analyse import curve
from train.config import require
from train.files.names import CURVE
from train.machine import ranks
from train.machine.device import use_deterministic_algorithms
from train.run import flags
from train.run.folder import choose_folder, name_folder
from train.run.log import check_wandb
from train.run.run import Run
from train.trainer import Trainer


def program() -> int:
    config = flags.parse(description=__doc__ or "")
    device = ranks.join(config.device)
    episodes, world = config.eval_episodes, ranks.world()
    require("eval-episodes", episodes, episodes >= world, f"{world} or more, one a process")
    config = ranks.broadcast(config if ranks.rank() else choose_folder(config))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for streams and graphs that name no device
    if config.deterministic:
        use_deterministic_algorithms(device)
    if config.wandb and ranks.rank() == 0:
        check_wandb()
    trainer = Trainer(config, device)
    config = ranks.broadcast(config if ranks.rank() else name_folder(config))
    run = Run(config, trainer)
    with cli.handling(run.handlers()):
        with run:
            greet(run, device)
            run.train()
            if run.is_writer and trainer.update == config.updates:
                curve.draw({config.preset: [run.folder]}, run.folder / CURVE)
        status = report(run) if run.is_writer else 0
        ranks.leave()
    return status


def greet(run: Run, device: torch.device) -> None:
    """The run's first words."""
    config, world = run.config, ranks.world()
    size = sum(p.numel() for p in run.trainer.hrm.parameters())
    on = f"{device}" if world == 1 else f"{world} processes, {device} the first"
    run.log.say(f"{config.preset}: {size:,} parameters on {on}, run folder {config.run_dir}")
    if isinstance(config.env, GymSpec):
        run.log.say(config.env.summary)
    if config.resume and isinstance(config.env, GymSpec):
        run.log.say("new episodes begin: the environment has no way to save those that ran")


def report(run: Run) -> int:
    """The run's last words; returns its exit status."""
    config, trainer, alone = run.config, run.trainer, ranks.world() == 1
    folder = shlex.quote(config.run_dir or "")
    env = cli.flag(sys.argv[1:], "--env") or ""
    in_env = f" --env {env}" if env.count(":") == 2 else ""  # its module is not in the run's files
    if trainer.phase.seconds:
        cli.say(f"time went to  {trainer.phase.report()}")
    if trainer.update < config.updates:
        world = str(ranks.world())
        on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == world
        job = (
            f"torchrun --nproc-per-node {world}"
            if on_one_machine
            else f"{world} processes of python"
        )
        start = "python" if alone else job
        cli.say(
            f"stopped at update {trainer.update} of {config.updates}; saved. Continue with: "
            f"{start} -m train.dqn --resume {folder}{in_env}"
        )
        return 130 if run.stopped_by == signal.SIGINT and alone else 0
    cli.say(f"learning curve in {config.run_dir}/{CURVE}; judge the agent with:")
    cli.say(f"  python -m train.evaluate {folder}{in_env}")
    if isinstance(config.env, MazeSpec) or "ansi" in config.env.render_modes:
        cli.say(f"  python -m train.watch {folder}{in_env}")
    return 0


if __name__ == "__main__":
    cli.main(program)
