"""Training, evaluating and watching agents of other Gymnasium environments."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from envs import GymSpec, MazeSpec
from hrm_fast import HRM
from train import cli, dqn, evaluate
from train import config as configs
from train.config import PRESETS
from train.episodes import Walker, random_walker
from train.files import checkpoint
from train.run import state
from train.run.flags import parse as parse_flags
from train.trainer import Trainer
from train.watch import __main__ as watch

LAKE = GymSpec("FrozenLake-v1", '{"is_slippery": false}')
CLIFF = GymSpec("CliffWalking-v1")
CPU = torch.device("cpu")


def small_config(env: GymSpec, *flags: str) -> configs.Config:
    start = ["--preset", "quick", "--env", f"gym:{env.id}", "--env.options", env.options]
    return parse_flags([*start, *flags])


def test_flags_and_json() -> None:
    config = small_config(LAKE, "--env.max-steps", "9", "--hrm.carry", "carry")
    assert config.env == GymSpec(LAKE.id, LAKE.options, max_steps=9)
    shape = config.hrm
    assert (shape.cells, shape.columns, shape.vocab, shape.actions) == (1, 1, 16, 4)
    assert (shape.q_token, shape.carry) == ("mean", "carry")
    assert config.dqn == configs.WITHOUT_GOAL["dqn"]
    assert configs.from_json(configs.to_json(config)) == config
    with pytest.raises(ValueError, match=r"hrm.q-token is 'goal': expected agent, last or mean"):
        small_config(LAKE, "--hrm.q-token", "goal")
    with pytest.raises(ValueError, match=r"hrm.vocab is 9: expected more than 15"):
        small_config(LAKE, "--hrm.vocab", "9")
    assert isinstance(PRESETS["quick"].env, MazeSpec)


def test_a_config_is_read_without_making_its_environment(tmp_path: Path) -> None:
    """So that an agent loads where its environment's package is missing."""
    config = small_config(LAKE)
    gone = replace(config, env=GymSpec("MiniHack-Gone-v0"))
    checkpoint.save(tmp_path / "x.safetensors", HRM(config.hrm), gone)
    assert checkpoint.load(tmp_path / "x.safetensors")[0] == gone


def test_an_agent_of_fewer_tokens_is_not_let_in(tmp_path: Path) -> None:
    """Its environment's numbers would be read beyond its embedding's table."""
    config = small_config(LAKE)
    small = replace(config, hrm=replace(config.hrm, vocab=9))
    checkpoint.save(tmp_path / "x.safetensors", HRM(small.hrm), small)
    with pytest.raises(ValueError, match="vocab of FrozenLake-v1 is 16: expected at most 9"):
        evaluate.program(str(tmp_path / "x.safetensors"))


def test_learns_a_frozen_lake() -> None:
    flags = ("--updates", "250", "--dqn.epsilon-updates", "150", "--dqn.num-mazes", "32")
    trainer = Trainer(small_config(LAKE, *flags), CPU)
    untrained = evaluate.evaluate(trainer.eval_model, LAKE, 8, seed=1)
    while trainer.update < trainer.config.updates:
        trainer.cycle()
    trained = evaluate.evaluate(trainer.eval_model, LAKE, 8, seed=1)
    assert untrained.success == 0
    assert (trained.success, trained.mean_length, trained.mean_return) == (1, 6, 1)
    assert trained.shortest_ratio is None


def test_evaluation_repeats_and_its_waves_are_different_episodes() -> None:
    spec = GymSpec("Blackjack-v1")
    results = [evaluate.rollout(spec, random_walker(2, 1), n, 1, CPU) for n in (100, 100, 64)]
    assert results[0] == results[1]
    assert results[0].mean_return != results[2].mean_return
    assert 0 < results[0].success < 0.5 and results[0].mean_return < 0


def test_every_walker_is_judged_on_the_same_episodes() -> None:
    """Though a wave that took longer has begun more of them."""
    seen: list[dict[int, list[int]]] = [{}, {}]

    def walker(always: int) -> Walker:
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
    assert f"train.evaluate {folder}\n" in out and "train.watch" not in out  # it draws no text
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


def test_the_last_words_name_the_module_that_registers_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "lake_of_mine.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder, env = str(tmp_path / "run"), "gym:lake_of_mine:Mine-v0"
    sizes = ("--dqn.num-mazes", "8", "--dqn.batch-size", "8", "--dqn.learning-starts", "64")
    few = ("--updates", "4", "--eval-episodes", "8", "--env.max-steps", "9")
    flags = ["--preset", "quick", "--env", env, "--run-dir", folder, *sizes, *few]
    monkeypatch.setattr(sys, "argv", ["program", *flags])
    dqn.program()
    *_, judge, show = capsys.readouterr().out.splitlines()
    assert judge == f"  python -m train.evaluate {folder} --env {env}"
    assert show == f"  python -m train.watch {folder} --env {env}"
    gymnasium.registry.pop("Mine-v0")
    del sys.modules["lake_of_mine"]
    for program, command in ((lambda: cli.parse(evaluate.program), judge), (watch.main, show)):
        monkeypatch.setattr(sys, "argv", [*command.split()[2:], "--episodes", "2"])
        program()
        assert "success" in (out := capsys.readouterr().out) or "FFFH" in out


def test_what_follows_a_restart_is_no_part_of_an_earlier_episode(tmp_path: Path) -> None:
    flags = ("--dqn.num-mazes", "4", "--dqn.batch-size", "256", "--dqn.learning-starts", "16")
    config = small_config(LAKE, *flags, "--updates", "40", "--hrm.carry", "carry")
    first, again = Trainer(config, CPU), Trainer(config, CPU)
    first.cycle()
    state.save(first, tmp_path / "state.safetensors", 0.0, 0.0)
    state.restore(again, tmp_path / "state.safetensors")
    old = again.replay.rows - int(again.replay.filled)
    assert old > 0 and again.collector.obs.eq(0).all() and again.collector.lengths.eq(0).all()
    assert torch.equal(again.collector.z.z_H, again.hrm.stored_start(4).z_H)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name", "updates"),
    [("minihack", "MiniHack-Room-5x5-v0", 300), ("minigrid", "MiniGrid-Empty-5x5-v0", 1400)],
)
def test_learns_rooms_of_others(package: str, name: str, updates: int) -> None:
    pytest.importorskip(package, reason=f"the extra {package} is not installed")
    trainer = Trainer(small_config(GymSpec(name), "--updates", str(updates)), CPU)
    while trainer.update < updates:
        trainer.cycle()
    assert evaluate.evaluate(trainer.eval_model, trainer.config.env, 64, seed=1).success >= 0.95


def test_rewards_are_clipped_and_counted_whole() -> None:
    config = small_config(CLIFF, "--env.max-steps", "50", "--updates", "40")
    trainer = Trainer(config, CPU)
    while trainer.update < config.updates:
        trainer.cycle()
    r_t = trainer.replay.state()["r_t"]
    assert set(r_t.unique().tolist()) == {-1.0}
    assert trainer.collector.finished()[3] < -100  # the cliff's -100 among them


@pytest.mark.slow
def test_learns_the_way_along_a_cliff() -> None:
    config = small_config(CLIFF, "--env.max-steps", "100", "--updates", "4000")
    trainer = Trainer(config, CPU)
    while trainer.update < config.updates:
        trainer.cycle()
    assert evaluate.evaluate(trainer.eval_model, config.env, 1, seed=1).mean_return == -13
