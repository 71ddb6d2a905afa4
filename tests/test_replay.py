"""The replay's ring and its n-step returns, against a plain walk over the recorded steps."""

import pytest
import torch

from hrm_fast import Carry
from train.config import DQNConfig
from train.replay import Replay, Transition, select

N, CELLS, D = 3, 5, 2


def record(steps: int, seed: int = 0) -> list[Transition]:
    """Random steps whose rows can be told apart: s_tm1 and the seeds hold (time, maze)."""
    g = torch.Generator().manual_seed(seed)
    recorded = []
    for t in range(steps):
        where = torch.stack([torch.full((N,), t), torch.arange(N)], 1)
        ends = torch.rand(N, generator=g) < 0.3
        terminal = ends & (torch.rand(N, generator=g) < 0.5)
        obs = torch.nn.functional.pad(where, (0, CELLS - 2)).to(torch.uint8)
        recorded.append(
            Transition(
                s_tm1=obs,
                a_tm1=torch.randint(4, (N,), generator=g),
                r_t=torch.rand(N, generator=g),
                discount_t=torch.where(terminal, 0.0, 0.9),
                ends_t=ends,
                s_t=obs + 100,
                z_tm1=Carry(where.float(), -where.float()),
                z_t=Carry(where.float() + 0.5, -where.float() - 0.5),
            )
        )
    return recorded


def settings(size: int, n_step: int) -> DQNConfig:
    starts = min(size, 1_024)
    return DQNConfig(num_mazes=N, replay_size=size, n_step=n_step, learning_starts=starts)


def filled(steps: int, size: int, n_step: int) -> tuple[Replay, list[Transition]]:
    recorded = record(steps)
    replay = Replay(settings(size, n_step), recorded[0].s_tm1, recorded[0].z_tm1)
    for step in recorded:
        replay.add(step)
    return replay, recorded


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [6, 40])  # 10 rows: once not yet full, once gone round
def test_n_step_returns(n_step: int, steps: int) -> None:
    replay, recorded = filled(steps, 10 * N, n_step)
    batch = replay.sample(500, torch.Generator().manual_seed(1))
    seen = set()
    for b in range(500):
        t, i = (int(x) for x in batch.s_tm1[b, :2])
        seen.add((t, i))
        total, discount = 0.0, 1.0
        for k in range(t, t + n_step):
            last = k
            total += discount * recorded[k].r_t[i].item()
            discount *= recorded[k].discount_t[i].item()
            if recorded[k].ends_t[i]:
                break
        assert batch.r_t[b].item() == pytest.approx(total, rel=1e-5)
        assert batch.discount_t[b].item() == pytest.approx(discount, rel=1e-5)
        assert batch.a_tm1[b] == recorded[t].a_tm1[i]
        assert torch.equal(batch.s_t[b], recorded[last].s_t[i])
        assert torch.equal(batch.z_tm1.z_H[b], recorded[t].z_tm1.z_H[i])
        assert torch.equal(batch.z_t.z_L[b], recorded[last].z_t.z_L[i])
    oldest = max(0, steps - 10)
    assert seen == {(t, i) for t in range(oldest, steps - n_step + 1) for i in range(N)}


def test_state_round_trip() -> None:
    replay, recorded = filled(17, 10 * N, 2)
    other = Replay(settings(10 * N, 2), recorded[0].s_tm1, recorded[0].z_tm1)
    other.restore(replay.state())
    for step in record(3, seed=5):
        replay.add(step)
        other.add(step)
    one, two = (r.sample(64, torch.Generator().manual_seed(3)) for r in (replay, other))
    assert torch.equal(one.r_t, two.r_t)
    assert torch.equal(one.s_t, two.s_t)
    assert len(replay) == len(other) == 30


@pytest.mark.parametrize("rows", [10, 17, 30])  # the same, a full and a larger ring
def test_continues_in_a_ring_of_another_size(rows: int) -> None:
    replay, recorded = filled(17, 10 * N, 2)
    other = Replay(settings(rows * N, 2), recorded[0].s_tm1, recorded[0].z_tm1)
    other.restore(replay.state())
    for step in (later := record(4, seed=9)):
        other.add(step)
    batch = other.sample(300, torch.Generator().manual_seed(0))
    known = {tuple(row.tolist()) for step in [*recorded[7:], *later] for row in step.s_tm1}
    assert {tuple(row.tolist()) for row in batch.s_tm1} <= known
    assert len(other) == min(14, rows) * N


def test_another_shape_is_refused() -> None:
    replay, recorded = filled(5, 10 * N, 1)
    wider = torch.nn.functional.pad(recorded[0].s_tm1, (0, 1))
    other = Replay(settings(10 * N, 1), wider, recorded[0].z_tm1)
    with pytest.raises(ValueError, match=r"replay\.s_tm1 is \[5, 3, 5\]: expected"):
        other.restore(replay.state())
    with pytest.raises(ValueError, match=r"dqn\.replay-size is 12: expected 15 or more"):
        smaller = Replay(settings(4 * N, 1), recorded[0].s_tm1, recorded[0].z_tm1)
        smaller.restore(replay.state())


def test_too_large_for_the_memory() -> None:
    recorded = record(1)[0]
    with pytest.raises(ValueError, match=r"dqn\.replay-size is .*GiB free"):
        Replay(settings(10**12, 1), recorded.s_tm1, recorded.z_tm1)


def test_select_picks_by_maze() -> None:
    ends = torch.tensor([True, False])
    z, start = torch.ones(2, 3), torch.zeros(2, 3)
    new = select(ends, Carry(start, start), Carry(z, 2 * z))
    assert torch.equal(new.z_H, torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.equal(new.z_L, torch.tensor([[0.0] * 3, [2.0] * 3]))
