"""Whole decisions of an HRM in one kernel launch on a GPU: tokens in, Q values and states out
(csrc/hrm/decide.h). No gradient: that is left to other operations.

    e = scale * ([puzzle, embed(tokens)] + position)
    for h in H_cycles:  for l in L_cycles:  z_L = L(z_L + z_H + e)      blocks: attention_block.py,
                        z_H = H(z_H + z_L)                              swiglu_block.py
    q = head z_H[read]

    tokens    uint8 [B, cells]    z_H, z_L  [B, T, D] in `dtype`, T = cells + 1
    q         float32 [B, A]      parameters: as in cpu.py, float32

The reference is `hrm_fast.HRM` with kernels="reference". In bfloat16 products run on tensor cores,
sums, softmax and norms in float32; silu is off by at most |x| 2^-12, exponentials by 2^-22 of
themselves. In float32 there are no tensor cores, and sums are taken in one fixed order. On CPU
tensors the kernel's own source runs on the host, thread by thread: for tests.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hrm_fast.backends.plain import Plain
from hrm_fast.backends.shape import TD, Found, Keep, Parameters, Shape, Start, shape_of
from hrm_fast.config import HRMConfig
from hrm_fast.layers import rope_tables
from kernels.attention_block import Rope
from kernels.native import CPU, _native, ptr, ptr_or_null


class Packed(NamedTuple):
    """A model's numbers as the kernel reads them; made by `Decider.pack`."""

    weights: Tensor  # [blocks, n] in `dtype`, tiles in the order of use
    table: Tensor  # float32 [1 + V, D], puzzle token first, times the scale
    position: Tensor | None  # float32 [T, D], times the scale
    head: Tensor  # float32 [A, D]


