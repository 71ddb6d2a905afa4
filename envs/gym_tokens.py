"""Observations of other Gymnasium environments as tokens: one row of small numbers per observation.

Any mixture of integers with bounds will do: boards, vectors, single numbers, tuples of them. What
is continuous, unbounded, or larger than a board may be is refused.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.spec import MAX_CELLS

Integers = npt.NDArray[np.int64]
PREFERRED = ("chars_crop", "image")  # entries of a Dict: of MiniHack and of Minigrid


@dataclass(frozen=True)
class Tokens:
    """How an observation becomes `cells` tokens from 0 to `vocab` - 1, `cols` in a row."""

    entry: str | None  # of a Dict
    low: Integers  # [numbers]
    high: Integers
    digits: int  # tokens for one number
    vocab: int
    cols: int

    @property
    def cells(self) -> int:
        return len(self.low) * self.digits

    def __call__(self, obs: Any) -> npt.NDArray[np.uint8]:
        """uint8 [cells]. ValueError: a number beyond the bounds that its space gives."""
        numbers = _numbers(obs if self.entry is None else obs[self.entry])
        bad = (numbers < self.low) | (numbers > self.high)
        if bad.any():
            i = int(bad.argmax())
            limits = f"{self.low[i]} to {self.high[i]}, as its space says"
            raise ValueError(f"observation holds {numbers[i]} at {i}: expected {limits}")
        powers = self.vocab ** np.arange(self.digits)[::-1]
        tokens = (numbers - self.low)[:, None] // powers % self.vocab
        return tokens.astype(np.uint8).ravel()


def tokens_of(space: spaces.Space[Any], entry: str | None = None) -> Tokens:
    """How observations of `space` are written; ValueError in one line: they do not fit."""
    if isinstance(space, spaces.Dict):
        entry = _entry(space, entry)
        space = space[entry]
    elif entry is not None:
        raise ValueError(f"entry is {entry!r}: expected None, as the observation is no Dict")
    low, high = _bounds(space)
    span = int((high - low).max(initial=0)) + 1
    digits = 1 if span <= 256 else 2
    if not 1 <= len(low) * digits <= MAX_CELLS:
        raise ValueError(f"it has {len(low) * digits} numbers: expected 1 to {MAX_CELLS}")
    shape = space.shape or (1,)
    rows = shape[0] if len(shape) > 1 else 1
    vocab = span if digits == 1 else ceil(span**0.5)
    return Tokens(entry, low, high, digits, vocab, len(low) * digits // rows)


def _entry(space: spaces.Dict, asked: str | None) -> str:
    if asked is not None:
        if asked not in space.spaces:
            raise ValueError(f"entry is {asked!r}: expected one of {', '.join(space.spaces)}")
        return asked
    fitting = [name for name, part in space.items() if _fits(part)]
    found = [name for name in PREFERRED if name in fitting] or fitting
    if not fitting:
        raise ValueError(f"none of {', '.join(space.spaces)} fits: expected a small integer space")
    if len(found) > 1 and found[0] not in PREFERRED:
        raise ValueError(f"entry is None: expected one of {', '.join(fitting)}")
    return found[0]


def _fits(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return False
    try:
        tokens_of(space)
    except ValueError:
        return False
    return True


def _bounds(space: spaces.Space[Any]) -> tuple[Integers, Integers]:
    """The smallest and the largest value of every number, int64 [numbers]."""
    if isinstance(space, spaces.Tuple):
        parts = [_bounds(part) for part in space]
        low, high = (np.concatenate([[], *(part[i] for part in parts)]) for i in (0, 1))
    elif isinstance(space, spaces.Discrete):
        low, high = np.array([space.start]), np.array([space.start + space.n - 1])
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    elif isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "iub":
        low, high = space.low, space.high
    else:
        raise ValueError(f"it is {space}: expected integers with bounds")
    values = (high.astype(float) - low.astype(float)).max(initial=0) + 1
    if values > 2**16:
        raise ValueError(f"its numbers have {values:.0f} values: expected at most {2**16}")
    return low.astype(np.int64).ravel(), high.astype(np.int64).ravel()


def _numbers(obs: Any) -> Integers:
    if isinstance(obs, tuple):
        return np.concatenate([_numbers(part) for part in obs])
    return np.asarray(obs).astype(np.int64).ravel()
