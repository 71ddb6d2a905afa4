"""A batch's mazes in a GPU's memory, and the two kernels that touch them (csrc/maze/kernels.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from envs import _maze
from envs.step import Step


class OnDevice:
    """The mazes of `native`, which stays on the host, checks what comes in and is else out of date.

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
            self.native.device_reset(*self._addresses(), obs.data_ptr(), self._stream())
        return obs

    def step(self, actions: Tensor, out: Step | None) -> Step:
        """One action, int64 [N], per maze; an action out of range counts modulo their number."""
        to = self._results() if out is None else self._checked(out)
        with self._current():
            obs, reward, solved, late, final_obs = (x.data_ptr() for x in to)
            self.native.device_step(
                *self._addresses(),
                actions.data_ptr(),
                obs,
                reward,
                solved,
                late,
                final_obs,
                self._stream(),
            )
        return to

    def _results(self) -> Step:
        reward = torch.empty(len(self.boards), device=self.device)
        solved, late = (torch.empty_like(reward, dtype=torch.bool) for _ in range(2))
        obs, final_obs = (torch.empty_like(self.boards) for _ in range(2))
        return Step(obs, reward, solved, late, final_obs)

    def _checked(self, out: Step) -> Step:
        for name, given, wanted in zip(Step._fields, out, self._results(), strict=True):
            fits = given.dtype == wanted.dtype and given.shape == wanted.shape
            if not (fits and given.device == wanted.device and given.is_contiguous()):
                raise ValueError(
                    f"out.{name} is {given.dtype} {list(given.shape)} on {given.device}: expected "
                    f"contiguous {wanted.dtype} {list(wanted.shape)} on {wanted.device}"
                )
        return out

    def _host(self) -> tuple[Tensor, Tensor]:
        mazes, boards = (torch.empty_like(x, device="cpu") for x in (self.mazes, self.boards))
        return mazes, boards

    def _addresses(self) -> tuple[int, int, int]:
        return self.spec.data_ptr(), self.mazes.data_ptr(), self.boards.data_ptr()

    def _current(self) -> torch.cuda.device:
        return torch.cuda.device(self.device if self.device.type == "cuda" else -1)

    def _stream(self) -> int | None:
        if self.device.type == "cpu":
            return None
        return torch.cuda.current_stream(self.device).cuda_stream
