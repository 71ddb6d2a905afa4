"""Watch an agent in a Gymnasium environment, in the terminal, as the environment draws itself."""

from collections.abc import Iterator
from contextlib import closing

from torch import Tensor

from envs import GymBatch, GymSpec
from hrm_fast import HRM, Carry
from train.episodes import greedily, walk


def scenes(
    hrm: HRM, spec: GymSpec, episodes: int, seed: int, segments: int | None = None
) -> Iterator[tuple[str, bool]]:
    """Greedy episodes step by step, and whether one ends there.

    ValueError: the environment does not draw itself as text.
    """
    modes = spec.render_modes
    if "ansi" not in modes:
        has = ", ".join(modes) or "none"
        raise ValueError(f"env is gym:{spec.id}: expected 'ansi' among its render modes ({has})")
    with closing(GymBatch(spec, 1, seed, render_mode="ansi")) as batch:
        obs = batch.reset()  # uint8 [1, cells]
        shown = ""

        def decide(obs: Tensor, z: Carry) -> tuple[Tensor, Carry]:
            nonlocal shown
            q, carry = hrm.decide(obs, z, segments)
            best = q[0].argmax()
            values = (f"{'>' if i == best else ''}{value:.3f}" for i, value in enumerate(q[0]))
            shown = f"{batch.text().rstrip()}\nQ  {'  '.join(values)}"
            return q, hrm.stored(carry)

        for episode in range(1, episodes + 1):
            total = 0.0
            for number, (_, step, _) in enumerate(walk(batch, greedily(hrm, 1, decide), obs)):
                yield f"episode {episode}  step {number}  return {total:.2f}\n{shown}", False
                obs, total = step.obs, total + step.reward.item()
            end = "ended" if step.terminated else "time limit"
            yield f"episode {episode}  step {number + 1}  return {total:.2f}  {end}", True
