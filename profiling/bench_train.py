"""A training update on a CPU, eager, compiled and fused: `python -m profiling.bench_train`.

All peers first give the Q values, states and gradients of float64 on the same weights and boards,
or nothing is timed. Then they take turns. FLOPs are the algorithm's, the same for every peer: that
the last H block is computed only at the tokens that are read makes them no smaller. The optimiser
is the fused one in every row, and simulator and replay are the same too.
"""

import argparse
import copy
import csv
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hrm_fast import HRM, Carry, HRMConfig
from profiling.bench_maze import machine
from train.config import PRESETS, Config
from train.dqn import Trainer

SHAPES = ("quick", "paper")
PEERS = ("reference", "compiled", "cpu")
TOLERANCE = 1e-4  # of an answer's largest number
MATRIX = 2048  # rows of the product whose speed counts as the machine's peak
HEADER = ["shape", "what", "kernels", "median ms", "min ms", "max ms", "GFLOP/s", "of peak", "x"]
Runner = Callable[[], object]


class Case(NamedTuple):
    """What one segment trains on."""

    boards: Tensor  # uint8 [B, cells]
    seed: Carry  # [B, *seed_shape] each
    a_tm1: Tensor  # int64 [B]
    target: Tensor  # float32 [B]


class Row(NamedTuple):
    names: tuple[str, str, str]  # shape, what, kernels
    run: Runner
    flops: float  # of one `run`
    updates: int = 1  # in one `run`; times are given for one


def forward_flops(hrm: HRMConfig) -> int:
    """One segment of one board forward; products and attention, a multiply-add being two."""
    T, D, F = hrm.tokens, hrm.width, hrm.inner_width
    block = T * (2 * (4 * D * D + 3 * D * F) + 4 * T * D)
    return hrm.h_cycles * (hrm.l_cycles * hrm.l_layers + hrm.h_layers) * block


def segment_flops(hrm: HRMConfig) -> int:
    """The same with the gradient: twice the last L call and the last H call again."""
    one_each = replace(hrm, h_cycles=1, l_cycles=1)
    return forward_flops(hrm) + 2 * forward_flops(one_each)


def cycle_flops(config: Config) -> int:
    """One step of all mazes and its batch: acting, targets, segments. The optimiser is free."""
    hrm, dqn = config.hrm, config.dqn
    decision = hrm.segments * forward_flops(hrm)
    batch = dqn.batch_size * (decision + hrm.segments * segment_flops(hrm))
    return dqn.num_mazes * decision + batch


def shaped(shape: str, paper_batch: int) -> Config:
    """The preset without an end, its sources of decisions that `cycle_flops` leaves out at zero."""
    if shape == "quick":
        config = PRESETS["quick"]
        return replace(config, updates=10**9, dqn=replace(config.dqn, refresh=0))
    config, B = PRESETS["paper-maze"], paper_batch
    sizes = {"num_mazes": B, "batch_size": B, "replay_size": 64 * B, "learning_starts": 4 * B}
    hrm = replace(config.hrm, dtype="float32")
    return replace(config, updates=10**9, hrm=hrm, dqn=replace(config.dqn, **sizes))


def build(config: Config, kernels: str) -> Trainer:
    """A trainer whose `phase` also has the seconds of all decisions, under "act"."""
    own = "reference" if kernels == "compiled" else kernels
    trainer = Trainer(replace(config, hrm=replace(config.hrm, kernels=own)), torch.device("cpu"))
    for hrm in (trainer.hrm, trainer.target):
        if kernels == "compiled":
            hrm._segment = torch.compile(hrm._segment, fullgraph=True, dynamic=False)
        hrm.act = trainer.phase("act")(hrm.act)
    return trainer


def make_case(trainer: Trainer) -> Case:
    """Random weights where training starts with zeros, and boards some steps into episodes."""
    torch.manual_seed(0)
    hrm, collector, B = trainer.hrm, trainer.collector, trainer.config.dqn.batch_size
    nn.init.normal_(hrm.q_head, std=0.1)
    nn.init.normal_(hrm.puzzle, std=0.1)
    for _ in range(3):
        collector.step(hrm, 1.0, trainer.generator)
    maze = torch.arange(B) % len(collector.obs)
    seed = Carry(collector.seed.z_H[maze], collector.seed.z_L[maze])
    return Case(collector.obs[maze], seed, torch.randint(hrm.config.actions, (B,)), torch.rand(B))


def train_segment(hrm: HRM, case: Case, last: bool) -> Tensor:
    """A decision's last segment, or one whose states the next one reads, forward and backward."""
    carry = hrm.carry_from(case.seed)
    _, q, loss = hrm.td_segment(carry, case.boards, case.a_tm1, case.target, last=last)
    loss.backward()
    return q.detach()


