"""Stopped and resumed equals never stopped, and any number of threads equals one: every bit of what
a run holds, in every Carry mode, with the features of every preset."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from envs import MazeBatch, MazeSpec
from hrm_fast import HRMConfig
from tests.tiny import all_goals
from train.config import PRESETS, Config, DQNConfig, fit_model_to_board, load
from train.files import checkpoint
from train.machine.device import use_deterministic_algorithms
from train.run import state
from train.run.run import Run
from train.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {
    "width": 8,
    "heads": 2,
    "inner": 8,
    "h_layers": 1,
    "l_layers": 1,
    "l_cycles": 1,
    "segments": 2,
}
FEW = {"num_mazes": 4, "batch_size": 8, "replay_size": 40, "learning_starts": 16}


def small(preset: str, carry: Any, **dqn: Any) -> Config:
    """A preset with all its features, but few numbers; its replay is full after 10 steps."""
    config = PRESETS[preset]
    hrm = replace(config.hrm, **SMALL, carry=carry)
    dqn = {**FEW, "warmup_updates": 3, "epsilon_updates": 20} | dqn
    return replace(config, updates=23, hrm=hrm, dqn=replace(config.dqn, **dqn))


def contents(trainer: Trainer) -> dict[str, Any]:
    """All that a later update could depend on: weights, optimiser, replay in the order of its ring,
    mazes, running episodes, random state, counts."""
    models = {"model": trainer.hrm.state_dict(), "target model": trainer.target.state_dict()}
    weights = {f"{m}.{name}": x for m, named in models.items() for name, x in named.items()}
    grad = {"gradient": trainer.optimiser.grad}
    bits = {name: bits_of(x) for name, x in (state.tensors(trainer) | weights | grad).items()}
    return bits | {"update": trainer.update, "transitions": trainer.transitions}


def bits_of(x: torch.Tensor) -> tuple[Any, ...]:
    flat = x.detach().cpu().clone().reshape(-1).view(torch.uint8)
    return x.dtype, x.shape, flat.numpy().tobytes()


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert set(one) == set(other)
    return [name for name in one if one[name] != other[name]]


def changed(config: Config, **hrm: Any) -> Config:
    return replace(config, hrm=replace(config.hrm, **hrm))


MUON = {"muon_learning_rate": 0.02, "max_grad_norm": 0.1}
CONFIGS = {  # quick, four-rooms and maze: all goals, hindsight, Muon, clipping; all: two segments
    **{f"{p} {carry}": small(p, carry) for p in PRESETS for carry in ("reset", "carry", "full")},
    "one goal": small("paper-maze", "carry", n_step=3, **MUON),
    "plain PyTorch": changed(small("quick", "full"), kernels="reference"),
    "bfloat16": changed(small("paper-maze", "carry"), dtype="bfloat16"),
    "all goals in bfloat16": changed(small("maze", "carry"), dtype="bfloat16"),
    "halting": changed(small("paper-maze", "carry", n_step=3, **MUON), halting=True),
}


def check_resumed(config: Config, device: torch.device, folder: Path) -> None:
    """Saved before the first update, with a replay not yet full, just full, and turned over; the
    last cycle is cut short, since 23 is no multiple of the segments."""
    straight, saved = Trainer(config, device), (0, 2, 12, 22)
    while straight.update < config.updates:
        if straight.update in saved:
            state.save(straight, folder / str(straight.update), seconds=0.1, best=1 / 3)
        straight.cycle()
    full = len(straight.replay) == straight.replay.rows * config.dqn.num_mazes
    assert full and int(straight.replay.head) > 0
    for update in saved:
        again = Trainer(config, device)
        assert state.restore(again, folder / str(update)) == (0.1, 1 / 3)
        assert again.update == update
        while again.update < config.updates:
            again.cycle()
        assert differing(contents(straight), contents(again)) == [], update


@pytest.mark.parametrize("name", CONFIGS)
def test_resumed_equals_straight(name: str, tmp_path: Path) -> None:
    check_resumed(CONFIGS[name], CPU, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", ["quick", "paper-maze"])
def test_resumed_equals_straight_on_a_gpu(
    preset: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = small(preset, "carry")
    wide = {"width": 64, "inner": 128, "dtype": "bfloat16"}  # as the kernels can have it
    config = replace(config, deterministic=True, hrm=replace(config.hrm, **wide))
    device = torch.device("cuda")
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    use_deterministic_algorithms(config, device)
    check_resumed(config, device, tmp_path)


def test_a_difference_is_seen(tmp_path: Path) -> None:
    one, other = (Trainer(CONFIGS["quick carry"], CPU) for _ in range(2))
    for trainer in (one, other):
        trainer.cycle()
    assert differing(contents(one), contents(other)) == []
    torch.rand(1, generator=other.generator)
    other.collector.z.z_H[0, 0].nextafter_(torch.tensor(9.0))
    assert differing(contents(one), contents(other)) == ["collector/seed_H", "generator"]


def walk(config: Config, cycles: int | None = None) -> Run:
    """A whole run, or one that a signal stops after some cycles."""
    trainer = Trainer(config, CPU)
    run = Run(config, trainer)
    cycle, done = trainer.cycle, iter(range(cycles or 1_000))

    def counted() -> tuple[torch.Tensor, torch.Tensor]:
        result = cycle()
        if next(done) + 1 == cycles:
            run.stop(15, None)
        return result

    trainer.cycle = counted  # type: ignore[method-assign]
    run.train()
    run.close()
    return run


def files(folder: Path) -> dict[str, Any]:
    """What a run leaves but for its clock's numbers."""
    found: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        if path.name != "state.previous.safetensors":
            with checkpoint.opening(path) as file:
                found |= {f"{path.name} {n}": bits_of(x) for n, x in file.tensors().items()}
    with open(folder / "metrics.csv") as file_:
        clock = ("seconds", "updates_per_second", "charts/SPS")
        found["metrics"] = [
            {k: v for k, v in row.items() if k not in clock} for row in csv.DictReader(file_)
        ]
    return found


