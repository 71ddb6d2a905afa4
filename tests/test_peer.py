"""Checkpoints as the published code writes them: read without running any, and evaluated."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_from_reference import Recorded
from tests.tiny import Attack
from train import cli, evaluate
from train.config import from_json, to_json
from train.files import peer

ARCH = {
    "H_cycles": 2, "L_cycles": 2, "H_layers": 1, "L_layers": 1, "hidden_size": 64, "expansion": 4.0,
    "num_heads": 2, "pos_encodings": "rope", "halt_max_steps": 8, "halt_exploration_prob": 0.1,
    "forward_dtype": "bfloat16", "train_halt_head": False, "max_memory_size": 1,
    "puzzle_emb_ndim": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
}  # fmt: skip
ROOMS = {
    "vocab_size": 131, "seq_len": 121, "action_space_size": 4, "env_name": "MiniHack-4-Rooms",
    "env_kwargs": {"action-space": 4, "p-change-doors": 0.05}, "max_episode_steps": 80,
}  # fmt: skip


def config_of(**changes: Any) -> dict[str, Any]:
    """HRM-Agent's, with changes in either of its parts."""
    arch = ARCH | {k: v for k, v in changes.items() if k in ARCH}
    env = ROOMS | {k: v for k, v in changes.items() if k in ROOMS}
    carried = changes.get("carried", True)
    name = "use_last_hidden_state_to_seed_next_environment_step"
    return {"arch_exclude_data_dependent": arch, "dataset": env, name: carried}


def saved(path: Path, **changes: Any) -> Path:
    """A .ckpt with recorded weights of HRM-Agent, laid out as its `save_to_checkpoint` does."""
    weights = Recorded("four_rooms").under("weights/")
    other = {name: torch.zeros_like(x) for name, x in weights.items()}
    state = {"global_step": 3, "evaluation_metrics": [0.5], "total_seconds_training": 1.5}
    whole = {"qvalue_net": weights, "target_network": other, "optimizers": [{"state": {}}]}
    torch.save(whole | {"config": config_of(**changes), "state": state}, path)
    return path


def test_an_agent_of_hrm_agent(tmp_path: Path) -> None:
    recorded = Recorded("four_rooms")
    config, hrm = peer.load(saved(tmp_path / "last.ckpt"))
    recorded.matches("q_reset", hrm.decide(recorded.data["obs"])[0])
    env = config.env
    assert (env.map, env.p_change, env.door_count, env.max_steps) == ("four-rooms", 0.05, 1, 80)
    assert (hrm.config.carry, hrm.config.segments) == ("carry", 8)
    assert peer.load(saved(tmp_path / "x.ckpt", carried=False))[1].config.carry == "reset"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"env_kwargs": {}}, ("four-rooms", 0.0, 0, 0)),  # static: no door is drawn or heeded
        ({"env_kwargs": None}, ("four-rooms", 0.0, 0, 0)),
        ({"env_kwargs": {"p-change-doors": "0.1", "closed-doors": 2}}, ("four-rooms", 0.1, 2, 0)),
        ({"env_name": "MiniHack-Corridor-Maze-4-Way-Dynamic"}, ("corridors", 0.05, 5, 10)),
        ({"env_name": "MiniHack-Room-Random-9x9-v0"}, ("room", 0.05, 0, 0)),
    ],
)
def test_mazes_of_hrm_agent(changes: dict[str, Any], found: tuple) -> None:
    maze, _ = peer.maze_of_peer(ROOMS | changes)
    assert (maze.map, maze.p_change, maze.door_count, maze.wall_count) == found


