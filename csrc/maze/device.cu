// The kernels of mazes on a device, and their launches; compiled for GPU and host (common/cuda.h).
#include "common/cuda.h"

#include "maze/device.h"
#include "maze/observe.h"
#include "maze/rules.h"

namespace maze {
namespace SIDE {
namespace {

constexpr int kThreads = 64;

// Mazes of a block: a multiple of 8, so that its boards begin at a multiple of 8 bytes; with 4
// bytes of scratch per maze and doorway in at most 48 KiB.
inline int mazes_of_block(const OnDevice &on) {
    return on.doorways <= 192 ? kThreads : 8;
}

inline int scratch_bytes(const OnDevice &on) {
    return mazes_of_block(on) * 4 * on.doorways;
}

inline int blocks(const OnDevice &on) {
    return (on.num_envs + mazes_of_block(on) - 1) / mazes_of_block(on);
}

// What one block has to do with.
struct Part {
    int begin, end, own; // mazes begin ... end - 1; this thread's, or -1
    uint16_t *scratch;   // of this thread
};

__device__ inline Part part_of(const OnDevice &on, int mazes, unsigned char *shared) {
    const int lane = threadIdx.x, begin = blockIdx.x * mazes;
    const int end = begin + mazes < on.num_envs ? begin + mazes : on.num_envs;
    const int own = lane < end - begin ? begin + lane : -1;
    return {begin, end, own, reinterpret_cast<uint16_t *>(shared) + lane * 2 * on.doorways};
}

__device__ inline uint8_t *board_of(const OnDevice &on, int maze) {
    return on.boards + static_cast<int64_t>(maze) * on.spec->cells;
}

// The threads of a block copy its boards to one or two places, 8 bytes at a time where both places
// allow it: a caller's memory may begin anywhere.
__device__ inline void show(const OnDevice &on, const Part &part, uint8_t *one, uint8_t *two) {
    const Spec &spec = *on.spec;
    const int64_t begin = static_cast<int64_t>(part.begin) * spec.cells;
    const int bytes = (part.end - part.begin) * spec.cells, thread = threadIdx.x;
    if (spec.view_radius != kNone) {
        const int64_t i = static_cast<int64_t>(part.own) * spec.cells;
        if (part.own >= 0)
            write_obs(spec, on.mazes[part.own].agent, on.boards + i, one + i, two + i);
        return;
    }
    const auto *from = reinterpret_cast<const uint64_t *>(on.boards + begin);
    const auto places = reinterpret_cast<uintptr_t>(one) | reinterpret_cast<uintptr_t>(two);
    const int words = places % 8 == 0 ? bytes / 8 : 0;
    for (int i = thread; i < words; i += kThreads) {
        const uint64_t cells = from[i];
        reinterpret_cast<uint64_t *>(one + begin)[i] = cells;
        reinterpret_cast<uint64_t *>(two + begin)[i] = cells;
    }
    for (int64_t i = begin + words * 8 + thread; i < begin + bytes; i += kThreads)
        one[i] = two[i] = on.boards[i];
}

__global__ void __launch_bounds__(kThreads) reset_kernel(OnDevice on, int mazes, uint8_t *obs) {
    DYNAMIC_SHARED(shared);
    const Part part = part_of(on, mazes, shared);
    if (part.own >= 0)
        reset(*on.spec, on.mazes[part.own], board_of(on, part.own), on.seed, on.first + part.own,
              part.scratch);
    __syncthreads();
    show(on, part, obs, obs);
}

// An action out of range counts modulo their number: to refuse it, the host would have to wait.
__device__ inline bool step_own(const OnDevice &on, const Part &part, const int64_t *actions,
                                const Results &to) {
    const Spec &spec = *on.spec;
    const int i = part.own;
    Maze &maze = on.mazes[i];
    const uint32_t word =
        spec.change_threshold > 0 ? Stream(on.seed, on.first + i, maze.clock).next() : 0;
    const int action = static_cast<int>(actions[i] & (spec.actions - 1));
    const Outcome outcome =
        move(spec, maze, board_of(on, i), on.seed, on.first + i, action, word, part.scratch);
    const bool late = maze.elapsed == spec.max_steps;
    to.reward[i] = reward_of(outcome);
    to.terminated[i] = outcome == kReached;
    to.truncated[i] = late && outcome != kReached;
    return late || outcome == kReached;
}

__global__ void __launch_bounds__(kThreads)
    step_kernel(OnDevice on, int mazes, const int64_t *actions, Results to) {
    DYNAMIC_SHARED(shared);
    const Part part = part_of(on, mazes, shared);
    const bool ended = part.own >= 0 && step_own(on, part, actions, to);
    __syncthreads();
    show(on, part, to.obs, to.final_obs);
    __syncthreads();
    if (!ended)
        return;
    uint8_t *board = board_of(on, part.own); // seldom: its thread shows it alone
    uint8_t *obs = to.obs + (board - on.boards);
    reset(*on.spec, on.mazes[part.own], board, on.seed, on.first + part.own, part.scratch);
    write_obs(*on.spec, on.mazes[part.own].agent, board, obs, obs);
}

} // namespace

void reset_all(const OnDevice &on, uint8_t *obs, void *stream) {
    LAUNCH(reset_kernel, blocks(on), kThreads, scratch_bytes(on), static_cast<cudaStream_t>(stream),
           on, mazes_of_block(on), obs);
    CUDA_CHECK(cudaGetLastError());
}

void step_all(const OnDevice &on, const int64_t *actions, const Results &to, void *stream) {
    LAUNCH(step_kernel, blocks(on), kThreads, scratch_bytes(on), static_cast<cudaStream_t>(stream),
           on, mazes_of_block(on), actions, to);
    CUDA_CHECK(cudaGetLastError());
}

} // namespace SIDE

#ifdef __CUDACC__
int cuda_devices() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
#endif

} // namespace maze
