"""A trained agent as a folder for a model hub: `python -m train.card runs/maze-0 --out FOLDER`.

It holds the weights (model.safetensors, with the config in its metadata), config.json and a model
card (README.md) whose figures are measured here. `train.evaluate FOLDER` and
`hrm_fast.load(FOLDER)` read it.
"""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import tyro

from envs import GymSpec, MazeSpec
from envs.spec import NAMED_MAPS
from train import cli
from train.config import SEED_LIMIT, Config, require, to_json
from train.episodes import shortest_path_walker
from train.evaluate import Result, evaluate, rollout
from train.files import agents
from train.files.checkpoint import load, save
from train.files.names import CONFIG, SHARED
from train.files.writing import check_outputs, write_text
from train.machine.device import choose_device

CARD = "README.md"
TEXT = """---
library_name: hrm_fast
license: apache-2.0
pipeline_tag: reinforcement-learning
tags: [reinforcement-learning, deep-q-learning, hierarchical-reasoning-model]
model-index:
- name: {name}
  results:
  - task: {{type: reinforcement-learning}}
    dataset: {{name: {board_quoted}, type: {kind}}}
    metrics: [{{type: success_rate, value: {success:.4f}}}]
---

# HRM-Agent: {board}

A Hierarchical Reasoning Model (arXiv:2506.21734) trained by deep Q-learning alone, as an HRM-Agent
(arXiv:2510.22832), with hrm_fast.

| walker | success on {episodes} unseen episodes | 95 % interval | mean length |
| --- | --- | --- | --- |
{rows}

These are the episodes of seed {seed}, which training never saw. The agent takes its best action.

| | |
| --- | --- |
| board | {board} |
| preset, seed | `{preset}`, {config_seed}: one run |
| method | {method} |
| updates | at most {updates:,}, of {batch} transitions each |
| model | {parameters:,} parameters: {shape} |

`config.json` holds every setting of the run.

    python -m train.evaluate FOLDER --episodes {episodes} --seed {seed}    # the first table
    python -m train.watch FOLDER

FOLDER is where these files lie. In Python, `hrm_fast.load(FOLDER)` gives the model.
"""


def program(
    checkpoint: tyro.conf.Positional[str],
    out: Path,
    episodes: int = 2048,
    seed: int = 1,
    device: str = "cpu",
) -> None:
    """Write a folder with weights, config and model card, ready for a model hub.

    Args:
        checkpoint: A checkpoint file, a run's folder (its best one) or a trained preset's name.
        out: Make this folder; it is not there yet, or empty.
        episodes: Measure the success on so many episodes, each in a maze of its own.
        seed: Draw the unseen mazes from this seed (training chose its best checkpoint on 0).
        device: Run the model there: auto, cpu, cuda, cuda:1 ...
    """
    require("episodes", episodes, episodes >= 1, "1 or more")
    require("seed", seed, 0 <= seed < SEED_LIMIT, f"0 to {SEED_LIMIT - 1}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"out is {out}: expected a folder that is empty or not there")
    path = agents.find(checkpoint)
    config, hrm = load(path, choose_device(device))
    check_outputs(path, card=out / CARD)
    results = {"this agent": evaluate(hrm, config.env, episodes, seed)}
    if isinstance(config.env, MazeSpec):
        planned = rollout(config.env, shortest_path_walker, episodes, seed, hrm.puzzle.device)
        results["shortest path, re-planned"] = planned
    # where the run lay says nothing about the agent, and may be private
    config = replace(config, run_dir=None, resume=None)
    save(out / SHARED, hrm, config)
    write_text(out / CONFIG, to_json(config))
    write_text(out / CARD, card(out.resolve().name, config, results, seed))
    print(f"{out}: {results['this agent'].success:.1%} of {episodes} episodes solved")
    words = ("hf", "upload", f"USER/{out.resolve().name}", str(out))
    print(f"upload it with huggingface_hub: {shlex.join(words)}")


def card(name: str, config: Config, results: dict[str, Result], seed: int) -> str:
    """The model card of an agent called `name`; `results` of walkers on the episodes of `seed`."""
    env, hrm, dqn = config.env, config.hrm, config.dqn
    if isinstance(env, GymSpec):
        kind, board = env.id, env.summary
    else:
        kind = env.map if env.map in NAMED_MAPS else "drawn-maze"
        board = f"{kind.replace('-', ' ')}, {env.rows} x {env.cols}, at most {env.step_limit} steps"
    rows = (
        f"| {walker} | {r.success:.1%} | {r.success_low:.1%} to {r.success_high:.1%} "
        f"| {r.mean_length:.1f} |"
        for walker, r in results.items()
    )
    method = "all goals at once" if hrm.q_token == "goal" else f"{dqn.n_step}-step returns"
    agent = results["this agent"]
    return TEXT.format(
        name=json.dumps(name),
        board=board,
        board_quoted=json.dumps(board),
        kind=kind,
        success=agent.success,
        episodes=agent.episodes,
        rows="\n".join(rows),
        seed=seed,
        preset=config.preset,
        config_seed=config.seed,
        method=f"Q-learning, {method}, gamma {dqn.gamma}, z between decisions: {hrm.carry}",
        updates=config.updates,
        batch=dqn.batch_size,
        parameters=sum(math.prod(shape) for shape in hrm.shapes().values()),
        shape=f"width {hrm.width}, {hrm.h_layers} + {hrm.l_layers} blocks, "
        f"cycles {hrm.h_cycles} x {hrm.l_cycles}, segments a decision: {hrm.segments}",
    )


if __name__ == "__main__":
    cli.main(lambda: cli.parse(program))
