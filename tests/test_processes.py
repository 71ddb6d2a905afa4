"""Processes as others start them: forked while they use threads, with streams closed, in notebooks,
threads, containers and other locales, several at once, and with signals of batch systems."""

import contextlib
import errno
import fcntl
import hashlib
import importlib
import multiprocessing
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_continuation import small

from envs import MazeBatch, MazeSpec
from hrm_fast import HRM, HRMConfig
from train import cli, dqn
from train.analyse import figures
from train.config import PRESETS, Config
from train.files import checkpoint
from train.files.names import STATE
from train.files.writing import replacing, write_text
from train.machine import memory, ranks
from train.run.flags import parse as parse_flags
from train.run.folder import name_folder
from train.run.run import Run
from train.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent

SPEC = MazeSpec(map="corridors")
CONFIG = HRMConfig(
    cells=SPEC.cells, columns=SPEC.cols, width=32, h_layers=1, l_layers=1, segments=2, kernels="cpu"
)
SECONDS = 60  # a child that has not ended by then hangs


def built() -> tuple[MazeBatch, HRM]:
    """Mazes and a model, each with three threads."""
    torch.manual_seed(0)
    hrm = HRM(CONFIG)
    assert hrm.backends.engine is not None
    hrm.backends.engine.threads = 3
    return MazeBatch(SPEC, 96, seed=5, threads=3), hrm


def walk(mazes: MazeBatch, hrm: HRM) -> bytes:
    """The sum of the bits of some decisions, of where they lead, and of a gradient."""
    obs, seen = mazes.observe(), []
    for _ in range(4):
        q, _ = hrm.decide(obs)
        obs, reward, *_ = mazes.step(q.argmax(-1))
        seen += [obs, reward, q]
    hrm.zero_grad()
    target = torch.zeros(len(obs))
    hrm.td_segment(hrm.start(len(obs)), obs, q.argmax(-1), target, last=True)[2].backward()
    assert hrm.embed.grad is not None
    bits = b"".join(x.numpy().tobytes() for x in [*seen, hrm.embed.grad])
    return hashlib.sha256(bits).digest()


def in_fork(job: Callable[[], bytes]) -> bytes:
    """What a forked child makes of it; AssertionError: it hangs or fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest's may run here
        signal.alarm(SECONDS)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(job())
            pipe.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return found


def anew() -> bytes:
    return walk(*built())


def test_what_was_made_before_a_fork_and_what_after() -> None:
    right = anew()
    mazes, hrm = built()
    state = mazes.get_state()
    assert walk(mazes, hrm) == right  # now every pool has worked
    mazes.set_state(state)
    assert in_fork(lambda: walk(mazes, hrm)) == right
    assert in_fork(anew) == right
    assert in_fork(lambda: in_fork(lambda: walk(mazes, hrm))) == right  # a fork of a fork
    assert walk(mazes, hrm) == right  # and here all goes on as before

    def dropped() -> bytes:
        nonlocal mazes, hrm
        del mazes, hrm
        return anew()

    assert in_fork(dropped) == right


def test_a_fork_while_other_threads_are_in_the_middle() -> None:
    right = anew()
    mazes, hrm = built()
    ends = threading.Event()
    many = torch.full((64, SPEC.cells), ord("."), dtype=torch.uint8)

    def decides() -> None:
        while not ends.is_set():
            hrm.decide(many)

    def steps() -> None:
        while not ends.is_set():
            mazes.step(torch.zeros(96, dtype=torch.int64))

    threads = [threading.Thread(target=job) for job in (decides, steps)]
    for thread in threads:
        thread.start()
    state = MazeBatch(SPEC, 96, seed=5).get_state()

    def again() -> bytes:
        mazes.set_state(state)
        return walk(mazes, hrm)

    try:
        for _ in range(8):
            time.sleep(0.01)
            assert in_fork(again) == right
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def send(hrm: HRM, to: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    to.put(walk(MazeBatch(SPEC, 96, seed=5, threads=3), hrm))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(method: str) -> None:
    mazes, hrm = built()
    right = walk(mazes, hrm)
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=send, args=(hrm, results))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert results.get() == right


TINY = shlex.split(
    "--preset quick --device cpu --updates 4 --log-every 2 --eval-every 4 --eval-episodes 2 "
    "--dqn.num-mazes 8 --dqn.batch-size 8 --dqn.learning-starts 64 --dqn.replay-size 4000"
)
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.no_such_backend"}
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(words: str, *args: str | bytes, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A program in a shell, with redirections among the words, which get the arguments as "$@"."""
    command = ["sh", "-c", f'exec "$0" -m {words}', sys.executable, *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, capture_output=True, env=env, check=False, timeout=300)


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 0<&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_in_a_notebooks_shell(closed: str, tmp_path: Path) -> None:
    done = run(f'train.dqn "$@" {closed}', *TINY, f"--run-dir={tmp_path}/a", **NOTEBOOK)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "a" / "learning_curve.png").stat().st_size > 10_000
    assert len((tmp_path / "a" / "metrics.csv").read_text().splitlines()) == 3
    assert (b"judge the agent" in done.stdout) == ("1>&-" not in closed)


