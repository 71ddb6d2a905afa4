"""What `profiling.gpu_timings` times: a block, segments, attention, by peer.

Whole decisions and updates are `profiling.bench_train --device cuda`'s.

A peer is made when its turn comes: torch.compile compiles then, and Triton tunes its kernels.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hrm_fast import HRM, Carry, HRMConfig
from kernels.ops import REFERENCE, Ops
from kernels.triton.attention import attention
from profiling.train_peers import forward_flops, segment_flops

B, MATRIX, COPIED = 256, 8192, 2**30
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
Runner = Callable[[], Any]
Makers = dict[str, Callable[[], Runner]]


class Group(NamedTuple):
    """Peers that do one thing, the first of them the one that the others must agree with."""

    what: str
    flops: float
    makers: Makers
    needs: tuple[str, ...] = ()  # checks without which "triton" is not timed
    unit: str = ""
    count: float = 0.0  # of `unit` in one run
    seconds: float = 90  # that a peer may take to be made


def graphed(run: Runner) -> Runner:
    """The run as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def best(f: Any) -> Any:
    """torch.compile at its best, CUDA graphs included."""
    compiled = torch.compile(f, mode="max-autotune", fullgraph=True, dynamic=False)

    def run(*given: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*given)

    return run


def ceilings() -> list[Group]:
    a, b = torch.randn(2, MATRIX, MATRIX, dtype=torch.bfloat16).unbind()
    x = torch.randint(255, (COPIED,), dtype=torch.uint8)
    y = torch.empty_like(x)
    copy: Makers = {"torch": lambda: lambda: y.copy_(x)}
    return [
        Group(f"product {MATRIX}^3", 2.0 * MATRIX**3, {"torch": lambda: lambda: a @ b}),
        Group("copy of 1 GiB", 0.0, copy, unit="TB/s", count=2e-12 * COPIED),
    ]


def attention_groups(B: int, T: int, D: int, heads: int) -> list[Group]:
    """Without rope, which SDPA does not have."""
    qkv = torch.randn(B, T, 3 * D, dtype=torch.bfloat16, requires_grad=True)
    do = torch.randn(B, T, D, dtype=torch.bfloat16)

    def sdpa(backend: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            q, k, v = qkv.view(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)

        return run

    def forward(f: Callable[[], Tensor]) -> Callable[[], Runner]:
        return lambda: graphed(torch.no_grad()(f))

    def both(f: Callable[[], Tensor]) -> Callable[[], Runner]:
        return lambda: graphed(lambda: torch.autograd.grad(f(), qkv, do)[0])

    peers = {f"SDPA {name.split('_')[0].lower()}": sdpa(name) for name in BACKENDS}
    runs: dict[str, Callable[[], Tensor]] = {**peers, "triton": lambda: attention(qkv, heads)}
    flops, what = 4.0 * B * T * T * D, f"attention, B {B}, T {T}, D {D}"
    return [
        Group(f"{what}, {name}", flops * n, {p: how(f) for p, f in runs.items()}, ("attention",))
        for name, n, how in (("forward", 1.0, forward), ("forward + backward", 3.5, both))
    ]


def block_groups(hrm: HRM, mine: HRM) -> list[Group]:
    """The first block of a level, its injection included."""
    config, parts = hrm.config, hrm.backends.reference.parts(hrm.in_order())
    weights = tuple(w.detach().requires_grad_() for w in parts.L[0])
    z, injection, dy = torch.randn(3, B, config.tokens, config.width, dtype=torch.bfloat16).unbind()
    wanted = [z.requires_grad_(), *weights]

    def block(ops: Ops) -> Callable[[], Tensor]:
        def run() -> Tensor:
            qkv, out, gate_up, down = weights
            at = config.heads, parts.rope
            y = ops.attention_block(z, qkv, out, *at, injection=injection)
            return ops.swiglu_block(y, gate_up, down)

        return run

    def both(f: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(f(), wanted, dy)[0]

    def peers(how: Callable[[Callable[[], Tensor]], Runner]) -> Makers:
        eager, own = block(REFERENCE), block(mine.ops)
        return {
            "eager": lambda: how(eager),
            "compile": lambda: how(best(eager)),
            "triton": lambda: how(own),
            "triton, graph": lambda: graphed(how(own)),
        }

    one = forward_flops(replace(config, h_cycles=1, l_cycles=1)) / (
        config.h_layers + config.l_layers
    )
    needs = ("attention_block", "swiglu_block")
    return [
        Group("block forward", B * one, peers(torch.no_grad()), needs),
        Group("block forward + backward", 3 * B * one, peers(both), needs),
    ]


class Segments(NamedTuple):
    """A peer's `HRM.segment` and `HRM.td_segment`, from states that are safe to go on from."""

    segment: Callable[..., tuple[Carry, Tensor]]
    td: Callable[..., tuple[Carry, Tensor, Tensor]]


def kept(f: Callable[..., Any]) -> Callable[..., Any]:
    """The states copied, which a compiled graph would write again in its next run."""

    def run(*given: Any) -> Any:
        carry, *rest = f(*given)
        return Carry(*(z.detach().clone() for z in carry)), *rest

    return run


def segments_of(hrm: HRM, compiled: bool) -> Segments:
    if compiled:
        return Segments(kept(best(hrm.segment)), kept(best(hrm.td_segment)))
    return Segments(hrm.segment, hrm.td_segment)


def segment_groups(models: dict[str, HRM]) -> list[Group]:
    """models: "eager", "compile" and "triton", alike in weights."""
    config = models["eager"].config
    own = {peer: segments_of(hrm, peer == "compile") for peer, hrm in models.items()}
    tokens = torch.randint(131, (B, config.cells), dtype=torch.uint8)
    a_tm1, y = torch.randint(config.actions, (B,)), torch.randn(B)
    carry = Carry(*(z.contiguous() for z in models["eager"].start(B)))

    def segment(peer: str) -> Runner:
        return torch.no_grad()(lambda: own[peer].segment(carry, tokens)[1])

    def training(peer: str) -> Runner:
        def run() -> Tensor:
            _, q, loss = own[peer].td(carry, tokens, a_tm1, y)
            loss.backward()
            return q.detach().clone()

        return run

    def peers(how: Callable[[str], Runner]) -> Makers:
        makers: Makers = {peer: lambda peer=peer: how(peer) for peer in models}
        return {**makers, "triton, graph": lambda: graphed(how("triton"))}

    forward, whole = forward_flops(config), segment_flops(config)
    needs = ("attention_block", "swiglu_block", "embedding", "model")
    return [
        Group("training segment", B * whole, peers(training), (*needs, "td_loss"), seconds=150),
        Group("segment forward", B * forward, peers(segment), needs, seconds=120),
    ]


def groups() -> Iterator[list[Group]]:
    """Everything, what matters most first; models are only made when their turn comes."""
    config = HRMConfig(dtype="bfloat16", kernels="reference")
    yield ceilings()
    models = {"eager": HRM(config), "compile": HRM(config)}
    models["triton"] = HRM(replace(config, kernels="triton"))
    for hrm in models.values():
        hrm.load_state_dict(models["eager"].state_dict())
    yield block_groups(models["eager"], models["triton"])
    yield segment_groups(models)
    yield attention_groups(B, 144, 64, 2)
    yield attention_groups(32, 901, 512, 8)
