"""For which GPUs an installation compiles CUDA kernels."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools

SETUP = Path(__file__).resolve().parent.parent / "setup.py"


@pytest.mark.parametrize(("said", "status", "found"), [
    ("9.0\n8.0\n9.0", 0, [80, 90]),
    ("7.5\n12.0", 0, [120]),  # sm_75 has no asynchronous copies
    ("7.5", 0, []),
    ("NVML library version: 535.183", 18, []),
])  # fmt: skip
def test_gpus(
    said: str, status: int, found: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    names: dict[str, Any] = runpy.run_path(str(SETUP))
    assert names["gpus"]() == found