def test_an_error_is_told_where_stderr_is_closed() -> None:
    done = run('train.dqn "$@" 2>&-', "--updates", "0")
    assert done.returncode == 2
    assert b"updates is 0: expected" in done.stdout and done.stdout.count(b"\n") == 1


def test_names_that_are_no_text_in_a_locale(tmp_path: Path) -> None:
    """Written, resumed, shown and resumed in another locale: bytes of UTF-8, and of Latin-1."""
    for name in ("läuf 1".encode(), "läuf 2".encode("latin-1")):
        folder = os.fsencode(tmp_path) + b"/" + name
        done = run('train.dqn "$@"', *TINY, "--run-dir", folder, **NO_UTF8)
        assert (done.returncode, done.stderr) == (0, b"")
        assert name in done.stdout
        flags = ("--resume", folder, "--updates", "6")
        done = run('train.dqn "$@"', *flags, LC_ALL="C.UTF-8", PYTHONUTF8="1")
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(list(Path(os.fsdecode(folder)).glob("events*"))) == 2
    page = os.fsencode(tmp_path) + "/ä.html".encode()
    flags = ("--episodes", "1", "--among", "2", "--html", page)
    done = run('train.watch "$@"', folder, *flags, **NO_UTF8)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "</html>" in Path(os.fsdecode(page)).read_text("utf-8")


def test_a_terminal_that_goes_away(tmp_path: Path) -> None:
    """SIGHUP, and nobody to write to: the run is saved."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        flags = [*TINY, "--updates", "1000000", "--log-every", "10", "--eval-every", "1000000"]
        words = [sys.executable, "-m", "train.dqn", *flags, "--run-dir", str(tmp_path / "a")]
        os.execve(sys.executable, words, {**os.environ, "PYTHONPATH": str(ROOT)})
    log = tmp_path / "a" / "metrics.csv"
    until = time.monotonic() + SECONDS
    while not (log.exists() and log.read_bytes().count(b"\n") > 1):
        assert time.monotonic() < until
        time.sleep(0.1)  # what it says so far has room in the terminal
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    with checkpoint.opening(tmp_path / "a" / STATE) as file:
        assert int(file.metadata["update"]) >= 10


def test_signals_that_were_ignored_stay_so() -> None:
    def program() -> None:
        with cli.handling({n: lambda *_: None for n in (signal.SIGHUP, signal.SIGTERM)}):
            found.extend(map(signal.getsignal, (signal.SIGHUP, signal.SIGTERM)))

    found: list[object] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program()
        assert found[0] is signal.SIG_IGN and callable(found[1])
    finally:
        signal.signal(signal.SIGHUP, before)
    found.clear()
    program()
    assert all(map(callable, found))
    assert signal.getsignal(signal.SIGHUP) is before


def small_run(folder: Path, **changes: Any) -> Config:
    return replace(small("quick", "reset"), run_dir=str(folder), eval_episodes=2, **changes)


def test_training_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.run.flags.parse", lambda **_: small_run(tmp_path / "a"))
    statuses: list[object] = []

    def main() -> None:
        try:
            cli.main(dqn.program)
        except SystemExit as stop:
            statuses.append(stop.code)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert statuses == [0]
    assert (tmp_path / "a" / "learning_curve.png").exists()


@pytest.mark.parametrize("why", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(fcntl, "flock", refuse)
    config = small_run(tmp_path / "a")
    Run(config, Trainer(config, torch.device("cpu"))).close()
    said = capsys.readouterr().out
    assert said.count("is not locked") == 1 and os.strerror(why) in said
    assert (tmp_path / "a" / "config.json").exists()


def test_runs_that_begin_at_once_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(PRESETS["quick"], run_dir=None)
    with ThreadPoolExecutor(12) as pool:
        found = {c.run_dir for c in pool.map(name_folder, [config] * 48)}
    assert len(found) == 48 and {"runs/quick-0", "runs/quick-0-48"} <= found
    assert all(Path(name or "").is_dir() for name in found)
    shutil.rmtree("runs")
    Path("runs").write_text("")
    with pytest.raises(ValueError, match=r"runs/quick-0 \(Not a directory\): expected a place"):
        name_folder(config)


GROUPS = {
    "v2": ("0::/job/step", "", ("memory.max", "memory.current"), "inactive_file"),
    "v1": (
        "5:cpu:/\n4:memory:/job/step\n1:name=systemd:/x",
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_limits_of_containers(version: str, tmp_path: Path) -> None:
    listed, mounted, names, inactive = GROUPS[version]
    top = tmp_path / mounted

    def group(path: str, limit: str) -> None:
        (top / path).mkdir(parents=True, exist_ok=True)
        for name, text in zip(
            (*names, "memory.stat"), (limit, "700", f"{inactive} 300"), strict=True
        ):
            (top / path / name).write_text(f"{text}\n")

    assert memory.in_groups(listed, tmp_path) == []
    group("", "max" if version == "v2" else str(2**63 - 4096))
    group("job", "5000")
    group("job/step", "2000")
    left = memory.in_groups(listed, tmp_path)
    assert min(left) == 2000 - 700 + 300 and 5000 - 700 + 300 in left
    group("job", "500")  # it has more than that by now
    assert min(memory.in_groups(listed, tmp_path)) == 100
    shutil.rmtree(top / "job")  # a container sees its own group as the root
    group("", "1000")
    assert memory.in_groups(listed, tmp_path) == [600]


def test_home_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for flags in (["--run-dir=~/r1"], ["--run-dir", "~/r1"]):
        assert parse_flags(["--preset", "quick", *flags]).run_dir == "/home/me/r1"
    assert parse_flags(["--preset", "quick", "--run-dir=a~"]).run_dir == "a~"
    for flags in (["--resume=~/r1"], ["--resume", "~/r1"], ["--env.map=~/r1.txt"]):
        with pytest.raises((SystemExit, ValueError), match=r"/home/me/r1|2"):
            parse_flags(["--preset", "quick", *flags])
    assert cli.flag(["--resume", "~/r1"], "--resume") == "/home/me/r1"
    assert cli.parse(figures.Figures, args=["~/a", "--out=~/b"]).runs == (Path("/home/me/a"),)


def test_an_output_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "r.json", tmp_path / "far" / "result"
    link.symlink_to("far/result")  # which is not there yet
    for text in ("one", "two"):
        write_text(link, text)
        assert link.is_symlink() and target.read_text() == text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(RuntimeError), replacing(link) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "two" and list((tmp_path / "far").iterdir()) == [target]


FAKE_WANDB = """
import os
calls = []
class Run:
    def log(self, *_, **__): pass
    def finish(self): pass
