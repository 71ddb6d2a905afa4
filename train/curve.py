"""The learning-curve picture of a run, drawn from its metrics.csv."""

import csv
from pathlib import Path

from matplotlib.figure import Figure

from train.checkpoint import replacing


def draw(folder: Path) -> Path:
    """Write learning_curve.png: success against updates, and against minutes. Returns its path."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, column, label, scale in (
        (axes[0], "update", "updates", 1.0),
        (axes[1], "seconds", "minutes", 60.0),
    ):
        for name, metric, style in (
            ("training, with exploration", "charts/success", {"color": "#999999", "lw": 1.0}),
            ("greedy, unseen mazes", "eval/success", {"color": "#0072B2", "lw": 2.0}),
        ):
            points = [(float(r[column]) / scale, float(r[metric])) for r in rows if r[metric]]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, **style)
        axis.set(xlabel=label, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of episodes that reach the goal")
    axes[1].legend(loc="lower right", frameon=False)
    path = folder / "learning_curve.png"
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)
    return path
