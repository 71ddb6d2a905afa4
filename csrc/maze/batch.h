// Many mazes of one kind, stepped together. Knows nothing of Python. Callers that run at the same
// time take turns: the binding lets go of the GIL.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "common/thread_pool.h"
#include "maze/spec.h"

namespace maze {

// The most that a state may have: no maze runs on from there to an overflow.
constexpr int64_t kMaxClock = int64_t{1} << 62;

// The numbers that make a Spec together with the base map; named as the fields of MazeSpec.
struct Settings {
    int rows, cols, actions, closed_doors, fixed_walls, max_steps;
    int start_goal_distance; // kNone: any
    int view_radius;         // kNone: the whole board
    double p_change;
    uint8_t door_glyph;
};

// `map` holds rows * cols of `|- .d@>`; `rooms` the room 0 ... 3 of every floor cell, read only
// where start_goal_distance is given. Throws std::invalid_argument on what would be out of bounds.
Spec make_spec(const Settings &settings, const uint8_t *map, const uint8_t *rooms);

class Batch {
  public:
    // Maze i draws its random numbers as number `first` + i.
    Batch(const Spec &spec, int num_envs, uint64_t seed, uint32_t first, int threads);

    const Spec &spec() const { return spec_; }
    uint64_t seed() const { return seed_; }
    uint32_t first() const { return first_; }
    int num_envs() const { return static_cast<int>(mazes_.size()); }
    int threads() const { return pool_.size(); }

    void reset(uint8_t *obs);
    // Throws std::invalid_argument, with nothing stepped, if an action is out of range.
    void step(const int64_t *actions, uint8_t *obs, float *reward, bool *terminated,
              bool *truncated, uint8_t *final_obs);
    void get_state(uint8_t *boards, int32_t *elapsed, int64_t *clock) const;
    // `elapsed` and `clock` may be null: 0 and as they were. Throws std::invalid_argument, with
    // nothing changed, on a board that this map cannot show.
    void set_state(const uint8_t *boards, const int32_t *elapsed, const int64_t *clock);
    void observe(uint8_t *obs) const;
    // The mazes as they are, unchecked: how they travel to a device [N, cells] and back.
    void give(Maze *mazes, uint8_t *boards) const;
    void take(const Maze *mazes, const uint8_t *boards);
    void shortest_path(int32_t *length, int64_t *action);

  private:
    uint8_t *board(int i) { return boards_.data() + static_cast<size_t>(i) * stride_; }
    const uint8_t *board(int i) const { return boards_.data() + static_cast<size_t>(i) * stride_; }
    void step_range(int begin, int end, const int64_t *actions, uint8_t *obs, float *reward,
                    bool *terminated, bool *truncated, uint8_t *final_obs);
    Maze read_board(int i, const uint8_t *board) const;
    void write_all(uint8_t *obs) const;
    template <typename Job> void for_ranges(const Job &job);

    mutable ForkSafeMutex mutex_;
    const Spec spec_;
    const uint64_t seed_;
    const uint32_t first_;
    const size_t stride_;
    std::vector<Maze> mazes_;
    std::vector<uint8_t> boards_;
    ThreadPool pool_;
};

} // namespace maze
