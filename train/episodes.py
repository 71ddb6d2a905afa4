"""Episodes from their beginning to their end: the one loop that evaluates, shows and analyses."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from envs import GymBatch, MazeBatch, MazeSpec
from envs.step import Step
from hrm_fast import HRM, Carry
from train.replay import agent_cell

Batch = MazeBatch | GymBatch

# (mazes, boards that still walk uint8 [n, cells], their numbers int64 [n]) -> actions int64 [n]
Walker = Callable[[Batch, Tensor, Tensor], Tensor]

# (boards uint8 [n, cells], z) -> q float32 [n, A], z of the next decision
Decide = Callable[[Tensor, Carry], tuple[Tensor, Carry]]


class Walked(NamedTuple):
    """One step of the n mazes whose episode runs."""

    mazes: Tensor  # int64 [n]; their numbers
    step: Step  # of all N mazes
    ends: Tensor  # bool [n]; this step ended the episode


@torch.no_grad()
def walk(
    mazes: Batch, walker: Walker, obs: Tensor | None = None, count: int | None = None
) -> Iterator[Walked]:
    """One episode in each of the first `count` mazes; those that have ended are no longer asked.

    obs uint8 [N, cells] is what the mazes show now; None resets them.
    """
    obs = mazes.reset() if obs is None else obs
    count = mazes.num_envs if count is None else count
    walking = torch.arange(count, dtype=torch.int64, device=mazes.device)
    while len(walking):
        action = torch.zeros(mazes.num_envs, dtype=torch.int64, device=mazes.device)
        action[walking] = walker(mazes, obs[walking], walking)
        step = mazes.step(action)
        ends = (step.terminated | step.truncated)[walking]
        yield Walked(walking, step, ends)
        walking, obs = walking[~ends], step.obs


def greedily(hrm: HRM, mazes: int, decide: Decide) -> Walker:
    """Takes the best action of `decide`, and keeps every maze's z between its decisions."""
    z = Carry(*(z.clone() for z in hrm.stored_start(mazes)))

    def walker(_: Batch, obs: Tensor, walking: Tensor) -> Tensor:
        q, (z.z_H[walking], z.z_L[walking]) = decide(obs, Carry(z.z_H[walking], z.z_L[walking]))
        return q.argmax(-1)

    return walker


def agent(
    hrm: HRM, mazes: int, segments: int | None = None, temperature: float = 0.0, seed: int = 0
) -> Walker:
    """The agent: greedy, or above temperature 0 by softmax(Q / temperature) (Sutton & Barto, 2.8).

    Where two ways are almost the same, a greedy agent may walk to and fro between two cells until
    the doors move; drawn actions end that. Q is taken before its sigmoid where it has one, since
    there a detour costs the same near and far.
    """
    generator = torch.Generator(hrm.puzzle.device).manual_seed(seed)

    def decide(obs: Tensor, start: Carry) -> tuple[Tensor, Carry]:
        q, carry = hrm.decide(obs, start, segments)
        if temperature > 0:
            q = q.logit(1e-6) if hrm.config.q_token == "goal" else q
            gumbel = -torch.empty_like(q).exponential_(generator=generator).log()
            q = q + temperature * gumbel  # whose largest is a draw from the softmax
        return q, hrm.stored(carry)

    return greedily(hrm, mazes, decide)


def random_walker(actions: int, seed: int) -> Walker:
    generator = torch.Generator("cpu").manual_seed(seed)

    def walker(_: Batch, __: Tensor, walking: Tensor) -> Tensor:
        chosen = torch.randint(
            actions, (len(walking),), generator=generator, dtype=torch.int64, device="cpu"
        )
        return chosen.to(walking.device)

    return walker


def shortest_path_walker(mazes: Batch, _: Tensor, walking: Tensor) -> Tensor:
    """Plans a shortest path anew at every step on the board as it is; mazes only."""
    assert isinstance(mazes, MazeBatch)
    return mazes.shortest_path()[1][walking]


def shortest_paths(spec: MazeSpec, boards: Tensor) -> list[list[int]]:
    """Cells of a shortest path past the doors now closed, agent's and goal's included; [] if none.

    boards: uint8 [n, rows, cols], whole ones.
    """
    still = replace(spec, p_change=0.0, view_radius=None, max_steps=spec.cells)
    mazes = MazeBatch(still, len(boards))
    mazes.load_boards(boards)
    agents = agent_cell(boards.flatten(1)).tolist()
    lengths = mazes.shortest_path()[0].tolist()
    paths = [[cell] if n >= 0 else [] for cell, n in zip(agents, lengths, strict=True)]
    for taken in range(max(lengths, default=0)):
        step = mazes.step(mazes.shortest_path()[1])
        agents = agent_cell(step.final_obs).tolist()
        for path, cell, length in zip(paths, agents, lengths, strict=True):
            if taken < length:
                path.append(cell)
    return paths
