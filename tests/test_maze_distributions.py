"""What is drawn at random: uniform where it should be, and never where it must not be."""

import numpy as np
import pytest
import torch

from envs import MazeBatch, MazeSpec

N = 20_000


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic in standard deviations above its mean (about normal for many bins)."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


def boards_of(spec: MazeSpec, seed: int = 0) -> np.ndarray:
    return MazeBatch(spec, N, seed).get_state()["boards"].numpy().reshape(N, -1)


def base_of(spec: MazeSpec) -> np.ndarray:
    return np.frombuffer("".join(spec.board).encode(), np.uint8)


@pytest.mark.parametrize("glyph", "@>")
def test_start_and_goal_are_uniform(glyph: str) -> None:
    spec = MazeSpec(fixed_walls=0)
    base, boards = base_of(spec), boards_of(spec)
    counts = (boards == ord(glyph)).sum(0)
    doorways = (base == ord("d")).sum()
    free = (base == ord(".")).sum() + doorways - 5
    share = np.where(base == ord("."), 1.0, (doorways - 5) / doorways) / free
    inside = np.isin(base, list(b".d"))
    assert counts[~inside].sum() == 0
    assert abs(chi_square(counts[inside], N * share[inside])) < 4


def test_pairs_of_start_and_goal_are_uniform() -> None:
    boards = boards_of(MazeSpec(map="room", size=3))
    pairs = np.argmax(boards == ord("@"), 1) * 9 + np.argmax(boards == ord(">"), 1)
    counts = np.bincount(pairs, minlength=81).reshape(9, 9)
    assert np.trace(counts) == 0
    assert abs(chi_square(counts[~np.eye(9, dtype=bool)], np.full(72, N / 72))) < 4


def test_closed_doors_are_a_uniform_subset() -> None:
    spec = MazeSpec(fixed_walls=0)
    doors = boards_of(spec)[:, base_of(spec) == ord("d")] == ord("#")
    assert (doors.sum(1) == 5).all()
    n_doorways = doors.shape[1]
    together = doors.T.astype(float) @ doors
    pairs = together[np.triu_indices(n_doorways, 1)]
    expected = N * 5 * 4 / (n_doorways * (n_doorways - 1))
    # doors shut each other out, which leaves pair counts a little less spread than a multinomial
    assert -8 < chi_square(pairs, np.full(len(pairs), expected)) < 4


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_rooms_at_their_distance(distance: int) -> None:
    boards = boards_of(MazeSpec(map="four-rooms", start_goal_distance=distance))
    ends = np.stack([np.argmax(boards == ord(glyph), 1) for glyph in "@>"])
    south, east = ends // 11 > 5, ends % 11 > 5
    assert ((south[0] != south[1]).astype(int) + (east[0] != east[1]) == distance).all()
    starts = np.bincount(ends[0], minlength=121)
    floor = np.frombuffer("".join(MazeSpec(map="four-rooms").board).encode(), np.uint8) == ord(".")
    assert abs(chi_square(starts[floor], np.full(floor.sum(), N / floor.sum()))) < 4


@pytest.mark.parametrize("actions", [4, 8])
def test_walls_never_cut_start_from_goal(actions: int) -> None:
    spec = MazeSpec(actions=actions, fixed_walls=30, closed_doors=0)
    batch = MazeBatch(spec, N)
    assert (batch.shortest_path()[0] > 0).all()
    walls = (batch.observe() == ord("|")).sum(1) - "".join(spec.board).count("|")
    assert walls.max() <= 30 and walls.min() < 30  # some gave up after their tries


def test_ten_walls_and_five_doors_in_corridors() -> None:
    spec = MazeSpec()
    boards, base = boards_of(spec), base_of(spec)
    assert ((boards == ord("#")).sum(1) == 5).all()
    assert ((boards == ord("|"))[:, base == ord("d")].sum(1) == 10).mean() > 0.999


@pytest.mark.parametrize("size", [11, 21, 31])
def test_large_corridors_are_as_dense_as_the_published_ones(size: int) -> None:
    """Doors and walls by the doorway; and as seldom as there do doors cut off the goal."""
    boards = {n: MazeBatch(MazeSpec(size=n), 4000) for n in (None, size)}
    for glyph, share in (("#", 5 / 49), ("|", 10 / 49)):
        doorway = base_of(boards[size].spec) == ord("d")
        found = (boards[size].observe().numpy() == ord(glyph))[:, doorway]
        assert found.mean() == pytest.approx(share, abs=0.5 / doorway.sum())
    cut_off = {n: (batch.shortest_path()[0] < 0).float().mean() for n, batch in boards.items()}
    assert cut_off[size] < cut_off[None] + 0.01
    doorless = MazeBatch(MazeSpec(size=size, closed_doors=0), 4000)
    assert (doorless.shortest_path()[0] > 0).all()


@pytest.mark.parametrize("map_", ["corridors", "four-rooms"])
def test_doors_change_at_rate_p_and_keep_off_people(map_: str) -> None:
    spec = MazeSpec(map=map_, p_change=0.1, max_steps=10_000, fixed_walls=0)
    batch = MazeBatch(spec, 1000)
    door, doorway = ord(spec.door_glyph), base_of(spec) == ord("d")
    generator = torch.Generator().manual_seed(1)
    before = batch.observe().numpy()[:, doorway] == door
    changed = total = 0
    for _ in range(100):
        step = batch.step(torch.randint(4, (1000,), generator=generator))
        now = step.obs.numpy()
        assert ((now == ord("@")).sum(1) == 1).all() and ((now == ord(">")).sum(1) == 1).all()
        assert ((now == ord("<")).sum(1) <= 1).all()
        now = now[:, doorway] == door
        assert (now.sum(1) == spec.door_count).all()
        on = ~step.terminated.numpy()
        changed += (now != before)[on].any(1).sum()
        total += on.sum()
        before = now
    # one of four doorways is drawn again as the same in a quarter of the draws, a little more
    # often where somebody stands on one
    low, high = (0.095, 0.105) if map_ == "corridors" else (0.068, 0.082)
    assert low < changed / total < high


def test_fewer_doors_where_too_few_doorways_are_free() -> None:
    spec = MazeSpec(map=("@d.>",), closed_doors=1, p_change=1.0)
    batch = MazeBatch(spec, 1)
    batch.load_boards(torch.tensor([[list(b"@..>")]], dtype=torch.uint8))
    assert bytes(batch.step(torch.tensor([1])).obs.numpy()) == b"<@.>"
    assert bytes(batch.step(torch.tensor([1])).obs.numpy()) == b"<#@>"
