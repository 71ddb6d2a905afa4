"""Many mazes stepped at once. The rules are C++ (csrc/maze); this file checks what comes in and
hands out tensors."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    from envs import _maze
except ImportError as error:
    raise ImportError(f"{error}: expected it to be built (pip install -e .)") from None
from envs.device import OnDevice
from envs.spec import MazeSpec, check_integer
from envs.step import Step

_digest = Path(__file__).resolve().parent.parent / "csrc" / "digest.py"
if _digest.exists():  # not so where only the packages are installed
    runpy.run_path(str(_digest))["check"](_maze, "maze")


class MazeBatch:
    """N mazes of one kind (HRM-Agent, arXiv 2510.22832) with automatic reset in the same step.

    Maze i draws its random numbers from (seed, first + i, its own number of steps and resets). So
    it runs the same for every `num_envs` and `threads`, and a batch can be split by `first`. A copy
    (`copy.deepcopy`, `pickle`) goes on like the original. `threads` 0: one per core, but at least
    4,096 mazes each.

    `device` is where the tensors live. The mazes live there too if it is a GPU and the module was
    built with nvcc (`is_resident`): kernels with the same rules and random numbers step them, and
    `step` and `reset` do not wait for the host; the other methods work on the host's copy.

    Raises `ValueError` for arguments out of range. One thread may use a batch at a time; others
    wait.
    """

    def __init__(
        self,
        spec: MazeSpec,
        num_envs: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        threads: int = 0,
        first: int = 0,
    ) -> None:
        if not isinstance(spec, MazeSpec):
            raise ValueError(f"spec is {type(spec).__name__}: expected a MazeSpec")
        num_envs = check_integer("num_envs", num_envs, 1, 2**24)
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        threads = check_integer("threads", threads, 0, 1024)
        first = check_integer("first", first, 0, 2**32 - num_envs)
        self._made_of = (spec, num_envs, seed, str(device), threads, first)
        self.spec = spec
        self.num_envs = num_envs
        self.device = _device(device)
        self._shape = (num_envs,)
        self._native = _native_batch(spec, num_envs, seed, first, threads)
        self._gpu: OnDevice | None = None
        if self.device.type == "cuda" and _maze.cuda_devices():
            self._gpu = OnDevice(self._native, num_envs, spec.cells, self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (type(self), self._made_of, self.get_state())

    def reset(self) -> torch.Tensor:
        """Draws N new mazes. Returns their observations, uint8 [N, cells]."""
        if self._gpu is not None:
            return self._gpu.reset()
        obs = torch.empty(self.num_envs, self.spec.cells, dtype=torch.uint8, device="cpu")
        self._native.reset(obs.numpy())
        return obs.to(self.device)

    def step(self, actions: torch.Tensor | np.ndarray, out: Step | None = None) -> Step:
        """Moves every agent: `actions` is [N], any integer type, 0 N, 1 E, 2 S, 3 W, with 8 also
        4 NE, 5 SE, 6 SW, 7 NW.

        Returns new tensors, or overwrites and returns `out`: contiguous tensors of a `Step`, where
        the mazes live. Raises `ValueError` for actions of another type or shape and names the
        first one out of range; no maze moves then. On a GPU an action out of range is taken modulo
        the number of actions, since checking it would make the host wait.
        """
        if out is not None and len({tensor.data_ptr() for tensor in out}) < len(out):
            raise ValueError("out holds the same memory twice: expected five separate tensors")
        if self._gpu is not None:
            return self._gpu.step(self._resident_actions(actions), out)
        to_do = self._actions(actions)
        if out is None:
            arrays = self._empty_arrays()
            self._native.step(to_do, *arrays)
            step = Step(*map(torch.from_numpy, arrays))
            return step if self.device.type == "cpu" else Step(*(t.to(self.device) for t in step))
        self._native.step(to_do, *(tensor.numpy() for tensor in out))
        return out

    def close(self) -> None:
        """Nothing to give back; here since `GymBatch` has it."""

    def observe(self) -> torch.Tensor:
        """The present observations, uint8 [N, cells]; nothing moves."""
        obs = torch.empty(self.num_envs, self.spec.cells, dtype=torch.uint8, device="cpu")
        self._from_gpu().observe(obs.numpy())
        return obs.to(self.device)

    def get_state(self) -> dict[str, torch.Tensor]:
        """All that `set_state` needs to continue bit for bit, on the CPU: `boards` uint8
        [N, rows, cols], `elapsed` int32 [N] steps of the episode, `clock` int64 [N] steps and
        resets of the maze. Agent, goal and start are those on the board; where no start is drawn
        the agent stands on it."""
        state = {
            "boards": torch.empty(self._board_shape, dtype=torch.uint8, device="cpu"),
            "elapsed": torch.empty(self.num_envs, dtype=torch.int32, device="cpu"),
            "clock": torch.empty(self.num_envs, dtype=torch.int64, device="cpu"),
        }
        self._from_gpu().get_state(*(tensor.numpy() for tensor in state.values()))
        return state

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Continues from a `get_state` of a batch with the same spec, size and seed. Raises
        `ValueError`, with nothing changed, if a key is missing, or a board or number is not
        possible."""
        wanted = {
            "boards": (torch.uint8, self._board_shape),
            "elapsed": (torch.int32, (self.num_envs,)),
            "clock": (torch.int64, (self.num_envs,)),
        }
        if set(state) != set(wanted):
            raise ValueError(f"state has the keys {sorted(state)}: expected {sorted(wanted)}")
        arrays = [_checked(key, state[key], *wanted[key]) for key in wanted]
        self._native.set_state(*arrays)
        self._to_gpu()

    def load_boards(self, boards: torch.Tensor | np.ndarray) -> None:
        """Puts every maze into the state that its drawn board shows: uint8 [N, rows, cols] with
        closed doors, walls, one agent, one goal and at most one start. `elapsed` becomes 0, the
        clock runs on. Raises `ValueError` that names maze, row and column, with nothing changed,
        if the map cannot show such a board."""
        self._from_gpu().load_boards(_checked("boards", boards, torch.uint8, self._board_shape))
        self._to_gpu()

    def shortest_path(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Length int32 [N] of a shortest path from agent to goal past the doors now closed, -1
        where there is none, and its first action int64 [N] (0 where there is none)."""
        length = torch.empty(self.num_envs, dtype=torch.int32, device="cpu")
        action = torch.empty(self.num_envs, dtype=torch.int64, device="cpu")
        self._from_gpu().shortest_path(length.numpy(), action.numpy())
        return length.to(self.device), action.to(self.device)

    @property
    def is_resident(self) -> bool:
        """The mazes live on the GPU."""
        return self._gpu is not None

    @property
    def threads(self) -> int:
        """Threads that step the mazes."""
        return self._native.threads

    @property
    def _board_shape(self) -> tuple[int, int, int]:
        return self.num_envs, self.spec.rows, self.spec.cols

    def _from_gpu(self) -> _maze.Batch:
        """The mazes on the host, as they are now."""
        if self._gpu is not None:
            self._gpu.pull()
        return self._native

    def _to_gpu(self) -> None:
        if self._gpu is not None:
            self._gpu.push()

    def _resident_actions(self, actions: torch.Tensor | np.ndarray) -> torch.Tensor:
        if not isinstance(actions, torch.Tensor) or actions.device != self.device:
            actions = torch.from_numpy(self._actions(actions))
        if actions.dtype.is_floating_point or actions.dtype == torch.bool:
            raise ValueError(f"actions are of type {actions.dtype}: expected integers")
        if actions.shape != self._shape:
            raise ValueError(f"actions have shape {tuple(actions.shape)}: expected {self._shape}")
        return actions.to(self.device, torch.int64).contiguous()

    def _empty_arrays(self) -> list[np.ndarray]:
        """For a Step; made by NumPy, since that costs 14 us a call where `torch.empty` costs 24."""
        n, board = self.num_envs, (self.num_envs, self.spec.cells)
        return [
            np.empty(board, np.uint8),
            np.empty(n, np.float32),
            np.empty(n, np.bool_),
            np.empty(n, np.bool_),
            np.empty(board, np.uint8),
        ]

    def _actions(self, actions: torch.Tensor | np.ndarray) -> np.ndarray:
        array = actions.numpy(force=True) if isinstance(actions, torch.Tensor) else actions
        if type(array) is np.ndarray and array.dtype == np.int64 and array.shape == self._shape:
            return np.ascontiguousarray(array)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            kind = getattr(actions, "dtype", type(actions).__name__)
            raise ValueError(f"actions are of type {kind}: expected integers")
        if array.shape != self._shape:
            raise ValueError(f"actions have shape {array.shape}: expected {self._shape}")
        if array.dtype == np.uint64:
            array = array.clip(max=2**63 - 1)
        return np.ascontiguousarray(array, dtype=np.int64)


def _copied(kind: Any, made_of: tuple[Any, ...], state: dict[str, torch.Tensor]) -> MazeBatch:
    batch = kind(*made_of)
    batch.set_state(state)
    return batch


def _native_batch(
    spec: MazeSpec, num_envs: int, seed: int, first: int, threads: int
) -> _maze.Batch:
    board = np.array([list(row.encode()) for row in spec.board], dtype=np.uint8)
    distance, radius = spec.start_goal_distance, spec.view_radius
    return _maze.Batch(
        map=board,
        rooms=_quadrants(*board.shape),
        actions=spec.actions,
        closed_doors=spec.door_count,
        door_glyph=ord(spec.door_glyph),
        p_change=float(spec.p_change),
        fixed_walls=spec.wall_count,
        max_steps=spec.step_limit,
        start_goal_distance=-1 if distance is None else distance,
        view_radius=-1 if radius is None else radius,
        num_envs=num_envs,
        seed=seed,
        first=first,
        threads=threads,
    )


def _quadrants(rows: int, cols: int) -> np.ndarray:
    """The rooms of four-rooms, 0 to 3 clockwise from the north-west: uint8 [rows, cols].

    Walls and doorways get a number as well, which is never read.
    """
    south = np.arange(rows)[:, None] > rows // 2
    east = np.arange(cols)[None, :] > cols // 2
    return np.where(south, np.where(east, 2, 3), np.where(east, 1, 0)).astype(np.uint8)


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.empty(0, dtype=torch.uint8, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r} ({why}): expected cpu or cuda") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {str(device)!r}: expected cpu or cuda")
    return found


def _checked(
    name: str, value: torch.Tensor | np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    tensor = torch.as_tensor(value, device="cpu")
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}: expected {dtype} {shape}"
        )
    return np.ascontiguousarray(tensor.numpy(force=True))
