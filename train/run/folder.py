"""The folder that a run lives in: found, named, locked, and mirrored where it is a URL."""

import atexit
import fcntl
import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from train import cli
from train.config import Config, load, require
from train.files import remote
from train.files.names import BEST, CONFIG, PREVIOUS, STATE, WANDB_ID
from train.files.remote import Mirror
from train.machine import ranks


def mirror_of(config: Config) -> Mirror | None:
    """For a run at a URL: with all that it is resumed from, if it is.

    ValueError: the URL is this process's own memory, or the run is a job of several processes.
    """
    url = remote.url_of(config.run_dir or "")
    if url is None:
        return None
    require("run-dir", url, ranks.world() == 1, "a folder that all processes of a job see")
    lasts = not url.startswith("memory:")
    require("run-dir", url, lasts, "a place that outlasts this process")
    mirror = Mirror(url, Path(tempfile.mkdtemp(prefix="hrm_fast-")), {STATE: PREVIOUS})
    atexit.register(mirror.remove_copy)
    if config.resume:
        for name in mirror.names() & {*remote.WANTED, STATE, PREVIOUS, WANDB_ID}:
            mirror.fetch(name)
    return mirror


def choose_folder(config: Config) -> Config:
    """Name the run's folder: the resumed one, or the one asked for; `name_folder` finds others.

    ValueError: it cannot be the folder of a new run.
    """
    if config.resume:
        return replace(config, run_dir=config.resume)
    if ranks.may_restart():
        why = "a folder or URL, where the job finds itself when torchrun starts it again"
        require("run-dir", config.run_dir, config.run_dir is not None, why)
    require("run-dir", config.run_dir, config.run_dir != "", "a folder or a URL")
    if config.run_dir is None:
        return config
    # a run that was killed before it had a config is begun anew
    if not any(remote.has(config.run_dir, name) for name in (CONFIG, BEST)):
        return config
    theirs = Path(config.run_dir) / CONFIG
    if ranks.may_restart() and load(remote.here(theirs)) == config:
        return replace(config, resume=config.run_dir)
    raise ValueError(
        f"run-dir is {config.run_dir!r}, which holds a run: expected a new folder, "
        f"or --resume {config.run_dir}"
    )


def name_folder(config: Config) -> Config:
    """Where the run has no folder yet, make one under runs/, of a name that nobody else gets."""
    if config.run_dir is not None:
        return config
    name = f"runs/{config.preset}-{config.seed}"
    for i in itertools.count(1):
        folder = Path(name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir(parents=True)
            return replace(config, run_dir=str(folder))
        except FileExistsError:  # another run has it, perhaps since a moment ago
            continue
        except OSError as error:
            why = f"{folder} ({error.strerror})"
            raise ValueError(f"{why}: expected a place for a new folder, or --run-dir") from None
    raise AssertionError("names do not end")


def lock_folder(folder: Path) -> int:
    """Make the folder, lock it, and clear away what a killed process was just writing.

    The lock lasts until the returned descriptor is closed, at the latest until the process ends.
    ValueError: another process writes there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} ({error.strerror}): expected a folder, or a new one") from None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(
            f"{folder} is in use: expected no other process to be training there"
        ) from None
    except OSError as error:  # not every file system knows locks
        cli.say(f"{folder} is not locked ({error.strerror}): no other process may train there")
    for part in folder.glob(".*.part"):
        part.unlink()
    return lock
