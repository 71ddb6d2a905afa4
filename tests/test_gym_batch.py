"""Other Gymnasium environments: their observations as tokens, and many of them at once."""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)

from envs import GymBatch, GymSpec
from envs.gym_tokens import tokens_of
from train import cli
from train import config as configs
from train.config import PRESETS, fit_model_to_board
from train.run.flags import parse as parse_flags

LAKE = GymSpec("FrozenLake-v1", '{"is_slippery": false}')


GRID_WORLD = {"agent": np.array([3, 1]), "target": np.array([0, 4])}
IMAGE = {"a": 3, "image": np.arange(6).reshape(2, 3)}
NESTED = {"a": {"b": 2, "c": (1, 0)}}


class Liar(gymnasium.Env):
    """Shows a number that its space does not have, once it has been told to."""

    observation_space, action_space = Discrete(5, start=-2), Discrete(2, start=7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        return 2, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        return {7: -2, 8: 3}[action], 0.5, False, False, {}


gymnasium.register("tests/Liar-v0", entry_point=Liar)


@pytest.mark.parametrize(
    ("space", "obs", "tokens", "cols", "vocab"),
    [
        (Discrete(16), 5, [5], 1, 16),
        (Discrete(5, start=-2), -1, [1], 1, 5),
        (Discrete(500), 100, [4, 8], 2, 23),  # 4 * 23 + 8
        (MultiDiscrete([3, 4], start=[1, 0]), [3, 3], [2, 3], 2, 4),
        (MultiBinary((2, 2)), [[0, 1], [1, 0]], [0, 1, 1, 0], 2, 2),
        (Box(0, 255, (2, 3), np.uint8), [[1, 2, 3], [4, 5, 255]], [1, 2, 3, 4, 5, 255], 3, 256),
        (Box(0, 9, (2, 1, 2), np.int32), [[[1, 2]], [[3, 4]]], [1, 2, 3, 4], 2, 10),
        (Box(0, 5976, (1, 2), np.int16), [[5976, 78]], [76, 48, 1, 0], 4, 78),
        (Tuple((Discrete(32), Discrete(11), Discrete(2))), (20, 10, 1), [20, 10, 1], 3, 32),
        (Dict(a=Text(5), b=Discrete(3)), {"a": "x", "b": 2}, [2], 1, 3),
        (
            Dict(target=Box(0, 4, (2,), int), agent=Box(0, 4, (2,), int)),
            GRID_WORLD,
            [0, 4, 3, 1],
            4,
            5,
        ),
        (Dict(a=Discrete(4), image=Box(0, 8, (2, 3), int)), IMAGE, [*range(6), 3, 0, 0], 3, 9),
        (Dict(a=Dict(b=Discrete(3), c=Tuple((Discrete(2), Discrete(1))))), NESTED, [2, 1, 0], 3, 3),
    ],
)
def test_tokens(space: Any, obs: Any, tokens: list[int], cols: int, vocab: int) -> None:
    write = tokens_of(space)
    assert (write.cells, write.cols, write.vocab) == (len(tokens), cols, vocab)
    obs = obs if isinstance(obs, dict | tuple | int) else np.array(obs)
    assert write(obs).tolist() == tokens
    assert write(obs).dtype == np.uint8


@pytest.mark.parametrize(
    "space", [Discrete(500), Box(-3, 70, (4, 4), np.int64), Box(0, 9999, (2, 5), np.int32)]
)
def test_different_observations_are_different_tokens(space: Any) -> None:
    write = tokens_of(space)
    space.seed(0)
    seen = {np.asarray(obs).tobytes(): obs for obs in (space.sample() for _ in range(300))}
    rows = {tuple(write(obs)) for obs in seen.values()}
    assert len(rows) == len(seen)
    assert max(map(max, rows)) < write.vocab <= 256


@pytest.mark.parametrize(
    ("space", "entry", "words"),
    [
        (Box(-1, 1, (3,), np.float32), None, "expected integers with bounds"),
        (Box(0, 255, (84, 84, 3), np.uint8), None, "21168 numbers: expected 1 to 1024"),
        (Box(-(2**31), 2**31 - 1, (2,), np.int64), None, "4294967296 values: expected at most"),
        (Text(9), None, "expected integers with bounds"),
        (Tuple(()), None, "0 numbers"),
        (Tuple((Discrete(3), Text(9))), None, "expected integers with bounds"),
        (Dict(a=Discrete(3)), "c", "entry is 'c': expected one of a"),
        (Dict(a=Discrete(3), b=Discrete(2)), "a,c", "entry is 'a,c': expected one of a, b"),
        (Dict(a=Text(3)), None, "none of a fits"),
        (Dict(a=Text(3), b=Discrete(3)), "a", "a is text"),
        (
            Dict(a=Discrete(4), b=Box(0, 9, (19, 19, 3), int)),
            None,
            "1084 numbers (b 1083, a 1), 1140 in whole rows",
        ),
        (Dict(a=Discrete(4), b=Box(-1, 1, (3,))), None, "b is Box(-1.0, 1.0, (3,), float32)"),
        (Dict(a=Discrete(4), b=Box(-np.inf, np.inf, (3,))), None, "expected integers with bounds"),
        (Dict(a=Discrete(4), b=Dict(c=Sequence(Discrete(3)))), None, "b.c is Sequence"),
        (Tuple((Discrete(3), Dict(a=OneOf((Discrete(3), Discrete(2)))))), None, "1.a is OneOf"),
        (Box(2**63 - 9, 2**63 - 1, (2,), np.int64), None, "beyond 2**62"),
        (None, None, "it is None (NoneType): expected a space"),
        (Discrete(3), "a", "entry is 'a': expected None"),
    ],
)
def test_spaces_that_do_not_fit(space: Any, entry: str | None, words: str) -> None:
    with pytest.raises(ValueError) as error:
        tokens_of(space, entry)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def played(batch: GymBatch, steps: int) -> list[torch.Tensor]:
    """All that `steps` random steps show; the same actions for environment i whatever N."""
    generator = torch.Generator().manual_seed(0)
    seen = [batch.reset()]
    for _ in range(steps):
        actions = torch.randint(batch.spec.actions, (8,), generator=generator)
        step = batch.step(actions[: batch.num_envs])
        seen += [step.obs, step.reward, step.terminated, step.truncated, step.final_obs]
    return seen


def test_a_batch_is_gymnasiums_environment() -> None:
    """Slippery: the chances of every episode are those of its seed."""
    spec = GymSpec("FrozenLake-v1", max_steps=6)
    batch = GymBatch(spec, 3, seed=5)
    assert (spec.cells, spec.rows, spec.cols, spec.vocab, spec.actions) == (1, 1, 1, 16, 4)
    seeds = [
        [int(np.random.SeedSequence((5, i, k)).generate_state(1)[0] >> 1) for k in range(99)]
        for i in range(3)
    ]
    single = [gymnasium.make("FrozenLake-v1", max_episode_steps=6) for _ in range(3)]
    expected = [env.reset(seed=seeds[i].pop(0))[0] for i, env in enumerate(single)]
    obs, rng = batch.reset(), np.random.default_rng(0)
    ends = np.zeros(2)
    for _ in range(120):
        assert obs.dtype == torch.uint8 and obs[:, 0].tolist() == expected
        actions = rng.integers(4, size=3)
        step = batch.step(torch.from_numpy(actions))
        for i, env in enumerate(single):
            expected[i], reward, terminated, truncated, _ = env.step(actions[i])
            assert step.final_obs[i, 0] == expected[i] and step.reward[i] == reward
            assert (step.terminated[i], step.truncated[i]) == (terminated, truncated > terminated)
            if terminated or truncated:
                expected[i] = env.reset(seed=seeds[i].pop(0))[0]
                ends += terminated, truncated
        obs = step.obs
    assert ends.min() > 5


def test_the_same_seed_is_the_same_whatever_their_number() -> None:
    spec = GymSpec("FrozenLake-v1")
    many, few, other = (played(GymBatch(spec, n, seed=s), 60) for n, s in ((8, 1), (3, 1), (8, 2)))
    assert all(torch.equal(a[:3], b) for a, b in zip(many, few, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(many, other, strict=True))


def test_a_restored_batch_goes_on_with_new_episodes() -> None:
    spec = GymSpec("Blackjack-v1")
    batch, again = GymBatch(spec, 4, seed=3), GymBatch(spec, 4, seed=3)
    first = played(batch, 20)
    state = batch.get_state()
    assert (state["episodes"] > 1).all()
    again.set_state(state)
    continued = played(again, 20)
    assert all(torch.equal(a, b) for a, b in zip(played(batch, 20), continued, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, continued, strict=True))
    with pytest.raises(ValueError, match=r"expected episodes \[4\]"):
        batch.set_state({"boards": torch.zeros(4)})


def test_numbers_beyond_the_space_are_refused() -> None:
    """They would be read beyond the embedding's table."""
    batch = GymBatch(GymSpec("tests/Liar-v0"), 2)
    assert batch.reset().tolist() == [[4], [4]]
    assert batch.step(torch.tensor([0, 0])).obs.tolist() == [[0], [0]]
    with pytest.raises(ValueError, match="observation holds 3 at 0: expected -2 to 2"):
        batch.step(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("castle", "env is 'castle': expected gym:ID or gym:MODULE:ID"),
        ("gym:a:b:c", "expected gym:ID or gym:MODULE:ID"),
        ("gym:.a:b", "expected a module"),
        ("gym:no_such_module:X-v0", "No module named 'no_such_module'"),
        ("gym:No such", "id is 'No such'"),
        ("gym:Nothing-v0", "expected one that gymnasium.make finds"),
        ("gym:CartPole-v1", "observation of CartPole-v1 does not fit"),
        ("gym:tests/Pump-v0", "action of tests/Pump-v0 is Box"),
    ],
)
def test_environments_that_do_not_fit(
    text: str, words: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Liar, "action_space", Box(0, 1, (1,)))
    gymnasium.registry.setdefault("tests/Pump-v0", gymnasium.spec("tests/Liar-v0"))
    with pytest.raises(SystemExit) as stop:
        cli.main(lambda: parse_flags(["--preset", "quick", "--env", text]) and None)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": "[1]"}, "options is '[1]': expected a JSON object"),
        ({"max_steps": 0}, "max_steps is 0: expected 1 or more"),
        ({"id": "module:X-v0"}, "id is 'module:X-v0'"),
    ],
)
def test_bad_fields(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        GymSpec(**{"id": "FrozenLake-v1", **fields})
    assert words in str(error.value)


def test_a_module_is_imported_for_a_flag_and_never_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lakes.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = parse_flags(["--preset", "quick", "--env", "gym:my_lakes:Mine-v0"])
    assert config.env.id == "Mine-v0" and config.hrm.vocab == 16
    assert "my_lakes" not in configs.to_json(config)
    del sys.modules["my_lakes"]
    data = json.loads(configs.to_json(config))
    data["env"]["id"] = "my_lakes:Mine-v0"
    with pytest.raises(ValueError, match="id is 'my_lakes:Mine-v0'"):
        configs.from_json(json.dumps(data))
    assert "my_lakes" not in sys.modules


def test_the_time_limit_is_the_registered_one_or_that_of_the_flag() -> None:
    for asked, limit in ((None, 100), (7, 7), (130, 130)):
        batch = GymBatch(GymSpec(LAKE.id, LAKE.options, max_steps=asked), 1)
        batch.reset()
        ends = [batch.step(torch.tensor([0])).truncated.item() for _ in range(limit)]
        assert ends == [False] * (limit - 1) + [True]


def test_our_own_mazes_as_any_other() -> None:
    """Tokens are the board's codes: an agent of the maze would feel at home."""
    spec = GymSpec("hrm_fast/FourRooms-v0")
    own = fit_model_to_board(PRESETS["four-rooms"]).hrm
    assert (spec.cells, spec.cols, spec.actions) == (own.cells, own.columns, own.actions)
    obs = GymBatch(spec, 2).reset()
    assert ((obs == ord("@")).sum(1) == 1).all() and ((obs == ord(">")).sum(1) == 1).all()


def test_minigrid() -> None:
    pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    whole = GymSpec("MiniGrid-Empty-5x5-v0")
    assert (whole.rows, whole.cols, whole.vocab, whole.actions) == (6, 15, 256, 7)
    batch = GymBatch(whole, 2)
    first = batch.reset()
    assert first[:, 75:].eq(0).all()  # direction: east; the rest fills up the row
    assert batch.step(torch.tensor([1, 0])).obs[:, 75].tolist() == [1, 3]
    objects = first[:, :75].reshape(2, 5, 5, 3)[..., 0]
    assert ((objects == 10).sum((1, 2)) == 1).all()  # Minigrid's number of an agent
    assert (objects[:, 3, 3] == 8).all()  # and of the goal
    rewards = [batch.step(torch.tensor([a, 6])) for a in (0, 2, 2, 1, 2, 2)]
    assert rewards[-1].solved.tolist() == [True, False]
    assert 0.9 < rewards[-1].reward[0] < 1
    assert GymSpec("MiniGrid-Empty-5x5-v0", whole_grid=False).cells == 8 * 7 * 3
    assert GymSpec("MiniGrid-Empty-5x5-v0", entry="image").cells == 5 * 5 * 3


def test_minihack() -> None:
    pytest.importorskip("minihack", reason="the extra minihack is not installed")
    spec = GymSpec("MiniHack-Room-Random-5x5-v0")
    assert (spec.rows, spec.cols, spec.vocab, spec.actions) == (9, 9, 256, 8)
    first, again = (played(GymBatch(spec, 3, seed=4), 110) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    obs, rewards, terminated = (torch.stack(first[i::5]) for i in (1, 2, 3))
    assert (obs[:, :, 40] == ord("@")).all()  # the crop's centre
    assert (terminated & (rewards > 0)).any() and len(obs.flatten(0, 1).unique(dim=0)) > 10
    still = GymBatch(GymSpec("MiniHack-Room-5x5-v0"), 1)
    still.reset()
    steps = [still.step(torch.tensor([0])) for _ in range(100)]
    assert steps[-1].truncated.all() and not steps[-1].terminated.any()  # MiniHack's own limit
    assert torch.equal(steps[-1].final_obs, steps[-2].obs)  # in the corner, moving north
    assert not torch.cat([s.truncated for s in steps[:-1]]).any()
