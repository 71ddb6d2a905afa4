// Products of 16 x 16 tiles, each held by the 32 lanes of a warp in the layout of the tensor cores'
// m16n8k16: what a product leaves behind is the next one's operand without moving between lanes.
//
//     lane 4 g + p holds of a tile    pair[0] row g     columns 2p, 2p + 1    pair[1] columns + 8
//                                     pair[2] row g + 8                       pair[3] columns + 8
//
// Two element types: bfloat16 (tensor cores, sums in float32), and float32 by shuffles, a sum in
// the order of its terms, slow on a GPU: it is there to check the rest. kFolded: weights hold
// factors
// (`block_factors` in backends/cuda.py), so that scores need no scale and silu is given x / 2.
#pragma once

#include "common/cuda.h"

#include <cmath>
#include <cstring>

namespace hrm {
namespace SIDE {

constexpr unsigned kAllLanes = 0xFFFFFFFF;

__device__ inline int lane_of_thread() {
    return static_cast<int>(threadIdx.x % 32);
}

struct Sum { // 16 x 16 in float32: columns 2p, 2p + 1 of row g and of row g + 8, then columns + 8
    float at[8];
};

// 0 where at[i] belongs to row g, 1 for row g + 8.
__device__ constexpr int row_half(int i) {
    return i / 2 % 2;
}

template <typename E> struct alignas(16) Tile {
    typename E::Pair pair[4];
};

struct Float32 {
    using Pair = float2;
    using Number = float;
    static constexpr bool kFolded = false;
    static __device__ inline Pair pack(float first, float second) {
        return make_float2(first, second);
    }
    static __device__ inline float2 unpack(Pair pair) { return pair; }
    static __device__ inline float exp2(float x) { return exp2f(x); }
    static __device__ inline float divide(float x, float y) { return x / y; }
    static __device__ inline float rsqrt(float x) { return 1.0F / sqrtf(x); }
    static __device__ inline float silu(float x) { return x / (1.0F + expf(-x)); }
};

// Rounded to the nearest, ties to even.
struct BFloat16 {
    using Pair = uint32_t; // the first number in the lower half
    using Number = uint16_t;
    static constexpr bool kFolded = true;
    static __device__ inline Pair pack(float first, float second) {
#ifdef __CUDACC__
        Pair pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
        return pair;
#else
        return round(first) | static_cast<uint32_t>(round(second)) << 16;
#endif
    }
    static __device__ inline float2 unpack(Pair pair) {
        const uint32_t bits[2] = {pair << 16, pair & 0xFFFF0000U};
        float2 both;
        memcpy(&both, bits, sizeof both);
        return both;
    }
    // Relative errors of at most 2^-22 on a GPU, far below a bfloat16's 2^-9.
    static __device__ inline float exp2(float x) {
#ifdef __CUDACC__
        float y;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
#else
        return exp2f(x);
#endif
    }
    static __device__ inline float divide(float x, float y) {
#ifdef __CUDACC__
        float inverse;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(y));
        return x * inverse;
#else
        return x / y;
#endif
    }
    static __device__ inline float rsqrt(float x) {
#ifdef __CUDACC__
        float y;
        asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
#else
        return 1.0F / sqrtf(x);
#endif
    }
    // x sigmoid(x) = x/2 (1 + tanh(x/2)): one special-function instruction instead of two. The
    // tanh's relative error is at most 2^-11, so this is off by at most |x| 2^-12.
    static __device__ inline float silu(float half) { return half + half * tanh(half); }

  private:
    static __device__ inline float tanh(float x) {
#ifdef __CUDACC__
        float y;
        asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
#else
        const float exact = tanhf(x); // and the digits cut off that the GPU's need not have
        uint32_t bits;
        std::memcpy(&bits, &exact, sizeof bits);
        bits &= 0xFFFFF000U;
        float y;
        std::memcpy(&y, &bits, sizeof y);
        return y;
#endif
    }
#ifndef __CUDACC__
    static uint16_t round(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        if ((bits & 0x7FFFFFFFU) > 0x7F800000U)
            return 0x7FFF; // not a number
        return static_cast<uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
    }
#endif
};

template <typename E> __device__ inline Tile<E> pack(const Sum &x) {
    return {{E::pack(x.at[0], x.at[1]), E::pack(x.at[4], x.at[5]), E::pack(x.at[2], x.at[3]),
             E::pack(x.at[6], x.at[7])}};
}

template <typename E> __device__ inline Sum unpack(const Tile<E> &x) {
    Sum y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = E::unpack(x.pair[i]);
        y.at[i % 2 * 4 + i / 2 * 2] = pair.x;
        y.at[i % 2 * 4 + i / 2 * 2 + 1] = pair.y;
    }
    return y;
}

