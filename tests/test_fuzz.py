"""Random input: the simulator's C++ under sanitizers, settings, command lines, checkpoints' bytes.

Whatever comes in, it is taken and sound, or refused with a ValueError of one line.
"""

import contextlib
import dataclasses
import functools
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from envs import MazeSpec
from hrm_fast import HRM, HRMConfig
from train import cli
from train import config as configs
from train.config import PRESETS, Config, DQNConfig
from train.files import checkpoint
from train.run.flags import parse as parse_flags

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
FLAGS = ["-std=c++17", "-O1", "-g", "-pthread", "-fno-sanitize-recover=undefined"]


def build(folder: Path) -> list[str]:
    """The command of the simulator's fuzzer: clang's libFuzzer, or our replay with g++."""
    sources = [ROOT / "tests/fuzz/maze.cpp", *(ROOT / "csrc/maze").glob("*.cpp")]
    given = [*FLAGS, f"-I{ROOT / 'csrc'}", *(str(s) for s in sources if s.name != "bind.cpp")]
    given += ["-o", str(folder / "maze")]
    libfuzzer = ["clang++", "-fsanitize=fuzzer,address,undefined", *given]
    if shutil.which("clang++") and subprocess.run(libfuzzer, check=False).returncode == 0:
        limits = ["-max_len=1400", "-timeout=60", "-rss_limit_mb=1024", "-print_final_stats=1"]
        return [str(folder / "maze"), *limits, f"-artifact_prefix={folder}/"]
    replay = str(ROOT / "tests/fuzz/replay.cpp")
    subprocess.run(["c++", "-fsanitize=address,undefined", replay, *given], check=True)
    return [str(folder / "maze")]


@pytest.mark.parametrize("seconds", [15, pytest.param(3600, marks=pytest.mark.slow)])
def test_no_bytes_break_the_simulator(seconds: int, tmp_path: Path) -> None:
    command = build(tmp_path)
    shutil.copytree(CORPUS, tmp_path / "corpus")  # grows
    limit = [str(seconds)] if len(command) == 1 else [f"-max_total_time={seconds}"]
    command = [command[0], str(tmp_path / "corpus"), *command[1:], *limit]
    done = subprocess.run(command, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said[-5_000:]
    runs = re.search(r"^Done (\d+) runs", said, re.MULTILINE)
    assert runs and int(runs[1]) >= len(list(CORPUS.iterdir()))
    print(runs[0])


NUMBERS = st.integers(-2, 300) | st.integers(-(2**70), 2**70) | st.floats() | st.floats(0, 1)
VALUES = NUMBERS | st.none() | st.booleans() | st.text(max_size=5) | st.tuples(st.text(max_size=3))


@functools.cache
def valid_values() -> tuple[Any, ...]:
    """Every value that a preset has."""
    parts = [part for c in PRESETS.values() for part in (c.env, c.hrm, c.dqn)]
    return tuple({value for part in parts for value in vars(part).values() if value != ()})


@pytest.mark.parametrize("kind", [MazeSpec, HRMConfig, DQNConfig])
@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.data())
def test_any_values_are_a_config_or_refused(kind: type, data: st.DataObject) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    some = VALUES | st.sampled_from(valid_values())
    chosen = data.draw(st.dictionaries(st.sampled_from(names), some, max_size=4))
    try:
        made = kind(**chosen)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    if isinstance(made, HRMConfig):
        assert all(min(shape) > 0 for shape in made.shapes().values())
    if isinstance(made, MazeSpec):
        assert 2 <= made.cells <= 1024 and made.door_count >= 0
    assert configs.from_json(configs.to_json(replaced(made))) == replaced(made)


def replaced(made: Any) -> Config:
    name = {MazeSpec: "env", HRMConfig: "hrm", DQNConfig: "dqn"}[type(made)]
    return replace(PRESETS["quick"], **{name: made})


