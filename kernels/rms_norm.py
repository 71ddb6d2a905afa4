"""Root-mean-square normalisation without a learned weight, the end of both blocks."""

import torch
import torch.nn.functional as F

EPS = 1e-5


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """x / sqrt(mean(x^2) + 1e-5) over the last axis, x [..., D]; bfloat16 keeps fp32 statistics.

    Source: Zhang & Sennrich 2019, arXiv 1910.07467.
    """
    return F.rms_norm(x, x.shape[-1:], eps=EPS)
