// Mazes that live on a device, stepped by the rules of rules.h: one thread a maze for the rules,
// all threads of a block for the boards. Python owns the memory (envs/device.py).
#pragma once

#include "maze/spec.h"

namespace maze {

struct OnDevice {
    const Spec *spec;
    Maze *mazes;
    uint8_t *boards; // [N, cells]
    int num_envs;
    uint64_t seed;
    uint32_t first; // number of maze 0, for its random numbers
    int doorways;   // of the spec, for the host
};

struct Results {
    uint8_t *obs; // [N, cells]
    float *reward;
    bool *terminated, *truncated;
    uint8_t *final_obs; // [N, cells]
};

int cuda_devices();

// Both sides of device.cu. They neither allocate nor wait, so that a CUDA graph can repeat them.
// `stream` is a cudaStream_t; throws std::runtime_error that names a CUDA error.
namespace gpu {
void reset_all(const OnDevice &on, uint8_t *obs, void *stream);
void step_all(const OnDevice &on, const int64_t *actions, const Results &to, void *stream);
} // namespace gpu
namespace host {
void reset_all(const OnDevice &on, uint8_t *obs, void *stream);
void step_all(const OnDevice &on, const int64_t *actions, const Results &to, void *stream);
} // namespace host

} // namespace maze
