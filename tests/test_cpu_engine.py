"""The fused CPU engine against the reference: values, gradients, bits, bad input."""

import ast
import copy
import pickle
import threading
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
import torch

from hrm_fast import HRM, Carry, HRMConfig
from hrm_fast.backends.cpu import Engine
from kernels import _native, native
from kernels.adam_atan2 import adam_atan2, adam_atan2_reference
from kernels.goal_loss import goal_loss_reference as goal_loss
from kernels.td_loss import td_loss_reference as td_loss

ROOT = Path(__file__).resolve().parent.parent
QUICK = HRMConfig(
    cells=49, columns=7, width=32, inner=64, h_layers=1, l_layers=1, h_cycles=1, segments=2,
    positions="rope2d+learned", rope_base=100.0, q_token="agent",
)  # fmt: skip
SHAPES = {
    "quick": QUICK,
    "odd": HRMConfig(
        cells=11, width=20, heads=5, inner=6, h_layers=2, l_layers=3, segments=2, q_token="mean"
    ),
    "heads of one": HRMConfig(
        cells=2, width=16, heads=16, inner=3, h_layers=1, l_layers=1, segments=1,
        positions="learned",
    ),
    "published": HRMConfig(segments=1),
    "all goals": replace(QUICK, width=48, heads=3, inner=96, l_layers=2, q_token="goal"),
    "the largest corridors": HRMConfig(
        cells=961, columns=31, width=8, heads=1, inner=8, h_layers=1, l_layers=1, h_cycles=1,
        l_cycles=1, segments=1, positions="rope2d", q_token="goal", carry="reset",
    ),
    "wide, several tiles": HRMConfig(
        cells=150, columns=10, width=128, inner=40, h_layers=1, l_layers=1, h_cycles=1, l_cycles=1,
        segments=1, positions="rope2d", carry="full",
    ),
}  # fmt: skip


def runs_here(instructions: str) -> bool:
    try:
        build(QUICK, instructions=instructions).decide(boards(1, 49))
    except ValueError:
        return False
    return True


def build(config: HRMConfig, seed: int = 0, **engine: Any) -> HRM:
    """A model on the engine, which shows by NaN what it reads without having written."""
    torch.manual_seed(seed)
    hrm = HRM(replace(config, kernels="cpu"))
    hrm.backends.engine = Engine(config, poison=True, **engine)
    return hrm


def reference(hrm: HRM) -> HRM:
    twin = HRM(replace(hrm.config, kernels="reference"))
    twin.load_state_dict(hrm.state_dict())
    return twin


def boards(batch: int, cells: int) -> torch.Tensor:
    tokens = torch.randint(130, (batch, cells), dtype=torch.uint8)
    tokens[tokens == ord("@")] = ord(".")
    tokens[torch.arange(batch), torch.randint(cells, (batch,))] = ord("@")
    goal = torch.randint(cells, (batch,))
    at = torch.arange(batch)
    tokens[at, goal] = torch.where(tokens[at, goal] == ord("@"), tokens[at, goal], ord(">"))
    return tokens


def stored(hrm: HRM, batch: int) -> Carry:
    return Carry(*torch.randn(2, batch, *hrm.stored_shape).unbind())


Results = dict[str, torch.Tensor]
NO_ERROR = 1e-16  # squared: well below a float's rounding, 3.6e-15


