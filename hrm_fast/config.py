"""The shape of an HRM, as one frozen dataclass whose defaults are the published shape."""

import operator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

Positions = Literal["rope", "rope2d", "learned", "rope2d+learned"]
PositionStart = Literal["random", "sincos"]
QToken = Literal["last", "agent", "mean", "goal"]
CarryMode = Literal["reset", "carry", "full"]
Kernels = Literal["auto", "reference", "triton", "cuda", "cpu"]
DType = Literal["float32", "bfloat16"]

COUNTS = ("cells", "actions", "width", "heads", "h_layers", "l_layers", "h_cycles", "l_cycles")
LIMITS = {"cells": 2**20, "columns": 2**20, "width": 2**16, "inner": 2**18, "vocab": 2**20}
OPTIONAL_COUNTS = ("vocab", "inner", "columns")


@dataclass(frozen=True)
class HRMConfig:
    """The model's shape; every field is checked here, before any tensor is made."""

    cells: int = 143
    """Board cells; a learned puzzle token stands in front of their tokens."""
    actions: int = 4
    """Number of actions, one Q value each."""
    vocab: int | None = None
    """Rows of the embedding table (None: 127 + actions, the published rule)."""
    width: int = 64
    """Numbers per token, D."""
    heads: int = 2
    """Attention heads; they divide the width."""
    expansion: float = 4.0
    """SwiGLU expansion, from which the inner width follows where `inner` is None."""
    inner: int | None = None
    """SwiGLU inner width (None: expansion * width * 2/3, rounded up to a multiple of 256)."""
    h_layers: int = 4
    """Blocks of the high (slow) level."""
    l_layers: int = 4
    """Blocks of the low (fast) level."""
    h_cycles: int = 2
    """Calls of the high level per segment."""
    l_cycles: int = 2
    """Calls of the low level per call of the high level."""
    segments: int = 8
    """Segments per decision, S."""
    walls: tuple[int, ...] | None = None
    """Cells that are wall on every board and get no token. The trainer replaces () by env's walls;
    None gives every cell a token."""
    positions: Positions = "rope"
    """How tokens know their place: rotation by index or by row and column, or a learned vector."""
    position_start: PositionStart = "random"
    """Learned positions at first: random, or sines and cosines of row and column."""
    columns: int | None = None
    """Columns of the board; rope2d and sincos positions need them."""
    rope_base: float = 10000.0
    """Base of the rotation's frequencies; small boards want a small one."""
    q_token: QToken = "last"
    """Read the Q values from this token: the last, the agent's ('@'), the mean of all, or the
    goal's ('>'). With "goal" the model does not see the goal: one pass values every cell as it."""
    carry: CarryMode = "carry"
    """Hand to the next decision nothing (reset), the last token's z (carry), or all z (full)."""
    zero_head: bool = False
    """Start the Q head at zero, so that at first all actions are worth the same."""
    halting: bool = False
    """Adaptive computation time: a board's decision ends once its halt logit wins."""
    kernels: Kernels = "auto"
    """Compute the model with the fused engine (cpu), Triton, CUDA, plain PyTorch (reference), or
    the first of cpu, triton and reference that fits (auto)."""
    dtype: DType = "float32"
    """Arithmetic of the blocks; weights are kept in float32 either way."""

    def __post_init__(self) -> None:
        make_plain(self)
        for field in fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal and value not in choices:
                bad(field.name, value, " or ".join(map(repr, choices)))
        for name in (*COUNTS, "segments"):
            check_count(name, getattr(self, name))
        for name in OPTIONAL_COUNTS:
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("expansion", "rope_base"):
            check_positive(name, getattr(self, name))
        for name in ("zero_head", "halting"):
            if not isinstance(getattr(self, name), bool):
                bad(name, getattr(self, name), "True or False")
        self._check_shape()

    def _check_shape(self) -> None:
        if self.width % self.heads:
            bad("heads", self.heads, f"a divisor of width {self.width}")
        if self.positions == "rope" and self.head_size % 2:
            bad("heads", self.heads, f"width {self.width} / heads to be even for 'rope'")
        if "rope2d" in self.positions and self.head_size % 4:
            what = f"width {self.width} / heads to be a multiple of 4 for {self.positions!r}"
            bad("heads", self.heads, what)
        if self.position_start == "sincos" and self.width % 4:
            bad("width", self.width, "a multiple of 4 for 'sincos'")
        walls = () if self.walls is None else self.walls
        whole = isinstance(walls, tuple) and all(type(cell) is int for cell in walls)
        in_order = whole and walls == tuple(sorted({c for c in walls if 0 <= c < self.cells}))
        if not in_order or len(walls) == self.cells:
            bad("walls", walls, f"a tuple of some of the cells 0 to {self.cells - 1}, in order")
        by_place = "rope2d" in self.positions or self.position_start == "sincos"
        if by_place and (self.columns is None or self.cells % self.columns):
            bad("columns", self.columns, f"a divisor of cells {self.cells}")
        if not LEAST_BASE <= self.rope_base <= 1 / LEAST_BASE:
            bad("rope_base", self.rope_base, f"{LEAST_BASE:g} to {1 / LEAST_BASE:g}")
        widest = LIMITS["inner"]
        if self.inner is None and self.expansion * self.width > widest:
            bad(
                "expansion", self.expansion, f"at most {widest // self.width} at width {self.width}"
            )
        code = MARKS.get(self.q_token, -1)
        if self.vocab_size <= code:
            bad("vocab", self.vocab, f"more than {code}, the {self.q_token}'s code")
        if self.halting and self.q_token == "goal":
            bad("halting", self.halting, "False with q_token 'goal'")

    @property
    def seen(self) -> tuple[int, ...]:
        """The cells that have a token, in order."""
        walls = set(self.walls or ())
        return tuple(cell for cell in range(self.cells) if cell not in walls)

    @property
    def tokens(self) -> int:
        """T: the puzzle token and those of the cells."""
        return 1 + self.cells - len(self.walls or ())

    @property
    def head_size(self) -> int:
        """K: numbers per head."""
        return self.width // self.heads

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return 127 + self.actions if self.vocab is None else self.vocab

    @property
    def inner_width(self) -> int:
        """F: the SwiGLU's inner width."""
        if self.inner is not None:
            return self.inner
        return -(-max(1, round(self.expansion * self.width * 2 / 3)) // 256) * 256

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the model's `state_dict`, without making them."""
        D, F = self.width, self.inner_width
        block = {"qkv": (3 * D, D), "out": (D, D), "gate_up": (2 * F, D), "down": (D, F)}
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, D), "puzzle": (D,)}
        if "learned" in self.positions:
            shapes["position"] = (self.tokens, D)
        for level, layers in (("H", self.h_layers), ("L", self.l_layers)):
            shapes |= {f"{level}.{i}.{n}": s for i in range(layers) for n, s in block.items()}
        shapes |= {"q_head": (self.actions, D), "start_H": (D,), "start_L": (D,)}
        halting = {"halt_head.weight": (2, D), "halt_head.bias": (2,)} if self.halting else {}
        return shapes | halting


MARKS = {"agent": ord("@"), "goal": ord(">")}  # the tokens that Q may be read from
LEAST_BASE = 1e-6  # beyond it and its inverse, angles overflow or are all alike


def bad(name: str, value: Any, expected: str) -> None:
    """Raise the one-line ValueError that every bad field gets."""
    raise ValueError(f"{name} is {value!r}: expected {expected}")


def plain(value: Any) -> Any:
    """Convert a NumPy or torch scalar to a Python number, and what has `__index__` to an int.

    A bool stays a bool; anything else is returned as it is.
    """
    if getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return int(operator.index(value))
    except TypeError:  # NumPy's and torch's arrays of many
        return value


def make_plain(config: Any) -> None:
    """`plain` for all fields of a frozen dataclass."""
    for name, value in list(vars(config).items()):
        object.__setattr__(config, name, plain(value))


def check_count(name: str, value: Any) -> int:
    """`value` as an int; ValueError unless it is an integer of at least 1 and within limits."""
    value = plain(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        bad(name, value, "an integer of 1 or more")
    if value > LIMITS.get(name, 1_024):
        bad(name, value, f"an integer of 1 to {LIMITS.get(name, 1_024)}")
    return value


def check_positive(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        bad(name, value, "a finite number above 0")
