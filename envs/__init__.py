"""Grid mazes whose doors move: batched (`MazeBatch`) and as Gymnasium environments."""

from envs import gymnasium_env as gymnasium_env  # registers the ids
from envs.maze import MazeBatch, Step
from envs.spec import MazeSpec

__all__ = ["MazeBatch", "MazeSpec", "Step"]