def login(**given):
    if os.environ.get("NO_KEY"):
        raise RuntimeError("api_key not configured\\n(no-tty)")
def init(**given):
    calls.append(given)
    run = Run()
    run.id = given["id"] or f"id{len(calls)}"
    return run
"""


def test_wandb_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = small_run(tmp_path / "a", wandb=True)
    monkeypatch.setattr("train.run.flags.parse", lambda **_: config)
    monkeypatch.setenv("NO_KEY", "1")
    with pytest.raises(SystemExit, match="2"):
        cli.main(dqn.program)
    (line,) = capsys.readouterr().err.splitlines()
    assert "wandb.login failed (api_key not configured (no-tty)): expected" in line
    assert not (tmp_path / "a").exists()
    monkeypatch.delenv("NO_KEY")
    assert dqn.program() == 0
    config = replace(config, resume=config.run_dir, updates=25)
    assert dqn.program() == 0
    calls = importlib.import_module("wandb").calls
    assert [(call["id"], call["resume"]) for call in calls] == [(None, "allow"), ("id1", "allow")]
    del sys.modules["wandb"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_job_that_waits_for_the_others_ends_when_told(number: signal.Signals) -> None:
    """torch waits for half an hour, in C++."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "train.dqn", "--preset", "quick", "--device", "cpu"]
    process = subprocess.Popen(command, env=os.environ | job, cwd=ROOT)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:  # until the first process of the job listens
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(20) == -number
    finally:
        process.kill()


def test_a_job_that_cannot_meet_is_one_line() -> None:
    command = [sys.executable, "-m", "train.dqn", "--preset", "quick", "--device", "cpu"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        done = subprocess.run(
            command, env=os.environ | job, cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: the 2 processes of WORLD_SIZE did not meet at 127.0.0.1:{port}")
    assert last.endswith("expected torchrun to start them all, or WORLD_SIZE unset")


def test_a_run_goes_on_when_nobody_reads_its_log(tmp_path: Path) -> None:
    """As behind `| head` or a tee that dies."""
    words = ["--preset", "quick", "--updates", "40", "--log-every", "2", "--eval-every", "40"]
    words += ["--eval-episodes", "8", "--run-dir", str(tmp_path / "a run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "train.dqn", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "parameters" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert checkpoint.load(tmp_path / "a run")[0].updates == 40
    last = (tmp_path / "a run" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith("40,")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "MASTER_PORT"])
def test_a_job_in_words_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(name, "two")
    with pytest.raises(ValueError, match=f"{name} is 'two': expected a whole number"):
        ranks.join("cpu")


def test_figures_do_not_follow_the_readers_style(tmp_path: Path) -> None:
    """LaTeX, where there is none, ended a run of an hour with a traceback."""
    run_of = "from pathlib import Path; from train.analyse import curve; import sys; "
    code = f"{run_of} curve.draw({{'quick': [Path(sys.argv[1])]}}, Path(sys.argv[2]))"
    agent = ROOT / "profiling" / "results" / "quick" / "seed0"
    pictures = []
    for style in ("", "text.usetex: True\nfont.size: 40\naxes.facecolor: black\n"):
        (tmp_path / "matplotlibrc").write_text(style)
        picture = tmp_path / f"{len(style)}.png"
        command = [sys.executable, "-c", code, str(agent), str(picture)]
        env = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
        subprocess.run(command, check=True, env=env, cwd=ROOT)
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]
