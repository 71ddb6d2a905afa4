"""What the model is made of: one block's weights, position tables, the initialisation."""

import torch
import torch.nn.functional as F
from torch import nn

from hrm_fast.config import HRMConfig
from kernels.attention_block import Rope
from kernels.ops import Ops

# A normal cut at two sigma has this standard deviation in sigmas.
CUT_STD = 0.87962566103423978

# qkv [3 D, D], out [D, D], gate_up [2 F, D], down [D, F]
BlockWeights = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def truncated_normal(*shape: int, std: float) -> torch.Tensor:
    """Normal numbers cut at two sigma whose *resulting* deviation is `std`, as in JAX and flax."""
    sigma = std / CUT_STD
    numbers = torch.empty(shape, dtype=torch.float32, device="cpu")
    return nn.init.trunc_normal_(numbers, std=sigma, a=-2 * sigma, b=2 * sigma)


def weight(rows: int, columns: int) -> nn.Parameter:
    """A matrix [rows, columns] with deviation 1 / sqrt(columns)."""
    return nn.Parameter(truncated_normal(rows, columns, std=columns**-0.5))


class Block(nn.Module):
    """The four matrices of one attention block and the SwiGLU block behind it."""

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        width, inner = config.width, config.inner_width
        self.qkv = weight(3 * width, width)
        self.out = weight(width, width)
        self.gate_up = weight(2 * inner, width)
        self.down = weight(width, inner)


def level(
    ops: Ops,
    z: torch.Tensor,
    injection: torch.Tensor,
    blocks: list[BlockWeights],
    heads: int,
    rope: Rope | None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """One call of a level: its blocks in turn on z + injection  [B, T, D].

    rows int64 [B, R]: the only tokens that are wanted of the last block, [B, R, D].
    """
    for i, (qkv, out, gate_up, down) in enumerate(blocks, 1):
        wanted, added = rows if i == len(blocks) else None, injection if i == 1 else None
        z = ops.attention_block(z, qkv, out, heads, rope, wanted, added)
        z = ops.swiglu_block(z, gate_up, down)
    return z


def rope_tables(config: HRMConfig) -> Rope | None:
    """cos and sin [T, 1, K] of every token's angles, or None for learned positions alone.

    "rope": cell t - 1 turns pair i by t * base^(-2 i / K), the puzzle token being t = 0.
    "rope2d": the first half of the pairs turns with the row, the second with the column; the
    puzzle token sits at (0, 0), the board's first cell at (1, 1).
    The first half of sin carries the rotation's minus sign (see `kernels.attention_block.rotate`).
    """
    if config.positions == "learned":
        return None
    cell = torch.tensor(config.seen, dtype=torch.int64, device="cpu")
    if config.positions == "rope":
        angle = rope_angles(F.pad(cell + 1, (1, 0)), config.head_size // 2, config.rope_base)
    else:
        assert config.columns is not None
        place = torch.stack((cell // config.columns, cell % config.columns)) + 1
        row, column = F.pad(place, (1, 0))
        pairs = config.head_size // 4
        by_row, by_column = (rope_angles(p, pairs, config.rope_base) for p in (row, column))
        angle = torch.cat((by_row, by_column), dim=1)
    cos, sin = angle.cos(), angle.sin()  # [T, K/2]
    return torch.cat((cos, cos), 1).unsqueeze(1), torch.cat((-sin, sin), 1).unsqueeze(1)


def learned_positions(config: HRMConfig) -> torch.Tensor:
    """What the learned positions [T, D] start from, each vector of length about 1.

    "random": as the published code. "sincos": a cell's row and column as sines and cosines of
    D/4 frequencies each, from 1 to 1/20 radian a cell, so that near cells are alike from the start.
    """
    width = config.width
    position = truncated_normal(config.tokens, width, std=width**-0.5)
    if config.position_start == "sincos":
        assert config.columns is not None
        cell = torch.tensor(config.seen, dtype=torch.int64, device="cpu")
        place = (cell // config.columns, cell % config.columns)
        angle = torch.cat([rope_angles(p, width // 4, 20.0) for p in place], dim=1)  # [cells, D/2]
        position[1:] = torch.cat((angle.sin(), angle.cos()), dim=1) * (2 / width) ** 0.5
    return position


def rope_angles(position: torch.Tensor, pairs: int, base: float) -> torch.Tensor:
    """Angles [T, pairs]: position times base^(-i / pairs).

    In float32, as the published code does it: its angles are off by up to 4e-6 radians at 143
    tokens, which alone would take a second decision more than 1e-5 away from its values.
    """
    return position.float()[:, None] * (1.0 / base ** (_count(pairs).float() / pairs))


def _count(end: int) -> torch.Tensor:
    return torch.arange(end, dtype=torch.int64, device="cpu")
