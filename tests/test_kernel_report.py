"""The compiler's report on the Triton kernels, and the check for GPUs where there is none."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("kernels.triton.common")

from profiling.kernel_cases import Trial, compare
from profiling.kernels_table import launches, ops

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[1]
WITH_FAULTS = """
import sys
from profiling import kernel_report as report
from kernels.triton import add_rms

config = add_rms.forward_kernel.configs[0]
config.kwargs["BR"], config.num_warps = 16, 1

def multiplying(T=144, ops=report.ops):
    return [op._replace(kernels=[k._replace(products=True) for k in op.kernels]) for op in ops(T)]

def in_tf32(launch, arch, compiled=report.compiled):
    c = compiled(launch, arch)
    return c._replace(ptx=c.ptx + ".tf32")

report.ops, report.compiled = multiplying, in_tf32
sys.exit(report.main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Of Python, in a process of its own: whether Triton interprets is decided at its import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def test_report_on_kernels(tmp_path: Path) -> None:
    table = tmp_path / "report.csv"
    done = run(
        *("-m", "profiling.kernel_report", "--arch", "90", "--only", "embedding"),
        *("--csv", str(table)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| embedding backward | 90 |" in done.stdout
    header, *rows, _ = csv.reader(table.read_text().splitlines())
    forward, backward = (dict(zip(header, row, strict=True)) for row in rows)
    assert (forward["kernel"], backward["kernel"]) == ("embedding forward", "embedding backward")
    assert (forward["tensor cores"], forward["spilled B"]) == ("-", "0")
    assert backward["tensor cores"] == "wgmma.mma_async"
    e = 256 * 144 * 64
    assert float(forward["MB"]) == pytest.approx(2 * e / 1e6, rel=0.02)
    assert float(backward["MFLOP"]) == pytest.approx(2 * 132 * e / 1e6, rel=0.01)


def test_faults_fail_the_report() -> None:
    """A tile of 16 rows in the registers of one warp; and products where there are none."""
    done = run("-c", WITH_FAULTS, "--arch", "80", "--only", "add_rms forward")
    assert done.returncode == 1, done.stdout + done.stderr
    spilled, scalar, tf32 = (x for x in done.stdout.splitlines() if x.startswith("FAULT"))
    assert re.fullmatch(r"FAULT add_rms forward, large, sm_80: \d+ bytes .* are spilled", spilled)
    assert scalar == "FAULT add_rms forward, large, sm_80: no tensor-core instruction"
    assert tf32 == "FAULT add_rms forward, large, sm_80, float32: products are in TF32"


def test_every_kernel_of_every_file_is_reported() -> None:
    """As many launches as names, and no jit kernel with a launcher is missing."""
    launched = set()
    for op in ops():
        found = launches(op, torch.bfloat16)
        assert len(found) == len(op.kernels)
        launched |= {(launch.fn.fn.__module__, launch.fn.fn.__name__) for launch in found}
        assert all(launch.programs > 0 for launch in found)
    written = {
        (f"kernels.triton.{file.stem}", line.split("(")[0].removeprefix("def "))
        for file in (ROOT / "kernels" / "triton").glob("*.py")
        for line in file.read_text().splitlines()
        if re.match(r"def (\w+_)?kernel\(", line)
    }
    assert launched == written


def test_gpu_check_without_a_gpu() -> None:
    done = run("profiling/gpu_check.py", "--kernel", "add_rms")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok     add_rms, float32" in done.stdout
    for what in ("timings", "sanitizer", "bfloat16 checks"):
        assert f"left out: {what}" in done.stdout
    assert "| add_rms backward | 90 |" in done.stdout


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [(1.9e-3, 1e-3, True), (2.1e-3, 1e-3, False), (1e-7, 0.0, True), (2e-7, 0.0, False)],
)
def test_at_most_twice_the_error_of_pytorch(ours: float, theirs: float, passed: bool) -> None:
    """Or one unit in the last place: of an exact 0, of that of what was added up."""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    for exact in (zero, one):
        trial = Trial([one, exact], [one, exact + ours], [one, exact + theirs], [one, one])
        assert compare("f", torch.float32, [trial]).passed == passed
    trial = Trial([one], [one * torch.nan], [one], [one])
    assert not compare("f", torch.float32, [trial]).passed
