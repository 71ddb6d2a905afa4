"""The compiled engine and the CUDA kernels (csrc/hrm). They take addresses, as ints, of contiguous
tensors, and trust them: `hrm_fast.backends` and `kernels.adam_atan2` check dtype, shape
and device. 0 means none where said. B is `size`, T is cells + 1, D is width, A is actions.
"""

from collections.abc import Sequence

SOURCES: str  # digest of what it was built from, csrc/digest.py
CHUNK: int  # strips of packed weights that a block's number of strips is a multiple of
CUDA_BUILT: bool  # there was nvcc

def set_thread_order(seed: int) -> None: ...  # of kernels that run on the host, from now on
def products_on_host() -> int: ...  # m16n8k16, of all warps, so far
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
    instructions: str,  # as of an Engine
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
        read: int,  # read, int32 [B], the token Q is read from; 0: the mean. IndexError: no token
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
        read: int,
        action: int,  # read, int64 [B]; 0: no loss. IndexError: not an action
        target: int,  # read, float32 [B], or [B, cells] with weight
        weight: int,  # read, float32 [B, cells]: the loss on all goals; 0: the TD loss
        d_q: int,  # read, float32 [B, A]; 0: none
        d_H: int,  # read, float32 [B, T, D]; 0: none
        d_L: int,
        q: int,  # written, float32 [B, A]
        new_H: int,  # written, float32 [B, T, D]; 0: none
        new_L: int,
        gradients: Sequence[int],  # written, float32, as parameters
    ) -> float: ...

class Decider:
    """Decisions of models of one shape by the CUDA kernel. "E": bfloat16 or float32."""

    def __init__(
        self,
        *,
        cells: int,  # ValueError, as for every size that the kernel cannot compute
        width: int,
        heads: int,
        inner: int,
        actions: int,
        vocab: int,
        h_layers: int,
        l_layers: int,
        h_cycles: int,
        l_cycles: int,
        bf16: bool,
    ) -> None: ...
    def plan(
        self, boards: int, shared_limit: int
    ) -> tuple[int, int, int, int]: ...  # a CTA's boards, warps, shared bytes, workspace bytes
    def decide(
        self,
        *,
        stream: int | None,  # None: on the host. RuntimeError: a CUDA error, or built without nvcc
        boards: int,  # as for plan; 0: two where two fit
        shared_limit: int,  # bytes of shared memory that a CTA may have
        ctas: int,
        workspace: int,  # read and written, `ctas` times plan's bytes; 0 where that is 0
        weights: int,  # read, E, as `hrm_fast.backends.cuda.Decider.pack` makes them
        table: int,  # read, float32 [1 + V, D]
        position: int,  # read, float32 [T, D]; 0: none
        head: int,  # read, float32 [A, D]
        rope: int,  # read, float32 [T to a multiple of 16, K / 2, 2]: cos, sin
        size: int,
        tokens: int,  # read, uint8 [B, cells]; a code beyond the vocabulary makes its board NaN
        z_H: int,  # read, E [B, T, D], `board` and `token` numbers apart, both even
        z_L: int,
        board: int,
        token: int,
        read: int,  # read, int32 [B], the token Q is read from; 0: the mean; none of T: NaN
        segments: int,
        open: bool,  # leave out the last call of L and the last of H
        q: int,  # written, float32 [B, A]; 0: none
        new_H: int,  # written, E [B, T, D], or [B, D] with last_only; 0: none
        new_L: int,
        last_only: bool,
    ) -> None: ...
