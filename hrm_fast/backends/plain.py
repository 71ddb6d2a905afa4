"""The HRM in the operations of `kernels`: the definition that the fused back ends must equal.

    e = scale * ([puzzle, embed(tokens)] + position)
    repeat H_cycles times:  repeat L_cycles times:  z_L = L(z_L, z_H + e)
                            z_H = H(z_H, z_L)
    q = head z_H[read]

Only the last call of L and the last call of H carry gradient: the one-step gradient. Source: HRM,
arXiv 2506.21734. With Triton's operations this is what trains on a GPU.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_fast.backends.shape import TD, Found, Keep, Parameters, Start
from hrm_fast.config import HRMConfig
from hrm_fast.layers import BlockWeights, level, rope_tables
from kernels.attention_block import Rope
from kernels.ops import Ops


class Parts(NamedTuple):
    """The parameters by name, the blocks' in the dtype that they compute in."""

    embed: Tensor  # [V, D]
    position: Tensor | None  # [T, D]
    puzzle: Tensor  # [D]
    L: list[BlockWeights]
    H: list[BlockWeights]
    head: Tensor  # [A, D]
    rope: Rope | None


class Plain:
    """Models of one shape, computed by these operations."""

    def __init__(self, config: HRMConfig, ops: Ops) -> None:
        self.config, self.ops = config, ops
        self.rope = rope_tables(config)
        self._moved: dict[tuple[torch.device, torch.dtype], Rope] = {}

    def parts(self, parameters: Parameters) -> Parts:
        """The parameters of `HRM.in_order`, cast once per call."""
        config = self.config
        embed, *rest = parameters
        position = rest.pop(0) if "learned" in config.positions else None
        puzzle, *matrices, head = rest
        dtype = torch.bfloat16 if config.dtype == "bfloat16" else embed.dtype
        qkv, out, gate_up, down = ([w.to(dtype) for w in matrices[i::4]] for i in range(4))
        blocks = list(zip(qkv, out, gate_up, down, strict=True))
        L, H = blocks[: config.l_layers], blocks[config.l_layers :]
        return Parts(embed, position, puzzle, L, H, head, self._rope_on(embed.device, dtype))

    def _rope_on(self, device: torch.device, dtype: torch.dtype) -> Rope | None:
        if self.rope is not None and (device, dtype) not in self._moved:
            cos, sin = self.rope
            with torch.inference_mode(False):  # what is kept must serve training later on
                self._moved[device, dtype] = cos.to(device, dtype), sin.to(device, dtype)
        return self._moved.get((device, dtype))

    def embedding(self, parts: Parts, tokens: Tensor) -> Tensor:
        """e [B, T, D] of tokens uint8 [B, T - 1]: sqrt(D) * [puzzle, embed(tokens)].

        With learned positions sqrt(D / 2) * ([puzzle, embed(tokens)] + position).
        """
        width, dtype = self.config.width, parts.L[0][0].dtype
        scale = (width if parts.position is None else width / 2) ** 0.5
        return self.ops.embedding(tokens, parts.embed, parts.puzzle, parts.position, scale, dtype)

    def forward(
        self,
        parts: Parts,
        e: Tensor,
        z_H: Tensor,
        z_L: Tensor,
        rows: Tensor | None = None,
        begun: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One segment: z_H, z_L [B, T, D] -> the new ones.

        rows int64 [B, R]: compute the new z_H of these tokens only, [B, R, D].
        begun: the calls without gradient have been made already.
        """
        ops, heads, rope = self.ops, self.config.heads, parts.rope
        h_cycles, l_cycles = self.config.h_cycles, self.config.l_cycles
        with torch.no_grad():
            for call in range(1, 1 if begun else h_cycles * l_cycles):
                z_L = level(ops, z_L, z_H + e, parts.L, heads, rope)
                if call % l_cycles == 0:
                    z_H = level(ops, z_H, z_L, parts.H, heads, rope)
        z_L = level(ops, z_L, z_H + e, parts.L, heads, rope)
        return level(ops, z_H, z_L, parts.H, heads, rope, rows), z_L

    @torch.no_grad()
    def decide(
        self, parameters: Parameters, start: Start, segments: int = 1, keep: Keep = "states"
    ) -> Found:
        tokens, z_H, z_L, read = start
        parts = self.parts(parameters)
        e = self.embedding(parts, tokens)
        for _ in range(segments - 1):
            z_H, z_L = self.forward(parts, e, z_H, z_L)
        return self._last(parts, e, z_H, z_L, read, keep)

    def segment(
        self, parameters: Parameters, start: Start, keep: Keep = "states", begun: bool = False
    ) -> Found:
        tokens, z_H, z_L, read = start
        parts = self.parts(parameters)
        return self._last(parts, self.embedding(parts, tokens), z_H, z_L, read, keep, begun)

    def td_segment(
        self,
        parameters: Parameters,
        start: Start,
        td: TD,
        keep: Keep = "states",
        begun: bool = False,
    ) -> tuple[Tensor, Found]:
        if td.weight is None:
            q, z_H, z_L = self.segment(parameters, start, keep, begun)
            loss = self.ops.td_loss(q, td.a_tm1, td.target)
        else:  # the loss needs every token, whatever is kept
            q, z_H, z_L = self.segment(parameters, start, begun=begun)
            loss = self.ops.goal_loss(z_H, parameters[-1], *td)
        return loss, (q.detach(), z_H.detach(), z_L.detach())

    def _last(
        self,
        parts: Parts,
        e: Tensor,
        z_H: Tensor,
        z_L: Tensor,
        read: Tensor | None,
        keep: Keep,
        begun: bool = False,
    ) -> Found:
        """Compute a call's last segment and q; returns q and the new states that `keep` names.

        Unless all are kept, the last block works only on the tokens that are read.
        """
        head, B = parts.head, len(e)
        if read is None or keep == "states":
            z_H, z_L = self.forward(parts, e, z_H, z_L, None, begun)
            board = torch.arange(B, dtype=torch.int64, device=e.device)
            q = head_of(z_H.mean(1) if read is None else z_H[board, read.long()], head)
        else:
            rows = read.long().unsqueeze(1)
            if keep == "last":
                rows = torch.cat((rows, torch.full_like(rows, self.config.tokens - 1)), dim=1)
            z_H, z_L = self.forward(parts, e, z_H, z_L, rows, begun)  # z_H [B, R, D]
            q = head_of(z_H[:, 0], head)
        if keep == "last":
            return q, z_H[:, -1], z_L[:, -1]
        return (q, z_H, z_L) if keep == "states" else (q, z_H[:0], z_L[:0])


def head_of(z: Tensor, head: Tensor) -> Tensor:
    """Values [..., A] before their activation, in the head's dtype."""
    return F.linear(z.to(head.dtype), head)
