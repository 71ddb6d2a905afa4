"""A loss or weights that are no numbers end a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_continuation import CPU, small

from train.config import PRESETS
from train.files import checkpoint
from train.files.names import STATE
from train.run import state
from train.run.run import Run
from train.trainer import Trainer

QUICK = PRESETS["quick"]


@pytest.mark.parametrize(("where", "scheme"), [("loss", ""), ("weights", "file://")])
def test_numbers_that_are_none_end_the_run(where: str, scheme: str, tmp_path: Path) -> None:
    """At the first save, long before anything is logged; what was saved before stays."""
    config = replace(small("paper-maze", "carry"), updates=40, save_every=8, log_every=40)
    folder, place = tmp_path / "run", f"{scheme}{tmp_path}/run"
    config = replace(config, eval_every=40, run_dir=place)
    trainer = Trainer(config, CPU)
    run, cycle = Run(config, trainer), trainer.cycle

    def breaking() -> tuple[torch.Tensor, torch.Tensor]:
        result = cycle()
        if trainer.update == 12 and where == "loss":
            trainer.replay.data["r_t"].fill_(float("inf"))
        if trainer.update == 16 and where == "weights":
            trainer.optimiser.flat[3] = float("nan")
        return result

    trainer.cycle = breaking  # type: ignore[method-assign]
    what = r"loss of update 16 is (nan|inf)" if where == "loss" else r"weights after update 16"
    kept_in = f"the batch of that update is in {place}/bad_batch.safetensors"
    what += f".*; all was well at update 8; {kept_in}"
    with pytest.raises(ValueError, match=what), run:
        run.train()
    again = Trainer(config, CPU)
    state.restore(again, folder / STATE)
    assert again.update == 8
    assert checkpoint.load(folder)[1].get_parameter("embed").isfinite().all()
    with checkpoint.opening(folder / "bad_batch.safetensors") as file:
        assert file.metadata["update"] == "16"
        kept = file.tensors()
    assert kept["s_tm1"].shape == (config.dqn.batch_size, config.hrm.cells)
    assert bool(kept["r_t"].isinf().any()) == (where == "loss")


def test_the_loss_is_looked_at_only_where_the_run_logs_or_saves(tmp_path: Path) -> None:
    config = replace(small("quick", "reset"), updates=40, save_every=20, log_every=10)
    config = replace(config, eval_every=40, run_dir=str(tmp_path / "run"))
    run = Run(config, Trainer(config, CPU))
    looks, check = [], run.check
    run.check = lambda: (looks.append(run.trainer.update), check())[1]  # type: ignore[method-assign]
    run.train()
    run.close()
    assert sorted(set(looks)) == [10, 20, 30, 40]
