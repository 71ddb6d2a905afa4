"""Another library may have changed torch's default dtype or device: nothing here depends on them.

The main paths give the same bits under any of them, and after rollouts in inference mode.
"""

import ast
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from test_maze_device import resident

from envs import GymBatch, GymSpec, MazeBatch, MazeSpec
from hrm_fast import HRM, HRMConfig, from_reference, to_reference
from hrm_fast.backends.cuda import Decider
from kernels.native import ptr, ptr_or_null
from train.analyse.study import Analyse, measure
from train.config import Config, DQNConfig, fit_model_to_board
from train.episodes import random_walker
from train.evaluate import evaluate, rollout
from train.files import checkpoint
from train.run import state
from train.trainer import Trainer
from train.watch import page

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
ROOM = MazeSpec(map="room", size=3, max_steps=6)
SHAPE = HRMConfig(
    cells=15, columns=5, width=32, inner=16, h_layers=1, l_layers=1, h_cycles=1, segments=2,
    positions="rope2d+learned", position_start="sincos", q_token="agent", carry="carry",
)  # fmt: skip
RUN = Config(
    preset="quick",
    updates=8,
    env=ROOM,
    hrm=replace(SHAPE, cells=9, columns=3, q_token="goal"),
    dqn=DQNConfig(
        num_mazes=4, batch_size=4, learning_starts=16, replay_size=200, warmup_updates=0,
        epsilon_updates=6, hindsight=3, muon_learning_rate=0.02, max_grad_norm=1.0,
    ),
)  # fmt: skip
Found = dict[str, Any]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


def boards(batch: int, cells: int) -> torch.Tensor:
    tokens = np.full((batch, cells), ord("."), np.uint8)
    tokens[np.arange(batch), np.arange(batch) % cells] = ord("@")
    return torch.from_numpy(tokens)


def a_model(kernels: Any = "cpu", **changes: Any) -> Found:
    """Weights, decisions, a segment and its gradients."""
    torch.manual_seed(0)
    hrm = HRM(replace(SHAPE, kernels=kernels, **changes))
    tokens, z = boards(5, 15), hrm.stored_start(5)
    td = torch.arange(5, dtype=torch.int64, device=CPU) % 4, tokens[:, 0].float()
    found: Found = {f"weight {k}": x for k, x in hrm.state_dict().items()}
    found["q"], found["carry"] = hrm.decide(tokens, z)
    found["act"], found["z"] = hrm.act(tokens, z)
    carry, q = hrm.segment(hrm.start(5), tokens)
    (q * q).sum().backward()
    for last in (False, True):
        after, q, loss = hrm.td_segment(carry, tokens, *td, last=last)
        loss.backward()
        found |= {f"{last} q": q.detach(), f"{last} carry": after, f"{last} loss": loss.detach()}
    return found | {f"gradient {k}": p.grad for k, p in hrm.named_parameters()}


def the_cuda_kernel() -> Found:
    """Its source on the host."""
    torch.manual_seed(0)
    hrm = HRM(replace(SHAPE, kernels="reference"))
    decider = Decider(replace(SHAPE, dtype="float32"))
    packed = decider.pack([p.detach() for p in hrm.in_order()])
    start = hrm.start(2)
    return {"decided": decider.decide(packed, boards(2, 15), *start, segments=2)}


def mazes() -> Found:
    action = torch.arange(4, dtype=torch.int64, device=CPU)
    found: Found = {}
    for name, one in (("host", MazeBatch(ROOM, 4, seed=1)), ("device", resident(ROOM, 4, seed=1))):
        found[f"{name} reset"] = one.reset()
        found |= {f"{name} {t}": one.step(action) for t in range(7)}
        kept = one.get_state()
        one.load_boards(kept["boards"])
        one.set_state(kept)
        found |= {f"{name} state": list(kept.values()), f"{name} path": one.shortest_path()}
        found[f"{name} obs"] = one.observe()
    return found


