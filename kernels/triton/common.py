"""What every kernel file shares: registration with torch.library, tile sizes, small jit functions.

An op is defined by its schema, computes on CPU (through the interpreter) and CUDA alike, and has a
fake for tracing, so that torch.compile keeps it whole. Gradients come from `autograd.Function`s
around the ops, which cost half as much a call as `register_autograd`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.autotuner import Autotuner

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
SMALLEST_DOT = 16  # rows, columns and depth of a tensor core's product
EPS = tl.constexpr(1e-5)  # kernels.rms_norm.EPS
FEW = 64  # programs: half of what a large GPU runs at once

_library = torch.library.Library("hrm_fast", "DEF")


def register(schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The op `torch.ops.hrm_fast.NAME` of a schema "NAME(Tensor x, ...) -> ..."."""

    def compute_there(x: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(x):  # Triton launches on the current GPU, wherever x lives
            return compute(x, *rest)

    name = schema.partition("(")[0]
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for device in ("CPU", "CUDA"):
        _library.impl(name, compute_there, device)
    torch.library.register_fake(f"hrm_fast::{name}", fake, lib=_library)
    return getattr(torch.ops.hrm_fast, name).default


class Tuned(Autotuner):
    """Takes the default where a launch is too small to tell configurations apart: what is found
    once per shape of a model must not come from a test or from a single board. So too where
    torch must be deterministic: timings are not."""

    def run(self, *args: Any, grid: Any, **more: Any) -> Any:
        default = self.configs[0].all_kwargs()
        given = dict(zip(self.arg_names, args, strict=False)) | more | default
        few = math.prod(grid(given) if callable(grid) else grid) < FEW
        if few or torch.get_deterministic_debug_mode() == 2:
            return self.fn.run(*args, grid=grid, **more, **default)
        return super().run(*args, grid=grid, **more)


def tuned(names: str, *tiles: tuple[int, ...], key: str) -> Callable[[Any], Tuned]:
    """Autotune a kernel on a GPU, once per GPU and values of `key` (kept in Triton's cache), so
    launch it once before a CUDA graph is captured.

    tiles: sizes of these names, then warps and stages; the first are the default, since the
    compiler's report found them free of spills.
    """
    configs = [
        triton.Config(dict(zip(names.split(), sizes, strict=True)), warps, stages)
        for *sizes, warps, stages in (tiles[:1] if INTERPRETED else tiles)
    ]
    return lambda fn: Tuned(fn, fn.arg_names, configs, key.split(), None, None, cache_results=True)


def tile(size: int) -> int:
    """The smallest power of two that holds `size` and that a product may have."""
    return max(SMALLEST_DOT, triton.next_power_of_2(size))


def contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Kernels step through memory themselves: an expanded gradient has to be written out first."""
    return tuple(None if t is None else t.contiguous() for t in tensors)


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def expect(like: Tensor, **shapes: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """ValueError unless the tensors have these shapes and `like`'s dtype: a kernel reads anywhere.

    Stands in the fakes, so that calls and traces are checked alike.
    """
    if like.dtype not in DTYPES:
        raise ValueError(f"dtype is {like.dtype}: expected float32, bfloat16 or float16")
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and (tensor.shape != shape or tensor.dtype != like.dtype):
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"{name} is {found}: expected {like.dtype} {list(shape)}")


@triton.jit
def dot(a, b, acc=None):
    """a @ b in float32, never in TF32. The interpreter cannot multiply bfloat16; float32 holds
    its products exactly."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def rms(u, D: tl.constexpr):
    """y = u * scale and scale [R] of u float32 [R, >= D], whose columns beyond D are 0."""
    scale = tl.rsqrt(tl.sum(u * u, 1) / D + EPS)
    return u * scale[:, None], scale


@triton.jit
def rms_backward(y, scale, dy, D: tl.constexpr):
    """du of y = rms(u), from y itself: scale * (dy - y * mean(y * dy))."""
    return scale[:, None] * (dy - y * (tl.sum(y * dy, 1) / D)[:, None])


@triton.jit
def load_rows(at, rows, end, columns, width: tl.constexpr):
    """Tile [R, C] of a row-major matrix of `width` columns; 0 outside of rows < end, columns."""
    mask = (rows < end)[:, None] & (columns < width)[None, :]
    return tl.load(at + rows[:, None] * width + columns[None, :], mask, other=0.0)


@triton.jit
def store_rows(at, value, rows, end, columns, width: tl.constexpr):
    mask = (rows < end)[:, None] & (columns < width)[None, :]
    tl.store(at + rows[:, None] * width + columns[None, :], value, mask)
