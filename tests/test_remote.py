"""Run folders at URLs: on fsspec's own file system in memory, and on an S3 server on loopback."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from train.files import checkpoint, remote
from train.files.remote import Mirror

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--preset", "quick", "--eval-episodes", "8", "--log-every", "4", "--eval-every", "8"),
    *("--save-every", "4", "--dqn.num-mazes", "8", "--dqn.batch-size", "4"),
    *("--dqn.replay-size", "256", "--dqn.learning-starts", "64", "--device", "cpu"),
]


@pytest.fixture
def url() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield "memory://bucket/runs/a"
    memory.store.clear()


def contents(url: str) -> dict[str, bytes]:
    place, root = fsspec.core.url_to_fs(url)
    return {path.rsplit("/", 1)[1]: place.cat_file(path) for path in place.find(root)}


@pytest.mark.parametrize(("path", "found"), [
    ("s3://bucket/a", "s3://bucket/a"),
    (Path("s3://bucket/a"), "s3://bucket/a"),
    (Path("file:///srv/a"), "file:///srv/a"),
    ("local:///srv/a", "local:///srv/a"),
    ("S3://bucket/A", "s3://bucket/A"),
    (Path("simplecache::s3://bucket/a"), "simplecache::s3://bucket/a"),
    ("runs/quick-0", None),
    (Path("C"), None),
])  # fmt: skip
def test_what_is_a_url(path: str | Path, found: str | None) -> None:
    assert remote.url_of(path) == found


def test_only_what_is_new_travels(url: str, tmp_path: Path) -> None:
    mirror = Mirror(url, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".state.part").write_text("unfinished")
    mirror.push()
    assert contents(url) == {"config.json": b"{}"}
    fsspec.filesystem("memory").pipe_file(f"{mirror.root}/config.json", b"theirs")
    mirror.push()
    assert contents(url) == {"config.json": b"theirs"}


def test_the_state_before_is_kept(url: str, tmp_path: Path) -> None:
    mirror = Mirror(url, tmp_path, {"state": "previous"})
    for generation in ("first", "second", "third"):
        if (tmp_path / "state").exists():
            (tmp_path / "state").rename(tmp_path / "previous")
        (tmp_path / "state").write_text(generation)
        mirror.push()
        mirror.may_rename = True
    assert contents(url) == {"state": b"third", "previous": b"second"}


def test_a_damaged_state_does_not_replace_the_one_before(url: str, tmp_path: Path) -> None:
    """Resumed from the state before, a run writes its next state over the damaged one."""
    mirror = Mirror(url, tmp_path, {"state": "previous"})
    for name, text in (("previous", "good"), ("state", "damaged")):
        mirror.fs.pipe_file(f"{mirror.root}/{name}", text.encode())
        mirror.fetch(name)
    (tmp_path / "state").write_text("the next")
    mirror.push()
    assert contents(url) == {"state": b"the next", "previous": b"good"}


def test_a_push_that_failed_half_way_goes_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(url, tmp_path, {"state": "previous"})
    (tmp_path / "state").write_text("first")
    mirror.push()
    mirror.may_rename = True
    (tmp_path / "state").rename(tmp_path / "previous")
    (tmp_path / "state").write_text("second one")

    def broken(*_: object) -> None:
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(mirror.fs, "put_file", broken)
        with pytest.raises(OSError, match=r"memory://bucket/runs/a: no answer"):
            mirror.push()
    assert contents(url) == {"previous": b"first"}
    mirror.push()
    assert contents(url) == {"state": b"second one", "previous": b"first"}


@pytest.mark.parametrize(("bad", "message"), [
    ("nosuch://a/b", r"nosuch://a/b \(Protocol not known: nosuch\): expected a URL that fsspec"),
    ("reference://a", r"reference://a \(.* missing 1 required positional argument.*\): expected"),
    ("file://host/a", "file://host/a names a host: expected file:///FOLDER, with three slashes"),
    ("memory://bucket/none", "memory://bucket/none holds nothing: expected a run's folder"),
])  # fmt: skip
def test_bad_urls(bad: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remote.here(bad)


def train(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "train.dqn", *words], cwd=ROOT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def done(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return out + err


def test_trained_stopped_and_resumed_at_a_url(tmp_path: Path) -> None:
    """file:// is a URL as any other; in the end a run's folder is there, like a local one."""
    url = f"file://{tmp_path}/run"
    words = [*SMALL, "--run-dir", url]
    assert "judge the agent" in done(train(*words, "--updates", "8"))
    assert f"holds a run: expected a new folder, or --resume {url}" in done(train(*words), 2)
    said = done(train("--resume", url, "--updates", "12"))
    assert f"run folder {url}" in said
    config, _ = checkpoint.load(tmp_path / "run")
    assert config.run_dir == url
    updates = [row.split(",")[0] for row in (tmp_path / "run/metrics.csv").read_text().split()]
    assert updates == ["update", "4", "8", "12"]
    assert {"state.safetensors", "state.previous.safetensors"} <= set(os.listdir(tmp_path / "run"))


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server on loopback with a bucket; what a client's environment needs."""
    pytest.importorskip("s3fs")
    server = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if server is None:
        pytest.skip("needs moto's server")
    log = tmp_path / "server.log"
    with log.open("w") as file:
        words = [server, "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(words, stdout=file, stderr=file)
    try:
        for _ in range(300):
            time.sleep(0.1)
            if "Running on " in log.read_text():
                break
        environment = {
            "AWS_ENDPOINT_URL": log.read_text().split("Running on ")[1].split()[0],
            "AWS_DEFAULT_REGION": "us-east-1", "no_proxy": "*",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield environment
    finally:
        process.kill()
        process.wait()


def test_on_s3(s3: dict[str, str]) -> None:
    url = "s3://bucket/runs/a"
    done(train(*SMALL, "--run-dir", url, "--updates", "8", **s3))
    place = fsspec.filesystem("s3", use_listings_cache=False)
    saved = place.info(f"{url}/state.safetensors")["ETag"]
    process = train("--resume", url, "--updates", "100000", **s3)
    newer = saved
    for _ in range(600):
        time.sleep(0.1)
        with contextlib.suppress(FileNotFoundError):  # between two generations
            newer = place.info(f"{url}/state.safetensors")["ETag"]
        if newer != saved:
            break
    process.kill()  # no farewell: what has been saved is there
    process.communicate()
    assert newer != saved
    words = ["--resume", url, "--updates", "100000", "--save-every", "100000"]
    process = train(*words, **s3)
    assert process.stdout
    line = process.stdout.readline()
    if "state.previous.safetensors" in line:  # killed between the two generations
        line = process.stdout.readline()
    assert "run folder s3://bucket/runs/a" in line
    process.terminate()
    assert f"saved. Continue with: python -m train.dqn --resume {url}" in done(process)
    config, hrm = checkpoint.load(remote.here(url))
    assert (config.run_dir, hrm.config) == (url, config.hrm)
