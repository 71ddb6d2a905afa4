"""Where a run's time goes: a clock for each phase, which also names it in Nsight Systems."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

try:  # there is no nvtx package for macOS
    import nvtx
except ImportError:
    nvtx = None


class PhaseClock:
    """Seconds spent in each named phase, and an NVTX range around it.

    On a GPU these are the host's seconds: work that is still queued is not in them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if nvtx:
            nvtx.push_range(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            if nvtx:
                nvtx.pop_range()

    def report(self) -> str:
        """One line: each phase's share of the time in all phases."""
        total = sum(self.seconds.values()) or 1.0
        shares = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "  ".join(f"{name} {seconds / total:.0%}" for name, seconds in shares)
