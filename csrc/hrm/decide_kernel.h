// The persistent kernel: segments of boards from start to end (decide.h), as board.h has them.
//
//     e = [puzzle, embed(tokens)] + position
//     for each cycle of each segment:  l_cycles times  z_L = L(z_L + z_H + e)
//                                                      z_H = H(z_H + z_L)
//     q = head z_H[read]
#pragma once

#include "hrm/decide_block.h"

#include <stdexcept>

namespace hrm {
namespace SIDE {

struct Work {
    DecideShape shape;
    DecidePlan plan;
    DecideArgs args;
    int l_chunks, h_chunks;
};

enum State { kHigh, kLow, kEmbedding, kStates };

// Where one CTA keeps what. States [kStates, boards, tiles, D / 16, lane]; only the lane that wrote
// one reads it before the end.
template <typename E> struct Memory {
    unsigned char *ring;
    float *read; // [boards, D] what Q is read from
    Tile<E> *states, *keys, *values;
};

// With TILES, all but the states lies in shared memory, at addresses that the compiler knows.
template <typename E, int D, int B, int TILES>
__device__ inline Memory<E> memory(const Work &work, unsigned char *shared) {
    const DecidePlan &plan = work.plan;
    const int bytes =
        B * (TILES ? TILES : plan.tiles) * 16 * D * static_cast<int>(sizeof(typename E::Number));
    Memory<E> m;
    m.ring = shared;
    shared += kStages * Stream<E, D, 0>::kChunkBytes;
    m.read = reinterpret_cast<float *>(shared);
    shared += B * D * static_cast<int>(sizeof(float));
    unsigned char *outside = static_cast<unsigned char *>(work.args.workspace) +
                             static_cast<long>(blockIdx.x) * plan.workspace_bytes;
    unsigned char *keys = shared, *states = shared + 2 * bytes;
    if (plan.states_outside)
        states = outside;
    if (!TILES && plan.keys_outside)
        keys = outside, states = outside + 2 * bytes;
    m.states = reinterpret_cast<Tile<E> *>(states);
    m.keys = reinterpret_cast<Tile<E> *>(keys);
    m.values = reinterpret_cast<Tile<E> *>(keys + bytes);
    return m;
}

// This lane's part of the warp's 16 tokens of a state; tile j is 32 j further.
template <typename E, int D>
__device__ inline Tile<E> *state(const Memory<E> &m, const Place<E> &at, const Work &work,
                                 State which, int b) {
    const int row = (which * work.plan.boards + at.board + b) * at.tiles + at.tile;
    return m.states + row * (D / 16 * 32) + lane_of_thread();
}

// Number [token, d] of a state, wherever it lies.
template <typename E, int D>
__device__ inline float number(const Memory<E> &m, const Work &work, int b, int token, int d) {
    const int row = b * work.plan.tiles + token / 16, g = token % 8, p = d % 8 / 2;
    const Tile<E> &tile = m.states[(static_cast<long>(row) * (D / 16) + d / 16) * 32 + g * 4 + p];
    const float2 pair = E::unpack(tile.pair[token % 16 / 8 * 2 + d % 16 / 8]);
    return d % 2 ? pair.y : pair.x;
}

// x, which the compiler cannot follow: what depends on it is computed again for every group of
// boards, not kept meanwhile in registers that the blocks need.
__device__ inline int anew(int x) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// Calls do(token, column, pair) for this lane's pairs of tile j whose token exists.
template <typename E, typename F>
__device__ inline void each_pair(Tile<E> &x, int j, const Place<E> &at, F what) {
    const int lane = lane_of_thread();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int token = anew(at.tile * 16 + lane / 4 + i / 2 * 8);
        if (token < at.T)
            what(token, j * 16 + i % 2 * 8 + lane % 4 * 2, x.pair[i]);
    }
}

// States and embedding of one board, zeros past T. A code outside the table becomes NaN.
template <typename E, int D>
__device__ inline void begin(const Memory<E> &m, const Place<E> &at, const Work &work, int b,
                             long board) {
    const DecideArgs &a = work.args;
    const auto *z_H = static_cast<const typename E::Number *>(a.z_H) + board * a.board;
    const auto *z_L = static_cast<const typename E::Number *>(a.z_L) + board * a.board;
    const uint8_t *tokens = a.tokens + board * work.shape.cells;
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
        Tile<E> high = pack<E>(Sum{}), low = high, e = high;
        const auto load = [&](const typename E::Number *from) {
            return [&a, from](int token, int d, typename E::Pair &to) {
                to = *reinterpret_cast<const typename E::Pair *>(from + token * a.token + d);
            };
        };
        each_pair<E>(high, j, at, load(z_H));
        each_pair<E>(low, j, at, load(z_L));
        each_pair<E>(e, j, at, [&](int token, int d, typename E::Pair &to) {
            const int code = token ? tokens[token - 1] + 1 : 0;
            float first = NAN, second = NAN;
            if (code <= work.shape.vocab)
                first = a.table[code * D + d], second = a.table[code * D + d + 1];
            if (a.position)
                first += a.position[token * D + d], second += a.position[token * D + d + 1];
            to = E::pack(first, second);
        });
        state<E, D>(m, at, work, kHigh, b)[32 * j] = high;
        state<E, D>(m, at, work, kLow, b)[32 * j] = low;
        state<E, D>(m, at, work, kEmbedding, b)[32 * j] = e;
    }
}

