"""Goal relabelling, against a plain walk along recorded episodes of real mazes."""

from dataclasses import replace

import pytest
import torch

from envs import MazeSpec
from hrm_fast import HRMConfig
from train.config import Config, DQNConfig, fit_model_to_board
from train.dqn import Trainer
from train.hindsight import REACH, agent_cell
from train.replay import Transition

AGENT, GOAL, START = (ord(glyph) for glyph in "@><")
GAMMA = 0.9

CONFIG = fit_model_to_board(
    Config(
        preset="quick",
        env=MazeSpec(map="room", size=4, max_steps=12),
        hrm=HRMConfig(width=8, inner=8, h_layers=1, l_layers=1, segments=1),
        dqn=DQNConfig(
            num_mazes=3, batch_size=8, replay_size=120, learning_starts=3, gamma=GAMMA, n_step=3
        ),
    )
)


def recorded(n_step: int) -> tuple[Trainer, list[Transition]]:
    dqn = replace(CONFIG.dqn, n_step=n_step)
    trainer = Trainer(replace(CONFIG, dqn=dqn), torch.device("cpu"))
    steps = []
    for _ in range(60):  # 40 rows: gone round once and a half
        steps.append(trainer.collector.step(trainer.hrm, 1.0, trainer.generator))
        trainer.replay.add(steps[-1])
    return trainer, steps[-40:]


def find(steps: list[Transition], batch: Transition, b: int) -> list[tuple[int, int]]:
    """Recorded (time, maze) that fit row b but for the goal."""
    board = batch.s_tm1[b].clone()
    board[board == GOAL] = ord(".")
    places = []
    for t, step in enumerate(steps):
        for i in range(3):
            other = step.s_tm1[i].clone()
            other[other == GOAL] = ord(".")
            if torch.equal(board, other) and step.a_tm1[i] == batch.a_tm1[b]:
                places.append((t, i))
    return places


def explains(
    steps: list[Transition], t: int, i: int, goal: int, batch: Transition, b: int, n: int
) -> bool:
    """Whether the episode from (t, i) visits `goal` in reach, and its n-step return is row b's."""
    visits = []
    for k in range(t, min(t + REACH, len(steps))):
        visits.append(int(agent_cell(steps[k].s_t[i])))
        if steps[k].ends_t[i]:
            break
    if goal not in visits:
        return False
    total, discount = 0.0, 1.0
    for cell, step in zip(visits[:n], steps[t : t + n], strict=False):
        bump = min(step.r_t[i].item(), 0.0)
        total += discount * (1.0 if cell == goal else bump)
        discount *= 0.0 if cell == goal else GAMMA
        if cell == goal:
            break
    same_return = batch.r_t[b].item() == pytest.approx(total, abs=1e-6)
    return same_return and batch.discount_t[b].item() == pytest.approx(discount, abs=1e-6)


@pytest.mark.parametrize("n_step", [1, 3])
def test_relabelled_rows_are_what_the_walk_would_have_earned(n_step: int) -> None:
    trainer, steps = recorded(n_step)
    batch = trainer.replay.sample(300, torch.Generator().manual_seed(0), relabel=1.0)
    start = trainer.hrm.start_seed(1)
    relabelled, hits = 0, 0
    for b in range(300):
        board = batch.s_tm1[b]
        assert (board == GOAL).sum() == 1
        assert (board == AGENT).sum() == (batch.s_t[b] == AGENT).sum() == 1
        goal = int((board == GOAL).nonzero())
        places = find(steps, batch, b)
        assert places
        kept = any(torch.equal(steps[t].s_tm1[i], board) for t, i in places)
        if not kept:
            relabelled += 1
            assert any(explains(steps, t, i, goal, batch, b, n_step) for t, i in places)
            assert torch.equal(batch.seed_tm1.z_H[b], start.z_H[0])
            assert torch.equal(batch.seed_t.z_L[b], start.z_L[0])
            hits += int(batch.discount_t[b] == 0)
            expected = AGENT if batch.discount_t[b] == 0 else GOAL
            assert batch.s_t[b, goal] == expected
    assert relabelled > 150
    assert hits > 30


def test_share() -> None:
    trainer, steps = recorded(3)
    boards = {tuple(step.s_tm1[i].tolist()) for step in steps for i in range(3)}

    def changed(relabel: float) -> float:
        batch = trainer.replay.sample(2_000, torch.Generator().manual_seed(0), relabel)
        return sum(tuple(row.tolist()) not in boards for row in batch.s_tm1) / 2_000

    assert changed(0.0) == 0
    assert changed(0.5) == pytest.approx(changed(1.0) / 2, abs=0.03)
