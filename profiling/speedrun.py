"""Every row of the speedrun: `python -m profiling.speedrun --preset maze --seeds 0 1 2 ...`.

Trains the preset once per seed, one run after the other with all threads, and keeps config, log and
best weights in profiling/results/PRESET/seedN. What counts is measured against the walker that
plans its shortest path anew on every step: the first evaluation that reaches 95 or 99 % of what it
solves of the same mazes, and what the best weights solve of 2,048 others. A seed's figures are one
row of profiling/results/speedrun.csv. `--table` prints that file as the README shows it.

A row is a record if a one-sided rank test (Mann & Whitney 1947) of its seconds to 99 %, or where
nobody had got there to 95 %, against the row before gives p < 0.01.
"""

import argparse
import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from scipy.stats import mannwhitneyu

from profiling.bench_maze import machine
from profiling.study import points, spread
from profiling.train_peers import forward_flops
from train import cli
from train import config as configs
from train.config import PRESETS, Config, maze_of, require
from train.episodes import agent, shortest_path_walker
from train.evaluate import SELECTION_SEED, Result, rollout
from train.files.agents import RESULTS
from train.files.checkpoint import load
from train.files.names import BEST, CONFIG, METRICS
from train.files.writing import replacing

TABLE = RESULTS / "speedrun.csv"
EPISODES, EVALUATION_SEED = 2048, 1  # that judge the best weights
SHARES = (95, 99)  # percent of what the walker reaches
COLUMNS = (
    *("board", "method", "commit", "machine", "seed", "walker"),
    *(f"{what} to {share} %" for share in SHARES for what in ("seconds", "transitions")),
    *("seconds in all", "success", "walker on the same", "flops of a decision"),
)
HEADER = (
    *("board", "method", "commit", "seeds", "on", "seconds to 95 / 99 % of the walker"),
    *("thousand transitions", "success", "MFLOP a decision", "p"),
)
Row = dict[str, str]


def train(preset: str, seed: int, folder: Path) -> None:
    """One run with all threads, unless it is there; its log, config and weights go to `folder`."""
    if (folder / METRICS).exists():
        return
    run = Path("runs") / "speedrun" / f"{preset}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    words = ["--preset", preset, "--seed", str(seed), "--run-dir", str(run)]
    subprocess.run([sys.executable, "-m", "train.dqn", *words], check=True, stdout=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, BEST, METRICS):  # the log last: it is the sign
        shutil.copy(run / name, folder / name)


def walk(config: Config, episodes: int, seed: int) -> Result:
    return rollout(maze_of(config), shortest_path_walker, episodes, seed, torch.device("cpu"))


def measure(folder: Path, method: str) -> Row:
    """The row of a run."""
    config, hrm = load(folder / BEST)
    spec, device = maze_of(config), torch.device("cpu")
    about, _, commit = machine().partition(", commit ")
    walker = walk(config, config.eval_episodes, SELECTION_SEED).success
    row: dict[str, object] = {"board": config.preset, "method": method, "commit": commit}
    row |= {"machine": about.partition(", load")[0], "seed": config.seed, "walker": walker}
    curve = points(folder)
    for share in SHARES:
        there = next((p for p in curve if p.success >= share / 100 * walker), None)
        row[f"seconds to {share} %"] = "" if there is None else f"{there.seconds:.1f}"
        row[f"transitions to {share} %"] = "" if there is None else there.transitions
    row["seconds in all"] = f"{curve[-1].seconds:.1f}"
    row["success"] = rollout(spec, agent(hrm, EPISODES), EPISODES, EVALUATION_SEED, device).success
    row["walker on the same"] = walk(config, EPISODES, EVALUATION_SEED).success
    row["flops of a decision"] = config.hrm.segments * forward_flops(config.hrm)
    return {name: str(row[name]) for name in COLUMNS}


def read(path: Path = TABLE) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[Row], path: Path = TABLE) -> None:
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def numbers(rows: list[Row], column: str, unit: float = 1) -> list[float | None]:
    """One for each row, in this unit; None where the run did not get there."""
    return [float(row[column]) / unit if row[column] else None for row in rows]


def rank_test(new: list[Row], old: list[Row]) -> float:
    """p of the seeds being as slow as those of the row before."""
    for share in reversed(SHARES):
        column = f"seconds to {share} %"
        sides = [
            [math.inf if x is None else x for x in numbers(rows, column)] for rows in (new, old)
        ]
        if math.isfinite(min(sides[1])):
            break
    return float(mannwhitneyu(*sides, alternative="less").pvalue)


def table(rows: list[Row]) -> str:
    """A line for each method on each board, in the file's order."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["board"], row["method"], row["commit"]), []).append(row)
    lines = [HEADER, ("---",) * len(HEADER)]
    before: dict[str, list[Row]] = {}
    for (board, method, commit), own in groups.items():
        seconds, transitions = (
            " / ".join(spread(numbers(own, f"{what} to {s} %", unit)) for s in SHARES)
            for what, unit in (("seconds", 1), ("transitions", 1000))
        )
        success = spread(numbers(own, "success", 0.01), ".1f") + " %"
        flops = f"{float(own[0]['flops of a decision']) / 1e6:.0f}"
        p = f"{rank_test(own, before[board]):.2g}" if board in before else ""
        first = (f"`{board}`", method, commit, str(len(own)), own[0]["machine"])
        lines.append((*first, seconds, transitions, success, flops, p))
        before[board] = own
    return "".join("".join(f"| {x} " if x else "| " for x in line) + "|\n" for line in lines)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--method", default="all goals", help="what the table calls it")
    parser.add_argument("--table", action="store_true", help="only print it")
    args = parser.parse_args(words)
    require("preset", args.preset, args.table or args.preset is not None, "one, or --table")
    for seed in args.seeds:
        require("seeds", seed, 0 <= seed < configs.SEED_LIMIT, f"0 to {configs.SEED_LIMIT - 1}")
    return args


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    rows = read()
    for seed in [] if args.table else args.seeds:
        folder = RESULTS / args.preset / f"seed{seed}"
        train(args.preset, seed, folder)
        row = measure(folder, args.method)
        same = ("board", "method", "seed")
        rows = [r for r in rows if any(r[c] != row[c] for c in same)] + [row]
        write(rows)
        to = ", ".join(f"{row[f'seconds to {s} %'] or '-'} s to {s} %" for s in SHARES)
        print(f"seed {seed}: {to} of the walker; {float(row['success']):.2%}", flush=True)
    print(table(rows), end="")


if __name__ == "__main__":
    cli.main(main)
