"""AdamATan2, sign-SGD and the moving average on the flat vector, against their formulas by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from hrm_fast import HRM, HRMConfig
from kernels.adam_atan2 import adam_atan2
from train.config import PRESETS, Config, DQNConfig
from train.optimiser import Optimiser

TINY = HRMConfig(cells=6, columns=3, width=8, inner=8, h_layers=1, l_layers=1)


def test_adam_atan2_by_hand() -> None:
    w0, gradients = 0.3, (0.5, -0.2, 0.9)
    w, m, v = (torch.tensor([x], dtype=torch.float64) for x in (w0, 0.0, 0.0))
    for t, g in enumerate(gradients, 1):
        grad = torch.tensor([g], dtype=torch.float64)
        adam_atan2(w, grad, m, v, t=t, lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.5)
    hand, mean, square = w0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        hand *= 1 - 0.1 * 0.5
        mean = 0.8 * mean + 0.2 * g
        square = 0.9 * square + 0.1 * g * g
        root = math.sqrt(square) / math.sqrt(1 - 0.9**t)
        hand -= 0.1 / (1 - 0.8**t) * math.atan2(mean, root)
    assert w.item() == pytest.approx(hand, rel=1e-12)


def test_adam_atan2_survives_zero_gradients() -> None:
    w, m, v = torch.ones(3), torch.zeros(3), torch.zeros(3)
    adam_atan2(w, torch.zeros(3), m, v, t=1, lr=0.1)
    assert torch.equal(w, torch.ones(3))


def build(**dqn: float) -> tuple[HRM, HRM, Optimiser]:
    torch.manual_seed(0)
    hrm = HRM(TINY)
    target = copy.deepcopy(hrm)
    return (
        hrm,
        target,
        Optimiser(hrm, target, replace(Config("quick", updates=100), dqn=DQNConfig(**dqn))),
    )


def test_parameters_are_views_of_the_flat_vector() -> None:
    hrm, target, optimiser = build()
    before = hrm.embed.detach().clone()
    optimiser.flat += 1
    assert torch.equal(hrm.embed, before + 1)
    assert torch.equal(target.embed, before)
    hrm.embed.sum().backward()
    assert optimiser.grad.sum() == before.numel()
    assert hrm.state_dict()["embed"].data_ptr() == hrm.embed.data_ptr()


def test_one_step_of_every_part() -> None:
    hrm, target, optimiser = build(
        learning_rate=0.1, warmup_updates=0, puzzle_learning_rate=0.2, puzzle_weight_decay=0.1,
        target_decay=0.75,
    )  # fmt: skip
    old = {name: p.detach().clone() for name, p in hrm.named_parameters()}
    torch.manual_seed(1)
    for p in hrm.parameters():
        p.grad.copy_(torch.randn_like(p))
    grads = {name: p.grad.clone() for name, p in hrm.named_parameters()}
    optimiser.step()
    for name, p in hrm.named_parameters():
        if name == "puzzle":
            expected = old[name] * (1 - 0.2 * 0.1) - 0.2 * grads[name].sign()
        else:  # Adam's first step is the gradient's sign: m = 0.1 g, sqrt(v) corrected = |g|
            expected = old[name] - 0.1 / 0.1 * math.atan(0.1) * grads[name].sign()
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)
        averaged = 0.75 * old[name] + 0.25 * p.detach()
        torch.testing.assert_close(target.get_parameter(name).detach(), averaged)
    assert not optimiser.grad.any()


def test_learning_rate_rises_then_falls() -> None:
    _, _, optimiser = build(warmup_updates=10, final_learning_rate=0.1)
    shares = []
    for update in (0, 4, 9, 10, 55, 100, 500):
        optimiser.done.fill_(update)
        share = optimiser.share()
        assert share.dtype == torch.float64 and share.shape == (1,)
        shares.append(share.item())
    assert shares == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1])
    assert PRESETS["paper-maze"].dqn.final_learning_rate == 1.0
