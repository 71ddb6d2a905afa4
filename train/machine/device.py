"""The device that a model runs on."""

import os

import torch

from train.config import require


def choose_device(name: str) -> torch.device:
    """ValueError: there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu, all there is here"
    try:
        device = torch.empty(0, dtype=torch.uint8, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        why = why if len(why) < 80 else "no device of torch"
        raise ValueError(f"device is {name!r} ({why}): expected {names}") from None
    require("device", name, device.type in ("cpu", "cuda"), names)
    return device


def use_deterministic_algorithms(device: torch.device) -> None:
    """Make torch refuse operations that a GPU does not repeat bit for bit."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
