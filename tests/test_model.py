"""The model by itself: gradients, decisions, Carry modes, positions, halting, bad input."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hrm_fast import HRM, Carry, HRMConfig, halting_loss
from hrm_fast.backends.cuda import unusable
from hrm_fast.backends.plain import Parts
from hrm_fast.layers import level, rope_tables, truncated_normal
from kernels.attention_block import attend, attention_block_reference, rotate
from kernels.ops import REFERENCE
from kernels.rms_norm import rms_norm
from kernels.swiglu_block import swiglu_block_reference

TINY = HRMConfig(
    cells=12, columns=4, width=8, heads=2, inner=6, h_layers=1, l_layers=2, segments=3
)  # fmt: skip
POSITIONS = ("rope", "rope2d", "learned", "rope2d+learned")


def model(seed: int = 0, **changes: Any) -> HRM:
    """On PyTorch: test_cpu_engine.py compares the fused engine with it."""
    torch.manual_seed(seed)
    changes = {"kernels": "reference"} | changes
    return HRM(replace(TINY, **changes))


def boards(batch: int, cells: int = 12) -> torch.Tensor:
    """Floor everywhere, one agent and one goal per board, at different cells."""
    tokens = torch.full((batch, cells), ord("."), dtype=torch.uint8)
    place = torch.stack([torch.randperm(cells)[:2] for _ in range(batch)])
    tokens[torch.arange(batch), place[:, 0]] = ord("@")
    tokens[torch.arange(batch), place[:, 1]] = ord(">")
    return tokens


def random_carry(hrm: HRM, batch: int) -> Carry:
    shape = (batch, hrm.config.tokens, hrm.config.width)
    return Carry(*torch.randn(2, *shape, dtype=hrm.dtype).unbind())


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def embedded(hrm: HRM, tokens: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    """The parameters by name, and e [B, T, D]."""
    plain = hrm.backends.reference
    parts = plain.parts(hrm.in_order())
    return parts, plain.embedding(parts, hrm.shown(tokens))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("q_token", ["last", "agent", "mean", "goal"])
def test_gradients_against_central_differences(positions: str, q_token: str) -> None:
    """One cycle, where the 1-step gradient is the whole gradient, in float64."""
    hrm = model(positions=positions, q_token=q_token, h_cycles=1, l_cycles=1).double()
    tokens, carry, upstream = boards(3), random_carry(hrm, 3), torch.randn(3, 4).double()

    def loss() -> torch.Tensor:
        return (hrm.segment(carry, tokens)[1] * upstream).sum()

    loss().backward()
    for name, parameter in hrm.named_parameters():
        assert parameter.grad is not None, name
        direction, before = torch.randn_like(parameter), parameter.detach().clone()
        at = {}
        for steps in (-2, -1, 1, 2):
            parameter.data = before + 1e-4 * steps * direction
            at[steps] = loss().item()
        parameter.data = before
        expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / 12e-4  # to the fourth order
        actual = (parameter.grad * direction).sum().item()
        assert actual == pytest.approx(expected, rel=1e-6, abs=1e-8), name


def test_only_the_last_calls_carry_gradient() -> None:
    """The gradient equals that of the last L and last H call alone, computed by hand."""
    hrm = model(h_cycles=2, l_cycles=3).double()
    tokens, carry = boards(3), random_carry(hrm, 3)
    hrm.segment(carry, tokens)[1].square().sum().backward()
    actual = {name: p.grad for name, p in hrm.named_parameters()}
    hrm.zero_grad()

    z_H, z_L = carry
    parts, e = embedded(hrm, tokens)
    with torch.no_grad():
        for _ in range(3):
            z_L = level(REFERENCE, z_L, z_H + e, parts.L, 2, parts.rope)
        z_H = level(REFERENCE, z_H, z_L, parts.H, 2, parts.rope)
        for _ in range(2):
            z_L = level(REFERENCE, z_L, z_H + e, parts.L, 2, parts.rope)
    z_L = level(REFERENCE, z_L, z_H + e, parts.L, 2, parts.rope)
    z_H = level(REFERENCE, z_H, z_L, parts.H, 2, parts.rope)
    F.linear(z_H[:, -1], hrm.q_head).square().sum().backward()
    for name, parameter in hrm.named_parameters():
        torch.testing.assert_close(actual[name], parameter.grad, msg=name)


def test_the_carry_is_detached_and_inference_keeps_nothing() -> None:
    hrm, tokens = model(), boards(2)
    carry, q = hrm.segment(hrm.start(2), tokens)
    assert q.requires_grad and not carry.z_H.requires_grad and not carry.z_L.requires_grad
    with torch.no_grad():
        assert not hrm.segment(carry, tokens)[1].requires_grad
    assert not hrm.decide(tokens)[0].requires_grad


@pytest.mark.parametrize("carry_mode", ["reset", "carry", "full"])
@pytest.mark.parametrize("q_token", ["last", "agent", "mean", "goal"])
def test_a_decision_is_its_segments(carry_mode: str, q_token: str) -> None:
    hrm, tokens = model(carry=carry_mode, q_token=q_token), boards(5)
    z = Carry(*torch.randn(2, 5, *hrm.stored_shape).unbind())
    for start, given in ((hrm.start(5), None), (hrm.carry_from(z), z)):
        carry = start
        for _ in range(3):
            carry, q = hrm.segment(carry, tokens)
        decided = hrm.decide(tokens, given)
        assert torch.equal(decided[0], q) and same(decided[1], carry)
    fewer = hrm.decide(tokens, segments=1)
    assert same(fewer[1], hrm.segment(hrm.start(5), tokens)[0])


def test_seeds() -> None:
    carry = random_carry(model(), 3)
    for mode, shape in (("reset", (0,)), ("carry", (8,)), ("full", (13, 8))):
        hrm = model(carry=mode)
        assert hrm.stored_shape == shape
        assert hrm.stored(carry).z_H.shape == hrm.stored_start(3).z_L.shape == (3, *shape)
        assert same(hrm.carry_from(hrm.stored_start(3)), hrm.start(3))
    assert same(model(carry="full").carry_from(carry), carry)
    hrm = model(carry="carry", q_token="agent")
    z_H, z_L = hrm.carry_from(hrm.stored(carry))
    for z, given in ((z_H, carry.z_H), (z_L, carry.z_L)):
        assert torch.equal(z, given[:, -1:].expand_as(z))


def test_q_token() -> None:
    tokens = boards(4)
    z = random_carry(model(), 4).z_H
    agent = z[torch.arange(4), 1 + (tokens == 64).int().argmax(1)]
    for token, expected in (("last", z[:, -1]), ("agent", agent), ("mean", z.mean(1))):
        hrm = model(q_token=token)
        torch.testing.assert_close(hrm.q_values(z, tokens), expected @ hrm.q_head.T)


def test_one_pass_values_every_cell_as_the_goal() -> None:
    """Neither goal nor start mark is seen, so all goals of a board are valued alike by one pass."""
    hrm, tokens = model(q_token="goal", carry="carry"), boards(4)
    z = Carry(*torch.randn(2, 4, 8).unbind())
    values = hrm.goal_values(tokens, z)  # [B, cells, A]
    assert values.shape == (4, 12, 4) and (values > 0).all() and (values < 1).all()
    bare = tokens.masked_fill(tokens == ord(">"), ord("."))
    for goal in range(12):
        board = bare.clone()
        board[:, goal] = ord(">")
        board[:, goal - 5] = ord("<")
        there = (tokens == ord("@")).int().argmax(1)
        board[torch.arange(4), there] = ord("@")
        shown = (board == ord(">")).any(1)
        q, _ = hrm.decide(board, z)
        assert shown.any()
        torch.testing.assert_close(q[shown], values[shown, goal])


def test_embedding() -> None:
    hrm, tokens = model(positions="learned"), boards(2)
    torch.nn.init.normal_(hrm.puzzle)
    plain = torch.cat((hrm.puzzle.expand(2, 1, -1), hrm.embed[tokens.long()]), 1)
    assert hrm.position is not None
    expected = math.sqrt(8) * math.sqrt(0.5) * (plain + hrm.position)
    torch.testing.assert_close(embedded(hrm, tokens)[1], expected)
    without = model(positions="rope")
    without.load_state_dict(hrm.state_dict(), strict=False)
    torch.testing.assert_close(embedded(without, tokens)[1], math.sqrt(8) * plain)


def test_rope2d_sees_only_the_difference_of_rows_and_columns() -> None:
    config = HRMConfig(cells=20, columns=5, width=32, positions="rope2d", rope_base=100.0)
    cos, sin = (t.double() for t in rope_tables(config) or ())
    q, k = torch.randn(2, 16).double()
    turned_q, turned_k = (rotate(x.expand(1, 21, 1, 16), (cos, sin))[0, :, 0] for x in (q, k))
    score = (turned_q @ turned_k.T)[1:, 1:].view(4, 5, 4, 5)
    for dr, dc in ((0, 0), (1, 0), (0, 2), (2, 3)):
        pairs = [score[r, c, r + dr, c + dc] for r in range(4 - dr) for c in range(5 - dc)]
        torch.testing.assert_close(
            torch.stack(pairs), pairs[0].expand(len(pairs)), rtol=0, atol=1e-5
        )
    assert abs(score[0, 0, 1, 0] - score[0, 0, 0, 1]) > 1e-3
    assert torch.equal(cos[0], torch.ones(1, 16).double())  # the puzzle token does not turn
    turn = 100.0 ** -(torch.arange(4) / 4).double()
    last_cell = torch.cat((4 * turn, 5 * turn)).repeat(2)  # row 4, column 5, counted from 1
    torch.testing.assert_close(cos[20, 0], last_cell.cos(), rtol=0, atol=1e-6)


def test_rotation_and_blocks_as_written_in_the_paper() -> None:
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    w_qkv, w_o = torch.randn(36, 12).double(), torch.randn(12, 12).double()
    angle = torch.randn(7, 2).double()
    cos, sin = angle.cos().repeat(1, 2)[:, None], torch.cat((-angle.sin(), angle.sin()), 1)[:, None]
    mixed = []
    for head in range(3):
        q, k, v = (x @ w_qkv[at + 4 * head : at + 4 * head + 4].T for at in (0, 12, 24))
        turned = [
            torch.view_as_complex(torch.stack(a.split(2, -1), -1)) * torch.exp(1j * angle)
            for a in (q, k)
        ]
        q, k = (torch.cat((a.real, a.imag), -1) for a in turned)
        mixed.append((q @ k.mT / 2).softmax(-1) @ v)
    y = x + torch.cat(mixed, -1) @ w_o.T
    expected = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(attention_block_reference(x, w_qkv, w_o, 3, (cos, sin)), expected)

    gate_up, down = torch.randn(10, 12).double(), torch.randn(12, 5).double()
    gate, up = x @ gate_up[:5].T, x @ gate_up[5:].T
    expected = rms_norm(x + (gate * gate.sigmoid() * up) @ down.T)
    torch.testing.assert_close(swiglu_block_reference(x, gate_up, down), expected)


@pytest.mark.parametrize("tokens", [5, 64, 65, 100])
def test_both_ways_to_attend_agree(tokens: int) -> None:
    q, k, v = torch.randn(3, 2, tokens, 2, 8, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)))
    torch.testing.assert_close(attend(q, k, v), expected.transpose(1, 2))


@pytest.mark.parametrize("positions", POSITIONS)
def test_bfloat16_loses_at_most_twice_what_autocast_loses(positions: str) -> None:
    plain = model(positions=positions, width=32, inner=64)
    half = HRM(replace(plain.config, dtype="bfloat16"))
    half.load_state_dict(plain.state_dict())
    exact = copy.deepcopy(plain).double()
    tokens = boards(64)
    expected = exact.segment(exact.start(64), tokens)[1]
    with torch.autocast("cpu", torch.bfloat16):
        autocast = plain.segment(plain.start(64), tokens)[1]
    carry, q = half.segment(half.start(64), tokens)
    assert q.dtype == torch.float32 and carry.z_H.dtype == torch.bfloat16
    error, allowed = ((value - expected).square().mean().sqrt() for value in (q, autocast))
    assert error <= 2 * allowed
    q.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in half.parameters())


def test_bfloat16_statistics_are_float32() -> None:
    x = torch.randn(64, 256).bfloat16()
    expected = rms_norm(x.float()).bfloat16()
    assert torch.equal(rms_norm(x), expected)


def test_initialisation() -> None:
    torch.manual_seed(0)
    drawn = truncated_normal(1_000_000, std=0.3)
    assert drawn.std().item() == pytest.approx(0.3, rel=3e-3)
    assert drawn.abs().max() <= 0.3 * 2 / 0.8796
    hrm = HRM(HRMConfig(halting=True))
    for block in (*hrm.L, *hrm.H):
        for name, fan_in in (("qkv", 64), ("out", 64), ("gate_up", 64), ("down", 256)):
            assert block.get_parameter(name).std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
    assert hrm.embed.std().item() == pytest.approx(0.125, rel=0.05)
    assert not hrm.puzzle.any() and not hrm.halt_head.weight.any()
    assert (hrm.halt_head.bias == -5).all()
    assert not model(zero_head=True).q_head.any() and model().q_head.any()
    assert "start_H" in hrm.state_dict()
    assert embedded(model(positions="learned"), boards(1))[0].rope is None


def test_a_halted_board_keeps_its_states() -> None:
    hrm, tokens = model(halting=True, segments=6), boards(16)
    torch.nn.init.normal_(hrm.halt_head.weight)
    carry, per_segment, halts = hrm.start(16), [], []
    lead = hrm.halt_logits(hrm.segment(carry, tokens)[0]).diff(dim=1)
    hrm.halt_head.bias.data[1] -= lead.median().detach()  # half of the boards halt at once
    for _ in range(6):
        carry, q = hrm.segment(carry, tokens)
        per_segment.append((q, carry))
        halts.append(hrm.halt_logits(carry).diff(dim=1).squeeze(1) < 0)
    halts[-1] = torch.ones(16, dtype=torch.bool)
    stop = torch.stack(halts).int().argmax(0)
    assert len(stop.unique()) > 1
    q, carry = hrm.decide(tokens)
    for board, at in enumerate(stop.tolist()):
        assert torch.equal(q[board], per_segment[at][0][board])
        assert torch.equal(carry.z_L[board], per_segment[at][1].z_L[board])
    assert torch.equal(hrm.decide(tokens, segments=6)[0], per_segment[-1][0])


def test_decide_stops_when_all_have_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    hrm, tokens, calls = model(halting=True), boards(2), []
    plain = hrm.backends.reference
    forward = plain.forward
    monkeypatch.setattr(plain, "forward", lambda *given: calls.append(1) or forward(*given))
    hrm.decide(tokens)
    assert len(calls) == 3  # equal logits do not halt
    hrm.halt_head.bias.data[0] = 5.0
    hrm.decide(tokens)
    assert len(calls) == 4


def test_a_halting_loss_can_train_the_body() -> None:
    hrm, tokens = model(halting=True), boards(4)
    torch.nn.init.normal_(hrm.halt_head.weight)
    carry = hrm.think(hrm.start(4), tokens)
    assert same(hrm.segment(hrm.start(4), tokens)[0], carry)
    logits = hrm.halt_logits(carry)
    is_right = torch.ones(4, dtype=torch.bool)
    halting_loss(logits, is_right, logits, is_right).backward()
    assert all(block.qkv.grad.any() for block in (*hrm.L, *hrm.H))


def test_cuda_kernels_want_a_gpu() -> None:
    if why := unusable():
        with pytest.raises(ValueError, match=f"kernels is 'cuda' and {why}: expected 'auto', "):
            model(kernels="cuda")


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_bad_values_of_a_loss(kernels: Any) -> None:
    hrm = model(kernels=kernels)
    start, tokens, action, y = hrm.start(2), boards(2), torch.zeros(2).long(), torch.zeros(2)
    for given, words in (
        (
            (action.int(), y),
            r"a_tm1 is torch.int32 \[2\] on cpu: expected torch.int64 \[2\] on cpu",
        ),
        ((action[:1], y), r"a_tm1 is torch.int64 \[1\] on cpu: expected torch.int64 \[2\]"),
        (
            (action, y[:, None]),
            r"target is torch.float32 \[2, 1\] on cpu: expected torch.float32 \[2\]",
        ),
        (
            (action, y.double()),
            r"target is torch.float64 \[2\] on cpu: expected torch.float32 \[2\]",
        ),
        (
            (action, torch.zeros(2, 12), y),
            r"weight is .*\[2\] on cpu: expected torch.float32 \[2, 12\]",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            hrm.td_segment(start, tokens, *given)
    with pytest.raises(ValueError, match="tokens has no boards: expected at least one"):
        hrm.td_segment(hrm.start(0), tokens[:0], action[:0], y[:0])
    table = torch.zeros(2, 12)
    for wrong in (-1, 4):
        for given in ((y,), (table, table)):
            with pytest.raises((IndexError, RuntimeError), match=r"a_tm1 has the action|out of"):
                hrm.td_segment(start, tokens, action + wrong, *given)
    meta = torch.device("meta")
    with pytest.raises(ValueError, match=r"tokens is .* on meta: expected .* on cpu"):
        hrm.decide(tokens.to(meta))
    for name, z_H, z_L in (
        ("z_L", start.z_H, start.z_L[:1]),
        ("z_L", start.z_H, start.z_L[:, :1]),
        ("z_H", start.z_H.double(), start.z_L),
        ("z_H", start.z_H.to(meta), start.z_L),
        ("z_L", start.z_H, start.z_L[..., :2]),
    ):
        with pytest.raises(ValueError, match=f"{name} is .*: expected torch.float32 .*on cpu"):
            hrm.segment(Carry(z_H, z_L), tokens)
    with pytest.raises(ValueError, match="halting is False: expected True"):
        hrm.halt_logits(start)
    with pytest.raises(IndexError, match=r"tokens has the code 255: expected 0 to |out of range"):
        hrm.decide(torch.full_like(tokens, 255))


def test_bad_tokens_and_seeds() -> None:
    hrm = model()
    for tokens in (boards(2).long(), boards(2, 11), boards(2)[0], boards(3)):
        with pytest.raises(ValueError, match=r"tokens is .*: expected torch.uint8 \[2, 12\]"):
            hrm.segment(hrm.start(2), tokens)
    with pytest.raises(ValueError, match=r"tokens is torch\.int64"):
        hrm.decide(boards(2).long())
    z = torch.zeros(2, 7)
    with pytest.raises(ValueError, match=r"z is \[2, 7\] and \[2, 7\]: expected \[B, 8\] twice"):
        hrm.decide(boards(2), (z, z))


@pytest.mark.parametrize("q_token", ["last", "agent", "mean", "goal"])
@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
@pytest.mark.parametrize("positions", ["rope", "rope2d+learned", "learned"])
def test_what_nobody_reads_can_be_left_out(q_token: str, mode: str, positions: str) -> None:
    """`act` and a segment that keeps nothing equal `decide` and `segment`, gradients included."""
    torch.manual_seed(0)
    config = HRMConfig(
        cells=12, columns=4, width=16, inner=8, h_layers=2, l_layers=1, segments=2,
        positions=positions, q_token=q_token, carry=mode,
    )  # fmt: skip
    hrm = HRM(config).double()
    tokens = torch.full((3, 12), ord("."), dtype=torch.uint8)
    tokens[torch.arange(3), torch.tensor([0, 5, 11])] = ord("@")
    tokens[:, 7] = ord(">")
    z = hrm.stored_start(3)
    for _ in range(2):
        q, carry = hrm.decide(tokens, z)
        q_act, z = hrm.act(tokens, z)
        torch.testing.assert_close(q_act, q)
        torch.testing.assert_close(z, hrm.stored(carry))
    gradients = []
    for short in (False, True):
        hrm.zero_grad()
        carry = hrm.carry_from(z)
        q = hrm.segment(carry, tokens)[1]
        if short:
            given = hrm.in_order(), hrm.inputs(carry, tokens)
            q = hrm.activated(hrm.backends.reference.segment(*given, keep="none")[0])
        (q * torch.arange(4)).sum().backward()
        gradients.append({name: p.grad for name, p in hrm.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize("q_token", ["goal", "agent", "last", "mean"])
@pytest.mark.parametrize("positions", ["rope", "rope2d+learned"])
def test_walls_have_no_token(positions: Any, q_token: Any, kernels: Any) -> None:
    """As the model of the other cells alone, with the places that these have on the board."""
    walls = (0, 5, 10)
    hrm = model(
        q_token=q_token, kernels=kernels, walls=walls, positions=positions, width=16,
        vocab=131, carry="full", l_cycles=2,
    )  # fmt: skip
    alone = model(q_token=q_token, cells=9, columns=3, positions=positions, width=16,
        vocab=131, carry="full", l_cycles=2,
    )  # fmt: skip
    alone.load_state_dict(hrm.state_dict())
    token = torch.tensor([0, *(cell + 1 for cell in hrm.config.seen)])
    tables = rope_tables(replace(hrm.config, walls=None))
    assert tables is not None
    at_their_places = tuple(table[token] for table in tables)
    for backend in (alone.backends.reference, alone.backends.engine):
        if backend is not None:
            backend.rope = at_their_places
    boards_seen = boards(7, 9)
    tokens = torch.full((7, 12), ord("|"), dtype=torch.uint8)
    tokens[:, list(hrm.config.seen)] = boards_seen
    q, carry = hrm.decide(tokens)
    q_alone, carry_alone = alone.decide(boards_seen)
    torch.testing.assert_close(q, q_alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(carry.z_H, carry_alone.z_H, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hrm.act(tokens, carry)[0], alone.act(boards_seen, carry)[0])
    if q_token != "goal":
        return
    values = hrm.goal_values(tokens)
    torch.testing.assert_close(values[:, list(hrm.config.seen)], alone.goal_values(boards_seen))
    assert torch.equal(values[:, list(walls)], torch.zeros(7, 3, 4))
    a_tm1, (target, weight) = torch.randint(4, (7,)), torch.rand(2, 7, 12)
    at = [x[:, list(hrm.config.seen)] for x in (target, weight)]
    loss = hrm.td_segment(hrm.start(7), tokens, a_tm1, target, weight)[2]
    other = alone.td_segment(alone.start(7), boards_seen, a_tm1, *at)[2]
    torch.testing.assert_close(loss, other)
    for one in (loss, other):
        one.backward()
    for p, p_alone in zip(hrm.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, p_alone.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"kernels": "reference"}])
def test_a_model_trains_after_it_was_used_in_inference_mode(how: dict[str, Any]) -> None:
    hrm, tokens = model(**how), boards(2)
    hrm = hrm if "dtype" in how else hrm.double()
    with torch.inference_mode():
        hrm.decide(tokens)
    hrm.segment(hrm.start(2), tokens)[1].sum().backward()
    assert hrm.L[0].qkv.grad is not None
