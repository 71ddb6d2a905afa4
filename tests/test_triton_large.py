"""The kernels of larger models - attention, add + norm, gate - against their references in
float64: at most twice the error of plain PyTorch at the same dtype.

Errors are norms, root mean square over some draws; a floor of one unit in the last place of what is
added up allows for what PyTorch gets exactly right. How bfloat16 runs in the interpreter:
tests/conftest.py.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

import torch.nn.functional as F
import triton

from kernels.attention_block import Rope, attend, rotate
from kernels.rms_norm import rms_norm
from kernels.triton import add_rms as rms_ops
from kernels.triton import attention as attention_ops
from kernels.triton import swiglu as swiglu_ops
from tests.triton_checks import assert_as_good, attention_terms, results, strided, tables

pytestmark = pytest.mark.triton

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def plain_attention(qkv: Tensor, heads: int, rope: Rope | None) -> Tensor:
    B, T, width = qkv.shape
    qk, v = qkv.view(B, T, 3 * heads, -1).split((2 * heads, heads), dim=2)
    if rope is not None:
        qk = rotate(qk, (rope[0].to(qkv.dtype), rope[1].to(qkv.dtype)))
    return attend(*qk.chunk(2, dim=2), v).reshape(B, T, width // 3)


def attention_at(rope: Rope | None, heads: int) -> Callable[[Tensor], Tensor]:
    def f(qkv: Tensor) -> Tensor:
        at = rope and (rope[0].to(qkv.dtype), rope[1].to(qkv.dtype))
        return attention_ops.attention(qkv, heads, at)

    return f


def o_dq_dk_dv(found: list[Tensor]) -> list[Tensor]:
    return [found[0], *found[1].chunk(3, dim=2)]


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


def check_attention(B: int, T: int, heads: int, K: int, turned: bool, dtype: Any) -> None:
    rope = tables(T, K) if turned else None
    if rope is not None:  # the same numbers for every precision
        rope = (rope[0].to(dtype), rope[1].to(dtype))
    assert_as_good(
        attention_at(rope, heads),
        lambda qkv: plain_attention(qkv, heads, rope),
        lambda: [torch.randn(B, T, 3 * heads * K), torch.randn(B, T, heads * K)],
        dtype,
        draws=40 if heads * K < 10 else 1 if T > 60 else 3,  # few numbers: few errors to average
        parts=o_dq_dk_dv,
        terms=partial(attention_terms, heads=heads) if T == 1 else None,
    )


@pytest.mark.parametrize("shape", ATTENTION_SHAPES, ids=str)
def test_attention(shape: tuple[int, int, int, int, bool, Any]) -> None:
    check_attention(*shape)


@pytest.mark.parametrize("tiles", [(256, 128), (128, 256)], ids=str)
def test_attention_of_a_900_cell_maze(
    tiles: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In large tiles: the interpreter is slow, and the right result does not depend on them."""
    for kernel in ("forward_kernel", "backward_q_kernel", "backward_kv_kernel"):
        large = triton.Config(dict(zip(("BT", "BS"), tiles, strict=True)))
        monkeypatch.setattr(getattr(attention_ops, kernel), "configs", [large])
    check_attention(1, 900, 1, 64, True, torch.float32)


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
    assert_as_good(
        rms_ops.add_rms,
        lambda x, f: rms_norm(x + f),
        lambda: [torch.randn(shape) for _ in range(3)],
        dtype,
        draws=10 if shape[0] == 1 else 3,
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 96), (45, 256), (5, 3, 1536), (9, 341)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu(shape: tuple[int, ...], dtype: Any) -> None:
    def plain(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    assert_as_good(
        swiglu_ops.swiglu,
        plain,
        lambda: [2 * torch.randn(*shape[:-1], 2 * shape[-1]), torch.randn(shape)],
        dtype,
        draws=40 if shape == (1, 1) else 3,
    )


def test_gates_far_from_zero() -> None:
    gate_up = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0] + 5 * [1.0]], requires_grad=True)
    a = swiglu_ops.swiglu(gate_up)
    a.sum().backward()
    torch.testing.assert_close(a, torch.tensor([[0.0, 0.0, 0.0, 90.0, 200.0]]))
    expected = torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 90.0, 200.0]])
    torch.testing.assert_close(gate_up.grad, expected)


def test_same_bits_twice() -> None:
    qkv, do, rope = torch.randn(1, 80, 192), torch.randn(1, 80, 64), tables(80, 32)
    first, second = (results(attention_at(rope, 2), do, [qkv], torch.float32) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_ops_on_strided_inputs() -> None:
    qkv, (cos, sin), heads = strided(1, 20, 96), tables(20, 16), 2
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
    cos, sin = tables(5, 16)
    for message, call in [
        (r"qkv is \[2, 5, 96\]: expected .* of 5 heads", lambda: attention(qkv, 5)),
        (r"qkv is \[5, 96\]", lambda: attention(qkv[0], 2)),
        ("head size is 129: expected 1 to 128", lambda: attention(torch.randn(1, 2, 387), 1)),
        ("head size is 1: expected an even one", lambda: attention(qkv, 32, tables(5, 2))),
        (r"cos is .*\[4, 1, 16\]: expected", lambda: attention(qkv, 2, (cos[:4], sin))),
        ("dtype is torch.float64", lambda: attention(qkv.double(), 2)),
        (r"f is .*\[2, 5, 95\]: expected", lambda: rms_ops.add_rms(qkv, qkv[..., :-1])),
        (r"gate_up is \[2, 5, 95\]: expected", lambda: swiglu_ops.swiglu(qkv[..., :-1])),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
