"""Where z goes while the model thinks: the convergence study of HRM-Agent (arXiv 2510.22832).

    python -m train.analyse runs/NAME --mazes 1024 --segments 8 --out FOLDER

One episode in each of many mazes, Carry and Reset, plain and with two interventions. After every
segment of every decision but an episode's first: the mean squared distance of z_H and of z_L, at
one token, to four REFERENCES. The decisions are split by whether the doors have just changed the
shortest path. Writes FOLDER/convergence.csv and a figure for each intervention; given that file
in place of a checkpoint, it draws the figures anew.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, Carry
from train import agents, cli, convergence
from train.checkpoint import load, open_text, replacing
from train.config import SEED_LIMIT, Config, choose_device, maze_of, require
from train.convergence import COLUMNS, INTERVENTIONS, LEVELS, REFERENCES
from train.record import decide_and_record
from train.replay import AGENT, agent_cell

FLOOR, GOAL = ord("."), ord(">")
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
def walk(hrm: HRM, spec: MazeSpec, intervention: str, options: Analyse, segments: int) -> Walk:
    """Walk greedily and measure every decision."""
    n, device = options.mazes, hrm.puzzle.device
    mazes = MazeBatch(spec, n, seed=SEED_LIMIT + options.seed, device=device)
    generator = torch.Generator("cpu").manual_seed(options.seed)
    obs, seed = mazes.reset(), Carry(*(z.clone() for z in hrm.start_seed(n)))
    after = mazes.get_state()["boards"]
    walking, solved = torch.arange(n, dtype=torch.int64, device="cpu"), 0
    distances, changes = [], []
    before: Tensor | None = None  # boards uint8 [N, rows, cols] one step ago; None: no step yet
    while len(walking):
        seen = obs[walking.to(device)]
        if intervention == "goal moved":
            seen = move_goal(seen, generator)
        action = torch.zeros(n, dtype=torch.int64, device="cpu")
        for own, tokens in zip(walking.split(CHUNK), seen.split(CHUNK), strict=True):
            from_seed = Carry(seed.z_H[own], seed.z_L[own])
            q, distance, kept = think(hrm, tokens, from_seed, intervention, segments, options.token)
            seed.z_H[own], seed.z_L[own] = kept
            action[own] = q.argmax(-1).cpu()
            if before is not None:
                distances.append(distance)
        if before is not None:
            changes.append(path_changed(spec, before[walking], after[walking]))
        step = mazes.step(action)
        before, after, obs = after, mazes.get_state()["boards"], step.obs
        solved += int(step.terminated.cpu()[walking].sum())
        walking = walking[~(step.terminated | step.truncated).cpu()[walking]]
    size = len(LEVELS), len(REFERENCES), segments, 0
    distances.append(torch.empty(size, dtype=torch.float32, device="cpu"))
    changes.append(torch.empty(0, dtype=torch.bool, device="cpu"))
    return Walk(torch.cat(distances, dim=-1), torch.cat(changes), solved)


def think(
    hrm: HRM, tokens: Tensor, seed: Carry, intervention: str, segments: int, token: str
) -> tuple[Tensor, Tensor, Carry]:
    """One decision on tokens uint8 [B, cells]: q [B, A], distances [2, 4, S, B], the next seed.

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
        begin, kept = start, hrm.start_seed(batch)
        q, z_H, z_L, *_ = decide_and_record(hrm, tokens, None, 1)
        z_H, z_L = (z.expand(segments, *z.shape[1:]) for z in (z_H, z_L))
    else:
        begin = hrm.carry_from(seed)
        q, z_H, z_L, kept, _ = decide_and_record(hrm, tokens, seed, segments)
    levels = zip((z_H, z_L), begin, start, strict=True)
    measured = [to_references(z[:, row, at], b[row, at], s[row, at]) for z, b, s in levels]
    return q[-1], torch.stack(measured).cpu(), kept


def to_references(z: Tensor, seed: Tensor, start: Tensor) -> Tensor:
    """Mean squared distances [4, S, B] of z [S, B, D] to REFERENCES; seed and start are [B, D]."""
    z = z.float()
    references = torch.stack((z[-1], z[0], seed.float(), start.float()))  # [4, B, D]
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
        path, was_cut_off = shortest_paths(spec, before[some])
        now_cut_off = shortest_paths(spec, after[some])[1]
        on_path = (path & moved[some]).flatten(1).any(1)
        changed[some] = on_path | (was_cut_off & ~now_cut_off)
    return changed


def shortest_paths(spec: MazeSpec, boards: Tensor) -> tuple[Tensor, Tensor]:
    """A shortest path on every board, from the cell after the agent's to the goal.

    Returns its cells, bool like boards uint8 [B, rows, cols], and bool [B]: there is none.
    """
    still = replace(spec, p_change=0.0, max_steps=spec.cells, view_radius=None)
    mazes = MazeBatch(still, len(boards))
    mazes.load_boards(boards)
    left, action = mazes.shortest_path()
    cut_off = left < 0
    path = torch.zeros(len(boards), spec.cells, dtype=torch.bool, device="cpu")
    while (left > 0).any():  # the simulator walks; beyond the goal nobody looks
        step = mazes.step(action)
        path |= (step.final_obs == AGENT) & (left > 0)[:, None]
        left -= 1
        action = mazes.shortest_path()[1]
    return path.view(boards.shape), cut_off


def study(config: Config, hrm: HRM, options: Analyse) -> Iterator[dict[str, object]]:
    """The rows of convergence.csv."""
    spec, segments = maze_of(config), options.segments or config.hrm.segments
    for mode in dict.fromkeys(("carry", "reset", config.hrm.carry)):
        model = HRM(replace(config.hrm, carry=mode))
        model.load_state_dict(hrm.state_dict())
        model.to(hrm.puzzle.device).eval()
        for intervention in INTERVENTIONS:
            result = walk(model, spec, intervention, options, segments)
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


def main() -> None:
    options = cli.parse(Analyse, __doc__ or "")
    table = options.checkpoint
    if table.suffix != ".csv":
        config, hrm = load(agents.find(options.checkpoint), choose_device(options.device))
        segments = options.segments or config.hrm.segments
        require("segments", segments, segments >= 2, "2 or more, such as --segments 8")
        maze_of(config)  # an agent of another environment ends here, before a folder is made
        table = options.out / "convergence.csv"
        with replacing(table) as part, open_text(part) as file:  # a bad path fails here
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(study(config, hrm, options))
    for path in convergence.draw_all(table, options.out):
        print(path)


if __name__ == "__main__":
    cli.main(main)
