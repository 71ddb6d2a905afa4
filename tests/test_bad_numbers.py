"""A loss or weights that are no numbers end a run; a long run's memory and speed are watched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_continuation import CPU, small

from profiling import soak
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


def test_soak_samples_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(soak.PRESETS, "quick", small("quick", "reset"))
    monkeypatch.setattr("sys.argv", ["soak", "--minutes=0.02", "--every=0.2", f"--out={tmp_path}"])
    soak.main()
    rows = (tmp_path / "soak.csv").read_text().splitlines()
    assert len(rows) >= 1 + soak.WARM_UP + 2
    for row in rows[1:]:
        _, _, rss, speed, share = map(float, row.split(","))
        assert rss > 10 and speed > 0 and 0 < share <= 1
    assert (tmp_path / "soak.png").stat().st_size > 5_000


def test_drift_is_what_an_hour_adds() -> None:
    steady = [soak.Sample(i, i, 500 + i / 6, 20.0, 0.9) for i in range(60)]
    said = soak.drift(steady)
    assert "rss_mib 500.3 to 509.8, +10 an hour" in said
    assert "updates_per_second 20 to 20" in said
