// Bytes become a map, its settings and calls on a batch of mazes: none may crash, hang or leave a
// maze that cannot be. For libFuzzer, or for replay.cpp where only g++ is.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <vector>

#include "maze/batch.h"

using namespace maze;

#define REQUIRE(what)                                                                              \
    ((what) ? void()                                                                               \
            : (std::fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what), std::abort()))

namespace {

struct Bytes {
    const uint8_t *at, *end;

    uint8_t one() { return at < end ? *at++ : 0; }
    int below(int n) { return (one() | one() << 8) % n; }
    int64_t wide() {
        uint64_t value = 0;
        for (int i = 0; i < 8; ++i)
            value = value << 8 | one();
        return static_cast<int64_t>(value);
    }
};

struct State {
    std::vector<uint8_t> boards;
    std::vector<int32_t> elapsed;
    std::vector<int64_t> clock;

    bool operator==(const State &other) const {
        return boards == other.boards && elapsed == other.elapsed && clock == other.clock;
    }
};

struct Result {
    std::vector<uint8_t> obs, final_obs;
    std::vector<float> reward;
    std::unique_ptr<bool[]> terminated, truncated;

    Result(int n, int cells)
        : obs(n * cells), final_obs(n * cells), reward(n), terminated(new bool[n]),
          truncated(new bool[n]) {}
};

// What the binding lets through; the rest is for make_spec to refuse.
Spec read_spec(Bytes &bytes) {
    const int rows = 1 + bytes.below(32), cols = 1 + bytes.below(kMaxCells / rows);
    if (rows * cols < 2)
        throw std::invalid_argument("map cells");
    const int steps[] = {1, 2, 5, 80, INT32_MAX};
    const uint8_t kind = bytes.one();
    const bool corridors = kind >= 192 && rows % 2 && cols % 2; // drawn here: few bytes would be
    Settings settings{rows, cols, 4 + 4 * (kind & 1), 0, 0, 0, 0, 0, 0, '#'};
    settings.closed_doors = bytes.one() - 1;
    settings.fixed_walls = bytes.one() % 32;
    settings.max_steps = steps[bytes.one() % std::size(steps)];
    settings.start_goal_distance = bytes.one() % 16 < 3 ? bytes.one() % 3 : kNone;
    settings.view_radius = bytes.one() % 4 - 1;
    settings.p_change = bytes.one() / 255.0;
    settings.door_glyph = settings.fixed_walls == 0 && bytes.one() % 2 ? kWall : '#';
    uint8_t map[kMaxCells], rooms[kMaxCells];
    for (int cell = 0; cell < rows * cols; ++cell) {
        const uint8_t byte = corridors ? "\3\2\0"[cell / cols % 2 + cell % cols % 2] : bytes.one();
        map[cell] = "..d|- @>"[byte & 7];
        rooms[cell] = byte >> 3;
    }
    return make_spec(settings, map, rooms);
}

class Walk {
  public:
    Walk(const Spec &spec, int n, uint64_t seed)
        : spec_(spec), n_(n), batch_(spec, n, seed, 0, 1), twin_(spec, n, seed, 0, n < 60 ? 1 : 3) {
        check();
    }

    void call(Bytes &bytes) {
        const uint8_t which = bytes.one();
        switch (which & 7) {
        case 0:
            refused_step(bytes);
            break;
        case 1:
            reset();
            break;
        case 2:
            follow();
            break;
        case 3:
        case 4:
            set_state(bytes, which);
            break;
        default:
            std::vector<int64_t> actions(n_);
            const int first = bytes.one();
            for (int i = 0; i < n_; ++i)
                actions[i] = (first + i * (which >> 3)) % spec_.actions;
            step(actions);
        }
        check();
    }

  private:
    State state(const Batch &batch) const {
        State state{std::vector<uint8_t>(n_ * spec_.cells), std::vector<int32_t>(n_),
                    std::vector<int64_t>(n_)};
        batch.get_state(state.boards.data(), state.elapsed.data(), state.clock.data());
        return state;
    }

    // The state can be put back, is that of the twin, and is seen as it is.
    void check() {
        const State now = state(batch_);
        twin_.set_state(now.boards.data(), now.elapsed.data(), now.clock.data());
        std::vector<uint8_t> obs(n_ * spec_.cells);
        batch_.observe(obs.data());
        check_seen(now.boards.data(), obs.data());
    }

