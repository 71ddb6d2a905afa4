"""What a decision costs in instructions, counted in the CUDA kernel's machine code without a GPU:
`python -m profiling.sass_report [--arch 90] [--boards 0] [--csv FILE]`. Needs nvcc and nvdisasm.

One shape is compiled alone (seconds) and disassembled. The code of a block pass is the innermost
loop around attention and SwiGLU; an instruction there counts as often as the loops around it turn,
which the exponentials and tanhs in their bodies tell. Nothing here is measured: a count bounds the
speed, as if no instruction ever waited.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from hrm_fast import HRMConfig
from hrm_fast.backends.cuda import Decider
from hrm_fast.backends.shape import Shape
from profiling.ptxas_report import FLAGS, ROOT, SHARED, nvcc, show

SMS, CLOCK = 132, 1.755e9  # of an H100
TENSOR = 4  # clocks of an m16n8k16 product on a quarter of an H100's SM, by its data sheet
SYNC = 0.62  # share of that which mma.sync is reported to reach
SEGMENTS = 8
USUAL = 0.65  # share of issue slots that well-tuned kernels fill
PIPES = {
    "tensor": r"HMMA",
    "special": r"MUFU",
    "shared": r"LDS|STS|LDSM|LDGSTS",
    "multiply-add": r"FFMA|FMUL|FADD|HFMA2|HMUL2|HADD2",
}
HEADER = [
    "sm", "boards a CTA", "warps", "shared B", "registers", "spilled B", "instructions", *PIPES,
    "integer and control", "issue", "shared clk", "moved B", "tensor clk", "decisions/s",
    "at 65 %", "bound by",
]  # fmt: skip
ABOUT = f"""\
Counted, never measured. Instructions: of warps per 16 tokens of a board and block pass, and the
pipe that each goes to. issue, tensor clk: of the busiest of four schedulers in a block pass of a
CTA; shared clk: of the SM; moved B: a CTA's from and to L2, the weights and, where shared memory
is too small for them, the states. The rest is for an H100 alone ({SMS} SMs, {CLOCK / 1e9} GHz): a
product takes {TENSOR} clocks of a scheduler (data sheet), / {SYNC} by mma.sync (reported);
decisions/s if the longest of issue, tensor and shared were all, with every issue slot filled, and
with {USUAL:.0%}."""


class Instruction(NamedTuple):
    op: str
    target: str  # a label, of a branch


class Code(NamedTuple):
    instructions: list[Instruction]
    labels: dict[str, int]  # the instruction after it
    registers: int
    spilled: int  # bytes

    def loops(self) -> list[range]:
        """The instructions of every loop: what a backward branch repeats."""
        to = [self.labels.get(x.target, len(self.instructions)) for x in self.instructions]
        return [range(start, i + 1) for i, start in enumerate(to) if start <= i]

    def count(self, part: range, op: str) -> int:
        return sum(bool(re.match(op, self.instructions[i].op)) for i in part)


class Counted(NamedTuple):
    """What one warp issues in a block pass, by opcode."""

    weight: dict[str, float]

    def issued(self, pattern: str) -> float:
        return sum(n for op, n in self.weight.items() if re.match(pattern, op))

    def shared_clocks(self) -> float:
        """Of shared memory, which moves 128 bytes in each."""
        wide = PIPES["shared"]
        return sum(
            self.issued(rf"({wide}).*{bits}") * (bits // 32) for bits in (128, 64)
        ) + self.issued(rf"({wide})(?!.*(128|64))")


def nvdisasm() -> str | None:
    """Where it is: in PATH, or from its package."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [str(f.locate()) for f in files if f.name == "nvdisasm"]
    return next(iter(found), shutil.which("nvdisasm"))


