"""What learns sooner, over seeds: `python -m profiling.study --out OUT --changes "dqn.gamma 0.9"`.

The base and every change of its command line run as `train.dqn`, a few side by side, one thread
each. A run that is whole in OUT is not made again, one that was stopped goes on, so the study
can be stopped and started anew at any time.
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from train import cli
from train import config as configs
from train.config import SEED_LIMIT, require
from train.files.names import CONFIG, METRICS, STATE
from train.run.flags import parse as parse_flags

LEVELS = (0.5, 0.9, 0.95, 0.99)  # shares of solved episodes whose first crossing is told


class Job(NamedTuple):
    name: str
    changes: str
    seed: int
    folder: Path
    command: list[str]  # arguments of train.dqn


class Point(NamedTuple):
    """One greedy evaluation."""

    update: int
    transitions: int
    seconds: float
    success: float


def name_of(changes: str) -> str:
    """`--hrm.carry full` is carry-full."""
    return re.sub(r"--([a-z]+\.)?", "", changes).replace(" ", "-").lower() or "base"


def plan(args: argparse.Namespace) -> list[Job]:
    """All jobs, a seed of every change first; changes to what the base is already are left out."""
    base = [*shlex.split(args.base_args), "--updates", str(args.updates)]
    plain = parse_flags(base)
    changes = [f"--{words}" for words in args.changes]
    wanted = ["", *(c for c in changes if parse_flags([*base, *shlex.split(c)]) != plain)]
    return [
        Job(name, change, seed, args.out / f"{name}-{seed}", [*command, "--seed", str(seed)])
        for seed in args.seeds
        for change in wanted
        for name, command in [(name_of(change), [*base, *shlex.split(change)])]
    ]


def points(folder: Path) -> list[Point]:
    """The run's evaluations; empty where there are none yet."""
    path = folder / METRICS
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/success"]]
    return [
        Point(
            int(r["update"]), int(r["transitions"]), float(r["seconds"]), float(r["eval/success"])
        )
        for r in rows
    ]


def whole(job: Job) -> bool:
    """Whether the run is at its end. ValueError: the folder holds a run of another command."""
    note, log = job.folder / "command", job.folder / METRICS
    asked = shlex.join(job.command)
    if not note.exists() or not log.exists():
        return False
    if note.read_text() != asked:
        raise ValueError(
            f"{job.folder} holds a run of {note.read_text()!r}: expected {asked!r}, "
            "or another --out"
        )
    with log.open(newline="") as file:
        last = max((int(row["update"]) for row in csv.DictReader(file)), default=0)
    return last >= configs.load(job.folder / CONFIG).updates


def run(job: Job, running: set[subprocess.Popen[bytes]]) -> int:
    """Train in a process of its own, in a group of its own: only we stop it."""
    how = [*job.command, "--run-dir", str(job.folder)]
    if (job.folder / STATE).exists():
        how = ["--resume", str(job.folder)]
    else:
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True)
    (job.folder / "command").write_text(shlex.join(job.command))
    with (job.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "train.dqn", *how],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        running.add(process)
        status = process.wait()
    running.discard(process)
    return status


def stop(*_: object) -> None:
    """A signal's handler; another one must not keep us from ending what we started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_all(jobs: list[Job], side_by_side: int) -> list[Job]:
    """Run what is not whole yet; returns the jobs that failed. A signal stops and saves them."""
    running: set[subprocess.Popen[bytes]] = set()
    pool = ThreadPoolExecutor(side_by_side)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    failed = []
    try:
        for job, status in zip(jobs, pool.map(lambda j: run(j, running), jobs), strict=True):
            last = points(job.folder)[-1:]
            success = f"{last[0].success:.1%} after {last[0].seconds:.0f} s" if last else "-"
            good = status == 0 and whole(job)
            what = success if good else f"failed, see {job.folder}/log.txt"
            print(f"{job.name}, seed {job.seed}: {what}", flush=True)
            if not good:
                failed.append(job)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        pool.shutdown()
        if not isinstance(error, KeyboardInterrupt):
            raise
        raise SystemExit("stopped; the same command goes on") from None
    return failed


def reached(curve: list[Point], level: float) -> Point | None:
    return next((p for p in curve if p.success >= level), None)


def success_at(curve: list[Point], update: int) -> float | None:
    """Of the last evaluation by then; None before the first."""
    by_then = [p.success for p in curve if p.update <= update]
    return by_then[-1] if by_then else None


def row_of(job: Job, updates: list[int]) -> dict[str, Any]:
    curve = points(job.folder)
    row: dict[str, Any] = {"name": job.name, "changes": job.changes, "seed": job.seed}
    row |= curve[-1]._asdict() if curve else dict.fromkeys(Point._fields)
    row |= {f"success at update {at}": success_at(curve, at) for at in updates}
    for level in LEVELS:
        point = reached(curve, level)
        row |= {f"update of {level:.0%}": point and point.update}
        row |= {f"seconds to {level:.0%}": point and point.seconds}
    return row


def spread(values: Iterable[float | None], form: str = ".0f") -> str:
    """Median and range of the seeds that have a value, and how many those are where not all do."""
    every = list(values)
    known = [x for x in every if x is not None]
    if not known:
        return "-"
    text = f"{statistics.median(known):{form}}"
    text += f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return text if len(known) == len(every) else f"{text}, {len(known)} of {len(every)}"


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A line for each name, by the mean of its successes: what learns sooner stands above."""
    successes = [c for c in rows[0] if c.startswith("success at")]
    columns = dict.fromkeys(successes, ".1%") | {f"seconds to {x:.0%}": ".0f" for x in LEVELS}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)

    def score(name: str) -> float:
        return statistics.mean(row[c] or 0.0 for row in by_name[name] for c in successes)

    return [["name", "seeds", *columns]] + [
        [name, str(len(own)), *(spread((r[c] for r in own), f) for c, f in columns.items())]
        for name in sorted(by_name, key=score, reverse=True)
        for own in [by_name[name]]
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument(
        "--changes", nargs="+", default=[], metavar="FLAG", help='such as "hrm.carry full"'
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--base-args", default="--preset quick", help="one word, in quotes")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at", nargs="+", type=int, help="updates whose success is told")
    args = parser.parse_args(argv)
    require("jobs", args.jobs, 1 <= args.jobs <= 1024, "1 to 1024")
    for seed in args.seeds:
        require("seeds", seed, 0 <= seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")
    args.at = args.at or [args.updates * i // 4 for i in (1, 2, 3, 4)]
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    jobs = plan(args)
    args.out.mkdir(parents=True, exist_ok=True)  # a bad path fails here
    failed = run_all([job for job in jobs if not whole(job)], args.jobs)
    rows = [row_of(job, args.at) for job in jobs if job not in failed]
    if rows:
        with (args.out / "study.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        lines = table(rows)
        widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
        for line in lines:
            print("".join(f"{x:<{w}}" for x, w in zip(line, widths, strict=True)).rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    cli.main(main)
