"""The mazes as Gymnasium environments: one maze (`MazeEnv`) or many at once (`MazeVectorEnv`).

Importing this module registers hrm_fast/FourRooms-v0, hrm_fast/Corridors-v0 and hrm_fast/Room-v0,
where `import hrm_fast` has not done so.
"""

from dataclasses import fields, replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs import render
from envs.maze import MazeBatch
from envs.spec import NAMED_MAPS, MazeSpec, check_integer, plain

Board = npt.NDArray[np.uint8]
Info = dict[str, Any]
Picture = Board | str

RENDER: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 8}


class MazeEnv(gymnasium.Env[Board, np.int64]):
    """One maze whose doors may open and close while the agent walks to the goal.

    ## Description

    The agent walks on a grid to the goal. Some doorways are closed by doors, and on every step,
    with probability `p_change`, the doors that are closed are drawn again. Start, goal and doors
    are drawn anew for every episode. Three ids are registered; any field of `envs.MazeSpec` is a
    keyword argument of `gymnasium.make`, so the user's own map is one as well:

        gymnasium.make("hrm_fast/FourRooms-v0")           # 11 x 11, one of four doors closed
        gymnasium.make("hrm_fast/Corridors-v0")           # 11 x 13, random walls and five doors
        gymnasium.make("hrm_fast/Corridors-v0", size=21)  # 21 x 21, walls and doors in proportion
        gymnasium.make("hrm_fast/Room-v0", size=5)        # an empty square
        gymnasium.make("hrm_fast/Room-v0", map=("..d..", "@.|.>"), closed_doors=1)

    ## Observation Space

    `Box(0, 127, (rows, cols), uint8)`: ASCII codes, the board is its own picture. `|` and `-` wall,
    space solid rock, `.` floor, `#` closed door (`|` on the map "four-rooms"), `@` agent, `>` goal,
    `<` start once the agent has left it, `?` out of view (`view_radius`).

    ## Action Space

    `Discrete(4)`: 0 north, 1 east, 2 south, 3 west. With `actions=8` also 4 north-east,
    5 south-east, 6 south-west, 7 north-west.

    ## Rewards

    1 on entering the goal, -0.01 for a bump into a wall or a closed door, 0 for any other step.

    ## Termination

    Terminated when the agent enters the goal, truncated after `MazeSpec.step_limit` steps. The
    observation returned then is the last of the episode; `step` raises `ResetNeeded` until `reset`
    is called.

    ## Arguments

    * `maze`: a `MazeSpec`; None is that of the keywords alone.
    * `render_mode`: `"ansi"` (str), `"rgb_array"` (uint8 [rows * 24, cols * 24, 3]) or None.
    * every field of `MazeSpec`: set over `maze`.

    `reset(seed=s)` restarts the random numbers: from there on the episodes are those of maze 0 of
    `MazeBatch(spec, n, seed=s)` and of `MazeVectorEnv`, for every n. A copy (`copy.deepcopy`,
    `pickle`) goes on like the original.
    """

    metadata: dict[str, Any] = RENDER

    def __init__(
        self, maze: MazeSpec | None = None, render_mode: str | None = None, **changes: Any
    ) -> None:
        """ValueError: an unknown or bad field of MazeSpec, or an unknown render mode."""
        self.maze = _spec(maze, changes)
        self.render_mode = _render_mode(render_mode)
        self.observation_space = _board_space(self.maze)
        self.action_space = spaces.Discrete(self.maze.actions)
        self._batch: MazeBatch | None = None
        self._board: Board | None = None  # [rows, cols], last observation
        self._next: Board | None = None  # [rows, cols], drawn already when an episode ended

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Board, Info]:
        """A new episode -> (observation [rows, cols], {}); `options` are not used."""
        seed = plain(seed)
        super().reset(seed=seed)
        if seed is not None or self._batch is None:
            self._batch = MazeBatch(self.maze, 1, seed=_maze_seed(self, seed))
            self._next = None
        if self._next is None:
            self._next = self._batch.reset().numpy().reshape(self.maze.rows, self.maze.cols)
        self._board, self._next = self._next, None
        return self._board.copy(), {}

    def step(self, action: Any) -> tuple[Board, float, bool, bool, Info]:
        """One step -> (observation [rows, cols], reward, terminated, truncated, {}).

        Raises ValueError for an action out of range, ResetNeeded after an episode's end.
        """
        if self._batch is None or self._next is not None:
            raise ResetNeeded("no episode is running: call reset() first")
        action = plain(action)
        if isinstance(action, bool) or not self.action_space.contains(action):
            last = self.maze.actions - 1
            raise ValueError(f"action is {action!r}: expected an integer from 0 to {last}")
        step = self._batch.step(np.array([action], dtype=np.int64))
        shape = (self.maze.rows, self.maze.cols)
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        if terminated or truncated:
            self._next = step.obs.numpy().reshape(shape)
        self._board = step.final_obs.numpy().reshape(shape)
        reward = round(step.reward.item(), 2)  # float32 would show -0.01 as -0.00999999977
        return self._board.copy(), reward, terminated, truncated, {}

    def render(self) -> Picture | None:
        """The last observation in the render mode; None where there is no mode."""
        if self.render_mode is None:
            return None
        if self._board is None:
            raise ResetNeeded("nothing to render: call reset() first")
        return _picture(self._board, self.maze, self.render_mode)


