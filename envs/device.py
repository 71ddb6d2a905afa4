"""A batch's mazes in a GPU's memory, and the two kernels that touch them (csrc/maze/kernels.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from envs import _maze
from envs.step import Step

DTYPES = {
    "actions": torch.int64,
    "obs": torch.uint8,
    "reward": torch.float32,
    "terminated": torch.bool,
    "truncated": torch.bool,
    "final_obs": torch.uint8,
}


class OnDevice:
    """The mazes of `native`, kept on a device.

    `native` stays on the host and checks what comes in; its own mazes are out of date until `pull`.

    On device "cpu" the kernels are played by one thread of the host: for tests.
    """

    def __init__(self, native: _maze.Batch, num_envs: int, cells: int, device: torch.device):
        self.native, self.device = native, device
        self.spec = torch.frombuffer(bytearray(native.spec_bytes()), dtype=torch.uint8).to(device)
        self.mazes = torch.empty(num_envs, _maze.MAZE_BYTES, dtype=torch.uint8, device=device)
        self.boards = torch.empty(num_envs, cells, dtype=torch.uint8, device=device)
        self.push()

    def push(self) -> None:
        """From the host to the device."""
        host = self._host()
        self.native.give(*(x.numpy() for x in host))
        for mine, x in zip((self.mazes, self.boards), host, strict=True):
            mine.copy_(x)

    def pull(self) -> None:
        """From the device to the host."""
        host = self._host()
        for mine, x in zip((self.mazes, self.boards), host, strict=True):
            x.copy_(mine)
        self.native.take(*(x.numpy() for x in host))

    def reset(self) -> Tensor:
        """New mazes; obs uint8 [N, cells]."""
        obs = torch.empty_like(self.boards)
        with self._current():
            self.native.device_reset(*self._addresses(), self._at("obs", obs), self._stream())
        return obs

    def step(self, actions: Tensor, out: Step | None) -> Step:
        """One action, int64 [N], per maze; an action out of range counts modulo their number."""
        to = self._results() if out is None else out
        given = to._asdict().items()
        obs, reward, solved, late, final_obs = (self._at(f"out.{name}", x) for name, x in given)
        with self._current():
            self.native.device_step(
                *self._addresses(),
                self._at("actions", actions),
                obs,
                reward,
                solved,
                late,
                final_obs,
                self._stream(),
            )
        return to

    def _results(self) -> Step:
        made = {
            name: torch.empty(self._shape(name), dtype=dtype, device=self.device)
            for name, dtype in DTYPES.items()
        }
        del made["actions"]
        return Step(**made)

    def _host(self) -> tuple[Tensor, Tensor]:
        mazes, boards = (torch.empty_like(x, device="cpu") for x in (self.mazes, self.boards))
        return mazes, boards

    def _shape(self, name: str) -> torch.Size:
        return self.boards.shape if name in ("obs", "final_obs") else self.boards.shape[:1]

    def _at(self, name: str, x: Tensor) -> int:
        """Address of what a step reads or writes; ValueError: not the tensor that it takes."""
        what = name.removeprefix("out.")
        return _ptr(name, x, DTYPES[what], self._shape(what), self.device)

    def _addresses(self) -> tuple[int, int, int]:
        own = {"spec": self.spec, "mazes": self.mazes, "boards": self.boards}
        spec, mazes, boards = (
            _ptr(name, x, torch.uint8, x.shape, self.device) for name, x in own.items()
        )
        return spec, mazes, boards

    def _current(self) -> torch.cuda.device:
        return torch.cuda.device(self.device if self.device.type == "cuda" else -1)

    def _stream(self) -> int | None:
        if self.device.type == "cpu":
            return None
        return torch.cuda.current_stream(self.device).cuda_stream


def _ptr(name: str, x: Tensor, dtype: torch.dtype, shape: torch.Size, device: torch.device) -> int:
    """Address of a contiguous tensor of exactly this dtype, shape, device; ValueError otherwise."""
    if x.dtype != dtype or x.shape != shape or x.device != device or not x.is_contiguous():
        how = "contiguous" if x.is_contiguous() else "strided"
        raise ValueError(
            f"{name} is {how} {x.dtype} {list(x.shape)} on {x.device}: "
            f"expected contiguous {dtype} {list(shape)} on {device}"
        )
    return x.data_ptr()