def disassembled(instantiation: str, arch: int) -> Code:
    """The code of one kernel, `decide_kernel<...>`, compiled alone.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    source = f"""#include "hrm/decide_kernel.h"
    template __global__ void hrm::gpu::{instantiation}(const __grid_constant__ hrm::gpu::Work);"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "one.cu").write_text(source)
        target = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v", "-cubin"]
        files = ["-I", str(ROOT / "csrc"), f"{folder}/one.cu", "-o", f"{folder}/one.cubin"]
        said = subprocess.run(
            ["nvcc", *FLAGS, *target, *files], capture_output=True, text=True, check=True
        ).stderr
        sass = subprocess.run(
            [nvdisasm() or "nvdisasm", "-c", f"{folder}/one.cubin"], capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
    instructions, labels = [], {}
    line = r"(\.\w+):$|\s+/\*\w+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(?:.*`\((\.L\w+)\))?.*;"
    for label, predicate, op, target_label in re.findall(f"(?m)^{line}", sass):
        if label:
            labels[label] = len(instructions)
            continue
        name = "NOP" if predicate.startswith("@!PT") else op
        instructions.append(Instruction(name, target_label if op.startswith("BRA") else ""))
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
    registers = int(re.findall(r"Used (\d+) registers", said)[0])
    return Code(instructions, labels, registers, spilled)


def counted(code: Code, shape: Shape, boards: int) -> list[Counted]:
    """What each kind of warp issues in a block pass; the first kind computes all boards."""
    loops = code.loops()
    whole = [p for p in loops if code.count(p, "MUFU.EX2") and code.count(p, "MUFU.TANH")]
    passes = [p for p in whole if not any(q != p and q[0] in p and q[-1] in p for q in whole)]
    passes.sort(key=len, reverse=True)
    return [of_pass(code, p, shape, boards if p is passes[0] else 1) for p in passes]


def of_pass(code: Code, whole: range, shape: Shape, boards: int) -> Counted:
    weight = dict.fromkeys(whole, 1.0)
    unused = []  # where scores are not too large: the loop that rescales, which takes more exps
    for loop in code.loops():
        if loop[0] not in whole or loop == whole:
            continue
        tanhs, exps = code.count(loop, "MUFU.TANH"), code.count(loop, "MUFU.EX2")
        if tanhs:
            trips = shape.inner // 2 * boards / tanhs
        elif exps % 8 == 0:
            trips = (tiles_of(shape) - 1) // (exps // 8) if exps else 1  # the last tile is apart
        else:
            unused.append(loop)
            continue
        for i in loop:
            weight[i] *= trips
    for i in whole:
        skipped = range(i + 1, code.labels.get(code.instructions[i].target, i))
        if any(loop[0] in skipped for loop in unused):
            weight |= dict.fromkeys(skipped, 0.0)
    ops: Counter[str] = Counter()
    for i, n in weight.items():
        ops[code.instructions[i].op] += n
    return Counted(dict(ops))


def tiles_of(shape: Shape) -> int:
    return -(-(shape.cells + 1) // 16)


def busiest(of_warps: list[float]) -> float:
    """What falls to the fullest of four schedulers; warps are dealt in turn."""
    return max(sum(of_warps[i::4]) for i in range(4))


def row_of(arch: int, boards: int) -> list[str]:
    """One line of the table, at the published shape."""
    decider = Decider(HRMConfig(dtype="bfloat16"))
    shape = decider.shape
    boards, warps, inside, outside = decider.native.plan(boards, SHARED[arch] * 1024)
    sizes = (
        f"{shape.width}, {shape.width // shape.heads}, {boards}, {tiles_of(shape)}, {32 * warps}"
    )
    code = disassembled(f"decide_kernel<hrm::gpu::BFloat16, {sizes}>", arch)
    kinds = counted(code, shape, boards)
    of_warps = [kinds[0]] * warps
    if len(kinds) > 1:  # the last tile's boards have a warp each
        of_warps[-boards:] = [kinds[1]] * boards
    of_cycle = shape.l_layers * shape.l_cycles + shape.h_layers
    passes = of_cycle * shape.h_cycles * SEGMENTS
    # L's calls read three states and write one, H's read two
    moved = 2 * len(decider.order) + outside // 3 * (4 * shape.l_cycles + 3) // of_cycle
    issue = busiest([w.issued("") for w in of_warps])
    tensor = busiest([w.issued(PIPES["tensor"]) * TENSOR for w in of_warps])
    shared = sum(w.shared_clocks() for w in of_warps)
    limits = {"issue": issue, "tensor": tensor / SYNC, "shared": shared}
    seconds = passes * max(limits.values()) / CLOCK
    usual = passes * max(issue / USUAL, tensor / SYNC, shared) / CLOCK
    parts = boards * tiles_of(shape)
    pipes = [sum(w.issued(p) for w in of_warps) / parts for p in PIPES.values()]
    whole = sum(w.issued("") for w in of_warps) / parts
    on_h100 = [
        f"{tensor:.0f}", *(f"{SMS * boards / s:.3g}" for s in (seconds, usual)),
        max(limits, key=limits.__getitem__),
    ]  # fmt: skip
    return [
        str(arch), str(boards), str(warps), str(inside), str(code.registers), str(code.spilled),
        *(f"{n:.0f}" for n in (whole, *pipes, whole - sum(pipes), issue, shared, moved)),
        *(on_h100 if arch == 90 else "-" * len(on_h100)),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", type=int, choices=SHARED, default=list(SHARED))
    parser.add_argument("--boards", type=int, default=0, help="a CTA; 0: as many as fit")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    args = parser.parse_args()
    if not (shutil.which("nvcc") and nvdisasm()):
        print("no nvcc or no nvdisasm (pip install nvidia-cuda-nvdisasm): nothing is counted")
        return 0
    print(ABOUT)
    show(HEADER, [row_of(arch, args.boards) for arch in args.arch], nvcc(), args.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
