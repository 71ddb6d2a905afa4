"""The shim that runs CUDA kernels on the host: what is right runs, what is missing shows."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a case of tests/shim_faults.cpp: what it printed."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    assert compiler
    program = tmp_path_factory.mktemp("shim") / "shim_faults"
    source, flags = ROOT / "tests/shim_faults.cpp", ["-std=c++17", "-O1", "-Wno-unknown-pragmas"]
    command = [compiler, *flags, "-I", str(ROOT / "csrc"), str(source), "-o", str(program)]
    subprocess.run(command, check=True)

    def output(case: str, seed: int = 1) -> str:
        command = [str(program), case, str(seed)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return output


def test_the_cheap_silu_is_as_exact_as_it_says(faults: Any) -> None:
    """With the digits of tanh cut off that a GPU's approximation need not have."""
    assert 2**-14 < float(faults("silu")) < 1.001 * 2**-12


def test_shim_runs_what_is_right(faults: Any) -> None:
    for seed in range(5):
        handed = [int(x) for x in faults("barrier", seed).split()[:96]]
        assert handed == [*range(1, 96), 0]
        assert [int(x) for x in faults("wait", seed).split()[:96]] == list(range(96))
        sums = [int(x) for x in faults("sums", seed).split()[:96]]
        assert sums == [32 * (32 * (i // 32)) + 496 for i in range(96)]
        assert float(faults("product by shuffles", seed)) < 1e-6


@pytest.mark.parametrize("case", ["no barrier", "no wait"])
def test_shim_shows_what_is_missing(faults: Any, case: str) -> None:
    for seed in range(5):
        assert "-1" in faults(case, seed).split()


def test_shim_brings_copies_no_earlier_than_waited_for(faults: Any) -> None:
    numbers = faults("older copy").split()
    assert numbers[:96] == [str(i) for i in range(96)] and numbers[96:] == ["-1"] * 96


@pytest.mark.parametrize(("case", "message"), [
    ("divergent barrier", "not all threads of a block reach __syncthreads"),
    ("divergent shuffle", "not all lanes of a warp reach __shfl_sync"),
    ("two collectives", "lanes of a warp meet in"),
    ("past the end", "a block wrote past its shared memory"),
    ("part of a warp", "a block has 33 threads: expected whole warps of 32"),
])  # fmt: skip
def test_shim_ends_with_an_error(faults: Any, case: str, message: str) -> None:
    assert message in faults(case)
