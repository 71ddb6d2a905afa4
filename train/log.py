"""Where a run's numbers go: a phase clock, a CSV, TensorBoard (wandb if asked) and the terminal."""

import contextlib
import csv
import io
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from train.checkpoint import write_text

try:  # NVTX ranges name the phases in Nsight Systems; there is no nvtx package for macOS
    import nvtx
except ImportError:
    nvtx = None

COLUMNS = (
    *("update", "transitions", "seconds", "updates_per_second"),
    *("charts/episodic_return", "charts/episodic_length", "charts/success", "charts/SPS"),
    *("charts/epsilon", "charts/learning_rate", "losses/td_loss", "losses/q_values"),
    *("eval/success", "eval/episodic_length", "eval/episodic_return", "eval/shortest_ratio"),
)


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


class Log:
    """Writes a row of numbers everywhere; a resumed run goes on where its state was saved."""

    def __init__(self, folder: Path, total: int, update: int, wandb: dict[str, Any] | None) -> None:
        self.path = folder / "metrics.csv"
        self._keep_rows(update)
        self.board = SummaryWriter(str(folder), purge_step=update + 1 if update else None)
        self.bar = tqdm(
            total=total,
            initial=update,
            unit="update",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self.wandb = None
        if wandb is not None:
            import wandb as weights_and_biases  # noqa: PLC0415  (optional)

            self.wandb = weights_and_biases.init(project="hrm_fast", dir=folder, config=wandb)

    def _keep_rows(self, update: int) -> None:
        """The CSV up to `update`: rows behind the saved state will be made again."""
        rows: list[dict[str, str]] = []
        if update and self.path.exists():
            whole = self.path.read_text(errors="replace").rpartition("\n")[0]  # no torn last row
            try:
                read = csv.DictReader(whole.splitlines())
                rows = [row for row in read if int(row["update"]) <= update]
            except (ValueError, KeyError, TypeError, csv.Error):
                raise ValueError(
                    f"{self.path} is damaged: expected the run's log, or none"
                ) from None
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def row(self, numbers: dict[str, float]) -> None:
        """`numbers` has "update" and some of the other COLUMNS."""
        row = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in numbers.items()}
        try:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror}") from None
        update = int(numbers["update"])
        scalars = {k: v for k, v in numbers.items() if "/" in k}
        for name, value in scalars.items():
            self.board.add_scalar(name, value, update)
        if self.wandb:
            self.wandb.log(scalars, step=update)
        self._tell(numbers)

    def _tell(self, numbers: dict[str, float]) -> None:
        success, evaluated = numbers.get("charts/success"), numbers.get("eval/success")
        if not self.bar.disable:
            if evaluated is not None:
                self.bar.set_postfix_str(f"greedy success {evaluated:.1%}")
            return
        text = f"update {numbers['update']:>7}  {numbers['seconds']:6.0f} s"
        text += f"  {numbers['updates_per_second']:6.1f} updates/s"
        if success is not None:
            text += f"  training success {success:6.1%}"
        text += f"  loss {numbers['losses/td_loss']:.2e}"
        if evaluated is not None:
            text += f"  greedy success {evaluated:6.1%}"
        print(text, flush=True)

    def progress(self, updates: int) -> None:
        self.bar.update(updates)

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.board.close()
        if self.wandb:
            self.wandb.finish()


class Silent:
    """The log of a rank that does not write."""

    def row(self, numbers: dict[str, float]) -> None:
        pass

    def progress(self, updates: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass
