"""The Hierarchical Reasoning Model with a Q head: segments, decisions, Carry modes.

A *segment* is one pass that can carry gradient; a *decision* is S segments from one start. The
*stored z* is what a decision hands to the next decision of the same maze. backends/plain.py
computes a segment.

Sources: HRM, arXiv 2506.21734; HRM-Agent, arXiv 2510.22832.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast.backends import Backend, Backends
from hrm_fast.backends.shape import TD, Keep, Start
from hrm_fast.config import HRMConfig, check_count
from hrm_fast.weights import Weights
from kernels.ops import Ops


class Carry(NamedTuple):
    """The two states [B, T, D] between segments, or a stored z [B, *HRM.stored_shape]."""

    z_H: Tensor
    z_L: Tensor


class HRM(Weights):
    """The model: `decide` and `act` value actions, `segment` and `td_segment` train it."""

    def __init__(self, config: HRMConfig) -> None:
        """Build with fresh random weights, float32 on the CPU whatever torch's defaults are;
        ValueError for kernels that cannot compute it."""
        super().__init__(config)
        self.backends = Backends(config)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """One maze's stored z: (D,), (T, D) for full carry, (0,) where nothing is carried."""
        width = self.config.width
        return {"reset": (0,), "carry": (width,), "full": (self.config.tokens, width)}[
            self.config.carry
        ]

    def start(self, batch: int) -> Carry:
        """The start states of `batch` boards, [B, T, D] views of `start_H` and `start_L`."""
        shape = (batch, self.config.tokens, self.config.width)
        return Carry(
            self.start_H.to(self.dtype).expand(shape), self.start_L.to(self.dtype).expand(shape)
        )

    def stored(self, carry: Carry) -> Carry:
        """What to keep of a decision's carry for the next decision: [B, *stored_shape]."""
        if self.config.carry == "full":
            return carry
        size = self.stored_shape[0]
        return Carry(carry.z_H[:, -1, :size], carry.z_L[:, -1, :size])

    def stored_start(self, batch: int) -> Carry:
        """The stored z of an episode's first decision: the start states as [B, *stored_shape]."""
        return self.stored(self.start(batch))

    def carry_from(self, z: Carry | tuple[Tensor, Tensor]) -> Carry:
        """The carry [B, T, D] that a decision starts from, given its z [B, *stored_shape]."""
        z_H, z_L = z
        if z_H.shape[1:] != self.stored_shape or z_L.shape != z_H.shape:
            raise ValueError(
                f"the stored z is {list(z_H.shape)} and {list(z_L.shape)}: "
                f"expected [B, {', '.join(map(str, self.stored_shape))}] twice"
            )
        if self.config.carry == "reset":
            return self.start(len(z_H))
        if self.config.carry == "full":
            return Carry(z_H.to(self.dtype), z_L.to(self.dtype))
        shape = (len(z_H), self.config.tokens, self.config.width)
        z_H, z_L = (z.to(self.dtype).unsqueeze(1).expand(shape) for z in (z_H, z_L))
        return Carry(z_H, z_L)

    def segment(self, carry: Carry, tokens: Tensor) -> tuple[Carry, Tensor]:
        """One segment of H_cycles x L_cycles; only its last L and its last H call carry gradient.

        tokens uint8 [B, cells]; returns the detached carry and q float32 [B, A].
        """
        q, z_H, z_L = self.backend.segment(self.in_order(), self.inputs(carry, tokens))
        return Carry(z_H.detach(), z_L.detach()), self.activated(q)

    def think(self, carry: Carry, tokens: Tensor) -> Carry:
        """The states of `segment` with their gradient, for losses on other heads than Q."""
        return Carry(*self.backend.segment(self.in_order(), self.inputs(carry, tokens))[1:])

    def td_segment(
        self,
        carry: Carry,
        tokens: Tensor,
        a_tm1: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        last: bool = False,
    ) -> tuple[Carry, Tensor, Tensor]:
        """Compute `segment` and a loss on the values of a_tm1, int64 [B]; returns carry, q, loss.

        target float32 [B]: `kernels.td_loss`. target and weight float32 [B, cells]:
        `kernels.goal_loss`, on every cell's values (q_token "goal").
        last: no segment follows; the carry that came in is returned, the new one is not made.
        Only the loss carries gradient.
        """
        self._check_td(len(tokens), a_tm1, target, weight)
        if weight is not None and self.seen is not None:
            target, weight = target[:, self.seen], weight[:, self.seen]
        start, td = self.inputs(carry, tokens), TD(a_tm1, target, weight)
        keep: Keep = "none" if last else "states"
        loss, (q, z_H, z_L) = self.backend.td_segment(self.in_order(), start, td, keep)
        return carry if last else Carry(z_H, z_L), self.activated(q), loss

    @torch.no_grad()
    def decide(
        self,
        tokens: Tensor,
        seed: Carry | tuple[Tensor, Tensor] | None = None,
        segments: int | None = None,
    ) -> tuple[Tensor, Carry]:
        """Q values float32 [B, A] and carry after S segments without gradient.

        tokens uint8 [B, cells]; seed: the stored z, [B, *stored_shape] twice, None: the start
        states; segments None: the config's S, and with halting on, fewer on boards that halt.
        """
        carry = self.start(len(tokens)) if seed is None else self.carry_from(seed)
        if self.config.halting and segments is None:
            *_, carry = self.until_halted(carry, tokens)
            return self.q_values(carry.z_H, tokens), carry
        segments = self.config.segments if segments is None else segments
        segments = check_count("segments", segments)
        start = self.inputs(carry, tokens)
        q, z_H, z_L = self.backend.decide(self.in_order(), start, segments)
        return self.activated(q), Carry(z_H, z_L)

    @torch.no_grad()
    def act(self, tokens: Tensor, z: Carry) -> tuple[Tensor, Carry]:
        """`decide` for a walker: q and the next decision's stored z, [B, *stored_shape].

        The last block of the last H call is computed only at the tokens that these are read from.
        """
        if self.config.halting or self.config.carry == "full":
            q, carry = self.decide(tokens, z)
            return q, self.stored(carry)
        keep: Keep = "none" if self.config.carry == "reset" else "last"
        start = self.inputs(self.carry_from(z), tokens)
        q, z_H, z_L = self.backend.decide(self.in_order(), start, self.config.segments, keep)
        return self.activated(q), z if keep == "none" else Carry(z_H, z_L)

    @torch.no_grad()
    def goal_values(
        self,
        tokens: Tensor,
        seed: Carry | tuple[Tensor, Tensor] | None = None,
        segments: int | None = None,
    ) -> Tensor:
        """Q values float32 [B, cells, A] of every cell as the goal.

        `decide` reads those of the cell with the goal mark, of the first where there is none.
        """
        return self.values_of_cells(self.decide(tokens, seed, segments)[1].z_H)

    def halt_logits(self, carry: Carry) -> Tensor:
        """(halt, continue) logits float32 [B, 2], read from z_H of the puzzle token.

        Read from `think`'s carry, their loss trains the body too; `segment`'s is detached.
        ValueError: the model has no such head.
        """
        if not self.config.halting:
            raise ValueError("halting is False: expected True, for halt logits")
        return self.halt_head(carry.z_H[:, 0].to(self.halt_head.weight.dtype))

    def until_halted(self, carry: Carry, tokens: Tensor) -> Iterator[Carry]:
        """The carry after each segment, until all boards halt; one that has halted keeps its z."""
        halted = torch.zeros(len(tokens), 1, 1, dtype=torch.bool, device=tokens.device)
        for _ in range(self.config.segments):
            new = self.think(carry, tokens)
            z_H, z_L = (torch.where(halted, *pair) for pair in zip(carry, new, strict=True))
            carry = Carry(z_H, z_L)
            halt, proceed = self.halt_logits(carry).unbind(1)
            halted = halted | (halt > proceed)[:, None, None]
            yield carry
            if halted.all():
                break

    def _check_td(self, B: int, a_tm1: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """ValueError: no boards, or tensors of another shape: a loss would broadcast in silence."""
        if B == 0:
            raise ValueError("tokens has no boards: expected at least one for a loss")
        of_y = (B,) if weight is None else (B, self.config.cells)
        self._check("a_tm1", a_tm1, {torch.int64}, B)
        for name, y in (("target", target), ("weight", weight)):
            if y is not None:
                self._check(name, y, {torch.float32, self.q_head.dtype}, *of_y)

    def _check(self, name: str, x: Tensor, dtypes: set[torch.dtype], *shape: int) -> None:
        if x.dtype not in dtypes or x.shape != shape or x.device != self.q_head.device:
            right = " or ".join(sorted(map(str, dtypes)))
            raise ValueError(
                f"{name} is {x.dtype} {list(x.shape)} on {x.device}: "
                f"expected {right} {list(shape)} on {self.q_head.device}"
            )

    def inputs(self, carry: Carry, tokens: Tensor) -> Start:
        """What a back end is given beside the parameters. ValueError: boards or states of another
        dtype, shape or device."""
        B = len(carry.z_H)
        self._check("tokens", tokens, {torch.uint8}, B, self.config.cells)
        for name, z in zip(("z_H", "z_L"), carry, strict=True):
            self._check(name, z, {self.dtype}, B, self.config.tokens, self.config.width)
        read = self.read_at(tokens)
        return (
            self.shown(tokens).contiguous(),
            *carry,
            None if read is None else read.to(torch.int32),
        )

    @property
    def backend(self) -> Backend:
        """What computes this model where its weights are now."""
        return self.backends.of(self.embed)

    @property
    def ops(self) -> Ops:
        """The operations that compute this model where the fused CPU engine does not."""
        return self.backends.plain_of(self.embed).ops
