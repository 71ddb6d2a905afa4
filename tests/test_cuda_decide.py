"""The CUDA decision kernel against the reference: on a GPU, or on the host from its own source."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from hrm_fast import HRM, Carry, HRMConfig
from hrm_fast.backends import cuda
from hrm_fast.backends.cuda import Cuda, Decider, Packed
from kernels import _native

DEVICE = torch.device("cpu" if cuda.unusable() else "cuda")
QUICK = HRMConfig(
    cells=48, columns=8, width=32, inner=64, h_layers=1, l_layers=1, h_cycles=1, segments=1,
    positions="rope2d+learned", rope_base=100.0, q_token="agent", kernels="reference",
)  # fmt: skip
SMALL = replace(QUICK, cells=15, columns=None, positions="rope", inner=16)
ONE: dict[str, Any] = {"h_layers": 1, "l_layers": 1, "h_cycles": 1, "l_cycles": 1, "segments": 1}
SHAPES = {
    "quick": QUICK,
    "two segments, 2 + 3 blocks, cycles 2 x 2": replace(
        SMALL, h_layers=2, l_layers=3, h_cycles=2, segments=2, q_token="last"
    ),
    "4 + 1 blocks, cycles 1 x 3, no rotation": replace(
        SMALL, h_layers=4, l_cycles=3, positions="learned", q_token="mean"
    ),
    "two tokens": replace(SMALL, cells=1),
    "seven tokens": replace(SMALL, cells=6, heads=1, q_token="mean"),
    "four rooms": HRMConfig(cells=121, **ONE, kernels="reference"),
    "published blocks": HRMConfig(**ONE, kernels="reference"),
    "more keys than one pass": replace(SMALL, cells=144, **ONE, q_token="last"),
    "as many tokens as fit": replace(SMALL, cells=255, columns=15, positions="rope2d", **ONE),
    "heads of 64": replace(SMALL, width=64, heads=1, inner=48, carry="full"),
    "four heads": replace(SMALL, width=64, heads=4, inner=80),
    "width 48, all goals": replace(SMALL, width=48, heads=3, inner=96, q_token="goal"),
    "width 128, heads of 64": replace(SMALL, width=128, inner=32, q_token="mean"),
    "width 128, heads of 16": replace(SMALL, width=128, heads=8, cells=33, **ONE),
}
SLOW = {
    "whole published decision": HRMConfig(segments=1, kernels="reference"),
    "eight segments": replace(QUICK, segments=8),
    "all in the workspace": replace(SMALL, width=128, heads=4, cells=255, **ONE),
}


def build(config: HRMConfig, dtype: str, seed: int = 0) -> HRM:
    """A reference model; the same seed gives the same weights whatever the dtype."""
    torch.manual_seed(seed)
    hrm = HRM(replace(config, dtype=dtype))
    torch.nn.init.normal_(hrm.puzzle, std=hrm.config.width**-0.5)
    return hrm.to(DEVICE)


def decider(hrm: HRM, boards: int = 0) -> tuple[Decider, Packed]:
    made = Decider(hrm.config, boards)
    return made, made.pack([p.detach() for p in hrm.in_order()])


def draws(hrm: HRM, batch: int) -> tuple[torch.Tensor, Carry]:
    """Boards with an agent (but the last), stored that bfloat16 holds exactly."""
    cells = hrm.config.cells
    tokens = torch.randint(65, 130, (batch, cells), dtype=torch.uint8)
    tokens[torch.arange(batch - 1), torch.randint(cells, (batch - 1,))] = ord("@")
    tokens[:, cells // 2] = ord(">")
    z = torch.randn(2, batch, *hrm.stored_shape).bfloat16().float()
    return tokens.to(DEVICE), Carry(*z.to(DEVICE))


Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def poisoned_empty(*size: Any, dtype: torch.dtype = torch.float32, **where: Any) -> torch.Tensor:
    number = float("nan") if dtype.is_floating_point else 255
    return torch.full(size[0] if isinstance(size[0], tuple) else size, number, dtype=dtype, **where)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.torch, "empty", poisoned_empty)


def run(hrm: HRM, tokens: torch.Tensor, z: Carry, boards: int = 0, **options: Any) -> Results:
    made, packed = decider(hrm, boards)
    inputs = hrm.inputs(hrm.carry_from(z), tokens)
    q, z_H, z_L = made.decide(packed, *inputs, hrm.config.segments, **options)
    return hrm.activated(q), z_H, z_L


def squares(mine: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> torch.Tensor:
    pairs = zip(mine, right, strict=True)
    return torch.stack([(x.double() - y).square().sum() / y.square().sum() for x, y in pairs])


def check_precision(config: HRMConfig, dtype: str) -> None:
    """Relative root-mean-square errors against float64, over some draws of weights and boards."""
    errors = torch.zeros(2, 3, dtype=torch.float64)
    small = config.tokens * config.width < 2000
    for draw in range(6 if small else 2):  # few numbers: few errors to average
        hrm = build(config, dtype, draw)
        exact = HRM(replace(config, dtype="float32"))
        exact.load_state_dict(hrm.state_dict())
        exact = exact.to(DEVICE).double()
        tokens, z = draws(hrm, 5 if small else 3)
        q, carry = exact.decide(tokens, Carry(*(x.double() for x in z)))
        plain_q, plain = hrm.decide(tokens, z)
        errors[0] += squares(run(hrm, tokens, z), (q, *carry)).cpu()
        errors[1] += squares((plain_q, *plain), (q, *carry)).cpu()
    for name, mine, pytorch in zip(("q", "z_H", "z_L"), *errors.tolist(), strict=True):
        assert mine <= 4 * pytorch, f"{name}: {mine:.1e} against {pytorch:.1e}"  # squares


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loses_at_most_twice_what_pytorch_loses(shape: str, dtype: str) -> None:
    check_precision(SHAPES[shape], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SLOW)
def test_large_ones_too(shape: str, dtype: str) -> None:
    check_precision(SLOW[shape], dtype)


@pytest.mark.parametrize("q_token", ["last", "agent", "mean"])
@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
def test_what_is_kept_and_how_it_starts(mode: Any, q_token: Any) -> None:
    hrm = build(replace(SMALL, carry=mode, q_token=q_token), "bfloat16")
    tokens, z = draws(hrm, 3)
    q, z_H, z_L = run(hrm, tokens, z)
    short, last_H, last_L = run(hrm, tokens, z, keep="last")
    assert torch.equal(q, short)
    assert torch.equal(last_H, z_H[:, -1]) and torch.equal(last_L, z_L[:, -1])
    alone, *nothing = run(hrm, tokens, z, keep="none")
    assert torch.equal(q, alone) and all(z.numel() == 0 for z in nothing)
    close = hrm.q_values(z_H, tokens)
    torch.testing.assert_close(q, close, rtol=0, atol=0.01 * close.abs().max().item())


def test_open_ends_before_the_calls_that_carry_gradient() -> None:
    """What is left out, done by the reference, gives what the kernel gives without `open`."""
    hrm = build(replace(SMALL, h_cycles=2, segments=2), "float32")
    tokens, z = draws(hrm, 5)
    q, z_H, z_L = run(hrm, tokens, z, open=True)
    assert q.numel() == 0
    plain = hrm.backends.reference
    parts = plain.parts(hrm.in_order())
    with torch.no_grad():
        z_H, z_L = plain.forward(parts, plain.embedding(parts, tokens), z_H, z_L, begun=True)
    _, right_H, right_L = run(hrm, tokens, z)
    torch.testing.assert_close((z_H, z_L), (right_H, right_L), rtol=0, atol=2e-5)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the order of threads is the host's to choose")
@pytest.mark.parametrize(("shape", "dtype", "boards"), [
    ("quick", "float32", 1), ("quick", "bfloat16", 1), ("published blocks", "bfloat16", 2),
])  # fmt: skip
def test_same_bits_in_any_order_of_threads(shape: str, dtype: str, boards: int) -> None:
    hrm = build(SHAPES[shape], dtype)
    tokens, z = draws(hrm, 3)
    results = []
    for order in range(4):
        _native.set_thread_order(order)
        results.append(run(hrm, tokens, z, boards))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_two_boards_at_a_time_are_as_one() -> None:
    hrm = build(SHAPES["published blocks"], "bfloat16")
    tokens, z = draws(hrm, 3)
    assert all(map(torch.equal, run(hrm, tokens, z, 1), run(hrm, tokens, z, 2)))


@pytest.mark.parametrize("shape", ["quick", "published blocks"])
def test_scores_too_large_to_go_without_a_maximum(shape: str) -> None:
    """Some exponentials overflow in float32; then the kernel multiplies again."""
    config = replace(SHAPES[shape], dtype="bfloat16")
    hrm, counts = build(config, "bfloat16"), [_native.products_on_host()]
    tokens, z = draws(hrm, 3)
    for scale in (1, 15):
        with torch.no_grad():
            for name, p in hrm.named_parameters():
                p.mul_(scale if "qkv" in name else 1)
        mine = run(hrm, tokens, z)
        counts.append(_native.products_on_host())
    assert DEVICE.type != "cpu" or counts[2] - counts[1] > 1.1 * (counts[1] - counts[0])
    exact = HRM(replace(config, dtype="float32"))
    exact.load_state_dict(hrm.state_dict())
    right = exact.to(DEVICE).double().decide(tokens, Carry(*(x.double() for x in z)))[1]
    plain = hrm.decide(tokens, z)[1]
    # not q: attention is all or nothing at such scores, and twelve numbers are too few to judge by
    assert (squares(mine[1:], right) <= 4 * squares(plain, right)).all()


@pytest.mark.parametrize(("shape", "boards"), [("quick", 1), ("published blocks", 2)])
def test_boards_do_not_see_each_other(shape: str, boards: int) -> None:
    """Five boards are more than two CTAs take at once, and with two at a time one stays alone."""
    hrm = build(SHAPES[shape], "bfloat16")
    tokens, z = draws(hrm, 5)
    together = run(hrm, tokens, z, boards)
    for b in range(5):
        alone = run(hrm, tokens[b : b + 1], Carry(*(x[b : b + 1] for x in z)), boards)
        assert all(torch.equal(x[0], y[b]) for x, y in zip(alone, together, strict=True))


@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
@pytest.mark.parametrize("q_token", ["agent", "mean", "goal"])
def test_a_model_that_uses_it(mode: Any, q_token: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions, the next z, and a segment with its gradients."""
    config = replace(SMALL, carry=mode, q_token=q_token, h_cycles=2, segments=2)
    hrm = build(config, "float32")
    tokens, z = draws(hrm, 3)
    action, target = torch.tensor([0, 3, 1], device=DEVICE), (torch.randn(3, device=DEVICE),)
    if q_token == "goal":
        target = tuple(torch.rand(2, 3, config.cells, device=DEVICE))

    def everything() -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        out["q"], (out["z_H"], out["z_L"]) = hrm.decide(tokens, z)
        out["act"], (out["z H"], out["z L"]) = hrm.act(tokens, z)
        for last in (False, True):
            hrm.zero_grad()
            after, q, loss = hrm.td_segment(hrm.carry_from(z), tokens, action, *target, last=last)
            loss.backward()
            out |= {f"{last} {k}": p.grad for k, p in hrm.named_parameters() if p.grad is not None}
            out |= {f"{last} loss": loss.detach(), f"{last} q": q.detach(), f"{last} H": after.z_H}
        return out

    right = everything()
    made, _ = decider(hrm)
    used = []
    decide = made.decide
    monkeypatch.setattr(made, "decide", lambda *a, **k: used.append(a) or decide(*a, **k))
    monkeypatch.setattr(hrm.backends, "of", lambda weight: Cuda(made, hrm.backends.reference))
    mine = everything()
    assert len(used) == 4
    for name, x in right.items():
        assert (mine[name] - x).norm() <= 1e-5 * x.norm(), name


