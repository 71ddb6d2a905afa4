"""What a run survives: kills, torn files, full disks, a second process, signals."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import saved_run
import torch
from saved_run import copy
from test_continuation import CPU, bits_of, small, walk

from train import config as configs
from train import dqn
from train.config import Config
from train.files import checkpoint
from train.files.names import PREVIOUS, STATE
from train.files.writing import write_text
from train.run import log, state
from train.run.run import Run
from train.run.state import newest
from train.trainer import Trainer

TESTS = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        checkpoint.save_tensors(tmp_path / "weights", {"w": torch.zeros(2)}, {})
        write_text(tmp_path / "text", "x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def killed(kills: int, folder: Path) -> None:
    program = [sys.executable, str(TESTS / "kill_training.py"), str(kills), str(folder / "runs")]
    out = subprocess.run(program, capture_output=True, text=True, env=ENV, check=False)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout.split()[0]) >= kills


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    killed(8, tmp_path)


@pytest.mark.slow
def test_a_run_killed_200_times_goes_on(tmp_path: Path) -> None:
    killed(200, tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return saved_run.train(tmp_path_factory.mktemp("saved"))


def torn(data: bytes, draw: random.Random) -> bytes:
    """Cut off, with a flipped bit, or with zeros in place of a piece: what power cuts leave."""
    at = draw.randrange(len(data))
    kind = draw.randrange(3)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    return data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]


def test_torn_states(saved: Config, tmp_path: Path) -> None:
    """Whatever was torn, what loads is what was saved, and the state before it is there."""
    folder, trainer, draw = Path(saved.run_dir or ""), Trainer(saved, CPU), random.Random(0)
    whole = (folder / STATE).read_bytes()
    state.restore(trainer, folder / STATE)
    right = {name: bits_of(x) for name, x in state.tensors(trainer).items()}
    shutil.copy(folder / PREVIOUS, tmp_path)
    fell_back = 0
    for _ in range(300):
        (tmp_path / STATE).write_bytes(torn(whole, draw))
        _, path, skipped = newest(tmp_path, trainer)
        if path.name == PREVIOUS:
            assert trainer.update == 8 and len(skipped) == 1
            fell_back += 1
        else:  # padding of the header, zeros over zeros, or the name under which a sum is kept
            assert {name: bits_of(x) for name, x in state.tensors(trainer).items()} == right
    assert fell_back > 250


def test_the_message_names_what_was_skipped(
    saved: Config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = copy(saved, tmp_path / "run")
    state, previous = (tmp_path / "run" / name for name in (STATE, PREVIOUS))
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = previous.read_bytes()
    run = Run(config, Trainer(config, CPU))
    said = capsys.readouterr().out
    assert f"{state} is damaged: expected the data that was written (SHA-256)" in said
    assert f"Going on from update 8 in {previous}" in said
    run.trainer.cycle()
    run.save()
    assert previous.read_bytes() == before  # a damaged state never takes its place
    run.trainer.cycle()
    run.save()
    assert previous.read_bytes() != before
    run.close()
    for path in (state, previous):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"state.safetensors is not .*; .*state.previous") as error:
        Run(config, Trainer(config, CPU))
    assert "\n" not in str(error.value)


def test_a_log_torn_in_its_last_row(saved: Config, tmp_path: Path) -> None:
    config = copy(saved, tmp_path / "run")
    path = tmp_path / "run" / "metrics.csv"
    whole = path.read_text()
    for tail in ("1", "13,17", "16,1,2,3,4,5,6,7,8,9,1,1,1,1,1\n17", "\0" * 100):
        path.write_text(whole + tail)
        Run(config, Trainer(config, CPU)).close()
        assert path.read_text() == whole


def test_torn_weights(saved: Config, tmp_path: Path) -> None:
    draw, path = random.Random(1), tmp_path / "best.safetensors"
    whole = (Path(saved.run_dir or "") / "best.safetensors").read_bytes()
    right = checkpoint.load(Path(saved.run_dir or ""))[1].state_dict()
    refused = 0
    for _ in range(200):
        path.write_bytes(torn(whole, draw))
        try:
            found = checkpoint.load(path)[1].state_dict()
        except ValueError as error:
            assert str(path) in str(error) and "expected" in str(error)
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(torch.equal(x, right[name]) for name, x in found.items())
    assert refused > 150


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dataclasses import replace
from test_continuation import CPU, small
from train import cli
from train.trainer import Trainer
from train.run.run import Run

def program():
    config = replace(small("quick", "carry"), updates=1_000, save_every=2, log_every=2)
    run = Run(replace(config, run_dir=sys.argv[1]), Trainer(config, CPU))
    if sys.argv[2] == "limit":
        size = (run.folder / "state.safetensors").stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4_000, size + 4_000))
    run.train()

cli.main(program)
"""
# a disk that only this command and its children see: what is left there is copied beside it
SMALL_DISK = """
mount -t tmpfs -o size=200k none "$1" && cd "$2" && "$3" -c "$4" "$1/run" tmpfs
status=$?
cp -r "$1/run" "$1-left" && exit $status
"""