def answers(hrm: HRM, case: Case) -> dict[str, Tensor]:
    """Of one segment: eight in a row turn 1e-7 into 2e-3 on some boards, in eager PyTorch too."""
    q, carry = hrm.decide(case.boards, case.seed, segments=1)
    found = {"decision: q": q, "decision: z_H": carry.z_H, "decision: z_L": carry.z_L}
    for name, last in (("segment", False), ("last segment", True)):
        hrm.zero_grad(set_to_none=False)
        found[f"{name}: q"] = train_segment(hrm, case, last)
        for parameter, p in hrm.named_parameters():
            if p.grad is not None:
                found[f"{name}: gradient of {parameter}"] = p.grad.clone()
    hrm.zero_grad(set_to_none=False)
    return found


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each answer, as a share of the answer's largest number."""
    return {
        name: float((found[name] - right).abs().max() / right.abs().max().clamp_min(1e-30))
        for name, right in exact.items()
    }


def check(error: dict[str, float], who: str) -> None:
    """SystemExit: an answer is off by more than TOLERANCE."""
    for name, value in error.items():
        if not value <= TOLERANCE:
            raise SystemExit(f"{who}: {name} is off by {value:.1e}; nothing is timed")
    name = max(error, key=error.__getitem__)
    print(f"{who}: off from float64 by at most {error[name]:.1e} ({name})", flush=True)


def prepare(
    config: Config, kernels: str, weights: HRM, case: Case
) -> tuple[Trainer, dict[str, Tensor]]:
    """A trainer with these weights that has made its first cycle, its answers before that."""
    trainer = build(config, kernels)
    for hrm in (trainer.hrm, trainer.target):
        hrm.load_state_dict(weights.state_dict())
    found = answers(trainer.hrm, case)
    trainer.cycle()
    return trainer, found


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
            lambda: HRM.act(trainer.hrm, collector.obs, collector.seed),
            N * S * forward_flops(hrm),
        ),
    ]


def matmul_row(threads: int, usual: int) -> Row:
    a, b = torch.rand(2, MATRIX, MATRIX)

    def run() -> None:
        torch.set_num_threads(threads)
        a @ b
        torch.set_num_threads(usual)

    what = f"product {MATRIX} x {MATRIX}, threads {threads}"
    return Row(("peak", what, "torch"), run, 2 * MATRIX**3)


def measure(rows: list[Row], repeats: int) -> list[list[float]]:
    """Seconds of one `run` in every repeat; the rows take turns, so that a busy moment hits all."""
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in range(repeats + 1):
        for row, values in zip(rows, seconds, strict=True):
            begin, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - begin < 0.1:
                row.run()
                calls += 1
            values.append((time.perf_counter() - begin) / calls)
    return [values[1:] for values in seconds]  # the first one warms up


def peers(
    config: Config, shape: str, chosen: Sequence[str]
) -> tuple[dict[str, Trainer], list[list[str]], Case]:
    """The trainers that are here and answer rightly, and lines that say why others are not."""
    first = build(config, "reference")
    case = make_case(first)
    exact = answers(copy.deepcopy(first.hrm).double(), case)
    trainers: dict[str, Trainer] = {}
    missing = []
    for kernels in ("reference", *(k for k in chosen if k != "reference")):
        try:
            trainers[kernels], found = prepare(config, kernels, first.hrm, case)
        except (ValueError, RuntimeError, ImportError) as why:
            missing.append([shape, "all", kernels, " ".join(str(why).split())[:160]])
            continue
        check(errors(found, exact), f"{shape}, {kernels}")
    return trainers, missing, case


def phases(trainer: Trainer) -> str:
    """The phase clock's shares, and how much of the whole is spent inside the model."""
    act = trainer.phase.seconds.pop("act")
    seconds = trainer.phase.seconds
    model = (act + seconds["segment"] + seconds["backward"]) / sum(seconds.values())
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--kernels", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--paper-batch", type=int, default=32, help="published: 256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64  # each shape, and each model, is compiled once
    about = f"{machine()}, threads {args.threads}, torch {torch.__version__}"
    print(about, flush=True)
    rows = [matmul_row(threads, args.threads) for threads in sorted({1, args.threads})]
    lines: list[list[str]] = [HEADER]
    clocks: dict[str, Trainer] = {}
    for shape in args.shapes:
        config = shaped(shape, args.paper_batch)
        dqn, S = config.dqn, config.hrm.segments
        name = f"{shape}, B {dqn.batch_size}, N {dqn.num_mazes}, S {S}"
        trainers, missing, case = peers(config, name, args.kernels)
        lines += missing
        by_peer = [rows_of((name, kernels), t, case) for kernels, t in trainers.items()]
        rows += [row for what in zip(*by_peer, strict=True) for row in what]
        clocks |= {f"{name}, {kernels}": t for kernels, t in trainers.items()}
    for trainer in clocks.values():
        trainer.phase.seconds.clear()  # of the first cycle, which compiles
    lines += lines_of(rows, measure(rows, args.repeats))
    for line in lines:
        print(f"{line[0]:30}{line[1]:32}{line[2]:11}" + "".join(f"{x:>11}" for x in line[3:]))
    print("x: the reference's time / this row's. Where an update's time goes:")
    for name, trainer in clocks.items():
        print(f"{name}: {phases(trainer)}")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([*lines, [about]])


if __name__ == "__main__":
    main()
