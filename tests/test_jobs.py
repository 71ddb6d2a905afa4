"""torchrun with two processes on one machine, seen from outside: deaths, restarts, signals."""

import csv
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_continuation import CPU

from tests.tiny import TINY
from train.files import checkpoint
from train.files.names import STATE
from train.run.folder import choose_folder
from train.run.run import Run
from train.trainer import Trainer

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

    def wait_for_update(self, update: int) -> None:
        """Until the log has its row."""
        assert self.process.stdout is not None
        while not (self.said and re.match(rf"update +{update} ", self.said[-1])):
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], self.process.communicate()[1]

    def kill_rank_1(self) -> None:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        children = " ".join((task / "children").read_text() for task in tasks)
        ranks = [pid for pid in map(int, children.split()) if rank_of(pid) == "1"]
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
def test_torchrun_starts_a_job_again_from_its_states(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", "--updates", "160", "--eval-every", "160", restarts=1)
    job.wait_for_update(40)  # so the state of update 20 has been saved
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
    job.wait_for_update(20)
    job.kill_rank_1()
    status, _, err = job.end()
    assert status != 0
    cause = err.split("Root Cause")[1]
    assert "rank      : 1" in cause
    assert "SIGKILL" in cause


@pytest.mark.slow
def test_a_signal_stops_all_ranks_at_one_update(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", "--updates", "1000000")
    job.wait_for_update(20)
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
