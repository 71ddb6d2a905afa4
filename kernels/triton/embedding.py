"""`kernels.embedding` in one kernel forward, and one with two small sums backward.

The table's gradient adds B * T rows into vocab + 1, most of them into the few codes of floor and
wall. One program per code would leave nearly all of that to two programs, each of which would also
read every token; additions in memory would come in any order. So backward is a product,
onehot(codes) [vocab, rows] @ de [rows, D]: every program multiplies its own fixed share of the rows
into a part of a table on chip, and the parts are then added in a fixed order. At B 256, T 144, D 64
and vocab 131 that is 0.9 GFLOP in all, little beside one block's products, and de is read once from
memory; the factors 0 and 1 make every product exact. float32 goes as three bfloat16 terms, whose
3 * 8 bits hold its 24: tensor cores without TF32.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import contiguous, dot, load_rows, register, store_rows, tile

PARTS = 64  # shares of the rows
BYTES = 256  # codes that a token can hold


@triton.jit
def codes_of(tokens, r, rows, T: tl.constexpr):
    """Rows int32 of the table (puzzle, then vocabulary) of rows r of e; 0 beyond the last."""
    b, t = r // T, r % T
    token = tl.load(tokens + b.to(tl.int64) * (T - 1) + t - 1, (r < rows) & (t > 0), other=0)
    return tl.where(t > 0, token.to(tl.int32) + 1, 0)


@triton.jit
def add_rows(table, one_hot, de):
    """table + one_hot @ de, products exact; one_hot float32."""
    if de.dtype != tl.float32:
        return dot(one_hot.to(de.dtype), de, table)
    one_hot = one_hot.to(tl.bfloat16)
    for _ in tl.static_range(3):
        term = de.to(tl.bfloat16)
        table = dot(one_hot, term, table)
        de -= term.to(tl.float32)
    return table


@triton.jit
def forward_kernel(
    tokens, embed, puzzle, position, e_at, rows, vocab, scale,
    T: tl.constexpr, D: tl.constexpr, POSITION: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    r, d = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BD)
    code = codes_of(tokens, r, rows, T)
    known = ((code > 0) & (code <= vocab))[:, None] & (d < D)[None, :]
    at = embed + (code - 1).to(tl.int64)[:, None] * D + d[None, :]
    looked_up = tl.load(at, known, other=float("nan")).to(tl.float32)
    first = tl.load(puzzle + d, d < D, other=0.0).to(tl.float32)
    e = tl.where((code == 0)[:, None], first[None, :], looked_up) * scale
    if POSITION:
        e += load_rows(position, r % T, T, d, D).to(tl.float32) * scale
    store_rows(e_at, e.to(e_at.dtype.element_ty), r.to(tl.int64), rows, d, D)


@triton.jit
def backward_kernel(
    tokens, de_at, parts, rows, codes, scale, rounds: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr,
    BR: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    c, d = tl.program_id(1) * BC + tl.arange(0, BC), tl.program_id(2) * BD + tl.arange(0, BD)
    table = tl.zeros((BC, BD), tl.float32)
    for i in range(rounds):
        r = (part * rounds + i) * BR + tl.arange(0, BR)
        de = load_rows(de_at, r.to(tl.int64), rows, d, D)
        one_hot = tl.where(c[:, None] == codes_of(tokens, r, rows, T)[None, :], 1.0, 0.0)
        table = add_rows(table, one_hot, de)
    store_rows(parts + part.to(tl.int64) * codes * D, table * scale, c, codes, d, D)


def launch_forward(
    tokens: Tensor,
    embed: Tensor,
    puzzle: Tensor,
    position: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """e [B, T, D] in dtype of tokens uint8 [B, T - 1] and the tables embed [V, D], puzzle [D] and
    position [T, D]."""
    tokens, embed, puzzle, position = contiguous(tokens, embed, puzzle, position)
    e = _forward_fake(tokens, embed, puzzle, position, scale, dtype)
    (B, T, D), (BR, BD) = e.shape, _tile(e.shape[2])
    forward_kernel[(triton.cdiv(B * T, BR),)](
        tokens, embed, puzzle, puzzle if position is None else position, e,
        B * T, len(embed), scale, T, D, position is not None, BR, BD,
    )  # fmt: skip
    return e


def _tile(D: int) -> tuple[int, int]:
    """Rows and columns of a program's part of e: about 2,048 numbers."""
    BD = triton.next_power_of_2(D)
    return max(1, 2048 // BD), BD


def _forward_fake(
    tokens: Tensor,
    embed: Tensor,
    puzzle: Tensor,
    position: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    return embed.new_empty(len(tokens), 1 + tokens.shape[1], embed.shape[1], dtype=dtype)


def launch_backward(tokens: Tensor, de: Tensor, vocab: int, scale: float) -> Tensor:
    """The tables' gradient float32 [1 + V, D], puzzle first, of de [B, T, D]; V at most 256."""
    tokens, de = contiguous(tokens, de)
    (B, T, D), codes, BR, BC = de.shape, 1 + min(vocab, BYTES), 32, 64
    BD = min(64, tile(D))
    rounds = max(1, triton.cdiv(B * T, PARTS * BR))
    parts = de.new_empty(triton.cdiv(B * T, rounds * BR), codes, D, dtype=torch.float32)
    backward_kernel[(len(parts), triton.cdiv(codes, BC), triton.cdiv(D, BD))](
        tokens, de, parts, B * T, codes, scale, rounds, T, D, BR, BC, BD
    )
    return parts.sum(0)


def _backward_fake(tokens: Tensor, de: Tensor, vocab: int, scale: float) -> Tensor:
    return de.new_empty(1 + min(vocab, BYTES), de.shape[2], dtype=torch.float32)


forward_op = register(
    "embedding(Tensor tokens, Tensor embed, Tensor puzzle, Tensor? position, float scale, "
    "ScalarType dtype) -> Tensor",
    launch_forward,
    _forward_fake,
)
backward_op = register(
    "embedding_backward(Tensor tokens, Tensor de, int vocab, float scale) -> Tensor",
    launch_backward,
    _backward_fake,
)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, embed, puzzle, position, scale, dtype):
        ctx.save_for_backward(tokens)
        ctx.vocab, ctx.scale = len(embed), scale
        ctx.dtypes = [None if t is None else t.dtype for t in (embed, puzzle, position)]
        return forward_op(tokens, embed, puzzle, position, scale, dtype)

    @staticmethod
    def backward(ctx, de):
        embed, puzzle, position = ctx.dtypes
        table = backward_op(*ctx.saved_tensors, de, ctx.vocab, ctx.scale)
        unreachable = ctx.vocab + 1 - len(table)
        d_embed = F.pad(table[1:], (0, 0, 0, unreachable)).to(embed)
        d_position = None
        if position is not None:
            d_position = (de.sum(0, dtype=torch.float32) * ctx.scale).to(position)
        return None, d_embed, table[0].to(puzzle), d_position, None, None


def embedding(
    tokens: Tensor,
    embed: Tensor,
    puzzle: Tensor,
    position: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """As `embedding.embedding_reference`; a token beyond the vocabulary gives NaN.

    ValueError: a shape does not fit the others, or tokens are no bytes.
    """
    if tokens.dtype != torch.uint8 or tokens.dim() != 2:
        raise ValueError(
            f"tokens is {tokens.dtype} {list(tokens.shape)}: expected torch.uint8 [B, cells]"
        )
    T, D = 1 + tokens.shape[1], embed.shape[-1]
    expected = {"embed": (embed, [len(embed), D]), "puzzle": (puzzle, [D])}
    if position is not None:
        expected["position"] = (position, [T, D])
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} is {list(tensor.shape)}: expected {shape}")
    return _Embedding.apply(tokens, embed, puzzle, position, scale, dtype)
