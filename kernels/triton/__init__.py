"""The model's operations as fused Triton kernels, forward and backward, one file each.

Formulas and references stand in the files of the same names one folder up. Without a CUDA GPU the
kernels run in Triton's interpreter, on the host and slowly: enough to check them.
"""

import os
import sys

import torch

if not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
    if "triton" in sys.modules:
        raise ImportError("triton was imported before, without TRITON_INTERPRET=1 or a GPU")
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
