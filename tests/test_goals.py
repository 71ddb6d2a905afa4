"""All goals at once: targets, bounds and loss against plain NumPy; the values of a maze that stands
still against its shortest paths."""

import math
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, Carry, HRMConfig
from kernels.goal_loss import goal_loss_reference
from tests.tiny import TINY, all_goals
from train.config import Config, DQNConfig, fit_model_to_board
from train.replay import Replay, Transition
from train.targets import goals_target
from train.trainer import Trainer

CPU = torch.device("cpu")
COLUMNS = 4
BOARD = ("..|.", "....", ".|..")
GAMMA = 0.9


def boards(*pictures: str) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in picture] for picture in pictures], dtype=torch.uint8)


def picture(agent: int, goal: int | None, start: int | None = None) -> str:
    cells = list("".join(BOARD))
    for cell, mark in ((start, "<"), (goal, ">"), (agent, "@")):
        if cell is not None:
            cells[cell] = mark
    return "".join(cells)


def model(carry: str = "reset") -> HRM:
    torch.manual_seed(3)
    shape = HRMConfig(
        cells=12, columns=COLUMNS, width=16, inner=16, h_layers=1, l_layers=1, h_cycles=1,
        segments=1, q_token="goal", carry=carry,  # type: ignore[arg-type]
    )  # fmt: skip
    return HRM(shape)


def batch_of(hrm: HRM, reached: torch.Tensor | None) -> Transition:
    """A move, a bump, the own goal reached, the time limit: one row each."""
    seed = Carry(*torch.randn(2, 4, *hrm.stored_shape).unbind())
    return Transition(
        s_tm1=boards(picture(4, 11), picture(1, 11, 4), picture(6, 7, 0), picture(5, 3)),
        a_tm1=torch.tensor([1, 1, 1, 3]),
        r_t=torch.tensor([0.0, -0.01, 1.0, 0.0]),
        discount_t=torch.tensor([GAMMA, GAMMA, 0.0, GAMMA]),
        ends_t=torch.tensor([False, False, True, True]),
        s_t=boards(picture(5, 11, 4), picture(1, 11, 4), picture(7, None, 0), picture(4, 3)),
        z_tm1=seed,
        z_t=seed,
        reached=reached,
    )


@pytest.mark.parametrize("carry", ["reset", "carry", "full"])
@pytest.mark.parametrize("bounded", [False, True])
def test_targets_against_numpy(bounded: bool, carry: str) -> None:
    hrm = model(carry)
    torch.manual_seed(4)
    reached = (torch.rand(4, 12) * (torch.rand(4, 12) < 0.3)) if bounded else None
    batch = batch_of(hrm, reached)
    found = goals_target(hrm, batch, GAMMA)
    values = hrm.goal_values(batch.s_t, batch.z_t).numpy()
    assert found.weight is not None
    for b in range(4):
        before, after = ("".join(map(chr, s[b].tolist())) for s in (batch.s_tm1, batch.s_t))
        counting = [g for g in range(12) if before[g] in ".<>"]
        for g in range(12):
            r = -0.01 if batch.r_t[b] < 0 else 0.0
            y = GAMMA * values[b, g].max()
            if reached is not None:
                y = max(y, reached[b, g].item())
            y = max(y + r, 0.0)
            if after[g] == "@":
                y = 1.0
            assert found.y[b, g].item() == pytest.approx(y, abs=1e-6)
            weight = 1 / len(counting) if g in counting else 0.0
            assert found.weight[b, g].item() == pytest.approx(weight)
    assert found.weight[1, 1] == 0 and found.weight[1, 4] > 0  # the agent's own cell; the start


def test_a_bump_makes_no_target_negative() -> None:
    """Where a goal is worth less than a bump costs, a probability still cannot fall below 0."""
    hrm = model()
    with torch.no_grad():
        hrm.q_head.copy_(200 * hrm.q_head[0].expand(4, -1))  # every action alike: worth 0 or 1
    batch = batch_of(hrm, None)
    worthless = hrm.goal_values(batch.s_t, batch.z_t).amax(-1)[1] < 1e-3
    assert worthless.any() and batch.r_t[1] < 0
    assert (goals_target(hrm, batch, GAMMA).y[1][worthless] >= 0).all()


def test_loss_against_numpy() -> None:
    torch.manual_seed(5)
    z, head, action = torch.randn(3, 13, 8), 2 * torch.randn(4, 8), torch.tensor([2, 0, 3])
    target, weight = torch.rand(2, 3, 12)
    expected = 0.0
    for b in range(3):
        for g in range(12):
            value = 1 / (1 + math.exp(-float(np.dot(head[action[b]].numpy(), z[b, 1 + g].numpy()))))
            y = target[b, g].item()
            entropy = -(y * math.log(value) + (1 - y) * math.log(1 - value))
            expected += weight[b, g].item() * entropy / 3
    found = goal_loss_reference(z, head, action, target, weight)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [6, 17])  # 8 rows: once not yet full, once gone round
