"""Replay: a ring of the last steps of all mazes, on the training device.

Row t of the ring holds step t of every maze, so n-step returns are read off consecutive rows when
sampling. Names carry time as in dqn_zoo: s_tm1, a_tm1 led to r_t, s_t. Neither `add` nor `sample`
waits for the device or depends on a number that only the host knows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.spec import AGENT
from hrm_fast import Carry
from train.config import DQNConfig
from train.machine import memory


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
    z_tm1: Carry  # z that the decision at s_tm1 started from
    z_t: Carry  # z that the decision at s_t starts from
    reached: Tensor | None = None  # of a batch, where the config asks for it: see `Replay.reached`


class Replay:
    """Keeps the last `DQNConfig.replay_size` transitions of N mazes.

    obs [N, cells] and z [N, ...] are examples of what will be added.

    Raises:
        ValueError: the transitions do not fit into the device's free memory.
    """

    def __init__(self, config: DQNConfig, obs: Tensor, z: Carry) -> None:
        self.rows = config.replay_size // len(obs)
        self.config = config
        self.filled = torch.zeros(1, dtype=torch.int64, device=obs.device)  # rows that hold a step
        self.head = torch.zeros_like(self.filled)  # row that the next step goes to
        number = torch.empty(len(obs), dtype=torch.float32, device=obs.device)
        step = Transition(obs, number.long(), number, number, number.bool(), obs, z, z)
        flat = tensors_of(step)
        self._check_memory(flat)
        self.data = {name: x.new_empty((self.rows, *x.shape)) for name, x in flat.items()}

    def _check_memory(self, flat: dict[str, Tensor]) -> None:
        device = flat["s_tm1"].device
        needed = self.rows * sum(x.numel() * x.element_size() for x in flat.values())
        free = memory.free(device)
        if free is not None and needed > free:
            raise ValueError(
                f"dqn.replay-size is {self.rows * len(flat['r_t'])}: expected at most "
                f"{int(free / needed * self.rows) * len(flat['r_t'])}, as {device} has "
                f"{free / 2**30:.1f} GiB free and this asks for {needed / 2**30:.1f} GiB"
            )

    def __len__(self) -> int:
        return int(self.filled) * self.data["r_t"].shape[1]

    def add(self, step: Transition) -> None:
        """Write one step of all mazes over the oldest row."""
        for name, x in tensors_of(step).items():
            self.data[name].index_copy_(0, self.head, x[None])
        self.head.add_(1).remainder_(self.rows)
        self.filled.add_(1).clamp_(max=self.rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> Transition:
        """Draw B steps uniformly (of those whose next n - 1 rows are there) and fold n of them.

        r_t = r_1 + d_1 r_2 + d_1 d_2 r_3 ..., discount_t = d_1 d_2 ... d_n, stopping at an
        episode's end; s_t and z_t are those of the last step that counted.
        """
        data, n = self.data, self.config.n_step
        device, mazes = self.filled.device, data["r_t"].shape[1]
        starts = (self.filled - n + 1) * mazes
        place = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)
        drawn = (place * starts).long()
        age, maze = drawn // mazes, drawn % mazes  # steps since the oldest row
        window = self._window(age, n)  # [B, n]
        steps = (data[name][window, maze[:, None]] for name in ("r_t", "discount_t", "ends_t"))
        r_t, discount_t, count = fold(*steps)
        first, last = window[:, 0], window.gather(1, count[:, None] - 1)[:, 0]
        return Transition(
            s_tm1=data["s_tm1"][first, maze],
            a_tm1=data["a_tm1"][first, maze],
            r_t=r_t,
            discount_t=discount_t,
            ends_t=data["ends_t"][last, maze],
            s_t=data["s_t"][last, maze],
            z_tm1=self._stored("tm1", first, maze),
            z_t=self._stored("t", last, maze),
            reached=self.reached(age, maze) if self.config.hindsight > 0 else None,
        )

    def reached(self, age: Tensor, maze: Tensor) -> Tensor:
        """Lower bounds of every cell's value as the goal, from the walk that followed.

        float32 [B, cells]: gamma^(k - 1) where the agent stood k steps later in the same episode,
        k up to `hindsight`; 0 elsewhere. age (steps since the oldest row) and maze, int64 [B], name
        the transitions.
        """
        most, data = self.config.hindsight, self.data
        window = self._window(age, most)  # [B, k]
        goes_on = ~data["ends_t"][window[:, :-1], maze[:, None]]
        steps = torch.minimum(1 + goes_on.cumprod(1).sum(1), self.filled - age)
        k = torch.arange(most, dtype=torch.int64, device=age.device)
        worth = self.config.gamma ** k.float() * (k < steps[:, None])  # [B, k]
        cell = agent_cell(data["s_t"][window, maze[:, None]])
        size = len(age), data["s_t"].shape[-1]
        bound = torch.zeros(size, dtype=torch.float32, device=age.device)
        return bound.scatter_reduce(1, cell, worth, "amax")

    def _window(self, age: Tensor, count: int) -> Tensor:
        """Ring rows [B, count] of the consecutive steps that begin at age [B]."""
        steps = torch.arange(count, dtype=torch.int64, device=age.device)
        return (self.head - self.filled + age[:, None] + steps) % self.rows

    def _stored(self, time: str, row: Tensor, maze: Tensor) -> Carry:
        H, L = (self.data[f"seed_{level}_{time}"][row, maze] for level in "HL")
        return Carry(H, L)

    def cut(self) -> None:
        """Nothing follows the newest steps: what is added next belongs to other episodes."""
        self.data["ends_t"][self.head - 1] = True

    def state(self) -> dict[str, Tensor]:
        """The steps in use, oldest first, for a checkpoint: [rows, N, ...] each."""
        filled = int(self.filled)
        oldest = int(self.head) if filled == self.rows else 0
        return {name: torch.cat((x[oldest:filled], x[:oldest])) for name, x in self.data.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. ValueError: it comes from a fuller replay or other mazes."""
        filled, mazes = len(state["r_t"]), self.data["r_t"].shape[1]
        if filled > self.rows:
            raise ValueError(
                f"dqn.replay-size is {self.config.replay_size}: expected {filled * mazes} or more, "
                "what the run has collected"
            )
        for name, x in self.data.items():
            if state[name].shape != (filled, *x.shape[1:]):
                raise ValueError(
                    f"replay.{name} is {list(state[name].shape)}: expected {[filled, *x.shape[1:]]}"
                )
            x[:filled].copy_(state[name])
        self.head.fill_(filled % self.rows)
        self.filled.fill_(filled)


