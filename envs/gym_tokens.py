"""Observations of other Gymnasium environments as tokens: one row of small numbers per observation.

Any mixture of integers with bounds will do: boards, vectors, single numbers, Dicts and tuples of
them. What is continuous, unbounded, or larger than a board may be is refused; a Dict's text is left
out, and `Tokens.left_out` says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.spec import MAX_CELLS

Integers = npt.NDArray[np.int64]
Path = tuple[Any, ...]  # of keys and indices, from the observation to a part of it


@dataclass(frozen=True)
class Part:
    """Numbers inside an observation: one array of one space."""

    path: Path
    shape: tuple[int, ...]
    says: str  # the space, in Gymnasium's words
    low: Integers = field(compare=False)  # [numbers]
    high: Integers = field(compare=False)

    @property
    def title(self) -> str:
        """Name and shape, as in "image 5 x 5 x 3"; of a single number the name alone."""
        shape = " x ".join(map(str, self.shape))
        return " ".join(filter(None, (name_of(self.path), shape))) or "one number"

    def read(self, obs: Any) -> Integers:
        """int64 [numbers]. ValueError: another shape or type than its space says, or beyond it."""
        value = _at(obs, self.path)
        where = f"observation {name_of(self.path)}".strip()
        try:
            numbers = np.asarray(value)
        except Exception:  # rows of different lengths, a tensor on a GPU
            numbers = np.empty(0, object)
        if numbers.shape != self.shape or numbers.dtype.kind not in "iub":
            raise ValueError(f"{where} is {in_words(value)}: expected {self.says}, as its space is")
        numbers = numbers.ravel()
        bad = (numbers < self.low) | (numbers > self.high)
        if bad.any():
            i = int(bad.argmax())
            limits = f"{self.low[i]} to {self.high[i]}, as its space says"
            raise ValueError(f"{where} holds {numbers[i]} at {i}: expected {limits}")
        return numbers.astype(np.int64)


@dataclass(frozen=True)
class Tokens:
    """How an observation becomes `cells` tokens from 0 to `vocab` - 1, `cols` in a row.

    Boards stand first, in rows of the largest one; zeros fill up the last row.
    """

    parts: tuple[Part, ...]
    groups: tuple[tuple[Path, frozenset[Any] | int], ...]  # Dicts, their keys; tuples, their length
    left_out: tuple[str, ...]  # entries that are text, or are not asked for
    digits: int  # tokens for one number
    vocab: int
    cols: int

    @property
    def cells(self) -> int:
        numbers = sum(prod(part.shape) for part in self.parts)
        return ceil(numbers * self.digits / self.cols) * self.cols

    def is_like(self, other: "Tokens") -> bool:
        """Whether both write the same observations in the same way."""
        pairs = zip(self.parts, other.parts, strict=False)
        same = (np.array_equal(a.low, b.low) and np.array_equal(a.high, b.high) for a, b in pairs)
        return self == other and all(same)

    def __call__(self, obs: Any) -> npt.NDArray[np.uint8]:
        """uint8 [cells]. ValueError: the observation is not what its space says."""
        for path, keys in self.groups:
            _check_group(_at(obs, path), path, keys)
        parts = [part.read(obs) - part.low for part in self.parts]
        numbers = np.concatenate(parts)
        powers = self.vocab ** np.arange(self.digits)[::-1]
        tokens = np.zeros(self.cells, np.uint8)
        tokens[: len(numbers) * self.digits] = (numbers[:, None] // powers % self.vocab).ravel()
        return tokens


def tokens_of(space: spaces.Space[Any], entry: str | None = None) -> Tokens:
    """How observations of `space` are written; ValueError in one line: they do not fit.

    entry: of a Dict, one or several with commas between them; None: all but text.
    """
    if not isinstance(space, spaces.Space):
        raise ValueError(f"it is {in_words(space)}: expected a space of Gymnasium's")
    chosen = _chosen(space, entry)
    numbers = [(path, part) for path, part in chosen if part is not None]
    seen = {path for path, _ in numbers}
    left_out = [name_of(path) for path, _ in _walk(space) if path not in seen]
    if left_out and not numbers:
        raise ValueError(f"none of {', '.join(left_out)} fits: expected integers, not text")
    parts = [_part(path, part) for path, part in numbers]
    parts.sort(key=lambda part: -prod(part.shape) if len(part.shape) > 1 else 0)
    span = max((int((x.high - x.low).max(initial=0)) for x in parts), default=0) + 1
    digits = 1 if span <= 256 else 2
    sizes = [prod(part.shape) * digits for part in parts]
    first = parts[0].shape if parts else ()
    cols = max(1, sizes[0] // first[0] if len(first) > 1 and first[0] else sum(sizes))
    padded = ceil(sum(sizes) / cols) * cols
    if not 1 <= padded <= MAX_CELLS:
        each = ", ".join(f"{name_of(p.path)} {n}" for p, n in zip(parts, sizes, strict=True))
        why = f" ({each}), {padded} in whole rows of {cols}" if len(parts) > 1 else ""
        raise ValueError(f"it has {sum(sizes)} numbers{why}: expected 1 to {MAX_CELLS}")
    vocab = span if digits == 1 else ceil(span**0.5)
    return Tokens(tuple(parts), tuple(_groups(space)), tuple(left_out), digits, vocab, cols)


def name_of(path: Path) -> str:
    return ".".join(map(str, path))


def in_words(value: Any) -> str:
    """What came, in one short line: dtype and shape of an array, else value and type."""
    kind = type(value).__name__
    if getattr(value, "shape", ()) != ():
        return f"{kind} of {getattr(value, 'dtype', '?')}, shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"{kind} of {len(value)}"
    try:
        text = " ".join((str if isinstance(value, np.generic) else repr)(value).split())
    except Exception:  # a stranger's str or repr may raise anything
        text = "one"
    return f"{text[:60]} ({kind})"


def _chosen(
    space: spaces.Space[Any], entry: str | None
) -> list[tuple[Path, spaces.Space[Any] | None]]:
    """Path and space of every part that is asked for; None for text."""
    if entry is None:
        return list(_walk(space))
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"entry is {entry!r}: expected None, as the observation is no Dict")
    names = [entry] if entry in space.spaces else entry.split(",")
    for name in names:
        if name not in space.spaces:
            known = ", ".join(map(str, space.spaces))
            raise ValueError(f"entry is {entry!r}: expected one of {known}, or several: a,b")
        if _is_text(space[name]):
            raise ValueError(f"entry is {entry!r}: expected numbers, and {name} is text")
    return [x for name in dict.fromkeys(names) for x in _walk(space[name], (name,))]


def _is_text(space: spaces.Space[Any]) -> bool:
    return space.dtype is not None and space.dtype.kind in "US"  # Text, Minigrid's missions


def _walk(
    space: spaces.Space[Any], path: Path = ()
) -> Iterator[tuple[Path, spaces.Space[Any] | None]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            if _is_text(part):
                yield (*path, key), None
            else:
                yield from _walk(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space):
            yield from _walk(part, (*path, i))
    else:
        yield path, space


def _groups(
    space: spaces.Space[Any], path: Path = ()
) -> Iterator[tuple[Path, frozenset[Any] | int]]:
    if isinstance(space, spaces.Dict):
        yield path, frozenset(space.spaces)
        for key, part in space.items():
            yield from _groups(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        yield path, len(space.spaces)
        for i, part in enumerate(space):
            yield from _groups(part, (*path, i))


def _check_group(value: Any, path: Path, keys: frozenset[Any] | int) -> None:
    if isinstance(keys, int):
        good = isinstance(value, list | tuple) and len(value) == keys
        right = f"a tuple of {keys}"
    else:
        good = isinstance(value, dict) and value.keys() == keys
        right = f"a dict of {', '.join(sorted(map(str, keys)))}"
    if not good:
        where = f"observation {name_of(path)}".strip()
        raise ValueError(f"{where} is {in_words(value)}: expected {right}, as its space says")


def _at(obs: Any, path: Path) -> Any:
    for key in path:
        obs = obs[key]
    return obs


def _part(path: Path, space: spaces.Space[Any]) -> Part:
    name = name_of(path) or "it"
    low: Any
    high: Any
    if isinstance(space, spaces.Discrete):
        low, high = np.array(space.start), np.array(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    elif isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "iub":
        low, high = space.low, space.high
    else:
        what = " ".join(str(space).split())
        raise ValueError(f"{name} is {what[:200]}: expected integers with bounds")
    ends = low.astype(float), high.astype(float)
    values = (ends[1] - ends[0]).max(initial=0) + 1
    if values > 2**16:
        raise ValueError(f"{name} has numbers of {values:.0f} values: expected at most {2**16}")
    if max(abs(end).max(initial=0) for end in ends) > 2**62:  # int64 would wrap
        raise ValueError(f"{name} has numbers beyond 2**62: expected smaller ones")
    both = (bound.astype(np.int64).ravel() for bound in (low, high))
    return Part(path, low.shape, " ".join(str(space).split())[:200], *both)