def test_states_of_any_layout() -> None:
    hrm = build(QUICK, "float32")
    tokens, _ = draws(hrm, 3)
    made, packed = decider(hrm)
    for strided in (
        torch.randn(32, 3, 49).permute(1, 2, 0),
        torch.randn(3, 1, 32).expand(3, 49, 32),
        torch.randn(3, 50, 32)[:, 1:],
        torch.randn(3, 49, 33)[..., 1:],
        torch.randn(3 * 49 * 32 + 1)[1:].view(3, 49, 32),  # contiguous, no pair aligned
    ):
        z = strided.to(DEVICE)
        plain = made.decide(packed, tokens, z.contiguous(), z.contiguous())
        assert all(map(torch.equal, made.decide(packed, tokens, z, z), plain))
    alone = torch.randn(49 * 32).as_strided((1, 49, 32), (1571, 32, 1)).to(DEVICE)
    assert made.decide(packed, tokens[:1], alone, alone)[0].isfinite().all()


def test_a_code_beyond_the_vocabulary_shows_in_its_board_alone() -> None:
    hrm = build(QUICK, "float32")
    tokens, z = draws(hrm, 3)
    tokens[1, 7] = 131
    q, *_ = run(hrm, tokens, z)
    assert q[1].isnan().all() and q[[0, 2]].isfinite().all()


