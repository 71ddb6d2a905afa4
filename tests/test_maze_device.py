"""The kernels of mazes on a GPU, played on the host, against the CPU's mazes: equal bit by bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_maze import SPECS, assert_same, random_actions

from envs import MazeBatch, MazeSpec, _maze
from envs.device import OnDevice
from envs.step import Step

NEEDS_GPU = pytest.mark.skipif(not _maze.cuda_devices(), reason="needs a GPU")


def on_host(step: Step) -> Step:
    return Step(*(x.cpu() for x in step))


def resident(spec: MazeSpec, n: int, seed: int) -> MazeBatch:
    """A batch as it is on a GPU, but for the memory."""
    batch = MazeBatch(spec, n, seed)
    batch._gpu = OnDevice(batch._native, n, spec.cells, torch.device("cpu"))
    return batch


@pytest.mark.parametrize("name", SPECS)
def test_steps_as_on_the_cpu(name: str) -> None:
    spec, n = SPECS[name], 65
    steps = 4096 if name in ("corridors", "four-rooms", "corridors-8") else 300
    mine, host = resident(spec, n, seed=3), MazeBatch(spec, n, seed=3)
    assert torch.equal(mine.observe(), host.observe())
    ended = 0
    for actions in random_actions(spec, n, steps):
        step = mine.step(actions)
        assert_same(step, host.step(actions))
        ended += int((step.terminated | step.truncated).sum())
    assert ended > 0
    state = mine.get_state()
    for key, value in host.get_state().items():
        assert torch.equal(state[key], value), key
    assert torch.equal(mine.reset(), host.reset())


def test_state_boards_and_paths_go_through_the_host() -> None:
    spec = SPECS["corridors"]
    mine, host = resident(spec, 9, seed=1), MazeBatch(spec, 9, seed=1)
    other = MazeBatch(spec, 9, seed=2)
    other.step(torch.zeros(9, dtype=torch.int64))
    state = other.get_state()
    for batch in (mine, host):
        batch.step(torch.ones(9, dtype=torch.int64))
        batch.set_state(state)
    actions = random_actions(spec, 9, 40)
    for a in actions[:20]:
        assert_same(mine.step(a), host.step(a))
    for one, two in zip(mine.shortest_path(), host.shortest_path(), strict=True):
        assert torch.equal(one, two)
    for batch in (mine, host):
        batch.load_boards(state["boards"])
    for a in actions[20:]:
        assert_same(mine.step(a.to(torch.int32)), host.step(a))


def test_results_into_given_memory() -> None:
    mine, host = resident(SPECS["own"], 12, seed=1), MazeBatch(SPECS["own"], 12, seed=1)
    actions = random_actions(SPECS["own"], 12, 2)
    out = mine.step(actions[0])
    host.step(actions[0])
    poisoned = out._replace(**{k: v.clone().fill_(77) for k, v in out._asdict().items()})
    assert mine.step(actions[1], out=poisoned) is poisoned
    assert_same(poisoned, host.step(actions[1]))
    with pytest.raises(ValueError, match="out holds the same memory twice"):
        mine.step(actions[1], out=out._replace(obs=out.final_obs))
    with pytest.raises(ValueError, match=r"out\.obs is contiguous torch\.uint8 \[11, \d+\]"):
        mine.step(actions[1], out=out._replace(obs=out.obs[1:]))


def test_given_memory_may_begin_anywhere() -> None:
    """A row of a rollout's buffer; the sanitizer's build sees a misaligned write."""
    mine, host = (make(SPECS["corridors"], 3, seed=1) for make in (resident, MazeBatch))
    actions = random_actions(SPECS["corridors"], 3, 2)
    out = mine.step(actions[0])
    host.step(actions[0])
    rows = torch.empty(2, 2, *out.obs.shape, dtype=torch.uint8)
    assert rows[0, 1].data_ptr() % 8 != 0
    for place in (rows[0, 1], rows[1, 1]):
        step = mine.step(actions[1], out=out._replace(obs=place))
        assert_same(step, host.step(actions[1]))


def test_an_action_out_of_range_counts_modulo() -> None:
    mine, host = (make(SPECS["corridors"], 3, seed=1) for make in (resident, MazeBatch))
    assert_same(mine.step(torch.tensor([4, -1, 2**40 + 2])), host.step(torch.tensor([0, 3, 2])))


@pytest.mark.parametrize(
    ("actions", "found"),
    [
        (torch.zeros(3), "type torch.float32"),
        (torch.zeros(2, dtype=torch.int64), r"shape \(2,\)"),
        ([0, 1, 2], "type list"),
    ],
)
def test_bad_actions(actions: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"actions .*{found}: expected"):
        resident(SPECS["corridors"], 3, seed=1).step(actions)


def test_every_number_of_mazes() -> None:
    spec = replace(SPECS["corridors-view"], max_steps=3)
    for n in (1, 7, 63, 64, 128, 129):
        mine, host = resident(spec, n, seed=5), MazeBatch(spec, n, seed=5)
        for actions in random_actions(spec, n, 8):
            assert_same(mine.step(actions), host.step(actions))


@NEEDS_GPU
def test_given_memory_on_a_gpu() -> None:
    spec = SPECS["corridors"]
    mine, host = MazeBatch(spec, 3, seed=1, device="cuda"), MazeBatch(spec, 3, seed=1)
    odd = torch.empty(2, *mine.reset().shape, dtype=torch.uint8, device="cuda")[1]
    host.reset()
    out = mine.step(torch.zeros(3, dtype=torch.int64))._replace(obs=odd)
    host.step(torch.zeros(3, dtype=torch.int64))
    for actions in random_actions(spec, 3, 20):
        assert_same(on_host(mine.step(actions.cuda(), out=out)), host.step(actions))


@NEEDS_GPU
@pytest.mark.parametrize("name", SPECS)
def test_steps_on_a_gpu(name: str) -> None:
    spec, n = SPECS[name], 65
    mine, host = MazeBatch(spec, n, seed=3, device="cuda"), MazeBatch(spec, n, seed=3)
    for actions in random_actions(spec, n, 4096):
        assert_same(on_host(mine.step(actions.cuda())), host.step(actions))
