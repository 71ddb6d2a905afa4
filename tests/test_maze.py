"""The C++ mazes against a plain-Python oracle, recorded MiniHack steps and themselves."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from maze_oracle import Maze, corridor_cell, philox

from envs import MazeBatch, MazeSpec, Step, _maze

ROOT = Path(__file__).parents[1]
OWN_MAP = ("  |----|", "--|@.d.|", "..d.|..>", "d---|d--", "......  ")
SPECS = {
    "corridors": MazeSpec(max_steps=30),
    "corridors-8": MazeSpec(actions=8, crop_wall=True, p_change=0.4, max_steps=17),
    "corridors-full": MazeSpec(closed_doors=40, fixed_walls=9, p_change=1.0),
    "corridors-view": MazeSpec(view_radius=2),
    "corridors-5": MazeSpec(size=5, closed_doors=1, p_change=0.2, max_steps=8),
    "corridors-21": MazeSpec(size=21, p_change=0.3, max_steps=25),
    "corridors-31": MazeSpec(size=31, actions=8, crop_wall=True, p_change=0.3, max_steps=20),
    "four-rooms": MazeSpec(map="four-rooms", closed_doors=2, p_change=0.3, max_steps=25),
    "four-rooms-8": MazeSpec(map="four-rooms", actions=8, start_goal_distance=0, max_steps=9),
    "four-rooms-far": MazeSpec(map="four-rooms", start_goal_distance=2, view_radius=0),
    "room": MazeSpec(map="room", size=5),
    "room-tiny": MazeSpec(map="room", size=2, actions=8, max_steps=1),
    "room-32": MazeSpec(map="room", size=32, max_steps=40, actions=8),
    "own": MazeSpec(map=OWN_MAP, closed_doors=1, fixed_walls=2, p_change=0.2, max_steps=12),
    "own-8": MazeSpec(map=OWN_MAP, closed_doors=3, actions=8, p_change=0.5, crop_wall=True),
    "wide": MazeSpec(map=("..d." * 50, ".d.." * 50), closed_doors=9, fixed_walls=50, p_change=0.3),
    "line": MazeSpec(map=("." * 600,), actions=8, max_steps=5),
}


def random_actions(spec: MazeSpec, n: int, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(spec.actions, (steps, n), generator=generator)


def assert_same(one: Step, other: Step) -> None:
    for field in Step._fields:
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@pytest.mark.parametrize("name", SPECS)
def test_agrees_with_oracle(name: str) -> None:
    spec, seed, n = SPECS[name], 2**40 + 5, 7
    batch = MazeBatch(spec, n, seed)
    mazes = [Maze(spec, i, seed) for i in range(n)]
    steps = 30 if spec.cells > 200 else 150
    obs = batch.observe()
    ended = 0
    for actions in random_actions(spec, n, steps):
        assert [bytes(row) for row in obs.numpy()] == [maze.view() for maze in mazes]
        step = batch.step(actions)
        obs = step.obs
        lengths, _ = batch.shortest_path()
        for i, maze in enumerate(mazes):
            reward, terminated, truncated, view = maze.step(int(actions[i]))
            assert step.reward[i].item() == pytest.approx(reward)
            assert (step.terminated[i], step.truncated[i]) == (terminated, truncated)
            assert bytes(step.final_obs[i].numpy()) == view
            assert lengths[i] == maze.path_length(maze.agent)
            ended += terminated or truncated
    assert ended > 0 or spec.step_limit > steps


def test_the_published_board_is_what_it_was() -> None:
    """Before corridors had a size these were the same bits."""
    batch, total = MazeBatch(MazeSpec(), 64, 2**40 + 5), hashlib.sha256()
    for actions in random_actions(batch.spec, 64, 300):
        for tensor in batch.step(actions):
            total.update(tensor.numpy().data)
    assert total.hexdigest() == "4311432f44f7c0715876d9e621849ad075eb82002418a9f125efef041294875f"


def test_corridors_of_every_size() -> None:
    for rows, cols, size in ((11, 13, None), *((n, n, n) for n in range(5, 32, 2))):
        cells = [[corridor_cell(r, c, rows, cols) for c in range(cols)] for r in range(rows)]
        assert MazeSpec(size=size).board == tuple("".join(row) for row in cells)
    found = {n: MazeSpec(size=n) for n in (None, 5, 11, 21, 31)}
    counts = {n: (s.door_count, s.wall_count, s.step_limit) for n, s in found.items()}
    assert counts == {
        None: (5, 10, 80),
        5: (0, 1, 33),
        11: (4, 8, 73),
        21: (18, 37, 140),
        31: (43, 86, 207),
    }
    own = MazeSpec(size=21, closed_doors=0, fixed_walls=3, max_steps=99)
    assert (own.door_count, own.wall_count, own.step_limit) == (0, 3, 99)


def test_recorded_minihack_steps() -> None:
    """Agent, goal, reward and end of all 1,500. When NetHack runs out of time is its own affair (85
    to 155 steps, it counts turns): where it did, the maze is put one step before its limit. The
    start is not compared: NetHack may build a door on it after the agent has come back once."""
    recorded = np.load(ROOT / "tests/fixtures/minihack_maze_transitions.npz")
    before, after, ended = recorded["before"], recorded["after"], recorded["ended"]
    first = recorded["step_in_episode"] == 1  # these boards lack the doors, the next ones have them
    hidden = first[:, None, None] & (before == ord(".")) & np.isin(after, list(b"|#"))
    before = np.where(hidden, after, before)
    batch = MazeBatch(MazeSpec(p_change=0.0), len(before))
    batch.load_boards(before)
    assert torch.equal(batch.get_state()["boards"], torch.from_numpy(before))
    state = batch.get_state()
    late = ended & (recorded["reward"] < 1)
    state["elapsed"] = torch.from_numpy(np.where(late, 79, 0).astype(np.int32))
    batch.set_state(state)
    step = batch.step(recorded["action"])
    np.testing.assert_array_equal(step.reward.numpy(), recorded["reward"])
    np.testing.assert_array_equal(step.terminated.numpy(), ended & ~late)
    np.testing.assert_array_equal(step.truncated.numpy(), late)
    final = step.final_obs.numpy().reshape(before.shape)
    for glyph in b"@>":
        np.testing.assert_array_equal((final == glyph)[~ended], (after == glyph)[~ended])
    assert len(before) == 1500 and ended.sum() == 16


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """kat_vectors of Random123, the authors' own library."""
    assert _maze.philox(*counter, *key) == expected
    assert philox(counter, key) == expected


