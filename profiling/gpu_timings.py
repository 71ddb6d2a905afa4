"""Times of the Triton kernels on a GPU beside eager PyTorch, torch.compile and SDPA, in bfloat16.

Peers run on the same inputs and take turns; each answers like the first before it is timed.
Activations of the published shape fit the L2 cache, here as in training. Part of
`profiling.gpu_check`.
"""

import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from profiling.gpu_peers import Group, Runner, groups

REPEATS, MILLISECONDS = 15, 10.0
OFF = 0.1  # of the first's answer: bfloat16 rounds differently, something wrong is further away
COMPILING = 0.4  # of the time that is left, at most, for one peer


class Row(NamedTuple):
    what: str
    peer: str
    microseconds: float
    fastest: float
    slowest: float
    tflops: float
    of_peak: float
    per_second: str


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took over {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)  # again, if somebody swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def milliseconds(run: Runner, calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / calls


def times(runs: dict[str, Runner]) -> dict[str, list[float]]:
    """Milliseconds of one run; the peers take turns."""
    calls = {}
    for peer, run in runs.items():
        milliseconds(run, 3)
        calls[peer] = max(1, min(200, int(MILLISECONDS / milliseconds(run, 3))))
    found: dict[str, list[float]] = {peer: [] for peer in runs}
    for _ in range(REPEATS):
        for peer, run in runs.items():
            found[peer].append(milliseconds(run, calls[peer]))
    return found


class Report(NamedTuple):
    """Lists that get findings as they are made, so that a later failure loses none of them."""

    rows: list[dict[str, Any]]
    left_out: list[str]
    wrong: list[str]


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def made(group: Group, failed: set[str], report: Report, left: float) -> dict[str, Runner]:
    """The peers that work and agree with the first."""
    runs: dict[str, Runner] = {}
    first: Tensor | None = None
    for peer, make in group.makers.items():
        ours, who = peer.startswith("triton"), f"{group.what}, {peer}"
        if ours and (why := failed & set(group.needs)):
            report.left_out.append(f"{who}: failed checks of {', '.join(sorted(why))}")
            continue
        try:
            with within(min(group.seconds, COMPILING * left)):
                run = make()
                for _ in range(3):
                    answer = run()
                torch.cuda.synchronize()
            if isinstance(answer, Tensor) and group.flops:
                answer = answer.detach().double()
                first = answer if first is None else first
                off = float((answer - first).norm() / first.norm())
                if not off < OFF:
                    raise ArithmeticError(f"{off:.1e} off from {next(iter(runs))}")
            runs[peer] = run
        except Exception as error:
            line = f"{who}: {described(error)}"
            print(line, flush=True)
            (report.wrong if ours else report.left_out).append(line)
    return runs


def row_of(group: Group, peer: str, ms: list[float], peak: float) -> Row:
    median = statistics.median(ms)
    tflops = group.flops / median / 1e9
    speed = f"{group.count / median * 1e3:.4g} {group.unit}" if group.unit else ""
    us = (1e3 * t for t in (median, min(ms), max(ms)))
    return Row(group.what, peer, *us, tflops, tflops / (peak or tflops or 1), speed)


def on_gpu(several: Iterator[list[Group]]) -> Iterator[Group]:
    """Their tensors made there. Peers run outside of this default, which every call would pay."""
    while True:
        with torch.device("cuda"):
            together = next(several, None)
        if together is None:
            return
        yield from together


def time_all(failed: set[str], report: Report, left: Callable[[], float]) -> None:
    """Everything that works, while more than no seconds are left."""
    torch._dynamo.config.recompile_limit = 64  # each shape is compiled once
    torch._inductor.config.autotune_num_choices_displayed = 0
    peak = 0.0
    for group in on_gpu(groups()):
        if left() < 0:
            report.left_out.append(f"{group.what}: no time left")
            continue
        try:
            found = times(made(group, failed, report, left()))
        except Exception as error:
            report.wrong.append(f"{group.what}: {described(error)}")
            continue
        for peer, ms in found.items():
            row = row_of(group, peer, ms, peak)
            peak = peak or row.tflops
            report.rows.append(row._asdict())
            print(
                f"{row.what:42}{row.peer:16}{row.microseconds:10.1f} us ({row.fastest:.1f} to "
                f"{row.slowest:.1f}){row.tflops:8.1f} TFLOP/s{row.of_peak:7.1%}  {row.per_second}",
                flush=True,
            )