def loss_of(hrm: HRM, pull: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What `td_segment` is given: actions and targets, of all goals with their weights."""
    if hrm.config.q_token == "goal":
        return pull["action"], pull["goals"], pull["weight"]
    return pull["action"], pull["target"]


def compute(hrm: HRM, tokens: torch.Tensor, z: Carry, pull: dict[str, torch.Tensor]) -> Results:
    """Everything that a model computes of some boards, in the weights' precision."""
    dtype = hrm.embed.dtype
    z = Carry(*(x.to(dtype) for x in z))
    pull = {k: v.to(dtype) if v.is_floating_point() else v for k, v in pull.items()}
    out: Results = {}
    out["act q"], (out["act H"], out["act L"]) = hrm.act(tokens, z)
    out["q"], (out["z_H"], out["z_L"]) = hrm.decide(tokens, z)
    for last in (False, True):
        td = loss_of(hrm, pull)
        carry, q, loss = hrm.td_segment(hrm.carry_from(z), tokens, *td, last=last)
        gradients(hrm, loss, f"td {last}", out)
        out |= {f"{last} H": carry.z_H, f"{last} L": carry.z_L, f"{last} q": q}
    z_H, z_L = hrm.think(hrm.carry_from(z), tokens)
    states = (z_H * pull["z"]).sum() + (z_L * pull["z"].flip(0)).sum()
    gradients(hrm, states + hrm.q_values(z_H, tokens).sum(), "states", out)
    gradients(hrm, (hrm.segment(hrm.carry_from(z), tokens)[1] * pull["q"]).sum(), "q", out)
    return {name: x.detach().double() for name, x in out.items()}


def gradients(hrm: HRM, loss: torch.Tensor, name: str, out: Results) -> None:
    hrm.zero_grad()
    loss.backward()
    out[f"{name} dloss"] = loss
    for key, p in hrm.named_parameters():
        assert p.grad is not None
        out[f"{name} d{key}"] = p.grad.clone()


def draws(hrm: HRM, batch: int) -> tuple[torch.Tensor, Carry, dict[str, torch.Tensor]]:
    A, cells, D = hrm.config.actions, hrm.config.cells, hrm.config.width
    return (
        boards(batch, cells),
        stored(hrm, batch),
        {
            "action": torch.randint(A, (batch,)),
            "target": torch.randn(batch),
            "goals": torch.rand(batch, cells),
            "weight": torch.rand(batch, cells) * (torch.rand(batch, cells) < 0.7),
            "q": torch.randn(1, A).expand(batch, A),
            "z": torch.randn(batch, cells + 1, D),
        },
    )


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loses_at_most_twice_what_pytorch_loses(shape: str, instructions: str) -> None:
    """Relative root-mean-square errors against float64: of every value, and of all gradients of a
    loss together with it. The rule holds for the geometric mean over some draws of weights and
    boards: in one of twenty the blocks make a hundred times as much of a first rounding, ours or
    PyTorch's, and a sum of errors would judge that one alone."""
    if not runs_here(instructions):
        pytest.skip(f"this CPU has no {instructions}")
    ratios: dict[str, list[float]] = defaultdict(list)  # of squared errors, one a draw
    cells = SHAPES[shape].cells
    # few numbers: few errors to average; more boards than chunks of gradients, but for the largest
    count, batch = (20, 11) if cells < 50 else (2, 9) if cells < 500 else (6, 2)
    for draw in range(count):
        hrm = build(SHAPES[shape], draw, instructions=instructions)
        plain = reference(hrm)
        exact = copy.deepcopy(plain).double()
        given = draws(hrm, batch)
        ours, theirs, right = (compute(m, *given) for m in (hrm, plain, exact))
        errors: dict[str, list[float]] = defaultdict(lambda: [NO_ERROR, NO_ERROR])
        for name, value in right.items():
            size = value.square().sum().item() or 1.0
            for i, x in enumerate((ours[name], theirs[name])):
                errors[name.split(" d")[0]][i] += (x - value).square().sum().item() / size
        for name, (mine, pytorch) in errors.items():
            ratios[name].append(mine / pytorch)
    assert len(ratios) == 15
    for name, found in ratios.items():
        assert geometric_mean(found) <= 4, f"{name}: {found}"
        assert max(found) <= 20**2, f"{name}: {found}"


@pytest.mark.parametrize("shape", ["quick", "all goals"])
def test_gradient_against_a_finite_difference(shape: str) -> None:
    """One call each of L and H, where the 1-step gradient is the whole gradient."""
    hrm = build(replace(SHAPES[shape], h_cycles=1, l_cycles=1))
    tokens, z, pull = draws(hrm, 8)
    td = loss_of(hrm, pull)

    def loss() -> torch.Tensor:
        return hrm.td_segment(hrm.carry_from(z), tokens, *td, last=True)[2]

    loss().backward()
    slope = sum((p.grad * p.grad).sum().item() for p in hrm.parameters())
    step, at = 1e-2 / slope**0.5, []
    start = {name: p.detach().clone() for name, p in hrm.named_parameters()}
    for sign in (1, -1):
        for name, p in hrm.named_parameters():
            p.data = start[name] + sign * step * p.grad
        at.append(loss().item())
    assert (at[0] - at[1]) / (2 * step) == pytest.approx(slope, rel=1e-2)


def test_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 5):
        hrm = build(QUICK, threads=threads)
        torch.manual_seed(1)
        results.append(compute(hrm, *draws(hrm, 37)))
    for other in results[1:]:
        assert all(torch.equal(value, other[name]) for name, value in results[0].items())


