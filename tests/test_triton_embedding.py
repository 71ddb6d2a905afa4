"""The embedding in Triton against its reference in float64: at most twice the error of plain
PyTorch at the same dtype, output and every gradient.

How bfloat16 runs in the interpreter: tests/conftest.py.
"""

from typing import Any

import pytest
import torch

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

from kernels.triton import embedding as embedding_file
from kernels.triton.embedding import backward_op, embedding, forward_op
from profiling.kernel_cases import draw_tokens, embedding_case, embedding_inputs, judge

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "B, T, D, vocab, learned",
    [
        (1, 1, 32, 131, False),
        (3, 7, 64, 131, True),
        (1, 49, 128, 135, True),
        (2, 122, 96, 131, False),
        (3, 144, 32, 131, True),
        (2, 145, 64, 300, True),
    ],
)
def test_embedding(
    B: int, T: int, D: int, vocab: int, learned: bool, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strided inputs, tables in float32; some upstream gradients are one number expanded."""
    monkeypatch.setattr(embedding_file, "PARTS", 2)  # several rounds on few boards
    case = embedding_case(B, T, D, vocab, learned, expanded=T >= 100, dtype=dtype)
    assert judge(case, torch.float32).passed


def test_gradient_is_deterministic_and_zero_where_no_token_is() -> None:
    tokens, de = draw_tokens(2, 145) % 40, torch.randn(2, 145, 64)
    first = backward_op(tokens, de, 131, 8.0)
    assert torch.equal(first, backward_op(tokens, de, 131, 8.0))
    assert not first[41:].any()
    assert first[:41].all()


def test_a_token_beyond_the_vocabulary_gives_nan() -> None:
    tokens = torch.tensor([[130, 131, 255]], dtype=torch.uint8)
    e = embedding(tokens, *embedding_inputs(4, 32, 131, True), 1.0, torch.float32)
    assert e.isnan().all(-1).tolist() == [[False, False, True, True]]


def test_empty_batch() -> None:
    embed, puzzle = (x.requires_grad_() for x in embedding_inputs(7, 32, 131, False))
    e = embedding(draw_tokens(0, 7), embed, puzzle, None, 1.0, torch.float32)
    e.sum().backward()
    assert e.shape == (0, 7, 32)
    assert embed.grad is not None and not embed.grad.any()


def test_opcheck() -> None:
    tokens, (embed, puzzle, position) = draw_tokens(2, 7), embedding_inputs(7, 32, 131, True)
    for where in (position, None):
        torch.library.opcheck(forward_op, (tokens, embed, puzzle, where, 2.0, torch.bfloat16))
    torch.library.opcheck(backward_op, (tokens, torch.randn(2, 7, 32), 131, 2.0))


def test_bad_input() -> None:
    tokens, (embed, puzzle, position) = draw_tokens(2, 7), embedding_inputs(7, 32, 131, True)
    for name, given in {
        "tokens": (tokens.int(), embed, puzzle, position),
        "puzzle": (tokens, embed, puzzle[1:], position),
        "position": (tokens, embed, puzzle, position[1:]),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .* expected"):
            embedding(*given, 1.0, torch.float32)
