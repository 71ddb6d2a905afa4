// One block of `B` boards, on 16 tokens of each: y = rms(x1 + down (silu(gate x1) * up x1)), where
// x1 = rms(x + out attention(rope(q), rope(k), v)), as block.h has it for a CPU.
//
// A strip of weights read from shared memory serves all boards of the warp. Rows past T are
// computed like others, from zeros; their keys are masked, so nobody sees them.
#pragma once

#include "hrm/decide_stream.h"

namespace hrm {
namespace SIDE {

constexpr float kRmsEps = 1e-5F;
constexpr float kLog2E = 1.44269504088896341F;

// Where a thread stands, and what it shares with others.
template <typename E> struct Place {
    int tile, tiles, T; // the warp's 16 tokens; of how many 16s; how many are tokens
    int board, boards;  // its first board, and how many
    int F;              // inner width
    const float4 *rope; // [T, K / 4] (cos, sin) of two pairs
    // its boards' [heads, tiles, K / 16, lane]: token, column; column, token
    Tile<E> *keys, *values;
};

template <int N> __device__ inline void clear(Sum (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i)
        x[i] = Sum{};
}

template <typename E, int B, int N>
__device__ inline void unpack_all(Sum (&y)[B][N], const Tile<E> (&x)[B][N]) {
#pragma unroll
    for (int b = 0; b < B; ++b)
#pragma unroll
        for (int j = 0; j < N; ++j)
            y[b][j] = unpack<E>(x[b][j]);
}

// y[b] += x[b] strip^T: 16 outputs of a matrix [out, D].
template <typename E, int B, int N>
__device__ inline void outputs(Sum (&y)[B], const Tile<E> (&x)[B][N], const Tile<E> *strip) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const Tile<E> w = strip[32 * j];
#pragma unroll
        for (int b = 0; b < B; ++b)
            product(y[b], x[b][j], w);
    }
}

// y[b] += h[b] strip: what 16 inputs of a matrix [D, in] give to all its outputs.
template <typename E, int B, int N>
__device__ inline void inputs(Sum (&y)[B][N], const Tile<E> (&h)[B], const Tile<E> *strip) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const Tile<E> w = strip[32 * j];
#pragma unroll
        for (int b = 0; b < B; ++b)
            product(y[b][j], h[b], w);
    }
}

// Sum, or the largest, of a row over the four lanes that hold it.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(kAllLanes, x, 1);
    return x + __shfl_xor_sync(kAllLanes, x, 2);
}

__device__ inline float row_largest(float x) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
    return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

template <int N> __device__ inline void multiply_rows(Sum (&y)[N], const float (&by)[2]) {
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            y[j].at[i] *= by[row_half(i)];
}

// x = y / rms(y), row by row.
template <typename E, int N> __device__ inline void rms_norm(Tile<E> (&x)[N], Sum (&y)[N]) {
    float scale[2] = {};
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            scale[row_half(i)] += y[j].at[i] * y[j].at[i];
#pragma unroll
    for (int r = 0; r < 2; ++r)
        scale[r] = E::rsqrt(row_sum(scale[r]) / (16 * N) + kRmsEps);
    multiply_rows(y, scale);
#pragma unroll
    for (int j = 0; j < N; ++j)
        x[j] = pack<E>(y[j]);
}

// Rotates one head's pairs (x[i], x[i + K / 2]) by the tokens' angles. N = K / 16: eight columns of
// the first half and their partners in the second are n and n + N.
template <typename E, int B, int N>
__device__ inline void rope(Sum (&x)[N][B], const Place<E> &at) {
    const int lane = lane_of_thread();
    const float4 *const angles = at.rope + (at.tile * 16 + lane / 4) * (N * 4) + lane % 4;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float4 angle = __ldg(angles + 8 * r * (N * 4) + 4 * n);
#pragma unroll
            for (int b = 0; b < B; ++b) {
                float *low = x[n / 2][b].at + n % 2 * 4 + 2 * r;
                float *high = x[(n + N) / 2][b].at + (n + N) % 2 * 4 + 2 * r;
                const float first = low[0], second = low[1];
                low[0] = first * angle.x - high[0] * angle.y;
                high[0] = high[0] * angle.x + first * angle.y;
                low[1] = second * angle.z - high[1] * angle.w;
                high[1] = high[1] * angle.z + second * angle.w;
            }
        }
}

enum Part { kToKeys, kToQueries, kToValues };

