"""A training update, eager, compiled and fused: `python -m profiling.bench_train [--device cuda]`.

All peers first give the Q values, states and gradients of float64 on the same weights and boards
(in bfloat16 no further off than twice eager PyTorch), or nothing is timed. Then they take turns.
FLOPs are the algorithm's, the same for every peer: that the last H block is computed only at the
tokens that are read makes them no smaller. On a CPU the optimiser is fused in every row, and
simulator and replay are the same too.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from hrm_fast import HRM
from hrm_fast.config import DType
from profiling.bench_maze import machine
from profiling.train_peers import (
    Case,
    cycle_flops,
    forward_flops,
    peers,
    segment_flops,
    shaped,
    train_segment,
)
from train import cli
from train.trainer import Trainer

SHAPES = ("quick", "maze", "paper")
PEERS = {
    "cpu": ("reference", "compiled", "unfused", "cpu"),
    "cuda": ("reference", "compiled", "triton", "cuda"),
}
# rows and dtype of the product whose speed counts as the peak
MATRIX = {"cpu": (2048, torch.float32), "cuda": (8192, torch.bfloat16)}
HEADER = ["shape", "what", "kernels", "median ms", "min ms", "max ms", "GFLOP/s", "of peak", "x"]
Runner = Callable[[], object]


class Row(NamedTuple):
    names: tuple[str, str, str]  # shape, what, kernels
    run: Runner
    flops: float  # of one `run`
    updates: int = 1  # in one `run`; times are given for one


def rows_of(names: tuple[str, str], trainer: Trainer, case: Case) -> list[Row]:
    config, collector = trainer.config, trainer.collector
    hrm, S, N = config.hrm, config.hrm.segments, config.dqn.num_mazes
    shape, kernels = names
    return [
        Row((shape, "update", kernels), trainer.cycle, cycle_flops(config), S),
        Row(
            (shape, "segment, forward + backward", kernels),
            lambda: (trainer.optimiser.grad.zero_(), train_segment(trainer.hrm, case, S == 1)),
            config.dqn.batch_size * segment_flops(hrm),
        ),
        Row(
            (shape, f"decision of {N} boards", kernels),
            lambda: HRM.act(trainer.hrm, collector.obs, collector.z),
            N * S * forward_flops(hrm),
        ),
    ]


def matmul_row(device: str, threads: int, usual: int) -> Row:
    n, dtype = MATRIX[device]
    a, b = torch.rand(2, n, n, device=device, dtype=dtype)
    how = f"threads {threads}" if device == "cpu" else "bfloat16"

    def run() -> None:
        torch.set_num_threads(threads)
        a @ b
        torch.set_num_threads(usual)

    return Row(("peak", f"product {n} x {n}, {how}", "torch"), run, 2 * n**3)


def now() -> float:
    """Seconds, all work done that was given to a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(rows: list[Row], repeats: int) -> list[list[float]]:
    """Seconds of one `run` in every repeat; the rows take turns, so that a busy moment hits all."""
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in range(repeats + 1):
        for row, values in zip(rows, seconds, strict=True):
            begin, calls = now(), 0
            while calls == 0 or time.perf_counter() - begin < 0.1:
                row.run()
                calls += 1
            values.append((now() - begin) / calls)
    return [values[1:] for values in seconds]  # the first one warms up


def phases(trainer: Trainer) -> str:
    """The phase clock's shares, and how much of the whole is spent inside the model."""
    if trainer.is_repeatable():
        return "one CUDA graph: profiling/nsys_train.sh shows what is in it"
    act = trainer.phase.seconds.pop("act")
    seconds = trainer.phase.seconds
    model = (act + seconds["segment"]) / sum(seconds.values())
    return f"{trainer.phase.report()}  (in the model {model:.0%}, all else {1 - model:.1%})"


def lines_of(rows: list[Row], seconds: list[list[float]]) -> list[list[str]]:
    medians = {r.names: statistics.median(s) for r, s in zip(rows, seconds, strict=True)}
    peak = max(r.flops / min(s) for r, s in zip(rows, seconds, strict=True) if r.names[0] == "peak")
    lines = []
    for row, values in zip(rows, seconds, strict=True):
        median, speed = medians[row.names], row.flops / medians[row.names]
        times = (1e3 * t / row.updates for t in (median, min(values), max(values)))
        eager = medians.get((*row.names[:2], "reference"))
        gain = "" if eager is None else f"{eager / median:.2f}"
        speeds = [f"{speed / 1e9:.1f}", f"{speed / peak:.1%}", gain]
        lines.append([*row.names, *(f"{t:.3f}" for t in times), *speeds])
    return lines


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=PEERS, default="cpu")
    parser.add_argument("--dtype", choices=get_args(DType), help="cpu: float32, cuda: bfloat16")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    kernels = sorted({kernels for peers in PEERS.values() for kernels in peers})
    parser.add_argument("--kernels", nargs="+", choices=kernels, help="all that the device has")
    parser.add_argument("--paper-batch", type=int, help="cpu: 32, cuda: 256, as published")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--csv", type=Path, help="also write the table here")
    args = parser.parse_args(words)
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device is cuda: expected a GPU that torch can use")
    for name in ("paper_batch", "repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}: expected 1 or more")
    if args.csv and not args.csv.parent.is_dir():
        parser.error(f"--csv is {args.csv}: expected a file in a folder that is there")
    args.kernels = args.kernels or PEERS[args.device]
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    args.paper_batch = args.paper_batch or (256 if on_gpu else 32)
    return args


def main() -> None:
    args = parse()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64  # each shape, and each model, is compiled once
    about = f"{machine()}, threads {args.threads}, torch {torch.__version__}"
    threads = sorted({1, args.threads})
    if device.type == "cuda":
        about += f", {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        threads = [args.threads]
    rows = [matmul_row(args.device, n, args.threads) for n in threads]
    print(about, flush=True)
    lines: list[list[str]] = [HEADER]
    clocks: dict[str, Trainer] = {}
    for shape in args.shapes:
        config = shaped(shape, args.paper_batch, args.dtype)
        dqn, S = config.dqn, config.hrm.segments
        name = f"{shape}, B {dqn.batch_size}, N {dqn.num_mazes}, S {S}"
        trainers, missing, case = peers(config, name, args.kernels, device)
        lines += missing
        by_peer = [rows_of((name, kernels), t, case) for kernels, t in trainers.items()]
        rows += [row for what in zip(*by_peer, strict=True) for row in what]
        clocks |= {f"{name}, {kernels}": t for kernels, t in trainers.items()}
    for trainer in clocks.values():
        trainer.phase.seconds.clear()  # of the first cycle, which compiles
    lines += lines_of(rows, measure(rows, args.repeats))
    for line in lines:
        print(f"{line[0]:30}{line[1]:32}{line[2]:11}" + "".join(f"{x:>11}" for x in line[3:]))
    if device.type == "cuda":
        print(f"all of them together took {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    print("x: the reference's time / this row's. Where an update's time goes:")
    for name, trainer in clocks.items():
        print(f"{name}: {phases(trainer)}")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([*lines, [about]])


if __name__ == "__main__":
    cli.main(main)
