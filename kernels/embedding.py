"""The model's input: every board's cells looked up in a table, behind one puzzle token.

    e[b, 0] = scale * (puzzle + position[0])
    e[b, t] = scale * (embed[tokens[b, t - 1]] + position[t])        t from 1

    tokens    [B, cells] uint8
    embed     [vocab, D]
    puzzle    [D]
    position  [T, D], T = 1 + cells, or None: no such term
    e         [B, T, D] in `dtype`, computed in the table's own

Source: HRM, arXiv 2506.21734 (scale sqrt(D), and sqrt(D / 2) with learned positions).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_reference(
    tokens: Tensor,
    embed: Tensor,
    puzzle: Tensor,
    position: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """In plain PyTorch; shapes in the file's head. IndexError: a token is beyond the vocabulary."""
    table = torch.cat((puzzle.unsqueeze(0), embed)) * scale  # row 0 is the puzzle
    e = F.embedding(F.pad(tokens.int() + 1, (1, 0)), table)
    if position is not None:
        e = e + position * scale
    return e.to(dtype)
