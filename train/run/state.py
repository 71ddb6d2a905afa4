"""All that a run needs to go on, in one file: what a Trainer holds, bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from envs import GymSpec
from train.collect import Collector
from train.config import require
from train.files import checkpoint
from train.files.checkpoint import Damaged
from train.files.names import PREVIOUS, STATE
from train.machine import ranks
from train.optimiser import Optimiser
from train.replay import Replay
from train.trainer import Trainer

NUMBERS = ("update", "transitions", "seconds", "best")  # beside the tensors


def parts(trainer: Trainer) -> dict[str, Replay | Collector | Optimiser]:
    return {
        "replay": trainer.replay,
        "collector": trainer.collector,
        "optimiser": trainer.optimiser,
    }


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """All that changes and is no plain number."""
    owners = parts(trainer).items()
    found = {f"{part}/{name}": x for part, owner in owners for name, x in owner.state().items()}
    found["generator"] = trainer.generator.get_state()
    found["start"] = torch.stack((trainer.hrm.start_H, trainer.hrm.start_L))
    return found


def save(
    trainer: Trainer, path: Path, seconds: float, best: float, previous: Path | None = None
) -> None:
    """Write all that `restore` needs; `previous` as in `writing.replacing`."""
    numbers = zip(NUMBERS, (trainer.update, trainer.transitions, seconds, best), strict=True)
    metadata = {name: repr(x) for name, x in numbers}
    metadata["seed"] = str(trainer.config.seed)
    metadata["device"] = trainer.generator.device.type
    metadata["processes"] = str(ranks.world())
    checkpoint.save_tensors(path, tensors(trainer), metadata, previous)


def restore(trainer: Trainer, path: Path) -> tuple[float, float]:
    """Inverse of `save`; returns seconds and best.

    Raises:
        ValueError: it is of a run with other flags, or its numbers are impossible.
        Damaged: not there, no state, or not what was saved.
    """
    with checkpoint.opening(path) as file:
        if "update" not in file.metadata:
            raise Damaged(f"{path} is no state: expected one that train.dqn saved")
        seed, own = file.metadata.get("seed"), str(trainer.config.seed)
        require("seed", own, seed in (own, None), f"{seed}, of the run that saved {path}")
        saved, here = file.metadata.get("device"), trainer.generator.device.type
        require("device", here, here == saved, f"{saved}, on which the run was saved")
        world, had = str(ranks.world()), file.metadata.get("processes", "1")
        why = f"{had}, with which the run was saved"
        require("number of processes", world, world == had, why)
        file.match(_expected(trainer, file.header))
        numbers = {name: float(file.metadata.get(name, "nan")) for name in NUMBERS}
        for name, x in numbers.items():
            good = (x >= 0 or name == "best") and x < 2**53
            require(f"{name} of {path}", x, good, "a number, of which only best is < 0")
        found = file.tensors()
    most, a_tm1 = trainer.config.hrm.actions - 1, found["replay/a_tm1"]
    wrong = a_tm1[(a_tm1 < 0) | (a_tm1 > most)]
    if len(wrong):
        raise ValueError(f"{path} holds the action {wrong[0]}: expected 0 to {most}")
    for part, owner in parts(trainer).items():
        names = [name for name in found if name.startswith(f"{part}/")]
        owner.restore({name.removeprefix(f"{part}/"): found[name] for name in names})
    trainer.generator.set_state(found["generator"])
    for model in (trainer.hrm, trainer.target):
        model.start_H.copy_(found["start"][0])
        model.start_L.copy_(found["start"][1])
    if isinstance(trainer.config.env, GymSpec):  # which cannot save its running episodes
        trainer.collector.begin_anew(trainer.hrm)
        trainer.replay.cut()
    trainer.update, trainer.transitions = int(numbers["update"]), int(numbers["transitions"])
    return numbers["seconds"], numbers["best"]


def _expected(trainer: Trainer, header: checkpoint.Header) -> checkpoint.Header:
    """What `save` would write now, but with as many steps in the replay as the header says."""
    own = checkpoint.header_of(tensors(trainer))
    return own | {
        name: (dtype, header[name][1][:1] + shape[1:])
        for name, (dtype, shape) in own.items()
        if name.startswith("replay/") and name in header
    }


def newest(folder: Path, trainer: Trainer) -> tuple[tuple[float, float], Path, list[str]]:
    """Restore the newest state that is whole: seconds and best, its file, why others were skipped.

    ValueError: none is whole, or the newest does not fit.
    """
    skipped: list[str] = []
    for path in (folder / STATE, folder / PREVIOUS):
        try:
            return restore(trainer, path), path, skipped
        except Damaged as error:
            skipped.append(str(error))
        except ValueError as error:
            raise ValueError(f"{folder} cannot be resumed as asked: {error}") from None
    raise ValueError(f"{folder} cannot be resumed: {'; '.join(skipped)}")
