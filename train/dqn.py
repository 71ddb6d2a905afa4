"""Trains HRM-Agent: mazes -> replay -> targets -> segments -> loss -> optimiser -> log.

python -m train.dqn --preset quick
torchrun --nproc-per-node 2 -m train.dqn --preset quick
"""

import copy
import os
import signal
from typing import NamedTuple

import torch
from torch import Tensor

from envs import GymSpec
from hrm_fast import HRM
from train import cli, curve, distributed
from train import config as configs
from train.collect import Collector
from train.config import Config
from train.graph import Graphs
from train.halting import best_action, segment_with_halting
from train.log import PhaseClock, check_wandb
from train.optimiser import Optimiser
from train.replay import Replay, Transition
from train.run import Run, choose_folder, name_folder
from train.targets import epsilon_at, target_of


class Learned(NamedTuple):
    """What a cycle leaves for the log, and to look at if its loss is no number."""

    loss: Tensor  # float32 []; of the last segment
    q: Tensor  # float32 []; mean
    batch: Transition
    y: Tensor  # float32 [B], or [B, cells] of every goal


class Trainer:
    """Everything that changes while training, and the cycle that changes it."""

    def __init__(self, config: Config, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.hrm = HRM(config.hrm).to(device)
        self.target = copy.deepcopy(self.hrm).requires_grad_(False)
        self.optimiser = Optimiser(self.hrm, self.target, config)
        own_seed = distributed.seed_of(distributed.rank(), config.seed)
        self.generator = torch.Generator(device).manual_seed(own_seed)
        self.collector = Collector(config.env, config.dqn, self.hrm, config.seed)
        self.replay = Replay(config.dqn, self.collector.obs, self.collector.seed)
        self.update = 0
        self.transitions = 0
        self.learned: Learned | None = None
        self.phase = PhaseClock()
        self.learn = Graphs(self._learn, self.generator) if self.is_repeatable() else self._learn

    def cycle(self) -> tuple[Tensor, Tensor]:
        """One step of all mazes, one batch, one update per segment. Returns last loss, mean Q."""
        dqn = self.config.dqn
        first = max(dqn.learning_starts, dqn.n_step * dqn.num_mazes)
        while self.transitions + dqn.num_mazes < first:
            self.collect()
            self.transitions += dqn.num_mazes
        updates = min(self.config.hrm.segments, self.config.updates - self.update)
        self.learned = learned = self.learn(updates)
        self.update += updates
        self.transitions += dqn.num_mazes
        return learned.loss, learned.q

    def is_repeatable(self) -> bool:
        """Whether `_learn` can be a CUDA graph: nothing in it waits for the host."""
        config, mazes = self.config, self.collector.mazes
        counts = self.optimiser.fused is not None and not config.hrm.halting
        asked = config.cuda_graph and not config.deterministic and distributed.world() == 1
        return asked and mazes.is_resident and counts

    def _learn(self, updates: int) -> Learned:
        """The cycle itself. Where the fused optimiser counts, nothing here needs the host."""
        dqn, phase = self.config.dqn, self.phase
        with phase("collect"):
            self.collect()
        with phase("sample"):
            batch = self.replay.sample(dqn.batch_size, self.generator)
        with phase("target"):
            y, weight = target_of(self.target, batch, dqn.gamma)
            best = best_action(self.target, batch) if self.hrm.config.halting else None
        carry = self.hrm.carry_from(batch.seed_tm1)
        for s in range(updates):
            with phase("segment"):  # there and back: the fused engine goes both ways at once
                if best is None:
                    last = s + 1 == self.config.hrm.segments
                    carry, q, loss = self.hrm.td_segment(
                        carry, batch.s_tm1, batch.a_tm1, y, weight, last=last
                    )
                else:
                    carry, q, loss = segment_with_halting(self.hrm, carry, batch, y, best, s)
                loss.backward()
            with phase("optimiser"):
                self.optimiser.step()
        return Learned(loss.detach(), q.detach().mean(), batch, y)

    def collect(self) -> None:
        epsilon = epsilon_at(self.config.dqn, self.optimiser.done)
        self.replay.add(self.collector.step(self.hrm, epsilon, self.generator))

    @property
    def judged(self) -> HRM:
        """The weights that are evaluated and saved."""
        return self.target if self.config.dqn.averaged else self.hrm


def program() -> int:
    config = configs.parse(description=__doc__ or "")
    device = distributed.join(config.device)
    ranks, episodes = distributed.world(), config.eval_episodes
    configs.require("eval-episodes", episodes, episodes >= ranks, f"{ranks} or more, one a process")
    config = distributed.first_says(config if distributed.rank() else choose_folder(config))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose streams and graphs are meant where none is named
    if config.deterministic:
        configs.use_deterministic_algorithms(config, device)
    if config.wandb and distributed.rank() == 0:
        check_wandb()
    trainer = Trainer(config, device)
    config = distributed.first_says(config if distributed.rank() else name_folder(config))
    run = Run(config, trainer)
    with cli.handling(run.handlers()):
        with run:
            greet(run, device)
            run.train()
            if run.is_writer and trainer.update == config.updates:
                curve.draw({config.preset: [run.folder]}, run.folder / "learning_curve.png")
        status = tell(run) if run.is_writer else 0
        distributed.leave()
    return status


def greet(run: Run, device: torch.device) -> None:
    """The run's first words."""
    config, ranks = run.config, distributed.world()
    size = sum(p.numel() for p in run.trainer.hrm.parameters())
    on = f"{device}" if ranks == 1 else f"{ranks} processes, {device} the first"
    run.log.say(f"{config.preset}: {size:,} parameters on {on}, run folder {config.run_dir}")
    if isinstance(config.env, GymSpec):
        run.log.say(config.env.summary)
    if config.resume and isinstance(config.env, GymSpec):
        run.log.say("new episodes begin: the environment has no way to save those that ran")


def tell(run: Run) -> int:
    """The run's last words; returns its exit status."""
    config, trainer, alone = run.config, run.trainer, distributed.world() == 1
    if trainer.phase.seconds:
        cli.say(f"time went to  {trainer.phase.report()}")
    if trainer.update < config.updates:
        ranks = str(distributed.world())
        on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == ranks
        job = (
            f"torchrun --nproc-per-node {ranks}"
            if on_one_machine
            else f"{ranks} processes of python"
        )
        start = "python" if alone else job
        cli.say(
            f"stopped at update {trainer.update} of {config.updates}; saved. Continue with: "
            f"{start} -m train.dqn --resume {config.run_dir}"
        )
        return 130 if run.stopped_by == signal.SIGINT and alone else 0
    cli.say(f"learning curve in {config.run_dir}/learning_curve.png; judge the agent with:")
    cli.say(
        f"  python -m train.evaluate {config.run_dir}\n  python -m train.watch {config.run_dir}"
    )
    return 0


if __name__ == "__main__":
    cli.main(program)
