"""Trains HRM-Agent: mazes -> replay -> targets -> segments -> loss -> optimiser -> log.

python -m train.dqn --preset quick
"""

import copy
import dataclasses
import importlib.util
import math
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hrm_fast import HRM
from train import checkpoint, cli, curve
from train import config as configs
from train.collect import Collector
from train.config import Config
from train.evaluate import SELECTION_SEED, evaluate
from train.graph import Graphs
from train.halting import best_action, segment_with_halting
from train.hindsight import Relabel
from train.log import Log, PhaseClock
from train.optimiser import Optimiser
from train.replay import Replay
from train.targets import epsilon_at, refresh, relabel_at, td_target


class Trainer:
    """Everything that changes while training, and the cycle that changes it."""

    def __init__(self, config: Config, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.hrm = HRM(config.hrm).to(device)
        self.target = copy.deepcopy(self.hrm).requires_grad_(False)
        self.optimiser = Optimiser(self.hrm, self.target, config)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.collector = Collector(config.env, config.dqn, self.hrm, config.seed)
        self.replay = Replay(config.dqn, self.collector.obs, self.collector.seed)
        self.update = 0
        self.transitions = 0
        self.phase = PhaseClock()
        self.learn = Graphs(self._learn, self.generator) if self.is_repeatable() else self._learn

    def cycle(self) -> tuple[Tensor, Tensor]:
        """One step of all mazes, one batch, one update per segment. Returns last loss, mean Q."""
        dqn = self.config.dqn
        first = max(dqn.learning_starts, dqn.n_step * dqn.num_mazes)
        while self.transitions + dqn.num_mazes < first:
            self.collect()
            self.transitions += dqn.num_mazes
        updates = min(self.config.hrm.segments, self.config.updates - self.update)
        relabels = dqn.relabel > 0 and self.update < dqn.epsilon_updates
        result = self.learn(updates, relabels)
        self.update += updates
        self.transitions += dqn.num_mazes
        return result

    def is_repeatable(self) -> bool:
        """Whether `_learn` can be a CUDA graph: nothing in it waits for the host."""
        config, mazes = self.config, self.collector.mazes
        counts = self.optimiser.fused is not None and not config.hrm.halting
        return config.cuda_graph and mazes.is_resident and counts

    def _learn(self, updates: int, relabels: bool) -> tuple[Tensor, Tensor]:
        """The cycle itself. Where the fused optimiser counts, nothing here needs the host."""
        dqn, phase = self.config.dqn, self.phase
        with phase("collect"):
            self.collect()
        with phase("sample"):
            share = relabel_at(dqn, self.optimiser.done)
            relabel = Relabel(share, self.hrm.start_seed(dqn.batch_size)) if relabels else None
            batch = self.replay.sample(dqn.batch_size, self.generator, relabel)
        with phase("target"):
            batch = refresh(self.target, batch, dqn.refresh)
            y = td_target(self.target, batch)  # [B]
            best = best_action(self.target, batch) if self.hrm.config.halting else None
        carry = self.hrm.carry_from(batch.seed_tm1)
        for s in range(updates):
            with phase("segment"):
                if best is None:
                    td = batch.a_tm1, y, batch.weight
                    last = s + 1 == self.config.hrm.segments
                    carry, q, loss = self.hrm.td_segment(carry, batch.s_tm1, *td, last)
                else:
                    carry, q, loss = segment_with_halting(self.hrm, carry, batch, y, best, s)
            with phase("backward"):
                loss.backward()
            with phase("optimiser"):
                self.optimiser.step(self.update + s)
        self.replay.prioritise(batch, q.detach(), y)
        return loss.detach(), q.detach().mean()

    def collect(self) -> None:
        epsilon = epsilon_at(self.config.dqn, self.optimiser.done)
        self.replay.add(self.collector.step(self.hrm, epsilon, self.generator))

    @property
    def judged(self) -> HRM:
        """The weights that are evaluated and saved."""
        return self.target if self.config.dqn.averaged else self.hrm

    def parts(self) -> dict[str, Replay | Collector | Optimiser]:
        return {"replay": self.replay, "collector": self.collector, "optimiser": self.optimiser}

    def save(self, path: Path, seconds: float, best: float) -> None:
        """Write all that `restore` needs, in one file."""
        tensors = {
            f"{part}/{name}": x
            for part, owner in self.parts().items()
            for name, x in owner.state().items()
        }
        tensors["generator"] = self.generator.get_state()
        tensors["start"] = torch.stack((self.hrm.start_H, self.hrm.start_L))
        counts = {"update": self.update, "transitions": self.transitions}
        numbers = {k: repr(v) for k, v in {**counts, "seconds": seconds, "best": best}.items()}
        device = self.generator.device.type
        checkpoint.save_tensors(path, tensors, {**numbers, "device": device})

    def restore(self, path: Path) -> tuple[float, float]:
        """Inverse of `save`; returns seconds and best. ValueError: not such a file."""
        tensors, metadata = checkpoint.load_tensors(path)
        try:
            saved, here = metadata["device"], self.generator.device.type
            configs.require("device", here, here == saved, f"{saved}, on which the run was saved")
            for part, owner in self.parts().items():
                names = [k for k in tensors if k.startswith(f"{part}/")]
                owner.restore({k.removeprefix(f"{part}/"): tensors[k] for k in names})
            self.generator.set_state(tensors["generator"])
            for model in (self.hrm, self.target):
                model.start_H.copy_(tensors["start"][0])
                model.start_L.copy_(tensors["start"][1])
            self.update, self.transitions = (int(metadata[k]) for k in ("update", "transitions"))
            return float(metadata["seconds"]), float(metadata["best"])
        except KeyError as error:
            why = "expected what train.dqn saves with these flags"
            raise ValueError(f"{path} has no {error}: {why}") from None


class Run:
    """A run's folder: its log, its checkpoints, and the signals that end it early."""

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.folder = Path(config.run_dir or "")
        self.stopped_by: int | None = None
        seconds, self.best = 0.0, -1.0
        if config.resume:
            state = self.folder / "state.safetensors"
            try:
                seconds, self.best = trainer.restore(state)
            except ValueError as error:
                raise ValueError(f"{config.resume} cannot be resumed as asked: {error}") from None
            why = f"more than {trainer.update}, where the run stands"
            configs.require("updates", config.updates, config.updates > trainer.update, why)
        self.began = time.perf_counter() - seconds
        kept = replace(config, resume=None)
        checkpoint.write_text(self.folder / "config.json", configs.to_json(kept))
        wandb = dataclasses.asdict(config) if config.wandb else None
        self.log = Log(self.folder, config.updates, trainer.update, wandb)

    def train(self) -> None:
        """Cycle until the updates are done or a signal comes; log, evaluate and save on the way."""
        trainer, config = self.trainer, self.config
        logged, since = trainer.update, time.perf_counter()
        while trainer.update < config.updates and self.stopped_by is None:
            before = trainer.update
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
            if saves:
                self.save()
        self.save()

    def stop(self, number: int, _: object) -> None:
        """A signal's handler: end after this cycle; a second signal does not wait for that."""
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        self.stopped_by = number

    def _numbers(self, loss: Tensor, q: Tensor, speed: float) -> dict[str, float]:
        trainer, dqn = self.trainer, self.config.dqn
        good, why = math.isfinite(loss.item()), f"a finite loss; {self.folder} keeps the last save"
        configs.require(f"the loss of update {trainer.update}", loss.item(), good, why)
        numbers = {
            "update": trainer.update,
            "transitions": trainer.transitions,
            "seconds": time.perf_counter() - self.began,
            "updates_per_second": speed,
            "charts/SPS": speed * dqn.num_mazes / self.config.hrm.segments,
            "charts/epsilon": epsilon_at(dqn, trainer.optimiser.done).item(),
            "charts/learning_rate": dqn.learning_rate * trainer.optimiser.share(trainer.update),
            "losses/td_loss": loss.item(),
            "losses/q_values": q.item(),
        }
        episodes, success, length, total = trainer.collector.finished()
        if episodes:
            numbers["charts/success"] = success
            numbers["charts/episodic_length"] = length
            numbers["charts/episodic_return"] = total
        return numbers

    def _evaluate(self) -> dict[str, float]:
        """Greedy episodes on mazes that training never sees; the best weights so far are kept."""
        config, judged = self.config, self.trainer.judged
        with self.trainer.phase("evaluate"):
            result = evaluate(judged, config.env, config.eval_episodes, SELECTION_SEED)
        if result.success >= self.best:
            self.best = result.success
            checkpoint.save(self.folder / "best.safetensors", judged, config)
        ratio = result.shortest_ratio
        return {
            "eval/success": result.success,
            "eval/episodic_length": result.mean_length,
            **({} if ratio is None else {"eval/shortest_ratio": ratio}),
        }

    def save(self) -> None:
        with self.trainer.phase("save"):
            checkpoint.save(self.folder / "last.safetensors", self.trainer.judged, self.config)
            seconds = time.perf_counter() - self.began
            self.trainer.save(self.folder / "state.safetensors", seconds, self.best)


def choose_folder(config: Config) -> Config:
    """Name the run's folder: the resumed one, the one asked for, or a free one under runs/."""
    if config.resume:
        return replace(config, run_dir=config.resume)
    if config.run_dir:
        if (Path(config.run_dir) / "config.json").exists():
            raise ValueError(
                f"run-dir is {config.run_dir!r}, which holds a run: expected a new folder, "
                f"or --resume {config.run_dir}"
            )
        return config
    name = f"runs/{config.preset}-{config.seed}"
    free = (f"{name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 10_000))))
    return replace(config, run_dir=next(f for f in free if not Path(f).exists()))


def program() -> int:
    config = choose_folder(configs.parse(description=__doc__ or ""))
    device = configs.choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose streams and graphs are meant where none is named
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("wandb is True: expected the package to be there (pip install wandb)")
    trainer = Trainer(config, device)
    run = Run(config, trainer)
    size = sum(p.numel() for p in trainer.hrm.parameters())
    run.log.say(f"{config.preset}: {size:,} parameters on {device}, run folder {run.folder}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.stop)
    run.train()
    run.log.close()
    print(f"time went to  {trainer.phase.report()}")
    if run.stopped_by is not None:
        print(
            f"stopped at update {trainer.update} of {config.updates}; saved. Continue with: "
            f"python -m train.dqn --resume {run.folder}"
        )
        return 130 if run.stopped_by == signal.SIGINT else 0
    picture = run.folder / "learning_curve.png"
    curve.draw({config.preset: [run.folder]}, picture)
    print(f"learning curve in {picture}; judge the agent with:")
    print(f"  python -m train.evaluate {run.folder}\n  python -m train.watch {run.folder}")
    return 0


if __name__ == "__main__":
    cli.main(program)
