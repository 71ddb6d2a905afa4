"""The mazes once more in plain Python, one at a time and slowly: what the C++ is compared with.

It draws the same Philox numbers in the same order, so that boards agree exactly; everything else
(moves, doors, paths, resets) is written without looking for speed.
"""

from collections import deque

from envs import MazeSpec

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1))
MASK = 2**32 - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10, Salmon et al. 2011."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


class Draws:
    """The random words of one maze at one tick of its clock."""

    def __init__(self, seed: int, maze: int, clock: int) -> None:
        self.key = (seed & MASK, seed >> 32)
        self.maze, self.clock = maze, clock
        self.words: list[int] = []
        self.used = 0

    def word(self) -> int:
        if self.used == len(self.words):
            counter = (self.used // 4, self.maze, self.clock & MASK, self.clock >> 32)
            self.words += philox(counter, self.key)
        self.used += 1
        return self.words[self.used - 1]

    def below(self, n: int) -> int:
        return self.word() * n >> 32


class Maze:
    """One maze; `cells` maps (row, column) to a glyph."""

    def __init__(self, spec: MazeSpec, maze: int, seed: int) -> None:
        self.spec, self.maze, self.seed = spec, maze, seed
        self.base = {
            (row, col): glyph
            for row, line in enumerate(spec.board)
            for col, glyph in enumerate(line)
        }
        self.doorways = [cell for cell, glyph in self.base.items() if glyph == "d"]
        self.clock = 0
        self.reset()

    def board(self) -> bytes:
        return "".join(self.cells.values()).encode()

    def view(self) -> bytes:
        radius = self.spec.view_radius
        if radius is None:
            return self.board()
        row, col = self.agent
        seen = {c for c in self.cells if abs(c[0] - row) <= radius and abs(c[1] - col) <= radius}
        return "".join(g if c in seen else "?" for c, g in self.cells.items()).encode()

    def step(self, action: int) -> tuple[float, bool, bool, bytes]:
        """Reward, terminated, truncated and the view before any reset."""
        draws = Draws(self.seed, self.maze, self.clock)
        self.clock += 1
        self.elapsed += 1
        target = self.neighbour(self.agent, action)
        bumped = self.cells.get(target, "|") not in ".<>"
        if not bumped:
            self.cells[self.agent] = "<" if self.agent == self.start else "."
            self.cells[target] = "@"
            self.agent = target
        reached = self.agent == self.goal
        changes = draws.word() < round(self.spec.p_change * 2**32)
        if not reached and changes and self.spec.door_count:
            self.redraw_doors(draws)
        late = not reached and self.elapsed == self.spec.step_limit
        view = self.view()
        if reached or late:
            self.reset()
        return (1.0 if reached else -0.01 if bumped else 0.0), reached, late, view

    def redraw_doors(self, draws: Draws) -> None:
        for cell in self.doorways:
            if self.cells[cell] == self.spec.door_glyph:
                self.cells[cell] = "."
        self.close_doors(draws, [cell for cell in self.doorways if self.cells[cell] == "."])

    def close_doors(self, draws: Draws, eligible: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Closes the doors and returns `eligible` with the closed ones in front."""
        for i in range(min(self.spec.door_count, len(eligible))):
            j = i + draws.below(len(eligible) - i)
            eligible[i], eligible[j] = eligible[j], eligible[i]
            self.cells[eligible[i]] = self.spec.door_glyph
        return eligible

    def reset(self) -> None:
        draws = Draws(self.seed, self.maze, self.clock)
        self.clock += 1
        self.elapsed = 0
        self.cells = {c: "." if glyph in "d@>" else glyph for c, glyph in self.base.items()}
        doors = self.close_doors(draws, list(self.doorways))
        self.start, self.goal = self.draw_ends(draws, doors[self.spec.door_count :])
        self.agent = self.start
        self.cells[self.goal], self.cells[self.start] = ">", "@"
        self.draw_walls(draws)

    def draw_ends(
        self, draws: Draws, open_doors: list[tuple[int, int]]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        floor = [cell for cell, glyph in self.base.items() if glyph == "."]
        if self.spec.start_goal_distance is not None:
            start = floor[draws.below(len(floor))]
            goals = [g for g in floor if room_distance(start, g) == self.spec.start_goal_distance]
            return start, take(draws, goals, start)
        fixed = {glyph: cell for cell, glyph in self.base.items() if glyph in "@>"}
        free = floor + open_doors
        start = fixed["@"] if "@" in fixed else free[draws.below(len(free))]
        return start, fixed[">"] if ">" in fixed else take(draws, free, start)

    def draw_walls(self, draws: Draws) -> None:
        eligible = [cell for cell in self.doorways if self.cells[cell] == "."]
        for _ in range(self.spec.wall_count):
            for _ in range(10 if eligible else 0):
                i = draws.below(len(eligible))
                cell = eligible[i]
                self.cells[cell] = "|"
                if self.path_length(self.start, doors_open=True) >= 0:
                    eligible[i] = eligible[-1]
                    eligible.pop()
                    break
                self.cells[cell] = "."

    def neighbour(self, cell: tuple[int, int], action: int) -> tuple[int, int]:
        return cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]

    def path_length(self, source: tuple[int, int], doors_open: bool = False) -> int:
        """Moves from `source` to the goal, -1 where there is no way."""
        door = self.spec.door_glyph if doors_open else "."
        distance = {source: 0}
        waiting = deque([source])
        while waiting:
            cell = waiting.popleft()
            for action in range(self.spec.actions):
                near = self.neighbour(cell, action)
                if near not in distance and self.cells.get(near, "|") in f".@<>{door}":
                    distance[near] = distance[cell] + 1
                    waiting.append(near)
        return distance.get(self.goal, -1)


def corridor_cell(row: int, col: int, rows: int, cols: int) -> str:
    """A cell of the map "corridors", as the published board is described."""
    if row in (0, rows - 1):
        return "-"
    if col in (0, cols - 1):
        return "|"
    return {0: "|", 1: "d", 2: "."}[row % 2 + col % 2]


def take(draws: Draws, cells: list[tuple[int, int]], taken: tuple[int, int]) -> tuple[int, int]:
    """A cell other than `taken`, which need not be listed; the last one stands in for it."""
    if taken not in cells:
        return cells[draws.below(len(cells))]
    cell = cells[draws.below(len(cells) - 1)]
    return cells[-1] if cell == taken else cell


def room_distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    """0 same, 1 adjacent, 2 opposite room of the 11 x 11 four rooms."""
    return sum((a > 5) != (b > 5) for a, b in zip(one, other, strict=True))
