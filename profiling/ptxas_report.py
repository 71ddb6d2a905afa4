"""What nvcc's assembler says of the CUDA decision kernels, told without a GPU:
`python -m profiling.ptxas_report [--arch 80 90 100]`.

Exit status 1 where a kernel of the published shapes spills registers. Those are compiled for
exactly 8 or 9 tiles of 16 tokens (T 113 to 144); the others take any number and may spill.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from hrm_fast import HRMConfig
from hrm_fast.backend import engine_shape
from kernels.cuda import Decider

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("csrc/hrm/decide_bf16.cu", "csrc/hrm/decide_float32.cu")
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr")  # as setup.py has them
NAME = re.compile(r"decide_kernelINS0_\d+([A-Za-z]+\d+)E" + r"Li(\d+)E" * 5)
SAID = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


class Assembled(NamedTuple):
    dtype: str
    D: int
    K: int
    boards: int  # of a CTA
    tiles: int  # that it is compiled for exactly; 0: any number
    threads: int  # of a CTA, at most
    registers: int  # of a thread
    spilled: int  # bytes, stores and loads


def assembled(source: str, arch: int) -> list[Assembled]:
    """Every decision kernel of a file, compiled for one architecture. Needs nvcc."""
    with tempfile.TemporaryDirectory() as folder:
        target = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v", "-cubin"]
        files = ["-I", str(ROOT / "csrc"), str(ROOT / source), "-o", f"{folder}/kernels"]
        done = subprocess.run(
            ["nvcc", *FLAGS, *target, *files], capture_output=True, text=True, check=True
        )
    rows = []
    for mangled, stores, loads, registers in SAID.findall(done.stderr):
        name = NAME.search(mangled)
        assert name, mangled
        sizes = (int(x) for x in name.groups()[1:])
        rows.append(Assembled(name[1], *sizes, int(registers), int(stores) + int(loads)))
    return rows


def shared_bytes(tiles: int, boards: int) -> int:
    """Shared memory of a CTA at the published shape."""
    shape = engine_shape(HRMConfig(cells=16 * tiles - 1))
    return Decider(shape, None, torch.bfloat16).native.plan(boards, 227 * 1024)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90, 100])
    args = parser.parse_args()
    print("| sm |", " | ".join(Assembled._fields), "| shared B |")
    print("| --- " * (len(Assembled._fields) + 2) + "|")
    spilled = 0
    for arch in args.arch:
        for row in (row for source in SOURCES for row in assembled(source, arch)):
            shared = shared_bytes(row.tiles, row.boards) if row.tiles else "-"
            print(f"| {arch} |", " | ".join(map(str, row)), f"| {shared} |", flush=True)
            spilled += row.spilled if row.tiles else 0
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
