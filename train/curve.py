"""The learning-curve picture of one run or of several seeds, drawn from their metrics.csv."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from train.checkpoint import replacing

CURVES = (  # column, label, style
    ("charts/success", "training, exploring", {"color": "#999999", "lw": 0.8}),
    ("eval/success", "greedy, unseen mazes", {"color": "#0072B2", "lw": 1.8}),
)


def draw(folders: Sequence[Path], path: Path) -> None:
    """Write a PNG of success against updates and against minutes, one line a run."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for i, folder in enumerate(folders):
        with open(folder / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for axis, x, unit in ((axes[0], "update", 1.0), (axes[1], "seconds", 60.0)):
            for column, label, style in CURVES:
                points = [(float(r[x]) / unit, float(r[column])) for r in rows if r[column]]
                if points:
                    xs, ys = zip(*points, strict=True)
                    axis.plot(xs, ys, label=label if i == 0 else None, **style)
    for axis, label in zip(axes, ("updates", "minutes"), strict=True):
        axis.set(xlabel=label, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("episodes that reach the goal")
    axes[1].legend(loc="lower right", frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)
