"""The benchmark's arithmetic and its check, and how a study reads and goes on with its runs."""

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrm_fast import HRMConfig
from profiling import bench_train, study, train_peers
from train import cli
from train import config as configs
from train.run.flags import parse as parse_flags
from train.run.log import COLUMNS


def test_flops_of_the_published_shape() -> None:
    hrm = HRMConfig()
    linear, attention = 131_072, 36_864  # a token, a block
    block = 144 * (linear + attention)
    assert train_peers.forward_flops(hrm) == 24 * block
    assert train_peers.segment_flops(hrm) == (24 + 16) * block
    cycle = train_peers.cycle_flops(configs.PRESETS["paper-maze"])
    assert cycle == 256 * 8 * (24 + 24 + 40) * block  # acting, target, segments
    assert cycle / 8 == pytest.approx(545e9, rel=1e-3)


def test_a_wrong_answer_is_not_timed(capsys: pytest.CaptureFixture) -> None:
    exact = {"q": torch.tensor([1.0, -2.0]), "gradient": torch.tensor([0.5])}
    eager = train_peers.errors({n: x * (1 + 1e-5) for n, x in exact.items()}, exact)
    train_peers.check(eager, "eager")
    assert "1.0e-05" in capsys.readouterr().out
    wrong = train_peers.errors(exact | {"gradient": torch.tensor([0.5001])}, exact)
    with pytest.raises(SystemExit, match=r"gradient is off by 2.0e-04; nothing"):
        train_peers.check(wrong, "fused")
    nan = train_peers.errors(exact | {"q": torch.tensor([1.0, torch.nan])}, exact)
    with pytest.raises(SystemExit, match="q is off by nan"):
        train_peers.check(nan, "fused")


def test_eager_and_fused_answer_alike_and_are_timed() -> None:
    quick = train_peers.shaped("quick", 0)
    sizes = {"num_mazes": 8, "batch_size": 4, "replay_size": 200, "learning_starts": 32}
    hrm = replace(quick.hrm, segments=3)
    tiny = replace(quick, hrm=hrm, dqn=replace(quick.dqn, **sizes))
    trainers, missing, case = train_peers.peers(
        tiny, "tiny", ["unfused", "cpu"], torch.device("cpu")
    )
    assert list(trainers) == ["reference", "unfused", "cpu"]
    assert not missing
    rows = [bench_train.matmul_row("cpu", 1, 1)]
    for kernels, trainer in trainers.items():
        rows += bench_train.rows_of(("tiny", kernels), trainer, case)
        trainer.phase.seconds.clear()
    lines = bench_train.lines_of(rows, [[2.0, 1.0, 4.0] for _ in rows])
    assert lines[1][3:6] == [f"{1e3 * x / rows[1].updates:.3f}" for x in (2, 1, 4)]
    assert [line[-1] for line in lines] == ["", *["1.00"] * 9]
    for row in rows[1:]:
        row.run()
    for trainer in trainers.values():
        shares = bench_train.phases(trainer)
        assert 0 < int(shares.split("in the model ")[1].split("%")[0]) <= 100