@pytest.mark.parametrize("disk", ["limit", "tmpfs"])
def test_a_full_disk_ends_the_run_and_keeps_its_state(disk: str, tmp_path: Path) -> None:
    """The state grows with the replay until it no longer fits."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", FULL_DISK, str(folder), disk]
    if disk == "tmpfs":
        own = ["unshare", "--map-root-user", "--mount"]
        if not shutil.which(own[0]) or subprocess.run([*own, "true"], check=False).returncode:
            pytest.skip("needs Linux with user namespaces")
        (tmp_path / "disk").mkdir()
        words = [str(tmp_path / "disk"), str(TESTS), sys.executable, FULL_DISK]
        command, folder = [*own, "sh", "-c", SMALL_DISK, "sh", *words], tmp_path / "disk-left"
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS, env=ENV)
    assert out.returncode == 2, out.stderr
    assert re.fullmatch(r"error: .*state.safetensors could not be written: .*\n", out.stderr)
    assert ("No space left on device" in out.stderr) == (disk == "tmpfs")
    assert not list(folder.glob(".*.part"))
    config = configs.load(folder / "config.json")
    trainer = Trainer(config, CPU)
    assert newest(folder, trainer)[2] == []
    checkpoint.load(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_is_told_in_one_line(tmp_path: Path) -> None:
    run = log.Log(tmp_path, 1, 0, None)
    run.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"^/dev/full could not be written: No space left on device$"):
        run.row({"update": 1, "seconds": 0.0, "updates_per_second": 1.0, "losses/td_loss": 0.0})
    run.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("module", ["train.dqn", "train.evaluate"])
def test_a_full_disk_under_what_is_printed(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    told = "error: what is printed cannot be written: the disk is full\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_one_process_at_a_time(saved: Config, tmp_path: Path) -> None:
    config = copy(saved, tmp_path / "run")
    (tmp_path / "run" / ".state.safetensors.part").write_bytes(b"half")  # of a killed process
    first = Run(config, Trainer(config, CPU))
    assert not list((tmp_path / "run").glob(".*.part"))
    with pytest.raises(ValueError, match=r"run is in use: expected no other process"):
        Run(config, Trainer(config, CPU))
    first.close()
    Run(config, Trainer(config, CPU)).close()


@pytest.mark.parametrize("start", ["program", "lambda: cli.parse(program, args=[])"])
def test_terminated_before_the_loop_and_in_other_programs(start: str, tmp_path: Path) -> None:
    """SIGTERM unwinds a program, which removes what it has half written."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom train import cli\n"
        "from train.files.writing import replacing\n"
        "def program():\n"
        "    with replacing(Path(sys.argv[1])) as part:\n"
        "        part.write_text('half')\n        print('now', flush=True)\n"
        "        time.sleep(60)\n"
        f"cli.main({start})\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    assert [path.name for path in tmp_path.iterdir()] == [".x.part"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_sigterm_saves_and_a_second_signal_does_not_wait(saved: Config, tmp_path: Path) -> None:
    config = replace(saved, updates=1_000, run_dir=str(tmp_path / "run"))
    assert walk(config, cycles=7).trainer.update == 14  # stopped by signal 15
    trainer = Trainer(config, CPU)
    newest(tmp_path / "run", trainer)
    assert trainer.update == 14
    run = Run(replace(config, resume=config.run_dir), trainer)
    run.stop(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        run.stop(signal.SIGINT, None)
    run.close()


@pytest.mark.parametrize(("number", "status"), [
    (signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGXCPU, 0), (signal.SIGINT, 130),
])  # fmt: skip
def test_a_signal_saves_and_says_how_to_go_on(
    number: int,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    config = replace(small("quick", "reset"), updates=1_000, run_dir=str(tmp_path / "run"))
    cycle = Trainer.cycle

    def signalling(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
        if trainer.update == 4:
            os.kill(os.getpid(), number)
        return cycle(trainer)

    monkeypatch.setattr(Trainer, "cycle", signalling)
    monkeypatch.setattr("train.run.flags.parse", lambda **_: config)
    before = signal.getsignal(number)
    assert dqn.program() == status
    assert signal.getsignal(number) is before
    said = capsys.readouterr().out
    assert "stopped at update 6 of 1000; saved." in said
    assert f"python -m train.dqn --resume {tmp_path / 'run'}" in said
    trainer = Trainer(config, CPU)
    state.restore(trainer, tmp_path / "run" / STATE)
    assert trainer.update == 6


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_saves_and_the_run_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(small("quick", "reset"), updates=16, run_dir=str(tmp_path / "run"))
    cycle, seen = Trainer.cycle, {}

    def signalling(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
        if trainer.update == 4:
            os.kill(os.getpid(), number)
        with checkpoint.opening(tmp_path / "run" / STATE) as file:
            seen[trainer.update] = file.metadata["update"]
        return cycle(trainer)

    monkeypatch.setattr(Trainer, "cycle", signalling)
    monkeypatch.setattr("train.run.flags.parse", lambda **_: config)
    assert dqn.program() == 0
    assert seen == {0: "0", 2: "0", 4: "0", **dict.fromkeys((6, 8, 10, 12, 14), "6")}


def test_a_state_of_another_run_is_refused(saved: Config, tmp_path: Path) -> None:
    config = copy(saved, tmp_path / "run")
    with pytest.raises(ValueError, match=r"seed is '7': expected 0, of the run that saved"):
        Run(replace(config, seed=7), Trainer(replace(config, seed=7), CPU))
    own = tmp_path / "run"
    shutil.copy(own / "last.safetensors", own / STATE)
    trainer = Trainer(config, CPU)
    _, path, skipped = newest(own, trainer)
    assert path.name == PREVIOUS and "is no state: expected one that train.dqn saved" in skipped[0]


def test_places_that_are_no_folder(tmp_path: Path) -> None:
    config = small("quick", "reset")
    (tmp_path / "file").write_text("")
    for place, why in (
        (f"{tmp_path}/file", r"file \(File exists\): expected a folder"),
        (f"{tmp_path}/file/x", r"file/x \(Not a directory\): expected a folder"),
        ("memory://x", r"run-dir is 'memory://x': expected a place that outlasts this process"),
    ):
        with pytest.raises(ValueError, match=why):
            Run(replace(config, run_dir=place), Trainer(config, CPU))
