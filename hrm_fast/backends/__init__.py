"""Which implementation computes a model: chosen once by its shape, then by where its weights live.

"auto" takes the fused engine for float32 on a CPU, Triton's kernels on a GPU, and plain PyTorch for
what neither of them can do. "cuda" computes what needs no gradient, and leaves the rest to Triton's
kernels; "auto" will not take it before it has run on a GPU.
"""

import logging
from typing import Protocol

import torch
from torch import Tensor

from hrm_fast.backends.cpu import Engine
from hrm_fast.backends.cuda import Cuda, Decider, unusable
from hrm_fast.backends.plain import Plain
from hrm_fast.backends.shape import TD, Found, Keep, Parameters, Start
from hrm_fast.config import HRMConfig
from kernels.ops import REFERENCE, triton_ops


class Backend(Protocol):
    """What computes segments."""

    def decide(
        self, parameters: Parameters, start: Start, segments: int = 1, keep: Keep = "states"
    ) -> Found:
        """Compute some segments without gradient; `keep` says which new z are returned."""
        ...

    def segment(self, parameters: Parameters, start: Start) -> Found:
        """One segment, differentiable in the parameters by the one-step gradient."""
        ...

    def td_segment(
        self, parameters: Parameters, start: Start, td: TD, keep: Keep = "states"
    ) -> tuple[Tensor, Found]:
        """One segment and its loss, which comes first and alone is differentiable."""
        ...


class Backends:
    """The back ends that can compute one model; `of` picks one by where the weights are.

    ValueError: the kernels that the config names cannot compute its shape or dtype.
    """

    def __init__(self, config: HRMConfig) -> None:
        self.kernels = config.kernels
        self.reference = Plain(config, REFERENCE)
        self.engine: Engine | None = None
        self.triton: Plain | None = None
        self.cuda: Cuda | None = None
        on_gpu = config.kernels == "auto" and torch.cuda.is_available()
        if config.kernels == "cuda" and (why := unusable()):
            raise ValueError(
                f"kernels is 'cuda' and {why}: expected 'auto', 'reference', 'cpu' or 'triton'"
            )
        if config.kernels == "cpu" and config.dtype != "float32":
            raise ValueError(f"dtype is {config.dtype!r}: expected 'float32' with kernels 'cpu'")
        if config.kernels in ("auto", "cpu") and config.dtype == "float32":
            self.engine = Engine(config)
        if config.kernels in ("triton", "cuda") or on_gpu:
            try:
                ops = triton_ops(config.tokens, config.width, config.heads)
                self.triton = Plain(config, ops)
            except ValueError as error:
                if config.kernels != "auto":
                    raise
                logging.getLogger("hrm_fast").warning("plain PyTorch on a GPU: %s", error)
        if config.kernels == "cuda":
            self.cuda = Cuda(Decider(config), self.triton or self.reference)

    def of(self, weight: Tensor) -> Backend:
        """The back end for a model whose weights have this one's dtype and device.

        ValueError: the kernels asked for cannot read it.
        """
        is_float = weight.dtype == torch.float32
        here = f"{weight.dtype} on {weight.device}"
        if self.engine is not None and is_float and weight.device.type == "cpu":
            return self.engine
        if self.kernels == "cpu":
            raise ValueError(f"kernels is 'cpu' and the weights are {here}: expected float32, cpu")
        if self.cuda is not None and is_float and weight.is_cuda:
            return self.cuda
        if self.kernels == "cuda":
            raise ValueError(
                f"kernels is 'cuda' and the weights are {here}: expected float32, cuda"
            )
        return self.plain_of(weight)

    def plain_of(self, weight: Tensor) -> Plain:
        """Triton's operations for weights that they can read, or PyTorch's."""
        if self.triton is None:
            return self.reference
        is_float = weight.dtype == torch.float32
        if self.kernels == "triton" and not is_float:
            found = f"the weights are {weight.dtype}"
            raise ValueError(f"kernels is 'triton' and {found}: expected torch.float32")
        usable = is_float and (weight.is_cuda or self.kernels == "triton")
        return self.triton if usable else self.reference
