"""What a maze is: `MazeSpec`, its named maps, and the checks on both."""

import operator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple


class Map(NamedTuple):
    """A map with a name, and what `None` means on it in the fields of `MazeSpec`."""

    rows: tuple[str, ...] = ()  # (): a square of floor, `size` cells a side
    closed_doors: int = 0
    fixed_walls: int = 0
    max_steps: int = 80
    door_glyph: str = "#"  # how a closed door is drawn


FOUR_ROOMS = (
    ".....|.....",
    ".....|.....",
    ".....d.....",
    ".....|.....",
    ".....|.....",
    "-d---|.....",
    ".....|--d--",
    ".....|.....",
    ".....|.....",
    ".....d.....",
    ".....|.....",
)


def _corridors(rows: int, cols: int) -> tuple[str, ...]:
    """Floor at odd rows and columns, a doorway between two of them, an outer wall; both odd."""
    floor, pillars = (f"|{a}{b * (cols // 2 - 1)}|" for a, b in ((".", "d."), ("d", "|d")))
    return ("-" * cols, *(floor, pillars) * (rows // 2 - 1), floor, "-" * cols)


def _square_corridors(side: int) -> Map:
    """In proportion to the published 11 x 13 board, where of 49 doorways 5 are closed and 10 walled
    up, and sides of 12 cells on average have 80 steps."""
    rows = _corridors(side, side)
    doorways = "".join(rows).count("d")
    doors, walls = (round(doorways * published / 49) for published in (5, 10))
    return Map(rows, doors, walls, max_steps=round(80 * side / 12))


NAMED_MAPS = {
    "four-rooms": Map(FOUR_ROOMS, closed_doors=1, door_glyph="|"),
    "corridors": Map(_corridors(11, 13), closed_doors=5, fixed_walls=10),
    "room": Map(),
}
DRAWN = Map()  # the defaults of a map that the user drew
MAX_CELLS = 1024
GLYPHS = "|- .d@>"
AGENT, GOAL, START, FLOOR = (ord(glyph) for glyph in "@><.")  # their codes on a board
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class MazeSpec:
    """The rules and the map of a maze; the defaults are the corridors of HRM-Agent (arXiv
    2510.22832). Raises a one-line `ValueError` that names the field, its value and what is right.
    """

    map: str | tuple[str, ...] = "corridors"
    """"four-rooms" (11 x 11), "corridors" (11 x 13 or size x size), "room" (size x size), or the
    rows of your own map: `|` and `-` wall, space rock, `.` floor, `d` doorway, `@` fixed start, `>`
    fixed goal."""

    actions: int = 4
    """4: north, east, south, west; 8: also north-east, south-east, south-west, north-west."""

    closed_doors: int | None = None
    """Doorways that are closed at any time (None: 1 in four-rooms, 5 of every 49 in corridors, else
    0)."""

    p_change: float = 0.05
    """Probability per step that all closed doors are drawn again."""

    fixed_walls: int | None = None
    """Doorways walled up for an episode, never cutting start from goal (None: 10 of every
    49 in corridors, else 0)."""

    max_steps: int | None = None
    """Steps after which an episode is truncated (None: 80, or 80 * size / 12 in corridors with a
    size)."""

    size: int | None = None
    """Rows and columns of "corridors" with its outer wall, odd, 5 to 31 (None: 11 x 13), or of
    "room", 2 to 32 (None: 9); for no other map."""

    start_goal_distance: int | None = None
    """Four-rooms only: goal in the start's room (0), an adjacent (1) or the opposite (2) room."""

    crop_wall: bool = False
    """Leave out the outer ring of cells where all of it is wall."""

    view_radius: int | None = None
    """Cells more than this many rows or columns from the agent look like `?` (None: all seen)."""

    def __post_init__(self) -> None:
        make_plain(self)
        _check_numbers(self)
        if isinstance(self.map, str) and self.map not in NAMED_MAPS:
            object.__setattr__(self, "map", _lines(self.map))
        board = self.board
        _check_board(board)
        _check_connected(board, self.actions)
        doorways = sum(row.count("d") for row in board)
        if self.door_glyph == "|" and self.wall_count > 0:
            raise ValueError(
                f"fixed_walls is {self.fixed_walls}: expected 0 on {self.map}, whose closed doors "
                "are drawn as walls"
            )
        if self.door_count > doorways:
            raise ValueError(f"closed_doors is {self.door_count}: expected 0 to {doorways}")
        if self.door_count + self.wall_count > doorways:
            most = doorways - self.door_count
            raise ValueError(f"fixed_walls is {self.wall_count}: expected 0 to {most}")

    @cached_property
    def board(self) -> tuple[str, ...]:
        """The rows of the base map after cropping, `d` at every doorway."""
        rows = _base_rows(self)
        if not self.crop_wall or len(rows) < 3 or min(map(len, rows)) < 3:
            return rows
        ring = "".join([rows[0], rows[-1], *(row[0] + row[-1] for row in rows)])
        return tuple(row[1:-1] for row in rows[1:-1]) if set(ring) <= set("|- ") else rows

    @property
    def rows(self) -> int:
        """Rows of the board."""
        return len(self.board)

    @property
    def cols(self) -> int:
        """Columns of the board."""
        return len(self.board[0])

    @property
    def cells(self) -> int:
        """Cells of the board, the length of one observation."""
        return self.rows * self.cols

    @property
    def walls(self) -> tuple[int, ...]:
        """Cells that are wall or rock on every board."""
        return tuple(i for i, glyph in enumerate("".join(self.board)) if glyph in "|- ")

    @property
    def door_count(self) -> int:
        """`closed_doors` with the map's default filled in."""
        own = self._named.closed_doors
        return own if self.closed_doors is None else self.closed_doors

    @property
    def wall_count(self) -> int:
        """`fixed_walls` with the map's default filled in."""
        own = self._named.fixed_walls
        return own if self.fixed_walls is None else self.fixed_walls

    @property
    def step_limit(self) -> int:
        """`max_steps` with the map's default filled in."""
        return self._named.max_steps if self.max_steps is None else self.max_steps

    @property
    def door_glyph(self) -> str:
        """How a closed door is drawn."""
        return self._named.door_glyph

    @cached_property
    def _named(self) -> Map:
        if not isinstance(self.map, str):
            return DRAWN
        if self.map == "corridors" and self.size is not None:
            return _square_corridors(self.size)
        return NAMED_MAPS[self.map]


def _base_rows(spec: MazeSpec) -> tuple[str, ...]:
    if not isinstance(spec.map, str):
        return spec.map
    side = 9 if spec.size is None else spec.size
    return spec._named.rows or ("." * side,) * side


def _lines(text: str) -> tuple[str, ...]:
    """Rows of a drawn map, without a byte order mark and without the blank lines around them; a
    line of spaces is one of rock where it is as long as the others."""
    rows = text.removeprefix("\ufeff").splitlines()
    length = next((len(row) for row in rows if row.strip()), 0)
    while rows and not rows[0].strip() and len(rows[0]) != length:
        rows.pop(0)
    while rows and not rows[-1].strip() and len(rows[-1]) != length:
        rows.pop()
    return tuple(rows)


def plain(value: Any) -> Any:
    """Convert a NumPy or torch scalar to a Python number, and what has `__index__` to an int.

    A bool stays a bool; anything else is returned as it is.
    """
    if getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return int(operator.index(value))
    except TypeError:  # NumPy's and torch's arrays of many
        return value


def make_plain(spec: Any) -> None:
    """`plain` for all fields of a frozen dataclass."""
    for name, value in list(vars(spec).items()):
        object.__setattr__(spec, name, plain(value))


def check_integer(field: str, value: object, low: int, high: int) -> int:
    """The integer as an int; ValueError: it is none, or out of range."""
    value = plain(value)
    huge = high >= 2**31 - 1 and not (isinstance(value, int) and value > high)
    expected = f"expected {low} or more" if huge else f"expected {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{field} is {value!r}: expected an integer, {expected[9:]}")
    if not low <= value <= high:
        raise ValueError(f"{field} is {value}: {expected}")
    return value


def _check_numbers(spec: MazeSpec) -> None:
    check_integer("actions", spec.actions, 4, 8)
    if spec.actions not in (4, 8):
        raise ValueError(f"actions is {spec.actions}: expected 4 or 8")
    ranges = {
        "closed_doors": (0, MAX_CELLS),
        "fixed_walls": (0, MAX_CELLS),
        "max_steps": (1, 2**31 - 1),
        "start_goal_distance": (0, 2),
        "view_radius": (0, MAX_CELLS),
    }
    for field, (low, high) in ranges.items():
        if getattr(spec, field) is not None:
            check_integer(field, getattr(spec, field), low, high)
    p = spec.p_change
    if isinstance(p, bool) or not isinstance(p, Real) or not 0 <= p <= 1:
        raise ValueError(f"p_change is {p!r}: expected 0 to 1")
    if not isinstance(spec.crop_wall, bool):
        raise ValueError(f"crop_wall is {spec.crop_wall!r}: expected True or False")
    _check_map_type(spec.map)
    _check_size(spec)
    if spec.start_goal_distance is not None and spec.map != "four-rooms":
        raise ValueError(
            f"start_goal_distance is {spec.start_goal_distance}: expected None unless map is "
            "'four-rooms'"
        )


def _check_size(spec: MazeSpec) -> None:
    if spec.size is None:
        return
    if spec.map == "four-rooms" or spec.map not in NAMED_MAPS:
        whose = "four-rooms has" if spec.map == "four-rooms" else "a drawn map has"
        raise ValueError(
            f"size is {spec.size!r}: expected None, as {whose} its own; 'corridors' and 'room' "
            "take one"
        )
    check_integer("size", spec.size, *((5, 31) if spec.map == "corridors" else (2, 32)))
    if spec.map == "corridors" and spec.size % 2 == 0:
        raise ValueError(f"size is {spec.size}: expected an odd number, 5 to 31, for 'corridors'")


def _check_map_type(map_: object) -> None:
    if isinstance(map_, str):
        if map_ in NAMED_MAPS or "\n" in map_:
            return
        names = ", ".join(repr(name) for name in NAMED_MAPS)
        raise ValueError(f"map is {map_!r}: expected {names} or the rows of a map")
    if not isinstance(map_, tuple) or not all(isinstance(row, str) for row in map_):
        raise ValueError(f"map is {map_!r}: expected a name or a tuple of strings")


def _check_board(board: tuple[str, ...]) -> None:
    if not board or not board[0]:
        raise ValueError("map is empty: expected rows of cells")
    for row, line in enumerate(board):
        if len(line) != len(board[0]):
            raise ValueError(
                f"map row {row} has {len(line)} cells: expected {len(board[0])} as in row 0"
            )
        for col, glyph in enumerate(line):
            if glyph not in GLYPHS:
                raise ValueError(f"map row {row} column {col} is {glyph!r}: expected '{GLYPHS}'")
    if len(board) * len(board[0]) > MAX_CELLS:
        raise ValueError(
            f"map has {len(board)} x {len(board[0])} cells: expected at most {MAX_CELLS}"
        )
    text = "".join(board)
    for glyph, what in (("@", "starts"), (">", "goals")):
        if text.count(glyph) > 1:
            raise ValueError(f"map has {text.count(glyph)} {what} '{glyph}': expected at most 1")
    floor = sum(text.count(glyph) for glyph in ".@>")
    if floor < 2:
        raise ValueError(f"map has {floor} floor cells: expected at least 2")


def _check_connected(board: tuple[str, ...], actions: int) -> None:
    unseen = {
        (row, col)
        for row, line in enumerate(board)
        for col, glyph in enumerate(line)
        if glyph in ".d@>"
    }
    waiting = [min(unseen)]
    while waiting:
        row, col = waiting.pop()
        unseen.discard((row, col))
        near = {(row + dr, col + dc) for dr, dc in MOVES[:actions]}
        waiting += near & unseen
    if unseen:
        row, col = min(unseen)
        raise ValueError(
            f"map row {row} column {col} cannot be reached: expected all floor to be connected "
            "with the doors open"
        )
