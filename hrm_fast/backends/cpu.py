"""Whole segments of an HRM on a CPU: tokens in, Q values, states and gradients out (csrc/hrm).

    e = scale * ([puzzle, embed(tokens)] + position)
    for h in H_cycles:  for l in L_cycles:  z_L = L(z_L + z_H + e)      blocks: attention_block.py,
                        z_H = H(z_H + z_L)                              swiglu_block.py
    q = head z_H[read], or with read None head mean(z_H)

    tokens    uint8 [B, cells]    z_H, z_L  float32 [B, T, D], T = cells + 1
    q         float32 [B, A]      read         int32 [B], a token each
    parameters  float32: embed [V, D], position [T, D] (where learned), puzzle [D], then qkv, out,
                gate_up, down of each block of L, then of H, and head [A, D]

The gradient is the one-step gradient: it goes through the last call of L and the last call of H,
into the parameters, never into the states. The reference is `hrm_fast.HRM` with
kernels="reference". One thread computes a board from start to end, so its activations stay in L1
and L2; weight gradients are added up in a fixed order, the same bits on any number of threads.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hrm_fast.backends.shape import TD, Found, Keep, Parameters, Start, shape_of
from hrm_fast.config import HRMConfig
from hrm_fast.layers import rope_tables
from kernels import native
from kernels.native import CPU, _native, ptr, ptr_or_null

FLOAT = torch.float32


class Engine:
    """Threads and memory for models of one shape; models may share it, calls take turns."""

    def __init__(
        self,
        config: HRMConfig,
        threads: int | None = None,
        instructions: str = "",
        poison: bool = False,
    ) -> None:
        """threads None: as many as torch uses. instructions "": the best that this CPU runs, else
        "portable", "avx2" or "avx512". poison fills the memory with NaN before every use, to show
        what is read without having been written."""
        self.shape, self.threads = shape_of(config), threads or torch.get_num_threads()
        self.instructions, self.poison = instructions, poison
        self.rope = rope_tables(config)
        self.sizes = self.shape.parameters()

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self  # it holds nothing of a model

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "native"}

    @cached_property
    def native(self) -> Any:
        angles = self.shape.cells + 1, 1, self.shape.width // self.shape.heads
        cos, sin = (ptr_or_null("rope", x, FLOAT, *angles) for x in self.rope or (None, None))
        return _native.Engine(
            **self.shape._asdict(),
            cos=cos,
            sin=sin,
            threads=self.threads,
            instructions=self.instructions or native.INSTRUCTIONS,
            poison=self.poison,
        )

    def decide(
        self, parameters: Parameters, start: Start, segments: int = 1, keep: Keep = "states"
    ) -> Found:
        """Compute some segments without gradient; returns q and the new states that `keep` names.

        "states": every token's [B, T, D]. "last": the last token's [B, D]. "none": empty tensors.
        Unless all are kept, the last H block works only on the tokens that are read.
        """
        B, shape = len(start[0]), self.shape
        start = _alike(start)
        q = torch.empty(B, shape.actions, dtype=FLOAT, device=CPU)
        new_H, new_L = self._states(B, keep)
        self.native.decide(
            self._addresses(parameters),
            *self._start(start),
            segments,
            ptr("q", q, FLOAT, B, shape.actions),
            *(ptr("a new state", z, FLOAT, *self._size(B, keep)) for z in (new_H, new_L)),
            keep != "states",
        )
        return q, new_H, new_L

    def _size(self, B: int, keep: Keep = "states") -> tuple[int, ...]:
        D, T = self.shape.width, self.shape.cells + 1
        return {"states": (B, T, D), "last": (B, D), "none": (0,)}[keep]

    def _states(self, B: int, keep: Keep) -> tuple[Tensor, Tensor]:
        z_H, z_L = (torch.empty(self._size(B, keep), dtype=FLOAT, device=CPU) for _ in range(2))
        return z_H, z_L

    def segment(self, parameters: Parameters, start: Start) -> Found:
        """q and the new states [B, T, D] of one segment, differentiable in the parameters."""
        return _Segment.apply(self, _alike(start), *parameters)

    def td_segment(
        self, parameters: Parameters, start: Start, td: TD, keep: Keep = "states"
    ) -> tuple[Tensor, Found]:
        """One segment and its loss: loss, then q and the new states.

        Only the loss is differentiable; its gradient is made at once, while a board's activations
        are still in the cache.
        """
        states = self._states(len(start[0]), keep)
        loss, q = _TDSegment.apply(self, _alike(start), td, states, *parameters)
        return loss, (q, *states)

    def gradient(
        self,
        parameters: Parameters,
        start: Start,
        td: TD | None,
        upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
        states: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[float, Tensor, Tensor]:
        """Compute a segment from start = (tokens, z_H, z_L, read), forward and backward.

        Backward goes from the loss of td or, with td None, from upstream, the gradients of
        (q, z_H, z_L). Returns the loss, q and one flat gradient of all parameters; writes the new
        states to `states`, unless those are None or empty.
        """
        B, shape = len(start[0]), self.shape
        if B == 0:
            raise ValueError("tokens has no boards: expected at least one for a gradient")
        q = torch.empty(B, shape.actions, dtype=FLOAT, device=CPU)
        flat = torch.empty(sum(p.numel() for p in parameters), dtype=FLOAT, device=CPU)
        action = target = weight = 0
        if td is not None:
            action = ptr("a_tm1", td.a_tm1, torch.int64, B)
            of_y = (B,) if td.weight is None else (B, shape.cells)
            target = ptr("target", td.target, FLOAT, *of_y)
            weight = ptr_or_null("weight", td.weight, FLOAT, *of_y)
        d_q, d_H, d_L = upstream
        new_H, new_L = states if states and states[0].numel() else (None, None)
        loss = self.native.gradient(
            self._addresses(parameters),
            *self._start(start),
            *(action, target, weight),
            ptr_or_null("the gradient of q", d_q, FLOAT, B, shape.actions),
            *(ptr_or_null("the gradient of a state", z, FLOAT, *self._size(B)) for z in (d_H, d_L)),
            ptr("q", q, FLOAT, B, shape.actions),
            *(ptr_or_null("a new state", z, FLOAT, *self._size(B)) for z in (new_H, new_L)),
            self._addresses(self.split(flat)),
        )
        return loss, q, flat

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat gradient, one for each parameter."""
        parts = flat.split([torch.Size(s).numel() for s in self.sizes])
        return [part.view(size) for part, size in zip(parts, self.sizes, strict=True)]

    def _addresses(self, parameters: Parameters) -> list[int]:
        found = [
            ptr("a parameter", p, FLOAT, *size)
            for p, size in zip(parameters, self.sizes, strict=True)
        ]
        return found if self.shape.learned else [found[0], 0, *found[1:]]

    def _start(self, start: Start) -> tuple[int, ...]:
        tokens, z_H, z_L, read = start
        B = len(tokens)
        addresses = (
            ptr("tokens", tokens, torch.uint8, B, self.shape.cells),
            ptr("z_H", z_H, FLOAT, *self._size(B), strided=True),
            ptr("z_L", z_L, FLOAT, *self._size(B), strided=True),
        )
        rows = ptr_or_null("read", read, torch.int32, B)
        return B, *addresses, *z_H.stride()[:2], rows


