"""The trainer and the programs around it: `python -m train.dqn | evaluate | watch | play`."""

import os
import sys

# OpenMP threads that spin for long starve whatever shares their cores (one update took 7 times as
# long beside a compiler); ones that sleep at once wake too late. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

try:
    from hrm_fast import beside

    beside.check("envs", "kernels", "train")  # names that others have as well
    import envs as envs  # refuses what was built from other sources
except ImportError as error:
    if sys.argv[:1] != ["-m"]:  # else `python -m train.PROGRAM` is just being found
        raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
