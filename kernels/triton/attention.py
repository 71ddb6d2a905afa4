"""Attention of many tokens, rope folded in: softmax(rope(q) rope(k)^T / sqrt(K)) v, tile by tile.

    qkv   [B, T, 3 D]      q of all heads, k of all heads, v of all heads; D = heads * K
    rope  (cos, sin)       [T, 1, K] each, or None; see `kernels.attention_block.rotate`
    o     [B, T, D]
    lse   [B, heads, T]    float32, log2(sum(2^scores)), scores in powers of two, for backward

No score reaches device memory. q and k are loaded as two halves of K/2: rope mixes an element of
one half with its partner in the other, and the scores are the sum of the halves' products. Backward
recomputes the scores, once per tile of queries (dq) and once per tile of keys (dk, dv), so that
every gradient has one writer. Source: Dao 2023, arXiv 2307.08691.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_block import Rope
from kernels.triton.common import contiguous, dot, expect, register, tile, tuned
from kernels.triton.rope import load_head, load_turned, store_turned_back

LARGEST_HEAD = 128
LOG2E = tl.constexpr(1.4426950408889634)  # powers of two are the GPU's own


@triton.jit
def place(T, BLOCK: tl.constexpr, HEADS: tl.constexpr):
    """This program's board, head and tokens [BLOCK]: a head's tiles follow one another."""
    tiles = tl.cdiv(T, BLOCK)
    head = tl.program_id(0) // tiles
    t = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return (head // HEADS).to(tl.int64), head % HEADS, t


@triton.jit
def scores(q_low, q_high, k_low, k_high):
    return dot(q_high, tl.trans(k_high), dot(q_low, tl.trans(k_low)))


@tuned(
    "BT BS", (64, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (64, 32, 4, 3), (32, 32, 4, 2),
    key="T D K",
)  # fmt: skip
@triton.jit
def forward_kernel(
    qkv_at, cos_at, sin_at, o_at, lse_at,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    ROPE: tl.constexpr, SAVE: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    b, head, t = place(T, BT, D // K)
    q_at = qkv_at + b * T * (3 * D) + head * K
    q_low, q_high = load_turned(q_at, cos_at, sin_at, t, T, K, BH, 3 * D, ROPE)
    top = tl.full([BT], -float("inf"), tl.float32)  # in powers of two, as all scores here
    total = tl.zeros([BT], tl.float32)
    o = tl.zeros([BT, BK], tl.float32)
    for s0 in range(0, T, BS):
        s = s0 + tl.arange(0, BS)
        k_low, k_high = load_turned(q_at + D, cos_at, sin_at, s, T, K, BH, 3 * D, ROPE)
        score = scores(q_low, q_high, k_low, k_high) * (K**-0.5 * LOG2E)
        score = tl.where((s < T)[None, :], score, -float("inf"))
        top_before, top = top, tl.maximum(top, tl.max(score, 1))
        p, shrink = tl.exp2(score - top[:, None]), tl.exp2(top_before - top)
        total = total * shrink + tl.sum(p, 1)
        v = load_head(q_at + 2 * D, s, T, K, BK, 3 * D)
        o = dot(p.to(v.dtype), v, o * shrink[:, None])
    k = tl.arange(0, BK)
    o_at += b * T * D + head * K + t[:, None] * D + k[None, :]
    o = (o / total[:, None]).to(o_at.dtype.element_ty)
    tl.store(o_at, o, (t < T)[:, None] & (k < K)[None, :])
    if SAVE:
        tl.store(lse_at + (b * (D // K) + head) * T + t, top + tl.log2(total), t < T)


@tuned(
    "BT BS", (64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 2), (32, 32, 4, 2),
    key="T D K",
)  # fmt: skip
@triton.jit
def backward_q_kernel(
    qkv_at, cos_at, sin_at, o_at, lse_at, do_at, delta_at, dqkv_at,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    ROPE: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """dq, and delta [B, heads, T] = sum(o * do), which the keys' kernel needs too."""
    b, head, t = place(T, BT, D // K)
    q_at, o_offset = qkv_at + b * T * (3 * D) + head * K, b * T * D + head * K
    row = (b * (D // K) + head) * T + t
    q_low, q_high = load_turned(q_at, cos_at, sin_at, t, T, K, BH, 3 * D, ROPE)
    do = load_head(do_at + o_offset, t, T, K, BK, D)
    o = load_head(o_at + o_offset, t, T, K, BK, D)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta_at + row, delta, t < T)
    lse = tl.load(lse_at + row, t < T, other=0.0)
    dq_low, dq_high = tl.zeros([BT, BH], tl.float32), tl.zeros([BT, BH], tl.float32)
    for s0 in range(0, T, BS):
        s = s0 + tl.arange(0, BS)
        k_low, k_high = load_turned(q_at + D, cos_at, sin_at, s, T, K, BH, 3 * D, ROPE)
        v = load_head(q_at + 2 * D, s, T, K, BK, 3 * D)
        score = scores(q_low, q_high, k_low, k_high) * (K**-0.5 * LOG2E)
        # Beyond T the power may overflow, and infinity times the key's 0 is no 0.
        p = tl.where((s < T)[None, :], tl.exp2(score - lse[:, None]), 0.0)
        ds = (p * (dot(do, tl.trans(v)) - delta[:, None])).to(v.dtype)
        dq_low, dq_high = dot(ds, k_low, dq_low), dot(ds, k_high, dq_high)
    dq_at = dqkv_at + b * T * (3 * D) + head * K
    dq_low, dq_high = dq_low * K**-0.5, dq_high * K**-0.5
    store_turned_back(dq_at, dq_low, dq_high, cos_at, sin_at, t, T, K, BH, 3 * D, ROPE)


@tuned(
    "BT BS", (32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 1), (32, 32, 4, 2),
    key="T D K",
)  # fmt: skip
@triton.jit
def backward_kv_kernel(
    qkv_at, cos_at, sin_at, lse_at, do_at, delta_at, dqkv_at,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    ROPE: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """dk and dv. Tiles of scores stand transposed [keys, queries], as both products need them."""
    b, head, s = place(T, BS, D // K)
    q_at, row = qkv_at + b * T * (3 * D) + head * K, (b * (D // K) + head) * T
    do_at += b * T * D + head * K
    k_low, k_high = load_turned(q_at + D, cos_at, sin_at, s, T, K, BH, 3 * D, ROPE)
    v = load_head(q_at + 2 * D, s, T, K, BK, 3 * D)
    dk_low, dk_high = tl.zeros([BS, BH], tl.float32), tl.zeros([BS, BH], tl.float32)
    dv = tl.zeros([BS, BK], tl.float32)
    for t0 in range(0, T, BT):
        t = t0 + tl.arange(0, BT)
        q_low, q_high = load_turned(q_at, cos_at, sin_at, t, T, K, BH, 3 * D, ROPE)
        do = load_head(do_at, t, T, K, BK, D)
        lse = tl.load(lse_at + row + t, t < T, other=0.0)
        delta = tl.load(delta_at + row + t, t < T, other=0.0)
        score = scores(k_low, k_high, q_low, q_high) * (K**-0.5 * LOG2E)
        p = tl.exp2(score - lse[None, :])  # 1 beyond T, where do is 0 and with it all that follows
        dv = dot(p.to(do.dtype), do, dv)
        ds = (p * (dot(v, tl.trans(do)) - delta[None, :])).to(do.dtype)
        dk_low, dk_high = dot(ds, q_low, dk_low), dot(ds, q_high, dk_high)
    dk_at = dqkv_at + b * T * (3 * D) + D + head * K
    dk_low, dk_high = dk_low * K**-0.5, dk_high * K**-0.5
    store_turned_back(dk_at, dk_low, dk_high, cos_at, sin_at, s, T, K, BH, 3 * D, ROPE)
    k = tl.arange(0, BK)
    dv_at = dk_at + D + s[:, None] * (3 * D) + k[None, :]
    tl.store(dv_at, dv.to(v.dtype), (s < T)[:, None] & (k < K)[None, :])


def _check(qkv: Tensor, cos: Tensor | None, sin: Tensor | None, heads: int) -> None:
    if qkv.ndim != 3 or heads < 1 or not qkv.shape[2] or qkv.shape[2] % (3 * heads):
        raise ValueError(
            f"qkv is {list(qkv.shape)}: expected [B, T, 3 * heads * K] of {heads} heads"
        )
    T, K = qkv.shape[1], qkv.shape[2] // (3 * heads)
    if K > LARGEST_HEAD:
        raise ValueError(f"head size is {K}: expected 1 to {LARGEST_HEAD}")
    if cos is not None and K % 2:
        raise ValueError(f"head size is {K}: expected an even one with rope")
    expect(qkv, cos=(cos, (T, 1, K)), sin=(sin, (T, 1, K)))


def _sizes(qkv: Tensor, heads: int) -> tuple[int, int, int, int]:
    """D, K, and the tiles that hold half a head and a head."""
    D = qkv.shape[2] // 3
    K = D // heads
    return D, K, tile((K + 1) // 2), tile(K)


def launch_forward(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, heads: int, save: bool
) -> tuple[Tensor, Tensor]:
    """o [B, T, D] and lse [B, heads, T], or lse [0] if it is not saved, of qkv [B, T, 3 D]."""
    o, lse = _forward_fake(qkv, cos, sin, heads, save)
    (B, T, _), sizes = qkv.shape, _sizes(qkv, heads)
    qkv, cos, sin = contiguous(qkv, cos, sin)
    forward_kernel[lambda meta: (B * heads * triton.cdiv(T, meta["BT"]),)](
        qkv, cos, sin, o, lse, T, *sizes, cos is not None, save
    )
    return o, lse


def _forward_fake(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, heads: int, save: bool
) -> tuple[Tensor, Tensor]:
    _check(qkv, cos, sin, heads)
    B, T, width = qkv.shape
    lse = (B, heads, T) if save else (0,)
    return qkv.new_empty(B, T, width // 3), qkv.new_empty(lse, dtype=torch.float32)


def launch_backward(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, o: Tensor, lse: Tensor, do: Tensor
) -> Tensor:
    """dqkv [B, T, 3 D] of qkv, what forward saved and do [B, T, D]: two kernels."""
    dqkv = _backward_fake(qkv, cos, sin, o, lse, do)
    (B, T, _), heads, rope = qkv.shape, lse.shape[1], cos is not None
    sizes, delta = _sizes(qkv, heads), lse.new_empty(lse.shape)
    qkv, cos, sin, o, lse, do = contiguous(qkv, cos, sin, o, lse, do)
    backward_q_kernel[lambda meta: (B * heads * triton.cdiv(T, meta["BT"]),)](
        qkv, cos, sin, o, lse, do, delta, dqkv, T, *sizes, rope
    )
    backward_kv_kernel[lambda meta: (B * heads * triton.cdiv(T, meta["BS"]),)](
        qkv, cos, sin, lse, do, delta, dqkv, T, *sizes, rope
    )
    return dqkv


def _backward_fake(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, o: Tensor, lse: Tensor, do: Tensor
) -> Tensor:
    if lse.ndim != 3 or lse.shape[::2] != qkv.shape[:2]:
        raise ValueError(f"lse is {list(lse.shape)}: expected [B, heads, T], as saved")
    _check(qkv, cos, sin, lse.shape[1])
    shape = *qkv.shape[:2], qkv.shape[2] // 3
    expect(qkv, o=(o, shape), do=(do, shape))
    return qkv.new_empty(qkv.shape)


forward_op = register(
    "attention(Tensor qkv, Tensor? cos, Tensor? sin, int heads, bool save) -> (Tensor, Tensor)",
    launch_forward,
    _forward_fake,
)
backward_op = register(
    "attention_backward(Tensor qkv, Tensor? cos, Tensor? sin, Tensor o, Tensor lse, Tensor do) "
    "-> Tensor",
    launch_backward,
    _backward_fake,
)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, cos, sin, heads):
        o, lse = forward_op(qkv, cos, sin, heads, ctx.needs_input_grad[0])
        ctx.save_for_backward(qkv, cos, sin, o, lse)
        return o

    @staticmethod
    def backward(ctx, do):
        return backward_op(*ctx.saved_tensors, do), None, None, None


def attention(qkv: Tensor, heads: int, rope: Rope | None = None) -> Tensor:
    """o [B, T, D] of qkv [B, T, 3 D], see the file's head; K up to 128, an even one with rope.

    The tables get no gradient. ValueError names a shape or dtype that is out of these limits.
    """
    cos, sin = rope or (None, None)
    return _Attention.apply(qkv, cos, sin, heads)
