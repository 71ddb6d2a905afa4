"""Training curves of finished runs, and what more segments buy at test time.

    python -m train.analyse.figures runs/carry-* runs/reset-* --segments 1 2 4 8 --out FOLDER

Runs that differ in nothing but their seed are one group, named by what sets it apart from the
others. Writes FOLDER/training.png and .svg; with --segments also FOLDER/segments.csv (greedy walks
of every run's best checkpoint with that many segments per decision) and its figure. Given that
file in place of runs, it draws the figure anew.
"""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from envs import MazeSpec
from hrm_fast import HRMConfig
from train import cli
from train.analyse import curve
from train.analyse.curve import Rows
from train.analyse.plots import Axes, Figure, LogLocator, by_the_defaults
from train.config import SEED_LIMIT, Config, require
from train.config import load as load_config
from train.episodes import agent
from train.evaluate import env_of, rollout
from train.files import agents
from train.files.checkpoint import load
from train.files.names import CONFIG
from train.files.writing import open_text, replacing

COLUMNS = (
    *("group", "run", "segments", "multiply_adds", "episodes", "success", "success_low"),
    *("success_high", "mean_length", "shortest_ratio"),
)
BOOKKEEPING = (  # what does not change what is learned, and the preset, which is named apart
    *("seed", "device", "run_dir", "resume", "wandb", "cuda_graph", "preset", "hrm.kernels"),
    *("log_every", "eval_every", "eval_episodes", "save_every"),
)


