"""Kills training at random moments and checks what is left: python tests/kill_training.py N FOLDER

Each run is killed (SIGKILL) again and again, resumed each time, and in the end has to be what a run
that nobody killed is, bit for bit. After every kill a state has to load that is at most one save
interval behind what the child had told. The children are forked from this process, which has
imported everything and computes nothing before.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from test_continuation import CPU, differing, files, small

from train.config import Config
from train.run.run import Run
from train.run.state import newest
from train.trainer import Trainer

SAVE_EVERY = 4
GOOD, DONE = 10, 11  # exit statuses
LONGEST = 0.25  # seconds until a kill


def config_of(folder: Path, seed: int, updates: int) -> Config:
    config = replace(small("quick", "carry"), seed=seed, updates=updates, run_dir=str(folder))
    return replace(config, save_every=SAVE_EVERY, log_every=6, eval_every=10, eval_episodes=4)


def train(config: Config, told: int) -> None:
    """In a child: begin or go on, and tell every update."""
    folder = Path(config.run_dir or "")
    resume = str(folder) if (folder / "config.json").exists() else None
    trainer = Trainer(config, CPU)
    cycle = trainer.cycle

    def telling() -> tuple[torch.Tensor, torch.Tensor]:
        result = cycle()
        os.write(told, trainer.update.to_bytes(8, "little"))
        return result

    trainer.cycle = telling  # type: ignore[method-assign]
    run = Run(replace(config, resume=resume), trainer)
    os.write(told, trainer.update.to_bytes(8, "little"))
    run.train()
    run.close()


def child(config: Config, seconds: float | None) -> tuple[int, int | None]:
    """Fork one, kill it after some time: how it ended, and the last update it told of."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(os.devnull, "w") as sys.stdout:
                train(config, write)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with open(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    return status, int.from_bytes(told[-8:], "little") if told else None


def is_done(config: Config, told: int | None) -> bool:
    """Check that the newest whole state is at most one interval behind; is it the run's last?"""
    folder = Path(config.run_dir or "")
    if not (folder / "config.json").exists():
        assert told is None, "a run that trains can be resumed"
        return False
    pid = os.fork()
    if pid == 0:
        trainer = Trainer(config, CPU)
        newest(folder, trainer)
        late = (told or 0) - trainer.update
        good = late < SAVE_EVERY + config.hrm.segments
        os._exit((DONE if trainer.update == config.updates else GOOD) if good else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (GOOD, DONE), "the newest state is too old or does not load"
    return status == DONE


def main(kills: int, folder: Path) -> None:
    torch.set_num_threads(1)
    random.seed(kills)
    killed = runs = 0
    while killed < kills:
        runs += 1
        config = config_of(folder / f"killed-{runs}", runs, updates=60)
        done = False
        while not done:
            seconds = random.uniform(0, LONGEST) if killed < kills else None
            status, told = child(config, seconds)
            assert os.WIFSIGNALED(status) or status == 0, f"run {runs} failed"
            killed += os.WIFSIGNALED(status)
            done = is_done(config, told)
        straight = config_of(folder / f"straight-{runs}", runs, updates=60)
        assert child(straight, None)[0] == 0
        left, wanted = (files(Path(c.run_dir or "")) for c in (config, straight))
        assert differing(wanted, left) == []
        assert not list(Path(config.run_dir or "").glob(".*.part"))
        shutil.rmtree(folder)
    print(f"{killed} kills survived in {runs} runs")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
