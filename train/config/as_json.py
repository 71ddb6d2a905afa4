"""A run's config as JSON, read strictly: unknown names and wrong types are errors."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args

from envs import GymSpec, MazeSpec
from train.config.config import Config
from train.config.dqn import DQNConfig, require


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Inverse of `to_json`. ValueError: what is not such a JSON, or a field's value is bad."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}: expected what train.dqn wrote") from None
    except RecursionError:
        raise ValueError("nested too deeply: expected JSON that train.dqn wrote") from None
    return _build(Config, data, "config")


def load(path: Path) -> Config:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a run's config.json") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: expected a run's config.json") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _build(cls: Any, data: Any, where: str) -> Any:
    """A dataclass from a dictionary, strictly: unknown names and wrong types are errors."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {type(data).__name__}: expected an object")
    hints = typing.get_type_hints(cls)
    data = _without_gone(data) if cls is DQNConfig else data
    unknown = sorted(set(data) - set(hints))
    if unknown:
        name = ascii(unknown[0])[1:-1]  # in one line, whatever it holds
        raise ValueError(f"{where}.{name} is unknown: expected one of {', '.join(hints)}")
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory}
    if not required <= set(data):
        raise ValueError(f"{where}.{min(required - set(data))} is missing: expected its value")
    values = {}
    for name, value in data.items():
        hint = hints[name]
        if hint == MazeSpec | GymSpec:
            hint = GymSpec if isinstance(value, dict) and "id" in value else MazeSpec
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{where}.{name}")
            continue
        values[name] = tuple(value) if isinstance(value, list) else value
        require(f"{where}.{name}", value, _fits(values[name], hint), str(hint))
    return cls(**values)


# Fields of older runs -> the value at which they did nothing; None: they only served another.
GONE = {
    "priority": 0,
    "priority_correction": None,
    "relabel": 0,
    "relabel_reach": None,
    "refresh": 0,
}


def _without_gone(dqn: dict[str, Any]) -> dict[str, Any]:
    """ValueError: a field that is gone did something in that run."""
    for name, at_rest in GONE.items():
        value = dqn.get(name, at_rest)
        good = at_rest is None or value == at_rest
        require(
            f"config.dqn.{name}", value, good, f"{at_rest}: commit ee548fa is the last that has it"
        )
    return {name: value for name, value in dqn.items() if name not in GONE}


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