// Writes the keys and values of the warp's tokens, all heads'; keeps the queries.
template <typename E, int D, int K, int B, typename S>
__device__ inline void project(Tile<E> (&q)[B][D / 16], const Tile<E> (&x)[B][D / 16], S &stream,
                               const Place<E> &at) {
    constexpr int N = K / 16;
    const int lane = lane_of_thread(), board = at.tiles * (D / 16 * 32);
#pragma unroll
    for (int head = 0; head < D / K; ++head) {
        const int there = (head * at.tiles + at.tile) * (N * 32) + lane;
#pragma unroll
        for (const Part part : {kToKeys, kToValues, kToQueries}) {
            Sum y[N][B];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                clear(y[i]);
                outputs(y[i], x, stream.strip());
            }
            if (part != kToValues)
                rope<E, B, N>(y, at);
#pragma unroll
            for (int i = 0; i < N; ++i)
#pragma unroll
                for (int b = 0; b < B; ++b) {
                    const Tile<E> made = pack<E>(y[i][b]);
                    if (part == kToKeys)
                        at.keys[b * board + there + i * 32] = made;
                    else if (part == kToQueries)
                        q[b][head * N + i] = made;
                    else
                        at.values[b * board + there + i * 32] = transposed(made);
                }
        }
    }
}

// Scores of 16 tokens with the keys of one tile, those past T at minus infinity.
template <typename E, int N>
__device__ inline Sum scores(const Tile<E> *q, const Tile<E> *keys, int tile, int T) {
    Sum s{};
#pragma unroll
    for (int i = 0; i < N; ++i)
        product(s, q[i], keys[(tile * N + i) * 32]);
    if (tile * 16 + 16 > T) {
        const int first = tile * 16 + lane_of_thread() % 4 * 2;
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (first + i / 4 * 8 + i % 2 >= T)
                s.at[i] = -INFINITY;
    }
    return s;
}

// q = o / total, row by row.
template <typename E, int N>
__device__ inline void divide(Tile<E> *q, Sum (&o)[N], const float (&total)[2]) {
    const float by[2] = {E::divide(1.0F, total[0]), E::divide(1.0F, total[1])};
    multiply_rows(o, by);
#pragma unroll
    for (int i = 0; i < N; ++i)
        q[i] = pack<E>(o[i]);
}

// q becomes softmax(q k^T scale) v, MOST tiles of keys at a time, what was summed before rescaled
// to the new maximum. TILES: the board's number of tiles, 0 where it is not known.
template <typename E, int K, int TILES, int MOST>
__device__ inline void attend_shifted(Tile<E> *q, const Tile<E> *keys, const Tile<E> *values,
                                      int tiles, int T, float scale) {
    constexpr int N = K / 16;
    constexpr bool kWhole = TILES ? TILES % MOST == 0 : MOST == 1;
    Sum o[N];
    clear(o);
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
#pragma unroll 1 // the code once: it is long
    for (int first = 0; first < (TILES ? TILES : tiles); first += MOST) {
        Sum s[MOST];
        float top[2] = {most[0], most[1]};
#pragma unroll
        for (int j = 0; j < MOST; ++j)
            if (kWhole || first + j < tiles) {
                s[j] = scores<E, N>(q, keys, first + j, T);
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    top[row_half(i)] = fmaxf(top[row_half(i)], s[j].at[i]);
            }
        float before[2], shift[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            top[r] = row_largest(top[r]);
            before[r] = E::exp2((most[r] - top[r]) * scale); // 0 at first
            total[r] *= before[r];
            most[r] = top[r];
            shift[r] = top[r] * scale;
        }
        multiply_rows(o, before);
#pragma unroll
        for (int j = 0; j < MOST; ++j)
            if (kWhole || first + j < tiles) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    s[j].at[i] = E::exp2(s[j].at[i] * scale - shift[row_half(i)]);
                    total[row_half(i)] += s[j].at[i];
                }
                const Tile<E> p = pack<E>(s[j]);
#pragma unroll
                for (int i = 0; i < N; ++i)
                    product(o[i], p, values[((first + j) * N + i) * 32]);
            }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
        total[r] = row_sum(total[r]);
    divide(q, o, total);
}

// Adds one tile of keys to what softmax sums, shifted by nothing.
template <typename E, int N>
__device__ inline void attend_tile(Sum (&o)[N], float (&total)[2], const Tile<E> *q,
                                   const Tile<E> *keys, const Tile<E> *values, int tile, int T) {
    Sum s = scores<E, N>(q, keys, tile, T);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        s.at[i] = E::exp2(s.at[i]);
        total[row_half(i)] += s.at[i];
    }
    const Tile<E> p = pack<E>(s);
