"""What is turned away, in one line each; and maps that nobody drew on purpose."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import MazeBatch, MazeSpec, Step, _maze

BAD_SPECS = [
    ({"map": "maze"}, "map is 'maze': expected 'four-rooms', 'corridors', 'room'"),
    ({"map": 3}, "map is 3: expected a name or a tuple"),
    ({"map": ()}, "map is empty"),
    ({"map": ("",)}, "map is empty"),
    ({"map": "\n"}, "map is empty"),
    ({"map": ("...", "..")}, "map row 1 has 2 cells: expected 3"),
    ({"map": ("..", ".x")}, "map row 1 column 1 is 'x'"),
    ({"map": ("..", ".é")}, "map row 1 column 1 is 'é'"),
    ({"map": ("|d-", "dd|")}, "map has 0 floor cells: expected at least 2"),
    ({"map": (".d",)}, "map has 1 floor cells"),
    ({"map": ("@@.",)}, "map has 2 starts '@'"),
    ({"map": (">.>",)}, "map has 2 goals '>'"),
    ({"map": (".|.",)}, "map row 0 column 2 cannot be reached"),
    ({"map": (".|", "|.")}, "map row 1 column 1 cannot be reached"),
    ({"map": ("." * 1025,)}, "map has 1 x 1025 cells: expected at most 1024"),
    ({"actions": 5}, "actions is 5: expected 4 or 8"),
    ({"actions": 4.0}, "actions is 4.0: expected an integer"),
    ({"actions": True}, "actions is True: expected an integer"),
    ({"closed_doors": -1}, "closed_doors is -1: expected 0 to"),
    ({"closed_doors": 50}, "closed_doors is 50: expected 0 to 49"),
    ({"map": "room", "closed_doors": 1}, "closed_doors is 1: expected 0 to 0"),
    ({"closed_doors": 5, "fixed_walls": 45}, "fixed_walls is 45: expected 0 to 44"),
    ({"map": "four-rooms", "fixed_walls": 1}, "fixed_walls is 1: expected 0 on four-rooms"),
    ({"fixed_walls": "1"}, "fixed_walls is '1': expected an integer"),
    ({"p_change": 1.5}, "p_change is 1.5: expected 0 to 1"),
    ({"p_change": float("nan")}, "p_change is nan: expected 0 to 1"),
    ({"p_change": "0.5"}, "p_change is '0.5': expected 0 to 1"),
    ({"max_steps": 0}, "max_steps is 0: expected 1 or more"),
    ({"max_steps": 2**31}, "max_steps is 2147483648: expected"),
    ({"map": "room", "size": 1}, "size is 1: expected 2 to 32"),
    ({"map": "room", "size": 33}, "size is 33: expected 2 to 32"),
    ({"size": 20}, "size is 20: expected an odd number, 5 to 31, for 'corridors'"),
    ({"size": 3}, "size is 3: expected 5 to 31"),
    ({"size": 33}, "size is 33: expected 5 to 31"),
    ({"size": 21.0}, "size is 21.0: expected an integer, 5 to 31"),
    ({"map": "four-rooms", "size": 11}, "size is 11: expected None, as four-rooms has its own"),
    ({"map": ("..",), "size": 9}, "size is 9: expected None, as a drawn map has its own; 'corr"),
    ({"start_goal_distance": 1}, "start_goal_distance is 1: expected None unless map is"),
    ({"map": "four-rooms", "start_goal_distance": 3}, "start_goal_distance is 3: expected 0 to 2"),
    ({"crop_wall": 1}, "crop_wall is 1: expected True or False"),
    ({"view_radius": -1}, "view_radius is -1: expected 0 to"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_SPECS)
def test_bad_spec(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        MazeSpec(**fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_out_is_checked_at_every_call() -> None:
    mazes = MazeBatch(MazeSpec(), 2)
    actions = torch.zeros(2, dtype=torch.int64)
    out = mazes.step(actions)
    assert mazes.step(actions, out=out) is out
    with pytest.raises(ValueError, match="same memory twice"):
        mazes.step(actions, out=out._replace(obs=out.final_obs))
    out.obs.set_(torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="obs"):
        mazes.step(actions, out=out)


@pytest.mark.parametrize("device", ["abacus", "meta"])
def test_bad_device(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'.*expected cpu or cuda"):
        MazeBatch(MazeSpec(), 2, device=device)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0: expected 1 to"),
        ({"num_envs": 2.0}, "num_envs is 2.0: expected"),
        ({"seed": -1}, "seed is -1: expected"),
        ({"seed": 2**64}, "seed is 18446744073709551616: expected"),
        ({"threads": -1}, "threads is -1: expected"),
    ],
)
def test_bad_batch(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        MazeBatch(MazeSpec(), **{"num_envs": 2, **arguments})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.tensor([0, 4, -1]), r"actions\[1\] is 4: expected 0 to 3"),
        (torch.tensor([0, 1, -1]), r"actions\[2\] is -1: expected 0 to 3"),
        (torch.tensor([2**62, 0, 0]), r"actions\[0\] is 4611686018427387904: expected"),
        (np.array([0, 0, 2**64 - 1], np.uint64), r"actions\[2\] is 9223372036854775807: expected"),
        (torch.tensor([0.0, 1.0, 2.0]), "actions are of type torch.float32: expected integers"),
        (torch.tensor([True, True, True]), "actions are of type torch.bool: expected integers"),
        ([0, 1, 2], "actions are of type list: expected integers"),
        (torch.tensor([0, 1]), r"actions have shape \(2,\): expected \(3,\)"),
        (torch.zeros(3, 1, dtype=torch.int64), r"actions have shape \(3, 1\): expected \(3,\)"),
    ],
)
def test_bad_actions_move_nothing(actions: Any, message: str) -> None:
    batch = MazeBatch(MazeSpec(), 3)
    before = batch.get_state()
    with pytest.raises(ValueError, match=f"^{message}"):
        batch.step(actions)
    assert all(torch.equal(before[key], value) for key, value in batch.get_state().items())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint64"])
def test_integers_of_any_width_and_stride(dtype: str) -> None:
    actions = np.array([[3, 0], [1, 0], [2, 0]], dtype)[:, 0]
    one, other = MazeBatch(MazeSpec(), 3), MazeBatch(MazeSpec(), 3)
    assert torch.equal(one.step(actions).obs, other.step(torch.tensor([3, 1, 2])).obs)


MAP = ("@.d>", "..|.")


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("....|..>", "maze 1, row 1, column 0 shows code 124"),
        ("@..>....", "maze 1, row 1, column 2 shows code 46"),
        ("@.x>..|.", "maze 1, row 0, column 2 shows code 120"),
        ("@.d>..|.", "maze 1, row 0, column 2 shows code 100"),
        ("@.?>..|.", "maze 1, row 0, column 2 shows code 63"),
        ("@#.>..|.", "maze 1, row 0, column 1 shows code 35"),
        ("@@.>..|.", "maze 1, row 0, column 1 shows a second '@'"),
        ("@.>>..|.", "maze 1, row 0, column 3 shows a second '>'"),
        ("<<@>..|.", "maze 1, row 0, column 1 shows a second '<'"),
        ("...>..|.", "maze 1 has no '@'"),
        ("@.....|.", "maze 1 has no '>'"),
    ],
)
def test_impossible_boards_change_nothing(board: str, message: str) -> None:
    batch = MazeBatch(MazeSpec(map=MAP), 2)
    before = batch.get_state()
    boards = before["boards"].clone()
    boards[1] = torch.tensor(list(board.encode()), dtype=torch.uint8).reshape(2, 4)
    for load in (batch.load_boards, lambda b: batch.set_state({**before, "boards": b})):
        with pytest.raises(ValueError, match=f"^{message}"):
            load(boards)
    assert all(torch.equal(before[key], value) for key, value in batch.get_state().items())


def test_possible_boards_are_loaded() -> None:
    batch = MazeBatch(MazeSpec(map=MAP, p_change=0.0), 4)
    texts = ["<.#>@.|.", ">.@<..|.", "@.|>..|.", "<.>...|@"]
    boards = torch.tensor([list(t.encode()) for t in texts], dtype=torch.uint8).reshape(4, 2, 4)
    batch.load_boards(boards)
    assert torch.equal(batch.get_state()["boards"], boards)
    step = batch.step(torch.tensor([0, 3, 1, 2]))
    ends = [bytes(row).decode() for row in step.final_obs.numpy()]
    assert ends == ["@.#>..|.", ">@.<..|.", "<@|>..|.", "<.>...|@"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("elapsed", torch.tensor([0, 80], dtype=torch.int32), r"elapsed\[1\] is 80: expected 0"),
        ("elapsed", torch.tensor([-1, 0], dtype=torch.int32), r"elapsed\[0\] is -1: expected 0"),
        ("elapsed", torch.tensor([0, 0]), "elapsed is torch.int64 .*: expected torch.int32"),
        ("clock", torch.tensor([0, -5]), r"clock\[1\] is -5: expected 0 to 4611686018427387904"),
        ("clock", torch.tensor([2**63 - 1, 0]), r"clock\[0\] is 9223372036854775807: expected 0"),
        ("clock", torch.tensor([0]), r"clock is torch.int64 \(1,\): expected .* \(2,\)"),
        ("boards", torch.zeros(2, 143, dtype=torch.uint8), r"boards is .* \(2, 143\): expected"),
        ("extra", torch.zeros(2), "state has the keys"),
    ],
)
def test_bad_state(key: str, value: torch.Tensor, message: str) -> None:
    batch = MazeBatch(MazeSpec(), 2)
    with pytest.raises(ValueError, match=f"^{message}"):
        batch.set_state({**batch.get_state(), key: value})


def test_out_of_another_kind() -> None:
    batch = MazeBatch(MazeSpec(), 4)
    step = batch.step(torch.zeros(4, dtype=torch.int64))
    wrong = {
        "obs": step.obs[:, :-1],
        "reward": step.reward.double(),
        "terminated": step.terminated[:2],
        "final_obs": step.final_obs.t().contiguous().t(),
    }
    for field, tensor in wrong.items():
        with pytest.raises(ValueError, match=f"^{field} is .*: expected contiguous"):
            batch.step(torch.zeros(4, dtype=torch.int64), out=step._replace(**{field: tensor}))


def test_native_module_checks_for_itself() -> None:
    board = np.frombuffer(b"....", np.uint8).reshape(2, 2)
    good = {"map": board, "rooms": board, "actions": 4, "closed_doors": 0, "door_glyph": 35}
    good |= {"p_change": 0.0, "fixed_walls": 0, "max_steps": 9, "start_goal_distance": -1}
    good |= {"view_radius": -1, "num_envs": 1, "seed": 0, "first": 0, "threads": 1}
    _maze.Batch(**good)
    bad = {"map": board[:1, :1], "rooms": board[:1], "actions": 5, "closed_doors": 1}
    bad |= {"p_change": 2.0, "max_steps": 0, "num_envs": 0, "threads": -1, "fixed_walls": -1}
    bad |= {"start_goal_distance": 1}
    for field, value in bad.items():
        with pytest.raises(ValueError):
            _maze.Batch(**{**good, field: value})
    with pytest.raises(ValueError, match="read-only"):
        _maze.Batch(**good).reset(np.frombuffer(b"....", np.uint8).reshape(1, 4))


@st.composite
def maps(draw: st.DrawFn) -> tuple[str, ...]:
    """Open rows between random ones, so that most are connected."""
    cols = draw(st.integers(2, 30))
    row = st.tuples(
        st.text("...d", min_size=cols, max_size=cols),
        st.text("|- ..dd", min_size=cols, max_size=cols),
    )
    return tuple(line for pair in draw(st.lists(row, min_size=1, max_size=6)) for line in pair)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    map_=maps(),
    actions=st.sampled_from([4, 8]),
    doors=st.integers(0, 6),
    walls=st.integers(0, 6),
    radius=st.none() | st.integers(0, 5),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_map_is_refused_or_runs(
    map_: tuple[str, ...], actions: int, doors: int, walls: int, radius: int | None, seed: int
) -> None:
    counts = {"closed_doors": doors, "fixed_walls": walls}
    try:
        spec = MazeSpec(map_, actions, p_change=0.5, max_steps=6, view_radius=radius, **counts)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    batch = MazeBatch(spec, 5, seed)
    base = np.frombuffer("".join(spec.board).encode(), np.uint8)
    walled = np.isin(base, list(b"|- "))
    for action in range(24):
        step: Step = batch.step(torch.full((5,), action % actions))
        boards = batch.get_state()["boards"].numpy().reshape(5, -1)
        assert (boards[:, walled] == base[walled]).all()
        assert np.isin(boards[:, base == ord(".")], list(b".@><")).all()
        assert ((boards == ord("@")).sum(1) == 1).all() and ((boards == ord(">")).sum(1) == 1).all()
        assert ((boards == ord("#")).sum(1) <= doors).all()
        assert radius is not None or torch.equal(step.obs, torch.from_numpy(boards))