class Decider:
    """Decisions of models of one shape; ValueError: a shape that the kernel cannot compute."""

    def __init__(self, config: HRMConfig, boards: int = 0) -> None:
        """boards: how many a CTA computes at a time (0: two where they fit and boards outnumber
        SMs, else one)."""
        self.config, self.boards = config, boards
        self.shape, is_bf16 = shape_of(config), config.dtype == "bfloat16"
        self.dtype = torch.bfloat16 if is_bf16 else torch.float32
        sizes = self.shape._asdict()
        del sizes["learned"]
        self.native = _native.Decider(**sizes, bf16=is_bf16)
        self.rope = _angles(self.shape, rope_tables(config))
        self.order = block_order(self.shape)
        self.factors = block_factors(self.shape) if is_bf16 else None
        self._moved: dict[torch.device, tuple[Tensor, Tensor | None, Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Decider:
        return self  # it holds nothing of a model

    def __reduce__(self) -> tuple[Any, ...]:
        return Decider, (self.config, self.boards)

    def pack(self, parameters: Parameters) -> Packed:
        """The parameters as the kernel reads them: a few torch ops on their device."""
        shape = self.shape
        for p, size in zip(parameters, shape.parameters(), strict=True):
            ptr("a parameter", p, torch.float32, *size, device=parameters[0].device)
        embed, *rest = (p.detach() for p in parameters)
        position = rest.pop(0) if shape.learned else None
        puzzle, *blocks, head = rest
        scale = (shape.width / 2 if shape.learned else shape.width) ** 0.5
        order, factors, _ = self._on(embed.device)
        flat = torch.cat([w.reshape(-1) for w in blocks]).view(shape.l_layers + shape.h_layers, -1)
        if factors is not None:
            flat = flat * factors
        return Packed(
            pad(flat.to(self.dtype), (0, 1)).index_select(1, order),
            torch.cat((puzzle.unsqueeze(0), embed)) * scale,
            None if position is None else position * scale,
            head.contiguous(),
        )

    def decide(
        self,
        packed: Packed,
        tokens: Tensor,
        z_H: Tensor,
        z_L: Tensor,
        read: Tensor | None = None,
        segments: int = 1,
        keep: Keep = "states",
        open: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q and the new states after some segments: all [B, T, D], the last token's [B, D], or
        none (empty tensors).

        open: leave out the last segment's last call of L and of H, the two that carry gradient;
        q is then empty. read int32 [B]: the token that Q is read from, None: the mean of all.
        A token out of range, or a code beyond the vocabulary, makes that board's q NaN.
        """
        shape, device = self.shape, packed.head.device
        B, T, D = len(tokens), shape.cells + 1, shape.width
        z_H, z_L = (self._state(n, z, B, device) for n, z in (("z_H", z_H), ("z_L", z_L)))
        if z_H.stride() != z_L.stride():
            z_H, z_L = z_H.contiguous(), z_L.contiguous()
        of_q = (0,) if open else (B, shape.actions)
        q = torch.empty(of_q, dtype=torch.float32, device=device)
        size = {"states": (B, T, D), "last": (B, D), "none": (0,)}[keep]
        new_H, new_L = (torch.empty(size, dtype=self.dtype, device=device) for _ in range(2))
        if B == 0:
            return q, new_H, new_L
        machine = machine_of(device)
        wanted = self.boards or int(machine.sms >= B)  # one each where there is an SM for each
        boards, warps, used, outside = self.native.plan(wanted, machine.shared)
        ctas = max(1, min(machine.ctas(warps, used), -(-B // boards)))
        workspace = torch.empty(ctas * outside, dtype=torch.uint8, device=device)
        rope = self._on(device)[2]

        of_z, f32 = (self.dtype, B, T, D), torch.float32
        at = partial(ptr, device=device)
        with torch.cuda.device(device if device.type == "cuda" else -1):  # -1: as it is
            self.native.decide(
                stream=machine.stream, boards=boards, shared_limit=machine.shared, ctas=ctas,
                workspace=at("workspace", workspace, torch.uint8, ctas * outside),
                **self._addresses(packed),
                rope=at("rope", rope, f32, *rope.shape),
                size=B, tokens=at("tokens", tokens, torch.uint8, B, shape.cells),
                z_H=at("z_H", z_H, *of_z, strided=True), z_L=at("z_L", z_L, *of_z, strided=True),
                board=z_H.stride(0), token=z_H.stride(1),
                read=ptr_or_null("read", read, torch.int32, B, device=device),
                segments=segments, open=open,
                q=0 if open else at("q", q, f32, *of_q),
                new_H=at("new_H", new_H, self.dtype, *size),
                new_L=at("new_L", new_L, self.dtype, *size), last_only=keep == "last",
            )  # fmt: skip
        return q, new_H, new_L

    def _addresses(self, packed: Packed) -> dict[str, int]:
        shape, device = self.shape, packed.head.device
        D, blocks = shape.width, shape.l_layers + shape.h_layers
        if (packed.position is not None) != shape.learned:
            raise ValueError("position is another model's: expected what this decider packed")
        sizes = {
            "weights": (blocks, len(self.order)),
            "table": (1 + shape.vocab, D),
            "position": (shape.cells + 1, D),
            "head": (shape.actions, D),
        }
        addresses = {"position": 0}
        for name, t in packed._asdict().items():
            if t is not None:
                dtype = self.dtype if name == "weights" else torch.float32
                addresses[name] = ptr(name, t, dtype, *sizes[name], device=device)
        return addresses

    def _state(self, name: str, z: Tensor, B: int, device: torch.device) -> Tensor:
        size = (B, self.shape.cells + 1, self.shape.width)
        address = ptr(name, z, self.dtype, *size, device=device, strided=True)
        pairs = z.stride(-1) == 1 and not any(stride % 2 for stride in z.stride()[:2])
        if pairs and address % (2 * z.itemsize) == 0:
            return z
        return z.clone(memory_format=torch.contiguous_format)  # contiguous() may be z itself

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
        """The order of a block's weights, their factors and the angles, there."""
        if device not in self._moved:
            factors = None if self.factors is None else self.factors.to(device)
            self._moved[device] = self.order.to(device), factors, self.rope.to(device)
        return self._moved[device]


class Cuda:
    """Decisions by the kernel, and all of a segment that needs no gradient; the rest by `plain`."""

    def __init__(self, decider: Decider, plain: Plain) -> None:
        self.decider, self.plain = decider, plain

    def decide(
        self, parameters: Parameters, start: Start, segments: int = 1, keep: Keep = "states"
    ) -> Found:
        return self.decider.decide(self.decider.pack(parameters), *start, segments, keep)

    def segment(self, parameters: Parameters, start: Start) -> Found:
        start, begun = self._begin(parameters, start)
        return self.plain.segment(parameters, start, begun=begun)

    def td_segment(
        self, parameters: Parameters, start: Start, td: TD, keep: Keep = "states"
    ) -> tuple[Tensor, Found]:
        start, begun = self._begin(parameters, start)
        return self.plain.td_segment(parameters, start, td, keep, begun)

    def _begin(self, parameters: Parameters, start: Start) -> tuple[Start, bool]:
        """Make the calls without gradient; returns where the others start, and whether there were
        any."""
        shape = self.decider.shape
        if shape.h_cycles * shape.l_cycles == 1:
            return start, False
        _, z_H, z_L = self.decider.decide(self.decider.pack(parameters), *start, open=True)
        return (start[0], z_H, z_L, start[3]), True


def block_order(shape: Shape) -> Tensor:
    """Index of each packed number among a block's (qkv, out, gate_up, down, a zero), int32 [n].

    Strips of D / 16 tiles as csrc/hrm/decide_stream.h orders them, then whole chunks; in a tile
    the four pairs of each lane as csrc/hrm/mma.h lays them out.
    """
    D, F, K = shape.width, shape.inner, shape.width // shape.heads
    out, gate_up, down = 3 * D * D, 4 * D * D, 4 * D * D + 2 * F * D
    lane, pair, second, sixteens = (
        torch.arange(0, end, by, dtype=torch.int64, device=CPU)
        for end, by in ((32, 1), (4, 1), (2, 1), (D, 16))
    )
    lane, pair = lane[:, None, None], pair[:, None]
    row = lane // 4 + pair // 2 * 8  # [32, 4, 1]
    column = lane % 4 * 2 + pair % 2 * 8 + second  # [32, 4, 2]

    def outputs(matrix: int, first: int) -> Tensor:  # 16 rows of a matrix [.., D]
        return matrix + (first + row) * D + (sixteens[:, None, None, None] + column)

    def inputs(matrix: int, first: int, width: int) -> Tensor:  # 16 columns of one [D, width]
        return matrix + (sixteens[:, None, None, None] + row) * width + (first + column)

    strips = []
    for head in range(0, D, K):
        for part in (D, 2 * D, 0):  # keys, values, queries
            strips += [outputs(0, part + head + i) for i in range(0, K, 16)]
    strips += [inputs(out, i, D) for i in range(0, D, 16)]
    zeros = torch.full_like(strips[0], 4 * D * D + 3 * F * D)
    strips += [zeros] * (-len(strips) % _native.CHUNK)
    for f in range(0, F, 16):
        strips += [outputs(gate_up, f), outputs(gate_up, F + f), inputs(down, f, F)]
    strips += [zeros] * (-len(strips) % _native.CHUNK)
    return torch.stack(strips).flatten().int()


def block_factors(shape: Shape) -> Tensor:
    """What the bfloat16 kernel leaves to a block's weights (qkv, out, gate_up, down), float32 [n]:
    scores come to the base 2, scaled, and silu is given half of a gate."""
    D, F, K = shape.width, shape.inner, shape.width // shape.heads
    factors = torch.ones(4 * D * D + 3 * F * D, dtype=torch.float32, device=CPU)
    factors[: D * D] = 1 / (math.log(2) * math.sqrt(K))
    factors[4 * D * D :][: F * D] = 0.5
    return factors


def unusable(device: torch.device | None = None) -> str | None:
    """Why the GPU, None: the current one, does not run these kernels, in a line; None: it does."""
    if not _native.CUDA_BUILT:
        return "the native module was built without nvcc"
    if not torch.cuda.is_available():
        return "there is no CUDA device or no driver"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"the GPU is sm_{major}{minor}: expected sm_80 or newer"


class Machine(NamedTuple):
    stream: int | None  # None: the host
    shared: int  # bytes of shared memory that a CTA may have
    shared_of_sm: int
    sms: int

    def ctas(self, warps: int, shared: int) -> int:
        """As many as run at once, by shared memory and 128 registers a thread."""
        return self.sms * max(1, min(self.shared_of_sm // (shared + 1024), 16 // warps))


HOST = Machine(None, 227 * 1024, 228 * 1024, 2)  # an H100 of two SMs


def machine_of(device: torch.device) -> Machine:
    if device.type == "cpu":
        return HOST
    if device.type != "cuda":
        raise ValueError(f"the weights are on {device}: expected cuda or cpu")
    if why := unusable(device):
        raise ValueError(f"kernels is 'cuda': {why}")
    about = torch.cuda.get_device_properties(device)
    return Machine(
        torch.cuda.current_stream(device).cuda_stream,
        about.shared_memory_per_multiprocessor - 1024,  # what CUDA keeps of every CTA's
        about.shared_memory_per_multiprocessor,
        about.multi_processor_count,
    )


def _angles(shape: Shape, rope: Rope | None) -> Tensor:
    """float32 [16 n, K / 2, 2]: cos and sin of each pair, whole tiles of tokens; 1 and 0 without
    rotation. The tables hold them twice."""
    T, half = shape.cells + 1, shape.width // shape.heads // 2
    one = torch.ones(T, half, dtype=torch.float32, device=CPU)
    cos, sin = one, 0 * one
    if rope is not None:
        cos, sin = (x.detach().float().cpu().squeeze(1)[:, half:] for x in rope)
    return pad(torch.stack((cos, sin), -1), (0, 0, 0, 0, 0, -T % 16))
