"""Which implementation computes a model: chosen once by its shape, then by where its weights live.

"auto" takes the fused engine for float32 on a CPU, Triton's kernels on a GPU, and plain PyTorch for
what neither of them can do. "cuda" computes what needs no gradient, and leaves the rest to Triton's
kernels; "auto" will not take it before it has run on a GPU.
"""

import logging

import torch
from torch import Tensor

from hrm_fast.config import HRMConfig
from hrm_fast.layers import rope_tables
from kernels.cpu import Engine, Shape
from kernels.cuda import Decider, unusable
from kernels.ops import REFERENCE, Ops, triton_ops


class Backend:
    """ValueError: the kernels that the config names cannot compute its shape or dtype."""

    def __init__(self, config: HRMConfig) -> None:
        self.kernels, self.dtype = config.kernels, config.dtype
        self.engine: Engine | None = None
        self.triton: Ops | None = None
        self.decider: Decider | None = None
        on_gpu = config.kernels == "auto" and torch.cuda.is_available()
        if config.kernels == "cuda" and (why := unusable()):
            raise ValueError(
                f"kernels is 'cuda' and {why}: expected 'auto', 'reference', 'cpu' or 'triton'"
            )
        if config.kernels == "cpu" and config.dtype != "float32":
            raise ValueError(f"dtype is {config.dtype!r}: expected 'float32' with kernels 'cpu'")
        if config.kernels in ("auto", "cpu") and config.dtype == "float32":
            self.engine = Engine(engine_shape(config), rope_tables(config))
        if config.kernels == "cuda":
            dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
            self.decider = Decider(engine_shape(config), rope_tables(config), dtype)
        if config.kernels in ("triton", "cuda") or on_gpu:
            try:
                self.triton = triton_ops(config.tokens, config.width, config.heads)
            except ValueError as error:
                if config.kernels != "auto":
                    raise
                logging.getLogger("hrm_fast").warning("plain PyTorch on a GPU: %s", error)

    def engine_for(self, weight: Tensor) -> Engine | None:
        """The fused CPU engine, for weights that it can read."""
        usable = weight.device.type == "cpu" and weight.dtype == torch.float32
        if self.kernels == "cpu" and not usable:
            found = f"{weight.dtype} on {weight.device}"
            raise ValueError(f"kernels is 'cpu' and the weights are {found}: expected float32, cpu")
        return self.engine if usable else None

    def decider_for(self, weight: Tensor) -> Decider | None:
        """The CUDA kernel, for weights that it can read."""
        usable = weight.is_cuda and weight.dtype == torch.float32
        if self.kernels == "cuda" and not usable:
            found = f"{weight.dtype} on {weight.device}"
            raise ValueError(
                f"kernels is 'cuda' and the weights are {found}: expected float32, cuda"
            )
        return self.decider if usable else None

    def ops_for(self, weight: Tensor) -> Ops:
        """Triton's kernels, for weights that they can read, or plain PyTorch."""
        if self.triton is None:
            return REFERENCE
        usable = weight.dtype == torch.float32
        if self.kernels == "triton" and not usable:
            found = f"the weights are {weight.dtype}"
            raise ValueError(f"kernels is 'triton' and {found}: expected torch.float32")
        return self.triton if usable and (weight.is_cuda or self.kernels == "triton") else REFERENCE


def engine_shape(config: HRMConfig) -> Shape:
    return Shape(
        config.tokens - 1, config.width, config.heads, config.inner_width, config.actions,
        config.vocab_size, config.h_layers, config.l_layers, config.h_cycles, config.l_cycles,
        "learned" in config.positions,
    )  # fmt: skip
