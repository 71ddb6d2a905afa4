// Builds the tables of a Spec from a drawn map.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "maze/batch.h"

namespace maze {
namespace {

constexpr int kRowStep[kMaxActions] = {-1, 0, 1, 0, -1, 1, 1, -1};
constexpr int kColStep[kMaxActions] = {0, 1, 0, -1, 1, 1, -1, -1};

bool is_open(uint8_t glyph) {
    return glyph != '|' && glyph != '-' && glyph != ' ';
}

void fill_cells(Spec &spec, const uint8_t *map) {
    for (int cell = 0; cell < spec.cells; ++cell) {
        const uint8_t glyph = map[cell];
        spec.map[cell] = glyph == kAgent || glyph == kGoal ? kFloor : glyph;
        spec.picture[cell] = is_open(glyph) ? kFloor : glyph;
        if (glyph == kDoorway)
            spec.doorway[spec.doorways++] = static_cast<uint16_t>(cell);
        else if (glyph == kAgent)
            spec.start = cell;
        else if (glyph == kGoal)
            spec.goal = cell;
        else if (is_open(glyph))
            spec.floor[spec.floors++] = static_cast<uint16_t>(cell);
    }
}

void fill_bits(Spec &spec) {
    const uint8_t *begin = spec.picture, *end = begin + spec.cells;
    spec.first_open = static_cast<int>(std::find(begin, end, kFloor) - begin);
    for (int cell = spec.first_open; cell < spec.cells; ++cell) {
        const int i = (cell - spec.first_open) >> 6, col = cell % spec.cols;
        const uint64_t bit = uint64_t{1} << ((cell - spec.first_open) & 63);
        spec.open[i] |= spec.picture[cell] == kFloor ? bit : 0;
        spec.not_first[i] |= col > 0 ? bit : 0;
        spec.not_last[i] |= col < spec.cols - 1 ? bit : 0;
        spec.words = spec.picture[cell] == kFloor ? i + 1 : spec.words;
    }
}

void fill_next(Spec &spec) {
    for (int cell = 0; cell < spec.cells; ++cell) {
        for (int action = 0; action < kMaxActions; ++action) {
            const int row = cell / spec.cols + kRowStep[action];
            const int col = cell % spec.cols + kColStep[action];
            const bool inside = row >= 0 && row < spec.rows && col >= 0 && col < spec.cols;
            const int target = inside ? row * spec.cols + col : cell;
            spec.next[kMaxActions * cell + action] =
                static_cast<uint16_t>(is_open(spec.map[target]) ? target : cell);
        }
    }
}

void fill_rooms(Spec &spec, const uint8_t *rooms, int distance) {
    spec.by_room = true;
    for (int i = 0; i < spec.floors; ++i)
        spec.room[spec.floor[i]] = rooms[spec.floor[i]] & 3;
    for (int room = 0; room < 4; ++room) {
        for (int i = 0; i < spec.floors; ++i) {
            const int apart = std::abs(room - spec.room[spec.floor[i]]);
            if (std::min(apart, 4 - apart) == distance)
                spec.goal_of[room][spec.goals[room]++] = spec.floor[i];
        }
        if (spec.goals[room] < 2)
            throw std::invalid_argument("rooms: expected at least 2 cells in each of 4");
    }
}

} // namespace

Spec make_spec(const Settings &settings, const uint8_t *map, const uint8_t *rooms) {
    Spec spec{};
    spec.rows = settings.rows;
    spec.cols = settings.cols;
    spec.cells = spec.rows * spec.cols;
    spec.actions = settings.actions;
    spec.closed_doors = settings.closed_doors;
    spec.fixed_walls = settings.fixed_walls;
    spec.max_steps = settings.max_steps;
    spec.view_radius = settings.view_radius;
    spec.door_glyph = settings.door_glyph;
    spec.change_threshold = settings.closed_doors == 0
                                ? 0
                                : static_cast<uint64_t>(std::llround(settings.p_change * 0x1p32));
    spec.start = spec.goal = kNone;
    fill_cells(spec, map);
    fill_bits(spec);
    fill_next(spec);
    const int fixed = (spec.start != kNone) + (spec.goal != kNone);
    if (spec.closed_doors < 0 || spec.closed_doors > spec.doorways)
        throw std::invalid_argument("closed_doors is " + std::to_string(spec.closed_doors) +
                                    ": expected 0 to " + std::to_string(spec.doorways));
    if (spec.floors + spec.doorways - spec.closed_doors + fixed < 2)
        throw std::invalid_argument("map: expected at least 2 open cells");
    if (settings.start_goal_distance != kNone)
        fill_rooms(spec, rooms, settings.start_goal_distance);
    return spec;
}

} // namespace maze
