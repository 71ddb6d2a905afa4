"""Replay: a ring of the last steps of all mazes, on the training device.

Row t of the ring holds step t of every maze, so n-step returns are read off consecutive rows when
sampling. Names carry time as in dqn_zoo: s_tm1, a_tm1 led to r_t, s_t. Nothing between `add` and
`prioritise` waits for the device or depends on a number that only the host knows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import Carry
from train import distributed
from train.config import DQNConfig
from train.hindsight import Goal, Relabel, Steps, agent_cell, draw_goal, may_be_goal, with_goal

SMALLEST_ERROR = 1e-3  # a transition without TD error is drawn as if it had this one


class Walk(NamedTuple):
    """The decisions from k before a batch's transitions to where their n steps end, L = k + n."""

    boards: Tensor  # uint8 [L, B, cells]; what each decision saw
    counts: Tensor  # bool [L, B]; it is one of the same episode, and not beyond s_t
    seed: Carry  # z that the first one that counts started from


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
    # of a batch, where the config asks for them:
    weight: Tensor | None = None  # float32 [B]; share in the loss, 1 for the largest
    slot: Tensor | None = None  # int64 [B]; where its priority is kept, -1 under another goal,
    # whose error is not the stored transition's
    walk: Walk | None = None  # for `refresh`


