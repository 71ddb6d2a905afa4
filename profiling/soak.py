"""Does a long run stay as it began? `python -m profiling.soak --minutes 60` trains `quick` in this
process and writes soak.csv and soak.png: every minute its memory, its speed, and how much of the
wall time the phase clock has seen. The last line says how they drift.

The first two samples do not count: until then the replay fills. Linux only: memory is /proc's.
"""

import csv
import os
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from train import cli
from train.analyse.plots import Figure
from train.config import PRESETS, require
from train.files.writing import replacing
from train.run.run import Run
from train.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2  # samples


@dataclass(frozen=True)
class Soak:
    """What to run."""

    minutes: float = 60.0
    """Length of the run."""
    every: float = 60.0
    """Seconds between two samples."""
    out: Path = RESULTS
    """Folder of soak.csv and soak.png."""

    def __post_init__(self) -> None:
        samples = 60 * self.minutes / self.every if self.every > 0 else 0
        least = WARM_UP + 2
        require("minutes", self.minutes, samples >= least, f"{least} samples or more")


class Sample(NamedTuple):
    """One row of soak.csv, of the time since the row before."""

    minutes: float
    update: int
    rss_mib: float
    updates_per_second: float
    phase_share: float  # seconds in all phases / seconds of wall time


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(run: Run, options: Soak) -> list[Sample]:
    """Train until the time is up; a sample after the first cycle that ends behind each minute."""
    trainer, samples, cycle = run.trainer, [], run.trainer.cycle
    began = time.perf_counter()
    last = [began, trainer.update, sum(trainer.phase.seconds.values())]  # at the sample before

    def sampled() -> tuple[torch.Tensor, torch.Tensor]:
        result, now = cycle(), time.perf_counter()
        if now - last[0] >= options.every:
            phases, wall = sum(trainer.phase.seconds.values()), now - last[0]
            speed, share = (trainer.update - last[1]) / wall, (phases - last[2]) / wall
            minutes = (now - began) / 60
            samples.append(Sample(minutes, trainer.update, rss_mib(), speed, share))
            last[:] = now, trainer.update, phases
            if minutes >= options.minutes:
                run.stop(signal.SIGTERM, None)
        return result

    trainer.cycle = sampled  # type: ignore[method-assign]
    run.train()
    run.close()
    return samples


def drift(samples: list[Sample]) -> str:
    """Straight lines through the samples after the warm-up: what an hour adds."""
    table = np.array(samples[WARM_UP:])
    hours = table[:, 0] / 60
    said = []
    for name in ("rss_mib", "updates_per_second", "phase_share"):
        y = table[:, Sample._fields.index(name)]
        slope = np.polyfit(hours, y, 1)[0]
        said.append(f"{name} {y.min():.4g} to {y.max():.4g}, {slope:+.3g} an hour")
    return "; ".join(said)


def draw(samples: list[Sample], picture: Path) -> None:
    table = np.array(samples)
    figure = Figure(figsize=(7, 6), layout="constrained")
    titles = {"rss_mib": "resident memory, MiB", "updates_per_second": "updates / s"}
    titles["phase_share"] = "phase clock / wall time"
    for axis, (name, title) in zip(figure.subplots(3, sharex=True), titles.items(), strict=True):
        axis.plot(table[:, 0], table[:, Sample._fields.index(name)], ".-")
        axis.set(ylabel=title, ylim=(0, None))
    axis.set_xlabel("minutes")
    with replacing(picture) as part:
        figure.savefig(part, format="png", dpi=120)


def main() -> None:
    options = cli.parse(Soak, __doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        config = replace(PRESETS["quick"], updates=10**9, run_dir=folder)
        samples = watch(Run(config, Trainer(config, torch.device("cpu"))), options)
    with replacing(options.out / "soak.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Sample._fields)
        writer.writerows([f"{x:.6g}" for x in sample] for sample in samples)
    draw(samples, options.out / "soak.png")
    print(f"{len(samples)} samples, {samples[-1].update} updates: {drift(samples)}")


if __name__ == "__main__":
    cli.main(main)
