"""The trainer and the programs around it: `python -m train.dqn | evaluate | watch | play`."""

import os

# OpenMP threads that spin for long starve whatever shares their cores (one update took 7 times as
# long beside a compiler); ones that sleep at once wake too late. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
