"""The targets of the Q values, and the schedule of epsilon."""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.spec import FLOOR, GOAL, START
from hrm_fast import HRM
from train.config import DQNConfig
from train.replay import Transition, agent_cell


class Target(NamedTuple):
    """The targets of a batch; without weight, of Q(s_tm1, a_tm1) for the board's own goal."""

    y: Tensor  # float32 [B]; of every cell as the goal [B, cells]
    weight: Tensor | None = None  # float32 [B, cells]; a cell's share in its board's loss


@torch.no_grad()
def target_of(target: HRM, batch: Transition, gamma: float) -> Target:
    """Computed once per batch, by the target network: one goal's value, or every cell's."""
    if target.config.q_token == "goal":
        return goals_target(target, batch, gamma)
    q_t, _ = target.act(batch.s_t, batch.z_t)
    return Target(batch.r_t + batch.discount_t * q_t.amax(-1))


def goals_target(target: HRM, batch: Transition, gamma: float) -> Target:
    """What the transition is worth under every goal g, had it been the only one:

        y_g = 1 where s_t stands on g, else
              max(0, r + max(gamma max_a Q_target(s_t)[g, a], reached_g))

    with r = -0.01 for a bump and reached_g of `Replay.reached`. The board's own goal ends an
    episode; towards any other goal the walk would have gone on, so those targets bootstrap beyond
    the end. Cells that count: floor at s_tm1, but not the agent's own. Source: as
    kernels/goal_loss.py.
    """
    bump = batch.r_t.clamp(max=0.0)[:, None]
    y = gamma * target.goal_values(batch.s_t, batch.z_t).amax(-1)  # [B, cells]
    if batch.reached is not None:
        y = torch.maximum(y, batch.reached)
    y = (y + bump).clamp(min=0.0).scatter(1, agent_cell(batch.s_t)[:, None], 1.0)
    s_tm1 = batch.s_tm1
    counts = ((s_tm1 == FLOOR) | (s_tm1 == GOAL) | (s_tm1 == START)).float()
    return Target(y, counts / counts.sum(1, keepdim=True))


def epsilon_at(config: DQNConfig, update: Tensor) -> Tensor:
    """Linear from epsilon_start to epsilon_end over epsilon_updates updates, float32 [1]."""
    done = torch.ones(1, dtype=torch.float32, device=update.device)
    if config.epsilon_updates > 0:
        done = (update.float() / config.epsilon_updates).clamp(max=1.0)
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)
