"""The path of one batch: mazes -> replay -> targets -> segments -> loss -> optimiser."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import HRM
from hrm_fast.halting import best_action, segment_with_halting
from train.collect import Collector
from train.config import Config
from train.machine import ranks
from train.machine.graphs import Graphs
from train.machine.phases import PhaseClock
from train.optimiser import Optimiser
from train.replay import Replay, Transition
from train.targets import epsilon_at, target_of


class Learned(NamedTuple):
    """What a cycle returns: numbers for the log, and its batch, kept if the loss is not finite."""

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
        own_seed = ranks.seed_of(ranks.rank(), config.seed)
        self.generator = torch.Generator(device).manual_seed(own_seed)
        self.collector = Collector(config.env, config.dqn, self.hrm, config.seed)
        self.replay = Replay(config.dqn, self.collector.obs, self.collector.z)
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
        config = self.config
        is_asked_for = config.cuda_graph and not config.deterministic
        is_on_device = self.collector.mazes.is_resident and self.optimiser.fused is not None
        return is_asked_for and is_on_device and not config.hrm.halting and ranks.world() == 1

    def _learn(self, updates: int) -> Learned:
        """The cycle itself. With a fused optimiser, which counts on the device, nothing waits."""
        dqn, phase = self.config.dqn, self.phase
        with phase("collect"):
            self.collect()
        with phase("sample"):
            batch = self.replay.sample(dqn.batch_size, self.generator)
        with phase("target"):
            y, weight = target_of(self.target, batch, dqn.gamma)
        tokens, z, a_tm1 = batch.s_tm1, batch.z_tm1, batch.a_tm1
        best = best_action(self.target, tokens, z) if self.hrm.config.halting else None
        carry = self.hrm.carry_from(z)
        for s in range(updates):
            with phase("segment"):  # forward and backward: the fused engine goes both ways at once
                if best is None:
                    last = s + 1 == self.config.hrm.segments
                    carry, q, loss = self.hrm.td_segment(carry, tokens, a_tm1, y, weight, last=last)
                else:
                    carry, q, loss = segment_with_halting(
                        self.hrm, carry, tokens, a_tm1, y, best, s
                    )
                loss.backward()
            with phase("optimiser"):
                self.optimiser.step()
        return Learned(loss.detach(), q.detach().mean(), batch, y)

    def collect(self) -> None:
        epsilon = epsilon_at(self.config.dqn, self.optimiser.done)
        self.replay.add(self.collector.step(self.hrm, epsilon, self.generator))

    @property
    def eval_model(self) -> HRM:
        """The weights that are evaluated and saved."""
        return self.target if self.config.dqn.averaged else self.hrm