@pytest.mark.parametrize("batch", [1, 16, 17])
@pytest.mark.parametrize("mode", ["reset", "carry", "full"])
@pytest.mark.parametrize("q_token", ["last", "agent", "mean", "goal"])
def test_what_nobody_reads_does_not_change_what_is_read(
    q_token: Any, mode: Any, batch: int
) -> None:
    hrm = build(replace(QUICK, q_token=q_token, carry=mode))
    tokens, z, pull = draws(hrm, batch)
    q, carry = hrm.decide(tokens, z)
    short, kept = hrm.act(tokens, z)
    assert torch.equal(short, q)
    assert all(map(torch.equal, kept, hrm.stored(carry)))
    td = loss_of(hrm, pull)
    for last in (False, True):
        hrm.zero_grad()
        start = hrm.carry_from(z)
        after, q, loss = hrm.td_segment(start, tokens, *td, last=last)
        (2 * loss).backward()
        fused = [p.grad.clone() for p in hrm.parameters() if p.grad is not None]
        hrm.zero_grad()
        expected, plain_q = hrm.segment(start, tokens)
        plain = td_loss(plain_q, *td) if q_token != "goal" else goals_loss(hrm, start, tokens, td)
        (2 * plain).backward()
        assert torch.equal(q, plain_q)
        assert all(map(torch.equal, after, start if last else expected))
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(fused, [p.grad for p in hrm.parameters()])


