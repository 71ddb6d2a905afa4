"""One flat weight vector, its two optimisers (AdamATan2, and sign-SGD for the puzzle token), its
learning-rate schedule and its moving average."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hrm_fast import HRM
from kernels.adam_atan2 import adam_atan2
from train import distributed
from train.config import Config


def flatten(hrm: HRM) -> tuple[Tensor, Tensor]:
    """Move all parameters, and the gradients of those that have one, into two vectors [P].

    The puzzle token's D numbers come last. The parameters become views, so whatever writes the
    vector writes the model.
    """
    parameters: list[nn.Parameter] = [p for p in hrm.parameters() if p is not hrm.puzzle]
    parameters.append(hrm.puzzle)
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    flat_grad = torch.zeros_like(flat)
    offset = 0
    for p in parameters:
        part = slice(offset, offset + p.numel())
        p.data = flat[part].view_as(p)
        if p.requires_grad:
            p.grad = flat_grad[part].view_as(p)
        offset += p.numel()
    return flat, flat_grad


class Optimiser:
    """Owns the flat weights of the model and of its target network."""

    def __init__(self, hrm: HRM, target: HRM, config: Config) -> None:
        self.config = config
        self.flat, self.grad = flatten(hrm)
        self.target_flat, _ = flatten(target)
        self.body = slice(0, self.flat.numel() - hrm.puzzle.numel())
        self.puzzle = slice(self.body.stop, self.flat.numel())
        self.m = torch.zeros_like(self.flat[self.body])
        self.v = torch.zeros_like(self.m)
        self.fused = hrm.ops.update
        self.done = torch.zeros(1, dtype=torch.int64, device=self.flat.device)  # updates so far

    def share(self, update: int) -> float:
        """Share of the learning rates at an update: linear warm-up, then a linear fall."""
        dqn, updates = self.config.dqn, self.config.updates
        if update < dqn.warmup_updates:
            return (update + 1) / dqn.warmup_updates
        done = (update - dqn.warmup_updates) / max(1, updates - dqn.warmup_updates)
        return 1 - min(1.0, done) * (1 - dqn.final_learning_rate)

    @torch.no_grad()
    def step(self, update: int) -> None:
        """Update number `update` (from 0): weights, then target average; gradients back to 0.

        In a job the gradients' mean over the ranks counts: one all-reduce of the whole vector.
        DistributedDataParallel would copy it into buckets and back, to overlap a transfer that is
        over in microseconds; and it orders them anew after its first update, so that three ranks
        or more would not go on bit for bit from a saved state.
        """
        distributed.average(self.grad)
        if self.fused is not None:
            return self._step_fused(self.fused)
        dqn, share = self.config.dqn, self.share(update)
        adam_atan2(
            self.flat[self.body],
            self.grad[self.body],
            self.m,
            self.v,
            t=update + 1,
            lr=dqn.learning_rate * share,
            beta1=dqn.beta1,
            beta2=dqn.beta2,
            weight_decay=dqn.weight_decay,
            average=self.target_flat[self.body],
            average_decay=dqn.target_decay,
        )
        lr = dqn.puzzle_learning_rate * share
        puzzle = self.flat[self.puzzle]
        puzzle.mul_(1 - lr * dqn.puzzle_weight_decay)
        puzzle.sub_(self.grad[self.puzzle].sign(), alpha=lr)
        self.target_flat[self.puzzle].lerp_(puzzle, 1 - dqn.target_decay)
        self.grad.zero_()
        self.done.fill_(update + 1)

    def _step_fused(self, fused: Callable[..., None]) -> None:
        """The same on the device alone, by its own counter."""
        dqn = self.config.dqn
        fused(
            self.flat,
            self.grad,
            self.m,
            self.v,
            self.target_flat,
            self.done,
            warmup=dqn.warmup_updates,
            updates=self.config.updates,
            final=dqn.final_learning_rate,
            lr=dqn.learning_rate,
            beta1=dqn.beta1,
            beta2=dqn.beta2,
            weight_decay=dqn.weight_decay,
            tail_lr=dqn.puzzle_learning_rate,
            tail_weight_decay=dqn.puzzle_weight_decay,
            average_decay=dqn.target_decay,
        )

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return bool((self.flat.isfinite().all() & self.target_flat.isfinite().all()).item())

    def state(self) -> dict[str, Tensor]:
        weights = {"flat": self.flat, "target": self.target_flat}
        return weights | {"m": self.m, "v": self.v, "done": self.done}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. ValueError: it belongs to another architecture."""
        for name, mine in self.state().items():
            if state[name].shape != mine.shape:
                raise ValueError(
                    f"optimiser.{name} is {list(state[name].shape)}: expected {list(mine.shape)}"
                )
            mine.copy_(state[name])
