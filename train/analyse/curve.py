"""Learning curves, drawn from the metrics.csv of runs: median and range of a group's seeds."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from train.analyse.plots import Axes, Figure, by_the_defaults, rc_context
from train.files.names import METRICS
from train.files.writing import replacing

# Tol's high-contrast scheme: told apart by every kind of eye and, by lightness, in grey; line
# styles differ as well.
COLOURS = ("#004488", "#DDAA33", "#BB5566", "#000000")
STYLES = ("-", "--", ":", "-.")
MEASURES = {  # column of metrics.csv -> what it is
    "eval/success": "greedy success, unseen mazes",
    "eval/episodic_length": "mean steps of an episode",
    "eval/shortest_ratio": "steps / shortest path, solved",
}
AXES = (("update", 1.0, "updates"), ("seconds", 60.0, "minutes"))
Points = list[tuple[float, float]]
Rows = list[dict[str, str]]  # of a CSV


@by_the_defaults
def draw(groups: Mapping[str, Sequence[Path]], *paths: Path) -> None:
    """Write a figure of MEASURES against updates and against minutes, as PNG or SVG by suffix.

    groups: label -> folders of runs that differ in their seed. A run alone also shows how its
    exploring walker fared on the mazes it trained on.

    Raises ValueError for a log that is missing or damaged.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.subplots(len(AXES), len(MEASURES), sharey="col")
    times = [points(f, "seconds", 60.0, "update") for fs in groups.values() for f in fs]
    ends = [curve[-1][0] for curve in times if curve]
    far_apart = bool(ends) and max(ends) > 4 * min(ends)  # a log axis keeps the short curve wide
    alone = len(groups) == 1 and len(next(iter(groups.values()))) == 1
    for row, (x, unit, x_label) in zip(grid, AXES, strict=True):
        for axis, (measure, label) in zip(row, MEASURES.items(), strict=True):
            for i, (name, folders) in enumerate(groups.items()):
                _band(axis, [points(f, x, unit, measure) for f in folders], name, i)
            axis.set(xlabel=x_label, ylabel=label)
            if x == "seconds" and far_apart:
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
        row[0].set_ylim(0, 1.02)
        if alone:
            _exploring(row, next(iter(groups.values()))[0], x, unit)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    write(figure, *paths)


def write(figure: Figure, *paths: Path) -> None:
    """Write the figure, PNG or SVG by suffix; the same figure gives the same bytes."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out now; every file would do it anew
    for path in paths:
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None} if kind == "svg" else None
        with replacing(path) as part, rc_context({"svg.hashsalt": "hrm_fast"}):
            figure.savefig(part, format=kind, dpi=150, metadata=metadata)


def style(i: int) -> dict[str, str]:
    """Colour and line style of the i-th of several lines: 16 that differ."""
    n = len(COLOURS)
    return {"color": COLOURS[i % n], "linestyle": STYLES[(i + i // n) % n]}


def points(folder: Path, x: str, unit: float, y: str) -> Points:
    """(x / unit, y) of the rows of a run's log that have a y; ValueError: there is no such log."""
    try:
        with open(folder / METRICS, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row[y]]
            return [(float(row[x]) / unit, float(row[y])) for row in rows]
    except OSError as error:
        raise ValueError(f"{folder}/metrics.csv: {error.strerror}, expected a run's log") from None
    except (ValueError, KeyError, TypeError, csv.Error):
        raise ValueError(f"{folder}/metrics.csv is damaged: expected a run's log") from None


def read_table(table: Path, check: Callable[[dict[str, str]], object], writer: str) -> Rows:
    """The rows of a CSV. ValueError: it is not what `writer` wrote, or `check` refuses a row."""
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            check(row)
    except OSError as error:
        raise ValueError(f"{table}: {error.strerror}, expected what {writer} wrote") from None
    except (ValueError, KeyError, TypeError, csv.Error):
        raise ValueError(f"{table} is damaged: expected what {writer} wrote") from None
    if not rows:
        raise ValueError(f"{table} is empty: expected what {writer} wrote")
    return rows


def _exploring(row: Sequence[Axes], folder: Path, x: str, unit: float) -> None:
    for axis, y in zip(row, ("charts/success", "charts/episodic_length"), strict=False):
        if exploring := points(folder, x, unit, y):
            xs, ys = zip(*exploring, strict=True)
            axis.plot(xs, ys, color="#999999", lw=0.8, zorder=1, label="exploring, in training")


def _band(axis: Axes, curves: list[Points], label: str, i: int) -> None:
    """Median and range at the xs of the first curve, as far as all curves reach."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    xs = np.array([x for x, _ in curves[0]])
    xs = xs[xs <= min(curve[-1][0] for curve in curves)]
    ys = np.array([np.interp(xs, *np.array(curve).T) for curve in curves])
    if len(curves) > 1:
        axis.fill_between(xs, ys.min(0), ys.max(0), color=style(i)["color"], alpha=0.2, lw=0)
        label = f"{label}, {len(curves)} seeds: median, range"
    axis.plot(xs, np.median(ys, axis=0), label=label, lw=1.8, **style(i))  # type: ignore[arg-type]
