"""Goal relabelling, against a plain walk along recorded episodes of real mazes."""

from dataclasses import replace

import pytest
import torch

from envs import MazeSpec
from hrm_fast import HRMConfig
from train.config import Config, DQNConfig, fit_model_to_board
from train.dqn import Trainer
from train.hindsight import Goal, Relabel, agent_cell, draw_goal
from train.replay import Transition

AGENT, GOAL, START, FLOOR = (ord(glyph) for glyph in "@><.")
GAMMA = 0.9
ROWS, MAZES = 40, 3

CONFIG = fit_model_to_board(
    Config(
        preset="quick",
        env=MazeSpec(map="room", size=4, max_steps=12),
        hrm=HRMConfig(width=8, inner=8, h_layers=1, l_layers=1, segments=1),
        dqn=DQNConfig(
            num_mazes=MAZES, batch_size=8, replay_size=ROWS * MAZES, learning_starts=3,
            gamma=GAMMA, priority=0.5, refresh=2,
        ),
    )
)  # fmt: skip


def recorded(n_step: int, reach: int) -> tuple[Trainer, list[Transition]]:
    """A trainer whose replay has gone round once and a half, and the steps in it."""
    dqn = replace(CONFIG.dqn, n_step=n_step, relabel_reach=reach)
    trainer = Trainer(replace(CONFIG, dqn=dqn), torch.device("cpu"))
    steps = []
    for _ in range(60):
        steps.append(trainer.collector.step(trainer.hrm, 1.0, trainer.generator))
        trainer.replay.add(steps[-1])
    return trainer, steps[-ROWS:]


def sample(trainer: Trainer, batch_size: int, share: float) -> Transition:
    relabel = Relabel(share, trainer.hrm.start_seed(batch_size))
    return trainer.replay.sample(batch_size, torch.Generator().manual_seed(0), relabel)


def without_goal(board: torch.Tensor) -> torch.Tensor:
    return board.masked_fill(board == GOAL, FLOOR)


def find(steps: list[Transition], batch: Transition, b: int) -> list[tuple[int, int]]:
    """Recorded (time, maze) that fit row b but for the goal."""
    board = without_goal(batch.s_tm1[b])
    return [
        (t, i)
        for t, step in enumerate(steps)
        for i in range(MAZES)
        if torch.equal(board, without_goal(step.s_tm1[i])) and step.a_tm1[i] == batch.a_tm1[b]
    ]


def explains(
    steps: list[Transition],
    t: int,
    i: int,
    goal: int,
    batch: Transition,
    b: int,
    n: int,
    reach: int,
) -> bool:
    """Whether the episode from (t, i) visits `goal` in reach, and its n-step return is row b's."""
    visits = []
    for k in range(t, min(t + max(reach, n), len(steps))):
        visits.append(int(agent_cell(steps[k].s_t[i])))
        if steps[k].ends_t[i]:
            break
    if goal not in visits[:reach]:
        return False
    total, discount, last = 0.0, 1.0, t
    for k, cell in enumerate(visits[:n], start=t):
        total += discount * (1.0 if cell == goal else min(steps[k].r_t[i].item(), 0.0))
        discount *= 0.0 if cell == goal else GAMMA
        last = k
        if cell == goal:
            break
    return (
        batch.r_t[b].item() == pytest.approx(total, abs=1e-6)
        and batch.discount_t[b].item() == pytest.approx(discount, abs=1e-6)
        and torch.equal(without_goal(batch.s_t[b]), without_goal(steps[last].s_t[i]))
    )


@pytest.mark.parametrize(("n_step", "reach"), [(1, 100), (3, 100), (3, 2)])
def test_relabelled_rows_are_what_the_walk_would_have_earned(n_step: int, reach: int) -> None:
    trainer, steps = recorded(n_step, reach)
    batch = sample(trainer, 300, 1.0)
    start = trainer.hrm.start_seed(1)
    relabelled, hits = 0, 0
    for b in range(300):
        board = batch.s_tm1[b]
        assert (board == GOAL).sum() == 1
        assert (board == AGENT).sum() == (batch.s_t[b] == AGENT).sum() == 1
        goal = int((board == GOAL).nonzero())
        places = find(steps, batch, b)
        assert places
        if batch.slot[b] >= 0:
            assert any(torch.equal(steps[t].s_tm1[i], board) for t, i in places)
            continue
        relabelled += 1
        assert any(explains(steps, t, i, goal, batch, b, n_step, reach) for t, i in places)
        for seed in (batch.seed_tm1, batch.seed_t, batch.walk.seed):
            assert torch.equal(seed.z_H[b], start.z_H[0])
        hits += int(batch.discount_t[b] == 0)
        assert batch.s_t[b, goal] == (AGENT if batch.discount_t[b] == 0 else GOAL)
        for before in batch.walk.boards[:, b][batch.walk.counts[:, b]]:
            assert before[goal] in (AGENT, GOAL)
            assert (before == GOAL).sum() <= 1
    assert relabelled > 100
    assert hits > 20


def test_share_and_reach() -> None:
    def new_goals(share: float, reach: int) -> tuple[float, float]:
        trainer, _ = recorded(1, reach)
        batch = sample(trainer, 2_000, share)
        changed = batch.slot < 0
        hits = batch.discount_t[changed] == 0
        return changed.float().mean().item(), hits.float().mean().item()

    full, _ = new_goals(1.0, 100)
    assert new_goals(0.0, 100)[0] == 0
    assert new_goals(0.5, 100)[0] == pytest.approx(full / 2, abs=0.03)
    assert new_goals(1.0, 1)[1] == 1  # the next cell is the goal: every step reaches it
    assert new_goals(1.0, 100)[1] < 0.6


def test_out_of_view_stays_so() -> None:
    boards = torch.tensor([[ord(c) for c in row] for row in ("@.>?", "@..?", ".@?>")]).byte()
    for cell, expected in ((1, ("@>.?", "@>.?", ".@?.")), (3, ("@..?", "@..?", ".@?>"))):
        goal = Goal(torch.tensor([cell] * 3), torch.tensor([True] * 3))
        moved = draw_goal(boards, goal)
        assert tuple("".join(map(chr, row)) for row in moved.tolist()) == expected
