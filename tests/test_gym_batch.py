"""Other Gymnasium environments: their observations as tokens, many at once, and trained on."""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from envs import GymBatch, GymSpec, MazeSpec
from envs.gym_tokens import tokens_of
from hrm_fast import HRM
from train import checkpoint, cli, dqn, evaluate, watch
from train import config as configs
from train.config import PRESETS, fit_model_to_board
from train.dqn import Trainer

LAKE = GymSpec("FrozenLake-v1", '{"is_slippery": false}')
CPU = torch.device("cpu")


class Liar(gymnasium.Env):
    """Shows a number that its space does not have, once it has been told to."""

    observation_space, action_space = Discrete(5, start=-2), Discrete(2, start=7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        return 2, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        return {7: -2, 8: 3}[action], 0.5, False, False, {}


gymnasium.register("tests/Liar-v0", entry_point=Liar)


def small_config(env: GymSpec, *flags: str) -> configs.Config:
    start = ["--preset", "quick", "--env", f"gym:{env.id}", "--env.options", env.options]
    return configs.parse([*start, *flags])


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
        (Dict(direction=Discrete(4), image=Discrete(9)), {"direction": 1, "image": 8}, [8], 1, 9),
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
        (Dict(a=Discrete(3), b=Discrete(3)), None, "entry is None: expected one of a, b"),
        (Dict(a=Discrete(3)), "c", "entry is 'c': expected one of a"),
        (Dict(a=Text(3)), None, "none of a fits"),
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
        cli.main(lambda: configs.parse(["--preset", "quick", "--env", text]) and None)
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
    config = configs.parse(["--preset", "quick", "--env", "gym:my_lakes:Mine-v0"])
    assert config.env.id == "Mine-v0" and config.hrm.vocab == 16
    assert "my_lakes" not in configs.to_json(config)
    del sys.modules["my_lakes"]
    data = json.loads(configs.to_json(config))
    data["env"]["id"] = "my_lakes:Mine-v0"
    with pytest.raises(ValueError, match="id is 'my_lakes:Mine-v0'"):
        configs.from_json(json.dumps(data))
    assert "my_lakes" not in sys.modules


def test_flags_and_json() -> None:
    config = small_config(LAKE, "--env.max-steps", "9", "--hrm.carry", "carry")
    assert config.env == GymSpec(LAKE.id, LAKE.options, max_steps=9)
    shape = config.hrm
    assert (shape.cells, shape.columns, shape.vocab, shape.actions) == (1, 1, 16, 4)
    assert (shape.q_token, shape.carry, config.dqn.relabel) == ("mean", "carry", 0)
    assert configs.from_json(configs.to_json(config)) == config
    with pytest.raises(ValueError, match=r"relabel is 0\.5: expected 0 where env is no maze"):
        small_config(LAKE, "--dqn.relabel", "0.5")
    with pytest.raises(ValueError, match=r"hrm.vocab is 9: expected more than 15"):
        small_config(LAKE, "--hrm.vocab", "9")
    assert isinstance(PRESETS["quick"].env, MazeSpec)


def test_a_config_is_read_without_making_its_environment(tmp_path: Path) -> None:
    """So that an agent loads where its environment's package is missing."""
    config = small_config(LAKE)
    gone = configs.replace(config, env=GymSpec("MiniHack-Gone-v0"))
    checkpoint.save(tmp_path / "x.safetensors", HRM(config.hrm), gone)
    assert checkpoint.load(tmp_path / "x.safetensors")[0] == gone


def test_an_agent_of_fewer_tokens_is_not_let_in(tmp_path: Path) -> None:
    """Its environment's numbers would be read beyond its embedding's table."""
    config = small_config(LAKE)
    small = configs.replace(config, hrm=configs.replace(config.hrm, vocab=9))
    checkpoint.save(tmp_path / "x.safetensors", HRM(small.hrm), small)
    with pytest.raises(ValueError, match="vocab of FrozenLake-v1 is 16: expected at most 9"):
        evaluate.program(str(tmp_path / "x.safetensors"))


def test_learns_a_frozen_lake() -> None:
    flags = ("--updates", "250", "--dqn.epsilon-updates", "150", "--dqn.num-mazes", "32")
    trainer = Trainer(small_config(LAKE, *flags), CPU)
    untrained = evaluate.evaluate(trainer.judged, LAKE, 8, seed=1)
    while trainer.update < trainer.config.updates:
        trainer.cycle()
    trained = evaluate.evaluate(trainer.judged, LAKE, 8, seed=1)
    assert untrained.success == 0
    assert (trained.success, trained.mean_length, trained.mean_return) == (1, 6, 1)
    assert trained.shortest_ratio is None


def test_evaluation_repeats_and_its_waves_are_different_episodes() -> None:
    spec = GymSpec("Blackjack-v1")
    results = [
        evaluate.rollout(spec, evaluate.random_walker(2, 1), n, 1, CPU) for n in (100, 100, 64)
    ]
    assert results[0] == results[1]
    assert results[0].mean_return != results[2].mean_return
    assert 0 < results[0].success < 0.5 and results[0].mean_return < 0


def test_every_walker_is_judged_on_the_same_episodes() -> None:
    """Though a wave that took longer has begun more of them."""
    seen: list[dict[int, list[int]]] = [{}, {}]

    def walker(always: int) -> evaluate.Walker:
        def walk(_: Any, obs: torch.Tensor, walking: torch.Tensor) -> torch.Tensor:
            for episode, board in zip(walking.tolist(), obs.tolist(), strict=True):
                seen[always].setdefault(episode, board)
            return torch.full_like(walking, always)

        return walk

    for always in (0, 1):
        evaluate.rollout(GymSpec("Blackjack-v1"), walker(always), 150, 1, CPU)
    assert seen[0] == seen[1] and len(seen[0]) == 150
    assert [seen[0][i] for i in range(64)] != [seen[0][i] for i in range(64, 128)]


def test_a_run_goes_on_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = str(tmp_path / "run")

    def run(program: Any, *flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *flags])
        program()
        return capsys.readouterr().out

    start = ("--preset", "quick", "--env", "gym:Blackjack-v1", "--run-dir", folder)
    sizes = ("--dqn.num-mazes", "8", "--dqn.batch-size", "8", "--dqn.learning-starts", "64")
    few = ("--log-every", "4", "--eval-every", "4", "--eval-episodes", "8")
    run(dqn.program, *start, *sizes, *few, "--updates", "8")
    out = run(dqn.program, "--resume", folder, "--updates", "12")
    assert "new episodes begin" in out and "update      12" in out
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert "eval/episodic_return" in rows[0] and len(rows) == 4
    with pytest.raises(ValueError, match="expected gym:Blackjack-v1, as the run began"):
        run(dqn.program, "--resume", folder, "--env", "gym:FrozenLake-v1")

    result = tmp_path / "result.json"
    program = lambda: cli.parse(evaluate.program)  # noqa: E731
    out = run(program, folder, "--episodes", "9", "--json", str(result))
    assert "mean return" in out and "shortest path" not in out
    assert {"success", "mean_return", "mean_length"} <= set(json.loads(result.read_text()))
    with pytest.raises(ValueError, match="cells of FrozenLake-v1 is 1: expected 3, as the agent"):
        run(program, folder, "--env", "gym:FrozenLake-v1")
    with pytest.raises(ValueError, match="env is gym:Blackjack-v1: expected 'ansi' among"):
        run(watch.main, folder)
    with pytest.raises(ValueError, match="env is gym:Blackjack-v1: expected a maze"):
        run(watch.main, folder, "--html", str(tmp_path / "page.html"))


