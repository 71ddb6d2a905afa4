"""What the Q values are pulled towards, and how fast exploration falls."""

import torch
from torch import Tensor

from hrm_fast import HRM
from train.config import DQNConfig
from train.replay import Transition


@torch.no_grad()
def td_target(target: HRM, batch: Transition) -> Tensor:
    """y = r_t + discount_t * max_a Q_target(s_t), float32 [B]; computed once per batch."""
    q_t, _ = target.act(batch.s_t, batch.seed_t)
    return batch.r_t + batch.discount_t * q_t.max(-1).values


def epsilon_at(config: DQNConfig, update: int) -> float:
    """Linear from epsilon_start to epsilon_end over epsilon_updates updates."""
    done = min(1.0, update / config.epsilon_updates) if config.epsilon_updates else 1.0
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)
