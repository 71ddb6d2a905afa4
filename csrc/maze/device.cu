// What the mazes need of CUDA so far: whether there is a device, and rules that compile for it.
#include <cuda_runtime.h>

#include "maze/rules.h"

namespace maze {

int cuda_devices() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Makes nvcc compile the rules for the device; a batch that lives there is not built yet.
__global__ void step_kernel(const Spec *spec, Maze *maze, uint8_t *board, uint64_t seed,
                            int action) {
    const uint32_t word = Stream(seed, 0, maze->clock).next();
    if (move(*spec, *maze, board, seed, 0, action, word) == kReached)
        reset(*spec, *maze, board, seed, 0);
}

} // namespace maze
