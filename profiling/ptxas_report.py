"""What nvcc's assembler says of the CUDA C++ kernels, for `profiling.kernel_report`.

Decision kernels of the published shapes are compiled for exactly 8 or 9 tiles of 16 tokens (T 113
to 144); the others take any number and may spill registers.
"""

import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hrm_fast import HRMConfig
from hrm_fast.backends.cuda import Decider

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("csrc/maze/device.cu", "csrc/hrm/decide_bf16.cu", "csrc/hrm/decide_float32.cu")
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB that a CTA may have
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr")  # as setup.py has them
DECISION = re.compile(r"decide_kernelINS0_\d+([A-Za-z]+\d+)E" + r"Li(\d+)E" * 5)
SAID = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


class Assembled(NamedTuple):
    kernel: str
    sm: int
    registers: int  # of a thread
    spilled: int  # bytes of a thread, stores and loads
    stack: int  # bytes of a thread
    threads: int | None  # of a CTA, at most
    shared: int | None  # bytes of a CTA at the published shape
    may_spill: bool


def assembled(source: str, arch: int) -> Iterator[Assembled]:
    """Every kernel of a file, compiled for one architecture: minutes for the decisions. Needs nvcc.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v", "-cubin"]
        files = ["-I", str(ROOT / "csrc"), str(ROOT / source), "-o", f"{folder}/kernels"]
        done = subprocess.run(
            ["nvcc", *FLAGS, *target, *files], capture_output=True, text=True, check=True
        )
    for mangled, *numbers in SAID.findall(done.stderr):
        stack, stores, loads, registers = map(int, numbers)
        use = (arch, registers, stores + loads, stack)
        if found := DECISION.search(mangled):
            D, K, boards, tiles, threads = map(int, found.groups()[1:])
            name = f"decide {found[1]}, D {D}, K {K}, {boards} a CTA, {tiles or 'any'} tiles"
            shared = shared_bytes(tiles, boards, arch) if tiles else None
            yield Assembled(name, *use, threads, shared, may_spill=not tiles)
        else:
            name = "maze step" if "step_kernel" in mangled else "maze reset"
            yield Assembled(name, *use, None, None, may_spill=False)


def shared_bytes(tiles: int, boards: int, arch: int) -> int:
    config = HRMConfig(cells=16 * tiles - 1, dtype="bfloat16")
    return Decider(config).native.plan(boards, SHARED[arch] * 1024)[2]


def nvcc() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return f"nvcc {re.findall(r'release ([0-9.]+)', said)[0]}"


def show(header: list[str], rows: list[list[str]], about: str, file: Path | None) -> None:
    print()
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(row)} |")
    if file:
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([header, *rows, [about]])
