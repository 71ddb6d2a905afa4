"""Who may import whom: the arrows between the rooms point one way."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"envs", "hrm_fast", "kernels", "train", "tests", "profiling"}
MAY_IMPORT = {
    "envs": set(),
    "kernels": set(),
    "hrm_fast": {"kernels"},
    "train": {"hrm_fast", "envs", "kernels"},
}
# of the rooms in train/; a file at its top may import every one of them
IN_TRAIN = {
    "config": set(),
    "machine": {"config"},
    "files": {"config"},
    "run": {"config", "files", "machine"},
    "analyse": {"config", "files", "machine"},
    "watch": {"config", "files", "analyse"},
}
ENTRIES = 18  # at the top of train/


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NATIVE = {"envs._maze", "kernels._native"}
MODULES = {module_of(f): f for room in sorted(ROOMS) for f in (ROOT / room).rglob("*.py")}


def imports(file: Path) -> set[str]:
    """Modules that the file imports, wherever in it; ours as the file that is meant."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {*MODULES, *NATIVE}
            names |= {name if name in own else node.module for name in inner}
    return names


def imported_rooms(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)} & ROOMS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        extra = imported_rooms(file) - MAY_IMPORT[room] - {room}
        assert not extra, f"{file.relative_to(ROOT)} imports {extra}"


@pytest.mark.parametrize("room", IN_TRAIN)
def test_arrows_in_train(room: str) -> None:
    files = list((ROOT / "train" / room).glob("*.py"))
    assert files
    for file in files:
        found = {name.split(".")[1] for name in imports(file) if name.startswith("train.")}
        extra = (found & set(IN_TRAIN)) - IN_TRAIN[room] - {room}
        assert not extra, f"{file.relative_to(ROOT)} imports {extra}"


def test_no_circle() -> None:
    """No file imports itself by way of others."""
    graph = {name: imports(file) & set(MODULES) - {name} for name, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_top_of_train_is_small() -> None:
    entries = [f.name for f in (ROOT / "train").iterdir() if f.name != "__pycache__"]
    assert len(entries) <= ENTRIES, sorted(entries)


def test_python_reaches_csrc_only_in_bindings() -> None:
    for file in (ROOT / "csrc").rglob("*"):
        if file.is_file() and "bind" not in file.name:
            assert "pybind11" not in file.read_text(), file
        if file.is_file():
            assert "torch/" not in file.read_text(), file
