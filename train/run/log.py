"""Where a run's numbers go: a CSV, TensorBoard (wandb if asked) and the terminal."""

import contextlib
import csv
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from train import cli
from train.files.names import METRICS, WANDB_ID
from train.files.writing import spelled, write_text

COLUMNS = (
    *("update", "transitions", "seconds", "updates_per_second"),
    *("charts/episodic_return", "charts/episodic_length", "charts/success", "charts/SPS"),
    *("charts/epsilon", "charts/learning_rate", "losses/td_loss", "losses/q_values"),
    *("eval/success", "eval/episodic_length", "eval/episodic_return", "eval/shortest_ratio"),
)


class Log:
    """Writes a row of numbers everywhere; a resumed run goes on where its state was saved."""

    def __init__(self, folder: Path, total: int, update: int, wandb: dict[str, Any] | None) -> None:
        self.path = folder / METRICS
        self._keep_rows(update)
        self.open = contextlib.ExitStack()
        place = self.open.enter_context(spelled(folder))
        self.board = SummaryWriter(place, purge_step=update + 1 if update else None)
        self.bar = tqdm(
            total=total,
            initial=update,
            unit="update",
            disable=not sys.stderr or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self.wandb = None if wandb is None else _wandb_run(folder, update > 0, wandb)

    def _keep_rows(self, update: int) -> None:
        """The CSV up to `update`: rows behind the saved state will be made again."""
        rows: list[dict[str, str]] = []
        if update and self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            whole = text.rpartition("\n")[0]  # no torn last row
            try:
                read = csv.DictReader(whole.splitlines())
                rows = [row for row in read if int(row["update"]) <= update]
            except (ValueError, KeyError, TypeError, csv.Error):
                raise ValueError(
                    f"{self.path} is damaged: expected the run's log, or none"
                ) from None
        kept = io.StringIO()
        writer = csv.DictWriter(kept, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, kept.getvalue())

    def row(self, numbers: dict[str, float]) -> None:
        """`numbers` has "update" and some of the other COLUMNS."""
        row = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in numbers.items()}
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
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
        cli.say(text)

    def progress(self, updates: int) -> None:
        self.bar.update(updates)

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self.bar.disable:
            cli.say(text)
        else:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.board.close()
        self.open.close()
        if self.wandb:
            self.wandb.finish()


def check_wandb() -> None:
    """ValueError: Weights & Biases is not installed, or would not log in."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("wandb is True: expected the package to be there (pip install wandb)")
    _with_wandb("login")


def _wandb_run(folder: Path, is_resumed: bool, config: dict[str, Any]) -> Any:
    """A new run there, or the one that is kept in the folder."""
    path = folder / WANDB_ID
    known = path.read_text(encoding="utf-8").strip() if is_resumed and path.exists() else None
    run = _with_wandb(
        "init", project="hrm_fast", dir=folder, config=config, id=known, resume="allow"
    )
    write_text(path, f"{run.id}\n")
    return run


def _with_wandb(what: str, **given: Any) -> Any:
    """ValueError: it failed, in one line."""
    import wandb  # noqa: PLC0415  (optional)

    try:
        return getattr(wandb, what)(**given)
    except Exception as error:  # it has many of its own
        why = " ".join(str(error).split()) or type(error).__name__
        way = "expected it to start; `wandb login` first, or set WANDB_MODE=offline"
        raise ValueError(f"wandb.{what} failed ({why}): {way}") from None


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
