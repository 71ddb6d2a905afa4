"""That nvcc compiles the device code without spilling registers; slow where it takes minutes, as
installing compiles it for a GPU that is there."""

import shutil

import pytest

from profiling.ptxas_report import SOURCES, assembled

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
MAZES, *DECISIONS = SOURCES


def test_mazes() -> None:
    found = list(assembled(MAZES, 90))
    assert {kernel.kernel for kernel in found} == {"maze step", "maze reset"}
    assert not any(kernel.spilled for kernel in found)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("source", DECISIONS)
def test_decisions(source: str, arch: int) -> None:
    found = list(assembled(source, arch))
    assert found
    assert not any(kernel.spilled and not kernel.may_spill for kernel in found)