// The 8 x 8 numbers that the lanes' pairs are, transposed.
__device__ inline float2 transposed(float2 pair) {
    const int lane = lane_of_thread(), from = lane % 4 * 8 + lane / 8;
    float2 turned;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float x = __shfl_sync(kAllLanes, pair.x, from + 4 * i);
        const float y = __shfl_sync(kAllLanes, pair.y, from + 4 * i);
        (i ? turned.y : turned.x) = lane / 4 % 2 ? y : x;
    }
    return turned;
}

__device__ inline uint32_t transposed(uint32_t pair) {
    uint32_t turned = 0;
#ifdef __CUDACC__
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
#else
    const int lane = lane_of_thread(), from = lane % 4 * 8 + lane / 8;
    for (int i = 0; i < 2; ++i) {
        const uint32_t both = __shfl_sync(kAllLanes, pair, from + 4 * i);
        turned |= (lane / 4 % 2 ? both >> 16 : both & 0xFFFFU) << 16 * i;
    }
#endif
    return turned;
}

template <typename E> __device__ inline Tile<E> transposed(const Tile<E> &x) {
    return {{transposed(x.pair[0]), transposed(x.pair[2]), transposed(x.pair[1]),
             transposed(x.pair[3])}};
}

#ifndef __CUDACC__
// What the lanes bring to an m16n8k16 product, and then take away.
template <typename E> struct Operands {
    typename E::Pair a[4], b[2];
};

template <typename E> void multiply(shim::Slot *slots) {
    float a[16][16], b[16][8], c[16][8] = {};
    ++shim::products;
    for (int lane = 0; lane < 32; ++lane) {
        Operands<E> in;
        std::memcpy(&in, slots[lane].bytes, sizeof in);
        const int g = lane / 4, p = lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 pair = E::unpack(in.a[i]);
            a[g + i % 2 * 8][p + i / 2 * 8] = pair.x, a[g + i % 2 * 8][p + i / 2 * 8 + 1] = pair.y;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float2 pair = E::unpack(in.b[i]);
            b[p + i * 8][g] = pair.x, b[p + i * 8 + 1][g] = pair.y;
        }
    }
    for (int row = 0; row < 16; ++row)
#pragma unroll
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column)
                c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, p = lane % 4 * 2;
        const float out[4] = {c[g][p], c[g][p + 1], c[g + 8][p], c[g + 8][p + 1]};
        std::memcpy(slots[lane].bytes, out, sizeof out);
    }
}

template <typename E> void mma_on_host(float *c, const Operands<E> &in) {
    const shim::Slot *slots = shim::meet("mma", &in, sizeof in, multiply<E>);
    float out[4];
    std::memcpy(out, slots[shim::lane()].bytes, sizeof out);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        c[i] += out[i];
}
#endif

// c[i][j] += sum over k of a[i][k] b[j][k]
NOINLINE __device__ inline void product_by_shuffles(Sum &c, const Tile<Float32> &a,
                                                    const Tile<Float32> &b) {
    const int lane = lane_of_thread(), quad = lane & ~3, p = lane % 4;
#pragma unroll
    for (int k = 0; k < 16; ++k) {
        const auto part = [k](const Tile<Float32> &x, int half) {
            const float2 pair = x.pair[half * 2 + k / 8];
            return k % 2 ? pair.y : pair.x;
        };
        const int owner = k % 8 / 2; // in its quad
        const float low = __shfl_sync(kAllLanes, part(a, 0), quad + owner);
        const float high = __shfl_sync(kAllLanes, part(a, 1), quad + owner);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float there = __shfl_sync(kAllLanes, part(b, n), (2 * p + j) * 4 + owner);
                c.at[4 * n + j] += low * there;
                c.at[4 * n + 2 + j] += high * there;
            }
    }
}

__device__ inline void product(Sum &c, const Tile<Float32> &a, const Tile<Float32> &b) {
#ifdef __CUDACC__
    product_by_shuffles(c, a, b);
#else
#pragma unroll
    for (int n = 0; n < 2; ++n)
        mma_on_host<Float32>(c.at + 4 * n, {{a.pair[0], a.pair[2], a.pair[1], a.pair[3]},
                                            {b.pair[2 * n], b.pair[2 * n + 1]}});
#endif
}

__device__ inline void product(Sum &c, const Tile<BFloat16> &a, const Tile<BFloat16> &b) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
        float *const d = c.at + 4 * n;
#ifdef __CUDACC__
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a.pair[0]), "r"(a.pair[2]), "r"(a.pair[1]), "r"(a.pair[3]), "r"(b.pair[2 * n]),
              "r"(b.pair[2 * n + 1]));
#else
        mma_on_host<BFloat16>(
            d, {{a.pair[0], a.pair[2], a.pair[1], a.pair[3]}, {b.pair[2 * n], b.pair[2 * n + 1]}});
#endif
    }
}

} // namespace SIDE
} // namespace hrm
