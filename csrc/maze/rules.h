// The rules of the mazes, written once for host and device: one move, the doors, a new maze.
//
// `scratch` holds 2 * spec.doorways cells, whatever they were: a device has no room for such lists
// in every thread.
#pragma once

#include <string.h> // the global names, which a device knows as well

#include "maze/bitboard.h"
#include "maze/random.h"
#include "maze/spec.h"

namespace maze {

enum Outcome : uint8_t { kMoved, kBumped, kReached };

HOST_DEVICE inline float reward_of(Outcome outcome) {
    const float rewards[] = {0.0f, -0.01f, 1.0f};
    return rewards[outcome];
}

// '.', '<' and '>' lie in this range of ASCII; walls, doors and the agent do not.
HOST_DEVICE inline bool passable(uint8_t glyph) {
    return static_cast<uint8_t>(glyph - kFloor) <= kGoal - kFloor;
}

// Closes `count` of the `n` listed cells, a uniform subset; they end up in front.
HOST_DEVICE inline void close_doors(const Spec &spec, uint8_t *board, Stream &stream,
                                    uint16_t *cells, int n, int count) {
    for (int i = 0; i < count; ++i) {
        const int j = i + stream.below(n - i);
        const uint16_t cell = cells[j];
        cells[j] = cells[i];
        cells[i] = cell;
        board[cell] = spec.door_glyph;
    }
}

// Opens all closed doors and closes as many anew, never where something stands or is drawn.
HOST_DEVICE inline void redraw_doors(const Spec &spec, uint8_t *board, Stream &stream,
                                     uint16_t *scratch) {
    const int doorways = spec.doorways, door = spec.door_glyph; // the board might alias the spec
    uint16_t *eligible = scratch, *closed = scratch + doorways;
    int n = 0, n_closed = 0;
    for (int i = 0; i < doorways; ++i) { // sums, not branches, which would be guessed wrong
        const uint16_t cell = spec.doorway[i];
        const int glyph = board[cell];
        eligible[n] = cell;
        n += (glyph == door) | (glyph == kFloor);
        closed[n_closed] = cell;
        n_closed += glyph == door;
    }
    for (int i = 0; i < n_closed; ++i)
        board[closed[i]] = kFloor;
    close_doors(spec, board, stream, eligible, n, n < spec.closed_doors ? n : spec.closed_doors);
}

// One action. `change_word` is the first word of the stream at this tick of the clock; the caller
// hands it in because it can make those of many mazes at once.
HOST_DEVICE inline Outcome move(const Spec &spec, Maze &maze, uint8_t *board, uint64_t seed,
                                uint32_t maze_id, int action, uint32_t change_word,
                                uint16_t *scratch) {
    const int agent = maze.agent;
    const int target = spec.next[kMaxActions * agent + action];
    const int moves = passable(board[target]);
    // arithmetic, since a branch on a random walk is guessed wrong every other time
    const int now = agent + (target - agent) * moves;
    board[agent] = static_cast<uint8_t>(kFloor + (kStart - kFloor) * (agent == maze.start));
    board[now] = kAgent;
    maze.agent = static_cast<uint16_t>(now);
    ++maze.elapsed;
    const uint64_t clock = maze.clock++;
    if (now == maze.goal)
        return kReached;
    if (change_word < spec.change_threshold) {
        Stream stream(seed, maze_id, clock);
        stream.next(); // change_word
        redraw_doors(spec, board, stream, scratch);
    }
    return static_cast<Outcome>(kBumped - moves);
}

// Puts a path from start to goal into `path`; false if there is none.
template <int W>
HOST_DEVICE inline bool find_path(const Spec &spec, const Bits<W> &open, const Maze &maze,
                                  Bits<W> &path) {
    Distances<W> distances;
    int distance = search(spec, open, maze.goal, maze.start, distances);
    if (distance == kNone)
        return false;
    path = {};
    path.add(maze.start - spec.first_open);
    for (int cell = maze.start; distance > 0; --distance) {
        cell = spec.next[kMaxActions * cell + distances.nearer(spec, cell, distance)];
        path.add(cell - spec.first_open);
    }
    return true;
}

// Walls up doorways one by one, each only if start and goal stay connected with all doors open.
// A wall beside the path known so far cuts nothing, so that few need a new search.
template <int W>
HOST_DEVICE inline void place_walls(const Spec &spec, const Maze &maze, uint8_t *board,
                                    Stream &stream, uint16_t *eligible) {
    constexpr int kTries = 10;
    int n = 0;
    for (int i = 0; i < spec.doorways; ++i) {
        eligible[n] = spec.doorway[i];
        n += board[spec.doorway[i]] == kFloor;
    }
    Bits<W> open = load_bits<W>(spec.open), path{};
    find_path(spec, open, maze, path);
    for (int wall = 0; wall < spec.fixed_walls && n > 0; ++wall) {
        for (int attempt = 0; attempt < kTries; ++attempt) {
            const int i = stream.below(n);
            const int cell = eligible[i];
            open.drop(cell - spec.first_open);
            if (!path.has(cell - spec.first_open) || find_path(spec, open, maze, path)) {
                board[cell] = kWall;
                eligible[i] = eligible[--n];
                break;
            }
            open.add(cell - spec.first_open);
        }
    }
}

// Start and goal, different and uniform: over floor and open doorways, or, where their rooms'
// distance is given, over the floor of the rooms. `doors` lists all doorways, closed ones in front.
HOST_DEVICE inline void place_start_and_goal(const Spec &spec, Maze &maze, Stream &stream,
                                             const uint16_t *doors) {
    const int doors_from = spec.closed_doors - spec.floors;
    if (spec.by_room) {
        maze.start = spec.floor[stream.below(spec.floors)];
        const int room = spec.room[maze.start];
        const uint16_t *goals = spec.goal_of[room];
        const bool own_room = spec.room[goals[0]] == room;
        const int last = spec.goals[room] - 1;
        const int i = stream.below(last + !own_room);
        maze.goal = goals[i] == maze.start ? goals[last] : goals[i];
        return;
    }
    const int n = spec.floors + spec.doorways - spec.closed_doors;
    int first = kNone, last = n;
    if (spec.start != kNone) {
        maze.start = static_cast<uint16_t>(spec.start);
    } else {
        first = stream.below(n);
        last = n - 1;
        maze.start = first < spec.floors ? spec.floor[first] : doors[first + doors_from];
    }
    if (spec.goal != kNone) {
        maze.goal = static_cast<uint16_t>(spec.goal);
        return;
    }
    int second = stream.below(last);
    second = second == first ? last : second; // the one left out stands in for the one taken
    maze.goal = second < spec.floors ? spec.floor[second] : doors[second + doors_from];
}

HOST_DEVICE inline void reset(const Spec &spec, Maze &maze, uint8_t *board, uint64_t seed,
                              uint32_t maze_id, uint16_t *scratch) {
    Stream stream(seed, maze_id, maze.clock++);
    memcpy(board, spec.picture, spec.cells);
    uint16_t *doors = scratch, *eligible = scratch + spec.doorways;
    memcpy(doors, spec.doorway, sizeof(uint16_t) * spec.doorways);
    close_doors(spec, board, stream, doors, spec.doorways, spec.closed_doors);
    place_start_and_goal(spec, maze, stream, doors);
    board[maze.goal] = kGoal;
    board[maze.start] = kAgent;
    maze.agent = maze.start;
    maze.elapsed = 0;
    if (spec.fixed_walls == 0)
        return;
    switch (spec.words) {
    case 1:
        return place_walls<1>(spec, maze, board, stream, eligible);
    case 2:
        return place_walls<2>(spec, maze, board, stream, eligible);
    case 3:
        return place_walls<3>(spec, maze, board, stream, eligible);
    case 4:
        return place_walls<4>(spec, maze, board, stream, eligible);
#ifndef __CUDA_ARCH__ // there eight words spill registers
    case 5:
    case 6:
    case 7:
    case 8:
        return place_walls<8>(spec, maze, board, stream, eligible);
#endif
    default:
        return place_walls<kMaxWords>(spec, maze, board, stream, eligible);
    }
}

} // namespace maze
