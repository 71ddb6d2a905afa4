"""The trainers that `profiling.bench_train` times, and what they must answer before it does."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hrm_fast import HRM, Carry, HRMConfig
from hrm_fast.config import DType
from train.analyse.figures import multiply_adds
from train.config import PRESETS, Config
from train.trainer import Trainer

TOLERANCE = 1e-4  # of an answer's largest number


class Case(NamedTuple):
    """What one segment trains on."""

    boards: Tensor  # uint8 [B, cells]
    z: Carry  # [B, *stored_shape] each
    loss: tuple[Tensor, ...]  # a_tm1, target and, of all goals, weight, as `td_segment` takes them


def forward_flops(hrm: HRMConfig) -> int:
    """One segment of one board forward; products and attention, a multiply-add being two."""
    return 2 * multiply_adds(hrm, segments=1)


def segment_flops(hrm: HRMConfig) -> int:
    """The same with the gradient: twice the last L call and the last H call again."""
    one_each = replace(hrm, h_cycles=1, l_cycles=1)
    return forward_flops(hrm) + 2 * forward_flops(one_each)


def cycle_flops(config: Config) -> int:
    """One step of all mazes and its batch: acting, targets, segments. The optimiser is free."""
    hrm, dqn = config.hrm, config.dqn
    decision = hrm.segments * forward_flops(hrm)
    batch = dqn.batch_size * (decision + hrm.segments * segment_flops(hrm))
    return dqn.num_mazes * decision + batch


def shaped(shape: str, paper_batch: int, dtype: DType = "float32") -> Config:
    """The preset without an end."""
    if shape != "paper":
        config = PRESETS[shape]
        return replace(config, updates=10**9, hrm=replace(config.hrm, dtype=dtype))
    config, B = PRESETS["paper-maze"], paper_batch
    sizes = {"num_mazes": B, "batch_size": B, "replay_size": 64 * B, "learning_starts": 4 * B}
    hrm = replace(config.hrm, dtype=dtype)
    return replace(config, updates=10**9, hrm=hrm, dqn=replace(config.dqn, **sizes))


def build(config: Config, kernels: str, device: torch.device) -> Trainer:
    """A trainer whose `phase` also has the seconds of all decisions, under "act".

    "unfused" is the engine with the loss outside of it, which computes the segment twice.
    """
    own = {"compiled": "reference", "unfused": "cpu"}.get(kernels, kernels)
    trainer = Trainer(replace(config, hrm=replace(config.hrm, kernels=own)), device)
    mode = "default" if device.type == "cpu" else "max-autotune-no-cudagraphs"
    for hrm in (trainer.hrm, trainer.target):
        if kernels == "compiled":
            plain = hrm.backends.reference
            plain.forward = torch.compile(plain.forward, fullgraph=True, dynamic=False, mode=mode)
        if kernels == "unfused":
            hrm.td_segment = partial(td_through_think, hrm)
        hrm.act = trainer.phase("act")(hrm.act)
        hrm.goal_values = trainer.phase("act")(hrm.goal_values)
    return trainer


def td_through_think(
    hrm: HRM,
    carry: Carry,
    tokens: Tensor,
    a_tm1: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    last: bool = False,
) -> tuple[Carry, Tensor, Tensor]:
    """`HRM.td_segment`, as a loss on other values would have to do it."""
    z_H, z_L = hrm.think(carry, tokens)
    q = hrm.q_values(z_H, tokens)
    if weight is None:
        found = hrm.ops.td_loss(q, a_tm1, target)
    else:
        if hrm.seen is not None:
            target, weight = target[:, hrm.seen], weight[:, hrm.seen]
        found = hrm.ops.goal_loss(z_H, hrm.q_head, a_tm1, target, weight)
    return carry if last else Carry(z_H.detach(), z_L.detach()), q, found


def make_case(trainer: Trainer) -> Case:
    """Random weights where training starts with zeros, and boards some steps into episodes."""
    torch.manual_seed(0)
    hrm, collector, B = trainer.hrm, trainer.collector, trainer.config.dqn.batch_size
    nn.init.normal_(hrm.q_head, std=0.1)
    nn.init.normal_(hrm.puzzle, std=0.1)
    for _ in range(3):
        collector.step(hrm, 1.0, trainer.generator)
    maze = torch.arange(B) % len(collector.obs)
    z = Carry(collector.z.z_H[maze], collector.z.z_L[maze])
    loss = [torch.randint(hrm.config.actions, (B,)), torch.rand(B)]
    if hrm.config.q_token == "goal":
        loss[1:] = torch.rand(2, B, hrm.config.cells)
    device = collector.obs.device
    return Case(collector.obs[maze], z, tuple(x.to(device) for x in loss))


def exactly(config: Config, weights: HRM, case: Case) -> dict[str, Tensor]:
    """The answers in float64."""
    hrm = HRM(replace(config.hrm, dtype="float32", kernels="reference"))
    hrm.load_state_dict(weights.state_dict())
    return answers(hrm.double().to(case.boards.device), case)


def train_segment(hrm: HRM, case: Case, last: bool) -> Tensor:
    """A decision's last segment, or one whose states the next one reads, forward and backward."""
    carry = hrm.carry_from(case.z)
    _, q, loss = hrm.td_segment(carry, case.boards, *case.loss, last=last)
    loss.backward()
    return q.detach()