// x = z_H + z_L, + e for a call of L.
template <typename E, int D>
__device__ inline void input(Tile<E> (&x)[D / 16], const Memory<E> &m, const Place<E> &at,
                             const Work &work, int b, bool low) {
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
        Sum sum = unpack<E>(state<E, D>(m, at, work, kHigh, b)[32 * j]);
        const Sum z_L = unpack<E>(state<E, D>(m, at, work, kLow, b)[32 * j]);
        const Sum e = low ? unpack<E>(state<E, D>(m, at, work, kEmbedding, b)[32 * j]) : Sum{};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            sum.at[i] += z_L.at[i] + e.at[i];
        x[j] = pack<E>(sum);
    }
}

// All calls of both levels, for B boards a warp. The state of the last one is in memory when it
// ends.
template <typename E, int D, int K, int B, int TILES, typename S>
__device__ inline void think(const Memory<E> &m, const Work &work, const Place<E> &at, S &stream) {
    const DecideShape &shape = work.shape;
    const int cycles = work.args.segments * shape.h_cycles;
    for (int cycle = 0; cycle < cycles; ++cycle) {
        const bool open = work.args.open && cycle + 1 == cycles;
        for (int call = 0; call < (open ? shape.l_cycles - 1 : shape.l_cycles + 1); ++call) {
            const bool low = call < shape.l_cycles;
            Tile<E> x[B][D / 16];
#pragma unroll
            for (int b = 0; b < B; ++b)
                input<E, D>(x[b], m, at, work, b, low);
            for (int i = 0; i < (low ? shape.l_layers : shape.h_layers); ++i) {
                attention_block<E, D, K, B, TILES>(x, stream, at);
                swiglu_block<E, D, B>(x, stream, at.F);
            }
#pragma unroll
            for (int b = 0; b < B; ++b)
#pragma unroll
                for (int j = 0; j < D / 16; ++j)
                    state<E, D>(m, at, work, low ? kLow : kHigh, b)[32 * j] = x[b][j];
        }
    }
}

template <typename E, int D>
__device__ inline void write_states(const Memory<E> &m, const Place<E> &at, const Work &work, int b,
                                    long board) {
    const DecideArgs &a = work.args;
    const int T = at.T;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const State which = i ? kLow : kHigh;
        auto *to = static_cast<typename E::Number *>(which == kHigh ? a.new_H : a.new_L);
        to += board * D * (a.last_only ? 1 : T);
#pragma unroll
        for (int j = 0; j < D / 16; ++j)
            each_pair<E>(state<E, D>(m, at, work, which, b)[32 * j], j, at,
                         [&](int token, int d, typename E::Pair &from) {
                             const int row = a.last_only ? 0 : token;
                             if (!a.last_only || token + 1 == T)
                                 *reinterpret_cast<typename E::Pair *>(to + row * D + d) = from;
                         });
    }
}

