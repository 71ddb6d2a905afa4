"""The kernels of larger models - attention, add + norm, gate - against their references in
float64: at most twice the error of plain PyTorch at the same dtype.

How bfloat16 runs in the interpreter: tests/conftest.py.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

import triton

from kernels.triton import add_rms as rms_ops
from kernels.triton import attention as attention_ops
from kernels.triton import swiglu as swiglu_ops
from profiling.kernel_cases import (
    add_rms_case,
    answers,
    attention_case,
    judge,
    rope_tables,
    strided,
    swiglu_case,
)

pytestmark = pytest.mark.triton

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ATTENTION_SHAPES = [  # B, T, heads, K, with rope, dtype
    (1, 1, 1, 32, True, torch.float32),
    (3, 7, 2, 16, True, torch.float32),
    (3, 7, 2, 16, True, torch.bfloat16),
    (3, 7, 2, 16, True, torch.float16),
    (1, 49, 2, 64, True, torch.float32),
    (3, 122, 1, 24, True, torch.float32),
    (1, 144, 2, 32, True, torch.bfloat16),
    (1, 145, 2, 17, False, torch.float32),
    (1, 65, 3, 1, False, torch.float32),
    (1, 122, 1, 128, True, torch.bfloat16),
]


@pytest.mark.parametrize("B, T, heads, K, turned, dtype", ATTENTION_SHAPES)
def test_attention(B: int, T: int, heads: int, K: int, turned: bool, dtype: Any) -> None:
    case = attention_case(B, T, heads, K, turned)
    assert judge(case._replace(draws=1) if T > 60 and K > 1 else case, dtype).passed


@pytest.mark.parametrize("tiles", [(256, 128), (128, 256)], ids=str)
def test_attention_of_a_900_cell_maze(
    tiles: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In large tiles: the interpreter is slow, and the right result does not depend on them."""
    for kernel in ("forward_kernel", "backward_q_kernel", "backward_kv_kernel"):
        large = triton.Config(dict(zip(("BT", "BS"), tiles, strict=True)))
        monkeypatch.setattr(getattr(attention_ops, kernel), "configs", [large])
    assert judge(attention_case(1, 900, 1, 64)._replace(draws=1), torch.float32).passed


def test_attention_of_large_scores() -> None:
    """Scores around -400 and 400 overflow without a maximum, beyond T too."""
    qkv = torch.randn(1, 70, 96)
    for sign in (1, -1):
        qkv[..., :64] = 5 * torch.ones(64)
        qkv[..., :32] *= 15 * sign
        qkv.requires_grad_()
        o = attention_ops.attention(qkv, 1)
        o.sum().backward()
        torch.testing.assert_close(o, qkv[..., 64:].mean(1, keepdim=True).expand_as(o))
        assert qkv.grad is not None and qkv.grad.isfinite().all()
        qkv = qkv.detach()


def test_lse() -> None:
    qkv = torch.randn(2, 70, 2 * 3 * 16)
    _, lse = attention_ops.forward_op(qkv, None, None, 2, True)
    q, k, _ = qkv.view(2, 70, 3, 2, 16).unbind(2)
    scores = torch.einsum("bthk,bshk->bhts", q, k) / 4
    torch.testing.assert_close(lse, scores.logsumexp(-1) / math.log(2))


@pytest.mark.parametrize("shape", [(1, 32), (3, 7, 64), (45, 128), (5, 3, 512), (9, 100)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_add_rms(shape: tuple[int, ...], dtype: Any) -> None:
    assert judge(add_rms_case(*shape), dtype).passed


@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 96), (45, 256), (5, 3, 1536), (9, 341)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu(shape: tuple[int, ...], dtype: Any) -> None:
    assert judge(swiglu_case(*shape), dtype).passed


def test_gates_far_from_zero() -> None:
    gate_up = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0] + 5 * [1.0]], requires_grad=True)
    a = swiglu_ops.swiglu(gate_up)
    a.sum().backward()
    torch.testing.assert_close(a, torch.tensor([[0.0, 0.0, 0.0, 90.0, 200.0]]))
    expected = torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 90.0, 200.0]])
    torch.testing.assert_close(gate_up.grad, expected)


def test_same_bits_twice() -> None:
    case = attention_case(1, 80, 2, 32)
    drawn = case.draw()
    first, second = (answers(case.mine, drawn, torch.float32) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_ops_on_strided_inputs() -> None:
    qkv, (cos, sin), heads = strided(1, 20, 96), rope_tables(20, 16), 2
    cos, sin = (t.transpose(0, 2).contiguous().transpose(0, 2) for t in (cos, sin))
    o, lse = attention_ops.forward_op(qkv, cos, sin, heads, True)
    y, scale = rms_ops.forward_op(strided(20, 48), strided(20, 48), True)
    saved = (qkv, cos, sin, o.mT.contiguous().mT, lse.mT.contiguous().mT)
    cases = [
        (attention_ops.forward_op, (qkv, cos, sin, heads, True)),
        (attention_ops.forward_op, (qkv, None, None, heads, False)),
        (attention_ops.backward_op, (*saved, strided(1, 20, 32))),
        (rms_ops.forward_op, (strided(20, 48), strided(20, 48), True)),
        (rms_ops.forward_op, (strided(20, 48), strided(20, 48), False)),
        (rms_ops.backward_op, (y.mT.contiguous().mT, scale, strided(20, 48))),
        (swiglu_ops.forward_op, (strided(20, 64),)),
        (swiglu_ops.backward_op, (strided(20, 64), strided(20, 32))),
    ]
    for op, given in cases:
        torch.library.opcheck(op, given)
        packed = (x.contiguous() if isinstance(x, Tensor) else x for x in given)
        torch.testing.assert_close(op(*given), op(*packed), rtol=0, atol=0)


def test_bad_input() -> None:
    attention, qkv = attention_ops.attention, torch.randn(2, 5, 96)
    cos, sin = rope_tables(5, 16)
    for message, call in [
        (r"qkv is \[2, 5, 96\]: expected .* of 5 heads", lambda: attention(qkv, 5)),
        (r"qkv is \[5, 96\]", lambda: attention(qkv[0], 2)),
        ("head size is 129: expected 1 to 128", lambda: attention(torch.randn(1, 2, 387), 1)),
        ("head size is 1: expected an even one", lambda: attention(qkv, 32, rope_tables(5, 2))),
        (r"cos is .*\[4, 1, 16\]: expected", lambda: attention(qkv, 2, (cos[:4], sin))),
        ("dtype is torch.float64", lambda: attention(qkv.double(), 2)),
        (r"f is .*\[2, 5, 95\]: expected", lambda: rms_ops.add_rms(qkv, qkv[..., :-1])),
        (r"gate_up is \[2, 5, 95\]: expected", lambda: swiglu_ops.swiglu(qkv[..., :-1])),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
