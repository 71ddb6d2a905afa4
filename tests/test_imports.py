"""Who may import whom: the arrows between the rooms point one way."""

import ast
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


def imported_rooms(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add((node.module or "").split(".")[0])
    return names & ROOMS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        extra = imported_rooms(file) - MAY_IMPORT[room] - {room}
        assert not extra, f"{file.relative_to(ROOT)} imports {extra}"


def test_python_reaches_csrc_only_in_bindings() -> None:
    for file in (ROOT / "csrc").rglob("*"):
        if file.is_file() and "bind" not in file.name:
            assert "pybind11" not in file.read_text(), file
        if file.is_file():
            assert "torch/" not in file.read_text(), file