// read[d] = the number of z_H that Q is read from; all of the board's z_H is in memory.
template <typename E, int D>
__device__ inline void read_vector(const Memory<E> &m, const Work &work, int b, long board) {
    const int T = work.shape.T();
    const int32_t *read = work.args.read;
    const bool known = !read || (read[board] >= 0 && read[board] < T);
    for (int d = static_cast<int>(threadIdx.x); d < D; d += static_cast<int>(blockDim.x)) {
        float x = known ? 0.0F : NAN;
        if (!read) {
            for (int t = 0; t < T; ++t)
                x += number<E, D>(m, work, b, t, d);
            x = E::divide(x, static_cast<float>(T));
        } else if (known) {
            x = number<E, D>(m, work, b, read[board], d);
        }
        m.read[b * D + d] = x;
    }
}

template <int D>
__device__ inline void write_q(const float *read, const DecideArgs &a, int actions, long board) {
    for (int i = static_cast<int>(threadIdx.x); i < actions; i += static_cast<int>(blockDim.x)) {
        float q = 0.0F;
        for (int d = 0; d < D; ++d)
            q += read[d] * a.head[i * D + d];
        a.q[board * actions + i] = q;
    }
}

template <typename E, int D, int B>
__device__ inline void write_results(const Memory<E> &m, const Place<E> &at, const Work &work,
                                     int first) {
    const int there = work.args.size - first < B ? work.args.size - first : B;
    if (work.args.new_H)
        for (int b = 0; b < at.boards && at.board + b < there; ++b)
            write_states<E, D>(m, at, work, b, first + at.board + b);
    if (!work.args.q)
        return;
    __syncthreads(); // z_H of all warps; the next boards begin after the barrier below
    for (int b = 0; b < there; ++b)
        read_vector<E, D>(m, work, b, first + b);
    __syncthreads();
    for (int b = 0; b < there; ++b)
        write_q<D>(m.read + b * D, work.args, work.shape.actions, first + b);
}

// The warp's tile of all boards, or its part of the last one (warps_of in decide.h).
template <typename E, int D, int B, int TILES>
__device__ inline Place<E> place(const Memory<E> &m, const Work &work) {
    const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x / 32), 0);
    const int tiles = TILES ? TILES : work.plan.tiles;
    const bool alone = B == 2 && TILES % 2 && warp >= TILES - 1;
    const int board = alone ? warp - (TILES - 1) : 0, before = board * tiles * (D / 16 * 32);
    return {alone ? TILES - 1 : warp,
            tiles,
            work.shape.T(),
            board,
            alone ? 1 : B,
            work.shape.inner,
            reinterpret_cast<const float4 *>(work.args.rope),
            m.keys + before,
            m.values + before};
}

// THREADS: what registers have to suffice for.
template <typename E, int D, int K, int B, int TILES, int THREADS>
__global__ void __launch_bounds__(THREADS, least_ctas(B, TILES))
    decide_kernel(const __grid_constant__ Work work) {
    DYNAMIC_SHARED(shared);
    const Memory<E> m = memory<E, D, B, TILES>(work, shared);
    const Place<E> at = place<E, D, B, TILES>(m, work);
    Stream<E, D, TILES ? THREADS : 0> stream(work.args.weights, m.ring, work.l_chunks,
                                             work.h_chunks, work.shape.l_cycles);
    stream.restart();
    for (int first = static_cast<int>(blockIdx.x) * B; first < work.args.size;
         first += static_cast<int>(gridDim.x) * B) {
        for (int b = 0; b < at.boards; ++b) { // the last group may be short: its last board twice
            const int board = first + at.board + b;
            begin<E, D>(m, at, work, b, board < work.args.size ? board : work.args.size - 1);
        }
        if (at.boards == B) // both ways pass the same barriers
            think<E, D, K, B, TILES>(m, work, at, stream);
        else if constexpr (B == 2 && TILES % 2)
            think<E, D, K, 1, TILES>(m, work, at, stream);
        write_results<E, D, B>(m, at, work, first);
        if (work.args.open)
            stream.restart(); // calls were left out
    }
    async_wait<0>();
}

template <typename E, int D, int K, int B, int TILES = 0>
void launch(const Work &work, [[maybe_unused]] void *stream) {
    constexpr int kThreads = 32 * (TILES ? warps_of(B, TILES) : kLargestT / 16);
    auto *kernel = decide_kernel<E, D, K, B, TILES, kThreads>;
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    work.plan.shared_bytes));
    LAUNCH(kernel, work.args.ctas, work.plan.warps * 32, work.plan.shared_bytes,
           static_cast<cudaStream_t>(stream), work);
    CUDA_CHECK(cudaGetLastError());
}

} // namespace SIDE
} // namespace hrm
