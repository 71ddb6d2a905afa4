"""Shared by all tests: the repository's root is importable, and torch keeps to itself."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # profiling/ is not installed

with contextlib.suppress(ImportError):  # before anything imports triton: it chooses the interpreter
    import kernels.triton  # noqa: F401

torch.set_num_threads(1)  # tiny models: a second thread would mostly wait, and results vary with it


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