def test_no_boards() -> None:
    hrm = build(QUICK, "float32")
    tokens, z = draws(hrm, 1)
    q, z_H, _ = run(hrm, tokens[:0], Carry(*(x[:0] for x in z)))
    assert q.shape == (0, 4) and z_H.shape == (0, 49, 32)


def test_a_decider_can_be_copied_and_pickled() -> None:
    hrm = build(QUICK, "bfloat16")
    tokens, z = draws(hrm, 2)
    made, packed = decider(hrm)
    start = hrm.carry_from(z)
    right = made.decide(packed, tokens, *start)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert all(map(torch.equal, other.decide(packed, tokens, *start), right))


@pytest.mark.parametrize(("change", "message"), [
    ({"cells": 256, "columns": None, "positions": "rope"}, "T is 257: .* takes 2 to 256"),
    ({"width": 96}, "width is 96: .* takes 32, 48, 64 or 128"),
    ({"width": 48, "heads": 1}, "head size is 48: .* takes 16 at width 48"),
    ({"heads": 4}, "head size is 8: .* takes 16, 32 or 64"),
    ({"inner": 40}, "inner is 40: .* takes a multiple of 16"),
])  # fmt: skip
def test_shapes_it_cannot_compute(change: dict[str, Any], message: str) -> None:
    config = replace(QUICK, **change)
    with pytest.raises(ValueError, match=message):
        Decider(config)


