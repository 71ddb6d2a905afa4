"""What the Q values are pulled towards, and what falls while training goes on."""

import torch
from torch import Tensor

from hrm_fast import HRM
from train.config import DQNConfig
from train.replay import Transition, select


@torch.no_grad()
def td_target(target: HRM, batch: Transition) -> Tensor:
    """y = r_t + discount_t * max_a Q_target(s_t), float32 [B]; computed once per batch."""
    q_t, _ = target.act(batch.s_t, batch.seed_t)
    return batch.r_t + batch.discount_t * q_t.amax(-1)


@torch.no_grad()
def refresh(target: HRM, batch: Transition, decisions: int) -> Transition:
    """The batch with both seeds as the target network finds them today, if it holds its walk.

    From the seed stored so many `decisions` before s_tm1, or where the episode began, it repeats
    every decision up to s_t. Source: the burn-in of R2D2, Kapturowski et al. 2019.
    """
    if batch.walk is None:
        return batch
    boards, counts, seed = batch.walk
    seeds = [seed]
    for board, is_made in zip(boards, counts, strict=True):
        seeds.append(select(is_made, target.act(board, seeds[-1])[1], seeds[-1]))
    return batch._replace(seed_tm1=seeds[decisions], seed_t=seeds[-1])


def exploration_done(config: DQNConfig, update: Tensor) -> Tensor:
    """Share of `epsilon_updates` that is done at the counter `update`, int64 [1] -> float32 [1]."""
    if config.epsilon_updates == 0:
        return torch.ones(1, dtype=torch.float32, device=update.device)
    return (update.float() / config.epsilon_updates).clamp(max=1.0)


def epsilon_at(config: DQNConfig, update: Tensor) -> Tensor:
    """Linear from epsilon_start to epsilon_end over epsilon_updates updates, float32 [1]."""
    done = exploration_done(config, update)
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)


def relabel_at(config: DQNConfig, update: Tensor) -> Tensor:
    """Linear from `relabel` to 0 over epsilon_updates updates, float32 [1]."""
    return config.relabel * (1 - exploration_done(config, update))
