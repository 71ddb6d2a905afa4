"""Every Triton op beside its reference, with inputs for it, and the rule that judges them: at most
twice the error of plain PyTorch at the same dtype, both against float64, in the output and in every
gradient. The tests take odd sizes, `profiling.gpu_correct` takes those of `all_cases`.

Errors are norms, root mean square over some draws; a floor of one unit in the last place allows for
what PyTorch gets exactly right.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.adam_atan2 import adam_atan2_reference
from kernels.attention_block import Rope, attend, attention_block_reference, rotate
from kernels.embedding import embedding_reference
from kernels.epsilon_greedy import epsilon_greedy_reference
from kernels.goal_loss import goal_loss_reference
from kernels.rms_norm import rms_norm
from kernels.swiglu_block import swiglu_block_reference
from kernels.td_loss import td_loss_reference
from kernels.triton import attention_block, large, swiglu_block
from kernels.triton.adam_atan2 import update
from kernels.triton.add_rms import add_rms
from kernels.triton.attention import attention
from kernels.triton.embedding import embedding
from kernels.triton.epsilon_greedy import epsilon_greedy
from kernels.triton.goal_loss import goal_loss
from kernels.triton.swiglu import swiglu
from kernels.triton.td_loss import td_loss

ATTENTION_BLOCK = {"small": attention_block.attention_block, "large": large.attention_block}
SWIGLU_BLOCK = {"small": swiglu_block.swiglu_block, "large": large.swiglu_block}
FLOAT32 = (torch.float32,)


class Case(NamedTuple):
    """Two functions of floating-point tensors, and a draw of these with dy behind them.

    `parts` takes output and gradients apart into what is judged by itself. `terms` is for sums of
    which nothing may be left: of a draw in float64, for each part what is added up, without the
    signs. Sums are taken in float32, and lose one unit in the last place of that: with one token
    the gradient of a score is exactly 0, and whether PyTorch finds it depends on the processor.
    """

    name: str
    mine: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    draw: Callable[[], list[Tensor]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    draws: int = 3  # more where numbers are few: few errors to average
    parts: Callable[[list[Tensor]], list[Tensor]] = lambda found: found
    terms: Callable[..., list[Tensor]] | None = None


class Found(NamedTuple):
    name: str
    dtype: str
    ours: float  # relative, of the part with the largest share of its limit
    theirs: float
    passed: bool


class Trial(NamedTuple):
    """Parts of one draw, in float64."""

    exact: list[Tensor]
    ours: list[Tensor]
    theirs: list[Tensor]
    summed: list[Tensor]  # what is added up, or `exact`


def answers(f: Callable[..., Tensor], given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients in float64, computed at dtype; given: inputs, then dy."""
    *inputs, dy = (x.detach().to(dtype) for x in given)
    inputs = [x.requires_grad_() for x in inputs]
    y = f(*inputs)
    assert y.dtype == dtype
    if y.requires_grad:
        y.backward(dy)
    return [t.detach().double() for t in (y, *(x.grad for x in inputs if x.grad is not None))]


def compare(name: str, dtype: torch.dtype, trials: list[Trial]) -> Found:
    """The rule of the file's head, over all draws."""
    eps, eps32 = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    errors = [
        [
            [(o - e).norm(), (t - e).norm(), max(eps * e.norm(), eps32 * s.norm()), e.norm()]
            for e, o, t, s in zip(*trial, strict=True)
        ]
        for trial in trials
    ]
    of_draws = torch.tensor(errors, dtype=torch.float64, device="cpu")
    ours, theirs, floor, size = of_draws.square().mean(0).sqrt().T
    limit = (2 * theirs).maximum(floor)
    i = int((ours / limit.clamp_min(1e-30)).nan_to_num(nan=float("inf")).argmax())
    mine, plain = ((x[i] / size[i].clamp_min(1e-30)).item() for x in (ours, theirs))
    return Found(name, str(dtype).removeprefix("torch."), mine, plain, bool((ours <= limit).all()))


