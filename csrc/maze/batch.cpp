// The batch on the host: ranges of mazes over threads, and within a range small groups of mazes
// that pass through one stage after the other.
#include "maze/batch.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "maze/observe.h"
#include "maze/rules.h"

namespace maze {
namespace {

constexpr int kGroup = 64;            // mazes whose boards stay in the L1 cache from stage to stage
constexpr int kMazesPerThread = 4096; // fewer are done before a sleeping thread wakes

int choose_threads(int threads, int num_envs) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const int most = threads > 0 ? threads : std::min(cores, num_envs / kMazesPerThread);
    return std::max(1, std::min(most, num_envs));
}

// First random word of mazes first ... first + kGroup - 1 at their present clocks.
void change_words(const Maze *mazes, int n, uint64_t seed, uint32_t first, uint32_t *words) {
    for (int i = 0; i < n; ++i)
        words[i] = philox({{0, first + i, static_cast<uint32_t>(mazes[i].clock),
                            static_cast<uint32_t>(mazes[i].clock >> 32)}},
                          static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32))
                       .word[0];
}

std::string place(const Spec &spec, int maze, int cell) {
    return "maze " + std::to_string(maze) + ", row " + std::to_string(cell / spec.cols) +
           ", column " + std::to_string(cell % spec.cols);
}

bool can_show(const Spec &spec, int cell, uint8_t glyph) {
    const uint8_t base = spec.map[cell];
    if (base != kFloor && base != kDoorway)
        return glyph == base;
    if (glyph == kFloor || glyph == kAgent || glyph == kGoal || glyph == kStart)
        return true;
    return base == kDoorway && (glyph == kWall || glyph == spec.door_glyph);
}

} // namespace

Batch::Batch(const Spec &spec, int num_envs, uint64_t seed, uint32_t first, int threads)
    : spec_(spec), seed_(seed), first_(first), stride_((spec.cells + 15) / 16 * 16),
      mazes_(num_envs), boards_(stride_ * num_envs), pool_(choose_threads(threads, num_envs)) {
    uint16_t scratch[2 * kMaxCells];
    for (int i = 0; i < num_envs; ++i)
        maze::reset(spec_, mazes_[i], board(i), seed_, first_ + i, scratch);
}

template <typename Job> void Batch::for_ranges(const Job &job) {
    const int64_t n = num_envs(), parts = pool_.size();
    pool_.run([&](int part) {
        job(static_cast<int>(n * part / parts), static_cast<int>(n * (part + 1) / parts));
    });
}

void Batch::write_all(uint8_t *obs) const {
    for (int i = 0; i < num_envs(); ++i) {
        uint8_t *row = obs + static_cast<size_t>(i) * spec_.cells;
        write_obs(spec_, mazes_[i].agent, board(i), row, row);
    }
}

void Batch::observe(uint8_t *obs) const {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    write_all(obs);
}

void Batch::reset(uint8_t *obs) {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    for_ranges([&](int begin, int end) {
        uint16_t scratch[2 * kMaxCells];
        for (int i = begin; i < end; ++i)
            maze::reset(spec_, mazes_[i], board(i), seed_, first_ + i, scratch);
    });
    write_all(obs);
}

void Batch::step(const int64_t *actions, uint8_t *obs, float *reward, bool *terminated,
                 bool *truncated, uint8_t *final_obs) {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    int64_t bits = 0; // actions is a power of two: a bad action has a bit beyond the good ones
    for (int i = 0; i < num_envs(); ++i)
        bits |= actions[i];
    if (bits & ~int64_t{spec_.actions - 1}) {
        const int64_t *bad = std::find_if(actions, actions + num_envs(), [&](int64_t action) {
            return action < 0 || action >= spec_.actions;
        });
        throw std::invalid_argument("actions[" + std::to_string(bad - actions) + "] is " +
                                    std::to_string(*bad) + ": expected 0 to " +
                                    std::to_string(spec_.actions - 1));
    }
    for_ranges([&](int begin, int end) {
        step_range(begin, end, actions, obs, reward, terminated, truncated, final_obs);
    });
}

void Batch::step_range(int begin, int end, const int64_t *actions, uint8_t *obs, float *reward,
                       bool *terminated, bool *truncated, uint8_t *final_obs) {
    Maze *const mazes = mazes_.data();
    uint8_t *const boards = boards_.data();
    const size_t stride = stride_, cells = spec_.cells;
    uint32_t words[kGroup] = {};
    uint16_t scratch[2 * kMaxCells];
    for (int first = begin; first < end; first += kGroup) {
        const int last = std::min(first + kGroup, end);
        if (spec_.change_threshold > 0)
            change_words(mazes + first, last - first, seed_, first_ + first, words);
        int ended[kGroup], n_ended = 0;
        for (int i = first; i < last; ++i) {
            const Outcome outcome = move(spec_, mazes[i], boards + i * stride, seed_, first_ + i,
                                         static_cast<int>(actions[i]), words[i - first], scratch);
            const bool late = mazes[i].elapsed == spec_.max_steps;
            reward[i] = reward_of(outcome);
            terminated[i] = outcome == kReached;
            truncated[i] = late & (outcome != kReached);
            ended[n_ended] = i;
            n_ended += late | (outcome == kReached);
        }
        for (int i = first; i < last; ++i)
            write_obs(spec_, mazes[i].agent, boards + i * stride, obs + i * cells,
                      final_obs + i * cells);
        for (int k = 0; k < n_ended; ++k) {
            const int i = ended[k];
            maze::reset(spec_, mazes[i], boards + i * stride, seed_, first_ + i, scratch);
            write_obs(spec_, mazes[i].agent, boards + i * stride, obs + i * cells, obs + i * cells);
        }
    }
}

