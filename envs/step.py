"""What a step of a batch of mazes leads to."""

from typing import NamedTuple

import torch


class Step(NamedTuple):
    """What one action led to, for N mazes."""

    obs: torch.Tensor
    """uint8 [N, cells]: the board to act on next; a new maze where the episode ended."""
    reward: torch.Tensor
    """float32 [N]: 1 for entering the goal, -0.01 for a bump, else 0."""
    terminated: torch.Tensor
    """bool [N]: the goal was entered."""
    truncated: torch.Tensor
    """bool [N]: the time limit was reached and the goal was not."""
    final_obs: torch.Tensor
    """uint8 [N, cells]: the board the action led to; equal to `obs` where the episode goes on."""

    @property
    def solved(self) -> torch.Tensor:
        """bool [N]: the episode ended, not by the time limit, and that earned a reward above 0."""
        return self.terminated & (self.reward > 0)
