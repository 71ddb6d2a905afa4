"""Options of learning that are off by default: each against its plain statement."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from envs import MazeSpec
from hrm_fast import Carry, HRMConfig
from kernels.td_loss import td_loss_reference as td_loss
from train import state
from train.config import PRESETS, Config, DQNConfig, fit_model_to_board, parse
from train.dqn import Trainer
from train.replay import Transition
from train.targets import refresh, relabel_at, td_target

CPU = torch.device("cpu")
TINY = fit_model_to_board(
    Config(
        preset="quick",
        updates=40,
        env=MazeSpec(map="room", size=3, max_steps=6),
        hrm=HRMConfig(width=8, inner=8, h_layers=1, l_layers=1, h_cycles=1, segments=2),
        dqn=DQNConfig(
            num_mazes=4, batch_size=8, replay_size=200, learning_starts=80, n_step=2,
            warmup_updates=0, learning_rate=0.01, epsilon_updates=100,
        ),
    )
)  # fmt: skip
ALL: dict[str, Any] = {
    "priority": 0.6,
    "relabel": 0.5,
    "refresh": 3,
}


def trainer(mode: str = "carry", **options: Any) -> Trainer:
    hrm = replace(TINY.hrm, carry=mode)
    return Trainer(replace(TINY, hrm=hrm, dqn=replace(TINY.dqn, **options)), CPU)


def test_weights_of_the_loss() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    td_loss(q, torch.tensor([1, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25])).backward()
    assert torch.equal(q.grad, torch.tensor([[0.0, 2.0], [0.5, 0.0]]))


def test_a_batch_drawn_by_priority_is_weighted_and_gets_new_priorities() -> None:
    hrm = replace(TINY.hrm, segments=1)
    config = replace(TINY, hrm=hrm, dqn=replace(TINY.dqn, priority=0.6, priority_correction=1.0))
    one, twin = Trainer(config, CPU), Trainer(config, CPU)
    for each in (one, twin):
        each.cycle()
        each.replay.data["priority"][:20] = torch.linspace(0.1, 1, 80).view(20, 4)
    one.cycle()
    twin.collect()
    batch = twin.replay.sample(8, twin.generator)
    y = td_target(twin.target, batch)
    q = twin.hrm.segment_q(twin.hrm.carry_from(batch.seed_tm1), batch.s_tm1)
    error = q[torch.arange(8), batch.a_tm1] - y
    assert batch.weight.min() < 0.9
    (batch.weight * error**2).mean().backward()
    twin.optimiser.step(1)
    torch.testing.assert_close(one.optimiser.flat, twin.optimiser.flat)
    after = one.replay.data["priority"].flatten()[batch.slot]
    torch.testing.assert_close(after, (error.detach().abs() + 1e-3) ** 0.6, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
def test_fresh_z_is_what_was_stored_while_the_weights_stand_still(mode: str) -> None:
    one = trainer(mode, refresh=3)
    for _ in range(60):  # 50 rows: gone round
        one.collect()
    batch = one.replay.sample(100, one.generator)
    broken = batch._replace(seed_tm1=Carry(*(z + 1 for z in batch.seed_tm1)))
    fresh = refresh(one.target, broken, 3)
    for old, new in zip(
        (*batch.seed_tm1, *batch.seed_t), (*fresh.seed_tm1, *fresh.seed_t), strict=True
    ):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)


def test_fresh_z_is_the_present_networks() -> None:
    """k decisions of the target network, by hand along the recorded steps."""
    one, k = trainer(refresh=2), 2
    steps = []
    for _ in range(30):
        steps.append(one.collector.step(one.hrm, 1.0, one.generator))
        one.replay.add(steps[-1])
    one.optimiser.target_flat.mul_(0.9)
    fresh = refresh(one.target, one.replay.sample(100, one.generator), k)
    rows = [(t, i) for t in range(30) for i in range(4)]
    for b in range(100):
        expected = []
        for t, i in rows:
            begin = t
            while begin > max(0, t - k) and not steps[begin - 1].ends_t[i]:
                begin -= 1
            expected.append(begin)
        fits = [
            torch.allclose(along(one, steps, begin, t, i).z_H[0], fresh.seed_tm1.z_H[b], atol=1e-5)
            for begin, (t, i) in zip(expected, rows, strict=True)
            if torch.equal(steps[t].s_tm1[i], fresh.s_tm1[b])
        ]
        assert any(fits)


def along(one: Trainer, steps: list[Transition], begin: int, end: int, i: int) -> Carry:
    """z of maze i before the decision at `end`, from the one stored at `begin`."""
    seed = Carry(*(z[i : i + 1] for z in steps[begin].seed_tm1))
    for step in steps[begin:end]:
        _, carry = one.target.decide(step.s_tm1[i : i + 1], seed)
        seed = one.target.seed(carry)
    return seed


def test_the_share_of_new_goals_falls_to_0() -> None:
    dqn = replace(TINY.dqn, relabel=0.8)
    shares = [relabel_at(dqn, torch.tensor([update])).item() for update in (0, 50, 100, 200)]
    assert shares == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert relabel_at(replace(dqn, epsilon_updates=0), torch.tensor([0])) == 0


def losses(one: Trainer, cycles: int) -> list[float]:
    return [one.cycle()[0].item() for _ in range(cycles)]


@pytest.mark.parametrize("name", [*ALL, "all"])
@pytest.mark.parametrize("mode", ["carry", "full"])
def test_continues_bit_for_bit(tmp_path: Path, mode: str, name: str) -> None:
    options = ALL if name == "all" else {name: ALL[name]}
    straight, again = trainer(mode, **options), trainer(mode, **options)
    first = losses(straight, 3)
    state.save(straight, tmp_path / "state.safetensors", seconds=1.5, best=0.25)
    rest = losses(straight, 3)
    state.restore(again, tmp_path / "state.safetensors")
    assert losses(again, 3) == rest
    assert torch.equal(again.optimiser.flat, straight.optimiser.flat)
    assert first + rest != losses(trainer(mode), 6)


def test_halting_goes_with_all_of_them() -> None:
    dqn, hrm = replace(TINY.dqn, **ALL), replace(TINY.hrm, halting=True)
    one = Trainer(replace(TINY, hrm=hrm, dqn=dqn), CPU)
    losses(one, 3)
    assert one.optimiser.flat.isfinite().all()


def test_flags() -> None:
    flags = [f"--dqn.{name}={value}" for name, value in ALL.items()]
    with pytest.raises(ValueError, match=r"refresh is 3: expected 0 where hrm.carry is 'reset'"):
        parse(["--preset", "quick", *flags])
    config = parse(["--preset", "quick", "--hrm.carry", "carry", *flags])
    assert config.dqn == replace(PRESETS["quick"].dqn, **ALL)
    with pytest.raises(ValueError, match=r"dqn\.relabel is 1\.5: expected 0 to 1"):
        DQNConfig(relabel=1.5)
