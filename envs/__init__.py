"""Grid mazes whose doors move: batched (`MazeBatch`) and as Gymnasium environments.

Other Gymnasium environments with the face of `MazeBatch`: `GymBatch`.
"""

from envs import gymnasium_env as gymnasium_env  # registers the ids
from envs.gym_batch import GymBatch, make_batch
from envs.gym_spec import GymSpec
from envs.maze import MazeBatch, Step
from envs.spec import MazeSpec

__all__ = ["GymBatch", "GymSpec", "MazeBatch", "MazeSpec", "Step", "make_batch"]
