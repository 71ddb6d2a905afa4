"""The Hierarchical Reasoning Model with a Q head: segments, decisions, Carry modes.

A *segment* is one pass that can carry gradient; a *decision* is S segments from one start. What
a decision hands to the next decision of the same maze is its *seed*.

Sources: HRM, arXiv 2506.21734; HRM-Agent, arXiv 2510.22832.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from hrm_fast.backend import Backend
from hrm_fast.config import MARKS, HRMConfig, check_count
from hrm_fast.layers import (
    Block,
    BlockWeights,
    learned_positions,
    level,
    rope_tables,
    truncated_normal,
    weight,
)
from kernels.attention_block import Rope
from kernels.cpu import Engine, Keep, Start
from kernels.cuda import Decider
from kernels.ops import Ops

GOAL, START, FLOOR = (ord(mark) for mark in "><.")


class Carry(NamedTuple):
    """The two states [B, T, D] between segments, or a seed [B, *HRM.seed_shape]."""

    z_H: torch.Tensor
    z_L: torch.Tensor


class Arithmetic(NamedTuple):
    """The parameters in the dtype that the blocks compute in, cast once per use."""

    ops: Ops
    H: list[BlockWeights]
    L: list[BlockWeights]
    rope: Rope | None


class HRM(nn.Module):
    """The model; `puzzle` [D] is its only parameter that wants an optimiser of its own.

    `start_H` and `start_L` [D] are the fixed random states that a first decision starts from.
    """

    start_H: torch.Tensor
    start_L: torch.Tensor
    seen: torch.Tensor | None  # int64 [T - 1]: the cells that have a token; None: all of them
    rope_cos: torch.Tensor | None
    rope_sin: torch.Tensor | None

    def __init__(self, config: HRMConfig) -> None:
        """Build with fresh random weights, float32 on the CPU whatever torch's defaults are;
        ValueError for kernels that cannot compute it."""
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Parameter(truncated_normal(config.vocab_size, width, std=width**-0.5))
        self.position: nn.Parameter | None = None
        if "learned" in config.positions:
            self.position = nn.Parameter(learned_positions(config))
        self.puzzle = nn.Parameter(torch.zeros(width, dtype=torch.float32, device="cpu"))
        self.L = nn.ModuleList(Block(config) for _ in range(config.l_layers))
        self.H = nn.ModuleList(Block(config) for _ in range(config.h_layers))
        self.q_head = weight(config.actions, width)
        if config.zero_head:
            nn.init.zeros_(self.q_head)
        if config.halting:
            self.halt_head = nn.Linear(width, 2, dtype=torch.float32, device="cpu")
            nn.init.zeros_(self.halt_head.weight)
            nn.init.constant_(self.halt_head.bias, -5.0)
        self.register_buffer("start_H", truncated_normal(width, std=1.0))
        self.register_buffer("start_L", truncated_normal(width, std=1.0))
        seen = torch.tensor(config.seen, dtype=torch.int64, device="cpu") if config.walls else None
        self.register_buffer("seen", seen, persistent=False)
        cos, sin = rope_tables(config) or (None, None)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._backend = Backend(config)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the states: bfloat16, or that of the weights."""
        return torch.bfloat16 if self.config.dtype == "bfloat16" else self.embed.dtype

    @property
    def seed_shape(self) -> tuple[int, ...]:
        """Shape of one maze's seed: (D,), (T, D) for full carry, (0,) where nothing is carried."""
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

    def seed(self, carry: Carry) -> Carry:
        """What to keep of a decision's carry for the next decision: [B, *seed_shape]."""
        if self.config.carry == "full":
            return carry
        size = self.seed_shape[0]
        return Carry(carry.z_H[:, -1, :size], carry.z_L[:, -1, :size])

    def start_seed(self, batch: int) -> Carry:
        """The seed of an episode's first decision: the start states as [B, *seed_shape]."""
        return self.seed(self.start(batch))

    def carry_from(self, seed: Carry | tuple[torch.Tensor, torch.Tensor]) -> Carry:
        """The carry [B, T, D] that a decision starts from, given its seed [B, *seed_shape]."""
        z_H, z_L = seed
        if z_H.shape[1:] != self.seed_shape or z_L.shape != z_H.shape:
            raise ValueError(
                f"seed is {list(z_H.shape)} and {list(z_L.shape)}: "
                f"expected [B, {', '.join(map(str, self.seed_shape))}] twice"
            )
        if self.config.carry == "reset":
            return self.start(len(z_H))
        if self.config.carry == "full":
            return Carry(z_H.to(self.dtype), z_L.to(self.dtype))
        shape = (len(z_H), self.config.tokens, self.config.width)
        z_H, z_L = (z.to(self.dtype).unsqueeze(1).expand(shape) for z in (z_H, z_L))
        return Carry(z_H, z_L)

    def segment(self, carry: Carry, tokens: torch.Tensor) -> tuple[Carry, torch.Tensor]:
        """One segment of H_cycles x L_cycles; only its last L and its last H call carry gradient.

        tokens uint8 [B, cells]; returns the detached carry and q float32 [B, A].
        """
        if engine := self._fused():
            self._check(carry, tokens)
            q, z_H, z_L = engine.segment(self._in_order(), *self._inputs(carry, tokens))
            q = self._activated(q)
        else:
            z_H, z_L = self.think(carry, tokens)
            q = self.q_values(z_H, tokens)
        return Carry(z_H.detach(), z_L.detach()), q

    def segment_q(self, carry: Carry, tokens: torch.Tensor) -> torch.Tensor:
        """q of `segment`, float32 [B, A], where nobody goes on from its carry."""
        self._check(carry, tokens)
        if engine := self._fused():
            given = self._inputs(carry, tokens)
            return self._activated(engine.segment(self._in_order(), *given, keep="none")[0])
        rows = self._q_rows(tokens)
        z_H = self._think(carry, tokens, rows).z_H
        return self._head(z_H.mean(1) if rows is None else z_H[:, 0])

    def td_segment(
        self,
        carry: Carry,
        tokens: torch.Tensor,
        a_tm1: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        *,
        last: bool = False,
    ) -> tuple[Carry, torch.Tensor, torch.Tensor]:
        """`segment` and a loss on the values of a_tm1, int64 [B]: carry, q, loss.

        target float32 [B]: `kernels.td_loss`. target and weight float32 [B, cells]:
        `kernels.goal_loss`, on every cell's values (q_token "goal").
        last: nobody goes on from the carry, which is then the one that came in.
        """
        self._check(carry, tokens)
        if weight is not None and self.seen is not None:
            target, weight = target[:, self.seen], weight[:, self.seen]
        if engine := self._fused():
            keep: Keep = "none" if last else "states"
            loss, q, z_H, z_L = engine.td_segment(
                self._in_order(), *self._inputs(carry, tokens), a_tm1, target, weight, keep
            )
            return carry if last else Carry(z_H, z_L), self._activated(q), loss
        if weight is not None:
            z_H, z_L = self.think(carry, tokens)
            loss = self.ops.goal_loss(z_H, self.q_head, a_tm1, target, weight)
            after = carry if last else Carry(z_H.detach(), z_L.detach())
            return after, self.q_values(z_H.detach(), tokens), loss
        if last:
            q = self.segment_q(carry, tokens)
        else:
            carry, q = self.segment(carry, tokens)
        return carry, q, self.ops.td_loss(q, a_tm1, target)

    def think(self, carry: Carry, tokens: torch.Tensor) -> Carry:
        """The states of `segment` with their gradient, for losses on other heads than Q."""
        self._check(carry, tokens)
        if engine := self._fused():
            return Carry(*engine.segment(self._in_order(), *self._inputs(carry, tokens))[1:])
        return self._think(carry, tokens)

    @torch.no_grad()
    def decide(
        self,
        tokens: torch.Tensor,
        seed: Carry | tuple[torch.Tensor, torch.Tensor] | None = None,
        segments: int | None = None,
    ) -> tuple[torch.Tensor, Carry]:
        """Q values float32 [B, A] and carry after S segments without gradient.

        tokens uint8 [B, cells]; seed [B, *seed_shape] twice, None for the start states;
        segments None: the config's S, and with halting on, fewer on boards that halt.
        """
        carry = self.start(len(tokens)) if seed is None else self.carry_from(seed)
        self._check(carry, tokens)
        if self.config.halting and segments is None:
            carry = self._until_halted(carry, tokens)
            return self.q_values(carry.z_H, tokens), carry
        segments = self.config.segments if segments is None else segments
        segments = check_count("segments", segments)
        if engine := self._fused():
            q, z_H, z_L = engine.decide(self._in_order(), *self._inputs(carry, tokens), segments)
            return self._activated(q), Carry(z_H, z_L)
        if decider := self._decider():
            packed = decider.pack(self._in_order())
            q, z_H, z_L = decider.decide(packed, *self._inputs(carry, tokens), segments)
            return self._activated(q), Carry(z_H, z_L)
        e, arithmetic = self.embedding(tokens), self._arithmetic()
        for _ in range(segments):
            carry = self._segment(carry, e, arithmetic)
        return self.q_values(carry.z_H, tokens), carry

    @torch.no_grad()
    def goal_values(
        self,
        tokens: torch.Tensor,
        seed: Carry | tuple[torch.Tensor, torch.Tensor] | None = None,
        segments: int | None = None,
    ) -> torch.Tensor:
        """Q values float32 [B, cells, A] of every cell as the goal.

        `decide` reads those of the cell with the goal mark, of the first where there is none.
        """
        return self.values_of_cells(self.decide(tokens, seed, segments)[1].z_H)

    def values_of_cells(self, z_H: torch.Tensor) -> torch.Tensor:
        """Q values float32 [B, cells, A] of every cell as the goal, given z_H [B, T, D].

        0 for a wall that has no token.
        """
        q = self._head(z_H[:, 1:])
        if self.seen is None:
            return q
        return q.new_zeros(len(q), self.config.cells, q.shape[-1]).index_copy(1, self.seen, q)

    @torch.no_grad()
    def act(self, tokens: torch.Tensor, seed: Carry) -> tuple[torch.Tensor, Carry]:
        """`decide` for a walker: q and the next decision's seed, [B, *seed_shape].

        The last block of the last H call is computed only at the tokens that these are read from.
        """
        if self.config.halting or self.config.carry == "full":
            q, carry = self.decide(tokens, seed)
            return q, self.seed(carry)
        carry = self.carry_from(seed)
        self._check(carry, tokens)
        if engine := self._fused():
            given = (self._in_order(), *self._inputs(carry, tokens), self.config.segments)
            if self.config.carry == "reset":
                return self._activated(engine.decide(*given, "none")[0]), seed
            q, z_H, z_L = engine.decide(*given, "last")
            return self._activated(q), Carry(z_H, z_L)
        if decider := self._decider():
            keep: Keep = "none" if self.config.carry == "reset" else "last"
            packed = decider.pack(self._in_order())
            inputs, segments = self._inputs(carry, tokens), self.config.segments
            q, z_H, z_L = decider.decide(packed, *inputs, segments, keep)
            q = self._activated(q)
            return q, seed if keep == "none" else Carry(z_H, z_L)
        rows = self._q_rows(tokens)
        if rows is None:
            q, carry = self.decide(tokens, seed)
            return q, self.seed(carry)
        last = torch.full_like(rows, self.config.tokens - 1)
        rows = torch.cat((rows, last), dim=1)  # [B, 2]: Q's token, the seed's token
        e, arithmetic = self.embedding(tokens), self._arithmetic()
        for _ in range(self.config.segments - 1):
            carry = self._segment(carry, e, arithmetic)
        carry = self._segment(carry, e, arithmetic, rows)
        return self._head(carry.z_H[:, 0]), self.seed(carry)

    def embedding(self, tokens: torch.Tensor) -> torch.Tensor:
        """e [B, T, D] of tokens uint8 [B, cells]: sqrt(D) * [puzzle, embed(tokens)].

        With learned positions sqrt(D / 2) * ([puzzle, embed(tokens)] + position). With q_token
        "goal" the goal and start marks are embedded as floor.
        """
        tokens = self._shown(tokens)
        scale = self.config.width**0.5 if self.position is None else (self.config.width / 2) ** 0.5
        return self.ops.embedding(tokens, self.embed, self.puzzle, self.position, scale, self.dtype)

    def q_values(self, z_H: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """q float32 [B, A] of the states z_H [B, T, D], read at the token that the config names."""
        rows = self._q_rows(tokens)
        if rows is None:
            return self._head(z_H.mean(1))
        board = torch.arange(len(rows), dtype=torch.int64, device=rows.device)
        return self._head(z_H[board, rows[:, 0]])

    def token_of(self, cell: torch.Tensor) -> torch.Tensor:
        """Which token stands for a cell that has one, int64 [...] -> int64 [...]; 0 is none's."""
        before = cell if self.seen is None else torch.searchsorted(self.seen, cell)
        return before + 1

    def _q_rows(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """int64 [B, 1]: the token that Q is read from; None: the mean of all."""
        if self.config.q_token == "mean":
            return None
        if code := MARKS.get(self.config.q_token):
            return self.token_of((tokens == code).to(torch.uint8).argmax(1, keepdim=True))
        last = self.config.tokens - 1
        return torch.full((len(tokens), 1), last, dtype=torch.int64, device=tokens.device)

    def _head(self, z: torch.Tensor) -> torch.Tensor:
        return self._activated(F.linear(z.to(self.q_head.dtype), self.q_head))

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        """With q_token "goal" a value is the discounted probability of reaching the goal."""
        return logits.sigmoid() if self.config.q_token == "goal" else logits

    def _shown(self, tokens: torch.Tensor) -> torch.Tensor:
        """The cells as the model sees them, uint8 [B, T - 1]: those that have a token, with
        q_token "goal" without goal and start mark."""
        tokens = tokens if self.seen is None else tokens[:, self.seen]
        if self.config.q_token != "goal":
            return tokens
        return tokens.masked_fill((tokens == GOAL) | (tokens == START), FLOOR)

    def _inputs(self, carry: Carry, tokens: torch.Tensor) -> Start:
        """What the fused back ends are given: tokens, z_H, z_L, and the tokens to read."""
        rows = self._q_rows(tokens)
        read = None if rows is None else rows[:, 0].to(torch.int32)
        return self._shown(tokens), *carry, read

    def halt_logits(self, carry: Carry) -> torch.Tensor:
        """(halt, continue) logits float32 [B, 2], read from z_H of the puzzle token.

        Read from `think`'s carry, their loss trains the body too; `segment`'s is detached.
        """
        return self.halt_head(carry.z_H[:, 0].to(self.halt_head.weight.dtype))

    def _think(self, carry: Carry, tokens: torch.Tensor, rows: torch.Tensor | None = None) -> Carry:
        """One segment, all but its last call of L and of H in one launch where CUDA can."""
        decider, config = self._decider(), self.config
        begun = decider is not None and config.h_cycles * config.l_cycles > 1
        if decider and begun:
            packed = decider.pack(self._in_order())
            given = self._inputs(carry, tokens)
            carry = Carry(*decider.decide(packed, *given, open=True)[1:])
        return self._segment(carry, self.embedding(tokens), self._arithmetic(), rows, begun)

    def _segment(
        self,
        carry: Carry,
        e: torch.Tensor,
        arithmetic: Arithmetic,
        rows: torch.Tensor | None = None,
        begun: bool = False,
    ) -> Carry:
        """rows int64 [B, R]: the only tokens of the new z_H that are wanted, [B, R, D].

        begun: only the last calls of L and of H are still to come.
        """
        z_H, z_L = carry
        (ops, H, L, rope), config = arithmetic, self.config
        for h in range(config.h_cycles - 1 if begun else 0, config.h_cycles):
            last_h = h == config.h_cycles - 1
            injection = z_H + e
            for l_ in range(config.l_cycles - 1 if begun else 0, config.l_cycles):
                with torch.set_grad_enabled(
                    torch.is_grad_enabled() and last_h and l_ == config.l_cycles - 1
                ):
                    z_L = level(ops, z_L, injection, L, config.heads, rope)
            with torch.set_grad_enabled(torch.is_grad_enabled() and last_h):
                wanted = rows if last_h else None
                z_H = level(ops, z_H, z_L, H, config.heads, rope, wanted)
        return Carry(z_H, z_L)

    def _until_halted(self, carry: Carry, tokens: torch.Tensor) -> Carry:
        halted = torch.zeros(len(tokens), 1, 1, dtype=torch.bool, device=tokens.device)
        for _ in range(self.config.segments):
            new = self.think(carry, tokens)
            z_H, z_L = (torch.where(halted, *pair) for pair in zip(carry, new, strict=True))
            carry = Carry(z_H, z_L)
            halt, proceed = self.halt_logits(carry).unbind(1)
            halted = halted | (halt > proceed)[:, None, None]
            if halted.all():
                break
        return carry

    @property
    def ops(self) -> Ops:
        """The operations that compute this model where the fused CPU engine does not."""
        return self._backend.ops_for(self.embed)

    def _fused(self) -> Engine | None:
        return self._backend.engine_for(self.embed)

    def _decider(self) -> Decider | None:
        return self._backend.decider_for(self.embed)

    def _in_order(self) -> list[nn.Parameter]:
        """The parameters as `kernels.cpu` wants them."""
        position = [] if self.position is None else [self.position]
        blocks = [*self.L.parameters(), *self.H.parameters()]
        return [self.embed, *position, self.puzzle, *blocks, self.q_head]

    def _arithmetic(self) -> Arithmetic:
        H, L = ([block.weights(self.dtype) for block in blocks] for blocks in (self.H, self.L))  # type: ignore[operator]
        rope = None
        if self.rope_cos is not None and self.rope_sin is not None:
            rope = self.rope_cos.to(self.dtype), self.rope_sin.to(self.dtype)
        return Arithmetic(self.ops, H, L, rope)

    def _check(self, carry: Carry, tokens: torch.Tensor) -> None:
        expected = (len(carry.z_H), self.config.cells)
        if tokens.dtype != torch.uint8 or tokens.shape != expected:
            raise ValueError(
                f"tokens is {tokens.dtype} {list(tokens.shape)}: "
                f"expected torch.uint8 {list(expected)}"
            )
