"""Walks all mazes one step with the model's epsilon-greedy decisions."""

import torch
from torch import Tensor

from envs import GymSpec, MazeSpec, make_batch
from hrm_fast import HRM, Carry
from train.config import DQNConfig
from train.machine import ranks
from train.replay import Transition, select


class Collector:
    """The mazes, what they show now, and the z that the next decision starts from."""

    def __init__(
        self, spec: MazeSpec | GymSpec, config: DQNConfig, hrm: HRM, random_seed: int
    ) -> None:
        device = hrm.puzzle.device
        self.config = config
        first = ranks.rank() * config.num_mazes
        self.mazes = make_batch(spec, config.num_mazes, random_seed, device, first)
        self.obs = self.mazes.reset()  # uint8 [N, cells]
        self.z = Carry(*(z.clone() for z in hrm.stored_start(config.num_mazes)))
        self.lengths = torch.zeros(config.num_mazes, dtype=torch.int64, device=device)
        self.returns = torch.zeros(config.num_mazes, dtype=torch.float32, device=device)
        # episodes, successes, sum of lengths, sum of returns since the last `finished`
        self._finished = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def step(self, hrm: HRM, epsilon: float | Tensor, generator: torch.Generator) -> Transition:
        """Step every maze once. The model decides on exploratory steps too, so that z advances.

        Keeps obs, z and counts in the same memory, so that a CUDA graph can repeat the step.
        """
        q, z_t = hrm.act(self.obs, self.z)
        uniform = torch.rand(len(q), generator=generator, dtype=torch.float32, device=q.device)
        action = hrm.ops.epsilon_greedy(q, epsilon, uniform)
        step = self.mazes.step(action)
        ends = step.terminated | step.truncated
        most = self.config.max_abs_reward
        final = ends if self.config.timeout_is_terminal else step.terminated
        transition = Transition(
            s_tm1=self.obs.clone(),
            a_tm1=action,
            r_t=step.reward.clamp(-most, most),
            discount_t=torch.full_like(step.reward, self.config.gamma).masked_fill(final, 0.0),
            ends_t=ends,
            s_t=step.final_obs,
            z_tm1=Carry(*(z.clone() for z in self.z)),
            z_t=z_t,
        )
        self.obs.copy_(step.obs)
        for z, new in zip(self.z, select(ends, hrm.stored_start(len(ends)), z_t), strict=True):
            z.copy_(new)
        self._count(step.reward, step.solved, ends)
        return transition

    def _count(self, reward: Tensor, solved: Tensor, ends: Tensor) -> None:
        self.lengths += 1
        self.returns += reward
        self._finished += torch.stack(
            (ends.sum(), solved.sum(), (self.lengths * ends).sum(), (self.returns * ends).sum())
        )
        self.lengths *= ~ends
        self.returns *= ~ends

    def finished(self) -> tuple[float, float, float, float]:
        """Episodes of all ranks since the last call, success rate, mean length, mean return."""
        episodes, *sums = ranks.all_reduce_sum(self._finished).tolist()
        self._finished.zero_()
        success, length, total = (x / max(episodes, 1) for x in sums)
        return episodes, success, length, total

    def state(self) -> dict[str, Tensor]:
        """Mazes, observations, stored z and running episodes, for a checkpoint."""
        return {f"mazes.{k}": x for k, x in self.mazes.get_state().items()} | self._own()

    def _own(self) -> dict[str, Tensor]:
        # "seed" is the name of z in saved states, so that earlier ones load
        own = {"obs": self.obs, "seed_H": self.z.z_H, "seed_L": self.z.z_L}
        counts = {"lengths": self.lengths, "returns": self.returns, "finished": self._finished}
        return own | counts

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. ValueError: it comes from other mazes."""
        mazes = {k.removeprefix("mazes."): x for k, x in state.items() if k.startswith("mazes.")}
        self.mazes.set_state(mazes)
        for name, mine in self._own().items():
            mine.copy_(state[name])

    def begin_anew(self, hrm: HRM) -> None:
        """New episodes everywhere: those that ran are lost."""
        self.obs.copy_(self.mazes.reset())
        for z, start in zip(self.z, hrm.stored_start(len(self.obs)), strict=True):
            z.copy_(start)
        self.lengths.zero_()
        self.returns.zero_()
