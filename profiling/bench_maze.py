"""Steps per second of the mazes beside other people's: `python -m profiling.bench_maze`.

Random actions made beforehand; resets, doors, observations and final observations included. Checks
against the plain-Python oracle before it times. MiniHack and Minigrid join where installed.
"""

import argparse
import csv
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from envs import MazeBatch, MazeSpec, _maze
from profiling.numpy_maze import NumpyCorridors

ROOT = Path(__file__).parents[1]
MAPS = {
    "corridors": MazeSpec(),
    "corridors 21 x 21": MazeSpec(size=21),
    "corridors 31 x 31": MazeSpec(size=31),
    "four-rooms": MazeSpec(map="four-rooms"),
    "room 9 x 9": MazeSpec(map="room"),
}
Runner = Callable[[], int]
"""Runs for some milliseconds and returns the number of maze steps it made."""


def ours(
    spec: MazeSpec, num_envs: int, threads: int = 1, reuse: bool = True, device: str = "cpu"
) -> Runner:
    batch = MazeBatch(spec, num_envs, threads=threads, device=device)
    batch.reset()
    actions = list(torch.randint(spec.actions, (32, num_envs), device=device))
    out = batch.step(actions[0]) if reuse else None
    rounds = 32 if device == "cuda" else max(1, 400_000 // (32 * num_envs))

    def run() -> int:
        for _ in range(rounds):
            for action in actions:
                batch.step(action, out)
        if device == "cuda":
            torch.cuda.synchronize()
        return 32 * rounds * num_envs

    return run


def numpy_corridors(num_envs: int) -> Runner:
    mazes = NumpyCorridors(num_envs)
    actions = np.random.default_rng(0).integers(4, size=(8, num_envs))

    def run() -> int:
        for action in actions:
            mazes.step(action)
        return actions.size

    return run


def gymnasium_peer(module: str, env_id: str, actions: int) -> Runner | None:
    if importlib.util.find_spec(module) is None:
        return None
    import gymnasium  # noqa: PLC0415

    importlib.import_module(module)
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    to_do = np.random.default_rng(0).integers(actions, size=300).tolist()

    def run() -> int:
        for action in to_do:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(to_do)

    return run


def rows() -> dict[str, Runner]:
    table: dict[str, Runner] = {}
    for name, spec in MAPS.items():
        for num_envs in (256, 1024, 4096):
            table[f"{name}, N {num_envs}, 1 thread"] = ours(spec, num_envs)
        table[f"{name}, N 4096, 1 thread, new tensors"] = ours(spec, 4096, reuse=False)
        table[f"{name}, N 4096, 2 threads"] = ours(spec, 4096, threads=2)
    if _maze.cuda_devices():
        for num_envs in (256, 4096, 65_536, 1_048_576):
            table[f"corridors, N {num_envs}, GPU"] = ours(
                MAPS["corridors"], num_envs, device="cuda"
            )
    table["corridors in NumPy, N 4096"] = numpy_corridors(4096)
    peers = {
        "MiniHack room 9 x 9": gymnasium_peer("minihack", "MiniHack-Room-Random-9x9-v0", 4),
        "Minigrid FourRooms": gymnasium_peer("minigrid", "MiniGrid-FourRooms-v0", 3),
    }
    return table | {name: run for name, run in peers.items() if run}


def check() -> None:
    """A few hundred steps against the oracle, then NumPy's moves against ours."""
    sys.path.insert(0, str(ROOT / "tests"))
    from maze_oracle import Maze  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    for name, spec in MAPS.items():
        batch, mazes = MazeBatch(spec, 8), [Maze(spec, i, 0) for i in range(8)]
        for _ in range(100):
            actions = torch.randint(4, (8,), generator=generator)
            views = [bytes(row) for row in batch.step(actions).final_obs.numpy()]
            if views != [maze.step(int(a))[3] for maze, a in zip(mazes, actions, strict=True)]:
                raise SystemExit(f"{name}: not what the oracle says; nothing is timed")
    numpy = NumpyCorridors(512)
    batch = MazeBatch(MazeSpec(), 512)
    for _ in range(50):
        actions = torch.randint(4, (512,), generator=generator)
        batch.load_boards(numpy.boards.reshape(512, 11, 13))
        elapsed = numpy.elapsed.copy()
        step, theirs = batch.step(actions), numpy.step(actions.numpy())
        places = (step.final_obs.numpy() == ord("@")) == (theirs[4] == ord("@"))
        ends = (step.terminated.numpy() == theirs[2]) & (theirs[3] == (elapsed == 79) & ~theirs[2])
        if not (places.all() and ends.all() and (step.reward.numpy() == theirs[1]).all()):
            raise SystemExit("the NumPy corridors disagree; nothing is timed")


def measure(table: dict[str, Runner], repeats: int) -> dict[str, list[float]]:
    """Steps per second of every repeat; the rows take turns, so that a busy moment hits all."""
    speeds: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(repeats + 1):
        for name, run in table.items():
            begin = time.perf_counter()
            steps = run()
            speeds[name].append(steps / (time.perf_counter() - begin))
    return {name: values[1:] for name, values in speeds.items()}  # the first one warms up


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    commit = ""
    if git := shutil.which("git"):
        words = [git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, commit {commit or '?'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--csv", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    check()
    print(machine())
    speeds = measure(rows(), args.repeats)
    fastest = statistics.median(speeds["corridors, N 4096, 1 thread"])
    lines = [["row", "median steps/s", "slowest", "fastest", "corridors / this", "ns / cell"]]
    for name, values in speeds.items():
        median = statistics.median(values)
        lines.append([name, *(f"{v:.0f}" for v in (median, min(values), max(values)))])
        cells = [spec.cells for map_, spec in MAPS.items() if name.startswith(f"{map_},")]
        per_cell = f"{1e9 / max(values) / cells[0]:.3f}" if cells else "-"  # the fastest repeat
        lines[-1] += [f"{fastest / median:.1f}", per_cell]
    for line in lines:
        print(f"{line[0]:46}" + "".join(f"{cell:>18}" for cell in line[1:]))
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([*lines, [machine()]])


if __name__ == "__main__":
    main()