void Batch::get_state(uint8_t *boards, int32_t *elapsed, int64_t *clock) const {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    for (int i = 0; i < num_envs(); ++i) {
        std::memcpy(boards + static_cast<size_t>(i) * spec_.cells, board(i), spec_.cells);
        elapsed[i] = mazes_[i].elapsed;
        clock[i] = static_cast<int64_t>(mazes_[i].clock);
    }
}

Maze Batch::read_board(int i, const uint8_t *board) const {
    int agent = kNone, goal = kNone, start = kNone;
    for (int cell = 0; cell < spec_.cells; ++cell) {
        const uint8_t glyph = board[cell];
        if (!can_show(spec_, cell, glyph))
            throw std::invalid_argument(place(spec_, i, cell) + " shows code " +
                                        std::to_string(glyph) + ": not possible at this place");
        if (glyph != kAgent && glyph != kGoal && glyph != kStart)
            continue;
        int &seen = glyph == kAgent ? agent : glyph == kGoal ? goal : start;
        if (seen != kNone)
            throw std::invalid_argument(place(spec_, i, cell) + " shows a second '" +
                                        static_cast<char>(glyph) + "': expected one");
        seen = cell;
    }
    if (agent == kNone || goal == kNone)
        throw std::invalid_argument("maze " + std::to_string(i) + " has no '" +
                                    (agent == kNone ? "@" : ">") + "': expected one");
    Maze maze{};
    maze.agent = static_cast<uint16_t>(agent);
    maze.goal = static_cast<uint16_t>(goal);
    maze.start = static_cast<uint16_t>(start == kNone ? agent : start);
    return maze;
}

void Batch::set_state(const uint8_t *boards, const int32_t *elapsed, const int64_t *clock) {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    std::vector<Maze> mazes(num_envs());
    for (int i = 0; i < num_envs(); ++i) {
        mazes[i] = read_board(i, boards + static_cast<size_t>(i) * spec_.cells);
        mazes[i].clock = clock ? static_cast<uint64_t>(clock[i]) : mazes_[i].clock;
        mazes[i].elapsed = elapsed ? elapsed[i] : 0;
        if (mazes[i].elapsed < 0 || mazes[i].elapsed >= spec_.max_steps)
            throw std::invalid_argument("elapsed[" + std::to_string(i) + "] is " +
                                        std::to_string(elapsed[i]) + ": expected 0 to " +
                                        std::to_string(spec_.max_steps - 1));
        if (clock && (clock[i] < 0 || clock[i] > kMaxClock))
            throw std::invalid_argument("clock[" + std::to_string(i) + "] is " +
                                        std::to_string(clock[i]) + ": expected 0 to " +
                                        std::to_string(kMaxClock));
    }
    mazes_ = std::move(mazes);
    for (int i = 0; i < num_envs(); ++i)
        std::memcpy(board(i), boards + static_cast<size_t>(i) * spec_.cells, spec_.cells);
}

void Batch::give(Maze *mazes, uint8_t *boards) const {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    std::copy(mazes_.begin(), mazes_.end(), mazes);
    for (int i = 0; i < num_envs(); ++i)
        std::memcpy(boards + static_cast<size_t>(i) * spec_.cells, board(i), spec_.cells);
}

void Batch::take(const Maze *mazes, const uint8_t *boards) {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    std::copy(mazes, mazes + num_envs(), mazes_.begin());
    for (int i = 0; i < num_envs(); ++i)
        std::memcpy(board(i), boards + static_cast<size_t>(i) * spec_.cells, spec_.cells);
}

void Batch::shortest_path(int32_t *length, int64_t *action) {
    const std::lock_guard<ForkSafeMutex> lock(mutex_);
    for_ranges([&](int begin, int end) {
        for (int i = begin; i < end; ++i) {
            Bits<kMaxWords> open{};
            for (int cell = 0; cell < spec_.cells; ++cell) {
                const uint8_t glyph = board(i)[cell];
                if (passable(glyph) || glyph == kAgent)
                    open.add(cell - spec_.first_open);
            }
            Distances<kMaxWords> distances;
            const Maze &maze = mazes_[i];
            length[i] = search(spec_, open, maze.goal, maze.agent, distances);
            action[i] = length[i] > 0 ? distances.nearer(spec_, maze.agent, length[i]) : 0;
        }
    });
}

} // namespace maze
