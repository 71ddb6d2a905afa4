"""Watch an agent in a Gymnasium environment, in the terminal, as the environment draws itself."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing

from envs import GymBatch, GymSpec
from hrm_fast import HRM


def scenes(
    hrm: HRM, spec: GymSpec, episodes: int, seed: int, segments: int | None = None
) -> Iterator[str]:
    """Greedy episodes step by step. ValueError: the environment does not draw itself as text."""
    modes = spec.render_modes
    if "ansi" not in modes:
        has = ", ".join(modes) or "none"
        raise ValueError(f"env is gym:{spec.id}: expected 'ansi' among its render modes ({has})")
    with closing(GymBatch(spec, 1, seed, render_mode="ansi")) as batch:
        obs = batch.reset()  # uint8 [1, cells]
        for episode in range(1, episodes + 1):
            z, total, end, step = hrm.start_seed(1), 0.0, "", 0
            while not end:
                q, carry = hrm.decide(obs, z, segments)
                values = "  ".join(
                    f"{'>' if i == q[0].argmax() else ''}{value:.3f}"
                    for i, value in enumerate(q[0])
                )
                head = f"episode {episode}  step {step}  return {total:.2f}"
                yield f"{head}\n{batch.text().rstrip()}\nQ  {values}"
                z, result = hrm.seed(carry), batch.step(q.argmax(-1))
                obs, total, step = result.obs, total + result.reward.item(), step + 1
                end = "ended" if result.terminated else "time limit" if result.truncated else ""
            yield f"episode {episode}  step {step}  return {total:.2f}  {end}"


def show(played: Iterator[str], delay: float) -> None:
    """Play in the terminal, in place; where stdout is none, as plain text without waiting."""
    terminal = sys.stdout.isatty()
    for text in played:
        clear = "\x1b[2J\x1b[H" if terminal else ""
        print(f"{clear}{text}\n", flush=True)
        if terminal:
            time.sleep(delay * (1 if "Q  " in text else 4))
