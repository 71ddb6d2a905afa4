"""One flat weight vector, its optimisers, its learning-rate schedule and its moving average.

AdamATan2 trains it, sign-SGD the puzzle token, and Muon the blocks' matrices where asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hrm_fast import HRM
from kernels.adam_atan2 import adam_atan2
from kernels.muon import muon
from train.config import Config, DQNConfig
from train.machine import ranks


def flatten(hrm: HRM, matrices: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Move all parameters, and the gradients of those that have one, into two vectors [P].

    `matrices` come first and the puzzle token's D numbers last. The parameters become views, so
    whatever writes the vector writes the model.
    """
    apart = {id(p) for p in (*matrices, hrm.puzzle)}
    parameters = [*matrices, *(p for p in hrm.parameters() if id(p) not in apart), hrm.puzzle]
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


def matrices_of(hrm: HRM, config: DQNConfig) -> list[nn.Parameter]:
    """What Muon trains: the blocks' matrices, or nothing."""
    return [*hrm.L.parameters(), *hrm.H.parameters()] if config.muon_learning_rate > 0 else []


class Optimiser:
    """Owns the flat weights of the model and of its target network."""

    def __init__(self, hrm: HRM, target: HRM, config: Config) -> None:
        self.config = config
        matrices = matrices_of(hrm, config.dqn)
        self.flat, self.grad = flatten(hrm, matrices)
        self.target_flat, _ = flatten(target, matrices_of(target, config.dqn))
        self.shapes = [p.shape for p in matrices[:4]]  # of one block
        self.muon = slice(0, sum(p.numel() for p in matrices))
        self.adam = slice(self.muon.stop, self.flat.numel() - hrm.puzzle.numel())
        self.puzzle = slice(self.adam.stop, self.flat.numel())
        self.m = torch.zeros_like(self.flat[: self.adam.stop])
        self.v = torch.zeros_like(self.flat[self.adam])
        self.fused = hrm.ops.update
        self.done = torch.zeros(1, dtype=torch.int64, device=self.flat.device)  # updates so far

    def share(self) -> Tensor:
        """Share of the learning rates at the next update, float64 [1], on the device.

        Linear warm-up, then a linear fall.
        """
        dqn, done = self.config.dqn, self.done.double()
        rise = (done + 1) / max(1, dqn.warmup_updates)
        fall = (done - dqn.warmup_updates) / max(1, self.config.updates - dqn.warmup_updates)
        fallen = 1 - fall.clamp(max=1.0) * (1 - dqn.final_learning_rate)
        return torch.where(done < dqn.warmup_updates, rise, fallen)

    @torch.no_grad()
    def step(self) -> None:
        """One update: weights, then target average; gradients back to 0.

        In a job the gradients' mean over the ranks counts: one all-reduce of the whole vector.
        DistributedDataParallel would copy it into buckets and back, to overlap a transfer that is
        over in microseconds; and it orders them anew after its first update, so that three ranks
        or more would not go on bit for bit from a saved state.
        """
        ranks.all_reduce_mean(self.grad)
        if self.config.dqn.max_grad_norm > 0:
            norm = self.grad.norm().clamp(min=self.config.dqn.max_grad_norm)
            self.grad.mul_(self.config.dqn.max_grad_norm / norm)
        if self.muon.stop:
            self._step_muon()
        if self.fused is not None:
            return self._step_fused(self.fused)
        dqn, share = self.config.dqn, self.share().item()
        adam_atan2(
            self.flat[self.adam],
            self.grad[self.adam],
            self.m[self.adam],
            self.v,
            t=int(self.done) + 1,
            lr=dqn.learning_rate * share,
            beta1=dqn.beta1,
            beta2=dqn.beta2,
            weight_decay=dqn.weight_decay,
            average=self.target_flat[self.adam],
            average_decay=dqn.target_decay,
        )
        lr = dqn.puzzle_learning_rate * share
        puzzle = self.flat[self.puzzle]
        puzzle.mul_(1 - lr * dqn.puzzle_weight_decay)
        puzzle.sub_(self.grad[self.puzzle].sign(), alpha=lr)
        self.target_flat[self.puzzle].lerp_(puzzle, 1 - dqn.target_decay)
        self.grad[self.adam.start :].zero_()
        self.done += 1

    def _step_muon(self) -> None:
        """Update the blocks' matrices by Muon, all of one kind at once; does not count `done`."""
        dqn, numbers = self.config.dqn, self.muon
        lr = (dqn.muon_learning_rate * self.share()).float()
        size = sum(shape.numel() for shape in self.shapes)
        blocks = [x[numbers].view(-1, size) for x in (self.flat, self.grad, self.m)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # products so small that a second thread costs more than it does
        offset = 0
        try:
            for shape in self.shapes:
                part = slice(offset, offset + shape.numel())
                w, g, m = (x[:, part].unflatten(1, shape) for x in blocks)
                muon(w, g, m, lr, dqn.muon_momentum, dqn.weight_decay)
                offset = part.stop
        finally:
            torch.set_num_threads(threads)
        self.target_flat[numbers].lerp_(self.flat[numbers], 1 - dqn.target_decay)
        self.grad[numbers].zero_()

    def _step_fused(self, fused: Callable[..., None]) -> None:
        """Update all but Muon's matrices in one fused operation, which counts on the device."""
        dqn, rest = self.config.dqn, slice(self.adam.start, None)
        fused(
            self.flat[rest],
            self.grad[rest],
            self.m[rest],
            self.v,
            self.target_flat[rest],
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
        """Inverse of `state`."""
        for name, mine in self.state().items():
            mine.copy_(state[name])
