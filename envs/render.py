"""Draws a board as text for terminals and as pixels for pictures. NumPy only, no window.

Colours are Okabe & Ito's (2008), which stay apart for colour-blind eyes; shapes differ as well.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from envs.spec import MazeSpec

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    ".": (238, 235, 226),  # floor
    "|": (66, 74, 92),  # wall
    " ": (30, 33, 41),  # solid rock
    "#": (230, 159, 0),  # closed door: orange
    "@": (0, 114, 178),  # agent: blue
    ">": (0, 158, 115),  # goal: bluish green
    "<": (204, 121, 167),  # start: reddish purple
    "?": (185, 198, 225),  # out of view
}
BLOCKS = {"|": "██", " ": "  ", "#": "▒▒", "?": "░░", ".": " ·", "@": "● ", ">": "★ ", "<": "○ "}


@lru_cache(maxsize=64)
def _doorways(spec: MazeSpec) -> Mask:
    return np.array([[cell == "d" for cell in row] for row in spec.board])


def kinds(board: Bytes, spec: MazeSpec | None = None) -> tuple[Bytes, Mask]:
    """What stands on each cell, one code for one kind.

    Args:
        board: uint8 [rows, cols], ASCII codes as observed.
        spec: whose board it is. It tells four rooms' closed doors, drawn '|', from walls, and
            open doorways from floor.

    Returns:
        uint8 [rows, cols], the keys of `COLOURS` (so '-' becomes '|'); bool [rows, cols], true at
        doorways that nothing blocks.

    Raises:
        ValueError: the board has another shape or dtype, or an unknown code.
    """
    board = np.asarray(board)
    if board.ndim != 2 or board.dtype != np.uint8:
        raise ValueError(f"board is {board.dtype} {list(board.shape)}: expected uint8 [rows, cols]")
    kind = np.where(board == ord("-"), np.uint8(ord("|")), board)
    unknown = ~np.isin(kind, [ord(glyph) for glyph in COLOURS])
    if unknown.any():
        row, col = np.argwhere(unknown)[0]
        raise ValueError(
            f"board holds code {board[row, col]} at row {row}, column {col}: "
            f"expected one of {''.join(COLOURS)}-"
        )
    if spec is None:
        return kind, np.zeros(board.shape, dtype=bool)
    doorway = _doorways(spec)
    if doorway.shape != board.shape:
        raise ValueError(
            f"board is {list(board.shape)}: expected {list(doorway.shape)}, as its spec says"
        )
    kind[doorway & (kind == ord(spec.door_glyph))] = ord("#")
    return kind, doorway & ~np.isin(kind, [ord(glyph) for glyph in "#|?"])


def ansi(board: Bytes, spec: MazeSpec | None = None, colour: bool = False) -> str:
    """The board as lines of text.

    Plain, it is the observation itself, one character a cell. With `colour` it is drawn for the
    eye: two columns a cell (terminal cells are twice as high as wide), in the 256 xterm colours.

    Args:
        board: uint8 [rows, cols].
        spec: see `kinds`.
        colour: draw for the eye.

    Returns:
        rows lines, joined by newlines, none at the end.
    """
    kind, doorway = kinds(board, spec)
    if not colour:
        return "\n".join(row.tobytes().decode("ascii") for row in np.asarray(board))
    lines = []
    for codes, doors in zip(kind, doorway, strict=True):
        cells = [_coloured(chr(code), door) for code, door in zip(codes, doors, strict=True)]
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _coloured(glyph: str, doorway: bool) -> str:
    text, (red, green, blue) = BLOCKS[glyph], COLOURS[glyph]
    if glyph == "." and doorway:
        text, (red, green, blue) = " ∷", COLOURS["#"]
    cube = [round(level / 255 * 5) for level in (red, green, blue)]
    return f"\x1b[38;5;{16 + 36 * cube[0] + 6 * cube[1] + cube[2]}m{text}"


def rgb(board: Bytes, spec: MazeSpec | None = None, tile: int = 24) -> Bytes:
    """The board as a picture.

    Args:
        board: uint8 [rows, cols].
        spec: see `kinds`.
        tile: side of a cell in pixels, 8 or more.

    Returns:
        uint8 [rows * tile, cols * tile, 3].
    """
    if tile < 8:
        raise ValueError(f"tile is {tile}: expected 8 or more pixels")
    kind, doorway = kinds(board, spec)
    image = _ground(kind, tile)
    for row, col in np.argwhere(doorway):
        _blend(image, row, col, _stamp("d", tile))
    for row, col in np.argwhere(np.isin(kind, [ord(glyph) for glyph in "#@><?"])):
        _blend(image, row, col, _stamp(chr(kind[row, col]), tile))
    return np.rint(image).astype(np.uint8)


def _blend(image: Floats, row: int, col: int, stamp: Floats) -> None:
    tile = stamp.shape[0]
    part = image[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile]
    part *= 1 - stamp[..., 3:]
    part += stamp[..., :3]


def _ground(kind: Bytes, tile: int) -> Floats:
    """Floor with a faint grid, and walls as one relief lit from the upper left."""
    block = np.ones((tile, tile), dtype=bool)
    rock, wall = (np.kron(kind == ord(glyph), block) for glyph in " |")
    solid = rock | wall
    image = np.empty((*solid.shape, 3), dtype=np.float32)
    image[:] = COLOURS["."]
    image[::tile] *= 0.93
    image[:, ::tile] *= 0.93
    depth, edge = max(2, tile // 6), max(1, tile // 12)
    image[_shifted(solid, depth, depth) & ~solid] *= 0.86  # the walls' shadow
    image[wall] = COLOURS["|"]
    lit = _shifted(solid, edge, 0) & _shifted(solid, 0, edge)
    dark = _shifted(solid, -edge, 0) & _shifted(solid, 0, -edge)
    image[wall & ~dark] *= 0.62
    image[wall & ~lit] = (112, 124, 148)
    image[rock] = COLOURS[" "]
    return image


def _shifted(mask: Mask, down: int, right: int) -> Mask:
    """mask moved by so many pixels; what moves in is solid, as all is beyond the border."""
    pad = max(abs(down), abs(right))
    padded = np.pad(mask, pad, constant_values=True)
    rows, cols = mask.shape
    return padded[pad - down : pad - down + rows, pad - right : pad - right + cols]


@lru_cache(maxsize=256)
def _stamp(kind: str, tile: int) -> Floats:
    """One thing to lay over the floor: float32 [tile, tile, 4], colour times cover, and cover.

    Shapes are signed distances (negative inside) in a square from -1 to 1, so edges are smooth.
    """
    y, x = np.mgrid[0:tile, 0:tile] * (2 / tile) + (1 / tile - 1)
    radius = np.hypot(x, y)
    base: RGB = COLOURS["#" if kind == "d" else kind]
    dark = _mixed(base, (0, 0, 0), 0.4)
    if kind == "@":
        shadow = np.hypot(x - 0.08, y - 0.12) - 0.68
        glint = np.hypot(x + 0.22, y + 0.24) - 0.17
        layers = [(shadow, (0, 0, 0), 0.22), (radius - 0.68, dark, 1.0), (radius - 0.56, base, 1.0)]
        layers.append((glint, (255, 255, 255), 0.85))
    elif kind == ">":
        shadow = _star(x - 0.07, y - 0.15, 0.84)
        layers = [(shadow, (0, 0, 0), 0.2), (_star(x, y - 0.05, 0.88), dark, 1.0)]
        layers.append((_star(x, y - 0.05, 0.66), base, 1.0))
    elif kind == "<":
        layers = [(np.abs(radius - 0.5) - 0.13, base, 1.0)]
    elif kind == "#":
        knob = np.hypot(x - 0.42, y - 0.08) - 0.13
        planks = np.minimum(np.abs(x + 0.27), np.abs(x - 0.12)) - 0.03
        layers = [(_box(x - 0.05, y - 0.07, 0.84), (0, 0, 0), 0.22), (_box(x, y, 0.84), dark, 1.0)]
        layers.append((_box(x, y, 0.7), base, 1.0))
        layers.append((np.maximum(planks, _box(x, y, 0.7)), dark, 0.55))
        layers.append((knob, dark, 1.0))
    elif kind == "d":
        corners = np.maximum(np.abs(_box(x, y, 0.8)) - 0.06, 0.42 - np.minimum(abs(x), abs(y)))
        layers = [(corners, base, 0.5)]
    else:
        stripes = np.abs((x + y + 2) % 0.5 - 0.25) - 0.06
        layers = [(x * 0 - 1, base, 1.0), (stripes, _mixed(base, (0, 0, 0), 0.22), 1.0)]
    return _painted(layers, tile)


def _painted(layers: list[tuple[np.ndarray, RGB, float]], tile: int) -> Floats:
    stamp = np.zeros((tile, tile, 4))
    for distance, colour, strength in layers:
        cover = np.clip(0.5 - distance * (tile / 2), 0, 1)[..., None] * strength
        stamp = stamp * (1 - cover) + cover * (*colour, 1)
    return stamp.astype(np.float32)


def _mixed(colour: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (
        round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def _box(x: np.ndarray, y: np.ndarray, half: float) -> np.ndarray:
    """A square of that half side, its corners rounded by 0.15."""
    dx, dy = np.abs(x) - half + 0.15, np.abs(y) - half + 0.15
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - 0.15


def _star(x: np.ndarray, y: np.ndarray, tip: float) -> np.ndarray:
    """Five points, one up. Folded into half a point, the outline is one straight line."""
    half = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    radius, notch = np.hypot(x, y), 0.45 * tip
    along = np.array([notch * np.cos(half) - tip, notch * np.sin(half)])
    normal = np.array([along[1], -along[0]]) / np.hypot(*along)
    return (radius * np.cos(angle) - tip) * normal[0] + radius * np.sin(angle) * normal[1]
