"""Copies of mazes and environments go on like the original."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import envs
from envs import GymBatch, GymSpec, MazeBatch, MazeSpec
from envs.gymnasium_env import MazeEnv, MazeVectorEnv

SPEC = MazeSpec(map="four-rooms", p_change=0.5, max_steps=7)
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "old pickle": lambda x: pickle.loads(pickle.dumps(x, 2)),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and one.dtype == object:
        return same(list(one), list(other))
    return type(one) is type(other) and bool(np.array_equal(one, other))


def actions(n: int, count: int = 4) -> torch.Tensor:
    return torch.randint(count, (25, n), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("begun", [0, 5])
def test_a_batch_of_mazes(how: str, begun: int) -> None:
    one = MazeBatch(SPEC, 5, seed=3, threads=2, first=7)
    if begun:
        one.reset()
    for action in actions(5)[:begun]:
        one.step(action)
    kept = one.get_state()
    other = COPIES[how](one)
    assert (other.spec, other.num_envs, other.device) == (SPEC, 5, torch.device("cpu"))
    assert other.threads == one.threads
    walks = [[[step.numpy() for step in x.step(a)] for a in actions(5)] for x in (one, other)]
    assert same(*walks)
    assert not same(one.get_state(), kept)
    assert same(one.reset(), other.reset())


def test_a_copy_of_mazes_stands_by_itself() -> None:
    one = MazeBatch(SPEC, 5)
    other = copy.deepcopy(one)
    before = other.get_state()
    one.reset()
    assert same(other.get_state(), before)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("make", [lambda: MazeEnv(SPEC, "ansi"), lambda: gymnasium.make(
    "hrm_fast/FourRooms-v0", maze=SPEC, render_mode="ansi")], ids=["own", "made"])  # fmt: skip
def test_one_environment(how: str, make: Callable[[], Any]) -> None:
    """In the middle of an episode, at its end, and before the first."""
    unborn, running = make(), make()
    pairs = [(unborn, COPIES[how](unborn))]
    running.reset(seed=4)
    for t in range(8):
        pairs.append((running, COPIES[how](running)))
        assert same(pairs[-1][1].render(), running.render())
        *_, terminated, truncated, _ = running.step(t % 4)
        if terminated or truncated:
            pairs.append((running, COPIES[how](running)))
            running.reset()
    for one, other in ((COPIES[how](one), other) for one, other in [pairs[0], pairs[-1]]):
        assert same(one.reset(seed=9), other.reset(seed=9))
    again = COPIES[how](running)
    walks = []
    for env in (running, again):
        walks.append([])
        for action in actions(1).flatten().tolist():
            step = env.step(action)
            walks[-1].append((*step, env.reset()[0] if step[2] or step[3] else None))
        walks[-1].append(env.reset())  # numbers are drawn on from where they were
    assert same(*walks)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("began", [False, True])
def test_a_vector_of_environments(how: str, began: bool) -> None:
    one = MazeVectorEnv(3, SPEC, threads=1)
    if began:
        one.reset(seed=2)
        one.step(np.array([1, 2, 3]))
    other = COPIES[how](one)
    if not began:
        assert same(one.reset(seed=1), other.reset(seed=1))
    for action in actions(3).numpy():
        assert same(one.step(action), other.step(action))
    assert same(one.reset(), other.reset())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_other_environments(how: str) -> None:
    one = GymBatch(GymSpec("FrozenLake-v1", max_steps=6), 3, seed=5)
    one.reset()
    one.step(torch.tensor([1, 2, 3]))
    other = COPIES[how](one)
    for action in actions(3):
        assert same(*([x.numpy() for x in batch.step(action)] for batch in (one, other)))
    assert same(one.get_state(), other.get_state())
    other.set_state({"episodes": torch.tensor([50, 51, 52])})
    assert one.get_state()["episodes"].max() < 50


def test_a_copy_lives_in_another_process() -> None:
    """As `torch.utils.data.DataLoader` and `multiprocessing` hand them over."""
    context = torch.multiprocessing.get_context("spawn")
    one = MazeBatch(SPEC, 3, seed=1)
    with context.Pool(1) as pool:
        found = pool.apply(walked, (one,))
    assert same(found, walked(one))


def walked(batch: MazeBatch) -> np.ndarray:
    assert envs.MazeBatch is type(batch)
    return np.stack([batch.step(action).obs.numpy() for action in actions(3)])
