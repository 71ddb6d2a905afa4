// The words of CUDA that the kernels use, for a host compiler: they run as written, for tests of
// their source without a GPU. This is no simulator of a GPU: it says nothing about speed or about
// memory models. How they run, and which mistakes show, stands in cuda_fibers.h.
#pragma once

#include "common/cuda_fibers.h"

#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

using cudaStream_t = void *;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}

inline void __syncthreads() {
    shim::barrier();
}
inline void __syncwarp(unsigned = shim::kAll) {
    shim::exchange("__syncwarp", 0, 0);
}
template <typename T> T __shfl_sync(unsigned, T value, int lane) {
    return shim::exchange("__shfl_sync", value, lane);
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::exchange("__shfl_xor_sync", value, shim::lane() ^ mask);
}
inline bool __all_sync(unsigned, bool vote) {
    return shim::ballot("__all_sync", vote) == shim::kAll;
}

template <typename T> T __ldg(const T *from) {
    return *from;
}
