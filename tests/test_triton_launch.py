"""How kernels are launched: on the GPU that their tensors are on, and tuned by large launches."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

pytest.importorskip("kernels.triton.common")  # before Triton itself: chooses its interpreter

import triton

from kernels.rms_norm import rms_norm
from kernels.triton import add_rms

pytestmark = pytest.mark.triton


def test_on_the_gpu_of_the_first_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: nullcontext(entered.append(x)))
    x, f = torch.randn(2, 3, 32)
    add_rms.forward_op(x, f, False)
    assert len(entered) == 1 and entered[0] is x


def test_small_launches_take_the_default_and_choose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = add_rms.forward_kernel
    default, faster = (triton.Config({"BR": rows}) for rows in (8, 4))

    def milliseconds(*_: Any, config: triton.Config, **__: Any) -> list[float]:
        return [1.0 if config is faster else 2.0]

    monkeypatch.setattr(kernel, "configs", [default, faster])
    monkeypatch.setattr(kernel, "cache", {})
    monkeypatch.setattr(kernel, "cache_results", False)
    monkeypatch.setattr(kernel, "_bench", milliseconds)
    for rows, chosen in ((0, []), (63 * 8, []), (64 * 8, [faster]), (1, [faster])):
        x, f = torch.randn(2, rows, 32)
        torch.testing.assert_close(add_rms.add_rms(x, f), rms_norm(x + f))
        assert list(kernel.cache.values()) == chosen
