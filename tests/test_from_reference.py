"""The model against recorded outputs of the published code: values, loss and every gradient."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm_fast import HRM, HRMConfig, from_reference, to_reference

FIXTURES = Path(__file__).parent / "fixtures"
CONFIGS = {
    "four_rooms": HRMConfig(cells=121, h_layers=1, l_layers=1),
    "maze_learned_pos": HRMConfig(
        h_layers=1, l_layers=1, l_cycles=3, segments=4, positions="learned"
    ),
}
TOLERANCE = 1e-5  # of the largest value of the tensor


class Recorded:
    """One file: the published code's weights in our model, and what it computed with them."""

    def __init__(self, name: str, kernels: Any = "reference") -> None:
        with np.load(FIXTURES / f"hrm_agent_{name}.npz") as file:
            self.data = {key: torch.from_numpy(file[key]) for key in file if key != "pos"}
        self.config = replace(CONFIGS[name], kernels=kernels)
        self.hrm: HRM = from_reference(self.under("weights/"), self.config)

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        items = self.data.items()
        return {key.removeprefix(prefix): value for key, value in items if key.startswith(prefix)}

    def matches(self, name: str, actual: torch.Tensor) -> None:
        close(actual, self.data[f"expected/{name}"], name)


def close(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert actual.shape == expected.shape, name
    error = (actual.detach() - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE, f"{name}: {error:.2e}"


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["reference", "cpu"])
def recorded(request: pytest.FixtureRequest, name: str) -> Recorded:
    return Recorded(name, request.param)


def test_one_segment(recorded: Recorded) -> None:
    carry, q = recorded.hrm.segment(recorded.hrm.start(4), recorded.data["obs"])
    recorded.matches("q_segment_1", q)
    recorded.matches("zH_segment_1", carry.z_H)
    recorded.matches("zL_segment_1", carry.z_L)


def test_loss_and_every_gradient(recorded: Recorded) -> None:
    data, hrm = recorded.data, recorded.hrm
    _, q = hrm.segment(hrm.start(4), data["obs"])
    q_a = q.gather(1, data["actions"].unsqueeze(1)).squeeze(1)
    loss = (q_a - data["targets"]).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(data["expected/loss_segment_1"].item(), rel=TOLERANCE)

    gradient = HRM(recorded.config)  # a model whose weights are our gradients, to name them
    for name, parameter in gradient.named_parameters():
        parameter.data = hrm.get_parameter(name).grad
    actual, expected = to_reference(gradient), recorded.under("expected/grad/")
    assert len(expected) >= 10
    for name in expected:
        close(actual[name], expected[name], name)
    ungraded = {name.removeprefix("model.inner.") for name in actual.keys() - expected.keys()}
    assert ungraded == {
        "H_init", "L_init", "puzzle_emb.weights", "q_head.weight", "q_head.bias"
    }  # fmt: skip


def test_reset_then_carry(recorded: Recorded) -> None:
    hrm, obs = recorded.hrm, recorded.data["obs"]
    q, carry = hrm.decide(obs)
    recorded.matches("q_reset", q)
    seed = hrm.stored(carry)
    recorded.matches("seed_H", seed.z_H)
    recorded.matches("seed_L", seed.z_L)
    recorded_seed = (recorded.data["expected/seed_H"], recorded.data["expected/seed_L"])
    recorded.matches("q_carry", hrm.decide(obs, recorded_seed)[0])


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_to_reference_is_the_inverse(recorded: Recorded, prefix: str) -> None:
    given = to_reference(recorded.hrm)
    again = from_reference({prefix + name: value for name, value in given.items()}, recorded.config)
    for name, value in recorded.hrm.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    original = recorded.under("weights/")
    assert given.keys() == original.keys()
    for name in given.keys() - {"model.inner.lm_head.weight"}:
        if "q_head" not in name:
            assert torch.equal(given[name], original[name].float()), name


def test_published_size() -> None:
    given = to_reference(HRM(HRMConfig()))
    apart = ("H_init", "L_init", "puzzle_emb.weights")
    assert sum(v.numel() for name, v in given.items() if not name.endswith(apart)) == 541_186


def test_halt_head_is_taken_only_where_it_is_read() -> None:
    config = HRMConfig(cells=9, width=8, inner=8, h_layers=1, l_layers=1, halting=True)
    hrm = HRM(config)
    torch.nn.init.normal_(hrm.halt_head.weight)
    given = to_reference(hrm)
    assert torch.equal(from_reference(given, config).halt_head.weight, hrm.halt_head.weight)
    plain = HRMConfig(cells=9, width=8, inner=8, h_layers=1, l_layers=1)
    assert not hasattr(from_reference(given, plain), "halt_head")
    del given["model.inner.q_head.weight"]
    from_reference(given, plain)
    with pytest.raises(ValueError, match=r"q_head.weight is missing: expected \[2, 8\]"):
        from_reference(given, config)


DOWN = "model.inner.H_level.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({DOWN: None}, f"{DOWN} is missing: expected [64, 256]"),
        ({DOWN: torch.zeros(64, 255)}, f"{DOWN} is [64, 255]: expected [64, 256]"),
        (
            {"model.inner.embed_pos.embedding_weight": torch.zeros(122, 64)},
            "model.inner.embed_pos.embedding_weight is in the checkpoint: "
            "expected no tensor of that name",
        ),
    ],
)
def test_bad_checkpoint(change: dict[str, torch.Tensor | None], message: str) -> None:
    recorded = Recorded("four_rooms")
    given = recorded.under("weights/") | change
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(ValueError) as error:
        from_reference(given, recorded.config)
    assert str(error.value) == message