def test_every_change_is_a_command_line() -> None:
    sizes = [f"dqn.batch-size {n}" for n in (32, 64, 128)]
    words = ["--out", "nowhere", "--seeds", "0", "1"]
    args = study.parse([*words, "--changes", *sizes, "env.crop-wall"])
    jobs = study.plan(args)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    names = [job.name for job in jobs if job.seed == 0]  # 64 is the base's
    assert names == ["base", "batch-size-32", "batch-size-128", "crop-wall"]
    assert args.at == [2_500, 5_000, 7_500, 10_000]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "arguments are required: --out"),
        (["--out", "s", "--changes", "dqn.fast 1"], "--dqn.fast"),
        (["--out", "s", "--seeds", "0", "-1"], "seeds is -1: expected 0 to"),
        (["--out", "s", "--jobs", "0"], "jobs is 0: expected 1 to 1024"),
        (["--out", "s", "--updates", "0"], "updates is 0: expected"),
        (["--out", "s", "--base-args", "--preset fast"], "'fast'"),
        (["--out", "file/s"], "file/s"),
    ],
)
def test_a_bad_study_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run", None)  # nothing may run
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(lambda: study.main(words))
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and said in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def finished(job: study.Job, successes: list[float]) -> None:
    """What train.dqn leaves of a run with an evaluation every 10 updates."""
    config = parse_flags(job.command)
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(configs.to_json(config))
    (job.folder / "command").write_text(shlex.join(job.command))
    lines = [",".join(COLUMNS)]
    for i, success in enumerate(successes, 1):
        row = {"update": 10 * i, "transitions": 100 * i, "seconds": 2.5 * i}
        row |= {"eval/success": success}
        lines += [",".join(str(row.get(c, "")) for c in COLUMNS)]
        lines += [",".join(str(row.get(c, "")) if c != "eval/success" else "" for c in COLUMNS)]
    (job.folder / "metrics.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def jobs(tmp_path: Path) -> list[study.Job]:
    words = ["--changes", "dqn.batch-size 32", "--updates", "40", "--seeds", "0", "1"]
    jobs = study.plan(study.parse([*words, "--out", str(tmp_path)]))
    for job, last in zip(jobs, (0.8, 0.96, 0.92, 1.0), strict=True):
        finished(job, [0.1, 0.2, 0.5, last])
    return jobs


def test_a_curve_in_one_row(jobs: list[study.Job]) -> None:
    row = study.row_of(jobs[1], [5, 25])
    assert (row["name"], row["changes"], row["seed"]) == ("batch-size-32", "--dqn.batch-size 32", 0)
    assert (row["update"], row["transitions"], row["seconds"]) == (40, 400, 10.0)
    assert row["success at update 25"] == 0.2
    assert row["success at update 5"] is None
    assert (row["update of 50%"], row["seconds to 50%"]) == (30, 7.5)
    assert (row["update of 95%"], row["seconds to 95%"]) == (40, 10.0)


def test_what_learns_sooner_stands_above(jobs: list[study.Job]) -> None:
    header, *lines = study.table([study.row_of(job, [40]) for job in jobs])
    assert [line[:2] for line in lines] == [["batch-size-32", "2"], ["base", "2"]]
    assert lines[0][2] == "98.0% (96.0% to 100.0%)"
    assert dict(zip(header, lines[1], strict=True))["seconds to 90%"] == "10, 1 of 2"


def test_whole_runs_are_kept(jobs: list[study.Job], capsys: pytest.CaptureFixture) -> None:
    out = str(jobs[0].folder.parent)
    words = ["--changes", "dqn.batch-size 32", "--updates", "40", "--seeds", "0", "1"]
    words += ["--out", out]
    assert study.main(words) == 0
    assert "98.0% (96.0% to 100.0%)" in capsys.readouterr().out
    assert len((Path(out) / "study.csv").read_text().splitlines()) == 5
    with pytest.raises(ValueError, match=r"base-0 holds a run of .*--updates 40.* expected"):
        study.main([*words, "--updates", "50"])
    (jobs[0].folder / "metrics.csv").write_text(",".join(COLUMNS) + "\n")
    assert [study.whole(job) for job in jobs] == [False, True, True, True]


@pytest.mark.parametrize(("words", "message"), [
    (["--repeats", "0"], "--repeats is 0: expected 1 or more"),
    (["--paper-batch", "0"], "--paper-batch is 0: expected 1 or more"),
    (["--csv", "nowhere/table.csv"], "--csv is nowhere/table.csv: expected a file in a folder"),
])  # fmt: skip
def test_a_bad_benchmark_is_refused_before_it_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench_train.parse(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", ["nsys_train.sh", "ncu_kernel.sh"])
def test_scripts_say_what_they_miss(script: str) -> None:
    words = ["sh", str(Path(bench_train.__file__).with_name(script)), "swiglu_block"]
    path = {"PATH": "/bin:/usr/bin"}
    done = subprocess.run(words, capture_output=True, text=True, env=path, check=False)
    assert done.returncode == 2
    assert "not found: expected Nsight" in done.stderr
