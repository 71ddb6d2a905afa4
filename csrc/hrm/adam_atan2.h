// AdamATan2 on a flat vector, and the moving average behind it, in one pass over memory. Formula:
// kernels/adam_atan2.py.
#pragma once

#include "hrm/layout.h"
#include "hrm/simd.h"

namespace hrm {

namespace {

// atan2(y, x) for x >= 0, to 2 ulp: atan(t) = t + t^3 P(t^2) on |t| <= tan(pi / 8), reduced by
// atan(t) = pi / 4 + atan((t - 1) / (t + 1)) and atan(t) = pi / 2 - atan(1 / t). 0 at (0, 0).
inline vec atan2_positive(vec y, vec x) {
    const vec size = y < 0.0F ? -y : y;
    const auto steep = size > x;
    const vec low = steep ? x : size, high = steep ? size : x;
    const auto upper = low > high * 0.4142135623730950F;
    const vec over = upper ? low - high : low, under = upper ? low + high : high;
    const vec t = over / (under == 0.0F ? splat(1.0F) : under), z = t * t;
    vec p = z * 8.05374449538e-2F - 1.38776856032e-1F;
    p = p * z + 1.99777106478e-1F;
    p = p * z - 3.33329491539e-1F;
    vec angle = p * z * t + t;
    angle = upper ? angle + 0.78539816339744831F : angle;
    angle = steep ? 1.57079632679489662F - angle : angle;
    return y < 0.0F ? -angle : angle;
}

inline void adam_lanes(float *w, float *g, float *m, float *v, float *average, const AdamStep &s) {
    const vec gradient = load(g);
    vec weight = load(w) * s.decay;
    vec mean = load(m), square = load(v);
    mean += (gradient - mean) * s.one_minus_beta1;
    square = square * s.beta2 + gradient * gradient * s.one_minus_beta2;
    weight -= atan2_positive(mean, square_root(square) * s.second) * s.first;
    store(w, weight);
    store(m, mean);
    store(v, square);
    if (average) {
        const vec old = load(average);
        store(average, old + (weight - old) * s.one_minus_average);
    }
}

// n numbers each; g is read, average may be null.
void adam_atan2(float *w, float *g, float *m, float *v, float *average, long n, const AdamStep &s) {
    long i = 0;
    for (; i + kLanes <= n; i += kLanes)
        adam_lanes(w + i, g + i, m + i, v + i, average ? average + i : nullptr, s);
    if (i == n)
        return;
    float rest[5][kLanes] = {};
    float *parts[5] = {w + i, g + i, m + i, v + i, average ? average + i : nullptr};
    for (int p = 0; p < 5; ++p)
        if (parts[p])
            std::memcpy(rest[p], parts[p], (n - i) * sizeof(float));
    adam_lanes(rest[0], rest[1], rest[2], rest[3], average ? rest[4] : nullptr, s);
    for (int p = 0; p < 5; ++p)
        if (parts[p])
            std::memcpy(parts[p], rest[p], (n - i) * sizeof(float));
}

} // namespace
} // namespace hrm