@pytest.mark.parametrize("updates", [24, 23])
def test_a_resumed_run_leaves_the_same_files(updates: int, tmp_path: Path) -> None:
    config = replace(small("quick", "carry"), updates=updates, log_every=5, eval_every=10)
    env = replace(config.env, max_steps=3)  # so that episodes end between two rows of the log
    config = replace(config, eval_episodes=8, save_every=6, env=env)
    straight = walk(replace(config, run_dir=str(tmp_path / "straight")))
    stopped = replace(config, run_dir=str(tmp_path / "stopped"))
    walk(stopped, cycles=4)  # no row is due there, nor at 7
    walk(replace(stopped, resume=stopped.run_dir), cycles=3)
    last = walk(replace(stopped, resume=stopped.run_dir))
    assert differing(contents(straight.trainer), contents(last.trainer)) == []
    assert differing(files(straight.folder), files(last.folder)) == []


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """From every bit of its state; the fields of its config that are gone did nothing in it."""
    old = Path(__file__).parent / "fixtures/old_run"  # of commit ee548fa, which had them
    assert '"priority": 0.0' in (old / "config.json").read_text()
    folder = str(shutil.copytree(old, tmp_path / "run"))
    config = replace(load(old / "config.json"), run_dir=folder, resume=folder, updates=16)
    run = Run(config, Trainer(config, CPU))
    with checkpoint.opening(old / "state.safetensors") as file:
        saved = {name: bits_of(x) for name, x in file.tensors().items()}
    restored = {name: bits_of(x) for name, x in state.tensors(run.trainer).items()}
    assert differing(saved, restored) == []
    weights = checkpoint.load(old / "last.safetensors")[1].state_dict()
    assert all(torch.equal(x, run.trainer.eval_model.state_dict()[n]) for n, x in weights.items())
    assert run.trainer.update == 8
    run.train()
    run.close()
    assert run.trainer.update == 16


def test_more_updates_than_planned(tmp_path: Path) -> None:
    """A run that ended within a cycle goes on as if it had not, where its rates are constant."""
    config = small("paper-maze", "carry")
    config = replace(config, hrm=replace(config.hrm, segments=4), log_every=4, eval_every=99)
    straight = walk(replace(config, updates=20, run_dir=str(tmp_path / "straight")))
    short = walk(replace(config, updates=6, run_dir=str(tmp_path / "short")))
    assert short.trainer.update == 6
    longer = replace(config, updates=20, run_dir=str(short.folder), resume=str(short.folder))
    longer_run = walk(longer)
    assert differing(contents(straight.trainer), contents(longer_run.trainer)) == []
    assert differing(files(straight.folder), files(longer_run.folder)) == []


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "name",
    ["quick reset", "maze carry", "paper-maze full", "one goal", "many mazes", "wide", "as it is"],
)
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    """With the fused engine; plain PyTorch splits its sums by threads."""
    if name == "many mazes":
        shape = HRMConfig(**{**SMALL, "h_cycles": 1, "segments": 1})
        many = {"num_mazes": 8_192, "replay_size": 40_000, "batch_size": 64}
        env = MazeSpec(map="room", size=3, max_steps=6)
        dqn = DQNConfig(**many, learning_starts=20_000)
        one = fit_model_to_board(Config(preset="quick", env=env, hrm=shape, dqn=dqn))
        config = all_goals(one)
    elif name in ("wide", "as it is"):  # sums and products long enough for threads to share them
        config = PRESETS["maze"]
        if name == "wide":
            config = changed(config, width=160, heads=4, inner=200, h_layers=1, l_layers=1)
        config = replace(config, dqn=replace(config.dqn, learning_starts=320, batch_size=16))
    else:
        config = CONFIGS[name]
        config = replace(config, dqn=replace(config.dqn, num_mazes=64, replay_size=640))
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        trainer = Trainer(config, CPU)
        mazes = MazeBatch(config.env, config.dqn.num_mazes, config.seed, threads=count)
        assert mazes.threads == count
        assert torch.equal(trainer.collector.obs, mazes.reset())
        trainer.collector.mazes = mazes
        for _ in range(3):
            trainer.cycle()
        found.append(contents(trainer))
    assert differing(found[0], found[1]) == differing(found[0], found[2]) == []
