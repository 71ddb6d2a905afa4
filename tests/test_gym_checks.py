"""Environments of others that are not what they say: refused in one line, limited, and closed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from gymnasium.wrappers import TimeLimit

from envs import GymBatch, GymSpec, gym_episodes
from envs.spec import NAMED_MAPS
from hrm_fast import HRM
from train import cli, dqn, evaluate
from train.episodes import random_walker
from train.run.flags import parse as parse_flags
from train.watch import __main__ as watch
from train.watch import gym

CPU = torch.device("cpu")
FEW = (
    *("--updates", "8", "--log-every", "4", "--eval-every", "4", "--eval-episodes", "8"),
    *("--dqn.num-mazes", "3", "--dqn.batch-size", "8", "--dqn.learning-starts", "30"),
)
Came = tuple[Any, ...]


class Toy(gymnasium.Env):
    """Episodes of 6 steps. `spoil` changes what its method returns in and after step `since`."""

    metadata: ClassVar = {"render_modes": ["ansi"]}
    observation_space = Dict(
        target=Box(0, 4, (2,), np.int64), agent=Tuple((Discrete(5), Discrete(5))), say=Text(9)
    )
    action_space = Discrete(2, start=1)
    method, spoil, since, end = "step", staticmethod(lambda came: came), 0, 6
    made, most = 0, 1_000
    open: ClassVar[set[int]] = set()

    def __init__(self, render_mode: str | None = None) -> None:
        if Toy.made == self.most:
            raise MemoryError("no more of them")
        Toy.made += 1
        Toy.open.add(id(self))

    def came(self, method: str, *came: Any) -> Any:
        is_now = method == self.method and self.step_count >= self.since
        return Toy.spoil(came) if is_now else came

    def obs(self) -> dict:
        x, y, a, b = (int(i) for i in self.np_random.integers(5, size=4))
        return {"agent": (x, y), "target": np.array([a, b]), "say": "hello"}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.step_count = 0
        return self.came("reset", self.obs(), {})

    def step(self, action: int) -> Any:
        assert action in (1, 2)
        self.step_count += 1
        return self.came("step", self.obs(), 1.0, self.step_count == self.end, False, {})

    def render(self) -> Any:
        return self.came("render", "a picture")[0]

    def close(self) -> None:
        Toy.open.discard(id(self))
        if self.method == "close":
            raise RuntimeError("closed before")


def limited() -> gymnasium.Env:
    return TimeLimit(Toy(), 4)


gymnasium.register("tests/Toy-v0", entry_point=Toy)
gymnasium.register("tests/Limited-v0", entry_point=limited)
TOY = GymSpec("tests/Toy-v0")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "made", 0)
    monkeypatch.setattr(Toy, "open", set())
    monkeypatch.setattr(gym_episodes, "_told", set())
    monkeypatch.setattr(sys.modules[__name__], "TOY", GymSpec(TOY.id))  # nothing is remembered


def spoiled(monkeypatch: pytest.MonkeyPatch, method: str, spoil: Any, since: int = 0) -> None:
    for name, value in (("method", method), ("since", since), ("spoil", staticmethod(spoil))):
        monkeypatch.setattr(Toy, name, value)


def part(**values: Any) -> Callable[[Came], Came]:
    """The observation with other entries; None: without it."""
    return lambda came: (
        {k: v for k, v in {**came[0], **values}.items() if v is not None},
        *came[1:],
    )


def at(place: int, value: Any) -> Callable[[Came], Came]:
    return lambda came: (*came[:place], value, *came[place + 1 :])


def fails(error: BaseException) -> Callable[[Came], Came]:
    def spoil(came: Came) -> Came:
        raise error

    return spoil


class Silent:
    def __repr__(self) -> str:
        raise KeyError("no repr")


FINITE = "expected one finite number of float32"
FAULTS = [
    (part(target=np.array([3])), "observation target is ndarray of int64, shape (1,)"),
    (part(target=np.array([3])), "expected Box(0, 4, (2,), int64), as its space is"),
    (part(target=3), "observation target is 3 (int): expected Box(0, 4, (2,), int64)"),
    (part(target=np.ones(2)), "observation target is ndarray of float64, shape (2,)"),
    (part(target=[1, [2]]), "observation target is list of 2"),
    (part(target=np.array([3, 5])), "observation target holds 5 at 1: expected 0 to 4"),
    (part(target=None), "observation is dict of agent, say: expected a dict of agent, say, target"),
    (part(more=1), "observation is dict of agent, target, say, more"),
    (part(agent=(1,)), "observation agent is tuple of 1: expected a tuple of 2"),
    (part(agent=(1, None)), "observation agent.1 is None (NoneType): expected Discrete(5)"),
    (part(agent=(1, np.array([1]))), "observation agent.1 is ndarray of int64, shape (1,)"),
    (part(agent=(1.0, 1)), "observation agent.0 is 1.0 (float)"),
    (at(0, None), "observation is None (NoneType): expected a dict"),
    (at(1, np.array([1.0])), f"reward is ndarray of float64, shape (1,): {FINITE}"),
    (at(1, float("nan")), f"reward is nan (float): {FINITE}"),
    (at(1, np.float32("-inf")), f"reward is -inf (float32): {FINITE}"),
    (at(1, 1e300), f"reward is 1e+300 (float): {FINITE}"),
    (at(1, 10**400), f"(int): {FINITE}"),
    (at(1, None), f"reward is None (NoneType): {FINITE}"),
    (at(1, "1"), f"reward is '1' (str): {FINITE}"),
    (at(1, Silent()), f"reward is one (Silent): {FINITE}"),
    (at(1, 1j), f"reward is 1j (complex): {FINITE}"),
    (at(2, 0), "terminated is 0 (int): expected True or False"),
    (at(3, None), "truncated is None (NoneType): expected True or False"),
    (at(3, np.array([False])), "truncated is ndarray of bool, shape (1,)"),
    (lambda came: came[:3] + came[4:], "what step returned is tuple of 4: expected (observation,"),
    (fails(KeyError("door\nway")), "raised KeyError: 'door\\nway' in step ("),
    (fails(SystemExit(0)), "raised SystemExit: 0 in step ("),
]


@pytest.mark.parametrize("since", [0, 4])
@pytest.mark.parametrize(("spoil", "words"), FAULTS)
def test_what_a_step_returns(
    spoil: Any, words: str, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first step already when the environment is looked at; later wherever it comes."""
    batch = GymBatch(TOY, 2)
    batch.reset()
    spoiled(monkeypatch, "step", spoil, since)
    for _ in range(since - 1):
        batch.step(torch.tensor([0, 1]))
    walks: list[Callable[[], Any]] = [lambda: batch.step(torch.tensor([0, 1]))]
    if since == 0:
        walks.append(lambda: GymSpec("tests/Toy-v0").cells)
    for walk_ in walks:
        with pytest.raises(ValueError) as error:
            walk_()
        assert "gym:tests/Toy-v0" in str(error.value) and words in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda came: came[0], "what reset returned is dict of agent, target, say: expected (obs"),
        (lambda came: (came[0], None), "what reset returned is tuple of 2: expected (observation,"),
        (fails(RuntimeError("no display")), "raised RuntimeError: no display in reset ("),
        (fails(TypeError("no seed")), "expected reset(*, seed=None, options=None)"),
        (part(target=[0, -1]), "observation target holds -1 at 1: expected 0 to 4"),
    ],
)
def test_what_reset_returns_is_told_before_a_folder_is_made(
    spoil: Any,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    spoiled(monkeypatch, "reset", spoil)
    flags = ("--preset", "quick", "--env", "gym:tests/Toy-v0", "--run-dir", str(tmp_path / "run"))
    monkeypatch.setattr(sys, "argv", ["dqn", *flags, *FEW])
    with pytest.raises(SystemExit) as stop:
        cli.main(dqn.program)
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n"), (tmp_path / "run").exists()) == (2, 1, False)
    assert "gym:tests/Toy-v0" in err and words in err
    assert Toy.made > 0 and not Toy.open


@pytest.mark.parametrize(
    "spoil",
    [
        part(target=np.array([1, 4], np.uint8), agent=[np.int32(2), True]),
        part(target=[1, 4], agent=(np.array(2), 1)),
        part(target=torch.tensor([1, 4]), agent=(2, np.uint64(1))),
    ],
)
def test_integers_of_any_kind_are_integers(spoil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, "step", spoil)
    batch = GymBatch(TOY, 1)
    batch.reset()
    assert batch.step(torch.tensor([0])).obs.tolist() == [[1, 4, 2, 1]]


@pytest.mark.parametrize("reward", [1, True, np.float16(1), np.int8(1), np.array(1.0)])
@pytest.mark.parametrize("flag", [True, np.bool_(True), np.array(True)])
def test_numbers_and_booleans_of_any_kind(
    reward: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, "step", lambda came: (came[0], reward, flag, flag, None))
    batch = GymBatch(TOY, 1)
    batch.reset()
    step = batch.step(torch.tensor([0]))
    assert (step.reward.tolist(), step.terminated.tolist()) == ([1.0], [True])
    assert step.truncated.tolist() == [False]  # both: it has ended
    assert step.reward.dtype == torch.float32 and step.truncated.dtype == torch.bool


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (torch.tensor([0, 2]), "action 1 is 2: expected 0 to 1"),
        (torch.tensor([-1, 0]), "action 0 is -1: expected 0 to 1"),
        (torch.tensor([0.0, 1.0]), "expected integers [2]"),
        (torch.tensor([True, False]), "expected integers [2]"),
        (torch.tensor([0]), "expected integers [2]"),
    ],
)
def test_actions(actions: torch.Tensor, words: str) -> None:
    batch = GymBatch(TOY, 2)
    batch.reset()
    with pytest.raises(ValueError) as error:
        batch.step(actions)
    assert words in str(error.value)


