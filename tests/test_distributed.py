"""Jobs of several processes on one machine, over gloo: what they learn is what one process learns
from all their mazes and batches, and they go on from their states after a death."""

import copy
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_maze import SPECS, assert_same, random_actions
from test_maze_device import resident
from torch import Tensor

from envs import MazeBatch
from hrm_fast import Carry
from tests.tiny import TINY, all_goals
from train.config import Config
from train.evaluate import evaluate
from train.files.names import PREVIOUS, STATE
from train.machine import ranks
from train.replay import Replay, Transition
from train.run import state
from train.run.run import Run
from train.trainer import Trainer

CPU = torch.device("cpu")
CYCLES = 10


def config(hrm: dict[str, Any], dqn: dict[str, Any]) -> Config:
    return replace(TINY, hrm=replace(TINY.hrm, **hrm), dqn=replace(TINY.dqn, **dqn))


def of_all_goals(hrm: dict[str, Any]) -> Config:
    """In small steps of Muon: it lifts small singular values up to 485-fold, and with them what
    rounding leaves in the gradient."""
    goals = all_goals(config(hrm, {}))
    return replace(goals, dqn=replace(goals.dqn, muon_learning_rate=0.005))


CASES = {
    "quick": of_all_goals({"carry": "reset", "segments": 1}),
    "carried": of_all_goals({"carry": "carry", "kernels": "reference"}),
    "one goal": config({"carry": "carry"}, {"max_grad_norm": 0.1}),
    "halting": config({"carry": "full", "halting": True}, {"timeout_is_terminal": True}),
}


@pytest.mark.parametrize("make", [MazeBatch, resident])
def test_batches_of_mazes_can_be_parts_of_one(make: Callable[..., MazeBatch]) -> None:
    spec = SPECS["corridors-8"]
    whole, part = make(spec, 100, seed=5), MazeBatch(spec, 30, seed=5, first=70)
    for actions in random_actions(spec, 100, 40):
        step, of_part = whole.step(actions), part.step(actions[70:])
        assert_same(type(step)(*(x[70:] for x in step)), of_part)


def test_a_share_for_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(ranks.share(8))
    assert shares == [(0, 2), (2, 3), (5, 3)]
    seeds = {ranks.seed_of(rank, seed) for rank in range(8) for seed in range(8)}
    assert len(seeds) == 64
    assert ranks.seed_of(0, 7) == 7


def learn(trainer: Trainer) -> dict[str, Any]:
    """Some cycles, and what they led to."""
    losses = torch.stack([torch.stack(trainer.cycle()) for _ in range(CYCLES)])
    return {
        "flat": trainer.optimiser.flat,
        "target": trainer.optimiser.target_flat,
        "losses": ranks.all_reduce_sum(losses) / ranks.world(),
        "boards": ranks.all_gather(trainer.collector.obs),
        "actions": ranks.all_gather(trainer.replay.state()["a_tm1"].T),
        "episodes": trainer.collector.finished(),
        "evaluated": evaluate(trainer.eval_model, trainer.config.env, 20, seed=1),
    }


def be_a_rank(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    assert ranks.join("auto") == CPU
    for name, case in CASES.items():
        torch.save(learn(Trainer(case, CPU)), folder / f"{name}.{rank}.pt")
    go_on_from_the_newest_state_of_all(rank, folder)
    case = replace(CASES["quick"], run_dir=f"file://{folder}/url")
    with pytest.raises(ValueError, match="expected a folder that all processes of a job see"):
        Run(case, Trainer(case, CPU))
    ranks.leave()


def go_on_from_the_newest_state_of_all(rank: int, folder: Path) -> None:
    """The last rank "died" before it could write its newest state."""
    case = replace(CASES["quick"], updates=14, save_every=4, run_dir=str(folder / "run"))
    straight = Run(case, Trainer(case, CPU))
    straight.train()
    straight.close()
    if rank == ranks.world() - 1:
        os.replace(straight.own / PREVIOUS, straight.own / STATE)
    case = replace(case, resume=case.run_dir)
    again = Run(case, Trainer(case, CPU))
    assert again.trainer.update == 12
    again.train()
    for name, x in state.tensors(straight.trainer).items():
        assert torch.equal(x, state.tensors(again.trainer)[name]), name
    again.close()
    assert (folder / "run/metrics.csv").exists()
    assert not (folder / "run/rank1/metrics.csv").exists()


def start_ranks(world: int, folder: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    torch.multiprocessing.spawn(be_a_rank, (world, port, folder), nprocs=world)


def draw_as_ranks_do(trainer: Trainer, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every W-th of what one process draws comes from the generator and the mazes of one rank."""
    seeds = [ranks.seed_of(rank, trainer.config.seed) for rank in range(world)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    plain, draw, n = torch.rand, Replay.sample, trainer.config.dqn.num_mazes // world

    def rand(*shape: int, generator: torch.Generator, **options: Any) -> Tensor:
        if generator is not trainer.generator:
            return plain(*shape, generator=generator, **options)
        part = (*shape[:-1], shape[-1] // world)
        return torch.cat([plain(*part, generator=g, **options) for g in generators], -1)

    def sample(replay: Replay, size: int, _: torch.Generator) -> Transition:
        batches = []
        for rank, generator in enumerate(generators):
            part = copy.copy(replay)
            part.data = {k: x[:, rank * n : (rank + 1) * n] for k, x in replay.data.items()}
            batches.append(draw(part, size // world, generator))
        return Transition(*map(joined, zip(*batches, strict=True)))

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(Replay, "sample", sample)


def joined(parts: tuple[Any, ...]) -> Any:
    """One field of several batches as that of one: tensors, seeds or nothing."""
    if parts[0] is None or isinstance(parts[0], Tensor):
        return None if parts[0] is None else torch.cat(parts)
    return Carry(*map(torch.cat, zip(*parts, strict=True)))


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_learn_and_resume_as_one_process(
    world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mazes, exploration, bounds in hindsight and targets included; float32."""
    start_ranks(world, tmp_path)
    for name, case in CASES.items():
        sizes = ("num_mazes", "batch_size", "replay_size", "learning_starts")
        dqn = replace(case.dqn, **{size: getattr(case.dqn, size) * world for size in sizes})
        one = Trainer(replace(case, dqn=dqn), CPU)
        with monkeypatch.context() as patch:
            draw_as_ranks_do(one, world, patch)
            right = learn(one)
        found = [
            torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=False) for rank in range(world)
        ]
        for rank in found:
            assert torch.equal(rank["flat"], found[0]["flat"])
            for exact in ("boards", "actions"):
                assert torch.equal(rank[exact], right[exact]), exact
            assert rank["episodes"] == pytest.approx(right["episodes"])
            assert rank["evaluated"].success == right["evaluated"].success
            for close in ("flat", "target", "losses"):
                off = (rank[close] - right[close]).norm() / right[close].norm()
                assert off < 1e-6, close  # 6.0e-7 at most where this was written
