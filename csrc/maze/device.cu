// The same rules on a CUDA device: one thread steps one maze.
#include <cuda_runtime.h>

#include "maze/rules.h"

namespace maze {

int cuda_devices() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// spec: one, on the device; mazes [n], boards [n, stride], actions [n] in; the rest [n] out.
__global__ void step_kernel(const Spec *spec, Maze *mazes, uint8_t *boards, int stride, int n,
                            uint64_t seed, const int64_t *actions, float *reward, bool *terminated,
                            bool *truncated) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n)
        return;
    Maze &maze = mazes[i];
    uint8_t *board = boards + static_cast<size_t>(i) * stride;
    const uint32_t word = Stream(seed, i, maze.clock).next();
    const Outcome outcome = move(*spec, maze, board, seed, i, static_cast<int>(actions[i]), word);
    reward[i] = reward_of(outcome);
    terminated[i] = outcome == kReached;
    truncated[i] = outcome != kReached && maze.elapsed == spec->max_steps;
    if (terminated[i] || truncated[i])
        reset(*spec, maze, board, seed, i);
}

} // namespace maze
