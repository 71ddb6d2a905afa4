"""That nvcc compiles the device code; slow, as installing compiles it for a GPU that is there."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


def compiled(source: str, folder: Path, *flags: str) -> str:
    words = [str(NVCC), "-std=c++17", "--expt-relaxed-constexpr", "-I", str(ROOT / "csrc"), *flags]
    words += ["-cubin", "-Xptxas", "-v", "-o", str(folder / "cubin"), str(ROOT / source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mazes(tmp_path: Path) -> None:
    said = compiled("csrc/maze/device.cu", tmp_path, "-arch=sm_90")
    assert said.count("0 bytes spill stores") == 2


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", ["decide_bf16", "decide_float32"])
def test_decisions(tmp_path: Path, source: str, arch: str) -> None:
    assert "decide_kernel" in compiled(f"csrc/hrm/{source}.cu", tmp_path, f"-arch={arch}")
