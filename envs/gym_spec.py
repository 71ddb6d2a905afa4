"""Which Gymnasium environment, how its observations become tokens, and whose time limit holds."""

import importlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.gym_episodes import Episodes, close, let_through, reason
from envs.gym_tokens import Tokens, tokens_of
from envs.spec import check_integer, make_plain

# beginning of an id -> the package that registers it, which is also our extra
PACKAGES = {"MiniHack-": "minihack", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
MAX_STEPS = 1_000  # of an environment that names no limit
CROP = "chars_crop"  # what is observed of MiniHack


class Fit(NamedTuple):
    """How an environment is walked: its observations as tokens, its actions, its limit."""

    tokens: Tokens
    actions: spaces.Discrete
    limit: int  # steps after which an episode is truncated
    whose: str  # where the limit comes from, in words


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
    """Entry to observe of a Dict, or several as "a,b" (None: all but text)."""

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
        if not self.whole_grid and self._package != "minigrid":
            raise ValueError(
                f"whole_grid is False: expected True, as {self.id} is none of Minigrid"
            )
        theirs = self._options.get("max_episode_steps")
        if theirs is not None:
            check_integer("max_episode_steps of options", theirs, 1, 2**31 - 1)
            if self.max_steps not in (None, theirs):
                right = f"None or {theirs}, the max_episode_steps of options"
                raise ValueError(f"max_steps is {self.max_steps}: expected {right}")

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
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            let_through(error)
            what = f"{text!r} ({reason(error)})"
            raise ValueError(f"env is {what}: expected a module that can be imported") from error
        return cls(name)

    @property
    def cells(self) -> int:
        """Tokens of one observation."""
        return self.fitted.tokens.cells

    @property
    def cols(self) -> int:
        """Tokens in a row of the board; all of them where it is none."""
        return self.fitted.tokens.cols

    @property
    def rows(self) -> int:
        return self.cells // self.cols

    @property
    def vocab(self) -> int:
        """Different tokens that there may be."""
        return self.fitted.tokens.vocab

    @property
    def actions(self) -> int:
        return int(self.fitted.actions.n)

    @property
    def limit(self) -> int:
        """Steps after which an episode is truncated."""
        return self.fitted.limit

    @property
    def summary(self) -> str:
        """What is observed, what is left out, and whose limit holds, in one line."""
        tokens, _, limit, whose = self.fitted
        seen = ", ".join(part.title for part in tokens.parts)
        why = "being text" if self.entry is None else "as entry leaves it out"
        unseen = f"; not {', '.join(tokens.left_out)}, {why}" if tokens.left_out else ""
        return f"gym:{self.id} observes {seen}{unseen}; limit {limit} steps, {whose}"

    @property
    def render_modes(self) -> list[str]:
        env = self.make()[0]
        close(env, self.id)
        return list((env.metadata or {}).get("render_modes", ()))

    @cached_property
    def _options(self) -> dict[str, Any]:
        try:
            found = json.loads(self.options)
        except (TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"options is {self.options!r}: expected a JSON object")
        return found

    @property
    def _package(self) -> str | None:
        return next((p for start, p in PACKAGES.items() if self.id.startswith(start)), None)

    @cached_property
    def fitted(self) -> Fit:
        """How it is walked; its first step is tried. ValueError: it does not fit, or misbehaves."""
        env, limit, whose = self.make()
        try:
            fit = Fit(*self._fit(env), limit, whose)
            probe = Episodes(env, self.id, fit.tokens, int(fit.actions.start), limit)
            probe.reset()
            probe.step(0)
        finally:
            close(env, self.id)
        return fit

    def _fit(self, env: gymnasium.Env[Any, Any]) -> tuple[Tokens, spaces.Discrete]:
        space, actions = env.observation_space, env.action_space
        try:
            tokens = tokens_of(space, self.entry)
        except ValueError as error:
            what = f"the observation of {self.id} does not fit: {error}"
            less = "a wrapper that shows less, registered by gym:MODULE:ID"
            if isinstance(space, spaces.Dict) and self.entry is None:
                less = f"--env.entry with some of {', '.join(map(str, space.spaces))}, or {less}"
            if self._package == "minigrid" and self.whole_grid:
                less = f"--env.no-whole-grid for the 7 x 7 cells before the agent, {less}"
            raise ValueError(what if "entry is" in what else f"{what}; else {less}") from None
        if not isinstance(actions, spaces.Discrete):
            what = " ".join(str(actions).split())[:200]
            raise ValueError(f"the action of {self.id} is {what}: expected Discrete")
        return tokens, actions

    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int, str]:
        """One such environment, the limit of its episodes, and whose that is.

        ValueError: there is none.
        """
        package = self._package
        try:
            if package is not None:
                importlib.import_module(package)
            return self._made(package, {} if render_mode is None else {"render_mode": render_mode})
        except ModuleNotFoundError as error:
            hint = f"pip install -e '.[{package}]'" if package else "its package"
            raise ValueError(f"env is gym:{self.id} ({error}): expected {hint}") from None
        except (Exception, SystemExit) as error:  # a stranger's constructor may raise anything
            let_through(error)
            where = "one that gymnasium.make finds; gym:MODULE:ID imports its module first"
            if self._options:
                where = f"one that gymnasium.make makes with the options {self.options}"
            raise ValueError(f"env is gym:{self.id} ({reason(error)}): expected {where}") from error

    def _made(
        self, package: str | None, more: dict[str, Any]
    ) -> tuple[gymnasium.Env[Any, Any], int, str]:
        options = {"disable_env_checker": True} | self._options | more
        if package == "minihack":  # else it draws all that it might be asked for: half the speed
            options.setdefault("observation_keys", (self.entry or CROP).split(","))
        asked = self.max_steps or options.get("max_episode_steps")
        registered = gymnasium.spec(self.id).max_episode_steps
        options["max_episode_steps"] = -1  # we count: the limit is to be ours, and known
        env: gymnasium.Env[Any, Any] = gymnasium.make(self.id, **options)
        own = _own_limit(env, package, asked)
        if package == "minigrid" and self.whole_grid:
            env = importlib.import_module("minigrid.wrappers").FullyObsWrapper(env)
        if asked:
            return env, asked, "as asked for"
        if own and own <= (registered or own):
            return env, own, "its own"
        return env, registered or MAX_STEPS, "as registered" if registered else "as it names none"

    def episodes(self, key: tuple[int, int], render_mode: str | None = None) -> Episodes:
        """One to walk in. ValueError: it cannot be made, or is another than the one before."""
        tokens, actions, limit, _ = self.fitted
        env = self.make(render_mode)[0]
        try:
            now, its_actions = self._fit(env)
            if not now.is_like(tokens) or its_actions != actions:
                found = " ".join(f"{env.observation_space} and {its_actions}".split())[:300]
                right = "the spaces that it had when it was made before"
                raise ValueError(f"gym:{self.id} has the spaces {found}: expected {right}")
        except ValueError:
            close(env, self.id)
            raise
        return Episodes(env, self.id, tokens, int(actions.start), limit, key)


def _own_limit(env: gymnasium.Env[Any, Any], package: str | None, asked: int | None) -> int | None:
    """Steps after which the environment itself ends an episode; None: it shows none.

    Raises the environment's own limit to `asked` where that is longer.
    """
    places: list[tuple[Any, str]] = []
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, TimeLimit):
            places.append((inner, "_max_episode_steps"))
        inner = inner.env
    if package == "minigrid":  # some of them choose it at every reset: 0 until then
        places.append((inner, "max_steps"))
    if package == "minihack":
        places.append((inner, "_max_episode_steps"))
    own = min(filter(None, (getattr(*place, None) for place in places)), default=None)
    for place, name in places:
        if asked and (getattr(place, name, None) or 0) < asked:
            setattr(place, name, asked)
            if package == "minigrid":
                inner.fixed_max_steps = True
    if package == "minihack":  # at its limit it ends as if the game were lost, on a blank board
        inner._max_episode_steps = 2**31
    return own