def test_what_was_reached_against_a_walk_through_the_records(steps: int) -> None:
    """Two mazes; the cells are random, as no rule of the maze matters here."""
    rng, reach, rows = np.random.default_rng(steps), 4, 8
    config = DQNConfig(
        num_mazes=2, batch_size=1, replay_size=2 * rows, learning_starts=1, gamma=GAMMA,
        hindsight=reach,
    )  # fmt: skip
    nothing = Carry(torch.zeros(2, 0), torch.zeros(2, 0))
    cells, ends = rng.integers(12, size=(steps, 2)), rng.random((steps, 2)) < 0.25
    replay = Replay(config, torch.zeros(2, 12, dtype=torch.uint8), nothing)
    for t in range(steps):
        after = torch.full((2, 12), ord("."), dtype=torch.uint8)
        after[torch.arange(2), torch.from_numpy(cells[t])] = ord("@")
        some = torch.zeros(2)
        end = torch.from_numpy(ends[t])
        step = Transition(after, some.long(), some, some, end, after, nothing, nothing)
        replay.add(step)
    first = max(0, steps - rows)  # that is still there
    for t in range(first, steps):
        for maze in range(2):
            expected = np.zeros(12)
            for k in range(reach):
                if t + k >= steps:
                    break
                cell = cells[t + k, maze]
                expected[cell] = max(expected[cell], GAMMA**k)
                if ends[t + k, maze]:
                    break
            found = replay.reached(torch.tensor([t - first]), torch.tensor([maze]))
            np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)


def test_a_batch_brings_the_bounds_of_its_own_transitions() -> None:
    """Of collected steps, each told by its seed: 30 steps ahead, in a ring of 10 rows."""
    config = all_goals(TINY)
    dqn = replace(config.dqn, hindsight=30, replay_size=40, learning_starts=4)
    trainer, taken = Trainer(replace(config, dqn=dqn), CPU), []
    for t in range(27):
        step = trainer.collector.step(trainer.hrm, 1.0, trainer.generator)
        place = torch.zeros_like(step.z_tm1.z_H)
        place[:, 0], place[:, 1] = t, torch.arange(4)
        taken.append(step._replace(z_tm1=Carry(place, place)))
        trainer.replay.add(taken[-1])
    batch = trainer.replay.sample(200, trainer.generator)
    assert batch.reached is not None
    for b, (t, maze) in enumerate(batch.z_tm1.z_H[:, :2].int().tolist()):
        expected = torch.zeros(9)
        for k, step in enumerate(taken[t:]):
            cell = step.s_t[maze].tolist().index(ord("@"))
            expected[cell] = max(expected[cell], 0.95**k)
            if step.ends_t[maze]:
                break
        torch.testing.assert_close(batch.reached[b], expected)


WALLED = MazeSpec(map=("...|.", ".|...", ".|.|.", "...|."), max_steps=30)


def distances(board: np.ndarray, agent: int, columns: int) -> np.ndarray:
    """Steps from the agent to every cell by breadth-first search; -1 where there is no way."""
    found = np.full(board.size, -1)
    found[agent], queue = 0, deque([agent])
    while queue:
        cell = queue.popleft()
        row, column = divmod(cell, columns)
        for r, c in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
            if 0 <= r < board.size // columns and 0 <= c < columns:
                other = r * columns + c
                if found[other] < 0 and board[other] != ord("|"):
                    found[other] = found[cell] + 1
                    queue.append(other)
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_of_a_maze_that_stands_still_are_those_of_its_shortest_paths(seed: int) -> None:
    """After 400 updates: every goal's best Q from every cell against gamma^(d - 1)."""
    config = fit_model_to_board(
        Config(
            preset="quick",
            updates=400,
            seed=seed,
            env=WALLED,
            hrm=HRMConfig(
                width=32, inner=32, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1, segments=1,
                positions="rope2d+learned", position_start="sincos", rope_base=100.0,
                q_token="goal", carry="reset", zero_head=True, columns=5, cells=20,
            ),
            dqn=DQNConfig(
                num_mazes=16, batch_size=64, replay_size=20_000, learning_starts=512, gamma=GAMMA,
                hindsight=10, epsilon_end=0.5, epsilon_updates=200, target_decay=0.9,
                learning_rate=3e-3, warmup_updates=50, final_learning_rate=0.1, beta2=0.99,
                muon_learning_rate=0.02, max_grad_norm=1.0,
            ),
        )
    )  # fmt: skip
    trainer = Trainer(config, CPU)
    while trainer.update < config.updates:
        trainer.cycle()
    plain = "".join(WALLED.map)
    errors = []
    for agent in (cell for cell, glyph in enumerate(plain) if glyph == "."):
        board = np.array([ord(c) for c in plain], np.uint8)
        board[agent] = ord("@")
        values = trainer.target.goal_values(torch.from_numpy(board[None])).amax(-1)[0].numpy()
        away = distances(board, agent, 5)
        errors += [abs(values[g] - GAMMA ** (away[g] - 1)) for g in range(20) if away[g] > 0]
    assert len(errors) == 15 * 14
    assert np.mean(errors) < 0.05
    assert np.mean(np.array(errors) > 0.15) < 0.05


def test_a_hidden_goal_is_refused() -> None:
    config = Config(
        preset="quick", env=replace(WALLED, view_radius=1), hrm=HRMConfig(q_token="goal")
    )
    with pytest.raises(ValueError, match=r"hrm\.q-token is 'goal': expected agent, last or mean"):
        fit_model_to_board(config)


def test_the_goal_is_seen_by_no_model_but_read_by_all() -> None:
    hrm, mazes = model(), MazeBatch(replace(WALLED, map=BOARD), num_envs=5, seed=2)
    obs = mazes.reset()
    bare = obs.masked_fill((obs == ord(">")) | (obs == ord("<")), ord("."))
    assert torch.equal(hrm.shown(obs), hrm.shown(bare))
    goal = (obs == ord(">")).int().argmax(1)
    q, _ = hrm.decide(obs)
    torch.testing.assert_close(q, hrm.goal_values(bare)[torch.arange(5), goal])
