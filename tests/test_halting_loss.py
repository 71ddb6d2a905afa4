"""The halting loss against the formula in plain floats."""

import math

import pytest
import torch

from hrm_fast import halting_loss


def test_halting_loss() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    later = torch.tensor([[0.1, 0.9], [0.2, 1.5]], requires_grad=True)
    loss = halting_loss(logits, torch.tensor([True, False]), later, torch.tensor([False, True]))

    def bce(logit: float, target: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    worth = [1 / (1 + math.exp(-best)) for best in (0.9, 0.2)]
    expected = bce(0.3, 1) + bce(2.0, 0) + bce(-1.0, worth[0]) + bce(0.5, worth[1])
    assert loss.item() == pytest.approx(expected / 4, rel=1e-6)
    loss.backward()
    assert logits.grad is not None and logits.grad.all() and later.grad is None