    void check_seen(const uint8_t *boards, const uint8_t *obs) const {
        for (int i = 0; i < n_; ++i, boards += spec_.cells, obs += spec_.cells) {
            int agents = 0;
            for (int cell = 0; cell < spec_.cells; ++cell) {
                agents += obs[cell] == kAgent;
                REQUIRE(obs[cell] == boards[cell] || (obs[cell] == '?' && spec_.view_radius >= 0));
            }
            REQUIRE(agents == 1);
        }
    }

    void reset() {
        Result one(n_, spec_.cells), other(n_, spec_.cells);
        batch_.reset(one.obs.data());
        twin_.reset(other.obs.data());
        REQUIRE(one.obs == other.obs);
    }

    Result step(const std::vector<int64_t> &actions) {
        Result one(n_, spec_.cells), other(n_, spec_.cells);
        for (auto &[batch, result] : {std::pair{&batch_, &one}, std::pair{&twin_, &other}})
            batch->step(actions.data(), result->obs.data(), result->reward.data(),
                        result->terminated.get(), result->truncated.get(),
                        result->final_obs.data());
        REQUIRE(one.obs == other.obs && one.final_obs == other.final_obs);
        REQUIRE(one.reward == other.reward && state(batch_) == state(twin_));
        for (int i = 0; i < n_; ++i) {
            REQUIRE(one.terminated[i] == (one.reward[i] == 1));
            REQUIRE(!(one.terminated[i] && one.truncated[i]));
        }
        return one;
    }

    void refused_step(Bytes &bytes) {
        std::vector<int64_t> actions(n_);
        const int64_t action = bytes.wide();
        actions[n_ - 1] = action >= 0 && action < spec_.actions ? -1 : action;
        const State before = state(batch_);
        try {
            step(actions);
            REQUIRE(!"a bad action was taken");
        } catch (const std::invalid_argument &) {
            REQUIRE(state(batch_) == before);
        }
    }

    // One step along the shortest path: it is no bump and ends where the path does.
    void follow() {
        std::vector<int32_t> length(n_), left(n_);
        std::vector<int64_t> action(n_);
        batch_.shortest_path(length.data(), action.data());
        const Result result = step(action);
        batch_.shortest_path(left.data(), action.data());
        for (int i = 0; i < n_; ++i) {
            REQUIRE(length[i] == kNone || length[i] > 0);
            if (length[i] == kNone)
                continue;
            REQUIRE(result.reward[i] == (length[i] == 1 ? 1.0f : 0.0f));
            const bool same = !result.terminated[i] && !result.truncated[i];
            REQUIRE(!same || spec_.change_threshold > 0 || left[i] == length[i] - 1);
        }
    }

    void set_state(Bytes &bytes, int which) {
        const State before = state(batch_);
        State asked = before;
        for (int i = which >> 4; i > 0; --i)
            asked.boards[bytes.below(n_ * spec_.cells)] = ".@><|#d?"[bytes.one() & 7];
        const bool whole = (which & 8) != 0;
        const int i = bytes.below(n_);
        if (whole) {
            asked.elapsed[i] = static_cast<int32_t>(bytes.wide());
            asked.clock[i] = bytes.wide();
        }
        try {
            batch_.set_state(asked.boards.data(), whole ? asked.elapsed.data() : nullptr,
                             whole ? asked.clock.data() : nullptr);
            REQUIRE(state(batch_).boards == asked.boards);
            if (asked.clock[i] > kMaxClock - 1000) // steps would go beyond what can be put back
                batch_.set_state(before.boards.data(), before.elapsed.data(), before.clock.data());
        } catch (const std::invalid_argument &) {
            REQUIRE(state(batch_) == before);
        }
    }

    const Spec spec_;
    const int n_;
    Batch batch_, twin_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Bytes bytes{data, data + size};
    std::unique_ptr<Walk> walk;
    try {
        const Spec spec = read_spec(bytes);
        const int n = bytes.one();
        // more than a group of the batch, and threads, only where they cost little
        const bool many = n > 252 && spec.cells < 64;
        walk = std::make_unique<Walk>(spec, many ? 66 : 1 + n % 3, bytes.wide());
    } catch (const std::invalid_argument &) {
        return 0;
    }
    for (int calls = 0; bytes.at < bytes.end && calls < 50; ++calls)
        walk->call(bytes);
    return 0;
}
