"""The corridors in vectorised NumPy, as one would write them without C++, for bench_maze to compare
with: the rules of `envs.MazeSpec()`, NumPy's own random numbers, plain reachability."""

import numpy as np

from envs import MazeSpec

FLOOR, AGENT, GOAL, START, WALL, DOOR = b".@><|#"


class NumpyCorridors:
    """N mazes; `step(actions [N])` returns obs, reward, terminated, truncated and final_obs."""

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self.spec = spec = MazeSpec()
        self.rng = np.random.default_rng(seed)
        base = np.frombuffer("".join(spec.board).encode(), np.uint8)
        self.doorway = np.flatnonzero(base == ord("d"))
        self.picture = np.where(base == ord("d"), FLOOR, base).astype(np.uint8)
        self.moves = np.array([-spec.cols, 1, spec.cols, -1])
        self.boards = np.zeros((num_envs, spec.cells), np.uint8)
        self.agent = np.zeros(num_envs, np.int64)
        self.start, self.goal, self.elapsed = (np.zeros_like(self.agent) for _ in range(3))
        self.reset(np.arange(num_envs))

    def load_boards(self, boards: np.ndarray) -> None:
        self.boards = boards.reshape(self.boards.shape).copy()
        self.agent, self.goal = (np.argmax(self.boards == glyph, 1) for glyph in (AGENT, GOAL))
        left = (self.boards == START).any(1)
        self.start = np.where(left, np.argmax(self.boards == START, 1), self.agent)
        self.elapsed[:] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        every = np.arange(len(actions))
        target = self.agent + self.moves[actions]  # the wall around keeps it on the board
        open_ = np.isin(self.boards[every, target], (FLOOR, START, GOAL))
        now = np.where(open_, target, self.agent)
        self.boards[every, self.agent] = np.where(self.agent == self.start, START, FLOOR)
        self.boards[every, now] = AGENT
        self.agent = now
        self.elapsed += 1
        terminated = now == self.goal
        truncated = ~terminated & (self.elapsed == self.spec.step_limit)
        reward = np.where(terminated, 1, np.where(open_, 0, -0.01)).astype(np.float32)
        change = self.rng.random(len(actions)) < self.spec.p_change
        self.close_doors(np.flatnonzero(change & ~terminated))
        final_obs = self.boards.copy()
        self.reset(np.flatnonzero(terminated | truncated))
        return self.boards.copy(), reward, terminated, truncated, final_obs

    def close_doors(self, mazes: np.ndarray) -> None:
        glyphs = self.boards[np.ix_(mazes, self.doorway)]
        glyphs[glyphs == DOOR] = FLOOR
        rank = np.where(glyphs == FLOOR, self.rng.random(glyphs.shape), 2)
        doors = np.argsort(rank, 1)[:, : self.spec.door_count]
        np.put_along_axis(glyphs, doors, DOOR, 1)
        self.boards[np.ix_(mazes, self.doorway)] = glyphs

    def reset(self, mazes: np.ndarray) -> None:
        self.boards[mazes] = self.picture
        self.close_doors(mazes)
        rank = np.where(self.boards[mazes] == FLOOR, self.rng.random((len(mazes), 143)), 2)
        self.start[mazes], self.goal[mazes] = np.argpartition(rank, 1, 1)[:, :2].T
        self.agent[mazes] = self.start[mazes]
        self.elapsed[mazes] = 0
        self.boards[mazes, self.goal[mazes]] = GOAL
        self.boards[mazes, self.start[mazes]] = AGENT
        for _ in range(self.spec.wall_count):
            self.place_wall(mazes)

    def place_wall(self, mazes: np.ndarray) -> None:
        for _ in range(10):
            glyphs = self.boards[np.ix_(mazes, self.doorway)]
            rank = np.where(glyphs == FLOOR, self.rng.random(glyphs.shape), 2)
            cell = self.doorway[np.argmin(rank, 1)]
            self.boards[mazes, cell] = WALL
            cut = ~self.connected(mazes)
            self.boards[mazes[cut], cell[cut]] = FLOOR
            mazes = mazes[cut]
            if len(mazes) == 0:
                return

    def connected(self, mazes: np.ndarray) -> np.ndarray:
        """Whether the goal can be reached with all doors open."""
        shape = (len(mazes), self.spec.rows, self.spec.cols)
        open_ = np.isin(self.boards[mazes], (FLOOR, AGENT, GOAL, DOOR)).reshape(shape)
        seen = (self.boards[mazes] == AGENT).reshape(shape)
        while True:
            wider = seen.copy()
            wider[:, 1:] |= seen[:, :-1]
            wider[:, :-1] |= seen[:, 1:]
            wider[:, :, 1:] |= seen[:, :, :-1]
            wider[:, :, :-1] |= seen[:, :, 1:]
            wider &= open_
            if (wider == seen).all():
                return seen.reshape(-1, self.spec.cells)[np.arange(len(mazes)), self.goal[mazes]]
            seen = wider
