"""How well a checkpoint walks mazes it has never seen, beside a random and a shortest-path walker.

python -m train.evaluate runs/quick-0 --episodes 1024 --json result.json
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, Carry
from train import agents, cli
from train.checkpoint import load, write_text
from train.config import SEED_LIMIT, choose_device, require

SELECTION_SEED = 0  # of the evaluations during training, that choose the best checkpoint

# (mazes, boards that still walk uint8 [n, cells], their indices int64 [n]) -> actions int64 [n]
Walker = Callable[[MazeBatch, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Result:
    """One walker's episodes."""

    episodes: int
    success: float  # share that reached the goal in time
    success_low: float  # 95 % Wilson interval
    success_high: float
    mean_length: float  # steps, all episodes
    shortest_ratio: float | None  # mean of steps / shortest path at the start, solved episodes


@torch.no_grad()
def rollout(
    spec: MazeSpec, walker: Walker, episodes: int, seed: int, device: torch.device
) -> Result:
    """Walk one episode in each of `episodes` mazes; mazes that have ended are no longer asked."""
    mazes = MazeBatch(spec, episodes, seed=SEED_LIMIT + seed, device=device)
    obs = mazes.reset()
    shortest, _ = mazes.shortest_path()
    length = torch.zeros(episodes, dtype=torch.int64, device=device)
    solved = torch.zeros(episodes, dtype=torch.bool, device=device)
    walking = torch.arange(episodes, device=device)
    while len(walking):
        action = torch.zeros(episodes, dtype=torch.int64, device=device)
        action[walking] = walker(mazes, obs[walking], walking)
        step = mazes.step(action)
        length[walking] += 1
        solved[walking] = step.terminated[walking]
        walking = walking[~(step.terminated | step.truncated)[walking]]
        obs = step.obs
    return _summary(solved, length, shortest)


def _summary(solved: Tensor, length: Tensor, shortest: Tensor) -> Result:
    n, k = len(solved), int(solved.sum())
    low, high = wilson(k, n)
    fair = solved & (shortest > 0)  # at the start doors may cut the goal off: no shortest path
    ratio = (length[fair] / shortest[fair]).mean().item() if fair.any() else None
    return Result(n, k / n, low, high, length.double().mean().item(), ratio)


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    p, z2 = successes / n, z * z / n
    centre, half = p + z2 / 2, z * math.sqrt((p * (1 - p) + z2 / 4) / n)
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def greedy(hrm: HRM, episodes: int, segments: int | None = None) -> Walker:
    """The agent without exploration; keeps every maze's seed between its decisions."""
    seed = Carry(*(z.clone() for z in hrm.start_seed(episodes)))

    def walk(_: MazeBatch, obs: Tensor, walking: Tensor) -> Tensor:
        q, carry = hrm.decide(obs, Carry(seed.z_H[walking], seed.z_L[walking]), segments)
        seed.z_H[walking], seed.z_L[walking] = hrm.seed(carry)
        return q.argmax(-1)

    return walk


def random_walker(actions: int, seed: int) -> Walker:
    generator = torch.Generator().manual_seed(seed)

    def walk(_: MazeBatch, __: Tensor, walking: Tensor) -> Tensor:
        return torch.randint(actions, (len(walking),), generator=generator).to(walking.device)

    return walk


def shortest_path_walker(mazes: MazeBatch, _: Tensor, walking: Tensor) -> Tensor:
    """Plans a shortest path anew at every step on the board as it is."""
    return mazes.shortest_path()[1][walking]


def evaluate(hrm: HRM, spec: MazeSpec, episodes: int, seed: int) -> Result:
    return rollout(spec, greedy(hrm, episodes), episodes, seed, hrm.puzzle.device)


def program(
    checkpoint: tyro.conf.Positional[str],
    episodes: int = 1024,
    seed: int = 1,
    segments: int | None = None,
    json_file: Annotated[str | None, tyro.conf.arg(name="json")] = None,
    device: str = "cpu",
) -> None:
    """Evaluate a checkpoint.

    Args:
        checkpoint: A checkpoint file, a run's folder (its best one) or a trained preset's name.
        episodes: Episodes, each in a maze of its own.
        seed: Which unseen mazes (0 is what training chose its best checkpoint on).
        segments: Segments per decision (None: as trained).
        json_file: File for the numbers.
        device: Where the model runs.
    """
    require("episodes", episodes, episodes >= 1, "1 or more")
    require("seed", seed, 0 <= seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")
    require("segments", segments, segments is None or segments >= 1, "1 or more")
    config, hrm = load(agents.find(checkpoint), choose_device(device))
    spec = config.env
    walkers: dict[str, Walker] = {
        "agent": greedy(hrm, episodes, segments),
        "random": random_walker(spec.actions, seed),
        "shortest path, re-planned": shortest_path_walker,
    }
    print(f"{checkpoint}: {episodes} unseen episodes, limit {spec.max_steps} steps")
    results = {}
    for name, walker in walkers.items():
        results[name] = r = rollout(spec, walker, episodes, seed, hrm.puzzle.device)
        ratio = "-" if r.shortest_ratio is None else f"{r.shortest_ratio:.2f}"
        print(
            f"{name:<26} success {r.success:6.1%} ({r.success_low:.1%} to {r.success_high:.1%})"
            f"  mean length {r.mean_length:5.1f}  steps / shortest path {ratio}"
        )
    if json_file:
        numbers = {**asdict(results["agent"]), "seed": seed, "segments": segments}
        others = {name: asdict(r) for name, r in results.items() if name != "agent"}
        write_text(Path(json_file), json.dumps({**numbers, "others": others}, indent=2) + "\n")


if __name__ == "__main__":
    cli.main(lambda: cli.parse(program))
