"""Shared by all tests: the repository's root is importable, and torch keeps to itself."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kernels.native
from train import cli

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # profiling/ is not installed

with contextlib.suppress(ImportError):  # before anything imports triton: it chooses the interpreter
    import kernels.triton

if "OMP_NUM_THREADS" not in os.environ:  # tiny models: a second thread would mostly wait
    torch.set_num_threads(1)

# begun by nohup, what the tests start would ignore the signal too, and never end by it
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# torch asks the processor, not this variable, whether bfloat16 may be packed, and then fails
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    torch.backends.mkldnn.set_flags(False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--instructions", default="", help="the engine's code: portable, avx2, avx512")


def pytest_configure(config: pytest.Config) -> None:
    kernels.native.INSTRUCTIONS = config.getoption("--instructions")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one instruction set by its name: of the chosen one alone."""
    if chosen := config.getoption("--instructions"):
        others = [x for x in items if _instructions(x) not in (None, chosen)]
        items[:] = [x for x in items if x not in others]
        config.hook.pytest_deselected(items=others)


def _instructions(item: pytest.Item) -> Any:
    return item.callspec.params.get("instructions") if hasattr(item, "callspec") else None


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[Any, str, str]]:
    """Runs a program here, which is faster than a process -> (exit status, stdout, stderr)."""

    def run(program: Any, *args: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main(program.main)
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's number of threads is what it was before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _kernel_setting(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Around tests of Triton kernels: fresh draws, NaN in empty buffers, everything on the GPU."""
    if request.node.get_closest_marker("triton") is None:
        yield
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert = interpreter._convert_float
    monkeypatch.setattr(interpreter, "_convert_float", lambda *given: _rounded(convert, *given))
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what `empty` returns
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield
    torch.use_deterministic_algorithms(False)


def _rounded(convert: Any, x: Any, source: Any, target: Any, mode: Any) -> Any:
    """The interpreter's conversion of arrays, but to the nearest bfloat16 as on a GPU.

    Its own cuts the digits off. With this, and products of bfloat16 taken in float32 (which holds
    them exactly, see `kernels.triton.common.dot`), bfloat16 kernels run in it as on a GPU.
    """
    if (source.name, target.name) != ("fp32", "bf16"):
        return convert(x, source, target, mode)
    return torch.tensor(x, device="cpu").bfloat16().view(torch.uint16).numpy()
