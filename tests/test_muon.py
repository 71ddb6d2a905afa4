"""Muon, against PyTorch's, against its formula, and against itself on more threads."""

import pytest
import torch

from kernels.muon import muon, orthogonal

SHAPES = [(1, 144, 48), (3, 48, 48), (2, 192, 48), (2, 48, 96), (4, 5, 3), (1, 1, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonal(x))
    # of a Gaussian matrix none is so small that five steps leave it behind, but for square ones
    assert values.max() < 1.3 and values[:, : min(shape[1:]) // 2 + 1].min() > 0.6
    torch.testing.assert_close(orthogonal(1e3 * x), orthogonal(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_as_pytorch_does_it(shape: tuple[int, int, int]) -> None:
    """Three updates of n matrices, theirs in bfloat16: each moves as far, in one direction."""
    torch.manual_seed(0)
    w, m = torch.randn(shape), torch.zeros(shape)
    theirs = [torch.nn.Parameter(x.clone()) for x in w]
    other = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True, ns_steps=5
    )
    for _ in range(3):
        before, g = w.clone(), torch.randn(shape)
        for p, gradient in zip(theirs, g, strict=True):
            p.grad = gradient.clone()
        start = torch.stack([p.detach().clone() for p in theirs])
        other.step()
        muon(w, g, m, 0.02, 0.95, 0.1)
        mine, right = w - before, torch.stack([p.detach() for p in theirs]) - start
        cosine = torch.nn.functional.cosine_similarity(mine.flatten(1), right.flatten(1))
        assert cosine.min() > 0.99
        torch.testing.assert_close(mine.norm(dim=(1, 2)), right.norm(dim=(1, 2)), rtol=0.05, atol=0)


def test_formula_and_a_rate_on_the_device() -> None:
    torch.manual_seed(1)
    w, g, m = torch.randn(3, 2, 12, 5).unbind()
    expected_m = 0.8 * m + 0.2 * g
    expected = w * (1 - 0.03 * 0.5) - 0.03 * (12 / 5) ** 0.5 * orthogonal(
        0.2 * g + 0.8 * expected_m
    )
    results = []
    for lr in (0.03, torch.tensor([0.03])):
        mine, momentum = w.clone(), m.clone()
        muon(mine, g, momentum, lr, momentum=0.8, weight_decay=0.5)
        torch.testing.assert_close(mine, expected)
        torch.testing.assert_close(momentum, expected_m)
        results.append(mine)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_by_singular_values(shape: tuple[int, int, int]) -> None:
    """Every step maps a singular value s to a s + b s^3 + c s^5 and leaves its vectors."""
    torch.manual_seed(2)
    x = torch.randn(shape)
    U, s, V = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    right = ((U * s[:, None]) @ V).float()
    torch.testing.assert_close(orthogonal(x), right, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [*SHAPES, (2, 480, 160), (1, 512, 256), (8, 64, 256)])
def test_same_bits_on_any_number_of_threads(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(3)
    x = torch.randn(shape)
    found = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        found.append(orthogonal(x))
    assert all(torch.equal(found[0], other) for other in found[1:])
