"""What docstrings, comments and pages name in back quotes exists: names with dots, and paths."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from test_imports import MODULES, ROOT

QUOTED = re.compile(r"`([^`\n]+)`")
DOTTED = re.compile(r"([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|pyi|h|cu|cuh|cpp|md|sh|csv|toml)")
PAGES = [page for where in (".", "docs", "examples") for page in (ROOT / where).glob("*.md")]
HISTORY = {"CHANGELOG.md"}  # tells of names that are gone
FILE = re.compile(r".*\.(?:py|h|csv|safetensors|json)")
PACKAGES = ("envs", "hrm_fast", "kernels", "train")


def texts(file: Path) -> Iterator[str]:
    """Docstrings and comments of a module, or a page as a whole."""
    source = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        yield source
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)  # below a field
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.fixture(scope="module")
def owners() -> dict[str, list[object]]:
    """Last part of a name -> the modules and classes of ours that it may stand for."""
    found: dict[str, list[object]] = defaultdict(list)
    for name in MODULES:
        if not name.startswith(PACKAGES) or name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        found[name.split(".")[-1]].append(module)
        for key, thing in vars(module).items():
            if inspect.isclass(thing):
                found[key].append(thing)
    return found


def has(owner: object, names: list[str]) -> bool:
    """Whether the chain of attributes is there; a field, or what `self` is given, is one."""
    for name in names:
        if isinstance(owner, ModuleType) and f"{owner.__name__}.{name}" in MODULES:
            owner = importlib.import_module(f"{owner.__name__}.{name}")
        elif hasattr(owner, name):
            owner = getattr(owner, name)
        else:
            own = inspect.isclass(owner) and re.search(
                rf"self\.{name}\b|^    {name}:", inspect.getsource(owner), re.MULTILINE
            )
            return bool(own)
    return True


@pytest.mark.parametrize(
    "file",
    [*MODULES.values(), *(p for p in PAGES if p.name not in HISTORY)],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_what_is_named_exists(file: Path, owners: dict[str, list[object]]) -> None:
    gone = []
    for text in texts(file):
        for quoted in QUOTED.findall(text):
            dotted = None if FILE.fullmatch(quoted) else DOTTED.fullmatch(quoted)
            if dotted and dotted[1] in owners:
                names = dotted[2].removeprefix(".").split(".")
                if not any(has(owner, names) for owner in owners[dotted[1]]):
                    gone.append(quoted)
            places = (ROOT, file.parent, ROOT / "csrc")
            is_path = PATH.fullmatch(quoted) and "NAME" not in quoted
            if is_path and not any((p / quoted).exists() for p in places):
                gone.append(quoted)
    assert not gone, f"{file.relative_to(ROOT)} names {gone}"
