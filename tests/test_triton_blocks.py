"""Both blocks in Triton, for small and for larger models, against their references in float64: at
most twice the error of plain PyTorch at the same dtype, output and every gradient.

How bfloat16 runs in the interpreter: tests/conftest.py.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

from kernels.attention_block import attention_block_reference
from kernels.triton import attention_block as small_attention
from kernels.triton import swiglu_block as small_swiglu
from profiling.kernel_cases import (
    ATTENTION_BLOCK,
    SWIGLU_BLOCK,
    answers,
    attention_block_case,
    attention_block_inputs,
    judge,
    rope_tables,
    strided,
    swiglu_block_case,
)

pytestmark = pytest.mark.triton

HALF = torch.bfloat16


@pytest.mark.parametrize(
    "size, B, T, D, heads, turned, dtype",
    [
        ("small", 1, 1, 32, 2, True, torch.float32),
        ("small", 3, 7, 32, 2, True, torch.float32),
        ("small", 3, 7, 64, 2, True, HALF),
        ("small", 3, 7, 32, 1, True, torch.float16),
        ("small", 1, 49, 64, 2, True, torch.float32),
        ("small", 1, 122, 128, 2, True, torch.float32),
        ("small", 1, 144, 64, 2, True, HALF),
        ("small", 1, 145, 32, 1, False, torch.float32),
        ("small", 1, 20, 15, 5, False, torch.float32),
        ("large", 3, 7, 64, 2, True, torch.float32),
        ("large", 1, 122, 128, 1, True, torch.float32),
        ("large", 1, 20, 512, 8, True, HALF),
    ],
)
def test_attention_block(
    size: str, B: int, T: int, D: int, heads: int, turned: bool, dtype: Any
) -> None:
    """Strided inputs, z and injection apart."""
    case = attention_block_case(size, B, T, D, heads, turned, expanded=T >= 10)
    assert judge(case._replace(draws=1) if T > 40 else case, dtype).passed


@pytest.mark.parametrize(
    "size, B, T, D, F, dtype",
    [
        ("small", 1, 1, 32, 64, torch.float32),
        ("small", 3, 7, 32, 6, torch.float32),
        ("small", 3, 7, 64, 256, HALF),
        ("small", 1, 49, 64, 256, torch.float32),
        ("small", 2, 122, 20, 100, torch.float16),
        ("small", 1, 145, 128, 96, torch.float32),
        ("large", 3, 49, 32, 64, torch.float32),
        ("large", 1, 20, 512, 192, HALF),
    ],
)
def test_swiglu_block(size: str, B: int, T: int, D: int, F: int, dtype: Any) -> None:
    assert judge(swiglu_block_case(size, B, T, D, F, expanded=T >= 10), dtype).passed


@pytest.mark.parametrize("size", ATTENTION_BLOCK)
def test_wanted_rows(size: str) -> None:
    rows = torch.tensor([[4, 8], [0, 4]])
    assert judge(attention_block_case(size, 2, 9, 32, 2, rows=rows), torch.float32).passed


@pytest.mark.parametrize("size", ATTENTION_BLOCK)
def test_without_injection_and_without_gradient(size: str) -> None:
    z, _, w_qkv, w_o = attention_block_inputs(2, 9, 32)
    rope = rope_tables(9, 16)
    expected = attention_block_reference(z, w_qkv, w_o, 2, rope)
    torch.testing.assert_close(ATTENTION_BLOCK[size](z, w_qkv, w_o, 2, rope), expected)
    with torch.no_grad():
        torch.testing.assert_close(ATTENTION_BLOCK[size](z, w_qkv, w_o, 2, rope), expected)


def test_pieces_hold_all_tokens_and_little_else() -> None:
    for T in range(1, 257):
        pieces = small_attention.pieces(T)
        assert [first for first, _ in pieces] == [64 * i for i in range(len(pieces))]
        last, size = pieces[-1]
        assert last < T <= last + size and size < 2 * max(T - last, 16)
    assert small_attention.pieces(144) == ((0, 64), (64, 64), (128, 16))


@pytest.mark.parametrize("size", ATTENTION_BLOCK)
def test_same_bits_twice(size: str) -> None:
    case = attention_block_case(size, 3, 17, 32, 2)
    drawn = case.draw()
    first, second = (answers(case.mine, drawn, torch.float32) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_ops_on_strided_inputs() -> None:
    z, injection, w_qkv, w_o = attention_block_inputs(2, 9, 32)
    (cos, sin), dy = rope_tables(9, 16), torch.rand(()).expand(2, 9, 32)
    gate_up, down = strided(40, 32), strided(32, 20)
    y, scale = small_swiglu.forward_op(z, gate_up, down, True)
    for op, given in [
        (small_attention.forward_op, (z, injection, w_qkv, w_o, 2, cos, sin, True)),
        (small_attention.forward_op, (z, None, w_qkv, w_o, 2, None, None, False)),
        (small_swiglu.forward_op, (z, gate_up, down, False)),
        (small_swiglu.backward_op, (z, gate_up, down, y, scale, dy)),
    ]:
        torch.library.opcheck(op, given)
        packed = (x.contiguous() if isinstance(x, Tensor) else x for x in given)
        torch.testing.assert_close(op(*given), op(*packed), rtol=0, atol=0)


@pytest.mark.parametrize("size", ATTENTION_BLOCK)
def test_compiles_whole(size: str) -> None:
    rope, rows = rope_tables(9, 16), torch.tensor([[4], [8]])
    shapes = ((2, 9, 32), (2, 9, 32), (96, 32), (32, 32), (80, 32), (32, 40))
    given = [torch.randn(s, requires_grad=True) for s in shapes]

    def f(z: Tensor, added: Tensor, qkv: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        y = ATTENTION_BLOCK[size](z, qkv, o, 2, rope, rows, added)
        return SWIGLU_BLOCK[size](y, gate_up, down)

    y, compiled = f(*given), torch.compile(f, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(compiled, y)
    expected = torch.autograd.grad(y.square().sum(), given)
    torch.testing.assert_close(torch.autograd.grad(compiled.square().sum(), given), expected)


@pytest.mark.parametrize("size", ATTENTION_BLOCK)
def test_empty_batch(size: str) -> None:
    x = torch.randn(0, 9, 32, requires_grad=True)
    y = ATTENTION_BLOCK[size](x, torch.randn(96, 32), torch.randn(32, 32), 2)
    SWIGLU_BLOCK[size](y, torch.randn(80, 32), torch.randn(32, 40)).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


def test_bad_input() -> None:
    z, injection, w_qkv, w_o = attention_block_inputs(2, 9, 32)
    cos, sin = rope_tables(9, 16)
    attention, swiglu = ATTENTION_BLOCK["small"], SWIGLU_BLOCK["small"]
    gate_up, down = torch.randn(40, 32), torch.randn(32, 20)
    for message, call in [
        ("w_qkv is torch.float32 [95, 32]: expected", lambda: attention(z, w_qkv[1:], w_o, 2)),
        ("w_o is torch.float64 [32, 32]: expected", lambda: attention(z, w_qkv, w_o.double(), 2)),
        ("cos is torch.float32 [8, 1, 16]", lambda: attention(z, w_qkv, w_o, 2, (cos[1:], sin))),
        (
            "injection is torch.float32 [1, 9, 32]",
            lambda: attention(z, w_qkv, w_o, 2, injection=injection[:1]),
        ),
        ("expected T to 256, D to 128", lambda: attention(torch.randn(1, 257, 32), w_qkv, w_o, 2)),
        ("heads 5: expected", lambda: attention(z, w_qkv, w_o, 5)),
        ("w_gate_up is torch.float32 [39, 32]", lambda: swiglu(z, gate_up[1:], down)),
        ("D is 129: expected 1 to 128", lambda: swiglu(torch.randn(2, 129), gate_up, down)),
        ("dtype is torch.float64: expected float32", lambda: swiglu(z.double(), gate_up, down)),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
