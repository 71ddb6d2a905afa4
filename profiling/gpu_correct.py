"""Every Triton op and the model by the rule of `profiling.kernel_cases`; part of
`profiling.gpu_check`.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from hrm_fast import HRM, HRMConfig
from profiling.kernel_cases import Found, Trial, all_cases, compare, judge
from profiling.kernels_table import first, smallest

DRAWS = 3
TINY = HRMConfig(cells=12, width=32, inner=24, h_layers=1, l_layers=1, segments=2)


def model_answers(hrm: HRM, given: list[Tensor]) -> list[Tensor]:
    tokens, a_tm1, target = given
    hrm.zero_grad()
    carry, q, loss = hrm.td_segment(hrm.start(len(tokens)), tokens, a_tm1, target.to(hrm.embed))
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in hrm.parameters() if p.grad is not None])
    return [t.detach().double() for t in (q, carry.z_H, carry.z_L, gradient)]


def judge_model(config: HRMConfig, B: int) -> Found:
    """One segment forward and backward: q, states, and all gradients as one vector."""
    trials = []
    for _ in range(DRAWS):
        plain = HRM(replace(config, kernels="reference"))
        torch.nn.init.normal_(plain.puzzle)
        mine = HRM(replace(config, kernels="triton"))
        exact = HRM(replace(config, kernels="reference", dtype="float32")).double()
        for hrm in (mine, exact):
            hrm.load_state_dict(plain.state_dict())
        tokens = torch.randint(config.vocab_size, (B, config.cells)).to(torch.uint8)
        given = [tokens, torch.randint(config.actions, (B,)), torch.randn(B)]
        right, ours, theirs = (model_answers(hrm, given) for hrm in (exact, mine, plain))
        trials.append(Trial(right, ours, theirs, summed=right))
    return compare("model", getattr(torch, config.dtype), trials)


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
            for case in all_cases(few):
                if dtype in case.dtypes and only in case.name:
                    judged(case.name, dtype, partial(judge, case, dtype))
            if only in "model":
                shape = TINY if few else HRMConfig()
                config = replace(shape, dtype=str(dtype).removeprefix("torch."))
                judged("model", dtype, partial(judge_model, config, 2 if few else 16))
    return found
