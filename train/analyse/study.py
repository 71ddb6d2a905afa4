"""Walks mazes and measures how far z is from four REFERENCES, segment by segment.

After every segment of every decision but an episode's first: the mean squared distance of z_H and
of z_L at one token.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from envs import MazeBatch, MazeSpec
from envs.spec import FLOOR, GOAL
from hrm_fast import HRM, Carry
from train.analyse.convergence import INTERVENTIONS, LEVELS, REFERENCES
from train.analyse.thought import decide_and_record
from train.config import SEED_LIMIT, Config, maze_of, require
from train.episodes import greedily, shortest_paths, walk
from train.replay import agent_cell

CHUNK = 256  # boards thought about at once: bounds the memory of z, [S, CHUNK, T, D]


@dataclass(frozen=True)
class Analyse:
    """What to study."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, a checkpoint or a trained preset's name; or a convergence.csv to draw."""
    mazes: int = 1024
    """Mazes, one episode each."""
    segments: int | None = None
    """Segments per decision (None: as trained)."""
    token: Literal["last", "agent"] = "last"
    """Whose z is measured: the last token's, which is what Carry hands on, or the agent's."""
    seed: int = 1
    """Which unseen mazes."""
    out: Path = Path("runs/analysis")
    """Folder for convergence.csv and the figures."""
    device: str = "cpu"
    """Where the model runs."""

    def __post_init__(self) -> None:
        require("mazes", self.mazes, 1 <= self.mazes <= 2**20, f"1 to {2**20}")
        good = self.segments is None or 2 <= self.segments <= 1024
        require("segments", self.segments, good, "2 to 1024")
        require("seed", self.seed, 0 <= self.seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")


class Walk(NamedTuple):
    """One episode in each of N mazes; R decisions, without those that begin an episode."""

    distance: Tensor  # float32 [2, 4, S, R]: LEVELS, REFERENCES, segment, decision
    changed: Tensor  # bool [R]
    solved: int


@torch.no_grad()
def measure(hrm: HRM, spec: MazeSpec, intervention: str, options: Analyse, segments: int) -> Walk:
    """Walk greedily and measure every decision."""
    n, device = options.mazes, hrm.puzzle.device
    mazes = MazeBatch(spec, n, seed=SEED_LIMIT + options.seed, device=device)
    generator = torch.Generator("cpu").manual_seed(options.seed)
    distances: list[Tensor] = []  # of the decisions of the present step, CHUNK after CHUNK

    def decide(tokens: Tensor, z: Carry) -> tuple[Tensor, Carry]:
        distances.clear()
        tokens = move_goal(tokens, generator) if intervention == "goal moved" else tokens
        chunks = (x.split(CHUNK) for x in (tokens, *z))
        thoughts = [
            think(hrm, own, Carry(*own_z), intervention, segments, options.token)
            for own, *own_z in zip(*chunks, strict=True)
        ]
        q, found, stored = zip(*thoughts, strict=True)
        distances.extend(found)
        return torch.cat(q), Carry(*map(torch.cat, zip(*stored, strict=True)))

    obs, solved = mazes.reset(), 0
    kept = [
        torch.empty(len(LEVELS), len(REFERENCES), segments, 0, dtype=torch.float32, device="cpu")
    ]
    changes = [torch.empty(0, dtype=torch.bool, device="cpu")]
    before: Tensor | None = None  # boards uint8 [N, rows, cols] one step ago; None: no step yet
    after = mazes.get_state()["boards"]
    for walking, step, _ in walk(mazes, greedily(hrm, n, decide), obs):
        own = walking.cpu()
        if before is not None:
            kept += distances
            changes.append(path_changed(spec, before[own], after[own]))
        before, after = after, mazes.get_state()["boards"]
        solved += int(step.terminated[walking].sum())
    return Walk(torch.cat(kept, dim=-1), torch.cat(changes), solved)


def think(
    hrm: HRM, tokens: Tensor, z: Carry, intervention: str, segments: int, token: str
) -> tuple[Tensor, Tensor, Carry]:
    """One decision on tokens uint8 [B, cells]: q [B, A], distances [2, 4, S, B], the next z.

    "z reset" begins every segment, and so the next decision too, at the start states: its
    segments are one segment.
    """
    batch = len(tokens)
    at = torch.full((batch,), hrm.config.tokens - 1, dtype=torch.int64, device=tokens.device)
    if token == "agent":
        at = hrm.token_of(agent_cell(tokens))
    row = torch.arange(batch, dtype=torch.int64, device=tokens.device)
    start = hrm.start(batch)
    if intervention == "z reset":
        begin, kept = start, hrm.stored_start(batch)
        q, z_H, z_L, *_ = decide_and_record(hrm, tokens, None, 1)
        z_H, z_L = (z.expand(segments, *z.shape[1:]) for z in (z_H, z_L))
    else:
        begin = hrm.carry_from(z)
        q, z_H, z_L, kept, _ = decide_and_record(hrm, tokens, z, segments)
    levels = zip((z_H, z_L), begin, start, strict=True)
    measured = [to_references(z[:, row, at], b[row, at], s[row, at]) for z, b, s in levels]
    return q[-1], torch.stack(measured).cpu(), kept


def to_references(z: Tensor, begin: Tensor, start: Tensor) -> Tensor:
    """Mean squared distances [4, S, B] of z [S, B, D] to REFERENCES; begin and start are [B, D]."""
    z = z.float()
    references = torch.stack((z[-1], z[0], begin.float(), start.float()))  # [4, B, D]
    return (z - references[:, None]).square().mean(-1)


def move_goal(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Boards uint8 [B, cells] whose goal is drawn on another, random floor cell.

    Nothing else changes; a board that shows no goal or no bare floor stays as it is.
    """
    free = tokens == FLOOR
    drawn = torch.rand(tokens.shape, generator=generator, dtype=torch.float32, device="cpu")
    chance = drawn.to(tokens.device)
    to = torch.where(free, chance, -1.0).argmax(1, keepdim=True)
    moved = torch.where(tokens == GOAL, FLOOR, tokens).scatter(1, to, GOAL)
    movable = free.any(1) & (tokens == GOAL).any(1)
    return torch.where(movable[:, None], moved, tokens)


def path_changed(spec: MazeSpec, before: Tensor, after: Tensor) -> Tensor:
    """Whether the doors have changed the agent's way, bool [B], from one full board to the next.

    before, after: uint8 [B, rows, cols].
    A door that lay on the shortest path before has changed, or, where there was no path, there is
    one now.
    """
    doorway = [[cell == "d" for cell in row] for row in spec.board]
    door = ord(spec.door_glyph)
    may_move = torch.tensor(doorway, dtype=torch.bool, device=before.device)
    moved = ((before == door) != (after == door)) & may_move  # [B, rows, cols]
    changed = torch.zeros(len(before), dtype=torch.bool, device=before.device)
    some = moved.flatten(1).any(1).nonzero()[:, 0]
    if len(some):
        paths = (shortest_paths(spec, boards[some]) for boards in (before, after))
        for board, path, new in zip(some.tolist(), *paths, strict=True):
            ahead = moved[board].flatten()[path[1:]]
            changed[board] = bool(ahead.any()) or bool(not path and new)
    return changed


def study(config: Config, hrm: HRM, options: Analyse) -> Iterator[dict[str, object]]:
    """The rows of convergence.csv."""
    spec, segments = maze_of(config), options.segments or config.hrm.segments
    for mode in dict.fromkeys(("carry", "reset", config.hrm.carry)):
        model = HRM(replace(config.hrm, carry=mode))
        model.load_state_dict(hrm.state_dict())
        model.to(hrm.puzzle.device).eval()
        for intervention in INTERVENTIONS:
            result = measure(model, spec, intervention, options, segments)
            changed, decisions = int(result.changed.sum()), len(result.changed)
            print(
                f"{mode:<6} {intervention:<11} {result.solved:>5} of {options.mazes} mazes solved, "
                f"{decisions:>6} decisions, {changed:>5} of them after a change of the way",
                flush=True,
            )
            setting = {
                "agent": f"{config.preset}, trained as {config.hrm.carry.title()} with "
                f"{config.hrm.segments} {'segment' if config.hrm.segments == 1 else 'segments'}",
                "token": options.token,
                "mode": mode,
                "intervention": intervention,
                "mazes": options.mazes,
                "solved": result.solved,
            }
            yield from (setting | row for row in summary(result))


def summary(result: Walk) -> Iterator[dict[str, object]]:
    """Median and quartiles over decisions, for every level, reference and segment."""
    for environment, chosen in (("changed", result.changed), ("static", ~result.changed)):
        distance = result.distance[..., chosen].numpy()
        count = distance.shape[-1]
        shape = (3, *distance.shape[:-1])
        values = np.quantile(distance, (0.25, 0.5, 0.75), axis=-1) if count else np.empty(shape)
        for i, level in enumerate(LEVELS):
            for j, reference in enumerate(REFERENCES):
                for k in range(distance.shape[2]):
                    low, median, high = (f"{v:.6g}" if count else "" for v in values[:, i, j, k])
                    yield {
                        "environment": environment,
                        "level": level,
                        "reference": reference,
                        "segment": k + 1,
                        "decisions": count,
                        "median": median,
                        "quartile_1": low,
                        "quartile_3": high,
                    }
