"""Learning curves, drawn from the metrics.csv of runs: median and range of a group's seeds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.checkpoint import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # also apart without colours: by lightness
Points = list[tuple[float, float]]


def draw(groups: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Write a PNG of greedy success on unseen mazes against updates and against minutes.

    groups: label -> folders of runs that differ in their seed. A run alone also shows how often
    its exploring walker solved the mazes it trained on.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, x, unit in ((axes[0], "update", 1.0), (axes[1], "seconds", 60.0)):
        for (label, folders), colour in zip(groups.items(), COLOURS, strict=False):
            curves = [points(folder, x, unit, "eval/success") for folder in folders]
            _band(axis, [c for c in curves if c], label, colour)
            if len(groups) == len(folders) == 1:
                exploring = points(folders[0], x, unit, "charts/success")
                if exploring:
                    axis.plot(*zip(*exploring, strict=True), color="#999999", lw=0.8, zorder=1)
    for axis, label in zip(axes, ("updates", "minutes"), strict=True):
        axis.set(xlabel=label, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("greedy success, unseen mazes")
    if axes[1].lines:
        axes[1].legend(loc="lower right", frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)


def points(folder: Path, x: str, unit: float, y: str) -> Points:
    """(x / unit, y) of the rows of a run's log that have a y."""
    with open(folder / "metrics.csv", newline="") as file:
        return [(float(r[x]) / unit, float(r[y])) for r in csv.DictReader(file) if r[y]]


def _band(axis: Axes, curves: list[Points], label: str, colour: str) -> None:
    """Median and range at the xs of the first curve, as far as all curves reach."""
    if not curves:
        return
    xs = np.array([x for x, _ in curves[0]])
    xs = xs[xs <= min(curve[-1][0] for curve in curves)]
    ys = np.array([np.interp(xs, *np.array(curve).T) for curve in curves])
    if len(curves) > 1:
        axis.fill_between(xs, ys.min(0), ys.max(0), color=colour, alpha=0.2, lw=0)
        label = f"{label}, {len(curves)} seeds: median, range"
    axis.plot(xs, np.median(ys, axis=0), label=label, color=colour, lw=1.8)
