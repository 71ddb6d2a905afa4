"""That a cycle could be replayed as a CUDA graph, shown without a GPU: the kernels of mazes and
optimiser run on the host, and the cycle must not wait for a number, depend on what the host counts,
or move anything to other memory. On a GPU, that the graph gives what the cycle gives."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_maze_device import resident
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import TINY, all_goals
from train.config import Config
from train.trainer import Trainer

pytestmark = pytest.mark.triton
CPU = torch.device("cpu")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")


class NothingWaits(TorchDispatchMode):
    """Refuses the operations for whose result the host would wait on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        assert name not in WAITING and not by_mask, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def trainer(goals: bool = False, carry: Any = "carry", **dqn: Any) -> Trainer:
    """As on a GPU: resident mazes, and an optimiser that counts for itself."""
    from kernels.triton.adam_atan2 import update  # noqa: PLC0415  (Triton may not be there)

    start = all_goals(TINY) if goals else TINY
    hrm = replace(start.hrm, kernels="reference", carry=carry)
    one = Trainer(replace(start, updates=400, hrm=hrm, dqn=replace(start.dqn, **dqn)), CPU)
    one.optimiser.fused = update
    mazes = one.collector.mazes
    one.collector.mazes = resident(mazes.spec, mazes.num_envs, one.config.seed)
    assert torch.equal(one.collector.obs, one.collector.mazes.reset())
    return one


def numbers(one: Trainer) -> dict[str, object]:
    """What the host knows, and where the tensors lie."""
    owners = {"trainer": one, "replay": one.replay, "collector": one.collector}
    owners |= {"optimiser": one.optimiser, "mazes": one.collector.mazes._gpu}
    found: dict[str, object] = {}
    for owner, thing in owners.items():
        for name, value in vars(thing).items():
            if isinstance(value, int | float):
                found[f"{owner}.{name}"] = value
            tensors = value.items() if isinstance(value, dict) else [("", value)]
            tensors = enumerate(value) if isinstance(value, tuple) else tensors
            for key, x in tensors:
                if isinstance(x, torch.Tensor):
                    found[f"{owner}.{name}.{key}"] = x.data_ptr()
    return found


OPTIONS: list[dict[str, Any]] = [
    {},
    {"goals": True, "carry": "reset"},
    {"goals": True, "carry": "full", "warmup_updates": 3},
    {"timeout_is_terminal": True, "muon_learning_rate": 0.02, "max_grad_norm": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_cycle_can_be_repeated(options: dict[str, Any]) -> None:
    one, twin = trainer(**options), trainer(**options)
    for each in (one, twin):
        each.cycle()
    before = numbers(one)
    with NothingWaits():
        mine = [one.learn(2) for _ in range(4)]
    assert numbers(one) == before
    theirs = [twin.cycle() for _ in range(4)]
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert torch.equal(one.optimiser.flat, twin.optimiser.flat)
    assert torch.equal(one.collector.obs, twin.collector.obs)
    for name, x in twin.replay.state().items():
        assert torch.equal(one.replay.state()[name], x), name


@pytest.mark.parametrize("op", [torch.Tensor.item, torch.nonzero, lambda x: x[x > 0]])
def test_what_waits_is_seen(op: Any) -> None:
    x = torch.ones(1)
    with NothingWaits(), pytest.raises(AssertionError, match="waits for the device"):
        op(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("start", [TINY, all_goals(TINY)], ids=["own goal", "all goals"])
def test_graphs_give_what_cycles_give(start: Config) -> None:
    config = replace(start, updates=400, hrm=replace(start.hrm, kernels="triton"))
    one, twin = (
        Trainer(replace(config, cuda_graph=graph), torch.device("cuda")) for graph in (True, False)
    )
    assert one.is_repeatable()
    for _ in range(80):
        (loss, q), (loss_2, q_2) = one.cycle(), twin.cycle()
        torch.testing.assert_close(loss, loss_2, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(q, q_2, rtol=1e-4, atol=1e-6)
