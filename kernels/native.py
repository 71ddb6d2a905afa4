"""The way into `kernels._native`: the only place where a tensor's address is taken."""

import torch

from kernels import _native

__all__ = ["_native", "ptr"]

# what engines that name none and the optimiser run on; "": the CPU's best. For tests
INSTRUCTIONS = ""

CPU = torch.device("cpu")


def ptr(
    name: str, t: torch.Tensor, dtype: torch.dtype, *shape: int, device: torch.device = CPU
) -> int:
    """Address of a contiguous tensor of exactly this dtype, shape, device; ValueError otherwise."""
    if t.dtype != dtype or t.shape != shape or not t.is_contiguous() or t.device != device:
        how = "contiguous" if t.is_contiguous() else "strided"
        raise ValueError(
            f"{name} is {how} {t.dtype} {list(t.shape)} on {t.device}: "
            f"expected contiguous {dtype} {list(shape)} on {device}"
        )
    return t.data_ptr()
