"""`kernels.attention_block` for small models (D to 128, T to 256): forward in one kernel.

A program keeps one board on chip. Triton's tensors have powers of two for sizes and boards do not,
so the keys lie in pieces of up to 64 tokens: 144 are 64 + 64 + 16. Every tile of queries sees all
pieces at once; its softmax needs no rescaling. q and k are made as two halves [tokens, K / 2] that
rope turns against each other without a shuffle; a score is the sum of the halves' products. What a
head attends to waits in y, that is in the cache, until all heads are done.

Backward makes q, k, v and what they attend to again from x, as larger models do
(`kernels.triton.attention`), and takes y and the norm's scale from forward. Its products over all
tokens are cuBLAS's.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_block import Rope
from kernels.triton import attention
from kernels.triton.add_rms import backward_op as rms_backward_op
from kernels.triton.attention import LOG2E
from kernels.triton.common import (
    contiguous,
    dot,
    expect,
    load_rows,
    register,
    rms,
    store_rows,
    tile,
    tuned,
)
from kernels.triton.rope import rotate

LARGEST_PIECE = 64  # of 128, the scores of a tile spill registers on sm_80


def pieces(T: int) -> tuple[tuple[int, int], ...]:
    """First token and size of every piece that T tokens lie in."""
    starts = range(0, T, LARGEST_PIECE)
    return tuple((start, min(LARGEST_PIECE, tile(T - start))) for start in starts)


@triton.jit
def load_tokens(z, injection, t, d, T: tl.constexpr, D: tl.constexpr, INJECTED: tl.constexpr):
    """x [t, d] of one board: z, or z + injection rounded as the reference does."""
    x = load_rows(z, t, T, d, D)
    if INJECTED:
        x = (x.to(tl.float32) + load_rows(injection, t, T, d, D).to(tl.float32)).to(x.dtype)
    return x


@triton.jit
def project(x, w, rows, end, d, D: tl.constexpr):
    """x [t, d] times rows of w, rounded to x's type: [t, rows]."""
    return dot(x, tl.trans(load_rows(w, rows, end, d, D))).to(x.dtype)