def flags() -> list[str]:
    tables = {"env": MazeSpec, "hrm": HRMConfig, "dqn": DQNConfig}
    inner = [f"{t}.{f.name}" for t, kind in tables.items() for f in dataclasses.fields(kind)]
    own = ("updates", "seed", "device", "run-dir", "resume", "log-every", "no-wandb", "cuda-graph")
    return [f"--{name.replace('_', '-')}" for name in (*inner, *own)]


WORDS = VALUES.map(str) | st.sampled_from(["", "None", "True", "nan", "-1", "1e400", "agent"])


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(flags()), WORDS), min_size=1, max_size=3))
def test_any_command_line_is_a_config_or_refused(given: list[tuple[str, str]]) -> None:
    args = ["--preset=quick", *(f"{flag}={word}" for flag, word in given)]
    made = []
    out, err = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with redirected[0], redirected[1], pytest.raises(SystemExit) as stop:
        cli.main(lambda: made.append(parse_flags(args)))
    assert out.getvalue() == ""
    if stop.value.code == 0:
        assert configs.from_json(configs.to_json(made[0])) == made[0]
        return
    assert stop.value.code == 2
    assert err.getvalue().startswith("error: ") and err.getvalue().count("\n") == 1


QUICK = PRESETS["quick"]
TINY = replace(QUICK, hrm=replace(QUICK.hrm, width=4, heads=1, inner=4))
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), st.binary(max_size=6)), min_size=1, max_size=4
)
JSON = st.recursive(VALUES, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(), x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    checkpoint.save(folder / "whole", HRM(TINY.hrm), TINY)
    return folder


def load_or_refuse(path: Path, data: bytes) -> tuple[Config, HRM] | None:
    """What `data` loads as; no model is made that is larger than the file."""

    def small(hrm: HRMConfig) -> HRM:
        assert 4 * sum(math.prod(shape) for shape in hrm.shapes().values()) <= len(data)
        return HRM(hrm)

    path.write_bytes(data)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "HRM", small)
            return checkpoint.load(path)
    except ValueError as error:
        assert "\n" not in str(error) and "expected" in str(error)
        return None


def edit(data: bytes, edits: list[tuple[float, int, bytes]], end: int) -> bytes:
    for where, cut, new in edits:
        at = int(where * end)
        data = data[:at] + new + data[at + cut :]
    return data


@settings(derandomize=True, max_examples=100, deadline=None)
@given(edits=EDITS, in_header=st.booleans())
def test_a_checkpoint_with_any_bytes_changed(folder: Path, edits: list, in_header: bool) -> None:
    """Either refused, or nothing that was written is lost."""
    whole = (folder / "whole").read_bytes()
    end = int.from_bytes(whole[:8], "little") if in_header else len(whole)
    loaded = load_or_refuse(folder / "edited", edit(whole, edits, end))
    if loaded is not None:
        config, hrm = checkpoint.load(folder / "whole")
        assert loaded[0] == config
        for name, x in hrm.state_dict().items():
            assert torch.equal(loaded[1].state_dict()[name], x), name


@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.data())
def test_a_checkpoint_without_sums_but_with_any_header(folder: Path, data: st.DataObject) -> None:
    """As a stranger writes it: no sum stands between the bytes and the code that reads them."""
    written = json.loads(configs.to_json(TINY))
    table = written[data.draw(st.sampled_from(["env", "hrm", "dqn"]))]
    for place in (written, table):
        changed = st.sampled_from([*place, "a\nb"]) | st.text(max_size=4)
        place.update(data.draw(st.dictionaries(changed, JSON, max_size=1)))
    own = {name: x.clone() for name, x in HRM(TINY.hrm).state_dict().items()}
    file = save(own, {"config": json.dumps(written)})
    header = 8 + int.from_bytes(file[:8], "little")
    edited = edit(file, data.draw(st.just([]) | EDITS), header)
    load_or_refuse(folder / "strange", edited)
