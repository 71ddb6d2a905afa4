"""How well a checkpoint walks mazes it has never seen, beside a random and a shortest-path walker.

python -m train.evaluate runs/quick-0 --episodes 1024 --json result.json

Also HRM-Agent's own checkpoints, `.ckpt`.
"""

import json
import math
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from torch import Tensor

from envs import GymBatch, GymSpec, MazeBatch, MazeSpec, make_batch
from hrm_fast import HRM
from train import cli
from train.config import SEED_LIMIT, Config, fit_model_to_board, maze_of, require
from train.episodes import Batch, Walker, agent, random_walker, shortest_path_walker, walk
from train.files import agents, peer
from train.files.checkpoint import load
from train.files.writing import check_outputs, replacing
from train.machine import ranks
from train.machine.device import choose_device

SELECTION_SEED = 0  # of the evaluations during training, that choose the best checkpoint

DISTANCES = {  # of the goal at the start: the shortest path's least and most steps
    "1-4": (1, 4), "5-9": (5, 9), "10-14": (10, 14), "15-19": (15, 19), "20+": (20, 2**31),
    "cut off": (-1, -1),  # by closed doors
}  # fmt: skip
AT_ONCE = 64  # Gymnasium environments that walk side by side


@dataclass(frozen=True)
class Result:
    """One walker's episodes."""

    episodes: int
    success: float  # share that reached the goal in time; `Step.solved`
    success_low: float  # 95 % Wilson interval
    success_high: float
    mean_length: float  # steps, all episodes
    mean_return: float  # sum of rewards, all episodes
    shortest_ratio: float | None  # mean of steps / shortest path at the start, solved episodes
    by_distance: dict[str, tuple[int, int]]  # at the start -> solved, episodes; mazes only


class Walks(NamedTuple):
    """Episodes from their beginning to their end, [n] each."""

    solved: Tensor
    length: Tensor
    total: Tensor  # of rewards
    shortest: Tensor  # path at the start, -1 where there is none or nobody knows


@torch.no_grad()
def rollout(
    spec: MazeSpec | GymSpec,
    walker: Walker,
    episodes: int,
    seed: int,
    device: torch.device,
    begin: int = 0,
) -> Result:
    """Walk `episodes` unseen episodes: mazes all at once, other environments AT_ONCE.

    In a job every rank walks its own `episodes`, in mazes from number `begin` on; the result
    covers all ranks.
    """
    wave = min(episodes, AT_ONCE) if isinstance(spec, GymSpec) else episodes
    with closing(make_batch(spec, wave, SEED_LIMIT + seed, device, begin)) as mazes:
        waves = [
            _walk(mazes, walker, first, min(wave, episodes - first))
            for first in range(0, episodes, wave)
        ]
    walks = Walks(*(ranks.all_gather(torch.cat(x)) for x in zip(*waves, strict=True)))
    return _summary(walks, DISTANCES if isinstance(spec, MazeSpec) else {})


def _walk(mazes: Batch, walker: Walker, first: int, count: int) -> Walks:
    """One episode in each of the first `count` mazes."""
    if isinstance(mazes, GymBatch):  # whatever has begun since the wave before
        number = torch.tensor(first, dtype=torch.int64, device="cpu")
        mazes.set_state({"episodes": number.expand(mazes.num_envs)})
    obs = mazes.reset()
    length = torch.zeros(mazes.num_envs, dtype=torch.int64, device=mazes.device)
    solved, total = torch.zeros_like(length, dtype=torch.bool), torch.zeros_like(obs[:, 0]).double()
    shortest = torch.full_like(length, -1)
    if isinstance(mazes, MazeBatch):
        shortest = mazes.shortest_path()[0].long()

    def numbered(mazes: Batch, obs: Tensor, walking: Tensor) -> Tensor:
        return walker(mazes, obs, first + walking)

    for walking, step, _ in walk(mazes, numbered, obs, count):
        length[walking] += 1
        total[walking] += step.reward[walking]
        solved[walking] = step.solved[walking]
    return Walks(*(x[:count] for x in (solved, length, total, shortest)))


def _summary(walks: Walks, distances: dict[str, tuple[int, int]]) -> Result:
    solved, length, total, shortest = walks
    n, k = len(solved), int(solved.sum())
    low, high = wilson(k, n)
    fair = solved & (shortest > 0)  # at the start doors may cut the goal off: no shortest path
    ratio = (length[fair].float() / shortest[fair]).mean().item() if fair.any() else None
    steps, rewards = (x.double().mean().item() for x in (length, total))
    by_distance = {}
    for name, (least, most) in distances.items():
        there = (shortest >= least) & (shortest <= most)
        by_distance[name] = int((solved & there).sum()), int(there.sum())
    return Result(n, k / n, low, high, steps, rewards, ratio, by_distance)


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    p, z2 = successes / n, z * z / n
    centre, half = p + z2 / 2, z * math.sqrt((p * (1 - p) + z2 / 4) / n)
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def evaluate(hrm: HRM, spec: MazeSpec | GymSpec, episodes: int, seed: int) -> Result:
    begin, count = ranks.share(episodes)
    return rollout(spec, agent(hrm, count), count, seed, hrm.puzzle.device, begin)