@triton.jit
def turned(
    x, w, t, d, cos, sin,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """Both halves [t, BH] of one head's q or k, whose weights begin at w; after rope."""
    H: tl.constexpr = (K + 1) // 2
    h = tl.arange(0, BH)
    low, high = project(x, w, h, H, d, D), project(x, w + H * D, h, K - H, d, D)
    if ROPE:
        low, high = rotate(low, high, cos, sin, t, T, K, BH)
    return low, high


@triton.jit
def attend(q_low, q_high, k_low, k_high, v, s, T: tl.constexpr, K: tl.constexpr):
    """softmax(q k^T / sqrt(K)) v [t, BK] over the keys of all pieces."""
    score = ()
    top = tl.full([q_low.shape[0]], -float("inf"), tl.float32)
    for p in tl.static_range(len(s)):
        product = dot(q_high, tl.trans(k_high[p]), dot(q_low, tl.trans(k_low[p])))
        product = tl.where((s[p] < T)[None, :], product * (K**-0.5 * LOG2E), -float("inf"))
        score, top = score + (product,), tl.maximum(top, tl.max(product, 1))
    total = tl.zeros_like(top)
    o = tl.zeros([q_low.shape[0], v[0].shape[1]], tl.float32)
    for p in tl.static_range(len(s)):
        power = tl.exp2(score[p] - top[:, None])
        total += tl.sum(power, 1)
        o = dot(power.to(q_low.dtype), v[p], o)
    return o / total[:, None]


@tuned("BT", (64, 4, 1), (32, 4, 1), (64, 8, 1), (16, 4, 1), key="T D HEADS")
@triton.jit
def forward_kernel(
    z, injection, w_qkv, w_o, cos, sin, y, scale,
    T: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr, PIECES: tl.constexpr,
    BD: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr,
    INJECTED: tl.constexpr, ROPE: tl.constexpr, SAVE: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    K: tl.constexpr = D // HEADS
    board = tl.program_id(0).to(tl.int64)
    first = board * T * D
    z, injection, y = z + first, injection + first, y + first
    d, i = tl.arange(0, BD), tl.arange(0, BK)
    for head in range(HEADS):
        w = w_qkv + head * K * D
        s, k_low, k_high, v = (), (), (), ()
        for p in tl.static_range(len(PIECES)):
            s = s + (PIECES[p][0] + tl.arange(0, PIECES[p][1]),)
            keyed = load_tokens(z, injection, s[p], d, T, D, INJECTED)
            low, high = turned(keyed, w + D * D, s[p], d, cos, sin, T, D, K, BH, ROPE)
            k_low, k_high = k_low + (low,), k_high + (high,)
            v = v + (project(keyed, w + 2 * D * D, i, K, d, D),)
        for t0 in range(0, T, BT):
            t = t0 + tl.arange(0, BT)
            x = load_tokens(z, injection, t, d, T, D, INJECTED)
            q_low, q_high = turned(x, w, t, d, cos, sin, T, D, K, BH, ROPE)
            o = attend(q_low, q_high, k_low, k_high, v, s, T, K).to(x.dtype)
            at = y + head * K + t[:, None] * D + i[None, :]
            tl.store(at, o, (t < T)[:, None] & (i < K)[None, :])
    tl.debug_barrier()  # the rows of y come from other threads
    w = tl.trans(load_rows(w_o, d, D, d, D))
    for t0 in range(0, T, BT):
        t = t0 + tl.arange(0, BT)
        x = load_tokens(z, injection, t, d, T, D, INJECTED)
        u = dot(load_rows(y, t, T, d, D), w, x.to(tl.float32))
        tl.debug_barrier()
        normed, by = rms(u, D)
        store_rows(y, normed.to(x.dtype), t, T, d, D)
        if SAVE:
            tl.store(scale + board * T + t, by, t < T)


def launch_forward(
    z: Tensor, injection: Tensor | None, w_qkv: Tensor, w_o: Tensor, heads: int,
    cos: Tensor | None, sin: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y [B, T, D] and the norm's scale [B, T], or [0] if it is not saved, of z [B, T, D]."""
    y, scale = _forward_fake(z, injection, w_qkv, w_o, heads, cos, sin, save)
    z, injection, w_qkv, w_o, cos, sin = contiguous(z, injection, w_qkv, w_o, cos, sin)
    forward_kernel[(len(z),)](
        z, z if injection is None else injection, w_qkv, w_o, cos, sin, y, scale,
        INJECTED=injection is not None, ROPE=cos is not None, SAVE=save, **_sizes(z, heads),
    )  # fmt: skip
    return y, scale


def _sizes(z: Tensor, heads: int) -> dict[str, Any]:
    T, D = z.shape[1:]
    K = D // heads
    return {
        "T": T, "D": D, "HEADS": heads, "PIECES": pieces(T),
        "BD": tile(D), "BK": tile(K), "BH": tile((K + 1) // 2),
    }  # fmt: skip


def _forward_fake(
    z: Tensor, injection: Tensor | None, w_qkv: Tensor, w_o: Tensor, heads: int,
    cos: Tensor | None, sin: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, T, D = z.shape
    if not 1 <= T <= 256 or not 1 <= D <= 128 or D % heads:
        raise ValueError(f"z is {list(z.shape)}, heads {heads}: expected T to 256, D to 128")
    table = T, 1, D // heads
    expect(z, injection=(injection, (B, T, D)), w_qkv=(w_qkv, (3 * D, D)), w_o=(w_o, (D, D)))
    expect(z, cos=(cos, table), sin=(sin, table))
    scale = z.new_empty((B, T) if save else (0,), dtype=torch.float32)
    return z.new_empty(z.shape), scale


forward_op = register(
    "attention_block(Tensor z, Tensor? injection, Tensor w_qkv, Tensor w_o, int heads, "
    "Tensor? cos, Tensor? sin, bool save) -> (Tensor, Tensor)",
    launch_forward,
    _forward_fake,
)


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, injection, w_qkv, w_o, heads, cos, sin):
        y, scale = forward_op(z, injection, w_qkv, w_o, heads, cos, sin, True)
        ctx.save_for_backward(z, injection, w_qkv, w_o, cos, sin, y, scale)
        ctx.heads = heads
        return y

    @staticmethod
    def backward(ctx, dy):
        z, injection, w_qkv, w_o, cos, sin, y, scale = ctx.saved_tensors
        x = z if injection is None else z + injection
        qkv = F.linear(x, w_qkv)
        o, lse = attention.forward_op(qkv, cos, sin, ctx.heads, True)
        du = rms_backward_op(y, scale, dy)
        d_qkv = attention.backward_op(qkv, cos, sin, o, lse, du @ w_o)
        x, du, d_qkv, o = (t.flatten(0, 1) for t in (x, du, d_qkv, o))
        dx = torch.addmm(du, d_qkv, w_qkv).view(z.shape)
        return dx, None if injection is None else dx, d_qkv.T @ x, du.T @ o, None, None, None


def attention_block(
    z: Tensor,
    w_qkv: Tensor,
    w_o: Tensor,
    heads: int,
    rope: Rope | None = None,
    rows: Tensor | None = None,
    injection: Tensor | None = None,
) -> Tensor:
    """As `attention_block.attention_block_reference` of x = z + injection, all tokens computed."""
    given = z, injection, w_qkv, w_o, heads, *(rope or (None, None))
    y = _AttentionBlock.apply(*given) if torch.is_grad_enabled() else forward_op(*given, False)[0]
    if rows is None:
        return y
    return y.gather(1, rows.unsqueeze(2).expand(-1, -1, y.shape[2]))