def judge(case: Case, dtype: torch.dtype) -> Found:
    trials = []
    for _ in range(case.draws):
        given = [x.to(dtype) for x in case.draw()]
        exact, ours, theirs = (
            case.parts(answers(f, given, at))
            for f, at in ((case.plain, torch.float64), (case.mine, dtype), (case.plain, dtype))
        )
        summed = case.terms(*(x.double() for x in given)) if case.terms else exact
        trials.append(Trial(exact, ours, theirs, summed))
    return compare(case.name, dtype, trials)


def strided(*shape: int, std: float = 1.0) -> Tensor:
    """A matrix or batch of them whose last axis is not the one that is next in memory."""
    return std * torch.randn(*shape[:-2], shape[-1], shape[-2]).mT


def upstream(*shape: int, expanded: bool) -> Tensor:
    return torch.rand(()).expand(shape) if expanded else torch.randn(shape)


def rope_tables(T: int, K: int) -> Rope:
    """Any angles will do; the second half of the columns turns with the first."""
    angle = 9 * torch.rand(T, 1, K // 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), 2), torch.cat((-sin, sin), 2)


def constant(rope: tuple[Tensor, ...]) -> Rope | None:
    """Tables as an op takes them, which have no gradient."""
    return (rope[0].detach(), rope[1].detach()) if rope else None


def attention_terms(heads: int, qkv: Tensor, *rope_do: Tensor) -> list[Tensor]:
    """What o, dq, dk and dv add up for boards of one token, [B, 1, heads * K] each: where dq and dk
    are 0, since a softmax over one score is 1."""
    q, k, v = (x.abs().unflatten(2, (heads, -1)) for x in qkv.chunk(3, dim=2))
    do = rope_do[-1].abs().view_as(v)
    ds = 2 * (do * v).sum(3, keepdim=True) * v.shape[3] ** -0.5  # do v, less the sum of do o
    return [x.flatten(2) for x in (v, ds * k, ds * q, do)]


def attention_block_terms(
    heads: int, z: Tensor, injection: Tensor, w_qkv: Tensor, w_o: Tensor, *rope_dy: Tensor
) -> list[Tensor]:
    """The same for an attention block: y, dz, d_injection, dw_qkv, dw_o."""
    x = z + injection
    qkv = x @ w_qkv.T
    o = qkv.chunk(3, dim=2)[2]
    u = (x + o @ w_o.T).detach().requires_grad_()
    y = rms_norm(u)
    (du,) = torch.autograd.grad(y, u, rope_dy[-1])
    dqkv = torch.cat(attention_terms(heads, qkv, du @ w_o)[1:], 2)
    dx = du.abs() + dqkv @ w_qkv.abs()
    dw_qkv, dw_o = (torch.einsum("btc,btd->cd", *pair) for pair in ((dqkv, x.abs()), (du, o)))
    return [y.detach(), dx, dx, dw_qkv, dw_o]


def attention_block_inputs(B: int, T: int, D: int) -> list[Tensor]:
    """z, injection, w_qkv, w_o, strided."""
    shapes = (B, T, D), (B, T, D), (3 * D, D), (D, D)
    return [strided(*s, std=1.0 if len(s) == 3 else D**-0.5) for s in shapes]


def attention_block_case(
    size: str, B: int, T: int, D: int, heads: int, turned: bool = True, expanded: bool = False,
    rows: Tensor | None = None,
) -> Case:  # fmt: skip
    """size: a key of `ATTENTION_BLOCK`."""

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def block(
            z: Tensor, injection: Tensor, w_qkv: Tensor, w_o: Tensor, *rope: Tensor
        ) -> Tensor:
            return f(z, w_qkv, w_o, heads, constant(rope), rows, injection)

        return block

    def draw() -> list[Tensor]:
        rope = rope_tables(T, D // heads) if turned else ()
        dy = upstream(B, T if rows is None else rows.shape[1], D, expanded=expanded)
        return [*attention_block_inputs(B, T, D), *rope, dy]

    return Case(
        "attention_block" + (size == "large") * ", large",
        at(ATTENTION_BLOCK[size]),
        at(attention_block_reference),
        draw,
        draws=10 if B * T == 1 else 3,
        terms=partial(attention_block_terms, heads) if T == 1 else None,
    )


def swiglu_block_case(size: str, B: int, T: int, D: int, F: int, expanded: bool = False) -> Case:
    def draw() -> list[Tensor]:
        weights = strided(2 * F, D, std=D**-0.5), strided(D, F, std=F**-0.5)
        return [strided(B, T, D), *weights, upstream(B, T, D, expanded=expanded)]

    name = "swiglu_block" + (size == "large") * ", large"
    draws = 10 if B * T == 1 else 3
    return Case(name, SWIGLU_BLOCK[size], swiglu_block_reference, draw, draws=draws)


def attention_case(B: int, T: int, heads: int, K: int, turned: bool = True) -> Case:
    def mine(qkv: Tensor, *rope: Tensor) -> Tensor:
        return attention(qkv, heads, constant(rope))

    def plain(qkv: Tensor, *rope: Tensor) -> Tensor:
        qk, v = qkv.view(B, T, 3 * heads, K).split((2 * heads, heads), dim=2)
        if tables := constant(rope):
            qk = rotate(qk, tables)
        return attend(*qk.chunk(2, dim=2), v).reshape(B, T, heads * K)

    def draw() -> list[Tensor]:
        rope = rope_tables(T, K) if turned else ()
        return [torch.randn(B, T, 3 * heads * K), *rope, torch.randn(B, T, heads * K)]

    return Case(
        "attention", mine, plain, draw,
        draws=40 if heads * K < 10 else 3,
        parts=lambda found: [found[0], *found[1].chunk(3, dim=2)],  # o, dq, dk, dv
        terms=partial(attention_terms, heads) if T == 1 else None,
    )  # fmt: skip


def add_rms_case(*shape: int) -> Case:
    def draw() -> list[Tensor]:
        return [torch.randn(shape) for _ in range(3)]

    draws = 10 if shape[0] == 1 else 3
    return Case("add_rms", add_rms, lambda x, f: rms_norm(x + f), draw, draws=draws)


def swiglu_case(*shape: int) -> Case:
    """shape: of the output."""

    def plain(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    def draw() -> list[Tensor]:
        return [2 * torch.randn(*shape[:-1], 2 * shape[-1]), torch.randn(shape)]

    return Case("swiglu", swiglu, plain, draw, draws=40 if shape == (1, 1) else 3)


def draw_tokens(B: int, T: int, vocab: int = 131) -> Tensor:
    return torch.randint(min(vocab, 256), (T - 1, B)).to(torch.uint8).T


def embedding_inputs(T: int, D: int, vocab: int, learned: bool) -> list[Tensor]:
    """embed, puzzle, and position if it is learned."""
    return [strided(vocab, D), torch.randn(2 * D)[::2], *([strided(T, D)] if learned else [])]


def embedding_case(
    B: int, T: int, D: int, vocab: int = 131, learned: bool = False, expanded: bool = False,
    dtype: torch.dtype | None = None,
) -> Case:  # fmt: skip
    """dtype: of what is made from tables in float32, if it is not theirs."""
    tokens = draw_tokens(B, T, vocab)

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def e(embed: Tensor, puzzle: Tensor, position: Tensor | None = None) -> Tensor:
            wanted = dtype if dtype and embed.dtype == torch.float32 else embed.dtype
            found = f(tokens, embed, puzzle, position, (D / 2) ** 0.5, wanted)
            assert found.dtype == wanted
            return found.to(embed.dtype)

        return e

    def draw() -> list[Tensor]:
        de = upstream(B, T, D, expanded=expanded)
        return [*embedding_inputs(T, D, vocab, learned), de.to(dtype or de.dtype).to(de.dtype)]

    return Case("embedding", at(embedding), at(embedding_reference), draw)


def td_loss_case(B: int, A: int) -> Case:
    """Strided q and actions; an upstream gradient that is one number expanded."""
    a_tm1, target = torch.randint(A, (2 * B,))[::2], torch.randn(B)

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q: f(q, a_tm1, target).expand(5)

    def draw() -> list[Tensor]:
        return [strided(B, A), torch.tensor(-1.7).expand(5)]

    return Case("td_loss", at(td_loss), at(td_loss_reference), draw, FLOAT32, draws=10)


def goal_targets(B: int, T: int, A: int) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, and targets and weights of every cell, some of them 0."""
    a_tm1, target, weight = torch.randint(A, (2 * B,))[::2], *torch.rand(2, B, T - 1)
    return a_tm1, target, weight * (torch.rand(B, T - 1) < 0.7)


def goal_loss_case(B: int, T: int, D: int, A: int) -> Case:
    """Strided states; an upstream gradient that is one number expanded; values far from 1/2 too."""
    a_tm1, target, weight = goal_targets(B, T, A)

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda z, head: f(z, head, a_tm1, target.to(z), weight.to(z)).expand(5)

    def draw() -> list[Tensor]:
        return [strided(B, T, D), 4 * D**-0.5 * torch.randn(A, D), torch.tensor(-1.7).expand(5)]

    return Case("goal_loss", at(goal_loss), at(goal_loss_reference), draw, FLOAT32, draws=10)


def adam_atan2_case(P: int) -> Case:
    """One update from moments of 0: w, m, v and the average."""

    def mine(w: Tensor, g: Tensor) -> Tensor:
        w, g, m, v = w.detach().clone(), g.detach().clone(), *torch.zeros(2, P).unbind()
        average, step = w.clone(), torch.zeros(1, dtype=torch.int64)
        update(
            w, g, m, v, average, step, warmup=0, updates=10**9, final=1.0, lr=1e-3, beta1=0.9,
            beta2=0.95, weight_decay=0.1, tail_lr=0.0, tail_weight_decay=0.0, average_decay=0.9,
        )  # fmt: skip
        return torch.cat((w, m, v, average))

    def plain(w: Tensor, g: Tensor) -> Tensor:
        w, m, v = w.detach().clone(), torch.zeros_like(w), torch.zeros_like(w)
        average = w.clone()
        adam_atan2_reference(w, g.detach(), m, v, 1, 1e-3, 0.9, 0.95, 0.1, average, 0.9)
        return torch.cat((w, m, v, average))

    return Case("adam_atan2", mine, plain, lambda: [*torch.randn(3, P).unbind()], FLOAT32)


def epsilon_greedy_case(N: int, A: int) -> Case:
    """Equal: an error of 0 allows one of 0."""

    def at(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, uniform: f(q.detach().float(), 0.3, uniform.detach().float()).to(q)

    def draw() -> list[Tensor]:
        return [torch.randn(N, A), torch.rand(N), torch.randn(N)]

    return Case("epsilon_greedy", at(epsilon_greedy), at(epsilon_greedy_reference), draw, FLOAT32)


def all_cases(small: bool) -> list[Case]:
    """The published and larger sizes; small: for the interpreter and the sanitizer, sizes that no
    tile fits either way."""
    if small:
        blocks = [("small", 2, 17, 32, 2, 48), ("large", 1, 19, 160, 2, 48)]
        (B, T, heads, K), of_update = (1, 19, 2, 32), (3, 17, 32)
    else:
        blocks = [("small", B, T, 64, 2, 256) for B, T in ((32, 144), (3, 122), (1, 7))]
        blocks += [("small", 3, 145, 128, 4, 200), ("large", 2, 901, 512, 8, 1536)]
        (B, T, heads, K), of_update = (2, 901, 8, 64), (64, 144, 64)
    attention_blocks = [attention_block_case(*sizes) for *sizes, _ in blocks]
    swiglu_blocks = [swiglu_block_case(*sizes, F) for *sizes, _, F in blocks]
    return [
        *(case for pair in zip(attention_blocks, swiglu_blocks, strict=True) for case in pair),
        attention_case(B, T, heads, K),
        add_rms_case(B, T, heads * K),
        swiglu_case(B, T, heads * K),
        embedding_case(*of_update),
        td_loss_case(of_update[0], 4),
        goal_loss_case(*of_update, 4),
        adam_atan2_case(10_007),
        epsilon_greedy_case(99, 4),
    ]