class Replay:
    """Keeps the last `config.replay_size` transitions of N mazes.

    obs [N, cells] and seed [N, ...] are examples of what will be added.

    Raises:
        ValueError: the transitions do not fit into the device's free memory.
    """

    def __init__(self, config: DQNConfig, obs: Tensor, seed: Carry) -> None:
        self.rows = config.replay_size // len(obs)
        self.config = config
        self.filled = torch.zeros(1, dtype=torch.int64, device=obs.device)  # rows that hold a step
        self.head = torch.zeros_like(self.filled)  # row that the next step goes to
        number = torch.empty(len(obs), dtype=torch.float32, device=obs.device)
        step = Transition(obs, number.long(), number, number, number.bool(), obs, seed, seed)
        flat = tensors_of(step)
        self._check_memory(flat)
        self.data = {name: x.new_empty((self.rows, *x.shape)) for name, x in flat.items()}
        if config.priority > 0:
            self.priority = number.new_zeros(self.rows * len(obs) + 1)  # [-1]: nobody's
            self.data["priority"] = self.priority[:-1].view(self.rows, len(obs))

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
        return int(self.filled) * self.data["r_t"].shape[1]

    def add(self, step: Transition) -> None:
        """Write one step of all mazes over the oldest row, with the largest priority there is."""
        new = tensors_of(step)
        if self.config.priority > 0:
            largest = distributed.largest(self.data["priority"].max())
            new["priority"] = torch.where(largest > 0, largest, 1.0).expand(len(step.r_t))
        for name, x in new.items():
            self.data[name].index_copy_(0, self.head, x[None])
        self.head.add_(1).remainder_(self.rows)
        self.filled.add_(1).clamp_(max=self.rows)

    def sample(
        self, batch_size: int, generator: torch.Generator, relabel: Relabel | None = None
    ) -> Transition:
        """Draw B steps (of those whose next n - 1 rows are there) and fold n of them.

        r_t = r_1 + d_1 r_2 + d_1 d_2 r_3 ..., discount_t = d_1 d_2 ... d_n, stopping at an
        episode's end; s_t and seed_t are those of the last step that counted.
        """
        data = self.data
        draw = self._draw_by_priority if self.config.priority > 0 else self._draw
        age, maze, weight = draw(batch_size, generator)
        window = self._window(age, 0, self.config.n_step)  # [B, n]
        steps = Steps(*(data[n][window, maze[:, None]] for n in Steps._fields))
        if relabel is not None:
            goal = self._later_goal(age, maze, relabel.share, generator)
            led_to = agent_cell(data["s_t"][window, maze[:, None]])  # [B, n]
            steps = with_goal(steps, goal, led_to, self.config.gamma)
        r_t, discount_t, count = fold(*steps)
        first, last = window[:, 0], window.gather(1, count[:, None] - 1)[:, 0]
        batch = Transition(
            s_tm1=data["s_tm1"][first, maze],
            a_tm1=data["a_tm1"][first, maze],
            r_t=r_t,
            discount_t=discount_t,
            ends_t=data["ends_t"][last, maze],
            s_t=data["s_t"][last, maze],
            seed_tm1=self._seed("tm1", first, maze),
            seed_t=self._seed("t", last, maze),
        )
        if weight is not None:
            batch = batch._replace(weight=weight, slot=first * data["r_t"].shape[1] + maze)
        if self.config.refresh > 0:
            batch = batch._replace(walk=self._walk(age, maze, count))
        return batch if relabel is None else _redrawn(batch, goal, relabel.start)

    def _draw(
        self, batch_size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Uniformly: steps since the oldest row, and mazes, int64 [B] each; no weights."""
        device, mazes = self.filled.device, self.data["r_t"].shape[1]
        starts = (self.filled - self.config.n_step + 1) * mazes
        place = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)
        drawn = (place * starts).long()
        return drawn // mazes, drawn % mazes, None

    def _draw_by_priority(
        self, batch_size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_draw`, proportionally to the priorities, and loss weights float32 [B].

        Source: prioritised experience replay, Schaul et al. 2016, arXiv 1511.05952.
        """
        config, priority = self.config, self.data["priority"]
        age = torch.arange(self.rows, dtype=torch.int64, device=priority.device)
        row = (self.head - self.filled + age) % self.rows  # oldest first
        counts = age <= self.filled - config.n_step
        of_row = priority.sum(1, dtype=torch.float64)[row] * counts
        sums = of_row.cumsum(0)
        place = torch.rand(batch_size, generator=generator, device=sums.device, dtype=sums.dtype)
        place *= sums[-1]
        drawn = torch.searchsorted(sums, place, right=True)
        drawn = torch.minimum(drawn, self.filled - config.n_step)  # NaN would be beyond
        place -= sums[drawn] - of_row[drawn]
        mazes = priority[row[drawn]]  # [B, N]
        passed = mazes.cumsum(1, dtype=torch.float64) <= place[:, None]
        maze = passed.sum(1).clamp(max=mazes.shape[1] - 1)
        weight = mazes.gather(1, maze[:, None])[:, 0] ** -config.priority_correction
        return drawn, maze, weight / distributed.largest(weight.max())

    def prioritise(self, batch: Transition, q: Tensor, y: Tensor) -> None:
        """Priorities of a batch's transitions from q [B, A] and target [B]: |TD error|^priority."""
        if batch.slot is None:
            return
        error = (q.gather(1, batch.a_tm1[:, None])[:, 0] - y).abs() + SMALLEST_ERROR
        self.priority[batch.slot] = error**self.config.priority

    def _window(self, age: Tensor, begin: int, end: int) -> Tensor:
        """Ring rows [B, end - begin] of consecutive steps around age [B], which is step 0."""
        steps = torch.arange(begin, end, dtype=torch.int64, device=age.device)
        return (self.head - self.filled + age[:, None] + steps) % self.rows

    def _seed(self, time: str, row: Tensor, maze: Tensor) -> Carry:
        H, L = (self.data[f"seed_{level}_{time}"][row, maze] for level in "HL")
        return Carry(H, L)

    def _later_goal(
        self, age: Tensor, maze: Tensor, share: float | Tensor, generator: torch.Generator
    ) -> Goal:
        """For a share of the rows: a cell reached up to `relabel_reach` steps on in the episode."""
        drawn = torch.rand(2, len(age), generator=generator, dtype=torch.float32, device=age.device)
        chance, place = drawn
        future = self._window(age, 0, self.config.relabel_reach)  # [B, reach]
        goes_on = ~self.data["ends_t"][future[:, :-1], maze[:, None]]
        steps = torch.minimum(1 + goes_on.cumprod(1).sum(1), self.filled - age)
        row = future.gather(1, (place * steps).long()[:, None])[:, 0]
        cell = agent_cell(self.data["s_t"][row, maze])
        now = self.data["s_tm1"][future[:, 0], maze]
        return Goal(cell, (chance < share) & may_be_goal(now, cell))

    def _walk(self, age: Tensor, maze: Tensor, count: Tensor) -> Walk:
        """The decisions around steps that fold `count` [B] steps each."""
        k, n, data = self.config.refresh, self.config.n_step, self.data
        rows = self._window(age, -k, n)  # [B, k + n]
        goes_on = ~data["ends_t"][rows[:, :k], maze[:, None]]
        back = torch.arange(k, 0, -1, dtype=torch.int64, device=age.device)
        is_kept = age[:, None] >= back
        past = (goes_on & is_kept).flip(1).cumprod(1).flip(1)  # [B, k]
        ahead = torch.arange(n, dtype=torch.int64, device=age.device) < count[:, None]
        first = rows.gather(1, k - past.sum(1, keepdim=True))  # [B, 1]
        counts = torch.cat((past > 0, ahead), 1)
        rows = torch.where(counts, rows, first).T.contiguous()  # others may not hold a step yet
        return Walk(data["s_tm1"][rows, maze], counts.T, self._seed("tm1", first[:, 0], maze))

    def cut(self) -> None:
        """Nothing follows the newest steps: what is added next belongs to other episodes."""
        self.data["ends_t"][self.head - 1] = True

    def state(self) -> dict[str, Tensor]:
        """The steps in use, oldest first, for a checkpoint: [rows, N, ...] each."""
        filled = int(self.filled)
        oldest = int(self.head) if filled == self.rows else 0
        return {name: torch.cat((x[oldest:filled], x[:oldest])) for name, x in self.data.items()}

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
        if self.config.priority > 0:  # of which `add` takes the largest
            self.data["priority"][filled:] = 0
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
    """The seeds `yes` where mask [B] is true, else `no`; [B, ...] each."""
    shape = (-1,) + (1,) * (no.z_H.dim() - 1)
    return Carry(*(torch.where(mask.view(shape), y, n) for y, n in zip(yes, no, strict=True)))


def _redrawn(batch: Transition, goal: Goal, start: Carry) -> Transition:
    """The batch with the chosen rows' boards redrawn and their z at the start."""
    batch = batch._replace(
        s_tm1=draw_goal(batch.s_tm1, goal),
        s_t=draw_goal(batch.s_t, goal),
        seed_tm1=select(goal.chosen, start, batch.seed_tm1),
        seed_t=select(goal.chosen, start, batch.seed_t),
    )
    if batch.slot is not None:
        batch = batch._replace(slot=batch.slot.masked_fill(goal.chosen, -1))
    if batch.walk is not None:
        boards = draw_goal(batch.walk.boards, goal)
        walk = Walk(boards, batch.walk.counts, select(goal.chosen, start, batch.walk.seed))
        batch = batch._replace(walk=walk)
    return batch


def tensors_of(step: Transition) -> dict[str, Tensor]:
    """Its tensors by name, those of the seeds too; without a batch's walk."""
    flat = {name: x for name, x in step._asdict().items() if isinstance(x, Tensor)}
    for time in ("tm1", "t"):
        carry: Carry = getattr(step, f"seed_{time}")
        flat[f"seed_H_{time}"], flat[f"seed_L_{time}"] = carry.z_H, carry.z_L
    return flat


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
