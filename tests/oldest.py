"""Prints the oldest versions that pyproject.toml allows, as constraints for pip (make test-oldest).

python tests/oldest.py [PACKAGE ...]    without these
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def oldest(text: str) -> dict[str, str]:
    """Package -> the version behind its >=."""
    return dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\w.]+)', text))


if __name__ == "__main__":
    for name, version in oldest(PROJECT.read_text(encoding="utf-8")).items():
        if name not in sys.argv[1:]:
            print(f"{name}=={version}")
