"""The trainer: targets, exploration, carry across steps, exact continuation, and that it learns."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig
from hrm_fast.config import QToken
from kernels.epsilon_greedy import epsilon_greedy_reference as epsilon_greedy
from kernels.td_loss import td_loss_reference as td_loss
from tests.tiny import all_goals
from train.config import Config, DQNConfig, fit_model_to_board
from train.episodes import agent
from train.evaluate import evaluate
from train.files import checkpoint
from train.run import state
from train.run.run import Run
from train.targets import epsilon_at, target_of
from train.trainer import Trainer

CPU = torch.device("cpu")
TINY = fit_model_to_board(
    Config(
        preset="quick",
        updates=12,
        log_every=4,
        eval_every=8,
        eval_episodes=16,
        env=MazeSpec(map="room", size=3, max_steps=6),
        hrm=HRMConfig(width=8, inner=8, h_layers=1, l_layers=1, h_cycles=1, segments=2),
        dqn=DQNConfig(num_mazes=4, batch_size=8, replay_size=40, learning_starts=16, n_step=2),
    )
)


def test_td_loss() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = td_loss(q, torch.tensor([1, 0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == (2.0**2 + 2.0**2) / 2
    loss.backward()
    assert torch.equal(q.grad, torch.tensor([[0.0, 2.0], [2.0, 0.0]]))


def test_target_bootstraps_from_the_target_network_only_where_something_follows() -> None:
    trainer = Trainer(TINY, CPU)
    for _ in range(8):
        trainer.collect()
    batch = trainer.replay.sample(32, trainer.generator)
    q_t, _ = trainer.target.decide(batch.s_t, batch.z_t)
    expected = batch.r_t + batch.discount_t * q_t.max(1).values
    target = target_of(trainer.target, batch, gamma=0.95)
    torch.testing.assert_close(target.y, expected)
    assert target.weight is None
    assert (batch.discount_t == 0).any()


@pytest.mark.parametrize("terminal", [True, False])
def test_time_limit(terminal: bool) -> None:
    dqn = replace(TINY.dqn, timeout_is_terminal=terminal)
    trainer = Trainer(replace(TINY, dqn=dqn), CPU)
    seen = 0
    for _ in range(30):
        step = trainer.collector.step(trainer.hrm, 1.0, trainer.generator)
        timed_out = step.ends_t & (step.r_t < 1)
        seen += int(timed_out.sum())
        assert (step.discount_t[timed_out] == (0.0 if terminal else 0.95)).all()
        assert (step.discount_t[step.ends_t & (step.r_t == 1)] == 0).all()
        assert (step.discount_t[~step.ends_t] == torch.tensor(0.95)).all()
    assert seen > 0


def test_epsilon() -> None:
    dqn = DQNConfig(epsilon_start=1.0, epsilon_end=0.33, epsilon_updates=300_000)
    updates = (0, 200_000, 10**6)
    at = [epsilon_at(dqn, torch.tensor([update])).item() for update in updates]
    assert at == pytest.approx([1.0, 0.5533, 0.33], abs=1e-4)  # as published
    q = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).repeat(20_000, 1)
    a = epsilon_greedy(q, 0.4, torch.rand(20_000))
    assert (a == 1).float().mean().item() == pytest.approx(0.6 + 0.4 / 4, abs=0.02)
    assert (epsilon_greedy(q, 0.0, torch.rand(20_000)) == 1).all()


@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
def test_z_runs_through_an_episode_and_starts_anew(mode: str) -> None:
    config = replace(TINY, hrm=replace(TINY.hrm, carry=mode))
    trainer = Trainer(config, CPU)
    hrm, start = trainer.hrm, trainer.hrm.stored_start(4)
    before = trainer.collector.step(hrm, 1.0, trainer.generator)
    ended = 0
    for _ in range(12):
        now = trainer.collector.step(hrm, 1.0, trainer.generator)
        _, carry = hrm.decide(before.s_tm1, before.z_tm1)
        for i in range(4):
            ended += int(before.ends_t[i])
            expected = start if before.ends_t[i] else hrm.stored(carry)
            torch.testing.assert_close(now.z_tm1.z_H[i], expected.z_H[i], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(before.z_t.z_L[i], hrm.stored(carry).z_L[i])
        before = now
    assert ended > 0


@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_a_batch_is_trained_once_per_segment_with_one_target(
    kernels: Literal["reference", "auto"],
) -> None:
    """One cycle equals its statement by hand: same batch, one target, z carried, two updates."""
    dqn = replace(TINY.dqn, warmup_updates=0, learning_rate=0.01)
    config = replace(TINY, hrm=replace(TINY.hrm, kernels=kernels), dqn=dqn)
    trainer, twin = Trainer(config, CPU), Trainer(config, CPU)
    trainer.cycle()
    for _ in range(4):  # learning_starts / num_mazes
        twin.collect()
    batch = twin.replay.sample(8, twin.generator)
    q_t, _ = twin.target.act(batch.s_t, batch.z_t)
    y = batch.r_t + batch.discount_t * q_t.max(1).values
    carry = twin.hrm.carry_from(batch.z_tm1)
    carry, q_1 = twin.hrm.segment(carry, batch.s_tm1)
    assert not carry.z_H.requires_grad
    for segment in range(2):
        loss = ((q_1[torch.arange(8), batch.a_tm1] - y) ** 2).mean()
        if segment == 1:
            loss = twin.hrm.td_segment(carry, batch.s_tm1, batch.a_tm1, y, last=True)[2]
        loss.backward()
        twin.optimiser.step()
    assert trainer.update == 2
    assert trainer.transitions == len(twin.replay) == 4 * 4
    exact = {"rtol": 0.0, "atol": 0.0 if kernels == "reference" else 1e-5}  # fused: another order
    for name in ("flat", "target_flat"):
        one, two = getattr(trainer.optimiser, name), getattr(twin.optimiser, name)
        torch.testing.assert_close(one, two, **exact)
    assert (trainer.optimiser.flat != Trainer(TINY, CPU).optimiser.flat).any()


def losses(trainer: Trainer, cycles: int) -> list[float]:
    return [trainer.cycle()[0].item() for _ in range(cycles)]


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("reset", "float32"), ("carry", "float32"), ("full", "float32"), ("carry", "bfloat16")],
)
def test_continues_bit_for_bit(tmp_path: Path, mode: str, dtype: str) -> None:
    config = replace(TINY, hrm=replace(TINY.hrm, carry=mode, dtype=dtype))
    straight = Trainer(config, CPU)
    first = losses(straight, 3)
    state.save(straight, tmp_path / "state.safetensors", seconds=1.5, best=0.25)
    rest = losses(straight, 3)
    again = Trainer(config, CPU)
    assert state.restore(again, tmp_path / "state.safetensors") == (1.5, 0.25)
    assert losses(again, 3) == rest
    assert first != rest
    for name, x in straight.optimiser.state().items():
        assert torch.equal(x, again.optimiser.state()[name]), name
    for name, x in straight.replay.state().items():
        assert torch.equal(x, again.replay.state()[name]), name
    assert again.transitions == straight.transitions


def test_same_seed_same_run_other_seed_another() -> None:
    assert losses(Trainer(TINY, CPU), 4) == losses(Trainer(TINY, CPU), 4)
    assert losses(Trainer(TINY, CPU), 4) != losses(Trainer(replace(TINY, seed=1), CPU), 4)


@pytest.mark.parametrize("q_token", ["goal", "mean"])
def test_actions_are_drawn_by_their_values(q_token: QToken) -> None:
    """From softmax(Q / temperature), Q before its sigmoid where there is one; at 0 the best."""
    torch.manual_seed(0)
    hrm = HRM(replace(TINY.hrm, q_token=q_token))
    board = torch.full((1, hrm.config.cells), ord("."), dtype=torch.uint8)
    board[0, 0], board[0, 1] = ord("@"), ord(">")
    count = 4000
    q, _ = hrm.decide(board)
    logits = q.logit() if q_token == "goal" else q
    temperature = float(logits.max() - logits.min())
    given = board.expand(count, -1), torch.arange(count)
    drawn = agent(hrm, count, temperature=temperature, seed=3)(None, *given)
    share = torch.bincount(drawn, minlength=hrm.config.actions) / count
    right = torch.softmax(logits[0] / temperature, -1)
    assert (share - right).abs().max() < 4 * 0.5 / count**0.5  # four standard deviations
    again = agent(hrm, count, temperature=temperature, seed=3)(None, *given)
    assert torch.equal(drawn, again)
    assert (agent(hrm, count)(None, *given) == q.argmax(-1)).all()
    assert (agent(hrm, count, temperature=1e-9)(None, *given) == q.argmax(-1)).all()


def test_halting_is_learned() -> None:
    config = replace(TINY, updates=400, hrm=replace(TINY.hrm, halting=True, segments=4))
    trainer = Trainer(config, CPU)
    obs = trainer.collector.obs
    before = trainer.hrm.halt_logits(trainer.hrm.decide(obs, segments=1)[1])
    assert (before == -5).all()
    while trainer.update < 200:
        loss, _ = trainer.cycle()
        assert loss.isfinite()
    after = trainer.hrm.halt_logits(trainer.hrm.decide(obs, segments=1)[1])
    assert (after > -5).all()  # both were pessimistic, both have learned


def test_averaged_weights_are_the_judged_ones() -> None:
    trainer = Trainer(replace(TINY, dqn=replace(TINY.dqn, averaged=True)), CPU)
    assert trainer.eval_model is trainer.target
    assert Trainer(TINY, CPU).eval_model.get_parameter("embed").requires_grad


def test_run_writes_its_folder(tmp_path: Path) -> None:
    config = replace(TINY, run_dir=str(tmp_path / "run"))
    run = Run(config, Trainer(config, CPU))
    run.train()
    run.log.close()
    with open(tmp_path / "run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == [4, 8, 12]
    assert [bool(row["eval/success"]) for row in rows] == [False, True, False]
    assert int(rows[-1]["transitions"]) == 4 * 4 + 5 * 4  # learning_starts, then one step a batch
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"best.safetensors", "last.safetensors", "state.safetensors", "config.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    loaded, hrm = checkpoint.load(tmp_path / "run")
    assert loaded == config
    assert isinstance(hrm, HRM)


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "train.dqn", *args]


FLAGS = (
    *("--preset", "quick", "--device", "cpu", "--dqn.num-mazes", "8", "--dqn.batch-size", "8"),
    *("--eval-episodes", "8", "--dqn.learning-starts", "64", "--log-every", "20"),
)


def test_interrupt_saves_and_resume_continues(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = (*FLAGS, "--run-dir", str(folder), "--updates", "1000000")
    process = subprocess.Popen(command(*flags), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("update"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert f"python -m train.dqn --resume {folder}" in rest
    done = int(rest.split("stopped at update ")[1].split()[0])
    flags = ("--resume", str(folder), "--updates", str(done + 10), "--eval-every", "1000000")
    out = subprocess.run(command(*flags), capture_output=True, text=True, timeout=120, check=True)
    assert f"update {done + 10:>7}" in out.stdout
    (folder / "learning_curve.png").unlink()  # as if killed behind the last save
    again = command("--resume", str(folder))
    settings = (folder / "config.json").read_text()
    other = [*again, "--env.p-change", "0.5"]  # nothing is trained with it, so it is not kept
    out = subprocess.run(other, capture_output=True, text=True, check=True)
    assert (folder / "config.json").read_text() == settings
    assert f"{folder} has all its {done + 10} updates: for more, --updates N" in out.stdout
    fewer = subprocess.run([*again, "--updates", "3"], capture_output=True, text=True, check=False)
    assert fewer.returncode == 2
    assert f"updates is 3: expected {done + 10} or more, where the run stands" in fewer.stderr
    with open(folder / "metrics.csv") as file:
        updates = [int(row["update"]) for row in csv.DictReader(file)]
    assert updates == sorted(set(updates))
    assert updates[-1] == done + 10
    assert (folder / "learning_curve.png").stat().st_size > 10_000


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    hrm = HRM(TINY.hrm)
    checkpoint.save(path, hrm, TINY)
    before = path.read_bytes()
    program = (
        "import resource, signal, sys, torch\n"
        "from hrm_fast import HRM\n"
        "from test_train import TINY\n"
        "from train import cli\n"
        "from train.files import checkpoint\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "cli.main(lambda: checkpoint.save(Path(sys.argv[1]), HRM(TINY.hrm), TINY))\n"
    )
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    run = [sys.executable, "-c", program, str(path)]
    out = subprocess.run(run, capture_output=True, text=True, env=env, check=False)
    assert out.returncode == 2, out.stderr
    assert str(path) in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper-maze", "paper-four-rooms"])
def test_the_published_shape_runs(preset: str, tmp_path: Path) -> None:
    flags = ("--preset", preset, "--device", "cpu", "--updates", "16", "--run-dir", str(tmp_path))
    out = subprocess.run(command(*flags), capture_output=True, text=True, check=True)
    assert "update      16" in out.stdout
    assert checkpoint.load(tmp_path)[0].hrm.segments == 8


def test_learns_a_room() -> None:
    """A 5 x 5 room to 90 % greedy success on unseen mazes in a fixed number of updates."""
    config = fit_model_to_board(
        Config(
            preset="quick",
            updates=1_200,
            env=MazeSpec(map="room", size=5, max_steps=20),
            hrm=HRMConfig(
                cells=25, columns=5, width=16, inner=32, h_layers=1, l_layers=1, h_cycles=1,
                l_cycles=1, segments=1, positions="rope2d+learned", position_start="sincos",
                rope_base=100.0, q_token="agent", zero_head=True,
            ),
            dqn=DQNConfig(
                num_mazes=64, batch_size=64, replay_size=20_000, epsilon_updates=600,
                epsilon_end=0.1, target_decay=0.97, learning_rate=3e-3, warmup_updates=20,
                final_learning_rate=0.1, n_step=3, averaged=True,
            ),
        )
    )  # fmt: skip
    trainer = Trainer(config, CPU)
    untrained = evaluate(trainer.eval_model, config.env, 512, seed=1).success
    while trainer.update < config.updates:
        trainer.cycle()
    trained = evaluate(trainer.eval_model, config.env, 512, seed=1).success
    print(f"{untrained:.1%} -> {trained:.1%}")
    assert untrained < 0.5
    assert trained >= 0.9


@pytest.mark.parametrize("config", [TINY, all_goals(TINY)], ids=["own goal", "all goals"])
def test_a_loss_that_is_no_number_ends_the_run(config: Config, tmp_path: Path) -> None:
    config = replace(config, run_dir=str(tmp_path / "run"), log_every=4)
    trainer = Trainer(config, CPU)
    run = Run(config, trainer)
    trainer.optimiser.flat.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss of update 4 is nan: expected a finite loss"):
        run.train()
