"""Runs one Gymnasium environment that others wrote, episode after episode.

Checks at every step that it keeps to Gymnasium's API; raises a one-line `ValueError` where not.
"""

import traceback
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from envs.gym_tokens import Tokens, in_words

Row = npt.NDArray[np.uint8]
LARGEST = float(np.finfo(np.float32).max)  # of a reward
_told: set[str] = set()


class Episodes:
    """Tokens come out, actions from 0 go in, and every episode gets a seed of its own.

    Episode k is seeded by (*key, k) and truncated after `limit` steps.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        tokens: Tokens,
        first_action: int,
        limit: int,
        key: tuple[int, int] = (0, 0),
    ) -> None:
        self.env, self.name, self.tokens = env, name, tokens
        self.first_action, self.limit, self.key = first_action, limit, key
        self.episode = self.steps = 0  # episodes begun; steps of the present one
        self.is_nethack = name.startswith("MiniHack-")

    def reset(self) -> Row:
        """Begin an episode -> tokens uint8 [cells]."""
        number = int(np.random.SeedSequence((*self.key, self.episode)).generate_state(1)[0] >> 1)
        self.episode += 1
        self.steps = 0
        if self.is_nethack:  # MiniHack ignores the seed given to `reset`
            self.env.unwrapped.seed(number, number, reseed=False)  # type: ignore[attr-defined]
        came = self._call("reset", seed=number)
        if not isinstance(came, tuple) or len(came) != 2 or not isinstance(came[1], dict):
            raise self._wrong("what reset returned", came, "(observation, info), info a dict")
        return self._read(came[0])

    def step(self, action: int) -> tuple[Row, float, bool, bool]:
        """One action, from 0 -> tokens uint8 [cells], reward, terminated, truncated."""
        came = self._call("step", action + self.first_action)
        if not isinstance(came, tuple | list) or len(came) != 5:
            right = "(observation, reward, terminated, truncated, info)"
            raise self._wrong("what step returned", came, right)
        obs, reward, terminated, truncated, _ = came
        self.steps += 1
        number, ends = self._number(reward), self._flag("terminated", terminated)
        cut = self._flag("truncated", truncated)
        if cut and not ends and self.steps < self.limit:
            warn(
                f"gym:{self.name} truncates episodes by itself",
                f", one after {self.steps} steps: there the limit of {self.limit} does not hold",
            )
        return self._read(obs), number, ends, (cut or self.steps >= self.limit) and not ends

    def text(self) -> str:
        """How it draws itself, where it was made with render_mode "ansi"."""
        drawn = self._call("render")
        if not isinstance(drawn, str):
            raise self._wrong("what render returned", drawn, "text, as the mode 'ansi' has it")
        return drawn

    def close(self) -> None:
        close(self.env, self.name)

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(self.env, method)(*args, **options)
        except (Exception, SystemExit) as error:  # a stranger's method may raise anything
            let_through(error)
            place = traceback.extract_tb(error.__traceback__)[-1]
            is_old = method == "reset" and isinstance(error, TypeError)
            right = "reset(*, seed=None, options=None)" if is_old else "no exception"
            raise ValueError(
                f"gym:{self.name} raised {reason(error)} in {method} ({place.filename}, line "
                f"{place.lineno}): expected {right}"
            ) from error

    def _read(self, obs: Any) -> Row:
        try:
            return self.tokens(obs)
        except ValueError as error:
            raise ValueError(f"gym:{self.name}: {error}") from None

    def _number(self, reward: Any) -> float:
        number = _array(reward)
        if number.shape == () and number.dtype.kind in "biuf" and abs(float(number)) <= LARGEST:
            return float(number)
        raise self._wrong("reward", reward, "one finite number of float32")

    def _flag(self, name: str, value: Any) -> bool:
        if value is True or value is False:
            return value
        flag = _array(value)
        if flag.shape == () and flag.dtype.kind == "b":
            return bool(flag)
        raise self._wrong(name, value, "True or False")

    def _wrong(self, what: str, came: Any, right: str) -> ValueError:
        return ValueError(f"gym:{self.name}: {what} is {in_words(came)}: expected {right}")


def close(env: gymnasium.Env[Any, Any], name: str) -> None:
    """Close it; what goes wrong there is told, since nothing that was learnt depends on it."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        let_through(error)
        warn(f"gym:{name} raises in close", f" ({reason(error)}): it may have left something open")


def let_through(error: BaseException) -> None:
    """Raise it again if a signal made it, not `sys.exit`: then it is a subclass of SystemExit."""
    if isinstance(error, SystemExit) and type(error) is not SystemExit:
        raise error


def reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def warn(what: str, more: str) -> None:
    """A warning, `what` and `more` of it; each `what` once in a process."""
    if what not in _told:
        _told.add(what)
        gymnasium.logger.warn(f"{what}{more}".replace("%", "%%"))


def _array(value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception:  # rows of different lengths, a tensor on a GPU
        return np.empty(0, object)
