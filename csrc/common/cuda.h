// What device sources include. nvcc gets CUDA itself; a host compiler gets cuda_shim.h, which runs
// the same kernels on the CPU for tests.
//
// A .cu file that includes this is compiled by both (setup.py). What it defines lies in
// `namespace SIDE` (gpu or host), so that the two can be linked into one module. Dynamic shared
// memory is DYNAMIC_SHARED(name), a launch is LAUNCH(kernel, grid, block, bytes, stream, args...).
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define SIDE gpu
#define NOINLINE __noinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define LAUNCH(kernel, grid, block, bytes, stream, ...)                                            \
    kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
// Throws std::runtime_error that names the call, the file and the line.
#define CUDA_CHECK(call) ::gpu::check(call, #call, __FILE__, __LINE__)

namespace gpu {

inline void check(cudaError_t error, const char *call, const char *file, int line) {
    if (error == cudaSuccess)
        return;
    cudaGetLastError(); // forgets it: the next launch shall not be blamed
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error) + " (" + file +
                             ":" + std::to_string(line) + ")");
}

} // namespace gpu

#else

#include "common/cuda_shim.h"

#define SIDE host
#define NOINLINE __attribute__((noinline))
#define DYNAMIC_SHARED(name) unsigned char *const name = shim::shared_memory()
#define LAUNCH(kernel, grid, block, bytes, stream, ...)                                            \
    (static_cast<void>(stream), shim::launch(grid, block, bytes, [&] { kernel(__VA_ARGS__); }))
#define CUDA_CHECK(call) static_cast<void>(0) // there is no runtime to ask

#endif

// 16 bytes from global to shared memory without a register in between. They are there for the
// thread that copied after async_wait<N> (all but its last N commits), for the block after the
// barrier past that.
__device__ inline void async_copy16(void *shared, const void *global) {
#ifdef __CUDACC__
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
    shim::async_copy(shared, global, 16);
#endif
}

__device__ inline void async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    shim::async_commit();
#endif
}

template <int N> __device__ inline void async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    shim::async_wait(N);
#endif
}
