"""PPO (Schulman et al. 2017, arXiv 1707.06347) on a vector of mazes, in one loop.

python examples/ppo.py
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs import MazeBatch
from train.config import PRESETS, maze_of
from train.episodes import Batch
from train.evaluate import rollout

STEPS, EPOCHS, BATCH = 32, 4, 512  # of a rollout, over it, transitions in a batch
GAMMA, LAMBDA, CLIP, ENTROPY = 0.95, 0.95, 0.2, 0.01


class ActorCritic(nn.Module):
    """Boards uint8 [B, cells] -> logits [B, actions], values [B]."""

    def __init__(self, cells: int, actions: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, width)
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(cells * width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.actor, self.critic = nn.Linear(256, actions), nn.Linear(256, 1)

    def forward(self, boards: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(self.embed(boards.long()))
        return self.actor(x), self.critic(x)[:, 0]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=400, help="rollouts to learn from")
args = parser.parse_args()
if args.iterations < 1:
    parser.error(f"--iterations is {args.iterations}: expected 1 or more")
torch.manual_seed(0)
spec = maze_of(PRESETS["quick"])
mazes = MazeBatch(spec, num_envs=64, seed=0)
model = ActorCritic(spec.cells, spec.actions)
optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)


@torch.no_grad()
def greedy(_: Batch, boards: Tensor, __: Tensor) -> Tensor:
    return model(boards)[0].argmax(-1)


obs = mazes.reset()
for iteration in range(1, args.iterations + 1):
    boards, actions, log_probs, values, rewards, discounts, ends, bootstraps = (
        [] for _ in range(8)
    )
    for _ in range(STEPS):
        with torch.no_grad():
            logits, value = model(obs)
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        step = mazes.step(action)
        end = step.terminated | step.truncated
        with torch.no_grad():  # of the state before a reset: the time limit is no end of the world
            after = model(step.final_obs)[1] * ~step.terminated
        for kept, x in (
            (boards, obs), (actions, action), (log_probs, policy.log_prob(action)),
            (values, value), (rewards, step.reward), (ends, end), (bootstraps, after),
        ):  # fmt: skip
            kept.append(x)
        obs = step.obs

    advantages, advantage = [], torch.zeros(mazes.num_envs)
    for t in reversed(range(STEPS)):  # generalised advantage estimation
        delta = rewards[t] + GAMMA * bootstraps[t] - values[t]
        advantage = delta + GAMMA * LAMBDA * advantage * ~ends[t]
        advantages.insert(0, advantage)
    advantages_ = torch.cat(advantages)
    given = [torch.cat(x) for x in (boards, actions, log_probs, values)]
    board, action, log_prob, value = given
    returns = advantages_ + value
    for _ in range(EPOCHS):
        for part in torch.randperm(len(returns)).split(BATCH):
            logits, v = model(board[part])
            policy = torch.distributions.Categorical(logits=logits)
            ratio = (policy.log_prob(action[part]) - log_prob[part]).exp()
            a = advantages_[part]
            a = (a - a.mean()) / (a.std() + 1e-8)
            gain = torch.minimum(ratio * a, ratio.clamp(1 - CLIP, 1 + CLIP) * a).mean()
            loss = F.mse_loss(v, returns[part]) - gain - ENTROPY * policy.entropy().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimiser.step()
    if iteration % 20 == 0 or iteration == args.iterations:
        solved = rollout(spec, greedy, 256, seed=1, device=torch.device("cpu")).success
        steps = iteration * STEPS * mazes.num_envs
        print(f"{steps:,} transitions: solves {solved:.1%} of unseen episodes", flush=True)
