"""Post-norm SwiGLU block: y = rms(x + down (silu(gate x) * up x)).

    x          [B, T, D]
    w_gate_up  [2 F, D]   rows: gate, then up; F is the inner width
    w_down     [D, F]
    y          [B, T, D]

No biases. Source: Shazeer 2020, arXiv 2002.05202.
"""

import torch
import torch.nn.functional as F

from kernels.rms_norm import rms_norm


def swiglu_block_reference(
    x: torch.Tensor, w_gate_up: torch.Tensor, w_down: torch.Tensor
) -> torch.Tensor:
    """The block in plain PyTorch; shapes in the file's head. All tensors share one dtype."""
    gate, up = F.linear(x, w_gate_up).chunk(2, dim=-1)
    return rms_norm(x + F.linear(F.silu(gate) * up, w_down))
