"""Any Gymnasium environment of small discrete observations and actions, many at once.

`GymSpec` says which one, `GymBatch` walks N of them with the face of `MazeBatch`. They run one
after the other in this process (`gymnasium.vector.SyncVectorEnv`).
"""

import importlib
import json
import re
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from envs.gym_tokens import PREFERRED, Tokens, tokens_of
from envs.maze import MazeBatch
from envs.spec import MazeSpec, check_integer, make_plain
from envs.step import Step

# beginning of an id -> the package that registers it, which is also our extra
PACKAGES = {"MiniHack-": "minihack", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
MAX_STEPS = 1_000  # of an environment that names no limit


@dataclass(frozen=True)
class GymSpec:
    """A Gymnasium environment by its id. Nothing is made before one of the properties is asked.

    Raises a one-line `ValueError` that names the field, its value and what is right.
    """

    id: str
    """Id under which the environment is registered, such as "MiniHack-Room-5x5-v0"."""

    options: str = "{}"
    """Keyword arguments for gymnasium.make, as a JSON object: '{"is_slippery": false}'."""

    entry: str | None = None
    """Entry to observe where there are several (None: chars_crop, image, or the one that fits)."""

    max_steps: int | None = None
    """Steps after which an episode is truncated (None: as registered, or 1,000)."""

    whole_grid: bool = True
    """Minigrid: observe the whole grid, not the 7 x 7 cells before the agent."""

    def __post_init__(self) -> None:
        make_plain(self)
        if not isinstance(self.id, str) or not re.fullmatch(r"[\w./-]+", self.id):
            raise ValueError(
                f"id is {self.id!r}: expected that of an environment, as CliffWalking-v1"
            )
        if self.max_steps is not None:
            check_integer("max_steps", self.max_steps, 1, 2**31 - 1)
        _ = self._options

    @classmethod
    def parse(cls, text: str) -> "GymSpec":
        """From `gym:ID` or `gym:MODULE:ID`; the module, which registers the id, is imported.

        A spec has no place for the module: a file that holds one cannot have anything imported.
        """
        found = re.fullmatch(r"gym:(?:([^:]+):)?([^:]+)", text)
        if found is None:
            raise ValueError(f"env is {text!r}: expected gym:ID or gym:MODULE:ID")
        module, name = found.groups()
        try:
            if module:
                importlib.import_module(module)
        except (ImportError, TypeError, ValueError) as error:  # TypeError: it begins with a dot
            raise ValueError(f"env is {text!r} ({error}): expected a module") from None
        return cls(name)

    @property
    def cells(self) -> int:
        """Tokens of one observation."""
        return self.fitted[0].cells

    @property
    def cols(self) -> int:
        """Tokens in a row of the board; all of them where it is none."""
        return self.fitted[0].cols

    @property
    def rows(self) -> int:
        return self.cells // self.cols

    @property
    def vocab(self) -> int:
        """Different tokens that there may be."""
        return self.fitted[0].vocab

    @property
    def actions(self) -> int:
        return int(self.fitted[1].n)

    @property
    def render_modes(self) -> list[str]:
        env = self.make()
        env.close()
        return list(env.metadata.get("render_modes", ()))

    @property
    def limit(self) -> int:
        """Steps after which an episode is truncated."""
        env = self.make()
        env.close()
        return int(env._max_episode_steps)

    @cached_property
    def _options(self) -> dict[str, Any]:
        try:
            found = json.loads(self.options)
        except (TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"options is {self.options!r}: expected a JSON object")
        return found

    @cached_property
    def fitted(self) -> tuple[Tokens, spaces.Discrete]:
        """How observations become tokens, and the actions. ValueError: they do not fit."""
        env = self.make()
        try:
            tokens = tokens_of(env.observation_space, self.entry)
        except ValueError as error:
            raise ValueError(f"the observation of {self.id} does not fit: {error}") from None
        finally:
            env.close()
        actions = env.action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"the action of {self.id} is {actions}: expected Discrete")
        return tokens, actions

    def make(self, render_mode: str | None = None) -> TimeLimit[Any, Any]:
        """One such environment. ValueError: there is none."""
        package = next((p for start, p in PACKAGES.items() if self.id.startswith(start)), None)
        try:
            if package is not None:
                importlib.import_module(package)
            return self._made(package, {} if render_mode is None else {"render_mode": render_mode})
        except ModuleNotFoundError as error:
            hint = f"pip install -e '.[{package}]'" if package else "its package"
            raise ValueError(f"env is gym:{self.id} ({error}): expected {hint}") from None
        except Exception as error:  # a stranger's constructor may raise anything
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            where = "one that gymnasium.make finds; gym:MODULE:ID imports its module first"
            raise ValueError(f"env is gym:{self.id} ({why}): expected {where}") from None

    def _made(self, package: str | None, more: dict[str, Any]) -> TimeLimit[Any, Any]:
        options = self._options | more
        if package == "minihack":  # else it draws all that it might be asked for: half the speed
            options.setdefault("observation_keys", [self.entry or PREFERRED[0]])
        limit = gymnasium.spec(self.id).max_episode_steps
        options |= {"max_episode_steps": -1, "disable_env_checker": True}
        env: gymnasium.Env[Any, Any] = gymnasium.make(self.id, **options)
        if package == "minihack":  # its own limit ends an episode as if it were lost, on a blank
            nethack: Any = env.unwrapped
            limit, nethack._max_episode_steps = nethack._max_episode_steps, 2**31
        if package == "minigrid" and self.whole_grid:
            env = importlib.import_module("minigrid.wrappers").FullyObsWrapper(env)
        return TimeLimit(env, self.max_steps or limit or MAX_STEPS)


