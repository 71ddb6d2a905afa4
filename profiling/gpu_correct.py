"""Every Triton op and the model against float64: at most twice what plain PyTorch loses.

Errors are relative norms, root mean square over some draws, of the output and of each gradient; a
floor of one unit in the last place allows for what PyTorch gets exactly right. Part of
`profiling.gpu_check`.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_fast import HRM, HRMConfig
from profiling.gpu_cases import Check, all_checks
from profiling.kernels_table import first, smallest

DRAWS = 3
TINY = HRMConfig(cells=12, width=32, inner=24, h_layers=1, l_layers=1, segments=2)


class Found(NamedTuple):
    name: str
    dtype: str
    ours: float  # of output and gradients, the one with the largest share of its limit
    theirs: float
    passed: bool


def answers(f: Callable[..., Tensor], given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients in float64, computed at dtype."""
    *inputs, dy = (x.detach().to(dtype) for x in given)
    inputs = [x.requires_grad_() for x in inputs]
    y = f(*inputs)
    if y.requires_grad:
        y.backward(dy)
    return [t.detach().double() for t in (y, *(x.grad for x in inputs if x.grad is not None))]


def worst(name: str, dtype: torch.dtype, trials: list[list[list[Tensor]]]) -> Found:
    """trials: of every draw what is exact, ours and plain PyTorch's, alike in length."""
    errors = torch.tensor(
        [
            [
                [
                    ((a - e).norm() / e.norm().clamp_min(1e-30)).item() ** 2
                    for a, e in zip(answer, exact, strict=True)
                ]
                for answer in (ours, theirs)
            ]
            for exact, ours, theirs in trials
        ],
        dtype=torch.float64,
        device="cpu",
    )
    ours, theirs = errors.mean(0).sqrt()
    limit = (2 * theirs).clamp_min(torch.finfo(dtype).eps)
    i = int((ours / limit).nan_to_num(nan=float("inf")).argmax())
    what = str(dtype).removeprefix("torch.")
    return Found(name, what, ours[i].item(), theirs[i].item(), bool((ours <= limit).all()))


def judge(check: Check, dtype: torch.dtype) -> Found:
    trials = []
    for _ in range(DRAWS):
        given = [x.to(dtype) for x in check.draw()]
        pairs = ((check.plain, torch.float64), (check.mine, dtype), (check.plain, dtype))
        trials.append([answers(f, given, at) for f, at in pairs])
    return worst(check.name, dtype, trials)


def model_answers(hrm: HRM, given: list[Tensor]) -> list[Tensor]:
    tokens, a_tm1, target = given
    hrm.zero_grad()
    carry, q, loss = hrm.td_segment(hrm.start(len(tokens)), tokens, a_tm1, target.to(hrm.embed))
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in hrm.parameters() if p.grad is not None])
    return [t.detach().double() for t in (q, carry.z_H, carry.z_L, gradient)]


def judge_model(config: HRMConfig, B: int) -> Found:
    """One segment forward and backward: q, states, and all gradients as one vector."""
    trials: list[list[list[Tensor]]] = []
    for _ in range(DRAWS):
        plain = HRM(replace(config, kernels="reference"))
        torch.nn.init.normal_(plain.puzzle)
        mine = HRM(replace(config, kernels="triton"))
        exact = HRM(replace(config, kernels="reference", dtype="float32")).double()
        for hrm in (mine, exact):
            hrm.load_state_dict(plain.state_dict())
        tokens = torch.randint(config.vocab_size, (B, config.cells)).to(torch.uint8)
        given = [tokens, torch.randint(config.actions, (B,)), torch.randn(B)]
        trials.append([model_answers(hrm, given) for hrm in (exact, mine, plain)])
    return worst("model", getattr(torch, config.dtype), trials)


@contextmanager
def untuned(dtype: torch.dtype) -> Iterator[None]:
    """Kernels in one configuration: the default, or in float32, where large tiles take minutes to
    compile without tensor cores, the one of the smallest tiles."""
    files = [f for name, f in sys.modules.items() if name.startswith("kernels.triton.")]
    kernels = {id(k): k for f in files for k in vars(f).values() if hasattr(k, "configs")}.values()
    before = [kernel.configs for kernel in kernels]
    for kernel in kernels:
        kernel.configs = [(smallest if dtype == torch.float32 else first)(kernel.configs)]
    try:
        yield
    finally:
        for kernel, configs in zip(kernels, before, strict=True):
            kernel.configs = configs


@contextmanager
def poisoned() -> Iterator[None]:
    """NaN in all memory that nobody wrote."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_all(
    device: str, small: bool, dtypes: list[torch.dtype], only: str, say: Callable[[str], None]
) -> list[Found]:
    """Judges every op with `only` in its name, then the model; `say` gets each finding."""
    found: list[Found] = []

    def judged(name: str, dtype: torch.dtype, how: Callable[[], Found]) -> None:
        try:
            result = how()
        except Exception as error:
            result = Found(name, str(dtype).removeprefix("torch."), *2 * [float("nan")], False)
            say(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        found.append(result)
        say(
            f"{'ok    ' if result.passed else 'FAILED'} {result.name}, {result.dtype}: "
            f"error {result.ours:.1e}, PyTorch's {result.theirs:.1e}"
        )

    for dtype in dtypes:
        few = small or dtype == torch.float32
        with torch.device(device), untuned(dtype), poisoned():
            for check in all_checks(few):
                if dtype in check.dtypes and only in check.name:
                    judged(check.name, dtype, partial(judge, check, dtype))
            if only in "model":
                shape = TINY if few else HRMConfig()
                config = replace(shape, dtype=str(dtype).removeprefix("torch."))
                judged("model", dtype, partial(judge_model, config, 2 if few else 16))
    return found
