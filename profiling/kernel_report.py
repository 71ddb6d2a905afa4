"""What the compilers make of every kernel, told without a GPU:
`python -m profiling.kernel_report [--arch 80 90] [--csv FILE]`.

Every Triton kernel is compiled ahead of time in its default configuration, in bfloat16, and
products in float32 too. The exit status is 1 where registers are spilled, where products do without
tensor cores, where float32 is multiplied as TF32, or where the GPU has too little shared memory.
Where there is nvcc the CUDA C++ kernels follow, which takes minutes (--no-cuda leaves them out);
their CSV is FILE_cuda.csv.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"  # read when a kernel is defined

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from profiling import ptxas_report
from profiling.bench_maze import machine
from profiling.kernels_table import Kernel, Launch, launches, ops, smallest

HEADER = [
    "kernel", "sm", "registers", "spilled B", "shared B", "warps", "tensor cores", "programs", "MB",
    "MFLOP", "FLOP/B", "bound by", "roofline us", "warps/SM", "share",
]  # fmt: skip
CUDA_HEADER = ["kernel", "sm", "registers", "spilled B", "stack B", "threads", "shared B"]
TENSOR_CORE = re.compile(r"tcgen05\.mma|wgmma\.mma_async|mma\.sync")
LATENCY = 600e-9  # of device memory, in seconds
IN_FLIGHT = 16 * 32  # bytes that one warp waits for


class GPU(NamedTuple):
    name: str
    sms: int
    shared: int  # bytes of an SM; a program has 1 KiB less, and costs 1 KiB more than it has
    warps: int  # that an SM holds
    flops: float  # bfloat16 products, dense
    bandwidth: float  # bytes/s

    def needed(self, bound: str) -> float:
        """Warps of an SM that keep what bounds the kernel busy."""
        if bound == "products":
            return 8
        return self.bandwidth * LATENCY / self.sms / IN_FLIGHT


GPUS = {
    80: GPU("A100", 108, 164 * 1024, 64, 312e12, 1.9e12),
    86: GPU("RTX 3090", 82, 100 * 1024, 48, 71e12, 0.94e12),
    89: GPU("RTX 4090", 128, 100 * 1024, 48, 165e12, 1.01e12),
    90: GPU("H100", 132, 228 * 1024, 64, 798e12, 3.0e12),
    100: GPU("B200", 148, 228 * 1024, 64, 2250e12, 8.0e12),
    120: GPU("RTX 5090", 170, 100 * 1024, 48, 210e12, 1.79e12),
}
CEILINGS = "; ".join(
    f"sm_{arch} {gpu.name} {gpu.flops / 1e12:.0f} TFLOP/s, {gpu.bandwidth / 1e12:.1f} TB/s"
    for arch, gpu in GPUS.items()
)
ASSUMED = f"""\
Default configurations, bfloat16; B 256, T 144, D 64, 2 heads, inner 256; large: B 32, T 901,
D 512, 8 heads, inner 1536. MB: every tensor of a launch once. MFLOP: products, those that backward
computes again included; all arithmetic where there are none. Roofline: the time for either, the
longer one, at {CEILINGS}
(H100 measured, others from data sheets). warps/SM: resident, by registers, shared and tensor
memory, and the number of programs. share: of the roofline, as far as occupancy decides: those warps
/ the warps that hide latency (products: two a scheduler; memory: one 16-byte load a thread in
flight against {LATENCY * 1e9:.0f} ns), at most 1, times the SMs' mean load / the fullest SM's."""


class Compiled(NamedTuple):
    ptx: str
    registers: int
    spilled: int
    shared: int
    warps: int
    columns: int  # of the 512 that a Blackwell SM's tensor memory has


def compiled(launch: Launch, arch: int) -> Compiled:
    """The kernel's PTX and the assembler's report on it, as Triton itself would specialise it."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attrs: dict[tuple[int], list[list[Any]]] = {}
    for i, p in enumerate(launch.fn.params):
        value = launch.given[p.name]
        number = isinstance(value, int) and not isinstance(value, bool)
        if p.is_constexpr or value is None or (number and value == 1):
            signature[p.name], constants[p.name] = "constexpr", value
            continue
        signature[p.name] = p.annotation_type or mangle_type(value)
        if isinstance(value, torch.Tensor) or (number and value % 16 == 0):
            attrs[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.fn, signature, constants, attrs)
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    ptx = built.asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        sm = f"--gpu-name={sm_arch_from_capability(arch)}"
        command = [get_ptxas(arch).path, "-v", sm, file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, stores, loads = (
        int(re.findall(rf"{what}", said)[-1])
        for what in (r"Used (\d+) registers", r"(\d+) bytes spill st", r"(\d+) bytes spill lo")
    )
    meta = built.metadata
    columns = getattr(meta, "tmem_size", None) or 0
    return Compiled(ptx, registers, stores + loads, meta.shared, meta.num_warps, columns)


def resident(gpu: GPU, c: Compiled, programs: int) -> tuple[int, int]:
    """Programs that one SM holds at once, as its resources and then as their number allow."""
    registers = 65536 // (c.warps * 32 * max(8, 8 * math.ceil(c.registers / 8)))
    memory = gpu.shared // (c.shared + 1024), 512 // max(1, c.columns)
    fit = min(registers, *memory, gpu.warps // c.warps, 32)
    return fit, min(fit, math.ceil(programs / gpu.sms))


def row_of(kernel: Kernel, launch: Launch, arch: int, c: Compiled) -> list[str]:
    gpu = GPUS[arch]
    moved = launch.bytes(kernel.passes)
    seconds = {"memory": moved / gpu.bandwidth}
    if kernel.products:
        seconds["products"] = kernel.flops / gpu.flops
    bound = max(seconds, key=seconds.__getitem__)
    _, there = resident(gpu, c, launch.programs)
    each = launch.programs / gpu.sms
    share = min(1.0, there * c.warps / gpu.needed(bound)) * each / math.ceil(each)
    found = sorted(set(TENSOR_CORE.findall(c.ptx)))
    return [
        kernel.name, str(arch), str(c.registers), str(c.spilled), str(c.shared), str(c.warps),
        " + ".join(found) or "-", str(launch.programs), f"{moved / 1e6:.3g}",
        f"{kernel.flops / 1e6:.4g}", f"{kernel.flops / moved:.3g}", bound,
        f"{seconds[bound] * 1e6:.3g}", str(there * c.warps), f"{share:.0%}",
    ]  # fmt: skip


def faults(kernel: Kernel, launch: Launch, arch: int, c: Compiled) -> list[str]:
    found = []
    if c.spilled:
        found.append(f"{c.spilled} bytes of registers are spilled")
    if kernel.products and not TENSOR_CORE.search(c.ptx):
        found.append("no tensor-core instruction")
    if resident(GPUS[arch], c, launch.programs)[0] < 1:
        found.append(f"no SM holds a program of {c.shared} bytes, {c.registers} registers")
    return found


def examine(name: str, launch: Launch, arch: int) -> Compiled | str:
    """What became of it, or why nothing did."""
    begin = time.perf_counter()
    try:
        return compiled(launch, arch)
    except Exception as error:
        return f"does not compile: {' '.join(str(error).split())[-200:]}"
    finally:
        took = time.perf_counter() - begin
        print(f"{name}, sm_{arch}: {took:.1f} s", file=sys.stderr, flush=True)


def rows_in_bfloat16(archs: list[int], only: str) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and a line for everything that is wrong."""
    rows, wrong = [], []
    for op in ops():
        if not any(only in kernel.name for kernel in op.kernels):
            continue
        for kernel, launch in zip(op.kernels, launches(op, torch.bfloat16), strict=True):
            for arch in archs:
                c, who = examine(kernel.name, launch, arch), f"{kernel.name}, sm_{arch}"
                if isinstance(c, str):
                    wrong.append(f"{who}: {c}")
                    continue
                rows.append(row_of(kernel, launch, arch, c))
                wrong += [f"{who}: {fault}" for fault in faults(kernel, launch, arch, c)]
    return rows, wrong


def wrong_in_float32(arch: int, only: str) -> list[str]:
    """Products in TF32. One architecture, few tokens and small tiles do: it is the kernel that
    asks for TF32, and without tensor cores products compile slowly."""
    wrong = []
    for op in ops(T=16):
        if not any(kernel.products and only in kernel.name for kernel in op.kernels):
            continue
        for kernel, launch in zip(op.kernels, launches(op, torch.float32, smallest), strict=True):
            c = examine(f"{kernel.name}, float32", launch, arch)
            if isinstance(c, str) or "tf32" in c.ptx:
                fault = c if isinstance(c, str) else "products are in TF32"
                wrong.append(f"{kernel.name}, sm_{arch}, float32: {fault}")
    return wrong


def rows_of_cuda(archs: list[int], only: str) -> tuple[list[list[str]], list[str]]:
    """Rows of the second table, and a line for everything that is wrong."""
    rows, wrong = [], []
    for source in (s for s in ptxas_report.SOURCES if only in s):
        for arch in archs:
            try:
                found = list(ptxas_report.assembled(source, arch))
            except subprocess.CalledProcessError as error:
                wrong.append(f"{source}, sm_{arch}: {' '.join(error.stderr.split())[-200:]}")
                continue
            print(f"{source}, sm_{arch}: {len(found)} kernels", file=sys.stderr, flush=True)
            for kernel in found:
                rows.append(["-" if x is None else str(x) for x in kernel[:-1]])
                if kernel.spilled and not kernel.may_spill:
                    spilled = f"{kernel.spilled} bytes of registers are spilled"
                    wrong.append(f"{kernel.kernel}, sm_{arch}: {spilled}")
    return rows, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", type=int, choices=GPUS, default=list(GPUS))
    parser.add_argument("--only", default="", help="kernels or .cu files with this in their name")
    parser.add_argument("--csv", type=Path, help="also write the tables here")
    parser.add_argument("--cuda", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    rows, wrong = rows_in_bfloat16(args.arch, args.only)
    wrong += wrong_in_float32(args.arch[0], args.only)
    about = f"triton {triton.__version__}, torch {torch.__version__}, {machine()}"
    if rows:
        print(ASSUMED, about, sep="\n")
        ptxas_report.show(HEADER, rows, about, args.csv)
    if args.cuda and shutil.which("nvcc"):
        found, faulty = rows_of_cuda(args.arch, args.only)
        wrong += faulty
        if found:
            beside = args.csv and args.csv.with_stem(f"{args.csv.stem}_cuda")
            ptxas_report.show(CUDA_HEADER, found, ptxas_report.nvcc(), beside)
            rows += found
    elif args.cuda:
        print("no nvcc: the CUDA C++ kernels are left out")
    for line in wrong:
        print(f"FAULT {line}")
    print(f"{len(rows)} rows, {len(wrong)} faults")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
