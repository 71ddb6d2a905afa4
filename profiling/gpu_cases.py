"""Every Triton op beside its reference, with inputs for it: what `profiling.gpu_correct` judges."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.adam_atan2 import adam_atan2_reference
from kernels.attention_block import attend, attention_block_reference, rotate
from kernels.embedding import embedding_reference
from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.goal_loss import goal_loss_reference
from kernels.rms_norm import rms_norm
from kernels.swiglu_block import swiglu_block_reference
from kernels.td_loss import td_loss_reference
from kernels.triton import attention_block as small_attention
from kernels.triton import large, swiglu_block
from kernels.triton.adam_atan2 import update
from kernels.triton.add_rms import add_rms
from kernels.triton.attention import attention
from kernels.triton.embedding import embedding
from kernels.triton.epsilon_greedy import epsilon_greedy
from kernels.triton.goal_loss import goal_loss
from kernels.triton.swiglu import swiglu
from kernels.triton.td_loss import td_loss


class Check(NamedTuple):
    """Functions of floating-point tensors, and a draw of these with dy behind them."""

    name: str
    mine: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    draw: Callable[[], list[Tensor]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


def angles(T: int, K: int) -> tuple[Tensor, Tensor]:
    angle = 9 * torch.rand(T, 1, K // 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), 2), torch.cat((-sin, sin), 2)


def weight(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) * columns**-0.5


def block_checks(B: int, T: int, D: int, heads: int, F: int) -> list[Check]:
    """Both blocks, by the kernels that the model takes at this shape."""
    fits = D <= 128 and T <= 256
    cos, sin = angles(T, D // heads)
    mine = small_attention.attention_block if fits else large.attention_block
    gated = swiglu_block.swiglu_block if fits else large.swiglu_block

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def block(z: Tensor, injection: Tensor, w_qkv: Tensor, w_o: Tensor) -> Tensor:
            rope = cos.to(z.dtype), sin.to(z.dtype)
            return f(z, w_qkv, w_o, heads, rope, injection=injection)

        return block

    def x() -> Tensor:
        return torch.randn(B, T, D)

    what = "" if fits else ", large"
    return [
        Check(
            f"attention_block{what}",
            at(mine),
            at(attention_block_reference),
            lambda: [x(), x(), weight(3 * D, D), weight(D, D), x()],
        ),
        Check(
            f"swiglu_block{what}",
            gated,
            swiglu_block_reference,
            lambda: [x(), weight(2 * F, D), weight(D, F), x()],
        ),
    ]


def part_checks(B: int, T: int, D: int, heads: int) -> list[Check]:
    cos, sin = angles(T, D // heads)

    def mine(qkv: Tensor) -> Tensor:
        return attention(qkv, heads, (cos.to(qkv.dtype), sin.to(qkv.dtype)))

    def plain(qkv: Tensor) -> Tensor:
        qk, v = qkv.view(B, T, 3 * heads, -1).split((2 * heads, heads), dim=2)
        q, k = rotate(qk, (cos.to(qkv.dtype), sin.to(qkv.dtype))).chunk(2, dim=2)
        return attend(q, k, v).reshape(B, T, D)

    def gate(gate_up: Tensor) -> Tensor:
        g, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(g) * up

    def x(width: int = D) -> Tensor:
        return torch.randn(B, T, width)

    return [
        Check("attention", mine, plain, lambda: [x(3 * D), x()]),
        Check("add_rms", add_rms, lambda x, f: rms_norm(x + f), lambda: [x(), x(), x()]),
        Check("swiglu", swiglu, gate, lambda: [x(2 * D), x()]),
    ]


def update_checks(B: int, T: int, D: int) -> list[Check]:
    tokens = torch.randint(131, (B, T - 1)).to(torch.uint8)
    a_tm1, goals, P = torch.randint(4, (B,)), torch.rand(B, T - 1), 10_007

    def looked_up(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda embed, puzzle: f(tokens, embed, puzzle, None, D**0.5, embed.dtype)

    def mine(w: Tensor, g: Tensor) -> Tensor:
        w, g, m, v = w.detach().clone(), g.detach().clone(), *torch.zeros(2, P).unbind()
        average, step = w.clone(), torch.zeros(1, dtype=torch.int64)
        update(
            w, g, m, v, average, step, warmup=0, updates=10**9, final=1.0, lr=1e-3, beta1=0.9,
            beta2=0.95, weight_decay=0.1, tail_lr=0.0, tail_weight_decay=0.0, average_decay=0.9,
        )  # fmt: skip
        return torch.cat((w, m, v, average))

    def plain(w: Tensor, g: Tensor) -> Tensor:
        w, m, v = w.detach().clone(), torch.zeros_like(w), torch.zeros_like(w)
        average = w.clone()
        adam_atan2_reference(w, g.detach(), m, v, 1, 1e-3, 0.9, 0.95, 0.1, average, 0.9)
        return torch.cat((w, m, v, average))

    def chosen(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, uniform: f(q.detach().float(), 0.3, uniform.detach().float()).to(q)

    float32 = (torch.float32,)
    return [
        Check(
            "embedding",
            looked_up(embedding),
            looked_up(embedding_reference),
            lambda: [torch.randn(131, D), torch.randn(D), torch.randn(B, T, D)],
        ),
        Check(
            "td_loss",
            lambda q, y: td_loss(q, a_tm1, y.detach()),
            lambda q, y: td_loss_reference(q, a_tm1, y),
            lambda: [torch.randn(B, 4), torch.randn(B), torch.randn(())],
            float32,
        ),
        Check(
            "goal_loss",
            lambda z, head: goal_loss(z, head, a_tm1, goals, goals),
            lambda z, head: goal_loss_reference(z, head, a_tm1, goals.to(z), goals.to(z)),
            lambda: [torch.randn(B, T, D), torch.randn(4, D), torch.randn(())],
            float32,
        ),
        Check("adam_atan2", mine, plain, lambda: [*torch.randn(3, P).unbind()], float32),
        Check(
            "epsilon_greedy",
            chosen(epsilon_greedy),
            chosen(epsilon_greedy_reference),
            lambda: [torch.randn(99, 4), torch.rand(99), torch.randn(99)],
            float32,
        ),
    ]


def all_checks(small: bool) -> list[Check]:
    """small: for the interpreter and the sanitizer; sizes that no tile fits either way."""
    if small:
        found = [*block_checks(2, 17, 32, 2, 48), *block_checks(1, 19, 160, 2, 48)]
        return [*found, *part_checks(1, 19, 64, 2), *update_checks(3, 17, 32)]
    return [
        *(c for B, T in ((32, 144), (3, 122), (1, 7)) for c in block_checks(B, T, 64, 2, 256)),
        *block_checks(3, 145, 128, 4, 200),
        *block_checks(2, 901, 512, 8, 1536),
        *part_checks(2, 901, 512, 8),
        *update_checks(64, 144, 64),
    ]
