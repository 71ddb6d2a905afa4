"""Boards as text and as pixels."""

from itertools import combinations

import numpy as np
import pytest

from envs import MazeBatch, MazeSpec
from envs.render import COLOURS, ansi, kinds, rgb

MAP = ("-----", "|.d.|", "|d|d|", "|.d.|", "-----")
SPEC = MazeSpec(map=MAP, closed_doors=2, max_steps=30)
BOARD = ("-----", "|@#.|", "|.|.|", "|<.>|", "-----")

# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def board_of(*rows: str) -> np.ndarray:
    return np.array([[ord(cell) for cell in row] for row in rows], dtype=np.uint8)


def tiles(picture: np.ndarray, tile: int) -> np.ndarray:
    rows, cols = picture.shape[0] // tile, picture.shape[1] // tile
    return picture.reshape(rows, tile, cols, tile, 3).swapaxes(1, 2)  # [rows, cols, tile, tile, 3]


def lab(colour: tuple[int, int, int], sight: str) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour as that eye sees it."""
    level = np.array(colour) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    linear = np.clip(SIGHT[sight] @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_plain_text_is_the_board():
    assert ansi(board_of(*BOARD), SPEC) == "\n".join(BOARD)


def test_coloured_text_is_two_columns_a_cell_in_256_colours():
    wall, floor, end = "\x1b[38;5;60m██", "\x1b[38;5;230m ·", "\x1b[0m"
    assert ansi(board_of("|@", "#."), colour=True) == (
        f"{wall}\x1b[38;5;31m● {end}\n\x1b[38;5;214m▒▒{floor}{end}"
    )
    assert "∷" in ansi(board_of(*BOARD), SPEC, colour=True)  # the open doorways


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_stay_apart_for_every_eye(sight):
    """Euclidean distance in L*a*b*, where about 2.3 is just noticeable."""
    for one, other in combinations(COLOURS, 2):
        distance = np.linalg.norm(lab(COLOURS[one], sight) - lab(COLOURS[other], sight))
        assert distance > 15, (one, other, distance)


@pytest.mark.parametrize("tile", [8, 16, 32])
def test_every_kind_of_cell_has_a_picture_of_its_own(tile):
    drawn = {glyph: rgb(board_of(glyph), tile=tile) for glyph in COLOURS}
    drawn["d"] = tiles(rgb(board_of(*BOARD), SPEC, tile), tile)[3, 2]
    for one, other in combinations(drawn, 2):
        apart = np.abs(drawn[one].astype(int) - drawn[other]).max()
        assert apart > 30, (one, other, apart)
    assert all(picture.shape == (tile, tile, 3) for picture in drawn.values())


def test_shapes_differ_without_colour():
    """Where colour is lost the outlines of agent, goal, start and door still differ."""
    floor = rgb(board_of("."), tile=32).astype(int)
    outline = {g: np.abs(rgb(board_of(g), tile=32) - floor).sum(-1) > 120 for g in "@><#"}
    for one, other in combinations(outline, 2):
        assert (outline[one] ^ outline[other]).mean() > 0.1, (one, other)


def test_walls_join():
    """Beside another wall a wall has no edge; towards the floor it has a lit or a dark one."""
    tile = 24
    wall = rgb(board_of("...", ".||", "..."), tile=tile)[tile : 2 * tile, tile:]
    plain = wall[tile // 2, tile // 2]
    assert (wall[tile // 2, tile - 4 : tile + 4] == plain).all()  # across the joint
    assert (wall[tile // 2, -1] == plain).all()  # the border: all is solid beyond it
    assert (wall[0].sum(-1) > plain.sum()).all()  # lit from above
    assert (wall[-1, 4:].sum(-1) < plain.sum()).all()


def test_doors_of_four_rooms_are_drawn_as_doors_though_coded_as_walls():
    spec = MazeSpec(map="four-rooms")
    board = MazeBatch(spec, 1, seed=3).reset().numpy().reshape(spec.rows, spec.cols)
    kind, doorway = kinds(board, spec)
    doors = np.array([[cell == "d" for cell in row] for row in spec.board])
    assert (kind == ord("#")).sum() == 1
    assert (doorway == (doors & (kind != ord("#")))).all()
    (row, col) = np.argwhere(kind == ord("#"))[0]
    picture = tiles(rgb(board, spec, 24), 24)[row, col]
    assert (picture == COLOURS["#"]).all(-1).mean() > 0.3


def test_fixed_walls_of_corridors_are_drawn_as_walls():
    spec = MazeSpec()
    board = MazeBatch(spec, 1, seed=3).reset().numpy().reshape(spec.rows, spec.cols)
    kind, _ = kinds(board, spec)
    assert (kind == ord("#")).sum() == 5
    assert (kind == ord("|")).sum() == np.isin(board, [ord("|"), ord("-")]).sum()


def test_input_is_left_alone_and_pictures_are_not_shared():
    board = board_of(*BOARD)
    kept = board.copy()
    one = rgb(board, SPEC)
    two = rgb(board, SPEC)
    one[:] = 0
    assert (board == kept).all() and two.any()
    assert (rgb(board, SPEC) == two).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rgb(board_of("@."), tile=7), "tile is 7: expected 8 or more pixels"),
        (
            lambda: rgb(np.zeros(4, np.uint8)),
            r"board is uint8 [4]: expected uint8 [rows, cols]",
        ),
        (
            lambda: ansi(np.zeros((2, 2))),
            r"board is float64 [2, 2]: expected uint8 [rows, cols]",
        ),
        (
            lambda: ansi(board_of("..", ".x")),
            "board holds code 120 at row 1, column 1: expected one of .| #@><?-",
        ),
        (lambda: rgb(board_of("@."), SPEC), "board is [1, 2]: expected [5, 5], as its spec says"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
