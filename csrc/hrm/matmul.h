// C [M, N] = A [M, K] B [K, N], or C += A B in one of two orders, for operands of a few hundred
// rows that sit in L1 or L2. Rows of B and C are contiguous and N is a multiple of the lanes; A has
// any strides, so the same code multiplies by a transpose. A tile of C stays in registers over all
// of K.
#pragma once

#include "hrm/simd.h"

namespace hrm {
namespace {

struct Left {
    const float *data;
    long row, column; // strides
};

struct Right {
    const float *data;
    long row;
};

enum class To {
    kSet,
    kAdd, // goes on with C's own sum
    kSum, // sums apart and adds that to C: closer where very many numbers come to one of C's
};

template <int MR, int NV, To kTo> inline void tile(float *C, long ldc, Left A, Right B, int K) {
    vec acc[MR][NV];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
        for (int n = 0; n < NV; ++n)
            acc[m][n] = kTo == To::kAdd ? load(C + m * ldc + n * kLanes) : vec{};
    for (int k = 0; k < K; ++k) {
        vec b[NV];
#pragma GCC unroll 16
        for (int n = 0; n < NV; ++n)
            b[n] = load(B.data + k * B.row + n * kLanes);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
            const vec a = splat(A.data[m * A.row + k * A.column]);
#pragma GCC unroll 16
            for (int n = 0; n < NV; ++n)
                acc[m][n] += a * b[n];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
        for (int n = 0; n < NV; ++n) {
            float *const to = C + m * ldc + n * kLanes;
            store(to, kTo == To::kSum ? load(to) + acc[m][n] : acc[m][n]);
        }
}

// tile() with a number of rows that is known only now.
template <int MR, int NV, To kTo>
inline void tile_of(int rows, float *C, long ldc, Left A, Right B, int K) {
    if constexpr (MR > 1)
        if (rows < MR)
            return tile_of<MR - 1, NV, kTo>(rows, C, ldc, A, B, K);
    tile<MR, NV, kTo>(C, ldc, A, B, K);
}

// A strip of NV vectors of columns in tiles of up to MR rows. The rows are dealt out evenly (50 as
// 6 6 6 6 6 5 5 5 5): a last tile of two would wait for its sums most of the time.
template <int MR, int NV, To kTo> void strip(float *C, long ldc, Left A, Right B, int M, int K) {
    const int tiles = (M + MR - 1) / MR, rows = M / tiles, longer = M % tiles;
    for (int i = 0, m = 0; i < tiles; ++i) {
        const int some = rows + (i < longer);
        tile_of<MR, NV, kTo>(some, C + m * ldc, ldc, {A.data + m * A.row, A.row, A.column}, B, K);
        m += some;
    }
}

// Three vectors of columns at once, 4 as 2 + 2: the fewest loads for a product, with sums enough to
// wait for. Two thirds of the registers are sums.
template <To kTo> void multiply(float *C, long ldc, Left A, Right B, int M, int N, int K) {
    constexpr int kSums = kLanes == 16 ? 24 : 12;
    int wide = 0;
    for (int n = 0; n < N; n += wide * kLanes) {
        const int left = (N - n) / kLanes;
        const Right columns{B.data + n, B.row};
        wide = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
        if (wide == 3)
            strip<kSums / 3, 3, kTo>(C + n, ldc, A, columns, M, K);
        else if (wide == 2)
            strip<kSums / 2, 2, kTo>(C + n, ldc, A, columns, M, K);
        else
            strip<kSums / 2, 1, kTo>(C + n, ldc, A, columns, M, K);
    }
}

} // namespace
} // namespace hrm
