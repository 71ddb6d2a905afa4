"""The console commands. They look for this project's packages where this file lies before anywhere
else: neither the current folder nor other packages of those names matter. So this file lies beside
the packages and imports none of them."""

import runpy
import sys
from pathlib import Path


def _run(module: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def train() -> None:
    _run("train.dqn")


def evaluate() -> None:
    _run("train.evaluate")


def watch() -> None:
    _run("train.watch")
