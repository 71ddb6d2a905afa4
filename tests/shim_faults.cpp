// Small kernels with and without a mistake, for the shim's own tests: prints what came out.
//     shim_faults CASE SEED
#include "hrm/mma.h"

#include <cstdio>
#include <cstdlib>

constexpr int kThreads = 96;

// Every thread hands its number to its neighbour through shared memory.
__global__ void neighbours(int *out, bool with_barrier) {
    DYNAMIC_SHARED(memory);
    int *const x = reinterpret_cast<int *>(memory);
    const int i = static_cast<int>(threadIdx.x);
    x[i] = i;
    if (with_barrier)
        __syncthreads();
    out[i] = x[(i + 1) % kThreads];
}

__global__ void copies(const int *from, int *out, bool with_wait) {
    DYNAMIC_SHARED(memory);
    int *const x = reinterpret_cast<int *>(memory);
    const int i = static_cast<int>(threadIdx.x);
    if (i % 4 == 0)
        async_copy16(x + i, from + i);
    async_commit();
    if (with_wait)
        async_wait<0>();
    __syncthreads();
    out[i] = x[i];
}

// Two copies are under way, only the older one is waited for.
__global__ void older_copy(const int *from, int *out) {
    DYNAMIC_SHARED(memory);
    int *const x = reinterpret_cast<int *>(memory);
    const int i = static_cast<int>(threadIdx.x);
    for (int part = 0; part < 2; ++part) {
        if (i % 4 == 0)
            async_copy16(x + part * kThreads + i, from + i);
        async_commit();
    }
    async_wait<1>();
    __syncthreads();
    out[i] = x[i];
    out[kThreads + i] = x[kThreads + i];
}

__global__ void sums(int *out) {
    int sum = static_cast<int>(threadIdx.x);
    for (int step = 1; step < 32; step *= 2)
        sum += __shfl_xor_sync(0xFFFFFFFF, sum, step);
    out[threadIdx.x] = sum;
}

__global__ void divergent_barrier() {
    if (threadIdx.x != 5)
        __syncthreads();
}

__global__ void divergent_shuffle(int *out) {
    if (threadIdx.x % 2)
        out[threadIdx.x] = __shfl_sync(0xFFFFFFFF, 1, 0);
    __syncthreads();
}

__global__ void two_collectives(int *out) {
    if (threadIdx.x % 2)
        out[threadIdx.x] = __shfl_sync(0xFFFFFFFF, 1, 0);
    else
        __syncwarp();
}

// The float32 product that a GPU takes, against the one that the host takes.
__global__ void products(float *difference) {
    using namespace hrm::host;
    Tile<Float32> a, b;
    for (int i = 0; i < 4; ++i) {
        const float x = static_cast<float>(threadIdx.x) + 40.0F * static_cast<float>(i);
        a.pair[i] = {std::sin(x), std::cos(x)};
        b.pair[i] = {std::sin(3 * x), std::cos(5 * x)};
    }
    Sum right{}, c{};
    product(right, a, b);
    product_by_shuffles(c, a, b);
    for (int i = 0; i < 8; ++i)
        *difference = std::fmax(*difference, std::fabs(c.at[i] - right.at[i]));
    if (std::fabs(c.at[0]) + std::fabs(c.at[7]) == 0.0F)
        *difference = 1.0F;
}

// The largest error of bfloat16's silu for |x| up to 30, as a share of |x|.
double silu_error() {
    double most = 0;
    for (int i = -300000; i <= 300000; ++i) {
        const double x = i / 1e4, right = x / (1 + std::exp(-x));
        const double error = hrm::host::BFloat16::silu(static_cast<float>(x / 2)) - right;
        most = i ? std::fmax(most, std::fabs(error / x)) : most;
    }
    return most;
}

__global__ void behind_the_end() {
    DYNAMIC_SHARED(memory);
    memory[64] = 1;
}

int main(int, char **argv) {
    const std::string which = argv[1];
    if (which == "silu")
        return std::printf("%g\n", silu_error()) < 0;
    shim::set_thread_order(std::strtoull(argv[2], nullptr, 10));
    alignas(16) int from[kThreads], out[2 * kThreads] = {};
    for (int i = 0; i < kThreads; ++i)
        from[i] = i;
    float difference = 0.0F;
    try {
        if (which == "barrier" || which == "no barrier")
            LAUNCH(neighbours, 1, kThreads, sizeof from, nullptr, out, which == "barrier");
        else if (which == "wait" || which == "no wait")
            LAUNCH(copies, 1, kThreads, sizeof from, nullptr, from, out, which == "wait");
        else if (which == "older copy")
            LAUNCH(older_copy, 1, kThreads, 2 * sizeof from, nullptr, from, out);
        else if (which == "sums")
            LAUNCH(sums, 1, kThreads, 0, nullptr, out);
        else if (which == "divergent barrier")
            LAUNCH(divergent_barrier, 1, kThreads, 0, nullptr);
        else if (which == "divergent shuffle")
            LAUNCH(divergent_shuffle, 1, kThreads, 0, nullptr, out);
        else if (which == "two collectives")
            LAUNCH(two_collectives, 1, kThreads, 0, nullptr, out);
        else if (which == "past the end")
            LAUNCH(behind_the_end, 1, kThreads, 64, nullptr);
        else if (which == "product by shuffles")
            LAUNCH(products, 1, 32, 0, nullptr, &difference);
        else if (which == "part of a warp")
            LAUNCH(sums, 1, 33, 0, nullptr, out);
    } catch (const std::runtime_error &error) {
        std::printf("%s\n", error.what());
        return 0;
    }
    if (which == "product by shuffles") {
        std::printf("%g\n", difference);
        return 0;
    }
    for (int x : out)
        std::printf("%d ", x);
}
