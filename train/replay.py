"""Uniform replay: a ring of the last steps of all mazes, on the training device.

Row t of the ring holds step t of every maze, so n-step returns are read off consecutive rows when
sampling. Names carry time as in dqn_zoo: s_tm1, a_tm1 led to r_t, s_t.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import Carry
from train.config import DQNConfig
from train.hindsight import REACH, Goal, Steps, agent_cell, draw_goal, may_be_goal, with_goal


class Transition(NamedTuple):
    """One step of every maze, N rows; or, n steps folded into one, a sampled batch of B rows."""

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

    obs [N, cells] is an example of what will be added, seed [N, ...] the seed of a new episode.

    Raises:
        ValueError: the transitions do not fit into the device's free memory.
    """

    def __init__(self, config: DQNConfig, obs: Tensor, seed: Carry) -> None:
        self.rows = config.replay_size // len(obs)
        self.n_step, self.gamma = config.n_step, config.gamma
        self.filled = 0  # rows that hold a step
        self.head = 0  # row that the next step goes to
        number = torch.empty(len(obs), device=obs.device)
        step = Transition(obs, number.long(), number, number, number.bool(), obs, seed, seed)
        flat = _flatten(step)
        self._check_memory(flat)
        self.start_seed = {n: x[0] for n, x in flat.items() if n.startswith("seed")}
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

    def sample(
        self, batch_size: int, generator: torch.Generator, relabel: float = 0.0
    ) -> Transition:
        """Draw B steps uniformly (of those whose next n - 1 rows are there) and fold n of them.

        A share `relabel` of them gets another goal, see train/hindsight.py.

        r_t = r_1 + d_1 r_2 + d_1 d_2 r_3 ..., discount_t = d_1 d_2 ... d_n, stopping at an
        episode's end; s_t and seed_t are those of the last step that counted.
        """
        data = self.data
        starts = (self.filled - self.n_step + 1, data["r_t"].shape[1])
        age, maze = (
            torch.randint(high, (batch_size,), generator=generator, device=data["r_t"].device)
            for high in starts
        )
        window = self._rows(age, self.n_step)  # [B, n]
        first = window[:, 0]
        flat = {n: data[n][first, maze] for n in ("s_tm1", "a_tm1", "seed_H_tm1", "seed_L_tm1")}
        steps = Steps(*(data[n][window, maze[:, None]] for n in Steps._fields))  # [B, n] each
        goal = None
        if relabel > 0:
            goal = self._new_goal(flat["s_tm1"], age, maze, relabel, generator)
            agent = agent_cell(data["s_t"][window, maze[:, None]])  # [B, n]
            steps = with_goal(steps, goal, agent, self.gamma)
        flat["r_t"], flat["discount_t"], count = fold(steps)
        last = window.gather(1, count[:, None] - 1)[:, 0]
        flat |= {n: data[n][last, maze] for n in ("ends_t", "s_t", "seed_H_t", "seed_L_t")}
        if goal is not None:
            flat |= {n: draw_goal(flat[n], goal) for n in ("s_tm1", "s_t")}
            for name, start in self.start_seed.items():  # z has seen the old goal: think anew
                flat[name] = torch.where(
                    goal.chosen.view(-1, *[1] * start.dim()), start, flat[name]
                )
        return _unflatten(flat)

    def _rows(self, age: Tensor, n: int) -> Tensor:
        """Ring rows [B, n] of n consecutive steps, the first `age` [B] steps after the oldest."""
        ahead = torch.arange(n, device=age.device)
        return (self.head - self.filled + age[:, None] + ahead) % self.rows

    def _new_goal(
        self,
        s_tm1: Tensor,
        age: Tensor,
        maze: Tensor,
        relabel: float,
        generator: torch.Generator,
    ) -> Goal:
        """For a share of the rows: a cell reached up to REACH steps on in the same episode."""
        share, step = torch.rand(2, len(age), generator=generator, device=age.device)
        future = self._rows(age, REACH)
        until_end = 1 + (~self.data["ends_t"][future, maze[:, None]]).cumprod(1)[:, :-1].sum(1)
        steps = torch.minimum(until_end, self.filled - age)
        row = future.gather(1, (step * steps).long()[:, None])[:, 0]
        cell = agent_cell(self.data["s_t"][row, maze])
        return Goal(cell, (share < relabel) & may_be_goal(s_tm1, cell))

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


def fold(steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """n steps [B, n] into one: return r_t, discount_t, and how many counted (int64), [B] each."""
    r_t, discount_t, ends_t = steps
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