@dataclass(frozen=True)
class Figures:
    """What to draw."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs; or one segments.csv, whose figure is drawn anew."""
    segments: tuple[int, ...] = ()
    """Segments per decision to walk with, such as 1 2 4 8 (none: only training curves)."""
    episodes: int = 1024
    """Episodes for each run and number of segments."""
    seed: int = 1
    """Which unseen mazes."""
    out: Path = Path("runs/figures")
    """Folder for the figures."""

    def __post_init__(self) -> None:
        require("runs", "none", len(self.runs) > 0, "one folder or more")
        good = all(1 <= s <= 1024 for s in self.segments)
        require("segments", self.segments, good, "numbers from 1 to 1024")
        require("episodes", self.episodes, 1 <= self.episodes <= 2**20, f"1 to {2**20}")
        require("seed", self.seed, 0 <= self.seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")


def read_run(folder: Path) -> Config:
    """The config of a finished run; ValueError: the folder is empty, or the run has not ended."""
    require("run", str(folder), folder.is_dir(), "a run's folder")
    config = load_config(folder / CONFIG)
    rows = curve.points(folder, "update", 1, "update")
    last = int(rows[-1][0]) if rows else 0
    require(
        f"{folder}: last update",
        last,
        last >= config.updates,
        f"{config.updates}, a finished run (python -m train.dqn --resume {folder})",
    )
    judged = curve.points(folder, "update", 1, "eval/success")
    require(f"{folder}: evaluations", 0, bool(judged), "1 or more in its metrics.csv")
    return config


def group(runs: dict[Path, Config]) -> dict[str, list[Path]]:
    """Label -> folders of the runs that differ only in seed and BOOKKEEPING."""
    settings = {folder: flat(config) for folder, config in runs.items()}
    presets = {folder: config.preset for folder, config in runs.items()}
    groups: dict[str, list[Path]] = {}
    for folder, own in settings.items():
        rivals = [settings[f] for f in settings if presets[f] == presets[folder]]
        apart = {name: own[name] for name in own if any(r.get(name) != own[name] for r in rivals)}
        words = [_word(name, value) for name, value in apart.items()]
        if len(set(presets.values())) > 1 or not words:
            words.insert(0, presets[folder])
        groups.setdefault(", ".join(words), []).append(folder)
    return groups


def _word(name: str, value: object) -> str:
    if name == "hrm.carry":
        return "full Carry" if value == "full" else str(value).title()
    if name == "hrm.walls":
        return "every cell a token" if value is None else "no token for walls"
    return f"{name.rpartition('.')[2]} {value}"


def flat(config: Config) -> dict[str, Any]:
    """Dotted name -> value of all that decides what is learned."""
    values: dict[str, Any] = {}
    for name, value in asdict(config).items():
        values |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        values |= {} if isinstance(value, dict) else {name: value}
    if isinstance(config.env, MazeSpec):  # older runs wrote down the default
        values["env.max_steps"] = config.env.step_limit
    return {name: value for name, value in values.items() if name not in BOOKKEEPING}


def multiply_adds(config: HRMConfig, segments: int) -> int:
    """Of the blocks' matrix products in one decision on one board: what a decision costs."""
    T, D, inner = config.tokens, config.width, config.inner_width
    block = T * (4 * D * D + 3 * D * inner + 2 * T * D)  # projections, SwiGLU, attention
    L_blocks = config.h_cycles * config.l_cycles * config.l_layers
    return segments * (L_blocks + config.h_cycles * config.h_layers) * block


def sweep(groups: dict[str, list[Path]], options: Figures) -> Iterator[dict[str, object]]:
    """The rows of segments.csv."""
    for label, folders in groups.items():
        for folder in folders:
            config, hrm = load(agents.find(folder))
            spec = env_of(config)
            for segments in options.segments:
                walker = agent(hrm, options.episodes, segments)
                device = hrm.puzzle.device
                result = rollout(spec, walker, options.episodes, options.seed, device)
                print(f"{folder}, segments {segments}: success {result.success:.1%}", flush=True)
                yield {
                    "group": label,
                    "run": folder.name,
                    "segments": segments,
                    "multiply_adds": multiply_adds(config.hrm, segments),
                } | asdict(result)


def read_sweep(table: Path) -> Rows:
    """The rows of a segments.csv, numbers checked."""

    def check(row: dict[str, str]) -> None:
        _ = row["group"], [float(row[name] or "nan") for name in COLUMNS[2:]]

    return curve.read_table(table, check, "train.analyse.figures")


@by_the_defaults
def draw_sweep(rows: Rows, *paths: Path) -> None:
    """Success and mean episode length against compute; a number at a point tells the segments."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    labels = list(dict.fromkeys(row["group"] for row in rows))
    for i, label in enumerate(labels):
        own = [row for row in rows if row["group"] == label]
        for axis, measure in zip(axes, ("success", "mean_length", "shortest_ratio"), strict=True):
            _line(axis, own, measure, label, i)
    for axis, label in zip(axes, curve.MEASURES.values(), strict=True):
        axis.set(xlabel="million multiply-adds a decision (segments)", ylabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    curve.write(figure, *paths)


def _line(axis: Axes, rows: Rows, measure: str, label: str, i: int) -> None:
    """Median and range of the runs; the interval of the episodes where there is one run."""
    by_segments: dict[int, Rows] = {}
    for row in rows:
        by_segments.setdefault(int(row["segments"]), []).append(row)
    points = []
    for segments, own in sorted(by_segments.items()):
        values = [float(row[measure]) for row in own if row[measure]] or [float("nan")]
        low, high = min(values), max(values)
        if measure == "success" and len(own) == 1:
            low, high = float(own[0]["success_low"]), float(own[0]["success_high"])
        compute = float(own[0]["multiply_adds"]) / 1e6
        points.append((segments, compute, float(np.median(values)), low, high))
    _, x, median, low_, high_ = (np.array(column) for column in zip(*points, strict=True))
    runs = len({row["run"] for row in rows})
    what = f"{runs} seeds: median, range" if runs > 1 else "95 % interval of the episodes"
    style = curve.style(i)
    axis.fill_between(x, low_, high_, color=style["color"], alpha=0.2, lw=0)
    axis.plot(x, median, marker="o", ms=5, label=f"{label}, {what}", **style)  # type: ignore[arg-type]
    for segments, compute, y, *_ in points:
        at_point = (0, -14 if i % 2 else 6)
        at = {"xytext": at_point, "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axis.annotate(f"({segments})", (compute, y), **at)  # type: ignore[arg-type]


def main() -> None:
    options = cli.parse(Figures, __doc__ or "")
    sweep_paths = [options.out / f"segments.{kind}" for kind in ("png", "svg")]
    if [path.suffix for path in options.runs] == [".csv"]:
        draw_sweep(read_sweep(options.runs[0]), *sweep_paths)
        print(*sweep_paths, sep="\n")
        return
    groups = group({folder: read_run(folder) for folder in options.runs})
    paths = [options.out / f"training.{kind}" for kind in ("png", "svg")]
    curve.draw(groups, *paths)
    if options.segments:
        table = options.out / "segments.csv"
        with replacing(table) as part, open_text(part) as file:  # a bad path fails here
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(sweep(groups, options))
        draw_sweep(read_sweep(table), *sweep_paths)
        paths += [table, *sweep_paths]
    print(*paths, sep="\n")


if __name__ == "__main__":
    cli.main(main)
