// CUDA's words for a host compiler: kernels run as written, for tests of their source without a
// GPU. This is no simulator of a GPU: it says nothing about speed or about memory models.
// How they run, and which mistakes show, stands in cuda_fibers.h.
#pragma once

#include "common/cuda_fibers.h"

#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

using cudaStream_t = void *;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
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
template <typename T> T __shfl_down_sync(unsigned, T value, int by) {
    const int from = shim::lane() + by;
    return shim::exchange("__shfl_down_sync", value, from < shim::kWarp ? from : shim::lane());
}
template <typename T> T __shfl_up_sync(unsigned, T value, int by) {
    const int from = shim::lane() - by;
    return shim::exchange("__shfl_up_sync", value, from < 0 ? shim::lane() : from);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    return shim::ballot("__ballot_sync", vote);
}
inline bool __any_sync(unsigned, bool vote) {
    return shim::ballot("__any_sync", vote) != 0;
}
inline bool __all_sync(unsigned, bool vote) {
    return shim::ballot("__all_sync", vote) == shim::kAll;
}

template <typename T> T __ldg(const T *from) {
    return *from;
}
template <typename T> T atomicAdd(T *to, T value) {
    const T old = *to;
    *to += value;
    return old;
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