#pragma unroll
    for (int i = 0; i < N; ++i)
        product(o[i], p, values[(tile * N + i) * 32]);
}

// attend_shifted without looking for a maximum, where no row's sum comes near the ends of float32's
// range: else false, and q as it was.
template <typename E, int K, int TILES>
__device__ inline bool attend_unshifted(Tile<E> *q, const Tile<E> *keys, const Tile<E> *values,
                                        int tiles, int T) {
    constexpr int N = K / 16;
    constexpr float kLeast = 0x1p-96F, kMost = 0x1p96F;
    Sum o[N];
    clear(o);
    float total[2] = {};
    const int last = (TILES ? TILES : tiles) - 1; // the one that may be short
#pragma unroll(TILES ? kKeys : 1)
    for (int tile = 0; tile < last; ++tile)
        attend_tile<E, N>(o, total, q, keys, values, tile, (tile + 1) * 16);
    attend_tile<E, N>(o, total, q, keys, values, last, T);
    bool fits = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] = row_sum(total[r]);
        fits = fits && total[r] > kLeast && total[r] < kMost;
    }
    if (!__all_sync(kAllLanes, fits))
        return false;
    divide(q, o, total);
    return true;
}

template <typename E, int K, int TILES>
__device__ inline void attend(Tile<E> *q, const Tile<E> *keys, const Tile<E> *values, int tiles,
                              int T) {
    if constexpr (E::kFolded) {
        if (!attend_unshifted<E, K, TILES>(q, keys, values, tiles, T))
            attend_shifted<E, K, TILES, 1>(q, keys, values, tiles, T, 1.0F);
    } else {
        attend_shifted<E, K, TILES, 4>(q, keys, values, tiles, T, kLog2E / sqrtf(K));
    }
}

template <typename E, int D, int K, int B, int TILES, typename S>
__device__ inline void attention_block(Tile<E> (&x)[B][D / 16], S &stream, const Place<E> &at) {
    constexpr int N = K / 16;
    Tile<E> q[B][D / 16];
    project<E, D, K, B>(q, x, stream, at);
    __syncthreads(); // written by all warps; the next block's come after its first chunk's barrier
    const int lane = lane_of_thread();
#pragma unroll
    for (int b = 0; b < B; ++b)
#pragma unroll
        for (int head = 0; head < D / K; ++head) {
            const int there = (b * (D / K) + head) * at.tiles * (N * 32) + lane;
            attend<E, K, TILES>(&q[b][head * N], at.keys + there, at.values + there, at.tiles,
                                at.T);
        }
    Sum y[B][D / 16];
    unpack_all<E>(y, x);
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
        Tile<E> o[B];
#pragma unroll
        for (int b = 0; b < B; ++b)
            o[b] = q[b][j];
        inputs(y, o, stream.strip());
    }
    stream.end_part();
#pragma unroll
    for (int b = 0; b < B; ++b)
        rms_norm<E>(x[b], y[b]);
}

// y[b] += down (silu(gate x[b]) * up x[b]), 16 inner columns.
template <typename E, int D, int B, typename S>
__device__ inline void swiglu_turn(Sum (&y)[B][D / 16], const Tile<E> (&x)[B][D / 16], S &stream) {
    Sum gate[B], up[B];
    clear(gate);
    outputs(gate, x, stream.strip());
    clear(up);
    outputs(up, x, stream.strip());
    Tile<E> h[B];
#pragma unroll
    for (int b = 0; b < B; ++b) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            up[b].at[i] *= E::silu(gate[b].at[i]);
        h[b] = pack<E>(up[b]);
    }
    inputs(y, h, stream.strip());
}

template <typename E, int D, int B, typename S>
__device__ inline void swiglu_block(Tile<E> (&x)[B][D / 16], S &stream, int F) {
    Sum y[B][D / 16];
    unpack_all<E>(y, x);
#pragma unroll 1
    for (int f = 0; f < F; f += 16 * kTurns) { // past F there are zeros until the chunk ends
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn)
            swiglu_turn<E, D>(y, x, stream);
        stream.end_part();
    }
#pragma unroll
    for (int b = 0; b < B; ++b)
        rms_norm<E>(x[b], y[b]);
}

} // namespace SIDE
} // namespace hrm
