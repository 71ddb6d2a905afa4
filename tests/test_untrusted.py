"""Files of others, as weights or as a state: nothing in them runs, and nothing is made for them."""

import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import saved_run
import torch
from safetensors.torch import save, save_file
from saved_run import copy
from test_cli import Attack
from test_continuation import CPU

from hrm_fast import HRM
from train import cli, evaluate
from train import config as configs
from train.config import PRESETS, Config
from train.files import checkpoint
from train.files.names import PREVIOUS, STATE
from train.run import state
from train.trainer import Trainer

QUICK = PRESETS["quick"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return saved_run.train(tmp_path_factory.mktemp("saved"))


def weights(config: Config) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in HRM(config.hrm).state_dict().items()}


HUGE = {"cells": 1024, "width": 65_536, "h_layers": 1024, "l_layers": 1024}


def foreign(folder: Path) -> dict[str, bytes]:
    """Files that want to be a checkpoint."""
    data = json.loads(configs.to_json(QUICK))
    deep = "[" * 100_000 + "]" * 100_000

    def with_config(**changes: Any) -> bytes:
        text = changes.pop("text", None)
        hrm = changes.pop("hrm", {})
        changed = data | changes | {"hrm": data["hrm"] | hrm}
        return save(weights(QUICK), {"config": text or json.dumps(changed)})

    header = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}})
    torch.save(Attack(folder / "attacked"), folder / "zip")
    nan = data["dqn"] | {"gamma": float("nan")}
    return {
        "a torch pickle": (folder / "zip").read_bytes(),
        "a header that asks for a terabyte": struct.pack("<Q", len(header)) + header.encode(),
        "a config that asks for a terabyte": with_config(hrm=HUGE),
        "a maze of more cells": with_config(hrm={"cells": 98}),
        "more actions": with_config(hrm={"actions": 8}),
        "a deep config": with_config(text=deep),
        "a deep header": struct.pack("<Q", len(deep)) + deep.encode(),
        "no number": with_config(dqn=nan),
        "a huge number": with_config(updates=10**400),
        "a number of many digits": with_config(text='{"updates": ' + "9" * 10_000 + "}"),
        "huge counts": with_config(dqn=data["dqn"] | {"replay_size": 10**400}),
    }


def test_nothing_foreign_gets_in(
    saved: Config, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as weights nor as a state; nothing runs, and no model is made for any of them."""
    config = copy(saved, tmp_path / "run")
    shutil.copy(tmp_path / "run" / STATE, tmp_path / "run" / PREVIOUS)
    trainer = Trainer(config, CPU)
    for name, data in foreign(tmp_path).items():
        path = tmp_path / f"{name.replace(' ', '-')}.safetensors"
        path.write_bytes(data)
        monkeypatch.setattr(checkpoint, "HRM", lambda _: pytest.fail("a model was made"))
        with pytest.raises(SystemExit) as stop:
            cli.main(lambda path=path: checkpoint.load(path) and None)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and len(said.splitlines()) == 1, name
        assert str(path) in said and "expected" in said and len(said) < 2_000, name
        with pytest.raises(ValueError):
            state.restore(trainer, path)
    assert not (tmp_path / "attacked").exists()
    assert trainer.update == 0


def test_a_state_with_impossible_numbers(saved: Config, tmp_path: Path) -> None:
    trainer = Trainer(saved, CPU)
    with checkpoint.opening(Path(saved.run_dir or "") / STATE) as file:
        tensors, metadata = file.tensors(), file.metadata
    good = {name: metadata[name] for name in ("update", "transitions", "seconds", "best", "device")}
    action = tensors | {"replay/a_tm1": torch.full_like(tensors["replay/a_tm1"], 4)}
    cases: list[tuple[dict, dict, str]] = [
        (action, {}, "holds the action 4: expected 0 to 3"),
        (tensors, {"update": "nan"}, "update of .* is nan"),
        (tensors, {"seconds": "inf"}, "seconds of .* is inf"),
        (tensors, {"transitions": "9" * 5_000}, "transitions of .* is inf"),
        (tensors, {"best": "nan"}, "best of .* is nan"),
        (tensors, {"device": "cuda"}, "device is 'cpu': expected cuda"),
        ({k: v for k, v in tensors.items() if k != "start"}, {}, "tensor start is missing"),
        (tensors | {"optimiser/m": tensors["optimiser/m"].double()}, {}, "optimiser/m is F64"),
    ]
    for held, changes, words in cases:
        save_file(held, tmp_path / "x", good | changes)
        with pytest.raises(ValueError, match=words):
            state.restore(trainer, tmp_path / "x")
    assert trainer.update == 0


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_are_those_of_the_model(name: str) -> None:
    for more in ({}, {"halting": True, "q_token": "last"}, {"positions": "learned"}):
        config = replace(PRESETS[name].hrm, **more)
        own = {key: tuple(x.shape) for key, x in HRM(config).state_dict().items()}
        assert config.shapes() == own


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_a_pipe_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    """Reading it would wait where no signal is heard."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is a pipe or a device: expected a checkpoint"):
        evaluate.program(str(tmp_path / name))
