"""A trained agent as a folder for a model hub, and reading one back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hrm_fast
from envs import MazeBatch
from train import card, cli, evaluate
from train.config import from_json
from train.files import agents, checkpoint

EPISODES = ("--episodes", "64", "--seed", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "my agent"
    cli.parse(card.program, args=["quick", "--out", str(out), *EPISODES])
    return out


def test_the_card_tells_what_evaluate_tells(folder: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.json"
    cli.parse(evaluate.program, args=[str(folder), *EPISODES, "--json", str(said)])
    result = json.loads(said.read_text())
    planned = result["others"]["shortest path, re-planned"]
    text = (folder / "README.md").read_text()
    for walker, numbers in (("this agent", result), ("shortest path, re-planned", planned)):
        row = next(line for line in text.splitlines() if line.startswith(f"| {walker} |"))
        assert f"| {numbers['success']:.1%} | {numbers['success_low']:.1%} to " in row
    assert f"value: {result['success']:.4f}" in text
    assert text.startswith("---\n") and text.count("\n---\n") == 1  # the hub's front matter
    assert 'name: "my agent"' in text and "drawn maze, 7 x 7, at most 40 steps" in text


def test_the_folder_is_the_agent(folder: Path) -> None:
    config, hrm = checkpoint.load(agents.find("quick"))
    again, same = checkpoint.load(folder)
    assert again == from_json((folder / "config.json").read_text())
    assert again.run_dir is None and again.hrm == config.hrm
    alone = hrm_fast.load(folder)
    obs = MazeBatch(config.env, 32, seed=5).reset()
    start = hrm.stored_start(32)
    for other in (same, alone):
        assert torch.equal(other.decide(obs, start)[0], hrm.decide(obs, start)[0])


def test_load_needs_neither_trainer_nor_mazes(folder: Path) -> None:
    code = (
        "import sys, hrm_fast; hrm_fast.load(sys.argv[1]);"
        "assert not {'train', 'envs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)


@pytest.mark.parametrize(
    "damage", ["empty", "text", "cut", "no-config", "no-object", "other-shape", "gone"]
)
def test_what_is_no_checkpoint_is_one_line(folder: Path, tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copy(folder / "model.safetensors", tmp_path))
    weights, data = checkpoint.load(path)[1].state_dict(), path.read_bytes()
    if damage == "no-config":
        checkpoint.save_tensors(path, weights, {})
    elif damage in ("no-object", "other-shape"):
        config = {"config": json.dumps({"hrm": {"walls": None} if "shape" in damage else "x"})}
        checkpoint.save_tensors(path, weights, config)
    elif damage == "gone":
        path = tmp_path / "none" / "model.safetensors"
    else:
        path.write_bytes({"empty": b"", "text": b"hello" * 99, "cut": data[:-9]}[damage])
    with pytest.raises(ValueError, match="expected a checkpoint that train") as stop:
        hrm_fast.load(path)
    assert "\n" not in str(stop.value)


def test_a_folder_in_use_is_refused(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for out in (folder, folder / "README.md"):
        with pytest.raises(ValueError, match="expected a folder that is empty or not there"):
            cli.parse(card.program, args=["quick", "--out", str(out), *EPISODES])
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
