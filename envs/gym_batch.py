"""Any Gymnasium environment of small discrete observations and actions, many at once.

`GymBatch` walks N of a `GymSpec` with the face of `MazeBatch`. They run one after the other in this
process, each checked at every step (`envs.gym_episodes`).
"""

import weakref

import numpy as np
import torch
from torch import Tensor

from envs.gym_episodes import Episodes
from envs.gym_spec import GymSpec
from envs.maze import MazeBatch
from envs.spec import MazeSpec, check_integer
from envs.step import Step


class GymBatch:
    """N environments of one kind with automatic reset in the same step.

    Episode k of environment i gets a random seed made of (seed, first + i, k), so that the same
    seed gives the same episodes for every `num_envs`. A running episode cannot be saved: a state is
    only how many each has begun. A copy (`copy.deepcopy`, `pickle`) goes on like the original where
    the environments can be copied: that is theirs to say. Raises `ValueError` where the environment
    cannot be made, does not fit, or returns what Gymnasium's API does not allow. Closed by `close`,
    at the latest when nothing refers to it any more or the process ends.
    """

    is_resident = False  # in a GPU's memory

    def __init__(
        self,
        spec: GymSpec,
        num_envs: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        render_mode: str | None = None,
        first: int = 0,
    ) -> None:
        num_envs = check_integer("num_envs", num_envs, 1, 2**24)
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        first = check_integer("first", first, 0, 2**32 - num_envs)
        self.spec, self.num_envs, self.device = spec, num_envs, torch.device(device)
        self.envs: list[Episodes] = []
        self.close = weakref.finalize(self, _close_all, self.envs)
        try:
            for i in range(num_envs):
                self.envs.append(spec.episodes((seed, first + i), render_mode))
        except BaseException:
            self.close()
            raise

    def reset(self) -> Tensor:
        """New episodes in all of them -> obs uint8 [N, cells]."""
        return torch.from_numpy(np.stack([env.reset() for env in self.envs])).to(self.device)

    def step(self, actions: Tensor) -> Step:
        """One action, integers [N] from 0, in each."""
        to_do = self._actions(actions)
        came = [env.step(action) for env, action in zip(self.envs, to_do, strict=True)]
        final, reward, terminated, truncated = (list(x) for x in zip(*came, strict=True))
        ends = zip(self.envs, final, terminated, truncated, strict=True)
        obs = [env.reset() if end or cut else row for env, row, end, cut in ends]
        flags = (np.array(x, bool) for x in (terminated, truncated))
        arrays = (np.stack(obs), np.array(reward, np.float32), *flags, np.stack(final))
        return Step(*(torch.from_numpy(x).to(self.device) for x in arrays))

    def _actions(self, actions: Tensor) -> list[int]:
        given = torch.as_tensor(actions, dtype=None, device="cpu")
        kind = given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool
        if kind or given.shape != (self.num_envs,):
            what = f"{given.dtype} {list(given.shape)}"
            raise ValueError(f"actions are {what}: expected integers [{self.num_envs}]")
        found: list[int] = given.tolist()
        last = self.spec.actions - 1
        for i, action in enumerate(found):
            if not 0 <= action <= last:
                raise ValueError(f"action {i} is {action}: expected 0 to {last}")
        return found

    def get_state(self) -> dict[str, Tensor]:
        """`episodes` int64 [N]: how many each has begun."""
        begun = [env.episode for env in self.envs]
        return {"episodes": torch.tensor(begun, dtype=torch.int64, device="cpu")}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """The next `reset` goes on with the episodes behind those of the state."""
        if set(state) != {"episodes"} or state["episodes"].shape != (self.num_envs,):
            raise ValueError(f"state is of {sorted(state)}: expected episodes [{self.num_envs}]")
        for env, episode in zip(self.envs, state["episodes"].tolist(), strict=True):
            env.episode = episode

    def text(self) -> str:
        """How the first environment draws itself; made with render_mode "ansi"."""
        return self.envs[0].text()


def _close_all(envs: list[Episodes]) -> None:
    while envs:
        envs.pop().close()


def make_batch(
    spec: MazeSpec | GymSpec,
    num_envs: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    first: int = 0,
) -> MazeBatch | GymBatch:
    """N mazes or N other environments, by the kind of the spec."""
    kind = GymBatch if isinstance(spec, GymSpec) else MazeBatch
    return kind(spec, num_envs, seed=seed, device=device, first=first)  # type: ignore[arg-type]