def env_of(config: Config, asked: str | None = None) -> MazeSpec | GymSpec:
    """Where the agent was trained, or what `asked` names. ValueError: its model does not fit."""
    spec = config.env
    if asked is not None:
        other = GymSpec.parse(asked)
        spec = replace(spec, id=other.id) if isinstance(spec, GymSpec) else other
    if isinstance(spec, GymSpec):
        shape = config.hrm
        for name in ("cells", "actions"):
            own, found = getattr(shape, name), getattr(spec, name)
            require(f"{name} of {spec.id}", found, own == found, f"{own}, as the agent was trained")
        most = shape.vocab_size
        require(
            f"vocab of {spec.id}", spec.vocab, spec.vocab <= most, f"at most {most}, as trained"
        )
    return spec


def of_size(config: Config, hrm: HRM, size: int | None) -> tuple[Config, HRM]:
    """The agent in corridors of another size; None: as trained.

    The time limit is that size's. So are doors and walls, where the run set none.

    ValueError: it was trained on a map without sizes, or its positions belong to that map's cells.
    """
    if size is None:
        return config, hrm
    env = replace(maze_of(config), size=size, max_steps=None)
    fitted = fit_model_to_board(replace(config, env=env))
    positions, own = config.hrm.positions, fitted.hrm.shapes() == config.hrm.shapes()
    why = f"'rope2d', as learned ones are of the {config.env.rows} x {config.env.cols} cells walked"
    require("hrm.positions", positions, own, why)
    other = HRM(fitted.hrm)
    other.load_state_dict(hrm.state_dict())
    return fitted, other.to(hrm.puzzle.device).eval()


def program(
    checkpoint: tyro.conf.Positional[str],
    episodes: int = 1024,
    seed: int = 1,
    segments: int | None = None,
    temperature: float = 0.0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    device: str = "cpu",
    env: str | None = None,
    env_size: Annotated[int | None, tyro.conf.arg(name="env.size")] = None,
) -> None:
    """Evaluate a checkpoint.

    Args:
        checkpoint: A checkpoint file, a run's folder (its best one) or a trained preset's name.
        episodes: Episodes, each in a maze of its own.
        seed: Draw the unseen mazes from this seed (training chose its best checkpoint on 0).
        segments: Think for so many segments per decision (None: as trained).
        temperature: Draw actions by softmax(Q / temperature), Q before its sigmoid where it has one
            (0: take the best). 0.03 ends the circles in which a greedy agent walks.
        json_file: Write the numbers to this file.
        device: Run the model there: auto, cpu, cuda, cuda:1 ...
        env: Walk in gym:ID or gym:MODULE:ID instead of where the agent was trained.
        env_size: Walk mazes of this size: corridors odd, 5 to 31, rooms 2 to 32 (None: as trained).
    """
    require("episodes", episodes, episodes >= 1, "1 or more")
    require("seed", seed, 0 <= seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")
    require("segments", segments, segments is None or segments >= 1, "1 or more")
    require("temperature", temperature, 0 <= temperature <= 100, "0 to 100")
    path = agents.find(checkpoint)
    config, hrm = (peer.load if path.suffix == ".ckpt" else load)(path, choose_device(device))
    config, hrm = of_size(config, hrm, env_size)
    spec = env_of(config, env)
    check_outputs(path, json=json_file)
    walkers: dict[str, Walker] = {
        "agent": agent(hrm, episodes, segments, temperature, seed),
        "random": random_walker(spec.actions, seed),
    }
    is_maze = isinstance(spec, MazeSpec)
    if is_maze:
        walkers["shortest path, re-planned"] = shortest_path_walker
    where = spec.summary if isinstance(spec, GymSpec) else f"limit {spec.step_limit} steps"
    with replacing(json_file) if json_file else nullcontext() as part:
        print(f"{checkpoint}: {episodes} unseen episodes, {where}")
        results = {}
        for name, walker in walkers.items():
            results[name] = rollout(spec, walker, episodes, seed, hrm.puzzle.device)
            print(_line(name, results[name], is_maze))
        if is_maze:
            print(f"{'solved by distance at start':<26}", *(f"{name:>11}" for name in DISTANCES))
            for name, result in results.items():
                counts = (f"{solved}/{n}" for solved, n in result.by_distance.values())
                print(f"{name:<26} ", *(f"{count:>11}" for count in counts))
        if part is not None:
            numbers = {**asdict(results["agent"]), "seed": seed, "segments": segments}
            numbers |= {"temperature": temperature, "env_size": env_size}
            others = {name: asdict(r) for name, r in results.items() if name != "agent"}
            part.write_text(json.dumps({**numbers, "others": others}, indent=2) + "\n")


def _line(name: str, r: Result, is_maze: bool) -> str:
    last = f"mean return {r.mean_return:.3f}"
    if is_maze:
        ratio = "-" if r.shortest_ratio is None else f"{r.shortest_ratio:.2f}"
        last = f"steps / shortest path {ratio}"
    return (
        f"{name:<26} success {r.success:6.1%} ({r.success_low:.1%} to {r.success_high:.1%})"
        f"  mean length {r.mean_length:5.1f}  {last}"
    )


if __name__ == "__main__":
    cli.main(lambda: cli.parse(program))
