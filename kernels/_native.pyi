"""The compiled engine (csrc/hrm). It takes addresses, as ints, of contiguous CPU tensors, and
trusts them: `kernels.cpu` and `kernels.adam_atan2` check dtype and shape. 0 means none where said.
B is `size`, T is cells + 1, D is width, A is actions.
"""

from collections.abc import Sequence

def adam_atan2(
    w: int,  # read and written, float32 [n], as m, v and average (0: none)
    g: int,  # read, float32 [n]
    m: int,
    v: int,
    average: int,
    n: int,
    t: int,  # from 1
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    average_decay: float,
) -> None: ...

class Engine:
    """Threads and memory for models of one shape; calls from several threads take turns."""

    def __init__(
        self,
        *,
        cells: int,
        width: int,
        heads: int,
        inner: int,
        actions: int,
        vocab: int,
        h_layers: int,
        l_layers: int,
        h_cycles: int,
        l_cycles: int,
        q_token: str,  # last, agent, mean
        learned: bool,  # positions among the parameters
        cos: int,  # read now, float32 [T, K]; 0: no rotation
        sin: int,
        threads: int,
        instructions: str,  # "", portable, avx2, avx512; ValueError: not on this CPU
        poison: bool,
    ) -> None: ...
    @property
    def instructions(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def decide(
        self,
        parameters: Sequence[int],  # read, float32: embed, position or 0, puzzle, blocks, head
        size: int,
        tokens: int,  # read, uint8 [B, cells]; IndexError: a code beyond the vocabulary
        z_H: int,  # read, float32 [B, T, D], `board` and `token` numbers apart
        z_L: int,
        board: int,
        token: int,
        segments: int,
        q: int,  # written, float32 [B, A]
        new_H: int,  # written, float32 [B, T, D], or [B, D] with last_only; 0: none
        new_L: int,
        last_only: bool,
    ) -> None: ...
    def gradient(
        self,
        parameters: Sequence[int],
        size: int,
        tokens: int,
        z_H: int,
        z_L: int,
        board: int,
        token: int,
        action: int,  # read, int64 [B]; 0: no TD error. IndexError: not an action
        target: int,  # read, float32 [B]
        weight: int,  # read, float32 [B]; 0: all 1
        d_q: int,  # read, float32 [B, A]; 0: none
        d_H: int,  # read, float32 [B, T, D]; 0: none
        d_L: int,
        q: int,  # written, float32 [B, A]
        new_H: int,  # written, float32 [B, T, D]; 0: none
        new_L: int,
        gradients: Sequence[int],  # written, float32, as parameters
    ) -> float: ...
