"""HRM-Agent's `.ckpt`, read without running any of its code.

It holds its configuration beside the weights, so an agent comes back whole.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig, from_reference
from train.config import PRESETS, Config, require
from train.files.checkpoint import refuse_pipe

# What a pickled NumPy number consists of; its module has another name in NumPy 1.
_scalar = np.float64(0).__reduce__()[0]
NUMBERS = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdU"}),
]
NETWORK = "qvalue_net"  # the one that HRM-Agent validates with


def read(path: Path) -> dict[str, Any]:
    """What torch.save wrote, tensors and plain values only; NumPy's numbers become Python's.

    ValueError: anything else.
    """
    refuse_pipe(path)
    try:
        with torch.serialization.safe_globals(NUMBERS):  # type: ignore[arg-type]
            data = _plain(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a checkpoint") from None
    except Exception as error:  # the unpickler lets a damaged file raise anything
        asks = re.search(r"GLOBAL ([\w.]+)", str(error))  # beside advice to load it all the same
        first = "".join(str(error).splitlines()[:1])[:200]
        if not first or "weights_only" in str(error):
            first = type(error).__name__
        why = f"it asks to run {asks[1]}" if asks else first
        raise ValueError(f"{path} ({why}): expected tensors and plain values in it") from None
    if not (isinstance(data, dict) and all(isinstance(name, str) for name in data)):
        raise ValueError(f"{path} holds {type(data).__name__}: expected a dictionary of names")
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(name): _plain(x) for name, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def load(path: Path, device: torch.device | str = "cpu") -> tuple[Config, HRM]:
    """An agent of HRM-Agent, in float32. ValueError: the file is none, or not of its mazes."""
    data = read(path)
    try:
        arch, env = data["config"]["arch_exclude_data_dependent"], data["config"]["dataset"]
        is_carried = data["config"]["use_last_hidden_state_to_seed_next_environment_step"]
        plain = arch["puzzle_emb_ndim"] == arch["hidden_size"] and arch["max_memory_size"] == 1
        require("arch", arch, plain, "one puzzle token and a memory of 1")
        shape = HRMConfig(
            cells=env["seq_len"], actions=env["action_space_size"], vocab=env["vocab_size"],
            width=arch["hidden_size"], heads=arch["num_heads"], expansion=arch["expansion"],
            h_layers=arch["H_layers"], l_layers=arch["L_layers"], h_cycles=arch["H_cycles"],
            l_cycles=arch["L_cycles"], segments=arch["halt_max_steps"],
            positions=arch["pos_encodings"], rope_base=arch["rope_theta"],
            carry="carry" if is_carried else "reset",
        )  # fmt: skip
        maze, preset = maze_of_peer(env)
        require("seq_len", env["seq_len"], env["seq_len"] == maze.cells, str(maze.cells))
        for tensor, x in data[NETWORK].items():  # a small file for any size
            if not x.is_contiguous():
                raise ValueError(f"{tensor} is one number repeated: expected {list(x.shape)}")
        hrm = from_reference(data[NETWORK], shape)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: expected a .ckpt that HRM-Agent wrote") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return replace(PRESETS[preset], env=maze, hrm=shape), hrm.to(device).eval()


def maze_of_peer(env: dict[str, Any]) -> tuple[MazeSpec, str]:
    """The maze that HRM-Agent's name and keywords stand for, and the preset that walks one."""
    name, given = env["env_name"], env.get("env_kwargs") or {}  # YAML reads "env_kwargs:" as None
    require("env_kwargs", given, isinstance(given, dict), "a dictionary")
    limit, actions = env["max_episode_steps"], env["action_space_size"]
    own: dict[str, Any] = {"max_steps": limit, "actions": actions}
    is_four_rooms = name == "MiniHack-4-Rooms"
    if is_four_rooms or name == "MiniHack-Corridor-Maze-4-Way-Dynamic":
        p, doors, walls = (0.0, 1, 0) if is_four_rooms else (0.05, 5, 10)
        own["p_change"] = float(given.get("p-change-doors", p))
        moves = own["p_change"] > 0  # else it neither draws nor heeds doors and walls
        own["closed_doors"] = int(given.get("closed-doors", doors)) if moves else 0
        own["fixed_walls"] = int(given.get("fixed-walls", walls)) if moves else 0
        distance = given.get("min-room-distance-between-start-end")
        own |= {} if distance is None else {"start_goal_distance": min(int(distance), 2)}
        if is_four_rooms:
            return MazeSpec(map="four-rooms", **own), "paper-four-rooms"
        return MazeSpec(**own), "paper-maze"
    rooms = {f"MiniHack-Room-Random-{n}x{n}-v0": n for n in (5, 9, 15)}
    known = ", ".join(("MiniHack-4-Rooms", "MiniHack-Corridor-Maze-4-Way-Dynamic", *rooms))
    require("env_name", name, name in rooms, f"one of {known}")
    return MazeSpec(map="room", size=rooms[name], **own), "paper-maze"
