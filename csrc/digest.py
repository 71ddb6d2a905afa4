"""Which sources a native module was built from: setup.py compiles this digest in, and what imports
a module compares it, where the sources are there. A second clone that runs with the environment of
the first would otherwise load the first one's machine code under its own Python."""

import hashlib
from pathlib import Path
from types import ModuleType

SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def digest(room: str) -> str:
    """Of all sources that the module of this room is made of, by name and content."""
    csrc = Path(__file__).resolve().parent
    files = [f for part in ("common", room) for f in (csrc / part).iterdir()]
    total = hashlib.sha256()
    for file in sorted(f for f in files if f.suffix in SUFFIXES):
        total.update(f"{file.relative_to(csrc).as_posix()}\n".encode() + file.read_bytes())
    return total.hexdigest()


def check(module: ModuleType, room: str) -> None:
    """ImportError: the module was built from other sources than those beside this file."""
    if getattr(module, "SOURCES", None) != digest(room):
        here = Path(__file__).resolve().parent.parent
        raise ImportError(
            f"{module.__file__} was built from other sources than {here}/csrc: expected those, "
            f"so build them (pip install -e {here}, in an environment of this clone's own)"
        )
