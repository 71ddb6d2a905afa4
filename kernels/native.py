"""The way into `kernels._native`: the only place where a tensor's address is taken."""

import torch

from kernels import _native

__all__ = ["_native", "ptr"]


def ptr(name: str, t: torch.Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Address of a contiguous CPU tensor of exactly this dtype and shape; ValueError otherwise."""
    if t.dtype != dtype or t.shape != shape or not t.is_contiguous() or t.device.type != "cpu":
        how = "contiguous" if t.is_contiguous() else "strided"
        raise ValueError(
            f"{name} is {how} {t.dtype} {list(t.shape)} on {t.device}: "
            f"expected contiguous {dtype} {list(shape)} on cpu"
        )
    return t.data_ptr()
