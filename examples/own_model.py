"""Deep Q-learning of all goals with a convolutional network instead of the HRM.

The mazes, the transitions' replay and the evaluation are the project's; the model, the loss and the
optimiser are this file's.

python examples/own_model.py
"""

import argparse
import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs import MazeBatch
from envs.spec import FLOOR, GOAL, START
from hrm_fast import Carry
from train.config import PRESETS, maze_of
from train.episodes import Batch
from train.evaluate import rollout
from train.replay import Replay, Transition, agent_cell


class ConvQ(nn.Module):
    """Boards uint8 [B, cells] -> Q of every cell as the goal, float32 [B, cells, actions]."""

    def __init__(self, rows: int, cols: int, actions: int, width: int = 48, depth: int = 8) -> None:
        super().__init__()
        self.shape = rows, cols
        self.embed = nn.Embedding(128, width)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.head = nn.Conv2d(width, actions, 1)

    def forward(self, boards: Tensor) -> Tensor:
        boards = boards.masked_fill((boards == GOAL) | (boards == START), FLOOR)
        x = self.embed(boards.long()).transpose(1, 2).unflatten(2, self.shape)
        for layer in self.layers:
            x = x + F.relu(layer(x))
        return self.head(x).flatten(2).transpose(1, 2).sigmoid()


def of_goal(q: Tensor, boards: Tensor) -> Tensor:
    """Q float32 [B, actions] of each board's own goal."""
    goal = (boards == GOAL).to(torch.uint8).argmax(1)
    return q[torch.arange(len(boards)), goal]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--updates", type=int, default=3_000)
args = parser.parse_args()
if args.updates < 1:
    parser.error(f"--updates is {args.updates}: expected 1 or more")
torch.manual_seed(0)
config = PRESETS["quick"]
spec, dqn = maze_of(config), replace(config.dqn, hindsight=20)
generator = torch.Generator().manual_seed(0)

mazes = MazeBatch(spec, dqn.num_mazes, seed=0)
obs = mazes.reset()
nothing = Carry(torch.zeros(len(obs), 0), torch.zeros(len(obs), 0))  # is carried by this model
replay = Replay(dqn, obs, nothing)
model = ConvQ(spec.rows, spec.cols, spec.actions)
target = copy.deepcopy(model)
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)


@torch.no_grad()
def greedy(_: Batch, boards: Tensor, __: Tensor) -> Tensor:
    return of_goal(target(boards), boards).argmax(-1)


for update in range(1, args.updates + 1):
    epsilon = max(dqn.epsilon_end, 1 - update / dqn.epsilon_updates)
    with torch.no_grad():
        best = of_goal(model(obs), obs).argmax(-1)
    at_random = torch.rand(len(obs), generator=generator) < epsilon
    drawn = torch.randint(spec.actions, (len(obs),), generator=generator)
    action = torch.where(at_random, drawn, best)
    step = mazes.step(action)
    ends = step.terminated | step.truncated
    discount = torch.full_like(step.reward, dqn.gamma).masked_fill(step.terminated, 0.0)
    given = action, step.reward, discount, ends, step.final_obs, nothing, nothing
    replay.add(Transition(obs, *given))
    obs = step.obs
    if len(replay) < dqn.learning_starts:
        continue

    batch = replay.sample(dqn.batch_size, generator)
    with torch.no_grad():
        y = dqn.gamma * target(batch.s_t).amax(-1)  # [B, cells], as if each cell were the goal
        assert batch.reached is not None
        y = torch.maximum(y, batch.reached).scatter(1, agent_cell(batch.s_t)[:, None], 1.0)
    q = model(batch.s_tm1)[torch.arange(len(y)), :, batch.a_tm1]
    floor = (batch.s_tm1 == FLOOR) | (batch.s_tm1 == GOAL) | (batch.s_tm1 == START)
    loss = F.binary_cross_entropy(q, y, weight=floor.float(), reduction="sum") / floor.sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        for mine, new in zip(target.parameters(), model.parameters(), strict=True):
            mine.lerp_(new, 1 - dqn.target_decay)
    if update % 250 == 0 or update == args.updates:
        solved = rollout(spec, greedy, 256, seed=1, device=torch.device("cpu")).success
        print(
            f"update {update}: loss {loss:.3f}, solves {solved:.1%} of unseen episodes", flush=True
        )