class GymBatch:
    """N environments of one kind with automatic reset in the same step.

    Episode k of environment i gets a random seed made of (seed, first + i, k), so that the same
    seed gives the same episodes for every `num_envs`. A running episode cannot be saved: a state is
    only how many each has begun. A copy (`copy.deepcopy`, `pickle`) goes on like the original where
    the environments can be copied: that is theirs to say. Raises `ValueError` where the environment
    cannot be made or does not fit.
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
        _ = spec.fitted  # or says why it does not fit
        self._vector = SyncVectorEnv(
            [partial(_Episodes, spec, (seed, first + i), render_mode) for i in range(num_envs)],
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        self.envs: list[Any] = list(self._vector.envs)

    def reset(self) -> Tensor:
        """New episodes in all of them -> obs uint8 [N, cells]."""
        return torch.from_numpy(self._vector.reset()[0]).to(self.device)

    def step(self, actions: Tensor) -> Step:
        """One action, int64 [N] from 0, in each."""
        obs, reward, terminated, truncated, infos = self._vector.step(actions.cpu().numpy())
        final = obs.copy()
        for i in np.flatnonzero(terminated | truncated):
            final[i] = infos["final_obs"][i]
        truncated = truncated & ~terminated
        arrays = (obs, reward.astype(np.float32), terminated, truncated, final)
        return Step(*(torch.from_numpy(x).to(self.device) for x in arrays))

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
        return str(self.envs[0].render())


class _Episodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tokens come out, actions from 0 go in, and every episode gets a seed of its own."""

    def __init__(self, spec: GymSpec, key: tuple[int, int], render_mode: str | None) -> None:
        super().__init__(spec.make(render_mode))
        self.tokens, actions = spec.fitted
        self.first_action = int(actions.start)
        self.key, self.episode = key, 0
        shape = (self.tokens.cells,)
        self.observation_space = spaces.Box(0, self.tokens.vocab - 1, shape, np.uint8)
        self.action_space = spaces.Discrete(int(actions.n))
        self.is_nethack = spec.id.startswith("MiniHack-")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        number = int(np.random.SeedSequence((*self.key, self.episode)).generate_state(1)[0] >> 1)
        self.episode += 1
        if self.is_nethack:  # which does not listen to the seed of `reset`
            self.unwrapped.seed(number, number, reseed=False)  # type: ignore[attr-defined]
        obs, _ = self.env.reset(seed=number)
        return self.tokens(obs), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = self.env.step(int(action) + self.first_action)
        return self.tokens(obs), reward, terminated, truncated, {}


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