def test_what_follows_a_restart_is_no_part_of_an_earlier_episode(tmp_path: Path) -> None:
    flags = ("--dqn.num-mazes", "4", "--dqn.batch-size", "256", "--dqn.learning-starts", "16")
    config = small_config(LAKE, *flags, "--updates", "40", "--hrm.carry", "carry")
    first, again = Trainer(config, CPU), Trainer(config, CPU)
    first.cycle()
    first.save(tmp_path / "state.safetensors", 0.0, 0.0)
    again.restore(tmp_path / "state.safetensors")
    old = again.replay.rows - int(again.replay.filled)
    assert old > 0 and again.collector.obs.eq(0).all() and again.collector.lengths.eq(0).all()
    assert torch.equal(again.collector.seed.z_H, again.hrm.start_seed(4).z_H)
    last = int(again.replay.filled) - 1
    assert again.replay.data["ends_t"][last].all()
    assert not first.replay.data["ends_t"][last].all()
    assert again.replay.data["discount_t"][last].eq(config.dqn.gamma).any()  # it goes on from s_t


def test_watch_in_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    config = small_config(LAKE, "--env.max-steps", "5")
    checkpoint.save(tmp_path / "best.safetensors", HRM(config.hrm), config)
    monkeypatch.setattr(sys, "argv", ["watch", str(tmp_path), "--episodes", "2"])
    watch.main()
    out = capsys.readouterr().out
    assert out.count("time limit") + out.count("ended") == 2
    assert "FFFH" in out and "Q  >0.000" in out  # the lake's second row


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
    assert (whole.rows, whole.cols, whole.vocab, whole.actions) == (5, 15, 256, 7)
    batch = GymBatch(whole, 2)
    objects = batch.reset().reshape(2, 5, 5, 3)[..., 0]
    assert ((objects == 10).sum((1, 2)) == 1).all()  # Minigrid's number of an agent
    assert (objects[:, 3, 3] == 8).all()  # and of the goal
    rewards = [batch.step(torch.tensor([a, 6])) for a in (2, 2, 1, 2, 2)]
    assert rewards[-1].solved.tolist() == [True, False]
    assert 0.9 < rewards[-1].reward[0] < 1
    assert GymSpec("MiniGrid-Empty-5x5-v0", whole_grid=False).cells == 7 * 7 * 3


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name", "updates"),
    [("minihack", "MiniHack-Room-5x5-v0", 300), ("minigrid", "MiniGrid-Empty-5x5-v0", 700)],
)
def test_learns_rooms_of_others(package: str, name: str, updates: int) -> None:
    pytest.importorskip(package, reason=f"the extra {package} is not installed")
    trainer = Trainer(small_config(GymSpec(name), "--updates", str(updates)), CPU)
    while trainer.update < updates:
        trainer.cycle()
    assert evaluate.evaluate(trainer.judged, trainer.config.env, 64, seed=1).success >= 0.95