@pytest.mark.parametrize("sizes", [{"num_envs": 0}, {"num_envs": 2, "seed": -1}])
def test_sizes(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GymBatch(TOY, **sizes)


def test_all_entries_but_text_are_seen_and_said() -> None:
    assert TOY.cells == 4 and TOY.vocab == 5
    assert TOY.summary == (
        "gym:tests/Toy-v0 observes target 2, agent.0, agent.1; not say, being text; "
        "limit 1000 steps, as it names none"
    )
    one = GymSpec("tests/Toy-v0", entry="agent")
    assert one.cells == 2 and "not target, say, as entry leaves it out" in one.summary
    assert GymSpec("tests/Toy-v0", entry="agent,target").cells == 4


def test_a_space_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the constructor draws its size."""
    assert TOY.cells == 4
    other = {**Toy.observation_space.spaces, "target": Box(0, 3, (2,), np.int64)}
    monkeypatch.setattr(Toy, "observation_space", Dict(other))
    with pytest.raises(ValueError, match=r"gym:tests/Toy-v0 has the spaces .*that it had when"):
        GymBatch(TOY, 2)
    assert Toy.made > 1 and not Toy.open
    monkeypatch.setattr(Toy, "action_space", MultiDiscrete([2, 2]))
    with pytest.raises(ValueError, match="the action of tests/Toy-v0 is MultiDiscrete"):
        _ = GymSpec("tests/Toy-v0").actions


@pytest.mark.parametrize(
    ("name", "fields", "limit", "whose"),
    [
        ("tests/Limited-v0", {}, 4, "its own"),
        ("tests/Limited-v0", {"max_steps": 9}, 9, "as asked for"),
        ("tests/Limited-v0", {"max_steps": 3}, 3, "as asked for"),
        ("tests/Toy-v0", {"options": '{"max_episode_steps": 5}'}, 5, "as asked for"),
        ("MiniGrid-Empty-5x5-v0", {}, 100, "its own"),
        ("MiniGrid-Empty-5x5-v0", {"max_steps": 140}, 140, "as asked for"),
        ("MiniGrid-Empty-5x5-v0", {"options": '{"max_episode_steps": 30}'}, 30, "as asked for"),
        ("MiniGrid-Empty-5x5-v0", {"options": '{"max_steps": 33}'}, 33, "its own"),
        ("BabyAI-GoToRedBallGrey-v0", {"max_steps": 100}, 100, "as asked for"),
        ("FrozenLake-v1", {"options": '{"is_slippery": false}'}, 100, "as registered"),
    ],
)
def test_the_limit_that_is_said_is_the_limit(
    name: str, fields: dict[str, Any], limit: int, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith(("MiniGrid", "BabyAI")):
        pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    monkeypatch.setattr(Toy, "end", 1_000)
    spec = GymSpec(name, **fields)
    assert spec.summary.endswith(f"; limit {limit} steps, {whose}")
    batch = GymBatch(spec, 1)
    batch.reset()
    ends = [batch.step(torch.tensor([0])).truncated.item() for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]


def test_a_limit_that_does_not_hold_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, "step", at(3, True), since=3)
    batch = GymBatch(GymSpec("tests/Toy-v0", max_steps=5), 2)
    batch.reset()
    with pytest.warns(
        UserWarning, match="after 3 steps: there the limit of 5 does not hold"
    ) as told:
        for _ in range(9):
            batch.step(torch.tensor([0, 1]))
    assert len(told) == 1


def test_limits_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="max_steps is 7: expected None or 5, the max_episode"):
        GymSpec("tests/Toy-v0", '{"max_episode_steps": 5}', max_steps=7)
    with pytest.raises(ValueError, match="max_episode_steps of options is 0: expected 1 or more"):
        GymSpec("tests/Toy-v0", '{"max_episode_steps": 0}')
    with pytest.raises(ValueError, match="whole_grid is False: expected True, as tests/Toy-v0"):
        GymSpec("tests/Toy-v0", whole_grid=False)


@pytest.mark.parametrize("entry", [None, "image", "image,direction"])
def test_a_picture_that_does_not_fit_is_not_dropped(entry: str | None) -> None:
    pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    with pytest.raises(ValueError) as error:
        _ = GymSpec("MiniGrid-FourRooms-v0", entry=entry).cells
    assert "108" in str(error.value) and "expected 1 to 1024" in str(error.value)
    assert "--env.no-whole-grid" in str(error.value) and "\n" not in str(error.value)
    near = GymSpec("MiniGrid-FourRooms-v0", entry=entry, whole_grid=False)
    assert near.cells == (7 * 7 * 3 if entry == "image" else 8 * 7 * 3)


def test_training_and_evaluation_close_what_they_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = str(tmp_path / "run")

    def run(program: Any, *flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *flags])
        made = Toy.made
        program()
        assert Toy.made > made and not Toy.open
        return capsys.readouterr().out

    start = ("--preset", "quick", "--env", "gym:tests/Toy-v0", "--run-dir", folder)
    assert "not say, being text; limit 1000 steps" in run(dqn.program, *start, *FEW)
    said = run(lambda: cli.parse(evaluate.program), folder, "--episodes", "9")
    assert "not say, being text; limit 1000 steps" in said
    assert "a picture" in run(watch.main, folder, "--episodes", "1")
    for flags, words in (
        (("--env.map", "four-rooms"), "--env.map is of a maze: expected one of gym:tests/Toy-v0's"),
        (("--env.p_change=0.1",), "--env.p-change is of a maze"),
        (("--env.no-crop-wall",), "--env.crop-wall is of a maze"),
        (("--env.id", "FrozenLake-v1"), "env.id is 'FrozenLake-v1': expected tests/Toy-v0"),
    ):
        with pytest.raises(ValueError) as error:
            parse_flags(["--resume", folder, *flags])
        assert words in str(error.value)


@pytest.mark.parametrize(
    "flags", [("--env.options", "{}"), ("--env.id=Toy-v0",), ("--env.entry=a",)]
)
def test_flags_of_other_environments_beside_a_maze(flags: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is of another environment than a maze: expected --env g"):
        parse_flags(["--preset", "quick", *flags])


@pytest.mark.parametrize("since", [0, 3])
def test_what_fails_halfway_is_closed(since: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TOY.cells == 4
    spoiled(monkeypatch, "step", at(1, float("nan")), since)
    with pytest.raises(ValueError, match="reward is nan"):
        evaluate.rollout(TOY, random_walker(2, 1), 5, 1, CPU)
    assert Toy.made > 5 and not Toy.open
    monkeypatch.setattr(Toy, "most", Toy.made + 3)
    with pytest.raises(ValueError, match=r"gym:tests/Toy-v0 .MemoryError: no more of them"):
        GymBatch(TOY, 9)
    assert Toy.made == Toy.most and not Toy.open


def test_closing_may_fail_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "method", "close")
    with pytest.warns(UserWarning, match="raises in close .RuntimeError: closed before") as told:
        result = evaluate.rollout(TOY, random_walker(2, 1), 5, 1, CPU)
    assert (result.mean_length, result.mean_return, len(told)) == (6, 6, 1)
    assert Toy.made > 5 and not Toy.open


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: [None], "what render returned is None (NoneType): expected text"),
        (fails(OSError("no display")), "raised OSError: no display in render ("),
    ],
)
def test_what_cannot_be_drawn(spoil: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--preset", "quick", "--env", "gym:tests/Toy-v0"]
    config = parse_flags(flags)
    spoiled(monkeypatch, "render", spoil)
    with pytest.raises(ValueError) as error:
        next(gym.scenes(HRM(config.hrm), TOY, 1, 0))
    assert words in str(error.value) and not Toy.open


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("raise RuntimeError('a\\nb')", "RuntimeError: a b"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_module_that_fails(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError) as error:
        GymSpec.parse("gym:failing_module:X-v0")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("first", ["hrm_fast", "envs, hrm_fast"])
def test_either_import_registers_the_mazes(first: str) -> None:
    """Without a warning that one replaces the other's."""
    program = (
        f"import sys, gymnasium, {first}; found = gymnasium.registry; "
        "print(*(k for k in found if k.startswith('hrm_fast/')), 'envs' in sys.modules); "
        "[found[f'hrm_fast/{n}-v0'].make() for n in ('FourRooms', 'Corridors', 'Room')]; "
        "print(gymnasium.make('hrm_fast/Room-v0', size=3).reset(seed=0)[0].shape, "
        "gymnasium.make('hrm_fast/FourRooms-v0').reset(seed=0)[0].shape, "
        "gymnasium.make_vec('hrm_fast/Corridors-v0', num_envs=2).reset(seed=0)[0].shape)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    names = " ".join(f"hrm_fast/{map_.title().replace('-', '')}-v0" for map_ in NAMED_MAPS)
    assert done.stdout.splitlines() == [
        f"{names} {first != 'hrm_fast'}",
        "(3, 3) (11, 11) (2, 11, 13)",
    ]


@pytest.mark.parametrize("place", ["step", "reset", "import"])
def test_a_signal_is_not_taken_for_the_environments_exit(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    (tmp_path / "stopped_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    def stop(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def program() -> None:
        if place == "import":
            GymSpec.parse("gym:stopped_module:X-v0")
        else:
            spoiled(monkeypatch, place, stop)
            evaluate.rollout(TOY, random_walker(2, 1), 5, 1, CPU)

    with pytest.raises(SystemExit) as stopped:
        cli.main(program)
    assert stopped.value.code == 128 + signal.SIGTERM