def gymnasium_environments() -> Found:
    one, many = gymnasium.make("hrm_fast/Room-v0"), gymnasium.make_vec("hrm_fast/Room-v0", 2)
    other = GymBatch(GymSpec("FrozenLake-v1"), 2, seed=1)
    found: Found = {"one": one.reset(seed=1)[0], "many": many.reset(seed=1)[0]}
    found |= {"one step": one.step(1)[:2], "many step": many.step(np.array([1, 2]))[:3]}
    found |= {"other": other.reset(), "begun": other.get_state()["episodes"]}
    return found | {"other step": other.step(torch.tensor([1, 2], dtype=torch.int64, device=CPU))}


def training(kernels: Any, folder: Path, **changes: Any) -> Found:
    """Cycles with every option, a state saved and restored, and what is done with an agent."""
    hrm = replace(RUN.hrm, kernels=kernels, **changes)
    config = fit_model_to_board(replace(RUN, hrm=hrm))
    trainer = Trainer(config, CPU)
    found: Found = {"cycles": [trainer.cycle() for _ in range(3)]}
    state.save(trainer, folder / "state", 1.0, 0.0)
    again = Trainer(config, CPU)
    state.restore(again, folder / "state")
    found["last"], found["again"] = trainer.cycle(), again.cycle()
    found["finished"] = trainer.collector.finished()
    found |= {f"state {k}": x for k, x in state.tensors(trainer).items()}
    checkpoint.save(folder / "agent.safetensors", trainer.hrm, config)
    _, agent = checkpoint.load(folder / "agent.safetensors")
    found["evaluated"] = vars(evaluate(agent, ROOM, 9, 1))
    found["random"] = vars(rollout(ROOM, random_walker(4, 1), 9, 1, CPU))
    if not hrm.halting:
        recorded = page.record(agent, config, 1, 2, 1, None)
        found["page"] = str(recorded)
        found["analysed"] = measure(agent, ROOM, "goal moved", Analyse("", mazes=3), 2)[0]
    published = from_reference(to_reference(agent), config.hrm)
    return found | {f"published {k}": x for k, x in published.state_dict().items()}


PATHS: dict[str, Callable[[Path], Found]] = {
    "engine": lambda _: a_model(),
    "plain": lambda _: a_model("reference"),
    "in bfloat16": lambda _: a_model("reference", dtype="bfloat16", positions="rope"),
    "halting": lambda _: a_model(halting=True, carry="full", q_token="mean"),
    "cuda kernel": lambda _: the_cuda_kernel(),
    "mazes": lambda _: mazes(),
    "gymnasium": lambda _: gymnasium_environments(),
    "training": lambda folder: training("cpu", folder),
    "training, plain": lambda folder: training("reference", folder),
    "training with halting": lambda folder: training(
        "reference", folder, halting=True, q_token="last"
    ),
}


def assert_same(found: Any, expected: Any, name: str) -> None:
    assert type(found) is type(expected), name
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(found[key], value, f"{name}, {key}")
    elif isinstance(expected, tuple | list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, name)
    elif isinstance(expected, torch.Tensor):
        assert (found.dtype, found.device) == (expected.dtype, expected.device), name
        assert torch.equal(found, expected), name
    else:
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("path", PATHS)
def test_same_bits_under_any_default(path: str, default: str, tmp_path: Path) -> None:
    expected = PATHS[path](tmp_path)
    with DEFAULTS[default]():
        found = PATHS[path](tmp_path)
    assert_same(found, expected, path)


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_training_goes_on_from_what_was_rolled_out_in_inference_mode(kernels: Any) -> None:
    torch.manual_seed(0)
    hrm = HRM(replace(SHAPE, kernels=kernels))
    gradients = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            tokens = boards(5, 15).clone()
            _, carry = hrm.decide(tokens, hrm.stored_start(5))
            target = tokens[:, 0].float()
        hrm.zero_grad()
        action = torch.arange(5, dtype=torch.int64, device=CPU) % 4
        carry, q = hrm.segment(carry, tokens)
        hrm.td_segment(carry, tokens, action, target)[2].backward()
        q.sum().backward()
        gradients.append([p.grad.clone() for p in hrm.parameters() if p.grad is not None])
    assert gradients[0]
    assert_same(gradients[1], gradients[0], kernels)


