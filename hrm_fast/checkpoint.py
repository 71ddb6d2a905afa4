"""Weights of our own checkpoints, and under the published code's names, in and out.

HRM-Agent and sapientinc/HRM share these names; a `_orig_mod.` (torch.compile) may stand in front.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hrm_fast.config import HRMConfig
from hrm_fast.model import HRM

WEIGHTS = ("best.safetensors", "last.safetensors", "model.safetensors")  # of a run; for a hub
PREFIX = "model.inner."
LM_HEAD = "lm_head.weight"
HALT = {"q_head.weight": "halt_head.weight", "q_head.bias": "halt_head.bias"}
BLOCK = {
    "self_attn.qkv_proj.weight": "qkv",
    "self_attn.o_proj.weight": "out",
    "mlp.gate_up_proj.weight": "gate_up",
    "mlp.down_proj.weight": "down",
}


def weights_of(path: Path) -> Path:
    """The file itself, or a folder's first of WEIGHTS. ValueError: it has none of them."""
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHTS if (path / name).exists()]
    if not found:
        raise ValueError(f"{path} holds no checkpoint: expected one of {', '.join(WEIGHTS)}")
    return found[0]


def load(path: str | Path, device: torch.device | str = "cpu") -> HRM:
    """The model of a checkpoint that train.dqn or train.card wrote: a file, or a folder with one.

    `train.files.checkpoint.load` gives the run's whole config too, and checks the weights' sum.
    ValueError: there is none, or not a whole one of this architecture.
    """
    path = weights_of(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            fields: Any = json.loads((file.metadata() or {})["config"])["hrm"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        walls = fields.pop("walls")
        hrm = HRM(HRMConfig(**fields, walls=None if walls is None else tuple(walls)))
        hrm.load_state_dict(weights)
    except (
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} ({why}): expected a checkpoint that train.dqn wrote") from None
    return hrm.to(device).eval()


def names(config: HRMConfig) -> dict[str, str]:
    """Published name (without `model.inner.`) -> ours, for this shape."""
    table = {
        "H_init": "start_H",
        "L_init": "start_L",
        "embed_tokens.embedding_weight": "embed",
        "puzzle_emb.weights": "puzzle",
        LM_HEAD: "q_head",
    }
    if "learned" in config.positions:
        table["embed_pos.embedding_weight"] = "position"
    for ours, layers in (("H", config.h_layers), ("L", config.l_layers)):
        for i in range(layers):
            for name, field in BLOCK.items():
                table[f"{ours}_level.layers.{i}.{name}"] = f"{ours}.{i}.{field}"
    return table | (HALT if config.halting else {})


def reference_shapes(config: HRMConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that `to_reference` would give, without making them."""
    own = config.shapes()
    shapes = {PREFIX + name: own[ours] for name, ours in names(config).items()}
    shapes[PREFIX + LM_HEAD] = own["embed"]
    shapes[PREFIX + "puzzle_emb.weights"] = (1, config.width)
    return shapes | {PREFIX + "q_head.weight": (2, config.width), PREFIX + "q_head.bias": (2,)}


def from_reference(state_dict: Mapping[str, torch.Tensor], config: HRMConfig) -> HRM:
    """An HRM with the weights of a checkpoint of the published code, converted to float32.

    The Q head keeps the first `actions` rows of `lm_head`; `q_head` (halting) is taken only where
    `HRMConfig.halting`. ValueError: a tensor that is missing, unknown or of another shape.
    """
    given = {name.removeprefix("_orig_mod."): value for name, value in state_dict.items()}
    table = names(config)
    known = {PREFIX + name for name in (*table, *HALT)}
    for name in given:
        if name not in known:
            raise ValueError(f"{name} is in the checkpoint: expected no tensor of that name")
    shapes = reference_shapes(config)
    for name in (PREFIX + own for own in table):
        found = list(given[name].shape) if name in given else "missing"
        if found != list(shapes[name]):
            raise ValueError(f"{name} is {found}: expected {list(shapes[name])}")
    hrm = HRM(config)  # not before: a shape may ask for more memory than its file holds
    own = hrm.state_dict()
    for name, ours in table.items():
        value = given[PREFIX + name]
        own[ours].copy_(value[: config.actions] if name == LM_HEAD else value.view_as(own[ours]))
    return hrm


def to_reference(hrm: HRM) -> dict[str, torch.Tensor]:
    """The weights under the published names, the inverse of `from_reference`.

    `lm_head` gets its unread rows as zeros, and `q_head` its initial values where halting is off.
    """
    own = hrm.state_dict()
    given = {PREFIX + name: own[ours].clone() for name, ours in names(hrm.config).items()}
    lm_head = torch.zeros_like(own["embed"])
    lm_head[: hrm.config.actions] = own["q_head"]
    given[PREFIX + LM_HEAD] = lm_head
    given[PREFIX + "puzzle_emb.weights"].unsqueeze_(0)
    given.setdefault(PREFIX + "q_head.weight", lm_head.new_zeros(2, hrm.config.width))
    given.setdefault(PREFIX + "q_head.bias", lm_head.new_full((2,), -5.0))
    return given
