"""A page on which recorded episodes can be watched: one HTML file that fetches nothing.

Here the episodes are played and written down; page.html, .css and two .js show them.
"""

import html
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs import MazeBatch, MazeSpec
from envs.render import kinds
from hrm_fast import HRM, Carry
from train.analyse.thought import Thought, decide_and_record
from train.config import Config, maze_of
from train.episodes import greedily, shortest_paths, walk
from train.files.writing import replacing

# (boards uint8 [B, cells], z) -> the decision; its first axis counts segments, or cycles of one
Thinker = Callable[[Tensor, Carry], Thought]


@dataclass
class Frame:
    """One board, what led to it, and how the agent decides on it."""

    board: Tensor  # uint8 [cells], as observed
    reward: float  # of the step that led here
    end: str = ""  # "goal", "time limit", or "" while the episode goes on
    state: Tensor | None = None  # uint8 [rows, cols], all of the maze; None on the last board
    q: Tensor | None = None  # float32 [S, A], after each segment; None on the last board
    away: Tensor | None = None  # float32 [2, S], of z_H and z_L before each segment
    values: Tensor | None = None  # float32 [S, cells], of every cell as the goal, if it has them


def thinker(hrm: HRM, segments: int | None) -> tuple[Thinker, str]:
    """What decides, and what its thoughts are counted in: "segment" or "cycle".

    A model of one segment and one H cycle counts in L cycles: copies of it with fewer L cycles
    show what it would have decided had it stopped after each.
    """
    config = hrm.config
    if (segments or config.segments) > 1 or config.h_cycles > 1 or config.l_cycles == 1:
        return lambda obs, z: decide_and_record(hrm, obs, z, segments), "segment"
    shorter = []
    for cycles in range(1, config.l_cycles):
        shorter.append(HRM(replace(config, l_cycles=cycles)).eval())
        shorter[-1].load_state_dict(hrm.state_dict())

    def think(obs: Tensor, z: Carry) -> Thought:
        cycles = [decide_and_record(model, obs, z) for model in (*shorter, hrm)]
        q, z_H, z_L, _, values = zip(*cycles, strict=True)
        every_cell = torch.cat(values) if config.q_token == "goal" else None
        return Thought(torch.cat(q), torch.cat(z_H), torch.cat(z_L), cycles[-1].stored, every_cell)

    return think, "cycle"


def distances(start: Carry, thought: Thought) -> Tensor:
    """How far z is from where it ends up: float32 [2, S, B], z_H and z_L before each segment.

    The mean square over all tokens and their numbers.
    """
    away = []
    for first, later in zip(start, (thought.z_H, thought.z_L), strict=True):
        z = torch.cat((first[None], later)).float()  # [S + 1, B, T, D]
        away.append((z[:-1] - z[-1]).square().mean((-1, -2)))
    return torch.stack(away)


def play(hrm: HRM, think: Thinker, spec: MazeSpec, episodes: int, seed: int) -> list[list[Frame]]:
    """One greedy episode in each maze of `MazeBatch(spec, episodes, seed)`."""
    mazes = MazeBatch(spec, episodes, seed=seed)
    obs = mazes.reset()  # uint8 [N, cells]
    reward = torch.zeros(episodes, dtype=torch.float32, device="cpu")
    states = mazes.get_state()["boards"]
    thought, away = None, None

    def decide(obs: Tensor, before: Carry) -> tuple[Tensor, Carry]:
        nonlocal thought, away
        thought = think(obs, before)
        away = distances(hrm.carry_from(before), thought)
        return thought.q[-1], thought.stored

    played: list[list[Frame]] = [[] for _ in range(episodes)]
    for walking, step, ends in walk(mazes, greedily(hrm, episodes, decide), obs):
        assert thought is not None and away is not None
        for i, maze in enumerate(walking.tolist()):
            values = None if thought.values is None else thought.values[:, i]
            known = states[maze], thought.q[:, i], away[:, :, i], values
            played[maze].append(Frame(obs[maze].clone(), reward[maze].item(), "", *known))
        obs, reward, states = step.obs, step.reward, mazes.get_state()["boards"]
        for maze in walking[ends].tolist():
            end = "goal" if step.terminated[maze] else "time limit"
            played[maze].append(Frame(step.final_obs[maze].clone(), reward[maze].item(), end))
    return played