def goals_loss(
    hrm: HRM, start: Carry, tokens: torch.Tensor, td: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    return goal_loss(hrm.think(start, tokens).z_H, hrm.q_head, *td)


def test_numbers_too_small_to_be_normal_are_zero_in_the_engine_alone() -> None:
    """Sharp attention makes shares of 1e-38 and less, which a CPU multiplies very slowly."""
    hrm = build(QUICK)
    with torch.no_grad():
        for block in (*hrm.L, *hrm.H):
            block.qkv.mul_(12)
    tokens, z, pull = draws(hrm, 8)
    hrm.td_segment(hrm.carry_from(z), tokens, *loss_of(hrm, pull), last=True)[2].backward()
    tiny = torch.finfo(torch.float32).tiny
    for name, p in hrm.named_parameters():
        assert p.grad is not None and not ((p.grad != 0) & (p.grad.abs() < tiny)).any(), name
    assert (torch.tensor([tiny]) / 4).item() > 0  # this thread computes as it did before


def test_states_of_any_layout() -> None:
    hrm = build(QUICK)
    tokens = boards(3, 49)
    z = torch.randn(32, 3, 50)
    strided = Carry(z.permute(1, 2, 0), torch.randn(3, 1, 32).expand(3, 50, 32))
    plain = Carry(*(z.contiguous() for z in strided))
    for a, b in zip(hrm.segment(strided, tokens)[0], hrm.segment(plain, tokens)[0], strict=True):
        assert torch.equal(a, b)


def test_one_engine_serves_several_threads() -> None:
    hrm = build(QUICK)
    twin, tokens = copy.deepcopy(hrm), boards(20, 49)
    assert twin.backends.engine is hrm.backends.engine
    torch.nn.init.normal_(twin.embed)
    expected = [m.decide(tokens)[0] for m in (hrm, twin)]
    wrong = []

    def work(model: HRM, right: torch.Tensor) -> None:
        wrong.extend(1 for _ in range(20) if not torch.equal(model.decide(tokens)[0], right))

    pairs = zip((hrm, twin), expected, strict=True)
    workers = [threading.Thread(target=work, args=pair) for pair in pairs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_model_can_be_pickled() -> None:
    hrm, tokens = build(QUICK), boards(2, 49)
    q = hrm.decide(tokens)[0]
    assert torch.equal(pickle.loads(pickle.dumps(hrm)).decide(tokens)[0], q)


def test_auto_takes_what_the_weights_allow() -> None:
    hrm = HRM(QUICK)
    assert isinstance(hrm.backend, Engine)
    assert hrm.double().backend is hrm.backends.reference
    plain = HRM(replace(QUICK, kernels="reference"))
    assert plain.backend is plain.backends.reference
    with pytest.raises(ValueError, match="kernels is 'cpu' and the weights are"):
        build(QUICK).double().decide(boards(1, 49))
    with pytest.raises(ValueError, match="dtype is 'bfloat16': expected 'float32'"):
        HRM(replace(QUICK, kernels="cpu", dtype="bfloat16"))


def test_bad_input() -> None:
    hrm = build(QUICK)
    start, tokens = hrm.start(2), boards(2, 49)
    td = torch.zeros(2, dtype=torch.int64), torch.zeros(2)
    with pytest.raises(IndexError, match="tokens has the code 131: expected 0 to 130"):
        hrm.decide(torch.full((2, 49), 131, dtype=torch.uint8))
    with pytest.raises(IndexError, match="a_tm1 has the action 4: expected 0 to 3"):
        hrm.td_segment(start, tokens, td[0] + 4, td[1])
    for action, target in ((td[0].int(), td[1]), (td[0], td[1].double()), (td[0][:1], td[1])):
        with pytest.raises(ValueError, match=r"expected torch\.\w+ \[2\]"):
            hrm.td_segment(start, tokens, action, target)
    assert hrm.decide(tokens[:0])[0].shape == (0, 4)
    with pytest.raises(ValueError, match="tokens has no boards"):
        hrm.td_segment(hrm.start(0), tokens[:0], td[0][:0], td[1][:0])
    with pytest.raises(ValueError, match=r"z_H is torch.float64 .*: expected torch.float32"):
        hrm.segment(Carry(*(z.double() for z in start)), tokens)
    with pytest.raises(ValueError, match="instructions is 'sse9': expected portable"):
        build(QUICK, instructions="sse9").decide(tokens)


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("size", [1, 8, 1003])
def test_adam_atan2(
    size: int, average: bool, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runs_here(instructions):
        pytest.skip(f"this CPU has no {instructions}")
    monkeypatch.setattr(native, "INSTRUCTIONS", instructions)
    torch.manual_seed(size)
    w, ema = torch.randn(2, size)
    ours = [w, torch.zeros(size), torch.zeros(size), ema]
    exact, plain = ([x.clone().to(t) for x in ours] for t in (torch.float64, torch.float32))
    for t in range(1, 20):
        g = torch.randn(size) * 10.0 ** torch.randint(-12, 3, (size,))
        g[::7] = 0
        for update, (p, m, v, a) in (
            (adam_atan2, ours), (adam_atan2_reference, plain), (adam_atan2_reference, exact),
        ):  # fmt: skip
            update(p, g.to(p.dtype), m, v, t, 0.01, 0.8, 0.99, 0.1, a if average else None, 0.9)
    for mine, theirs, right in zip(ours, plain, exact, strict=True):
        error, allowed = ((x - right).abs().max().item() for x in (mine, theirs))
        assert error <= 2 * max(allowed, right.abs().max().item() * 2**-24)


def test_contract_page_names_what_is_compiled() -> None:
    page = ast.parse((ROOT / "kernels/_native.pyi").read_text())
    classes = [n for n in page.body if isinstance(n, ast.ClassDef)]
    module = {n.name for n in page.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    module |= {n.target.id for n in page.body if isinstance(n, ast.AnnAssign)}
    assert module == {name for name in dir(_native) if not name.startswith("_")}
    for given in classes:
        methods = {n.name for n in given.body if isinstance(n, ast.FunctionDef)} - {"__init__"}
        compiled = dir(getattr(_native, given.name))
        assert methods == {name for name in compiled if not name.startswith("_")}
