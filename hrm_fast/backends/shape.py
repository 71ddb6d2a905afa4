"""What every back end is given (parameters, a start, a loss, sizes) and what it found."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from hrm_fast.config import HRMConfig

Keep = Literal["states", "last", "none"]  # of the new z: every token's, the last one's, nothing

# tokens uint8 [B, T - 1], as the model sees them; z_H and z_L [B, T, D]; read int32 [B]: the token
# that Q is read from (None: the mean of all)
Start = tuple[Tensor, Tensor, Tensor, Tensor | None]

Parameters = Sequence[Tensor]  # of `HRM.in_order`
Found = tuple[Tensor, Tensor, Tensor]  # q float32 [B, A] before its activation; the new z_H and z_L


class TD(NamedTuple):
    """What a loss holds against the values of the actions a_tm1, int64 [B].

    target float32 [B]: `kernels.td_loss`; with weight, [B, T - 1] each: `kernels.goal_loss`.
    """

    a_tm1: Tensor
    target: Tensor
    weight: Tensor | None = None


class Shape(NamedTuple):
    """The numbers that decide a model's shape; `cells` are those that have a token."""

    cells: int
    width: int
    heads: int
    inner: int
    actions: int
    vocab: int
    h_layers: int
    l_layers: int
    h_cycles: int
    l_cycles: int
    learned: bool

    def parameters(self) -> list[tuple[int, ...]]:
        """Shapes of the parameters, in the order of `HRM.in_order`."""
        D, F = self.width, self.inner
        blocks = [(3 * D, D), (D, D), (2 * F, D), (D, F)] * (self.l_layers + self.h_layers)
        position = [(self.cells + 1, D)] if self.learned else []
        return [(self.vocab, D), *position, (D,), *blocks, (self.actions, D)]


def shape_of(config: HRMConfig) -> Shape:
    return Shape(
        config.tokens - 1, config.width, config.heads, config.inner_width, config.actions,
        config.vocab_size, config.h_layers, config.l_layers, config.h_cycles, config.l_cycles,
        "learned" in config.positions,
    )  # fmt: skip
