"""Checkpoints: one safetensors file that carries its config as JSON. Loading one runs no code.

SHA-256 sums of header and data tell what was damaged later on.
Nothing is allocated for a file whose header does not fit.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from envs import GymSpec
from hrm_fast import HRM
from hrm_fast.checkpoint import weights_of
from train.config import Config, fit_model_to_board, from_json, require, to_json
from train.files.writing import replacing, spelled

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
HEADER_SUM, DATA_SUM = "sha256.header", "sha256.data"  # in the metadata; older files have none

Header = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype as safetensors calls it, shape


class Damaged(ValueError):
    """A checkpoint that is not there, not whole, or not what was written."""


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str],
    previous: Path | None = None,
) -> None:
    """Write them with their sums; `previous` as in `replacing`."""
    own = {name: x.contiguous().cpu() for name, x in tensors.items()}
    metadata = metadata | {DATA_SUM: _data_sum(own)}
    metadata[HEADER_SUM] = _header_sum(header_of(own), metadata)
    with replacing(path, previous) as part:
        save_file(own, part, metadata)


def header_of(tensors: Mapping[str, Tensor]) -> Header:
    return {name: (DTYPES[x.dtype], tuple(x.shape)) for name, x in tensors.items()}


def _header_sum(header: Header, metadata: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([header, metadata], sort_keys=True).encode()).hexdigest()


def _data_sum(tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


class Opened(NamedTuple):
    """A checkpoint of which only the header has been read."""

    path: Path
    header: Header
    metadata: dict[str, str]
    file: Any

    def tensors(self) -> dict[str, Tensor]:
        """Damaged: not what was written."""
        tensors = {name: self.file.get_tensor(name) for name in self.header}
        if self.metadata.get(DATA_SUM) not in (None, _data_sum(tensors)):
            raise Damaged(f"{self.path} is damaged: expected the data that was written (SHA-256)")
        return tensors

    def match(self, expected: Header) -> None:
        """ValueError: a tensor is missing, unknown, or of another shape or dtype."""
        for name in sorted(set(self.header) ^ set(expected)):
            what = "missing" if name in expected else "not of this architecture"
            own = ascii(name)[1:-1]  # in one line, whatever it holds
            raise ValueError(f"tensor {own} is {what}: expected those of the config beside it")
        for name, (dtype, shape) in self.header.items():
            if (dtype, shape) != expected[name]:
                right, size = expected[name]
                found = f"tensor {name} is {dtype} {list(shape)}"
                raise ValueError(f"{found}: expected {right} {list(size)}")


def refuse_pipe(path: Path) -> None:
    """Damaged: a pipe or a device; reading one may wait for ever, where no signal is heard."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise Damaged(f"{path} is a pipe or a device: expected a checkpoint, a regular file")


@contextlib.contextmanager
def opening(path: Path) -> Iterator[Opened]:
    """Damaged: no such file, not a whole safetensors file, or not the header that was written."""
    refuse_pipe(path)
    try:
        with spelled(path) as place, safe_open(place, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            header = {n: (x.get_dtype(), tuple(x.get_shape())) for n, x in parts.items()}
            metadata = file.metadata() or {}
            if metadata.pop(HEADER_SUM, None) not in (None, _header_sum(header, metadata)):
                raise Damaged(f"{path} is damaged: expected the header that was written (SHA-256)")
            yield Opened(path, header, metadata, file)
    except FileNotFoundError:
        raise Damaged(f"{path} does not exist: expected a checkpoint") from None
    except (SafetensorError, OSError) as error:
        why = " ".join(str(error).split())
        raise Damaged(
            f"{path} is not a whole safetensors file ({why}): expected a checkpoint that "
            "train.dqn wrote"
        ) from None


def save(path: Path, hrm: HRM, config: Config) -> None:
    """Write the model's weights with its config."""
    own = {name: x.clone() for name, x in hrm.state_dict().items()}  # they were views of one vector
    save_tensors(path, own, {"config": to_json(config)})


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[Config, HRM]:
    """Read a checkpoint file, a run folder's best (else last) one, or a model hub's folder.

    Raises:
        ValueError: there is none, it is damaged, of another kind or of another architecture, or
            its model does not fit its maze.
    """
    path = weights_of(Path(path))
    with opening(path) as file:
        try:
            config = _config(file.metadata)
            file.match({name: ("F32", shape) for name, shape in config.hrm.shapes().items()})
            hrm = HRM(config.hrm)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        hrm.load_state_dict(file.tensors())
    return config, hrm.to(device).eval()


def _config(metadata: dict[str, str]) -> Config:
    if "config" not in metadata:
        raise ValueError("there is no config in it: expected a checkpoint that train.dqn wrote")
    config = from_json(metadata["config"])
    if isinstance(config.env, GymSpec):  # what it needs may not be installed here
        return config
    fitted = fit_model_to_board(config)
    for name in ("cells", "walls", "actions"):
        own, right = getattr(config.hrm, name), getattr(fitted.hrm, name)
        require(f"hrm.{name}", own, own == right, f"{right}, as its maze has")
    return config
