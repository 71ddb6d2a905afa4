"""The README's table of trained agents: `python -m profiling.agents_table`.

Walks every agent of profiling/results through five times 1,024 unseen episodes, beside a walker
that plans its shortest path anew on every step, writes profiling/results/agents.csv and prints the
table; `--table` prints that of the file that is there.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch

from train import cli
from train.agents import RESULTS, trained
from train.checkpoint import load, replacing
from train.evaluate import greedy, rollout, shortest_path_walker, wilson

TABLE = RESULTS / "agents.csv"
EVALUATION_SEEDS = (1, 2, 3, 4, 5)
EPISODES = 1024  # for each of them
REPLANNED = "re-planned"  # in the column `run`
COLUMNS = (
    *("preset", "run", "evaluation_seed", "episodes", "solved"),
    *("mean_length", "shortest_ratio"),
)
HEADER = (
    *("agent", "success (95 % interval)", "mean steps", "steps / shortest"),
    *("decisions to train", "minutes", "on"),
)


def measure() -> Iterator[dict[str, object]]:
    """The rows of agents.csv."""
    device = torch.device("cpu")
    for preset in trained():
        runs = sorted((RESULTS / preset).glob("seed*/best.safetensors"))
        agents = {path.parent.name: load(path) for path in runs}
        spec = next(iter(agents.values()))[0].env
        for seed in EVALUATION_SEEDS:
            walkers = {run: greedy(hrm, EPISODES) for run, (_, hrm) in agents.items()}
            for run, walker in (walkers | {REPLANNED: shortest_path_walker}).items():
                result = rollout(spec, walker, EPISODES, seed, device)
                print(f"{preset} {run}, episodes of seed {seed}: {result.success:.1%}", flush=True)
                yield {
                    "preset": preset,
                    "run": run,
                    "evaluation_seed": seed,
                    "episodes": EPISODES,
                    "solved": round(result.success * EPISODES),
                    "mean_length": f"{result.mean_length:.6g}",
                    "shortest_ratio": f"{result.shortest_ratio:.6g}",
                }


def training(folder: Path) -> tuple[int, float]:
    """Transitions and seconds of a run at the update whose weights were kept as its best."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/success"]]
    best = max(reversed(rows), key=lambda row: float(row["eval/success"]))  # the last of equals
    return int(best["transitions"]), float(best["seconds"])


def table(path: Path = TABLE) -> str:
    """agents.csv as the README shows it, a line for each agent."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["preset"], row["run"]), []).append(row)
    lines = [HEADER, ("---",) * len(HEADER)]
    for (preset, run), own in groups.items():
        solved, episodes = (sum(int(row[name]) for row in own) for name in ("solved", "episodes"))
        low, high = wilson(solved, episodes)
        length, ratio = (
            sum(float(row[name]) for row in own) / len(own)
            for name in ("mean_length", "shortest_ratio")
        )
        name, cost = f"`{preset}`, {run} walker", ("", "", "")
        if run != REPLANNED:
            name = f"`{preset}`, {run.replace('seed', 'seed ')}"
            transitions, seconds = training(path.parent / preset / run)
            machine = (path.parent / preset / "machine.txt").read_text().strip()
            cost = f"{transitions / 1e6:.2f} million", f"{seconds / 60:.1f}", machine
        success = f"{solved / episodes:.1%} ({low:.1%} to {high:.1%})"
        lines.append((name, success, f"{length:.1f}", f"{ratio:.2f}", *cost))
    return "".join("".join(f"| {x} " if x else "| " for x in line) + "|\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument("--table", action="store_true", help="only print it")
    if not parser.parse_args().table:
        with replacing(TABLE) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(measure())
    print(table(), end="")


if __name__ == "__main__":
    cli.main(main)