@pytest.mark.parametrize("name", ["corridors", "four-rooms", "own"])
def test_neither_threads_nor_size_matter(name: str) -> None:
    spec = SPECS[name]
    batches = [MazeBatch(spec, n, 3, threads=t) for n, t in ((200, 1), (200, 3), (65, 2))]
    assert [batch.threads for batch in batches] == [1, 3, 2]
    for actions in random_actions(spec, 200, 60):
        whole, threaded, part = (b.step(actions[: b.num_envs]) for b in batches)
        assert_same(whole, threaded)
        assert_same(Step(*(tensor[:65] for tensor in whole)), part)


@pytest.mark.parametrize("name", SPECS)
def test_state_continues_bit_for_bit(name: str) -> None:
    spec, n = SPECS[name], 20
    actions = random_actions(spec, n, 40)
    batch, other = MazeBatch(spec, n, 11), MazeBatch(spec, n, 11)
    other.reset()
    for a in actions[:15]:
        batch.step(a)
    other.set_state(batch.get_state())
    assert torch.equal(batch.observe(), other.observe())
    for a in actions[15:]:
        assert_same(batch.step(a), other.step(a))


def test_seeds_and_resets_differ() -> None:
    spec = MazeSpec()
    boards = [MazeBatch(spec, 2, seed).observe() for seed in (0, 1, 2**63)]
    batch = MazeBatch(spec, 2, 0)
    boards += [batch.reset(), batch.reset()]
    rows = {bytes(row) for board in boards for row in board.numpy()}
    assert len(rows) == 10


