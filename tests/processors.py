"""The tests that measure rounding, as on other processors: `python tests/processors.py`.

For each instruction set that this CPU has, the engine's code, PyTorch's and NumPy's are held to it,
on one thread and on two. Ends with the first that fails.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from numpy._core._multiarray_umath import __cpu_dispatch__

ROOT = Path(__file__).resolve().parent.parent
ROUNDING = (
    "triton_large", "triton_blocks", "triton_embedding", "triton_q", "triton_optimiser",
    "triton_model", "triton_launch", "cpu_engine", "cuda_decide", "from_reference", "model",
    "optimiser", "muon", "goals", "graph", "halting_loss", "analyse", "replay",
)  # fmt: skip
SETS = {"portable": "default", "avx2": "avx2", "avx512": "avx512"}  # the engine's name: PyTorch's


def left_alone(instructions: str) -> str:
    """What NumPy would use beyond them; Triton's interpreter computes with it."""
    wide = [x for x in __cpu_dispatch__ if x == "X86_V4" or "512" in x]
    return " ".join({"portable": __cpu_dispatch__, "avx2": wide, "avx512": []}[instructions])


def main() -> None:
    has = torch.backends.cpu.get_cpu_capability().lower()
    names = list(SETS.values())
    for instructions, aten in SETS.items():
        if names.index(aten) > (names.index(has) if has in names else 0):
            print(f"{instructions}: this CPU has no more than {has}")
            continue
        for threads in "12":
            setting = {
                "ATEN_CPU_CAPABILITY": aten,
                "NPY_DISABLE_CPU_FEATURES": left_alone(instructions),
                "OMP_NUM_THREADS": threads,
            }
            print(f"{instructions}, {threads} threads", flush=True)
            files = [f"tests/test_{name}.py" for name in ROUNDING]
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
            subprocess.run(
                [*command, "--instructions", instructions, *sys.argv[1:]],
                cwd=ROOT, env=os.environ | setting, check=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