def test_numbers_of_numpy(tmp_path: Path) -> None:
    """In the configuration, also as NumPy 1 pickles them; arrays and objects stay refused."""
    changes = {
        "halt_max_steps": np.int64(8), "rope_theta": np.float64(1e4), "expansion": np.float32(4),
        "action_space_size": np.uint8(4), "env_name": np.str_("MiniHack-4-Rooms"),
        "env_kwargs": {"p-change-doors": np.float16(0.5)}, "carried": np.bool_(True),
    }  # fmt: skip
    path = saved(tmp_path / "a.ckpt", **changes)
    config, _ = peer.load(path)
    assert (config.hrm.segments, type(config.hrm.segments)) == (8, int)
    assert (config.env.p_change, config.hrm.carry) == (0.5, "carry")
    assert from_json(to_json(config)) == config
    torch.save({"x": [np.float64(1.5)]}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
    assert b"cnumpy.core.multiarray" in path.read_bytes()
    assert peer.read(path) == {"x": [1.5]}
    with pytest.raises(ValueError, match="expected tensors and plain values in it"):
        peer.load(saved(tmp_path / "b.ckpt", env_kwargs={"x": np.zeros(3)}))


def run(capsys: pytest.CaptureFixture, *flags: str) -> str:
    cli.parse(evaluate.program, args=list(flags))
    return capsys.readouterr().out


def test_evaluates_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, result = saved(tmp_path / "last.ckpt", halt_max_steps=1), tmp_path / "result.json"
    out = run(capsys, str(path), "--episodes", "4", "--json", str(result))
    assert "agent" in out and "shortest path, re-planned" in out
    assert json.loads(result.read_text())["episodes"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 128, "puzzle_emb_ndim": 128}, "H_init is [64]: expected [128]"),
        ({"hidden_size": 2**16, "puzzle_emb_ndim": 2**16, "num_heads": 1024, "H_layers": 1024},
         "H_init is [64]: expected [65536]"),  # 70 TB, were it made
        ({"H_layers": 2}, "is missing"),
        ({"env_name": "MiniHack-Quest-Hard-v0"}, "env_name is 'MiniHack-Quest-Hard-v0'"),
        ({"env_name": "MiniHack-Corridor-Maze-4-Way-Dynamic"}, "seq_len is 121: expected 143"),
        ({"env_kwargs": "p-change-doors"}, "env_kwargs is 'p-change-doors': expected a dictionary"),
        ({"max_memory_size": 2}, "one puzzle token and a memory of 1"),
        ({"hidden_size": "many", "puzzle_emb_ndim": "many"}, "width is 'many'"),
    ],
)  # fmt: skip
def test_what_is_no_such_agent(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = saved(tmp_path / "bad.ckpt", **changes)
    with pytest.raises(ValueError) as error:
        peer.load(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_files_and_foreign_code(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.ckpt").read_bytes()
    path = tmp_path / "broken.ckpt"
    for data in (b"", b"rubbish" * 9, good[: len(good) // 2]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="expected tensors and plain values"):
            peer.load(path)
    torch.save({"config": Attack(tmp_path / "attacked")}, path)
    what = r"\(it asks to run \S+\): expected tensors and plain values"
    with pytest.raises(ValueError, match=what):
        peer.load(path)
    weights = Recorded("four_rooms").under("weights/")
    weights["model.inner.H_init"] = torch.zeros(1).expand(64)
    torch.save({"config": config_of(), "qvalue_net": weights}, path)
    with pytest.raises(ValueError, match=r"H_init is one number repeated: expected \[64\]"):
        peer.load(path)
    torch.save({"config": 3}, path)
    with pytest.raises(ValueError, match=r"broken\.ckpt"):
        peer.load(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds list"):
        peer.load(path)
    torch.save({1: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected a dictionary of names"):
        peer.load(path)
    with pytest.raises(ValueError, match="expected a checkpoint"):
        peer.load(tmp_path / "none.ckpt")
    path.write_bytes(random.Random(0).randbytes(200))
    with pytest.raises(ValueError, match=r"\(UnpicklingError\): expected tensors"):  # no advice
        peer.load(path)
    assert not (tmp_path / "attacked").exists()