def test_final_obs_shows_the_end_and_obs_the_new_maze() -> None:
    batch = MazeBatch(MazeSpec(map=("@>",), max_steps=2), 2)
    step = batch.step(torch.tensor([1, 0]))
    assert [bytes(row) for row in step.final_obs.numpy()] == [b"<@", b"@>"]
    assert [bytes(row) for row in step.obs.numpy()] == [b"@>", b"@>"]
    assert step.reward.tolist() == [1.0, pytest.approx(-0.01)]
    step = batch.step(torch.tensor([3, 0]))
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([False] * 2, [False, True])
    step = batch.step(torch.tensor([1, 0]))  # the goal counts more than the limit at its last step
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True, False], [False] * 2)


def test_diagonals_squeeze_between_corners() -> None:
    batch = MazeBatch(MazeSpec(map=("@|.", "|..", "..>"), actions=8, max_steps=9), 1)
    assert batch.shortest_path()[0].item() == 2
    assert batch.step(torch.tensor([5])).reward.item() == 0
    assert batch.step(torch.tensor([5])).terminated.item()


def test_view_radius_hides_in_observations_only() -> None:
    spec = MazeSpec(map=("@...>", "....."), view_radius=1)
    batch = MazeBatch(spec, 1)
    step = batch.step(torch.tensor([1]))
    assert bytes(step.obs.numpy()) == b"<@.??...??" == bytes(step.final_obs.numpy())
    assert bytes(batch.get_state()["boards"].numpy()) == b"<@..>....."


def test_shortest_path_leads_to_the_goal() -> None:
    spec = MazeSpec(p_change=0.0, closed_doors=0)
    batch = MazeBatch(spec, 300, 5)
    expected, _ = batch.shortest_path()
    done = torch.zeros(300, dtype=torch.bool)
    for taken in range(1, 80):
        length, action = batch.shortest_path()
        step = batch.step(action)
        assert (step.reward >= 0).all() and (length[~done] == expected[~done] - taken + 1).all()
        assert (expected[step.terminated & ~done] == taken).all()
        done |= step.terminated
    assert done.all()


def test_shortest_path_where_doors_cut_it_off() -> None:
    batch = MazeBatch(MazeSpec(map=("@d>",), closed_doors=1, p_change=0.0), 1)
    assert [t.item() for t in batch.shortest_path()] == [-1, 0]
    assert batch.step(torch.tensor([1])).reward.item() == pytest.approx(-0.01)


def test_out_is_written_and_nothing_else_aliases() -> None:
    batch, same = MazeBatch(MazeSpec(), 9), MazeBatch(MazeSpec(), 9)
    actions = random_actions(batch.spec, 9, 5)
    out = batch.step(actions[0])
    kept = same.step(actions[0])
    poisoned = Step(*(tensor.clone().fill_(1) for tensor in out))
    assert batch.step(actions[1], out=poisoned) is poisoned
    assert_same(poisoned, same.step(actions[1]))
    assert_same(out, kept)
    assert batch.step(actions[2], out=out) is out
    assert_same(out, same.step(actions[2]))


def test_crop_wall_takes_the_ring_only() -> None:
    assert MazeSpec(crop_wall=True).board == tuple(r[1:-1] for r in MazeSpec().board[1:-1])
    for map_ in ("four-rooms", "room", ("..", "..")):
        assert MazeSpec(map=map_, crop_wall=True).board == MazeSpec(map=map_).board


def test_contract_page_names_what_is_compiled() -> None:
    page = ast.parse((ROOT / "envs/_maze.pyi").read_text())
    module = {n.name for n in page.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    module |= {n.target.id for n in page.body if isinstance(n, ast.AnnAssign)}
    (batch,) = (n for n in page.body if isinstance(n, ast.ClassDef))
    methods = {n.name for n in batch.body if isinstance(n, ast.FunctionDef)} - {"__init__"}
    assert module == {name for name in dir(_maze) if not name.startswith("_")}
    assert methods == {name for name in dir(_maze.Batch) if not name.startswith("_")}
    assert _maze.cuda_devices() >= 0
