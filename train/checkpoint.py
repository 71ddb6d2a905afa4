"""Checkpoints: one safetensors file that carries its config as JSON. Loading one runs no code.

Every file is written beside its place, flushed to the disk and renamed, so a crash or a full disk
leaves the earlier one as it was.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hrm_fast import HRM
from train import config as configs
from train.config import Config


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the block ends well, else removed.

    What is there and no regular file, such as /dev/stdout, is written to as it is.

    Raises:
        OSError: the disk is full or the folder cannot be written, in one line that names `path`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{path} could not be written: {why}; what stood there is kept") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as part:
        save_file({name: x.contiguous().cpu() for name, x in tensors.items()}, part, metadata)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """ValueError: no such file, or not a whole safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: expected a checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): expected a checkpoint that "
            "train.dqn wrote"
        ) from None


def save(path: Path, hrm: HRM, config: Config) -> None:
    """Write the model's weights with its config."""
    own = {name: x.clone() for name, x in hrm.state_dict().items()}  # they were views of one vector
    save_tensors(path, own, {"config": configs.to_json(config)})


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[Config, HRM]:
    """Read a checkpoint file, or a run folder's best (else last) one.

    Raises:
        ValueError: there is none, it is truncated, of another kind or of another architecture.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / n for n in ("best.safetensors", "last.safetensors") if (path / n).exists()]
        if not found:
            raise ValueError(f"{path} holds no checkpoint: expected best or last.safetensors")
        path = found[0]
    tensors, metadata = load_tensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no config in it: expected a checkpoint that train.dqn wrote")
    try:
        config = configs.from_json(metadata["config"])
        hrm = HRM(config.hrm)
        _match(tensors, hrm.state_dict())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    hrm.load_state_dict(tensors)
    return config, hrm.to(device).eval()


def _match(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(set(tensors) ^ set(expected)):
        what = "missing" if name in expected else "not of this architecture"
        raise ValueError(f"tensor {name} is {what}: expected those of the config beside it")
    for name, x in tensors.items():
        if x.shape != expected[name].shape or x.dtype != expected[name].dtype:
            raise ValueError(
                f"tensor {name} is {x.dtype} {list(x.shape)}: expected "
                f"{expected[name].dtype} {list(expected[name].shape)}"
            )
