"""One implementation of each operation, chosen once by a model's shape."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from kernels.attention_block import attention_block_reference
from kernels.embedding import embedding_reference
from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.goal_loss import goal_loss_reference
from kernels.swiglu_block import swiglu_block_reference
from kernels.td_loss import td_loss_reference

LARGEST = {"tokens": 1024, "width": 512, "head size": 128}
LARGEST_SMALL = {"tokens": 256, "width": 128}  # a board fits on chip


class Ops(NamedTuple):
    """Signatures and formulas stand in the files of the same names."""

    embedding: Callable[..., Tensor]
    attention_block: Callable[..., Tensor]
    swiglu_block: Callable[..., Tensor]
    td_loss: Callable[..., Tensor]
    goal_loss: Callable[..., Tensor]
    epsilon_greedy: Callable[..., Tensor]
    update: Callable[..., None] | None  # kernels.triton.adam_atan2; None: no single op does it all


REFERENCE = Ops(
    embedding_reference,
    attention_block_reference,
    swiglu_block_reference,
    td_loss_reference,
    goal_loss_reference,
    epsilon_greedy_reference,
    None,
)


def triton_ops(tokens: int, width: int, heads: int) -> Ops:
    """The Triton kernels for a model of this shape.

    ValueError: the limit that the shape exceeds, or that Triton is not installed.
    """
    shape = {"tokens": tokens, "width": width, "head size": width // heads}
    for name, most in LARGEST.items():
        if shape[name] > most:
            raise ValueError(f"{name} is {shape[name]}: kernels 'triton' takes 1 to {most}")
    try:  # here and not above: without a GPU, Triton need not be installed
        from kernels.triton import attention_block, large, swiglu_block
        from kernels.triton.adam_atan2 import update
        from kernels.triton.embedding import embedding
        from kernels.triton.epsilon_greedy import epsilon_greedy
        from kernels.triton.goal_loss import goal_loss
        from kernels.triton.td_loss import td_loss
    except ImportError as error:
        raise ValueError(f"kernels is 'triton': expected the package triton ({error})") from None
    attention, swiglu = large.attention_block, large.swiglu_block
    if all(shape[name] <= most for name, most in LARGEST_SMALL.items()):
        attention, swiglu = attention_block.attention_block, swiglu_block.swiglu_block
    return Ops(embedding, attention, swiglu, td_loss, goal_loss, epsilon_greedy, update)
