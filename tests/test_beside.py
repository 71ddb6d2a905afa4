"""Beside packages of the same names, other clones and other folders: one line, or no matter."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from envs import _maze
from kernels import _native

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *words: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """Python in a folder, with another one before ours in its path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [first, str(ROOT)]))}
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def theirs(folder: Path, *names: str) -> Path:
    """A folder with packages, or modules, of these names."""
    for name in names:
        file = folder / name if name.endswith(".py") else folder / name / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise RuntimeError('not ours')\n")
    return folder


def test_another_package_kernels(tmp_path: Path) -> None:
    """As Hugging Face's, which transformers asks for."""
    done = run(tmp_path, "-c", "import hrm_fast", first=str(theirs(tmp_path / "site", "kernels")))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "not ours" not in done.stderr
    assert f"the package kernels is {tmp_path}/site/kernels: expected the one beside {ROOT}" in last


@pytest.mark.parametrize("name", ["envs", "kernels", "envs.py"])
def test_the_users_own_in_the_current_folder(name: str, tmp_path: Path) -> None:
    done = run(theirs(tmp_path, name), "-m", "train.dqn", "--help")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"error: the package {name.removesuffix('.py')} is {tmp_path}/{name}")


def test_folders_of_data_do_not_hide_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the parent folder of a clone called hrm_fast, where only the install leads to ours."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in ("hrm_fast", "envs", "kernels", "train"):
        (tmp_path / name / "data").mkdir(parents=True)
    code = "import hrm_fast, envs; hrm_fast.HRM, envs.MazeBatch"
    for words in (("-c", code), ("-m", "train.evaluate", "quick", "--episodes", "2")):
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("package", "module"), [("envs", "_maze"), ("kernels", "_native")])
@pytest.mark.parametrize("how", ["not built", "built from other sources"])
def test_a_second_clone_is_one_line(package: str, module: str, how: str, tmp_path: Path) -> None:
    for name in ("csrc", "envs", "hrm_fast", "kernels", "train"):
        skipped = shutil.ignore_patterns("__pycache__", *[f"{module}*.so"] * (how == "not built"))
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    if how != "not built":
        with (tmp_path / "csrc" / {"_maze": "maze", "_native": "hrm"}[module] / "new.h").open("w"):
            pass
    done = run(tmp_path, "-m", "train.dqn", "--help", first=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ")
    assert module in line and "pip install -e" in line
    assert ("built from other sources" in line) == (how != "not built")


@pytest.mark.parametrize("command", ["train", "evaluate", "watch"])
def test_console_commands_do_not_depend_on_the_folder(command: str, tmp_path: Path) -> None:
    """Installed scripts do what this one does."""
    folder = str(theirs(tmp_path, "train.py", "envs", "kernels"))
    script = f"import sys, hrm_fast_commands; sys.exit(hrm_fast_commands.{command}())"
    done = run(tmp_path, "-c", f"import sys; sys.argv[1:] = ['--help']; {script}", first=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout
    scripts = (ROOT / "pyproject.toml").read_text()
    assert f'hrm-{command} = "hrm_fast_commands:{command}"' in scripts


def test_native_modules_know_their_sources(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    names = runpy.run_path(str(tmp_path / "csrc" / "digest.py"))
    modules: tuple[tuple[ModuleType, str], ...] = ((_maze, "maze"), (_native, "hrm"))
    for module, room in modules:
        names["check"](module, room)
    (tmp_path / "csrc" / "hrm" / "note.txt").write_text("no source")
    names["check"](_native, "hrm")
    with (tmp_path / "csrc" / "hrm" / "board.h").open("a") as file:
        file.write("\n")
    names["check"](_maze, "maze")
    with pytest.raises(ImportError, match=r"_native.*was built from other sources than .*/csrc"):
        names["check"](_native, "hrm")
    (tmp_path / "csrc" / "common" / "fork_safe_mutex.h").rename(
        tmp_path / "csrc" / "common" / "renamed.h"
    )
    for module, room in modules:
        with pytest.raises(ImportError, match="was built from other sources"):
            names["check"](module, room)


@pytest.mark.parametrize(("package", "room", "what"), [
    ("kernels", "hrm", "kernels.native"), ("envs", "maze", "envs"),
])  # fmt: skip
def test_a_second_clone_with_the_modules_of_the_first(
    package: str, room: str, what: str, tmp_path: Path
) -> None:
    for name in ("csrc", package):
        shutil.copytree(ROOT / name, tmp_path / name)
    with next((tmp_path / "csrc" / room).glob("*.cpp")).open("a") as file:
        file.write("\n")
    done = run(tmp_path, "-c", f"import {what}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and f"{tmp_path}/csrc: expected those" in last
