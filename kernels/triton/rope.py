"""Tiles of one head's q or k, turned by rope when loaded, gradients turned back when stored.

A row of tokens holds K numbers of the head. They are taken as two halves of K/2, since rope mixes
an element of one half with its partner in the other; see `kernels.attention_block.rotate`.
"""

import triton
import triton.language as tl

from kernels.triton.common import INTERPRETED


@triton.jit
def load_head(at, t, T, K: tl.constexpr, BK: tl.constexpr, WIDTH: tl.constexpr):
    """Tile [R, BK] of one head's columns in rows of WIDTH; 0 outside of t < T and K."""
    k = tl.arange(0, BK)
    inside = (t < T)[:, None] & (k < K)[None, :]
    return tl.load(at + t[:, None] * WIDTH + k[None, :], inside, other=0.0)


@triton.jit
def angles(cos_at, sin_at, t, T, K: tl.constexpr, BH: tl.constexpr):
    """cos, sin float32 [R, BH] of the tokens' angles: sin's second half has no minus sign."""
    h = tl.arange(0, BH)
    inside = (t < T)[:, None] & (h < K // 2)[None, :]
    offset = t[:, None] * K + h[None, :]
    cos = tl.load(cos_at + offset, inside, other=0.0)
    sin = tl.load(sin_at + K // 2 + offset, inside, other=0.0)
    return cos.to(tl.float32), sin.to(tl.float32)


@triton.jit
def opaque(x):
    """x, as a sum of one, past which the compiler moves no change of layout.

    Else it has every warp of an sm_80 compute for itself the whole tile that the warps multiply
    by: four times the work, and registers spilled.
    """
    if INTERPRETED:
        return x
    return tl.sum(x[:, :, None], 2)


@triton.jit
def load_turned(
    at, cos_at, sin_at, t, T,
    K: tl.constexpr, BH: tl.constexpr, WIDTH: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """Both halves [R, BH] of a head's q or k after rope; an odd K's first half is the longer."""
    H: tl.constexpr = (K + 1) // 2
    h = tl.arange(0, BH)
    at += t[:, None] * WIDTH + h[None, :]
    low = tl.load(at, (t < T)[:, None] & (h < H)[None, :], other=0.0)
    high = tl.load(at + H, (t < T)[:, None] & (h < K - H)[None, :], other=0.0)
    if ROPE:
        low, high = rotate(low, high, cos_at, sin_at, t, T, K, BH)
        low, high = opaque(low), opaque(high)
    return low, high


@triton.jit
def rotate(low, high, cos_at, sin_at, t, T, K: tl.constexpr, BH: tl.constexpr):
    """Both halves [R, BH] of q or k after rope."""
    cos, sin = angles(cos_at, sin_at, t, T, K, BH)
    x, y = low.to(tl.float32), high.to(tl.float32)
    return (x * cos - y * sin).to(low.dtype), (y * cos + x * sin).to(low.dtype)


@triton.jit
def store_turned_back(
    at, low, high, cos_at, sin_at, t, T,
    K: tl.constexpr, BH: tl.constexpr, WIDTH: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a head's q or k, given that of its halves after rope, float32."""
    if ROPE:
        cos, sin = angles(cos_at, sin_at, t, T, K, BH)
        low, high = low * cos + high * sin, high * cos - low * sin
    H: tl.constexpr = (K + 1) // 2
    h = tl.arange(0, BH)
    at += t[:, None] * WIDTH + h[None, :]
    tl.store(at, low.to(at.dtype.element_ty), (t < T)[:, None] & (h < H)[None, :])
    tl.store(at + H, high.to(at.dtype.element_ty), (t < T)[:, None] & (h < K - H)[None, :])