def test_bad_input() -> None:
    hrm = build(QUICK, "bfloat16")
    tokens, z = draws(hrm, 2)
    made, packed = decider(hrm)
    z = hrm.carry_from(z)
    with pytest.raises(ValueError, match=r"tokens is contiguous torch.int64"):
        made.decide(packed, tokens.long(), *z)
    with pytest.raises(ValueError, match=r"tokens is contiguous .* \[2, 47\]"):
        made.decide(packed, tokens[:, :47].contiguous(), *z)
    with pytest.raises(ValueError, match=r"z_L is torch.float32 .*: expected torch.bfloat16"):
        made.decide(packed, tokens, z.z_H, z.z_L.float())
    with pytest.raises(ValueError, match=r"z_H is .* \[2, 48, 32\]"):
        made.decide(packed, tokens, z.z_H[:, 1:], z.z_L)
    with pytest.raises(ValueError, match=r"z_H is .* on meta: expected .* on c"):
        made.decide(packed, tokens, z.z_H.to("meta"), z.z_L)
    with pytest.raises(ValueError, match=r"segments is 0: .* takes 1 to 1024"):
        made.decide(packed, tokens, *z, segments=0)
    with pytest.raises(ValueError, match=r"a parameter is contiguous torch.bfloat16"):
        made.pack([p.bfloat16() for p in hrm.in_order()])
    with pytest.raises(ValueError, match=r"boards is 2: .* takes 0 or 1 for this shape"):
        decider(hrm, boards=2)[0].decide(packed, tokens, *z)


