"""The loop over a run's updates: log, evaluate, save. `train.trainer` trains."""

from __future__ import annotations

import atexit
import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from envs import GymSpec
from train import cli
from train.config import Config, require, to_json
from train.evaluate import SELECTION_SEED, evaluate
from train.files import checkpoint
from train.files.names import BEST, CONFIG, LAST, PREVIOUS, STATE
from train.files.writing import write_text
from train.machine import ranks
from train.replay import tensors_of
from train.run import state
from train.run.folder import lock_folder, mirror_of
from train.run.log import Log, Silent
from train.targets import epsilon_at
from train.trainer import Trainer


class Run:
    """A run's folder: its log, its checkpoints, and the signals that end it early.

    In a job rank 0 writes there, and every other rank its own state in a folder `rankR` inside.
    A run at a URL is written to a folder here and copied.
    """

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.mirror = mirror_of(config)
        self.folder = self.mirror.folder if self.mirror else Path(config.run_dir or "")
        self.is_writer = ranks.rank() == 0
        inside = "" if self.is_writer else f"rank{ranks.rank()}"
        self.own = self.folder / inside
        self.lock = lock_folder(self.own)
        self.signal = self.stopped_by = 0  # signal to this process; signal that ended the run
        self.save_asked = 0  # 1: a signal to this process asked for a save
        self.saved_at: int | None = None  # update of our STATE, if that file is whole
        seconds, self.best = self._resume() if config.resume else (0.0, -math.inf)
        self.finite_at = trainer.update
        self.began = time.perf_counter() - seconds
        self.log: Log | Silent = Silent()
        if self.is_writer:
            wandb = dataclasses.asdict(config) if config.wandb else None
            self.log = Log(self.folder, config.updates, trainer.update, wandb)
        if not config.resume:
            self.save()  # before config.json makes it a run: a run can always be resumed
        if self.mirror:
            self.mirror.push()  # what cannot be written is said before any work
        self._agree()  # waits for every rank's first state: only then it becomes a run
        if self.is_writer and (not config.resume or trainer.update < config.updates):
            kept = replace(config, resume=None)
            write_text(self.folder / CONFIG, to_json(kept))
        if self.mirror:
            self.mirror.push()
            self.mirror.may_rename = self.saved_at is not None

    def _resume(self) -> tuple[float, float]:
        trainer, config = self.trainer, self.config
        numbers, path, skipped = state.newest(self.own, trainer)
        for _ in range(2):  # a rank's PREVIOUS may be older still: then the others go back as well
            if trainer.update > ranks.all_reduce_min(_number(trainer.update)):
                skipped.append(f"{path} is newer than another process's state")
                path = self.own / PREVIOUS
                numbers = state.restore(trainer, path)
        if skipped:
            cli.say(f"{'; '.join(skipped)}. Going on from update {trainer.update} in {path}")
        why = f"{trainer.update} or more, where the run stands"
        require("updates", config.updates, config.updates >= trainer.update, why)
        if config.updates == trainer.update and self.is_writer:
            cli.say(f"{config.resume} has all its {config.updates} updates: for more, --updates N")
        self.saved_at = trainer.update if path.name == STATE else None
        return numbers

    def train(self) -> None:
        """Cycle until the updates are done or a signal comes; log, evaluate and save on the way."""
        trainer, config = self.trainer, self.config
        logged, since = trainer.update, time.perf_counter()
        is_cut = False
        while trainer.update < config.updates:
            stopped_by, save_asked = self._signals()
            if stopped_by:
                break
            before = trainer.update
            if save_asked:
                self.save()
                self.upload()
            is_cut = config.updates - before < config.hrm.segments
            if is_cut:
                self.save()  # with more updates, the cycle is repeated from here, uncut
            loss, q = trainer.cycle()
            self.log.progress(trainer.update - before)
            evaluates, logs, saves = (
                before // every != trainer.update // every
                for every in (config.eval_every, config.log_every, config.save_every)
            )
            if logs or evaluates or trainer.update == config.updates:
                speed = (trainer.update - logged) / (time.perf_counter() - since)
                numbers = self._numbers(loss, q, speed)
                self.log.row(numbers | (self._evaluate() if evaluates else {}))
                logged, since = trainer.update, time.perf_counter()
            if saves and not is_cut:
                self.save()
            if logs or evaluates or saves:
                self.upload()
        self.save(weights_only=is_cut)

    def handlers(self) -> dict[signal.Signals, Callable[[int, object], None]]:
        """What signals do to a run; a batch system warns with USR1 or USR2, or sends XCPU."""
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
        saves = (signal.SIGUSR1, signal.SIGUSR2)
        return dict.fromkeys(ends, self.stop) | dict.fromkeys(saves, self.ask_to_save)

    def stop(self, number: int, _: object) -> None:
        """A signal's handler: end after this cycle; a second signal does not wait for that.

        In a job it does: a cluster may signal both torchrun, which hands it on, and the ranks.
        """
        if self.signal and ranks.world() == 1:
            raise KeyboardInterrupt
        self.signal = number

    def ask_to_save(self, *_: object) -> None:
        """A signal's handler: save after this cycle, and go on."""
        self.save_asked = 1

    def _signals(self) -> tuple[int, int]:
        """Which signal that ends the run came to any rank, and whether one that asks for a save:
        all of them leave, or save, after the same cycle."""
        own = torch.tensor([self.signal, self.save_asked], dtype=torch.int64, device="cpu")
        self.save_asked = 0
        self.stopped_by, save_asked = map(int, ranks.all_reduce_max(own))
        return self.stopped_by, save_asked

    def _numbers(self, loss: Tensor, q: Tensor, speed: float) -> dict[str, float]:
        trainer, dqn, world = self.trainer, self.config.dqn, ranks.world()
        self.check()
        self._agree()
        td_loss, q_mean = (ranks.all_reduce_sum(torch.stack((loss, q))) / world).tolist()
        numbers = {
            "update": trainer.update,
            "transitions": trainer.transitions * world,
            "seconds": time.perf_counter() - self.began,
            "updates_per_second": speed,
            "charts/SPS": speed * dqn.num_mazes * world / self.config.hrm.segments,
            "charts/epsilon": epsilon_at(dqn, trainer.optimiser.done).item(),
            "charts/learning_rate": dqn.learning_rate * trainer.optimiser.share().item(),
            "losses/td_loss": td_loss,
            "losses/q_values": q_mean,
        }
        episodes, success, length, total = trainer.collector.finished()
        if episodes:
            numbers["charts/success"] = success
            numbers["charts/episodic_length"] = length
            numbers["charts/episodic_return"] = total
        return numbers

    def _agree(self) -> None:
        """ValueError: the ranks have come apart, as they would on machines that round otherwise."""
        update, weights = self.trainer.update, self.trainer.optimiser.flat.double().sum().item()
        own = torch.tensor([[update, weights]], dtype=torch.float64, device="cpu")
        all_of_them = ranks.all_gather(own)
        same = bool((all_of_them == all_of_them[0]).all())
        why = "the same in every process"
        require("update and sum of the weights", all_of_them.tolist(), same, why)

    def _evaluate(self) -> dict[str, float]:
        """Greedy episodes on mazes that training never sees; the best weights so far are kept."""
        config, judged = self.config, self.trainer.eval_model
        with self.trainer.phase("evaluate"):
            result = evaluate(judged, config.env, config.eval_episodes, SELECTION_SEED)
        score = result.mean_return if isinstance(config.env, GymSpec) else result.success
        if score >= self.best:
            self.best = score
            if self.is_writer:
                checkpoint.save(self.folder / BEST, judged, config)
        ratio = result.shortest_ratio
        return {
            "eval/success": result.success,
            "eval/episodic_length": result.mean_length,
            "eval/episodic_return": result.mean_return,
            **({} if ratio is None else {"eval/shortest_ratio": ratio}),
        }

    def save(self, weights_only: bool = False) -> None:
        """Write the weights and all that --resume needs, unless that is there."""
        if self.saved_at == self.trainer.update:
            return
        self.check()
        with self.trainer.phase("save"):
            if self.is_writer:
                checkpoint.save(self.folder / LAST, self.trainer.eval_model, self.config)
            if not weights_only:
                seconds = time.perf_counter() - self.began
                previous = None if self.saved_at is None else self.own / PREVIOUS
                state.save(self.trainer, self.own / STATE, seconds, self.best, previous)
                self.saved_at = self.trainer.update

    def check(self) -> None:
        """ValueError for a loss or weights that are no numbers: they must not replace good ones.

        Looks only where the run logs or saves, since a GPU would be waited for; so the batch that
        is kept is the present one, and what went wrong may be as old as the last look.
        """
        trainer, learned = self.trainer, self.trainer.learned
        loss = 0.0 if learned is None else learned.loss.item()
        if math.isfinite(loss) and trainer.optimiser.is_finite():
            self.finite_at = trainer.update
            return
        what = f"the weights after update {trainer.update} are not finite: expected finite ones"
        if not math.isfinite(loss):
            what = f"the loss of update {trainer.update} is {loss}: expected a finite loss"
        kept = ""
        if learned is not None:
            path = self.own / "bad_batch.safetensors"
            numbers = {"update": str(trainer.update), "loss": str(loss)}
            checkpoint.save_tensors(path, tensors_of(learned.batch) | {"y": learned.y}, numbers)
            place = self.mirror.url if self.mirror else self.own
            kept = f"; the batch of that update is in {place}/{path.name}"
        raise ValueError(f"{what}; all was well at update {self.finite_at}{kept}")

    def upload(self) -> None:
        """Copy what is new to the run's URL, if it has one; what fails is tried again later."""
        if self.mirror is None:
            return
        try:
            self.mirror.push()
            self.mirror.may_rename = self.saved_at is not None
        except OSError as error:
            self.log.say(f"not copied, to be tried again: {error}")

    def close(self) -> None:
        """Finish the log and let go of environments and folder.

        OSError: it could not be copied to its URL.
        """
        self.trainer.collector.mazes.close()
        self.log.close()
        os.close(self.lock)
        if self.mirror is None:
            return
        try:
            self.mirror.push()
        except OSError as error:
            atexit.unregister(self.mirror.remove_copy)
            raise OSError(f"{error}; the run is kept in {self.folder}") from None
        self.mirror.remove_copy()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Close it; where the run ended with an error, that is what is told in the end."""
        try:
            self.close()
        except OSError as late:
            if error is None:
                raise
            print(late, file=sys.stderr)


def _number(x: int) -> Tensor:
    return torch.tensor(x, dtype=torch.int64, device="cpu")
