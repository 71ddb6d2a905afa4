"""Post-norm self-attention block: y = rms(x + O attention(rope(Q x), rope(K x), V x)).

    x      [B, T, D]   tokens, D = heads * K; z + injection where a level begins
    w_qkv  [3 D, D]    rows: q of all heads, k of all heads, v of all heads
    w_o    [D, D]
    rope   (cos, sin)  [T, 1, K] each, or None; see `rotate`
    y      [B, T, D]

Every token attends to every token (no causal mask), scores are scaled by 1 / sqrt(K), and
nothing has a bias.
"""

import torch
import torch.nn.functional as F

from kernels.rms_norm import rms_norm

Rope = tuple[torch.Tensor, torch.Tensor]  # cos, sin  [T, 1, K]


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Turn the pairs (x[i], x[i + K/2]) of x [B, T, heads, K] by each token's angles.

    The sign of the rotation is folded into the first half of `sin`, so one roll replaces the
    usual split, negation and concatenation. Source: Su et al. 2021, arXiv 2104.09864.
    """
    cos, sin = rope
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(K)) v of k, v [B, T, heads, K] and q [B, R, heads, K], shaped as q.

    On a CPU two batched products are the faster way while the scores of a head are small (a
    training update with T = 50, K = 16 took 39 ms against 48 with the fused call; at T = 144
    they lose), and exact enough in float32.
    """
    if q.device.type == "cpu" and k.shape[1] <= 64 and q.dtype != torch.bfloat16:
        scores = torch.einsum("bthk,bshk->bhts", q * q.shape[-1] ** -0.5, k)
        return torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v)
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def attention_block_reference(
    z: torch.Tensor,
    w_qkv: torch.Tensor,
    w_o: torch.Tensor,
    heads: int,
    rope: Rope | None = None,
    rows: torch.Tensor | None = None,
    injection: torch.Tensor | None = None,
) -> torch.Tensor:
    """The block in plain PyTorch; shapes in the file's head. All tensors share one dtype.

    rows int64 [B, R]: the tokens whose y is wanted, y [B, R, D]; None wants all of them.
    """
    x = z if injection is None else z + injection
    B, T, D = x.shape
    if rows is None:
        qkv = F.linear(x, w_qkv).view(B, T, 3 * heads, D // heads)
        qk, v = qkv.split((2 * heads, heads), dim=2)
        if rope is not None:
            qk = rotate(qk, rope)
        q, k = qk.chunk(2, dim=2)
        return rms_norm(x + F.linear(attend(q, k, v).reshape(B, T, D), w_o))
    k, v = F.linear(x, w_qkv[D:]).view(B, T, 2 * heads, D // heads).chunk(2, dim=2)
    x = x.gather(1, rows.unsqueeze(2).expand(-1, -1, D))
    q = F.linear(x, w_qkv[:D]).view(*rows.shape, heads, D // heads)
    if rope is not None:
        cos, sin = rope
        q, k = rotate(q, (cos[rows], sin[rows])), rotate(k, rope)
    return rms_norm(x + F.linear(attend(q, k, v).reshape(x.shape), w_o))
