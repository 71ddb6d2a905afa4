"""Bad input at the command line and in checkpoint files: one line, exit status 2, no traceback."""

import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from envs import MazeSpec
from hrm_fast import HRM
from tests.tiny import Attack
from train import cli, evaluate
from train import config as configs
from train.config import PRESETS
from train.files import checkpoint
from train.machine.device import choose_device
from train.run.flags import parse as parse_flags
from train.run.folder import choose_folder

QUICK = PRESETS["quick"]

BAD_FLAGS = [
    (["--preset", "fast"], ["--preset", "fast", "quick"]),
    (["--dqn.batch-sise", "4"], ["--dqn.batch-sise"]),
    (["--dqn.batch-size", "0"], ["dqn.batch-size", "0", "1 to"]),
    (["--dqn.batch-size", "many"], ["--dqn.batch-size", "many"]),
    (["--dqn.gamma", "1.5"], ["dqn.gamma", "1.5", "0 to 1"]),
    (["--dqn.learning-rate", "nan"], ["dqn.learning-rate", "nan"]),
    (["--dqn.replay-size", "60"], ["dqn.replay-size", "60", "at least 64"]),
    (["--dqn.learning-starts", "100001"], ["dqn.learning-starts", "100001", "at most 100000"]),
    (["--dqn.hindsight", "1001"], ["dqn.hindsight", "1001", "0 to 1000"]),
    (
        ["--hrm.q-token", "agent", "--dqn.hindsight", "20"],
        ["hindsight is 20", "0 without hrm.q-token goal"],
    ),
    (["--dqn.muon-momentum", "1"], ["dqn.muon-momentum", "1", "0 to 0.999999"]),
    (["--dqn.n-step", "3"], ["dqn.n-step", "3", "1 with hrm.q-token 'goal'"]),
    (["--dqn.timeout-is-terminal"], ["dqn.timeout-is-terminal", "True", "False with"]),
    (["--env.view-radius", "2"], ["hrm.q-token", "goal", "agent, last or mean"]),
    (["--hrm.halting"], ["halting", "True", "False with q_token 'goal'"]),
    (["--updates", "9" * 30], ["updates", "9" * 30, "1 to"]),
    (["--hrm.width", "1000000"], ["width", "1000000", "65536"]),
    (["--hrm.segments", "1000000"], ["segments", "1000000", "1024"]),
    (["--hrm.vocab", "70"], ["hrm.vocab", "70", "more than 124"]),
    (["--env.p-change", "1.5"], ["p_change", "1.5", "0 to 1"]),
    (["--env.closed-doors", "5"], ["closed_doors", "5", "0 to 4"]),
    (["--env.actions", "5"], ["actions", "5", "4 or 8"]),
    (["--env.map", "castle"], ["map", "castle", "corridors"]),
    (["--env.map", "..", "..."], ["map row 1", "3 cells", "expected 2"]),
    (["--env.map", "|||", "|||"], ["map", "0 floor cells"]),
    (["--env.map", ".>.", "..>"], ["map", "2 goals"]),
    (["--env.map", ".x.", "..."], ["map row 0 column 1", "'x'"]),
    (["--env.map", "missing.txt"], ["missing.txt"]),
    (
        ["--env.map", "maps/missing.map"],
        ["maps/missing.map", "No such file", "or a text file"],
    ),
    (["--env.map", "missing.map"], ["map is missing.map (No such file", "four-rooms"]),
    (["--env.map=castle", "--seed", "1"], ["map is castle (No such file", "or a text file"]),
    (["--env.map", "/"], ["map is /", "Is a directory", "or a text file"]),
    (["--env.size", "21"], ["size is 21: expected None, as a drawn map has its own"]),
    (["--env.map", "four-rooms", "--env.size", "9"], ["size is 9", "as four-rooms has its own"]),
    (["--preset", "maze", "--env.size", "20"], ["size is 20: expected an odd number, 5 to 31"]),
    (["--preset", "maze", "--env.size", "33"], ["size is 33: expected 5 to 31"]),
    (["--preset", "maze", "--env.size", "big"], ["--env.size", "expected a whole number or None"]),
    (["--hrm.heads", "5"], ["heads", "5", "48"]),
    (["--hrm.positions", "alibi"], ["alibi", "rope2d"]),
    (["--hrm.cells", "98"], ["hrm.cells", "98", "49"]),
    (["--hrm.walls", "0", "1"], ["hrm.walls is (0, 1)", "(3, 17,", "follows from env"]),
    (["--hrm.kernels", "cuda"], ["kernels", "cuda", "reference"]),
    (["--updates", "0"], ["updates", "0", "1 to"]),
    (["--updates", "1.5"], ["--updates", "1.5", "expected a whole number"]),
    (["--updates", "1e4x"], ["--updates", "1e4x", "expected a whole number"]),
    (["--updates", "nan"], ["--updates", "nan", "expected a whole number"]),
    (["--updates", "1e999999999"], ["--updates", "1e999999999", "expected a whole number"]),
    (["--updates", "1e30"], ["--updates", "1e30", "expected a whole number"]),
    (["--env.closed-doors", "5e-1"], ["--env.closed-doors", "5e-1", "expected a whole number"]),
    (["--hrm.vocab", "1.5"], ["error: Error parsing --hrm.vocab: found 1.5, expected a whole"]),
    (["--env.view-radius", "far"], ["found far, expected a whole number or None"]),
    (["--seed", "-1"], ["seed", "-1"]),
    (["--device", "abacus"], ["device", "abacus", "cpu"]),
    (["--resume", "nowhere"], ["nowhere", "config.json"]),
    (["--resume", ""], ["resume is ''", "a run's folder or URL"]),
    (["walk"], ["walk", "--help shows"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda x: " ".join(x)[:40])
def test_bad_flags(flags: list[str], words: list[str], capsys: pytest.CaptureFixture) -> None:
    def program() -> None:
        config = parse_flags([*flags, *([] if "--preset" in flags else ["--preset", "quick"])])
        choose_device(config.device)
        HRM(config.hrm)

    with pytest.raises(SystemExit) as stop:
        cli.main(program)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_good_flags() -> None:
    config = parse_flags(["--preset=quick", "--dqn.n-step", "1", "--env.actions", "8"])
    assert config.dqn.n_step == 1
    assert config.hrm.actions == 8
    assert config.hrm.cells == 49
    room = parse_flags(["--preset", "quick", "--env.map", "room"])  # without quick's door
    assert (room.hrm.cells, room.hrm.columns) == (81, 9)
    same = parse_flags(["--preset=quick", "--env.actions", "8", "--hrm.actions", "8"])
    assert same.hrm.actions == 8


def test_corridors_of_a_size() -> None:
    """The model takes the board's size; the time limit and the doors follow from it."""
    config = parse_flags(["--preset", "maze", "--env.size", "21"])
    assert (config.hrm.cells, config.hrm.columns, config.hrm.tokens) == (361, 19, 281)
    assert (config.env.step_limit, config.env.door_count, config.env.wall_count) == (140, 18, 37)
    paper = parse_flags(["--preset", "paper-maze", "--env.size", "31"])
    assert (paper.hrm.cells, paper.hrm.tokens, paper.env.step_limit) == (961, 962, 207)
    quick = parse_flags(["--preset", "quick", "--env.map", "corridors", "--env.size", "21"])
    assert (quick.env.step_limit, quick.env.door_count) == (140, 18)
    own = parse_flags(["--preset", "maze", "--env.size", "21", "--env.max-steps", "50"])
    assert own.env.step_limit == 50
    assert configs.from_json(configs.to_json(config)) == config


def test_a_config_of_before_there_were_sizes() -> None:
    old = json.loads(configs.to_json(PRESETS["maze"]))
    del old["env"]["size"]
    old["env"]["max_steps"] = 80  # None today
    env = configs.from_json(json.dumps(old)).env
    assert (env.board, env.step_limit) == (PRESETS["maze"].env.board, 80)


def test_walls_follow_from_the_map() -> None:
    """Off, on, and of another map; a run of before there were any keeps all tokens."""
    assert parse_flags(["--preset", "maze", "--hrm.walls", "None"]).hrm.walls is None
    paper = parse_flags(["--preset", "paper-maze"])
    assert (paper.hrm.walls, paper.hrm.tokens) == (None, 144)
    assert parse_flags(["--preset", "maze", "--env.map", ".|.", "..."]).hrm.walls == (1,)
    assert parse_flags(["--preset", "maze", "--env.map", "room"]).hrm.walls == ()
    maze = json.loads(configs.to_json(PRESETS["maze"]))
    del maze["hrm"]["walls"]
    assert configs.from_json(json.dumps(maze)).hrm.walls is None


def test_walls_of_a_checkpoint_are_those_of_its_map(tmp_path: Path) -> None:
    walls = PRESETS["quick"].hrm.walls
    assert walls
    hrm = replace(QUICK.hrm, walls=(0, *walls[1:]))  # as many, but one of them is floor
    config = replace(QUICK, hrm=hrm)
    path = tmp_path / "forged.safetensors"
    checkpoint.save(path, HRM(config.hrm), config)
    with pytest.raises(ValueError, match=r"hrm.walls is \(0, .* as its maze has"):
        checkpoint.load(path)


def test_map_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("..d..\n..|..\n")
    for flags in (["--env.map", str(file)], [f"--env.map={file}"]):
        config = parse_flags(["--preset", "quick", *flags])
        assert config.env.board == ("..d..", "..|..")


@pytest.mark.parametrize(("name", "data"), [
    ("ok.map", b"..d..\n..|..\n"),
    ("ok", b"..d..\n..|.."),
    ("blank lines.txt", b"\n\n..d..\n..|..\n\n \n\t\n"),
    ("mark.txt", "\ufeff..d..\n..|..\n".encode()),
    ("wide.txt", "..d..\n..|..\n".encode("utf-16")),
    ("dos.txt", b"..d..\r\n..|..\r\n\r\n"),
    ("mark dos.map", "\ufeff..d..\r\n..|..\r\n\x20\r\n".encode()),
    ("..d..", b"..d..\n..|..\n"),
])  # fmt: skip
def test_files_of_a_map(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    for flags in (["--env.map", str(tmp_path / name)], [f"--env.map={tmp_path / name}"]):
        config = parse_flags(["--preset", "quick", *flags])
        assert config.env.board == ("..d..", "..|..")


def test_a_map_in_the_current_folder_needs_no_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ok", "room"):
        (tmp_path / name).write_text("..d..\n..|..\n")
    assert parse_flags(["--preset", "quick", "--env.map", "ok"]).env.rows == 2
    assert parse_flags(["--preset", "quick", "--env.map", "room"]).env.rows == 9  # a name first


def test_a_blank_line_that_is_rock_stays() -> None:
    assert MazeSpec(map="...\n   \n").board == ("...", "   ")
    assert MazeSpec(map="\n  ...\n  .@.\n ").board == ("  ...", "  .@.")
    with pytest.raises(ValueError, match="map row 1 has 0 cells: expected 3 as in row 0"):
        MazeSpec(map="...\n\n...")


def test_whole_numbers() -> None:
    flags = ["--updates", "1e4", "--env.max-steps", "1.2e2", "--dqn.replay-size=1_000_000"]
    config = parse_flags(["--preset", "quick", *flags, "--env.closed-doors", "1e0"])
    assert (config.updates, config.env.max_steps, config.dqn.replay_size) == (10_000, 120, 10**6)
    assert type(config.updates) is int and config.env.closed_doors == 1
    assert parse_flags(["--preset", "quick", "--run-dir", "1e4"]).run_dir == "1e4"


def test_a_resumed_run_keeps_its_seed_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = replace(QUICK, run_dir=str(tmp_path))
    (tmp_path / "config.json").write_text(configs.to_json(config))
    resumed = parse_flags(["--resume", str(tmp_path), "--updates", "13000"])
    assert resumed == replace(config, resume=str(tmp_path), updates=13_000)
    same = tmp_path / "same.map"
    same.write_text("\n".join(QUICK.env.map))
    assert parse_flags(["--resume", str(tmp_path), "--env.map", str(same)]).env == QUICK.env
    for flag, value, kept in (
        ("seed", "1", "0"), ("run-dir", "x", repr(str(tmp_path))), ("preset", "maze", "'quick'"),
        ("env.map", "four-rooms", "('...|...',"), ("env.actions", "8", "4"),
        ("env.crop-wall", "True", "False"), ("hrm.width", "64", "48"), ("hrm.heads", "2", "4"),
        ("hrm.h-layers", "3", "1"), ("hrm.carry", "full", "'reset'"), ("hrm.inner", "32", "96"),
        ("hrm.q-token", "last", "'goal'"), ("hrm.dtype", "bfloat16", "'float32'"),
        ("dqn.num-mazes", "7", "32"),
    ):  # fmt: skip
        flags = ["--resume", str(tmp_path), f"--{flag}", value]
        if value == "True":
            flags.pop()
        with pytest.raises(SystemExit):
            cli.main(lambda flags=flags: parse_flags(flags))
        error = capsys.readouterr().err.replace("'", "")
        assert error.startswith(f"error: {flag} is {value}: expected {kept}".replace("'", ""))
        assert error.endswith(", as the run began\n")


def test_every_preset_is_the_published_one_or_says_how_it_differs() -> None:
    paper = PRESETS["paper-maze"]
    assert paper.updates == 200_000
    assert (paper.env.rows, paper.env.cols) == (11, 13)
    assert (paper.env.door_count, paper.env.wall_count) == (5, 10)
    assert (paper.env.p_change, paper.env.step_limit, paper.env.actions) == (0.05, 80, 4)
    hrm = paper.hrm
    assert (hrm.width, hrm.heads, hrm.inner_width, hrm.segments) == (64, 2, 256, 8)
    assert (hrm.h_layers, hrm.l_layers, hrm.h_cycles, hrm.l_cycles) == (4, 4, 2, 2)
    assert (hrm.positions, hrm.q_token, hrm.carry, hrm.vocab_size) == ("rope", "last", "carry", 131)
    assert hrm.dtype == ("bfloat16" if torch.cuda.is_available() else "float32")
    dqn = paper.dqn
    assert (dqn.num_mazes, dqn.batch_size, dqn.replay_size) == (256, 256, 1_048_576)
    assert (dqn.gamma, dqn.n_step, dqn.target_decay) == (0.95, 1, 0.999)
    assert (dqn.epsilon_start, dqn.epsilon_end, dqn.epsilon_updates) == (1.0, 0.33, 300_000)
    assert (dqn.learning_rate, dqn.warmup_updates, dqn.final_learning_rate) == (1e-4, 10_000, 1.0)
    assert (dqn.beta1, dqn.beta2, dqn.weight_decay) == (0.9, 0.999, 0.0)
    assert (dqn.puzzle_learning_rate, dqn.puzzle_weight_decay) == (1e-2, 0.1)
    assert dqn.timeout_is_terminal
    rooms = PRESETS["paper-four-rooms"]
    assert rooms.env.cells == 121
    assert rooms.dqn == dqn


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    assert configs.from_json(configs.to_json(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dqn": {"lr": 1}}, "config.dqn.lr is unknown"),
        (None, "config.preset is missing"),
        ({"updates": "many"}, "config.updates is 'many'"),
        ({"hrm": 3}, "config.hrm is int"),
        ({"env": {"map": [1, 2]}}, "config.env.map"),
        ({"updates": True}, "config.updates is True"),
        (
            {"dqn": {"priority": 0.6}},
            "config.dqn.priority is 0.6: expected 0: commit ee548fa is the last",
        ),
        ({"dqn": {"relabel": 0.5, "relabel_reach": 40}}, "config.dqn.relabel is 0.5: expected 0"),
        ({"dqn": {"refresh": 2}}, "config.dqn.refresh is 2: expected 0"),
    ],
)
def test_bad_json(change: dict | None, words: str) -> None:
    data = {} if change is None else json.loads(configs.to_json(QUICK))
    for name, value in (change or {}).items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=words):
        configs.from_json(json.dumps(data))


def test_fields_that_are_gone_load_where_they_did_nothing() -> None:
    data = json.loads(configs.to_json(QUICK))
    old = {"priority": 0.0, "priority_correction": 0.4, "relabel": 0.0, "relabel_reach": 40}
    data["dqn"] |= old | {"refresh": 0}
    assert configs.from_json(json.dumps(data)) == QUICK


@pytest.mark.parametrize("gone", ["priority", "relabel", "refresh"])
def test_what_used_a_field_that_is_gone_is_refused(
    gone: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A run to be resumed, its agent and the agent's file: one line names field and value."""
    data = json.loads(configs.to_json(replace(QUICK, run_dir=str(tmp_path))))
    data["dqn"][gone] = 2
    (tmp_path / "config.json").write_text(json.dumps(data))
    agent, weights = tmp_path / "best.safetensors", HRM(QUICK.hrm).state_dict()
    checkpoint.save_tensors(agent, weights, {"config": json.dumps(data)})
    for program in (
        lambda: parse_flags(["--resume", str(tmp_path), "--updates", "9999"]) and None,
        lambda: cli.parse(evaluate.program, args=[str(tmp_path)]),
        lambda: cli.parse(evaluate.program, args=[str(agent)]),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(program)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and len(said.splitlines()) == 1
        assert str(tmp_path) in said and f"config.dqn.{gone} is 2: expected 0: " in said


def broken_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.safetensors"
    checkpoint.save(good, HRM(QUICK.hrm), QUICK)
    whole = good.read_bytes()
    files = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "header asks for a terabyte": struct.pack("<Q", 2**40) + b"{}",
        "text": b"not a checkpoint\n" * 100,
        "pickle": pickle.dumps(Attack(folder / "attacked")),
    }
    paths = {}
    for name, data in files.items():
        paths[name] = folder / f"{name.split()[0]}.safetensors"
        paths[name].write_bytes(data)
    paths["no config"] = folder / "bare.safetensors"
    save_file({"x": torch.zeros(2)}, paths["no config"])
    paths["other architecture"] = folder / "other.safetensors"
    tensors = {k: v.detach().clone() for k, v in HRM(PRESETS["quick"].hrm).state_dict().items()}
    tensors["embed"] = torch.zeros(3, 3)
    checkpoint.save_tensors(
        paths["other architecture"], tensors, {"config": configs.to_json(QUICK)}
    )
    paths["tensor missing"] = folder / "missing.safetensors"
    del tensors["embed"]
    checkpoint.save_tensors(paths["tensor missing"], tensors, {"config": configs.to_json(QUICK)})
    paths["no file"] = folder / "nothing.safetensors"
    paths["empty folder"] = folder / "empty"
    paths["empty folder"].mkdir()
    return paths


def test_broken_checkpoints(tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(ValueError) as error:
            checkpoint.load(path)
        text = str(error.value)
        assert str(path) in text, name
        assert "expected" in text, name
        assert "\n" not in text, name
    assert not (tmp_path / "attacked").exists()


def test_evaluate_of_a_broken_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"rubbish")
    with pytest.raises(SystemExit) as stop:
        cli.main(lambda: cli.parse(evaluate.program, args=[str(path)]))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--episodes", "0"], "episodes is 0: expected 1 or more"),
        (["--segments", "0"], "segments is 0: expected 1 or more"),
        (["--seed", "-4294967296"], "seed is -4294967296: expected 0 to"),
        (["--device", "meta"], "device is 'meta': expected auto"),
        (["--json", "/dev/null/x.json"], "/dev/null/x.json could not be written"),
        (["--json", "/"], "/ could not be written: it is a folder"),
        (["--json", ""], "could not be written: it is a folder"),
        (["--temperature", "-0.1"], "temperature is -0.1: expected 0 to 100"),
        (["--segments", "all"], "found all, expected a whole number or None"),
    ],
)
def test_evaluate_bad_flags(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "good.safetensors"
    checkpoint.save(path, HRM(QUICK.hrm), QUICK)
    with pytest.raises(SystemExit) as stop:
        args = [str(path), *(["--episodes", "2"] if "--episodes" not in flags else []), *flags]
        cli.main(lambda: cli.parse(evaluate.program, args=args))
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert words in err and out == ""  # before an episode was walked


def test_an_output_is_not_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, HRM(QUICK.hrm), QUICK)
    before = path.read_bytes()
    (tmp_path / "link.json").symlink_to(path)
    for source, out in (
        (path, path), (tmp_path, path), (tmp_path, tmp_path / "link.json"),
        (tmp_path, tmp_path / "config.json"), (path, tmp_path / "x/../best.safetensors"),
    ):  # fmt: skip
        args = [str(source), "--episodes", "2", "--json", str(out)]
        with pytest.raises(SystemExit):
            cli.main(lambda args=args: cli.parse(evaluate.program, args=args))
        told, err = capsys.readouterr()
        assert told == "" and err == f"error: json is {out}: expected a file that is not in use\n"
    assert path.read_bytes() == before and {*os.listdir(tmp_path)} == {path.name, "link.json"}


def test_evaluate_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = tmp_path / "good.safetensors", tmp_path / "result.json"
    checkpoint.save(path, HRM(QUICK.hrm), QUICK)
    cli.parse(evaluate.program, args=[str(path), "--episodes", "64", "--json", str(out)])
    numbers = json.loads(out.read_text())
    names = {"success", "success_low", "success_high", "mean_length", "shortest_ratio"}
    assert names <= set(numbers)
    assert numbers["success_low"] <= numbers["success"] <= numbers["success_high"]
    walker = numbers["others"]["shortest path, re-planned"]
    assert walker["success"] > 0.95
    assert 1 <= walker["shortest_ratio"] < 1.2
    assert numbers["others"]["random"]["success"] < 0.5
    for result in (numbers, walker):
        counts = torch.tensor(
            list(result["by_distance"].values()), dtype=torch.int64
        )  # solved, all
        assert counts.sum(0).tolist() == [round(64 * result["success"]), 64]
    said = capsys.readouterr().out.splitlines()
    near = "/".join(str(n) for n in walker["by_distance"]["1-4"])
    assert said[-1].split()[:4] == ["shortest", "path,", "re-planned", near]


def test_the_last_of_two_presets_counts() -> None:
    assert parse_flags(["--preset=quick", "--preset", "maze"]) == PRESETS["maze"]


def test_a_taken_run_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="--resume"):
        choose_folder(replace(QUICK, run_dir=str(tmp_path)))
    (tmp_path / "config.json").rename(tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="--resume"):
        choose_folder(replace(QUICK, run_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="run-dir is '': expected a folder or a URL"):
        choose_folder(replace(QUICK, run_dir=""))


@pytest.mark.parametrize(("word", "lines", "last"), [
    ("--help", 40, "--help-all lists every flag with a sentence."), ("--help-all", 300, None),
])  # fmt: skip
def test_help_is_short_and_help_all_has_every_flag(
    word: str, lines: int, last: str | None, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse_flags(["--preset", "quick", word])
    said = capsys.readouterr().out
    assert len(said.splitlines()) < lines
    assert "(default: quick)" in " ".join(said.replace("│", " ").split())
    assert ("--dqn.muon-momentum" in said) == (word == "--help-all")
    assert all(flag in said for flag in ("--preset", "--seed", "--resume", "--hrm.segments"))
    assert last is None or said.rstrip().endswith(last)


def test_the_last_of_several_environments_counts(capsys: pytest.CaptureFixture) -> None:
    two = ["--env", "gym:Taxi-v3", "--env=gym:FrozenLake-v1"]
    assert parse_flags(two).env.id == "FrozenLake-v1"
    with pytest.raises(SystemExit, match="2"):
        cli.main(lambda: parse_flags(["--preset", "quick", "--env"]) and None)
    assert "--env is the last word: expected a value" in capsys.readouterr().err
