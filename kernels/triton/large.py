"""Both blocks for models whose weights no program can hold on chip, as their references.

The products with the weights are cuBLAS's; what stands between them is one kernel each: attention
with rope, the gate, and the sum with its norm. For T in the hundreds, D up to 512, K up to 128.
"""

import torch.nn.functional as F
from torch import Tensor

from kernels.attention_block import Rope
from kernels.triton.add_rms import add_rms
from kernels.triton.attention import attention
from kernels.triton.swiglu import swiglu


def attention_block(
    z: Tensor,
    w_qkv: Tensor,
    w_o: Tensor,
    heads: int,
    rope: Rope | None = None,
    rows: Tensor | None = None,
    injection: Tensor | None = None,
) -> Tensor:
    """As `attention_block.attention_block_reference`, K up to 128, an even one with rope.

    rows int64 [B, R] spare the output's product and norm the tokens that are not wanted.
    """
    x = z if injection is None else z + injection
    o = attention(F.linear(x, w_qkv), heads, rope)
    if rows is not None:
        index = rows.unsqueeze(2).expand(-1, -1, x.shape[2])
        x, o = x.gather(1, index), o.gather(1, index)
    return add_rms(x, F.linear(o, w_o))


def swiglu_block(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """As `swiglu_block.swiglu_block_reference`."""
    return add_rms(x, F.linear(swiglu(F.linear(x, w_gate_up)), w_down))
