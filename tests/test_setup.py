"""What an installation compiles, with what, and for which GPUs."""

import os
import runpy
import shutil
import subprocess
import sys
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


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for variable in ("CXX", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "HRM_FAST_CUDA"):
        monkeypatch.delenv(variable, raising=False)
    return runpy.run_path(str(SETUP))


def test_variables_reach_the_compiler(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that writes down what it was given, and one of its arguments in CXX."""
    told = tmp_path / "told"
    (tmp_path / "c plus").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n')
    (tmp_path / "c plus").chmod(0o755)
    monkeypatch.setenv("CXX", f"'{tmp_path}/c plus' --first")
    monkeypatch.setenv("CPPFLAGS", "-DA='b c'")
    monkeypatch.setenv("CXXFLAGS", "-O2 -std=c++14")
    monkeypatch.setenv("LDFLAGS", "-Wl,-rpath,'$ORIGIN'")
    source = SETUP.parent / "csrc" / "maze" / "bind.cpp"
    file = tmp_path / "build.ninja"
    file.write_text(names["ninja_file"]([source], tmp_path / "x.so", None, "abc"))
    said = subprocess.run(
        [names["find_ninja"](), "-C", str(tmp_path), "-t", "commands"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    compiling, linking = said.stdout.splitlines()[-2:]
    for command in (compiling, linking):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    given = told.read_text().splitlines()
    assert given.count("--first") == 2
    assert "-DA=b c" in given and "-DHRM_FAST_SOURCES=abc" in given
    assert given.index("-O3") < given.index("-O2")
    assert given.index("-std=c++14") < given.index("-std=c++17")  # without which nothing compiles
    assert given[-1] == "-Wl,-rpath,$ORIGIN"


@pytest.mark.parametrize(
    ("variable", "value", "function", "words"),
    [
        ("CXX", "no-such-compiler -m64", "find_cxx", "compiler no-such-compiler, named by CXX, is"),
        ("CXX", "g++ 'half", "find_cxx", 'CXX is "g++ \'half" (No closing quotation)'),
        ("CXX", "", "find_cxx", "no C++ compiler: expected c++, g++ or clang++ in PATH"),
        ("HRM_FAST_CUDA", "1", "find_nvcc", "HRM_FAST_CUDA is 1, but there is no nvcc"),
        ("HRM_FAST_CUDA", "yes", "find_nvcc", "HRM_FAST_CUDA is 'yes': expected 0 or 1"),
    ],
)
def test_what_is_missing_is_one_line(
    variable: str,
    value: str,
    function: str,
    words: str,
    names: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stop:
        names[function]()
    assert words in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("variable", ["CC", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS"])
def test_an_open_quote_is_one_line(variable: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SETUP), "-q", "build_ext", "--build-lib", str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {variable: '-O2 "half'}, capture_output=True, text=True,
        check=False, cwd=SETUP.parent,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        done.stderr
        == f"{variable} is '-O2 \"half' (No closing quotation): expected words for a shell\n"
    )


def test_a_wheel_holds_no_module_that_is_gone(tmp_path: Path) -> None:
    for package in ("train", "kernels/triton"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "gone.py").write_text("")
    command = [sys.executable, str(SETUP), "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, check=True, cwd=SETUP.parent)
    assert not list(tmp_path.rglob("gone.py"))
    for name in ("train/dqn.py", "train/watch/page.js", "kernels/triton/attention.py"):
        assert (tmp_path / name).exists()
    assert (tmp_path / "hrm_fast_commands.py").exists()
