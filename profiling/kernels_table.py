"""Every kernel of `kernels.triton` as its launcher starts it, with what it computes and moves.

The launchers run on tensors without memory (device "meta"), whatever their size, and what they
would launch is written down instead. Small kernels stand at the published shape, those of larger
models at the original HRM's 30 x 30 mazes.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import KernelInterface

from kernels.triton import (
    adam_atan2,
    add_rms,
    attention,
    attention_block,
    embedding,
    epsilon_greedy,
    goal_loss,
    swiglu,
    swiglu_block,
    td_loss,
)

B, T, D, HEADS, F, A, VOCAB = 256, 144, 64, 2, 256, 4, 131
LARGE_B, LARGE_T, LARGE_D, LARGE_HEADS, LARGE_F = 32, 901, 512, 8, 1536
PARAMETERS = 8 * (4 * D * D + 3 * D * F) + VOCAB * D + A * D + D
TABLE = (VOCAB + 1) * D


class Launch(NamedTuple):
    """One launch: the jit function, its arguments by name, compiler options, programs."""

    fn: Any
    given: dict[str, Any]
    options: dict[str, Any]
    programs: int

    def bytes(self, passes: dict[str, float]) -> float:
        """Each tensor once, or `passes` times: a cache keeps what is read again."""
        tensors = {n: t for n, t in self.given.items() if isinstance(t, Tensor)}
        seen = {id(t): (t, passes.get(name, 1.0)) for name, t in tensors.items()}
        return sum(t.numel() * t.element_size() * often for t, often in seen.values())


class Kernel(NamedTuple):
    """flops are those of the products, a multiply-add being two and what backward recomputes
    included; of kernels without products, those of all arithmetic."""

    name: str
    flops: float
    products: bool = False
    passes: dict[str, float] = {}  # noqa: RUF012 - of an argument, where not one


class Op(NamedTuple):
    launch: Callable[[torch.dtype], object]
    kernels: tuple[Kernel, ...]


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attention_op(B: int, T: int, D: int, heads: int, what: str) -> tuple[Op, Op]:
    K, product = D // heads, 2.0 * B * T * T * D

    def given(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return meta(B, T, 3 * D, dtype=dtype), *(meta(T, 1, K, dtype=dtype) for _ in range(2))

    def backward(dtype: torch.dtype) -> object:
        o, sums = attention.forward_op(*given(dtype), heads, True)
        return attention.launch_backward(*given(dtype), o, sums, torch.empty_like(o))

    q = Kernel(f"attention backward_q{what}", 3 * product, True, {"dqkv_at": 1 / 3})
    kv = Kernel(f"attention backward_kv{what}", 4 * product, True, {"dqkv_at": 2 / 3})
    forward = Kernel(f"attention forward{what}", 2 * product, True)
    return (
        Op(lambda dtype: attention.launch_forward(*given(dtype), heads, True), (forward,)),
        Op(backward, (q, kv)),
    )


def small_blocks(T: int) -> list[Op]:
    rows = B * T

    def block(dtype: torch.dtype, save: bool) -> object:
        x, w_o = meta(B, T, D, dtype=dtype), meta(D, D, dtype=dtype)
        w_qkv, cos = meta(3 * D, D, dtype=dtype), meta(T, 1, D // HEADS, dtype=dtype)
        injection, sin = torch.empty_like(x), torch.empty_like(cos)
        return attention_block.launch_forward(x, injection, w_qkv, w_o, HEADS, cos, sin, save)

    def gated(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return meta(B, T, D, dtype=dtype), *(meta(*s, dtype=dtype) for s in ((2 * F, D), (D, F)))

    def gated_backward(dtype: torch.dtype) -> object:
        y, scale = swiglu_block.forward_op(*gated(dtype), True)
        return swiglu_block.launch_backward(*gated(dtype), y, scale, torch.empty_like(y))

    flops = rows * (8.0 * D * D + 4 * T * D)
    return [
        Op(lambda t: block(t, False), (Kernel("attention_block forward", flops, True),)),
        Op(lambda t: block(t, True), (Kernel("attention_block forward, saving", flops, True),)),
        *attention_op(B, T, D, HEADS, ""),
        Op(
            lambda t: swiglu_block.launch_forward(*gated(t), True),
            (Kernel("swiglu_block forward", 6.0 * rows * D * F, True),),
        ),
        Op(gated_backward, (Kernel("swiglu_block backward", 10.0 * rows * D * F, True),)),
        add_rms_ops(rows, D, "")[1],
    ]


def add_rms_ops(rows: int, D: int, what: str) -> tuple[Op, Op]:
    def x(dtype: torch.dtype) -> Tensor:
        return meta(rows, D, dtype=dtype)

    def backward(dtype: torch.dtype) -> object:
        return add_rms.launch_backward(*add_rms.forward_op(x(dtype), x(dtype), True), x(dtype))

    return (
        Op(
            lambda t: add_rms.launch_forward(x(t), x(t), True),
            (Kernel(f"add_rms forward{what}", 4.0 * rows * D),),
        ),
        Op(backward, (Kernel(f"add_rms backward{what}", 5.0 * rows * D),)),
    )


def large_blocks() -> list[Op]:
    rows, what = LARGE_B * LARGE_T, ", large"

    def gate(dtype: torch.dtype) -> Tensor:
        return meta(rows, 2 * LARGE_F, dtype=dtype)

    return [
        *attention_op(LARGE_B, LARGE_T, LARGE_D, LARGE_HEADS, what),
        *add_rms_ops(rows, LARGE_D, what),
        Op(
            lambda t: swiglu.launch_forward(gate(t)),
            (Kernel(f"swiglu forward{what}", 5.0 * rows * LARGE_F),),
        ),
        Op(
            lambda t: swiglu.launch_backward(gate(t), meta(rows, LARGE_F, dtype=t)),
            (Kernel(f"swiglu backward{what}", 10.0 * rows * LARGE_F),),
        ),
    ]


def around() -> list[Op]:
    """What an update does beside its blocks; all but the embedding in float32 alone."""
    tokens = meta(B, T - 1, dtype=torch.uint8)
    step, a_tm1 = meta(1, dtype=torch.int64), meta(B, dtype=torch.int64)
    body = meta(PARAMETERS - D)
    weights = [meta(PARAMETERS), meta(PARAMETERS), body, torch.empty_like(body), meta(PARAMETERS)]
    numbers = (1000, 200_000, 0.1, 1e-4, 0.9, 0.95, 0.1, 1e-3, 0.1, 0.999)
    written = dict.fromkeys(("w_at", "g_at", "m_at", "v_at", "average_at"), 2.0)

    def looked_up(dtype: torch.dtype) -> object:
        return embedding.launch_forward(tokens, meta(VOCAB, D), meta(D), None, D**0.5, dtype)

    def summed(dtype: torch.dtype) -> object:
        return embedding.launch_backward(tokens, meta(B, T, D, dtype=dtype), VOCAB, D**0.5)

    return [
        Op(looked_up, (Kernel("embedding forward", float(B * T * D)),)),
        Op(summed, (Kernel("embedding backward", 2.0 * B * T * TABLE, True),)),
        Op(
            lambda _: td_loss.launch(meta(B, A), a_tm1, meta(B)),
            (Kernel("td_loss", 6.0 * B),),
        ),
        Op(
            lambda dtype: goal_loss.launch(
                meta(B, T, D, dtype=dtype), meta(A, D), a_tm1, meta(B, T - 1), meta(B, T - 1)
            ),
            (Kernel("goal_loss", 8.0 * B * T * D),),
        ),
        Op(
            lambda _: adam_atan2.launch(*weights, step, *numbers),
            (
                Kernel("adam_atan2 rates", 20.0, passes={"step": 2}),
                Kernel("adam_atan2 update", 40.0 * PARAMETERS, passes=written),
            ),
        ),
        Op(
            lambda _: epsilon_greedy.launch(meta(B, A), meta(1), meta(B)),
            (Kernel("epsilon_greedy", 2.0 * B * A),),
        ),
    ]


def ops(T: int = T) -> list[Op]:
    """All of them; T tokens for the small blocks."""
    return [*small_blocks(T), *around(), *large_blocks()]


def first(configs: list[triton.Config]) -> triton.Config:
    """The default."""
    return configs[0]


def smallest(configs: list[triton.Config]) -> triton.Config:
    return min(configs, key=lambda config: math.prod(config.kwargs.values()))


def launches(
    op: Op, dtype: torch.dtype, choose: Callable[[list[triton.Config]], triton.Config] = first
) -> list[Launch]:
    """What the op launches, each kernel in the configuration that is chosen."""
    found: list[Launch] = []

    def note(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **more: Any) -> None:
            fn, config = kernel, {}
            if isinstance(kernel, Autotuner):
                fn, config = kernel.fn, choose(kernel.configs).all_kwargs()
            more |= config
            options = {k: more.pop(k) for k in list(more) if k not in fn.arg_names}
            given = dict(inspect.signature(fn.fn).bind(*args, **more).arguments)
            sizes = grid(given) if callable(grid) else grid
            programs = torch.Size(sizes).numel()
            found.append(Launch(fn, given, options, programs))

        return launch

    with patch.object(KernelInterface, "__getitem__", note):
        op.launch(dtype)
    return found
