// One vector type of the width this file is compiled for, and the few functions that need care.
// Everything else is plain +, -, * on it. Included once per instruction set: see kernels_avx2.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef HRM_LANES
#error "HRM_LANES: floats per vector, defined by the file that includes this"
#endif
#if HRM_LANES == 8
#include <immintrin.h>
#endif

namespace hrm {
namespace {

constexpr int kLanes = HRM_LANES;
constexpr float kLog2E = 1.44269504088896341F;

typedef float vec __attribute__((vector_size(HRM_LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(HRM_LANES * 4)));
typedef float loose __attribute__((vector_size(HRM_LANES * 4), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16)));

inline vec load(const float *p) {
    return *reinterpret_cast<const loose *>(p);
}

inline void store(float *p, vec v) {
    *reinterpret_cast<loose *>(p) = v;
}

inline vec splat(float x) {
    return x - vec{};
}

// The compilers see no minimum in AVX2's a ? : of vectors, and no root in a loop over lanes.
#if HRM_LANES == 8
inline vec max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}
inline vec min(vec a, vec b) {
    return _mm256_min_ps(a, b);
}
inline vec square_root(vec v) {
    return _mm256_sqrt_ps(v);
}
#else
inline vec max(vec a, vec b) {
    return a > b ? a : b;
}
inline vec min(vec a, vec b) {
    return a < b ? a : b;
}
inline vec square_root(vec v) {
    for (int i = 0; i < kLanes; ++i)
        v[i] = sqrtf(v[i]);
    return v;
}
#endif

// The lanes added, always in the same order.
inline float sum(vec v) {
    quad parts[kLanes / 4], all;
    std::memcpy(parts, &v, sizeof v);
    all = parts[0];
    for (int i = 1; i < kLanes / 4; ++i)
        all += parts[i];
    return (all[0] + all[2]) + (all[1] + all[3]);
}

inline float largest(vec v) {
    quad parts[kLanes / 4], all;
    std::memcpy(parts, &v, sizeof v);
    all = parts[0];
    for (int i = 1; i < kLanes / 4; ++i)
        all = all > parts[i] ? all : parts[i];
    const float a = all[0] > all[2] ? all[0] : all[2], b = all[1] > all[3] ? all[1] : all[3];
    return a > b ? a : b;
}

// e^x to 1 ulp for x in [-87, 88], held at the ends beyond: 2^n e^r with |r| <= ln 2 / 2.
inline vec exponential(vec x) {
    x = min(max(x, splat(-87.0F)), splat(88.0F));
    const float magic = 12582912.0F; // 1.5 * 2^23: adding it rounds to an integer
    const vec shifted = x * kLog2E + magic;
    const vec n = shifted - magic;
    const vec r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
    vec p = r * 1.9875691500e-4F + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * (r * r) + r + 1.0F;
    ivec bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3F800000; // the magic number's own bits fall off the left end
    vec power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline vec sigmoid(vec x) {
    return 1.0F / (1.0F + exponential(-x));
}

} // namespace
} // namespace hrm
