"""What learns sooner: one factor at a time, over seeds: `python -m profiling.study --out FOLDER`.

Every row of VARIANTS is a change of the base's command line; all of them run as `train.dqn`, a few
side by side, one thread each. A run that is whole in FOLDER is not made again, one that was
stopped goes on, so the study can be stopped and started anew at any time.
"""

import argparse
import csv
import os
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

FACTORS: dict[str, tuple[object, ...]] = {
    "dqn.gamma": (0.9, 0.95, 0.97),
    "dqn.hindsight": (0, 15, 30, 60),
    "dqn.target-decay": (0.95, 0.98, 0.99),
    "dqn.epsilon-end": (0.05, 0.1, 0.2),
    "dqn.num-mazes": (16, 32, 64, 128),
    "dqn.batch-size": (32, 64, 128),
    "dqn.replay-size": (20_000, 100_000),
    "dqn.learning-rate": (1.5e-3, 3e-3, 6e-3),
    "dqn.final-learning-rate": (0.0, 0.1, 1.0),
    "dqn.muon-learning-rate": (0.0, 0.01, 0.02, 0.04),
    "dqn.max-grad-norm": (0.0, 1.0),
    "hrm.segments": (1, 2),
    "hrm.h-cycles": (1, 2),
    "hrm.l-cycles": (1, 2, 4),
    "hrm.h-layers": (1, 2, 3),
    "hrm.l-layers": (1, 2, 3),
    "hrm.q-token": ("goal", "agent", "last", "mean"),
    "hrm.positions": ("rope", "rope2d", "learned", "rope2d+learned"),
    "hrm.position-start": ("random", "sincos"),
    "hrm.carry": ("reset", "carry", "full"),
    "hrm.walls": (None,),
    "dqn.weight-decay": (0.0, 0.1, 0.3, 1.0),
    "env.crop-wall": (True, False),
}


def flags(name: str, value: object) -> list[str]:
    section, field = name.split(".")
    if isinstance(value, bool):
        return [f"--{section}.{'' if value else 'no-'}{field}"]
    return [f"--{name}", str(value)]


VARIANTS: dict[str, list[str]] = {"base": []} | {
    f"{name.split('.')[1]}-{value}".lower(): flags(name, value)
    for name, values in FACTORS.items()
    for value in values
}
for width in (32, 48, 64):  # heads of 16 numbers, inner twice the width
    VARIANTS[f"width-{width}"] = [
        *flags("hrm.width", width),
        *flags("hrm.heads", width // 16),
        *flags("hrm.inner", 2 * width),
    ]
LEVELS = (0.5, 0.9, 0.95, 0.99)  # shares of solved episodes whose first crossing is told


class Job(NamedTuple):
    name: str
    seed: int
    folder: Path
    command: list[str]  # arguments of train.dqn


class Point(NamedTuple):
    """One greedy evaluation."""

    update: int
    transitions: int
    seconds: float
    success: float


def plan(args: argparse.Namespace) -> list[Job]:
    """All jobs, a seed of every variant first; variants that the base is already are left out."""
    base = [*shlex.split(args.base_args), "--updates", str(args.updates)]
    plain = parse_flags(base)
    changes = {name: VARIANTS[name] for name in args.names}
    wanted = [n for n in changes if n == "base" or parse_flags([*base, *changes[n]]) != plain]
    return [
        Job(name, seed, folder, [*base, *changes[name], "--seed", str(seed)])
        for seed in args.seeds
        for name in wanted
        for folder in [args.out / f"{name}-{seed}"]
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


def success_at(curve: list[Point], unit: str, limit: float) -> float | None:
    """Of the last evaluation by that update or second; None before the first."""
    by_then = [p.success for p in curve if getattr(p, unit) <= limit]
    return by_then[-1] if by_then else None


def row_of(job: Job, when: list[tuple[str, float]]) -> dict[str, Any]:
    curve = points(job.folder)
    changes = shlex.join(VARIANTS[job.name])
    row: dict[str, Any] = {"name": job.name, "changes": changes, "seed": job.seed}
    row |= curve[-1]._asdict() if curve else dict.fromkeys(Point._fields)
    row |= {f"success at {unit} {x:g}": success_at(curve, unit, x) for unit, x in when}
    for level in LEVELS:
        point = reached(curve, level)
        row |= {f"update of {level:.0%}": point and point.update}
        row |= {f"seconds to {level:.0%}": point and point.seconds}
    return row


def mean_and_range(values: Iterable[float | None], form: str) -> str:
    """Of the seeds that have a value, and how many those are where it is not all."""
    every = list(values)
    known = [v for v in every if v is not None]
    if not known:
        return "-"
    text = f"{statistics.mean(known):{form}} ({min(known):{form}} to {max(known):{form}})"
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
        [name, str(len(own)), *(mean_and_range((r[c] for r in own), f) for c, f in columns.items())]
        for name in sorted(by_name, key=score, reverse=True)
        for own in [by_name[name]]
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument(
        "--names", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--base-args", default="--preset quick", help="one word, in quotes")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at", nargs="+", type=int, help="updates whose success is told")
    parser.add_argument("--at-seconds", nargs="+", type=float, default=[])
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
    when = [("update", x) for x in args.at] + [("seconds", x) for x in args.at_seconds]
    rows = [row_of(job, when) for job in jobs if job not in failed]
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