def test_trainer_goes_on_after_steps_in_inference_mode() -> None:
    results = []
    for mode in (torch.no_grad, torch.inference_mode):
        trainer = Trainer(fit_model_to_board(RUN), CPU)
        with mode():
            for _ in range(8):
                trainer.collect()
                trainer.transitions += RUN.dqn.num_mazes
            evaluate(trainer.hrm, ROOM, 4, 1)
        results.append([trainer.cycle() for _ in range(3)])
    assert_same(results[1], results[0], "cycles")


def test_addresses_are_of_what_was_asked_for() -> None:
    x = torch.zeros(3, 4)
    assert ptr("x", x, torch.float32, 3, 4) == x.data_ptr()
    assert ptr("x", x.T, torch.float32, 4, 3, strided=True) == x.data_ptr()
    assert ptr_or_null("x", None, torch.float32, 3, 4) == 0
    for wrong in (x.double(), x[:2], x.T, x.to("meta"), x[:, :3]):
        with pytest.raises(ValueError, match=r"x is .*: expected contiguous torch\.float32 \[3, 4"):
            ptr("x", wrong, torch.float32, 3, 4)
    for wrong in (x.double(), x[:2], x.to("meta")):
        with pytest.raises(ValueError, match=r"x is torch.*: expected torch\.float32 \[3, 4\]"):
            ptr("x", wrong, torch.float32, 3, 4, strided=True)


# what takes its dtype and its device from torch's defaults where it is not told
MAKERS = {
    "arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "normal", "ones",
    "rand", "randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "tril_indices",
    "triu_indices", "zeros", "Linear", "Embedding", "LayerNorm", "RMSNorm", "Buffer",
}  # fmt: skip
CONVERTERS = {"as_tensor", "asarray"}  # keep the dtype of what they are given
WAYS_IN = {"kernels/native.py": 1, "envs/device.py": 1, "envs/maze.py": 1}  # the last compares them


def calls(path: Path) -> Iterator[tuple[ast.Call, str, set[str | None]]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.attr, {k.arg for k in node.keywords}


def package() -> list[Path]:
    return [
        p for room in ("envs", "kernels", "hrm_fast", "train") for p in ROOT.glob(f"{room}/**/*.py")
    ]


def unnamed(path: Path) -> list[str]:
    """Allocations that leave dtype or device to torch."""
    found = []
    for call, name, given in calls(path):
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if owner not in ("torch", "nn", "torch.nn"):
            continue
        wanted = (
            {"dtype", "device"} if name in MAKERS else {"device"} if name in CONVERTERS else set()
        )
        if wanted - given or (name == "Generator" and not call.args and not given):
            found.append(f"{path.name}:{call.lineno} {ast.unparse(call)}")
    return found


def test_every_allocation_names_its_dtype_and_device(tmp_path: Path) -> None:
    sources = package()
    assert len(sources) > 60
    assert [line for path in sources for line in unnamed(path)] == []
    bad = tmp_path / "bad.py"
    bad.write_text("torch.zeros(3)\ntorch.rand(3, device=d)\nnn.Linear(2, 3)\ntorch.Generator()\n")
    assert len(unnamed(bad)) == 4


def test_addresses_are_taken_in_one_place_of_each_room() -> None:
    """The kernels' alone by a check of dtype, shape, layout and device."""
    found = {}
    for path in package():
        if n := len(re.findall(r"data_ptr\(", path.read_text(encoding="utf-8"))):
            found[str(path.relative_to(ROOT))] = n
    assert found == WAYS_IN
