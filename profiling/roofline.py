"""Measured speeds against the two ceilings of a GPU, tensor cores and memory: `python -m
profiling.roofline profiling/results/gpu/NAME.csv` writes NAME-roofline.png beside the table.

Times and ceilings come from `profiling.gpu_check`, bytes from `profiling.kernel_report`: every
tensor once, so what a cache keeps is counted as moved.
"""

import argparse
import csv
from pathlib import Path

from train import cli
from train.analyse.plots import Figure
from train.files.writing import replacing

KERNELS = Path(__file__).parent / "results" / "kernel_report.csv"
PARTS = {  # a row of the table -> the kernels that move its bytes
    "block forward": ("attention_block forward", "swiglu_block forward"),
}
COPY, PRODUCT = "copy of 1 GiB", "product 8192^3"


def megabytes(table: Path, sm: str) -> dict[str, float]:
    """MB that each kernel moves at the published shape."""
    with open(table, newline="") as file:
        return {row["kernel"]: float(row["MB"]) for row in csv.DictReader(file) if row["sm"] == sm}


def measured(table: Path) -> list[dict[str, str]]:
    """Rows of a table of `profiling.gpu_check`; ValueError: it is none, or has no ceilings."""
    try:
        with open(table, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("tflops")]
    except OSError as error:
        why = f"{error.strerror}, expected a table that profiling/gpu_check.py wrote on a GPU"
        raise ValueError(f"{table}: {why}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{table} is no text: expected a table of gpu_check") from None
    if not {COPY, PRODUCT} <= {row.get("what") for row in rows}:
        raise ValueError(f"{table} has no {PRODUCT!r} and {COPY!r}: expected a whole gpu_check")
    return rows


def number(row: dict[str, str], column: str) -> float:
    """The first word of a row's column; ValueError: it is no number."""
    try:
        return float(row[column].split()[0])
    except (KeyError, IndexError, ValueError):
        what = f"{column} of {row['what']!r} is {row.get(column)!r}"
        raise ValueError(f"{what}: expected a number") from None


def draw(rows: list[dict[str, str]], moved: dict[str, float], picture: Path) -> None:
    by_name = {row["what"]: row for row in rows}
    peak = number(by_name[PRODUCT], "tflops")
    bandwidth = number(by_name[COPY], "per_second")  # read and written
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    ridge = peak / bandwidth
    ends = [ridge / 30, ridge, ridge * 30]
    axis.plot(ends, [bandwidth * ends[0], peak, peak], color="black")
    for row in rows:
        if row["what"] not in PARTS:
            continue
        speed, us = number(row, "tflops"), number(row, "microseconds")
        intensity = speed * us / sum(moved[kernel] for kernel in PARTS[row["what"]])
        axis.plot(intensity, speed, "o")
        axis.annotate(f"{row['what']}, {row['peer']}", (intensity, speed), fontsize="small")
    axis.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axis.set_title(f"{peak:.0f} TFLOP/s measured, {bandwidth:.2f} TB/s measured", fontsize="medium")
    with replacing(picture) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = cli.fail
    parser.add_argument("table", type=Path)
    parser.add_argument(
        "--sm", default="90", choices=("80", "90", "100"), help="architecture whose bytes are taken"
    )
    args = parser.parse_args()
    picture = args.table.with_name(f"{args.table.stem}-roofline.png")
    draw(measured(args.table), megabytes(KERNELS, args.sm), picture)
    print(picture)
    return 0


if __name__ == "__main__":
    cli.main(main)