class _Segment(torch.autograd.Function):
    """Its backward computes the segment again, with what it needs of it in the cache."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, start: Start, *parameters: Tensor) -> Found:
        ctx.engine = engine
        ctx.set_materialize_grads(False)
        fresh = [x.clone() if x is not None and x.is_inference() else x for x in start]  # savable
        tokens, z_H, z_L, read = fresh
        assert tokens is not None and z_H is not None and z_L is not None
        start = tokens, z_H, z_L, read
        ctx.save_for_backward(*start, *parameters)
        return engine.decide(parameters, start)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, z_H, z_L, read, *parameters = ctx.saved_tensors
        pulls = tuple(None if g is None else g.contiguous() for g in upstream)
        _, _, flat = ctx.engine.gradient(parameters, (tokens, z_H, z_L, read), None, pulls)
        return None, None, *ctx.engine.split(flat)


class _TDSegment(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        start: Start,
        td: TD,
        states: tuple[Tensor, Tensor],
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        loss, q, ctx.flat = engine.gradient(parameters, start, td, (None, None, None), states)
        ctx.engine = engine
        ctx.mark_non_differentiable(q)
        return torch.tensor(loss, dtype=FLOAT, device=CPU), q

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *ctx.engine.split(ctx.flat * d_loss)


def _alike(start: Start) -> Start:
    """z_H and z_L with the same strides; a z that is expanded over the tokens stays expanded."""
    tokens, z_H, z_L, read = start
    if z_H.stride() != z_L.stride() or z_H.stride(-1) != 1:
        z_H, z_L = z_H.contiguous(), z_L.contiguous()
    return tokens, z_H, z_L, read
