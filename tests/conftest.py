"""Shared by all tests: the repository's root is importable, and torch keeps to itself."""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # profiling/ is not installed

torch.set_num_threads(1)  # tiny models: a second thread would mostly wait, and results vary with it