GOOD = {
    "stream": None, "boards": 0, "shared_limit": 232448, "ctas": 1, "workspace": 0, "weights": 16,
    "table": 16, "position": 16, "head": 16, "rope": 16, "size": 0, "tokens": 16, "z_H": 16,
    "z_L": 16, "board": 0, "token": 0, "read": 0, "segments": 1, "open": False, "q": 16,
    "new_H": 16, "new_L": 16, "last_only": False,
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [
    ({"weights": 0}, "weights is a null pointer: expected an address that 16 divides"),
    ({"weights": 24}, "weights is misaligned"),
    ({"z_H": 18}, "z_H is misaligned: expected an address that 4 divides"),
    ({"tokens": 0}, "tokens is a null pointer"),
    ({"rope": 8}, "rope is misaligned"),
    ({"new_L": 0}, "new_L is a null pointer"),
    ({"q": 0, "new_H": 0, "new_L": 0}, "results is 0: .* takes q or the states"),
    ({"token": 31}, "token is 31: .* takes an even stride"),
    ({"ctas": 0}, "ctas is 0"),
    ({"size": -1}, "size is -1"),
    ({"shared_limit": 4096}, "shared_limit is 4096: .* takes at least"),
    ({"shared_limit": 20000}, "workspace is a null pointer"),
])  # fmt: skip
def test_addresses_are_checked_before_a_launch(change: dict[str, Any], message: str) -> None:
    native = decider(build(QUICK, "bfloat16"))[0].native
    native.decide(**GOOD)
    with pytest.raises(ValueError, match=message):
        native.decide(**GOOD | change)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["four rooms", "published blocks"])
def test_same_bits_whatever_shared_memory_a_card_has(
    shape: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sm_90 and sm_100; sm_80; sm_86, sm_89 and sm_120. Only the first have room for two boards'
    states."""
    hrm = build(SHAPES[shape], dtype)
    tokens, seed = draws(hrm, 5)
    made, _ = decider(hrm)
    most = 2 if dtype == "bfloat16" else 1
    here, results = cuda.machine_of(DEVICE), []
    for limit in (227 * 1024, 163 * 1024, 99 * 1024):
        boards, _, inside, outside = made.native.plan(0, limit)
        assert boards == most and inside <= limit
        assert dtype == "float32" or (outside > 0) == (limit < 227 * 1024)
        if limit > here.shared:
            continue  # on a GPU that has less
        card = here._replace(shared=limit, sms=1)
        monkeypatch.setattr(cuda, "machine_of", lambda device, card=card: card)
        results += [run(hrm, tokens, seed, boards) for boards in range(most + 1)]
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_and_keys_may_lie_outside_shared_memory(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hrm = build(QUICK, dtype)
    tokens, z = draws(hrm, 3)
    made, _ = decider(hrm)
    results = [run(hrm, tokens, z)]
    inside = made.native.plan(0, 232448)
    assert inside[3] == 0
    for limit in (inside[2] - 1, inside[2] // 2):
        assert made.native.plan(0, limit)[3] > 0
        less = cuda.machine_of(DEVICE)._replace(shared=limit)
        monkeypatch.setattr(cuda, "machine_of", lambda device, less=less: less)
        results.append(run(hrm, tokens, z))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
