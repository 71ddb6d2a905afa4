"""Jobs of several processes on one machine, over gloo: what they learn is what one process learns
from all their mazes and batches, and they go on from their states after a death."""

import copy
import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_learning_options import TINY
from test_maze import SPECS, assert_same, random_actions
from test_maze_device import resident
from torch import Tensor

from envs import MazeBatch
from train import checkpoint, distributed, state
from train.config import Config
from train.dqn import Trainer
from train.evaluate import evaluate
from train.replay import Replay
from train.run import Run, choose_folder
from train.state import PREVIOUS, STATE

CPU = torch.device("cpu")
CYCLES = 10


def config(hrm: dict[str, Any], dqn: dict[str, Any]) -> Config:
    return replace(TINY, hrm=replace(TINY.hrm, **hrm), dqn=replace(TINY.dqn, **dqn))


CASES = {
    "quick": config({"carry": "reset", "segments": 1}, {"priority": 0.6, "relabel": 0.5}),
    "carried": config({"carry": "carry", "kernels": "reference"}, {"refresh": 2}),
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
    monkeypatch.setattr(distributed, "world", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(8))
    assert shares == [(0, 2), (2, 3), (5, 3)]
    seeds = {distributed.seed_of(rank, seed) for rank in range(8) for seed in range(8)}
    assert len(seeds) == 64
    assert distributed.seed_of(0, 7) == 7


def learn(trainer: Trainer) -> dict[str, Any]:
    """Some cycles, and what they led to."""
    losses = torch.stack([torch.stack(trainer.cycle()) for _ in range(CYCLES)])
    return {
        "flat": trainer.optimiser.flat,
        "target": trainer.optimiser.target_flat,
        "losses": distributed.total(losses) / distributed.world(),
        "boards": distributed.joined(trainer.collector.obs),
        "actions": distributed.joined(trainer.replay.state()["a_tm1"].T),
        "episodes": trainer.collector.finished(),
        "evaluated": evaluate(trainer.judged, trainer.config.env, 20, seed=1),
    }


def be_a_rank(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    assert distributed.join("auto") == CPU
    for name, case in CASES.items():
        torch.save(learn(Trainer(case, CPU)), folder / f"{name}.{rank}.pt")
    go_on_from_the_newest_state_of_all(rank, folder)
    go_on_from_a_url_that_was_out_of_reach(folder)
    distributed.leave()


def go_on_from_the_newest_state_of_all(rank: int, folder: Path) -> None:
    """The last rank "died" before it could write its newest state."""
    case = replace(CASES["quick"], updates=14, save_every=4, run_dir=str(folder / "run"))
    straight = Run(case, Trainer(case, CPU))
    straight.train()
    straight.close()
    if rank == distributed.world() - 1:
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


class Crashed(BaseException):
    """Passes through whatever catches exceptions, as a death does."""


def crash(case: Config, out_until: int, at: int | None, in_copy: int | None) -> None:
    """Train until a crash before the cycle of an update, or in the midst of copying one's state.

    The last rank's copies fail from update 4 on.
    """
    run, last = Run(case, Trainer(case, CPU)), distributed.rank() == distributed.world() - 1
    assert run.mirror is not None
    files, cycle = run.mirror.fs, run.trainer.cycle
    put = files.put_file

    def put_or_fail(*paths: str) -> None:
        update = run.trainer.update
        if last and 4 <= update < out_until:
            raise TimeoutError("no answer")
        if last or update != in_copy:
            put(*paths)
        if update == in_copy:
            raise Crashed

    def cycle_or_crash() -> tuple[Tensor, Tensor]:
        if run.trainer.update == at:
            raise Crashed
        return cycle()

    files.put_file, run.trainer.cycle = put_or_fail, cycle_or_crash
    with pytest.raises(Crashed):
        run.train()
    del files.put_file  # of all that use this file system


def go_on_from_a_url_that_was_out_of_reach(folder: Path) -> None:
    case = replace(CASES["quick"], updates=22, save_every=4, log_every=2)
    straight = Run(replace(case, run_dir=str(folder / "straight")), Trainer(case, CPU))
    straight.train()
    straight.close()
    for out_until, at, in_copy, newest in (
        (10, 6, None, 0),
        (10, 9, None, 0),
        (10, 10, None, 8),
        (10, 18, None, 16),
        (8, None, 8, 0),  # after which the last rank has 8 and 0, the others 4 and 0
    ):
        here = replace(case, run_dir=f"file://{folder}/url-{at}")
        crash(here, out_until, at, in_copy)
        here = replace(here, resume=here.run_dir)
        again = Run(here, Trainer(here, CPU))
        assert again.trainer.update == newest
        again.train()
        again.close()
        for name, x in state.tensors(straight.trainer).items():
            assert torch.equal(x, state.tensors(again.trainer)[name]), name


def start_ranks(world: int, folder: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    torch.multiprocessing.spawn(be_a_rank, (world, port, folder), nprocs=world)


def draw_as_ranks_do(trainer: Trainer, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every W-th of what one process draws comes from the generator of one rank."""
    seeds = [distributed.seed_of(rank, trainer.config.seed) for rank in range(world)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    plain, dqn, n = torch.rand, trainer.config.dqn, trainer.config.dqn.num_mazes // world
    name = "_draw_by_priority" if dqn.priority else "_draw"
    draw_one = getattr(Replay, name)

    def rand(*shape: int, generator: torch.Generator, **options: Any) -> Tensor:
        if generator is not trainer.generator:
            return plain(*shape, generator=generator, **options)
        part = (*shape[:-1], shape[-1] // world)
        return torch.cat([plain(*part, generator=g, **options) for g in generators], -1)

    def draw(replay: Replay, size: int, _: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        ages, mazes = [], []
        for rank, generator in enumerate(generators):
            part = copy.copy(replay)
            part.data = {k: x[:, rank * n : (rank + 1) * n] for k, x in replay.data.items()}
            age, maze, _ = draw_one(part, size // world, generator)
            ages.append(age)
            mazes.append(maze + rank * n)
        age, maze = torch.cat(ages), torch.cat(mazes)
        if not dqn.priority:
            return age, maze, None
        row = (replay.head - replay.filled + age) % replay.rows
        weight = replay.data["priority"][row, maze] ** -dqn.priority_correction
        return age, maze, weight / weight.max()

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(Replay, name, draw)


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_learn_what_one_process_learns(
    world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mazes, exploration, priorities, new goals and targets included; float32."""
    start_ranks(world, tmp_path)
    for name, case in CASES.items():
        sizes = ("num_mazes", "batch_size", "replay_size", "learning_starts")
        dqn = replace(case.dqn, **{size: getattr(case.dqn, size) * world for size in sizes})
        one = Trainer(replace(case, dqn=dqn), CPU)
        with monkeypatch.context() as patch:
            draw_as_ranks_do(one, world, patch)
            right = learn(one)
        ranks = [
            torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=False) for rank in range(world)
        ]
        for rank in ranks:
            assert torch.equal(rank["flat"], ranks[0]["flat"])
            for exact in ("boards", "actions"):
                assert torch.equal(rank[exact], right[exact]), exact
            assert rank["episodes"] == pytest.approx(right["episodes"])
            assert rank["evaluated"].success == right["evaluated"].success
            for close in ("flat", "target", "losses"):
                off = (rank[close] - right[close]).norm() / right[close].norm()
                assert off < 1e-6, close  # 1.9e-7 at most where this was written


FLAGS = (
    *("--preset", "quick", "--device", "cpu", "--dqn.num-mazes", "8", "--dqn.batch-size", "8"),
    *("--eval-episodes", "8", "--dqn.learning-starts", "64", "--log-every", "20"),
    *("--save-every", "20"),
)


class Job:
    """torchrun with two processes that train, seen from outside."""

    def __init__(self, where: str | Path, *flags: str, restarts: int = 0) -> None:
        start = (sys.executable, "-m", "torch.distributed.run", "--standalone")
        start += ("--nproc-per-node", "2", "--max-restarts", str(restarts))
        run = ("-m", "train.dqn", *FLAGS, "--run-dir", str(where), *flags)
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            (*start, *run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        self.said: list[str] = []

    def wait_for_a_log_line(self) -> None:
        assert self.process.stdout is not None
        while not (self.said and self.said[-1].startswith("update ")):
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], self.process.communicate()[1]

    def kill_rank_1(self) -> None:
        listed = subprocess.run(
            ("pgrep", "-P", str(self.process.pid)), capture_output=True, text=True, check=True
        )
        ranks = [pid for pid in map(int, listed.stdout.split()) if rank_of(pid) == "1"]
        os.kill(ranks[0], signal.SIGKILL)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, "".join(self.said) + out, err


def rank_of(pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(v.split("=", 1) for v in variables if "=" in v).get("RANK")


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds ranks in /proc")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_torchrun_starts_a_job_again_from_its_states(scheme: str, tmp_path: Path) -> None:
    where = f"{scheme}{tmp_path}/run"
    job = Job(where, "--updates", "160", "--eval-every", "160", restarts=1)
    job.wait_for_a_log_line()
    job.kill_rank_1()
    status, out, err = job.end()
    assert status == 0, err
    assert "exitcode: -9" in err
    lines = [int(line.split()[1]) for line in out.splitlines() if line.startswith("update ")]
    assert 20 in lines
    assert lines.count(20) == 1  # not from the beginning
    with open(tmp_path / "run/metrics.csv") as file:
        updates = [int(row["update"]) for row in csv.DictReader(file)]
    assert updates == list(range(20, 161, 20))
    assert out.count("time went to") == 1


@pytest.mark.slow
@needs_proc
def test_a_death_ends_the_job_with_its_cause(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", "--updates", "1000000")
    job.wait_for_a_log_line()
    job.kill_rank_1()
    status, _, err = job.end()
    assert status != 0
    cause = err.split("Root Cause")[1]
    assert "rank      : 1" in cause
    assert "SIGKILL" in cause


@pytest.mark.slow
def test_a_signal_stops_all_ranks_at_one_update(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", "--updates", "1000000")
    job.wait_for_a_log_line()
    job.process.send_signal(signal.SIGTERM)
    _, out, err = job.end()
    folder = tmp_path / "run"
    assert f"torchrun --nproc-per-node 2 -m train.dqn --resume {folder}" in out, err
    states = [folder / STATE, folder / "rank1" / STATE]
    assert len({read_update(path) for path in states}) == 1


def read_update(path: Path) -> str:
    with checkpoint.opening(path) as file:
        return file.metadata["update"]


@pytest.mark.slow
def test_bad_input_of_a_job_is_one_line(tmp_path: Path) -> None:
    for flags, message in (
        (("--device", "cuda:1"), "error: device is 'cuda:1': expected auto, cpu or cuda"),
        (("--eval-episodes", "1"), "error: eval-episodes is 1: expected 2 or more"),
    ):
        status, _, err = Job(tmp_path / "run", *flags).end()
        assert status != 0
        assert message in err


def test_a_job_that_may_restart_goes_on_with_its_own_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="run-dir is None: expected a folder"):
        choose_folder(TINY)
    mine = replace(TINY, run_dir=str(tmp_path / "run"))
    assert choose_folder(mine) == mine
    run = Run(mine, Trainer(mine, CPU))
    run.close()
    assert choose_folder(mine) == replace(mine, resume=mine.run_dir)
    with pytest.raises(ValueError, match="which holds a run"):
        choose_folder(replace(mine, seed=1))
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS")
    with pytest.raises(ValueError, match="which holds a run"):
        choose_folder(mine)
