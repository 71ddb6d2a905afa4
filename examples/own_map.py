"""Train the agent on a map of your own, evaluate it, and watch it walk.

python examples/own_map.py
"""

import argparse
from dataclasses import replace

import torch

from envs import MazeSpec
from train.config import PRESETS, fit_model_to_board
from train.evaluate import evaluate
from train.trainer import Trainer
from train.watch.terminal import moments, text_of

MAP = (
    "...|...",
    "...d...",
    "-d-|-d-",
    "...d...",
    "...|...",
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--updates", type=int, default=1_500)
args = parser.parse_args()
if args.updates < 1:
    parser.error(f"--updates is {args.updates}: expected 1 or more")

spec = MazeSpec(map=MAP, closed_doors=1, p_change=0.1, max_steps=40)
# tokens and walls of the model follow from the map
config = fit_model_to_board(replace(PRESETS["quick"], env=spec, updates=args.updates))
trainer = Trainer(config, torch.device("cpu"))
while trainer.update < config.updates:
    loss, _ = trainer.cycle()
    if trainer.update % 100 == 0:
        solved = evaluate(trainer.eval_model, spec, episodes=256, seed=1).success
        print(f"update {trainer.update}: loss {loss:.3f}, solves {solved:.1%} of unseen episodes")
for moment in moments(trainer.eval_model, spec, episodes=1, seed=7):
    print(text_of(moment, spec, colour=False), end="\n\n")