def answers(hrm: HRM, case: Case) -> dict[str, Tensor]:
    """Of one segment: eight in a row turn 1e-7 into 2e-3 on some boards, in eager PyTorch too."""
    q, carry = hrm.decide(case.boards, case.z, segments=1)
    found = {"decision: q": q, "decision: z_H": carry.z_H, "decision: z_L": carry.z_L}
    for name, last in (("segment", False), ("last segment", True)):
        hrm.zero_grad(set_to_none=False)
        found[f"{name}: q"] = train_segment(hrm, case, last)
        for parameter, p in hrm.named_parameters():
            if p.grad is not None:
                found[f"{name}: gradient of {parameter}"] = p.grad.clone()
    hrm.zero_grad(set_to_none=False)
    return found


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each answer, as a share of the answer's largest number."""
    return {
        name: float((found[name] - right).abs().max() / right.abs().max().clamp_min(1e-30))
        for name, right in exact.items()
    }


def check(error: dict[str, float], who: str, allowed: float = TOLERANCE) -> None:
    """SystemExit: an answer is off by more than is allowed."""
    for name, value in error.items():
        if not value <= allowed:
            raise SystemExit(f"{who}: {name} is off by {value:.1e}; nothing is timed")
    name = max(error, key=error.__getitem__)
    print(f"{who}: off from float64 by at most {error[name]:.1e} ({name})", flush=True)


def prepare(
    config: Config, kernels: str, weights: HRM, case: Case
) -> tuple[Trainer, dict[str, Tensor]]:
    """A trainer with these weights that has made its first cycle, its answers before that."""
    trainer = build(config, kernels, case.boards.device)
    for hrm in (trainer.hrm, trainer.target):
        hrm.load_state_dict(weights.state_dict())
    found = answers(trainer.hrm, case)
    trainer.cycle()
    return trainer, found


def peers(
    config: Config, shape: str, chosen: Sequence[str], device: torch.device
) -> tuple[dict[str, Trainer], list[list[str]], Case]:
    """The trainers that are here and answer rightly, and lines that say why others are not."""
    first = build(config, "reference", device)
    case = make_case(first)
    exact = exactly(config, first.hrm, case)
    trainers: dict[str, Trainer] = {}
    missing = []
    rounded = config.hrm.dtype == "bfloat16"
    allowed = inf if rounded else TOLERANCE
    for kernels in ("reference", *(k for k in chosen if k != "reference")):
        try:
            trainers[kernels], found = prepare(config, kernels, first.hrm, case)
        except (ValueError, RuntimeError, ImportError) as why:
            missing.append([shape, "all", kernels, " ".join(str(why).split())[:160]])
            continue
        error = errors(found, exact)
        check(error, f"{shape}, {kernels}", allowed)
        if rounded and kernels == "reference":
            allowed = 2 * max(error.values())
    return trainers, missing, case