def fold(r_t: Tensor, discount_t: Tensor, ends_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n steps [B, n] into one: return r_t, discount_t, and how many counted (int64), [B] each."""
    counts = torch.ones_like(ends_t)
    counts[:, 1:] = (~ends_t[:, :-1]).cumprod(1)
    before = torch.ones_like(discount_t)
    before[:, 1:] = discount_t[:, :-1].cumprod(1)
    product = discount_t.masked_fill(~counts, 1.0).prod(1)
    return (r_t * before * counts).sum(1), product, counts.sum(1)


def select(mask: Tensor, yes: Carry, no: Carry) -> Carry:
    """The states `yes` where mask [B] is true, else `no`; [B, ...] each."""
    shape = (-1,) + (1,) * (no.z_H.dim() - 1)
    return Carry(*(torch.where(mask.view(shape), y, n) for y, n in zip(yes, no, strict=True)))


def agent_cell(boards: Tensor) -> Tensor:
    """Index of '@' in boards uint8 [..., cells] -> int64 [...]."""
    return (boards == AGENT).to(torch.uint8).argmax(-1)


def tensors_of(step: Transition) -> dict[str, Tensor]:
    """Its tensors by name, those of the stored z too; those that it has."""
    flat = {name: x for name, x in step._asdict().items() if isinstance(x, Tensor)}
    for time in ("tm1", "t"):  # "seed" is the name of z in saved states, so that earlier ones load
        carry: Carry = getattr(step, f"z_{time}")
        flat[f"seed_H_{time}"], flat[f"seed_L_{time}"] = carry.z_H, carry.z_L
    return flat
