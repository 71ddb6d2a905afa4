"""The table that `train.analyse` writes, and its figures: distances of z against segments."""

from pathlib import Path

import numpy as np

from train.analyse import curve
from train.analyse.curve import Rows
from train.analyse.plots import Axes, Figure, MaxNLocator, by_the_defaults
from train.evaluate import wilson

LEVELS = ("z_H", "z_L")
REFERENCES = {  # what z is compared with -> in a title
    "last segment": "its value after the last segment",
    "first segment": "its value after the first segment",
    "seed": "where the decision started",  # the word of all tables, so that earlier ones are drawn
    "start": "the episode's start state",
}
INTERVENTIONS = {
    "none": "no intervention",
    "z reset": "z reset after every segment",
    "goal moved": "goal drawn elsewhere before every decision",
}
COLUMNS = (
    *("agent", "token", "mode", "intervention", "mazes", "solved", "environment", "level"),
    *("reference", "segment", "decisions", "median", "quartile_1", "quartile_3"),
)
MODES = {"carry": ("#004488", "-"), "reset": ("#DDAA33", "--"), "full": ("#BB5566", ":")}
ENVIRONMENTS = {"changed": "doors changed the way", "static": "way unchanged"}


@by_the_defaults
def draw_all(table: Path, folder: Path) -> list[Path]:
    """Draw every intervention of a convergence.csv as PNG and SVG; returns the files.

    Raises ValueError: the table is another one.
    """
    rows, files = read(table), []
    for intervention in INTERVENTIONS:
        chosen = [row for row in rows if row["intervention"] == intervention]
        stem = "-".join(["convergence", *intervention.replace("none", "").split()])
        if chosen:
            paths = [folder / f"{stem}.{kind}" for kind in ("png", "svg")]
            curve.write(figure(chosen), *paths)
            files += paths
    return files


def read(table: Path) -> Rows:
    """The rows of a convergence.csv, numbers checked."""
    return curve.read_table(table, _check, "train.analyse")


def _check(row: dict[str, str]) -> None:
    for name in ("mazes", "solved", "segment", "decisions"):
        int(row[name])
    for name in ("median", "quartile_1", "quartile_3"):
        float(row[name] or 0)
    known = row["mode"] in MODES and row["environment"] in ENVIRONMENTS
    if not known or row["intervention"] not in INTERVENTIONS:
        raise ValueError


def figure(rows: Rows) -> Figure:
    """One intervention: a panel for each level and reference, medians with their quartiles."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    grid = figure.subplots(len(LEVELS), len(REFERENCES), sharex=True, sharey="col")
    for axes, level in zip(grid, LEVELS, strict=True):
        axes[0].set_ylabel("mean squared distance")
        for axis, (reference, title) in zip(axes, REFERENCES.items(), strict=True):
            _panel(axis, [r for r in rows if (r["level"], r["reference"]) == (level, reference)])
            axis.set_title(f"{level} to {title}", fontsize=10)
    for column, reference in zip(grid.T, REFERENCES, strict=True):
        drawn = [r for r in rows if r["reference"] == reference and float(r["median"] or 0) > 0]
        edges = ("quartile_1", "median", "quartile_3")
        _decades(column, np.array([float(r[name]) for r in drawn for name in edges]))
        column[-1].set_xlabel("segment")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    shown = len({row["mode"] for row in rows})
    figure.legend(handles, labels, loc="outside lower center", ncols=shown, frameon=False)
    token, what = rows[0]["token"], INTERVENTIONS[rows[0]["intervention"]]
    title = f"{rows[0]['agent']}: z of the {token} token, {what}"
    figure.suptitle(f"{title}\n{_solved(rows)}", fontsize=11)
    return figure


def _panel(axis: Axes, rows: Rows) -> None:
    for (mode, environment), line in _lines(rows).items():
        k = [int(row["segment"]) for row in line]
        low, median, high = (
            np.array([float(row[name] or "nan") for row in line])
            for name in ("quartile_1", "median", "quartile_3")
        )
        colour, style = MODES[mode]
        face = colour if environment == "changed" else "white"
        decisions = int(line[0]["decisions"])
        label = f"{mode.title()}, {ENVIRONMENTS[environment]}: {decisions:,} decisions"
        axis.fill_between(k, low, high, where=median > 0, color=colour, alpha=0.15, lw=0)
        shown = np.where(median > 0, median, np.nan)
        axis.plot(k, shown, style, color=colour, marker="o", ms=5, mfc=face, label=label)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.grid(alpha=0.3)


def _lines(rows: Rows) -> dict[tuple[str, str], Rows]:
    lines: dict[tuple[str, str], Rows] = {}
    for row in rows:
        lines.setdefault((row["mode"], row["environment"]), []).append(row)
    return lines


def _decades(column: list[Axes], values: np.ndarray) -> None:
    """A log axis over whole decades around the values above 0."""
    positive = values[values > 0]
    for axis in column:
        if len(positive):
            low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
            axis.set(yscale="log", ylim=(10**low, 10 ** max(high, low + 1)))
            axis.yaxis.set_minor_formatter("")
        else:
            axis.set_yticks([])
            axis.text(0.5, 0.5, "0 throughout", ha="center", transform=axis.transAxes)


def _solved(rows: Rows) -> str:
    shares = []
    for mode, row in {row["mode"]: row for row in rows}.items():
        solved, mazes = int(row["solved"]), int(row["mazes"])
        low, high = wilson(solved, mazes)
        shares.append(f"{mode.title()} {solved / mazes:.1%} ({low:.1%} to {high:.1%})")
    return f"solved, of {int(rows[0]['mazes']):,} mazes: {', '.join(shares)}"
