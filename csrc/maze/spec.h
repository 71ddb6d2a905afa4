// What is fixed for a batch (Spec) and what one maze remembers (Maze, beside its board picture).
// Both are plain data that a device may copy.
#pragma once

#include <cstdint>

namespace maze {

constexpr int kMaxCells = 1024;
constexpr int kMaxWords = kMaxCells / 64;
constexpr int kMaxActions = 8;
constexpr int kNone = -1;

constexpr uint8_t kFloor = '.';
constexpr uint8_t kAgent = '@';
constexpr uint8_t kGoal = '>';
constexpr uint8_t kStart = '<';
constexpr uint8_t kWall = '|';
constexpr uint8_t kDoorway = 'd'; // in a Spec's map only, never on a board

struct Spec {
    int rows, cols, cells;
    int actions;
    int closed_doors;
    int fixed_walls;
    int max_steps;
    int view_radius;            // kNone: the whole board is seen
    uint8_t door_glyph;         // how a closed door is drawn
    uint64_t change_threshold;  // doors are drawn again if a 32-bit word is below it
    uint8_t map[kMaxCells];     // base map: walls, rock, floor, doorways
    uint8_t picture[kMaxCells]; // base map as drawn: all doorways open, nobody there

    // next[8 * cell + action]: where the action leads; the cell itself at a border or a base wall.
    // Both are a bump, so that leaving the board needs no test.
    uint16_t next[kMaxCells * kMaxActions];

    int start, goal;                // kNone unless the map fixes them
    int floors;                     // floor cells that start and goal are drawn from
    uint16_t floor[kMaxCells];      // without a fixed start and a fixed goal
    int doorways;                   //
    uint16_t doorway[kMaxCells];    //
    bool by_room;                   // the goal is drawn from the goals of the start's room
    uint8_t room[kMaxCells];        // 0 ... 3, floor cells only
    int goals[4];                   //
    uint16_t goal_of[4][kMaxCells]; //

    int first_open;                // the cell of bit 0: an outer wall needs no bits
    int words;                     // 64-bit words of a bitboard
    uint64_t open[kMaxWords];      // floor and doorways
    uint64_t not_first[kMaxWords]; // cells that are not in the first column
    uint64_t not_last[kMaxWords];
};

struct Maze {
    uint64_t clock; // steps and resets since the maze was made
    int32_t elapsed;
    uint16_t agent, goal, start;
};

} // namespace maze