class MazeVectorEnv(VectorEnv[Board, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """Many mazes of one kind, stepped together in C++; see `MazeEnv` for the rules.

    Observations are uint8 [num_envs, rows, cols], rewards float32, ends bool [num_envs]. A maze
    that ends is reset in the same step (`AutoresetMode.SAME_STEP`): the observation is the new
    episode's first, `infos["final_obs"]` (object array, mask `_final_obs`) holds the ended one's
    last. `render` gives a tuple of one picture for each maze. Maze i draws the same random numbers
    for every `num_envs` and number of `threads`.
    """

    metadata: dict[str, Any] = RENDER | {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        maze: MazeSpec | None = None,
        render_mode: str | None = None,
        threads: int = 0,
        **changes: Any,
    ) -> None:
        """threads: 0 chooses by the size. ValueError as for `MazeEnv` and `MazeBatch`."""
        self.maze = _spec(maze, changes)
        self.render_mode = _render_mode(render_mode)
        self.num_envs = num_envs = check_integer("num_envs", num_envs, 1, 2**24)
        self.single_observation_space = _board_space(self.maze)
        self.single_action_space = spaces.Discrete(self.maze.actions)
        self._threads = threads
        self._batch = MazeBatch(self.maze, num_envs, seed=0, threads=threads)
        self._boards: Board | None = None  # [N, rows, cols]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Board, Info]:
        """New episodes in all mazes -> (observations [N, rows, cols], {}).

        seed: one integer, which restarts the random numbers of all mazes; None goes on with them.
        ValueError: a list of seeds, or `options` asking to reset some mazes only.
        """
        seed = plain(seed)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ValueError(f"seed is {seed!r}: expected one integer for all mazes, or None")
        if options and "reset_mask" in options:
            raise ValueError("options holds reset_mask: expected none, mazes reset themselves")
        super().reset(seed=seed)
        if seed is not None or self._boards is None:
            start = _maze_seed(self, seed)
            self._batch = MazeBatch(self.maze, self.num_envs, seed=start, threads=self._threads)
        self._boards = self._shaped(self._batch.reset().numpy())
        return self._boards.copy(), {}

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[Board, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], Info]:
        """One step of every maze -> (observations, rewards, terminated, truncated, infos).

        actions: integers [N]. ValueError: another shape or dtype, or the first out of range;
        ResetNeeded: before the first reset.
        """
        if self._boards is None:
            raise ResetNeeded("no episode is running: call reset() first")
        step = self._batch.step(np.asarray(actions))
        self._boards = self._shaped(step.obs.numpy())
        terminated, truncated = step.terminated.numpy(), step.truncated.numpy()
        ended = terminated | truncated
        infos: Info = {}
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            final_boards = self._shaped(step.final_obs.numpy())
            for i in np.flatnonzero(ended):
                final[i] = final_boards[i].copy()
            infos = {"final_obs": final, "_final_obs": ended}
            infos |= {"final_info": {}, "_final_info": ended.copy()}
        return self._boards.copy(), step.reward.numpy(), terminated, truncated, infos

    def render(self) -> tuple[Picture, ...] | None:
        """One picture of the last observation for each maze; None where there is no mode."""
        if self.render_mode is None:
            return None
        if self._boards is None:
            raise ResetNeeded("nothing to render: call reset() first")
        return tuple(_picture(board, self.maze, self.render_mode) for board in self._boards)

    def _shaped(self, boards: Board) -> Board:
        return boards.reshape(-1, self.maze.rows, self.maze.cols)


def _spec(maze: MazeSpec | None, changes: Info) -> MazeSpec:
    names = [field.name for field in fields(MazeSpec)]
    for name in changes:
        if name not in names:
            raise ValueError(f"{name} is no field of MazeSpec: expected one of {', '.join(names)}")
    return MazeSpec(**changes) if maze is None else replace(maze, **changes)


def _render_mode(mode: str | None) -> str | None:
    if mode is not None and mode not in RENDER["render_modes"]:
        raise ValueError(f"render_mode is {mode!r}: expected 'ansi', 'rgb_array' or None")
    return mode


def _board_space(maze: MazeSpec) -> spaces.Space[Any]:
    return spaces.Box(0, 127, (maze.rows, maze.cols), np.uint8)


def _maze_seed(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], seed: int | None) -> int:
    return int(env.np_random.integers(2**63)) if seed is None else int(seed)


def _picture(board: Board, maze: MazeSpec, mode: str) -> Picture:
    return render.ansi(board, maze) if mode == "ansi" else render.rgb(board, maze)


for _map in NAMED_MAPS:
    _name = _map.title().replace("-", "")
    if f"hrm_fast/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(
            id=f"hrm_fast/{_name}-v0",
            entry_point=f"{__name__}:MazeEnv",
            vector_entry_point=f"{__name__}:MazeVectorEnv",
            kwargs={"map": _map},
        )
