"""Whatever says that it is an integer is one, but no bool; it becomes a Python int at the door."""

import enum
import json
from typing import Any

import numpy as np
import pytest
import torch

from envs import GymBatch, GymSpec, MazeBatch, MazeSpec
from envs.gymnasium_env import MazeEnv, MazeVectorEnv
from hrm_fast import HRM, HRMConfig
from train import config as configs
from train.config import Config, DQNConfig


class Five(enum.IntEnum):
    FIVE = 5


class Index:
    def __index__(self) -> int:
        return 5


FIVES = {
    "int64": np.int64(5),
    "uint8": np.uint8(5),
    "array": np.array(5),
    "tensor": torch.tensor(5),
    "enum": Five.FIVE,
    "index": Index(),
}
NO_INTEGERS = {
    "True": True,
    "numpy's True": np.True_,
    "torch's True": torch.tensor(True),
    "5.0": 5.0,
    "numpy's 5.0": np.float32(5),
    "'5'": "5",
    "several": np.array([5, 5]),
}
TINY: dict[str, Any] = {"width": 8, "inner": 8, "h_layers": 1, "l_layers": 1}


def made_of(five: Any) -> list[tuple[Any, Any]]:
    """What is made of it, and where it ends up."""
    spec = MazeSpec(map="room", size=five, actions=4, max_steps=five, view_radius=five)
    dqn = DQNConfig(num_mazes=five, batch_size=five, n_step=five, epsilon_updates=five)
    hrm = HRMConfig(cells=five, columns=five, segments=five, vocab=five, heads=1, q_token="last")
    run = Config("quick", updates=five, seed=five, eval_episodes=five)
    batch, vector = MazeBatch(spec, five, five, threads=five, first=five), MazeVectorEnv(five, spec)
    gym, frozen = GymSpec("FrozenLake-v1", max_steps=five), GymSpec("FrozenLake-v1")
    return [
        (spec, spec.size), (spec, spec.max_steps), (spec, spec.view_radius),
        (dqn, dqn.num_mazes), (dqn, dqn.n_step), (dqn, dqn.epsilon_updates),
        (hrm, hrm.cells), (hrm, hrm.columns), (hrm, hrm.segments), (hrm, hrm.vocab),
        (run, run.updates), (run, run.seed), (run, run.eval_episodes),
        (batch, batch.num_envs), (vector, vector.num_envs), (gym, gym.max_steps),
        (gym, GymBatch(frozen, five, seed=five, first=five).num_envs),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", FIVES)
def test_integers(kind: str) -> None:
    for made, found in made_of(FIVES[kind]):
        assert type(found) is int and found == 5, made
    expected = [made for made, _ in made_of(5)]
    for (made, _), right in zip(made_of(FIVES[kind]), expected, strict=True):
        if isinstance(right, MazeSpec | GymSpec | HRMConfig | DQNConfig | Config):
            assert made == right and hash(made) == hash(right)
            assert json.dumps(vars(made), default=str) == json.dumps(vars(right), default=str)


@pytest.mark.parametrize("kind", FIVES)
def test_seeds_and_segments(kind: str) -> None:
    five = FIVES[kind]
    for env in (MazeEnv(map="room"), MazeVectorEnv(2, map="room")):
        assert np.array_equal(env.reset(seed=five)[0], env.reset(seed=5)[0])
    torch.manual_seed(0)
    hrm = HRM(HRMConfig(cells=3, heads=2, **TINY))
    tokens = torch.full((2, 3), 64, dtype=torch.uint8)
    assert torch.equal(hrm.decide(tokens, segments=five)[0], hrm.decide(tokens, segments=5)[0])


@pytest.mark.parametrize("kind", NO_INTEGERS)
def test_what_is_no_integer(kind: str) -> None:
    bad = NO_INTEGERS[kind]
    for name, make in {
        "max_steps": lambda: MazeSpec(max_steps=bad),
        "size": lambda: MazeSpec(map="room", size=bad),
        "heads": lambda: HRMConfig(heads=bad),
        "columns": lambda: HRMConfig(columns=bad),
        "dqn.n-step": lambda: DQNConfig(n_step=bad),
        "updates": lambda: Config("quick", updates=bad),
        "seed": lambda: Config("quick", seed=bad),
        "num_envs": lambda: MazeBatch(MazeSpec(), bad),
        "threads": lambda: MazeBatch(MazeSpec(), 1, threads=bad),
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .*: expected"):
            make()
    for make in (
        lambda: GymSpec("FrozenLake-v1", max_steps=bad),
        lambda: GymBatch(GymSpec("FrozenLake-v1"), bad),
        lambda: MazeVectorEnv(bad),
        lambda: MazeVectorEnv(2).reset(seed=bad),
        lambda: MazeBatch(MazeSpec(), 1, seed=bad),
    ):
        with pytest.raises(ValueError, match=r"is .*: expected"):
            make()


def test_other_numbers_of_numpy_and_torch() -> None:
    for half in (np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)):
        spec, dqn = MazeSpec(p_change=half, crop_wall=np.True_), DQNConfig(gamma=half)
        assert (type(spec.p_change), type(dqn.gamma), spec.crop_wall) == (float, float, True)
        run = Config("quick", env=spec, hrm=HRMConfig(expansion=half, zero_head=np.False_), dqn=dqn)
        assert configs.from_json(configs.to_json(run)) == run


def test_actions_of_an_environment() -> None:
    """What `q.argmax()` gives is one."""
    for action in (1, np.int64(1), np.array(1), torch.tensor(1)):
        env = MazeEnv(map="room")
        env.reset(seed=0)
        env.step(action)
    with pytest.raises(ValueError, match="action is True: expected an integer"):
        env.step(torch.tensor(True))
