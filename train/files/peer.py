"""Checkpoints of the published code, read without running any of theirs.

HRM-Agent's `.ckpt` holds its configuration, so an agent comes back whole. sapientinc/HRM's holds
weights alone: its model answers a puzzle token by token, and is judged on puzzles (`Puzzles`).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig, from_reference
from hrm_fast.checkpoint import reference_shapes
from train.config import PRESETS, Config, require

# What a pickled NumPy number consists of; its module has another name in NumPy 1.
_scalar = np.float64(0).__reduce__()[0]
NUMBERS = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdU"}),
]
NETWORK = "qvalue_net"  # the one that HRM-Agent validates with
PLACE = "model.inner."


def read(path: Path) -> dict[str, Any]:
    """What torch.save wrote, tensors and plain values only; NumPy's numbers become Python's.

    ValueError: anything else.
    """
    try:
        with torch.serialization.safe_globals(NUMBERS):  # type: ignore[arg-type]
            data = _plain(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a checkpoint") from None
    except Exception as error:  # the unpickler lets a damaged file raise anything
        asks = re.search(r"GLOBAL ([\w.]+)", str(error))  # beside advice to load it all the same
        first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
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
        hrm = restored(data[NETWORK], shape)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: expected a .ckpt that HRM-Agent wrote") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return replace(PRESETS[preset], env=maze, hrm=shape), hrm.to(device).eval()


def maze_of_peer(env: dict[str, Any]) -> tuple[MazeSpec, str]:
    """The maze that HRM-Agent's name and keywords stand for, and the preset that walks one."""
    name, given = env["env_name"], env.get("env_kwargs") or {}  # YAML reads "env_kwargs:" as None
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


def restored(weights: dict[str, Tensor], shape: HRMConfig) -> HRM:
    """`from_reference`, but nothing is allocated before the tensors are those of the shape."""
    given = {name.removeprefix("_orig_mod."): x for name, x in weights.items()}
    for name, expected in reference_shapes(shape).items():
        if name in given and given[name].shape != expected:
            raise ValueError(f"{name} is {list(given[name].shape)}: expected {list(expected)}")
        if name in given and not given[name].is_contiguous():  # a small file for any size
            raise ValueError(f"{name} is one number repeated: expected {list(expected)}")
        if name not in given and "q_head" not in name:
            raise ValueError(f"{name} is missing: expected {list(expected)}")
    return from_reference(weights, shape)


class Puzzles(NamedTuple):
    """Puzzles as sapientinc/HRM's data sets hold them; a label of 0 does not count."""

    inputs: Tensor  # uint8 [n, cells]
    labels: Tensor  # uint8 [n, cells]


def read_puzzles(folder: Path, most: int) -> Puzzles:
    """The first puzzles of a folder with all__inputs.npy and all__labels.npy."""
    parts = []
    for name in ("inputs", "labels"):
        path = folder / f"all__{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")[:most]
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} ({error}): expected puzzles as sapientinc/HRM") from None
        good = array.ndim == 2 and array.dtype.kind in "iu" and array.size > 0
        good = good and array.min() >= 0 and array.max() < 256
        require(str(path), f"{array.dtype} {array.shape}", good, "integers [n, cells], 0 to 255")
        parts.append(torch.from_numpy(array.astype(np.uint8)))
    require("labels", list(parts[1].shape), parts[0].shape == parts[1].shape, "those of inputs")
    return Puzzles(*parts)


def load_puzzler(path: Path, cells: int, heads: int | None = None) -> HRM:
    """sapientinc/HRM's model, its shape read off the weights; cycles as published, 2 x 2.

    Every row of its token head becomes an action. heads None: one for 64 numbers, as published.
    """
    weights = {name.removeprefix("_orig_mod."): x for name, x in read(path).items()}
    try:
        vocab, width = weights[f"{PLACE}embed_tokens.embedding_weight"].shape
        layers = [
            len({name.split(".")[4] for name in weights if name.startswith(f"{PLACE}{x}_level.")})
            for x in "HL"
        ]
        gate_up = weights[f"{PLACE}H_level.layers.0.mlp.gate_up_proj.weight"]
        shape = HRMConfig(
            cells=cells, actions=vocab, vocab=vocab, width=width, inner=len(gate_up) // 2,
            heads=heads or max(1, width // 64), h_layers=layers[0], l_layers=layers[1],
            segments=16, carry="reset",
            positions="learned" if f"{PLACE}embed_pos.embedding_weight" in weights else "rope",
        )  # fmt: skip
        return restored(weights, shape).eval()
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} has no {error}: expected sapientinc/HRM's weights") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


@torch.no_grad()
def answer(hrm: HRM, inputs: Tensor, segments: int | None = None) -> Tensor:
    """The likeliest token of every cell, int64 [n, cells]."""
    _, carry = hrm.decide(inputs, segments=segments)
    return (carry.z_H[:, 1:].to(hrm.q_head.dtype) @ hrm.q_head.T).argmax(-1)
