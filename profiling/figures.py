"""Every figure of the README and of docs/, from committed results: `python -m profiling.figures`.

Draws FIGURES (all, or those that are named), and of every table X.csv in profiling/results/analyse
the figures that `train.analyse` or `train.analyse.figures` makes of it, in a folder X beside it.
"""

import argparse
import contextlib
import csv
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from profiling import browser
from train import cli
from train.analyse import convergence, curve
from train.analyse.figures import draw_sweep, read_sweep
from train.analyse.plots import Figure, by_the_defaults
from train.files.writing import replacing
from train.watch import __main__ as watch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "profiling" / "results"
STUDY = {"base": "Reset", "carry-carry": "Carry", "carry-full": "full Carry"}


def agent_gif(path: Path) -> None:
    _watch("maze", "--gif", str(path))


def viewer_png(path: Path) -> None:
    """The page of `maze`, on the longest walk to a goal, near its end."""
    program = browser.find()
    if program is None:
        raise ValueError(f"{path} needs a browser: {browser.MISSING}")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "maze.html"
        _watch("maze", "--html", str(page), "--among", "48")
        with browser.tab(program) as tab:
            tab.set_viewport_size({"width": 1200, "height": 900})
            tab.goto(page.as_uri())
            tab.evaluate("show(data.episodes.findIndex((e) => e.end === 'goal'))")
            tab.evaluate("goTo(episode().moments.length - 8)")
            browser.until(tab, "document.getAnimations().length === 0")
            with replacing(path) as part:
                tab.screenshot(path=part, type="png", full_page=True)


def _watch(*words: str) -> None:
    with patch.object(sys, "argv", ["watch", *words]), contextlib.redirect_stdout(None):
        watch.main()


def learning_curves(path: Path) -> None:
    presets = ("quick", "four-rooms", "maze")
    curve.draw({name: sorted((RESULTS / name).glob("seed*")) for name in presets}, path)


@by_the_defaults
def study_carry(path: Path) -> None:
    """Greedy success against updates of `make study`: every seed's, and their median."""
    with (RESULTS / "study_carry.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    at = {c: int(c.split()[-1]) for c in rows[0] if c.startswith("success at update")}
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, label) in enumerate(STUDY.items()):
        seeds = [[float(row[c]) for c in at] for row in rows if row["name"] == name]
        style = curve.style(i)
        for seed in seeds:
            axis.plot(at.values(), seed, color=style["color"], lw=0.6, alpha=0.5)
        middle = [statistics.median(values) for values in zip(*seeds, strict=True)]
        axis.plot(at.values(), middle, label=label, lw=2, marker="o", ms=4, **style)  # type: ignore[arg-type]
    axis.set(xlabel="updates", ylabel="greedy success, unseen mazes", ylim=(0, 1.02))
    axis.set_xticks(list(at.values()))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(STUDY), frameon=False)
    curve.write(figure, path)


def of_table(table: Path, folder: Path) -> list[Path]:
    """The figures of a convergence.csv or a segments.csv."""
    with table.open() as file:
        is_sweep = "multiply_adds" in file.readline()
    if not is_sweep:
        return convergence.draw_all(table, folder)
    paths = [folder / f"segments.{kind}" for kind in ("png", "svg")]
    draw_sweep(read_sweep(table), *paths)
    return paths


FIGURES: dict[str, Callable[[Path], None]] = {
    "profiling/results/learning_curves.png": learning_curves,
    "profiling/results/study_carry.png": study_carry,
    "docs/agent.gif": agent_gif,
    "docs/viewer.png": viewer_png,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument("names", nargs="*", metavar="FILE", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder in place of the repository")
    args = parser.parse_args()
    if unknown := set(args.names) - set(FIGURES):
        raise ValueError(f"figure is {min(unknown)!r}: expected one of {', '.join(FIGURES)}")
    if not args.names:
        for table in sorted((RESULTS / "analyse").glob("*.csv")):
            folder = args.out / table.with_suffix("").relative_to(ROOT)
            print(*of_table(table, folder), sep="\n", flush=True)
    for name in args.names or FIGURES:
        FIGURES[name](args.out / name)
        print(args.out / name, flush=True)


if __name__ == "__main__":
    cli.main(main)
