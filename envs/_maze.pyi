"""The compiled simulator (csrc/maze). Every array is C-contiguous with exactly the given dtype and
shape, otherwise ValueError; `read` arrays are not written, `written` ones are overwritten entirely.
N is num_envs, cells is rows * cols. Methods of one Batch called from several threads take turns.
"""

import numpy as np
from numpy.typing import NDArray

SOURCES: str  # digest of what it was built from, csrc/digest.py
MAZE_BYTES: int

def cuda_devices() -> int:
    """CUDA devices that can be used; 0 without a driver, or where built without nvcc."""

def philox(c0: int, c1: int, c2: int, c3: int, k0: int, k1: int) -> tuple[int, int, int, int]:
    """The block of Philox4x32-10 (Salmon et al. 2011) at counter c and key k, 32-bit words each."""

class Batch:
    """N mazes. -1 for start_goal_distance means any, for view_radius the whole board. Maze i draws
    its random numbers as number first + i."""

    def __init__(
        self,
        *,
        map: NDArray[np.uint8],  # read [rows, cols], codes of `|- .d@>`
        rooms: NDArray[np.uint8],  # read [rows, cols], 0 to 3; matters with start_goal_distance
        actions: int,
        closed_doors: int,
        door_glyph: int,
        p_change: float,
        fixed_walls: int,
        max_steps: int,
        start_goal_distance: int,
        view_radius: int,
        num_envs: int,
        seed: int,
        first: int,
        threads: int,
    ) -> None: ...
    @property
    def threads(self) -> int:
        """Threads that step the mazes, the caller's included."""

    def reset(self, obs: NDArray[np.uint8]) -> None:
        """New mazes. obs: written [N, cells]."""

    def observe(self, obs: NDArray[np.uint8]) -> None:
        """obs: written [N, cells]."""

    def step(
        self,
        actions: NDArray[np.int64],  # read [N]; ValueError if out of range, nothing moves then
        obs: NDArray[np.uint8],  # written [N, cells]
        reward: NDArray[np.float32],  # written [N]
        terminated: NDArray[np.bool_],  # written [N]
        truncated: NDArray[np.bool_],  # written [N]
        final_obs: NDArray[np.uint8],  # written [N, cells]
    ) -> None:
        """One action per maze. Lets go of the GIL: do not write `actions` meanwhile."""

    def get_state(
        self,
        boards: NDArray[np.uint8],  # written [N, rows, cols]
        elapsed: NDArray[np.int32],  # written [N]
        clock: NDArray[np.int64],  # written [N]
    ) -> None: ...
    def set_state(
        self,
        boards: NDArray[np.uint8],  # read [N, rows, cols]
        elapsed: NDArray[np.int32],  # read [N], 0 to max_steps - 1
        clock: NDArray[np.int64],  # read [N], 0 or more
    ) -> None:
        """ValueError, with nothing changed, if this map cannot show one of the boards."""

    def load_boards(self, boards: NDArray[np.uint8]) -> None:
        """boards: read [N, rows, cols]; elapsed becomes 0, clocks run on."""

    def shortest_path(
        self,
        length: NDArray[np.int32],  # written [N], -1 where agent and goal are cut off
        action: NDArray[np.int64],  # written [N], 0 where they are
    ) -> None: ...
    def give(
        self,
        mazes: NDArray[np.uint8],  # written [N, MAZE_BYTES]
        boards: NDArray[np.uint8],  # written [N, cells]
    ) -> None:
        """The mazes as a device wants them."""

    def take(
        self,
        mazes: NDArray[np.uint8],  # read [N, MAZE_BYTES]; nothing in it is checked
        boards: NDArray[np.uint8],  # read [N, cells]
    ) -> None:
        """The inverse of `give`."""

    def spec_bytes(self) -> bytes:
        """What is fixed for the batch, as a device wants it."""

    # Addresses of contiguous memory, all on the device of the CUDA stream's address, or on the host
    # where the stream is None (the same kernels, played by one thread); unchecked.
    def device_reset(
        self,
        spec: int,  # read [len(spec_bytes())]
        mazes: int,  # read and written [N, MAZE_BYTES]
        boards: int,  # read and written [N, cells], at a multiple of 8
        obs: int,  # written [N, cells], at a multiple of 8
        stream: int | None,
    ) -> None:
        """New mazes. RuntimeError: a CUDA error, or built without nvcc."""

    def device_step(
        self,
        spec: int,  # read [len(spec_bytes())]
        mazes: int,  # read and written [N, MAZE_BYTES]
        boards: int,  # read and written [N, cells], at a multiple of 8
        actions: int,  # read int64 [N]; counted modulo the number of actions
        obs: int,  # written [N, cells], at a multiple of 8
        reward: int,  # written float32 [N]
        terminated: int,  # written bool [N]
        truncated: int,  # written bool [N]
        final_obs: int,  # written [N, cells], at a multiple of 8
        stream: int | None,
    ) -> None:
        """One action per maze. RuntimeError: a CUDA error, or built without nvcc."""