def choose(played: list[list[Frame]], show: int) -> list[int]:
    """Which episodes to show: failures, half of them at most, then the longest of the others.

    More failures where there are not enough others.
    """
    order = range(len(played))
    missed = [i for i in order if played[i][-1].end != "goal"]
    solved = [i for i in order if played[i][-1].end == "goal"]
    solved.sort(key=lambda i: -len(played[i]))
    missed = missed[: max(show - show // 2, show - len(solved))]
    return (missed + solved)[:show]


def as_data(episode: list[Frame], number: int, spec: MazeSpec) -> dict[str, Any]:
    """An episode as the page wants it. ValueError: its Q values are not finite."""
    thoughts = [m for m in episode if m.state is not None and m.q is not None]
    if not all(bool(m.q.isfinite().all()) for m in thoughts if m.q is not None):
        raise ValueError(f"q of episode {number} is not finite: expected finite weights")
    paths = shortest_paths(spec, torch.stack([m.state for m in thoughts if m.state is not None]))
    moments = []
    for moment, path in zip(episode, [*paths, []], strict=True):
        kind, _ = kinds(moment.board.numpy().reshape(spec.rows, spec.cols), spec)
        data = {"board": kind.tobytes().decode(), "reward": round(moment.reward, 4), "path": path}
        if moment.q is not None and moment.away is not None:
            data["q"] = [[round(value, 4) for value in row] for row in moment.q.tolist()]
            data["away"] = [[float(f"{x:.3g}") for x in row] for row in moment.away.tolist()]
        if moment.values is not None:
            data["values"] = (100 * moment.values).round().int().tolist()  # percent
        moments.append(data)
    return {"number": number, "end": episode[-1].end, "moments": moments}


def record(
    hrm: HRM, config: Config, show: int, among: int, seed: int, segments: int | None
) -> dict[str, Any]:
    """All that the page shows: `show` of `among` greedy episodes, as `choose` orders them."""
    spec, shape = maze_of(config), hrm.config
    think, unit = thinker(hrm, segments)
    played = play(hrm, think, spec, among, seed)
    shown = [as_data(played[i], i + 1, spec) for i in choose(played, show)]
    doorways = [i for i, cell in enumerate("".join(spec.board)) if cell == "d"]
    return {
        "agent": config.preset,
        "seed": config.seed,
        "rows": spec.rows,
        "cols": spec.cols,
        "doorways": doorways,
        "pChange": spec.p_change if spec.door_count else 0,
        "limit": spec.step_limit,
        "width": shape.width,
        "parameters": sum(p.numel() for p in hrm.parameters()),
        "segments": segments or shape.segments,
        "trainedSegments": shape.segments,
        "cycles": [shape.h_cycles, shape.l_cycles],
        "carry": shape.carry,
        "unit": unit,
        "among": among,
        "solved": sum(episode[-1].end == "goal" for episode in played),
        "episodes": shown,
    }


def page(data: dict[str, Any]) -> str:
    """The whole page; it fetches nothing, and its policy forbids it to."""
    files = ("page.html", "page.css", "page_board.js", "page.js")
    text, style, *scripts = (Path(__file__).with_name(n).read_text(encoding="utf-8") for n in files)
    told = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"HRM agent · {data['agent']}")
    parts = {
        "{{title}}": title,
        "{{style}}": style,
        "{{script}}": "\n".join(scripts),
        "{{data}}": told,
    }
    for place, part in parts.items():
        text = text.replace(place, part)
    return text


def write(path: Path, make: Callable[[], dict[str, Any]]) -> int:
    """Write the page of what `make` records and return how many episodes it shows.

    The file is whole or not there. OSError: it cannot be written, said before anything is played.
    """
    with replacing(path) as part:
        data = make()
        part.write_text(page(data), encoding="utf-8")
    return len(data["episodes"])
