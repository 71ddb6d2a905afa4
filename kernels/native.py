"""The way into `kernels._native`: the only place where a tensor's address is taken."""

import runpy
from pathlib import Path

import torch

try:
    from kernels import _native
except ImportError as error:
    raise ImportError(f"{error}: expected it to be built (pip install -e .)") from None

__all__ = ["_native", "ptr", "ptr_or_null"]

_digest = Path(__file__).resolve().parent.parent / "csrc" / "digest.py"
if _digest.exists():  # not so where only the packages are installed
    runpy.run_path(str(_digest))["check"](_native, "hrm")
# what engines that name none and the optimiser run on; "": the CPU's best. For tests
INSTRUCTIONS = ""

CPU = torch.device("cpu")


def ptr(
    name: str,
    t: torch.Tensor,
    dtype: torch.dtype,
    *shape: int,
    device: torch.device = CPU,
    strided: bool = False,
) -> int:
    """Address of a tensor of exactly this dtype, shape, device, contiguous unless C++ gets its
    strides too; ValueError otherwise."""
    in_a_row = t.is_contiguous()
    if t.dtype != dtype or t.shape != shape or t.device != device or not (in_a_row or strided):
        how = "" if strided else "contiguous " if in_a_row else "strided "
        raise ValueError(
            f"{name} is {how}{t.dtype} {list(t.shape)} on {t.device}: "
            f"expected {'' if strided else 'contiguous '}{dtype} {list(shape)} on {device}"
        )
    return t.data_ptr()


def ptr_or_null(
    name: str,
    t: torch.Tensor | None,
    dtype: torch.dtype,
    *shape: int,
    device: torch.device = CPU,
) -> int:
    """`ptr`, or 0 for None, where C++ can do without."""
    return 0 if t is None else ptr(name, t, dtype, *shape, device=device)
