"""Uniform replay: a ring of the last steps of all mazes, on the training device.

Row t of the ring holds step t of every maze, so n-step returns are read off consecutive rows when
sampling. Names carry time as in dqn_zoo: s_tm1, a_tm1 led to r_t, s_t.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import Carry
from train.config import DQNConfig


class Transition(NamedTuple):
    """One step of every maze, N rows; or, n steps folded into one, a sampled batch of B rows.

    `ends_t` serves the fold; nothing reads it of a batch.
    """

    s_tm1: Tensor  # uint8 [N, cells]
    a_tm1: Tensor  # int64 [N]
    r_t: Tensor  # float32 [N]; in a batch the discounted sum of up to n rewards
    discount_t: Tensor  # float32 [N]; 0 where nothing follows; in a batch the product
    ends_t: Tensor  # bool [N]; the episode ended here, by goal or time limit
    s_t: Tensor  # uint8 [N, cells]; before any reset; in a batch the state n steps on
    seed_tm1: Carry  # z that the decision at s_tm1 started from
    seed_t: Carry  # z that the decision at s_t starts from


class Replay:
    """Keeps the last `config.replay_size` transitions of N mazes.

    obs [N, cells] and seed [N, ...] are examples of what will be added.

    Raises:
        ValueError: the transitions do not fit into the device's free memory.
    """

    def __init__(self, config: DQNConfig, obs: Tensor, seed: Carry) -> None:
        self.rows = config.replay_size // len(obs)
        self.n_step = config.n_step
        self.filled = 0  # rows that hold a step
        self.head = 0  # row that the next step goes to
        number = torch.empty(len(obs), device=obs.device)
        step = Transition(obs, number.long(), number, number, number.bool(), obs, seed, seed)
        flat = _flatten(step)
        self._check_memory(flat)
        self.data = {name: x.new_empty((self.rows, *x.shape)) for name, x in flat.items()}

    def _check_memory(self, flat: dict[str, Tensor]) -> None:
        device = flat["s_tm1"].device
        needed = self.rows * sum(x.numel() * x.element_size() for x in flat.values())
        free = _free_memory(device)
        if free is not None and needed > free:
            raise ValueError(
                f"dqn.replay-size is {self.rows * len(flat['r_t'])}: expected at most "
                f"{int(free / needed * self.rows) * len(flat['r_t'])}, as {device} has "
                f"{free / 2**30:.1f} GiB free and this asks for {needed / 2**30:.1f} GiB"
            )

    def __len__(self) -> int:
        return self.filled * self.data["r_t"].shape[1]

    def add(self, step: Transition) -> None:
        """Write one step of all mazes over the oldest row."""
        for name, x in _flatten(step).items():
            self.data[name][self.head].copy_(x)
        self.head = (self.head + 1) % self.rows
        self.filled = min(self.filled + 1, self.rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> Transition:
        """Draw B steps uniformly (of those whose next n - 1 rows are there) and fold n of them.

        r_t = r_1 + d_1 r_2 + d_1 d_2 r_3 ..., discount_t = d_1 d_2 ... d_n, stopping at an
        episode's end; s_t and seed_t are those of the last step that counted.
        """
        data = self.data
        starts = (self.filled - self.n_step + 1, data["r_t"].shape[1])
        age, maze = (
            torch.randint(high, (batch_size,), generator=generator, device=data["r_t"].device)
            for high in starts
        )
        ahead = torch.arange(self.n_step, device=age.device)
        window = (self.head - self.filled + age[:, None] + ahead) % self.rows  # ring rows [B, n]
        steps = (data[n][window, maze[:, None]] for n in ("r_t", "discount_t", "ends_t"))
        r_t, discount_t, count = fold(*steps)
        first, last = window[:, 0], window.gather(1, count[:, None] - 1)[:, 0]
        before = {n: data[n][first, maze] for n in ("s_tm1", "a_tm1", "seed_H_tm1", "seed_L_tm1")}
        after = {n: data[n][last, maze] for n in ("ends_t", "s_t", "seed_H_t", "seed_L_t")}
        return _unflatten({**before, **after, "r_t": r_t, "discount_t": discount_t})

    def state(self) -> dict[str, Tensor]:
        """The steps in use, oldest first, for a checkpoint: [rows, N, ...] each."""
        oldest = self.head if self.filled == self.rows else 0
        return {
            name: torch.cat((x[oldest : self.filled], x[:oldest])) for name, x in self.data.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. ValueError: it comes from a larger replay or other mazes."""
        filled = len(state["r_t"])
        for name, x in self.data.items():
            if state[name].shape != (filled, *x.shape[1:]) or filled > self.rows:
                raise ValueError(
                    f"replay.{name} is {list(state[name].shape)}: expected "
                    f"[up to {self.rows}, {', '.join(map(str, x.shape[1:]))}]"
                )
            x[:filled].copy_(state[name])
        self.head, self.filled = filled % self.rows, filled


def fold(r_t: Tensor, discount_t: Tensor, ends_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n steps [B, n] into one: return r_t, discount_t, and how many counted (int64), [B] each."""
    counts = torch.ones_like(ends_t)
    counts[:, 1:] = (~ends_t[:, :-1]).cumprod(1)
    before = torch.ones_like(discount_t)
    before[:, 1:] = discount_t[:, :-1].cumprod(1)
    product = discount_t.masked_fill(~counts, 1.0).prod(1)
    return (r_t * before * counts).sum(1), product, counts.sum(1)


def _flatten(step: Transition) -> dict[str, Tensor]:
    flat = {name: x for name, x in step._asdict().items() if isinstance(x, Tensor)}
    for time in ("tm1", "t"):
        carry: Carry = getattr(step, f"seed_{time}")
        flat[f"seed_H_{time}"], flat[f"seed_L_{time}"] = carry.z_H, carry.z_L
    return flat


def _unflatten(flat: dict[str, Tensor]) -> Transition:
    seeds = {t: Carry(flat.pop(f"seed_H_{t}"), flat.pop(f"seed_L_{t}")) for t in ("tm1", "t")}
    return Transition(**flat, seed_tm1=seeds["tm1"], seed_t=seeds["t"])


def _free_memory(device: torch.device) -> int | None:
    """Bytes free on the device, None where that cannot be asked."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            free = next(line for line in lines if line.startswith("MemAvailable"))
        return int(free.split()[1]) * 1024
    except (OSError, StopIteration):
        return None
