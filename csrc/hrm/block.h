// One block, there and back: y = rms(x1 + down (silu(gate x1) * up x1)), where
// x1 = rms(x + out attention(rope(q), rope(k), v)). Formulas: kernels/attention_block.py and
// kernels/swiglu_block.py.
//
// `rows` names the R tokens whose output is wanted (null: all T of them, R = T). Keys and values
// are always made for all tokens; everything behind them only for the R.
#pragma once

#include "hrm/layout.h"
#include "hrm/matmul.h"

#include <cmath>

namespace hrm {
namespace {

constexpr float kEps = 1e-5F; // of the rms norm

inline BlockWeights block_weights(const Layout &l, const float *packed, int layer) {
    const float *at = packed + layer * l.block;
    return {at, at + l.qkv, at + l.qkv + l.out, at + l.qkv + l.out + l.gate_up};
}

inline void copy(float *to, const float *from, long n) {
    std::memcpy(to, from, n * sizeof(float));
}

inline void add(float *to, const float *from, long n) {
    for (long i = 0; i < n; i += kLanes)
        store(to + i, load(to + i) + load(from + i));
}

inline void gather(float *to, const float *from, const int *rows, int R, int width) {
    for (int r = 0; r < R; ++r)
        copy(to + r * width, from + rows[r] * width, width);
}

// y = (y + x) * r with r = 1 / rms(y + x), for R rows.
inline void rms_residual(float *y, const float *x, float *r, int R, const Layout &l) {
    for (int t = 0; t < R; ++t, y += l.Dp, x += l.Dp) {
        vec squares{};
        for (int d = 0; d < l.Dp; d += kLanes) {
            const vec v = load(y + d) + load(x + d);
            squares += v * v;
            store(y + d, v);
        }
        r[t] = 1.0F / sqrtf(sum(squares) / l.D + kEps);
        for (int d = 0; d < l.Dp; d += kLanes)
            store(y + d, load(y + d) * r[t]);
    }
}

// dy becomes the gradient of y + x:  r (dy - y mean(y dy)).
inline void rms_backward(float *dy, const float *y, const float *r, int R, const Layout &l) {
    for (int t = 0; t < R; ++t, dy += l.Dp, y += l.Dp) {
        vec dot{};
        for (int d = 0; d < l.Dp; d += kLanes)
            dot += load(y + d) * load(dy + d);
        const float mean = sum(dot) / l.D;
        for (int d = 0; d < l.Dp; d += kLanes)
            store(dy + d, (load(dy + d) - load(y + d) * mean) * r[t]);
    }
}

// Turns the heads of R rows (row r is token rows[r]) and multiplies by `scale`; `back` turns the
// other way. x'[i] = x[i] cos[i] + x[i +- K/2] sin[i]; back, the sines swap their halves.
inline void turn(float *x, long ld, const Model &m, const int *rows, int R, float scale,
                 bool back) {
    const Layout &l = *m.layout;
    const int half = l.K / 2;
    for (int r = 0; r < R; ++r) {
        const long at = static_cast<long>(rows ? rows[r] : r) * l.K;
        for (int head = 0; head < l.shape.heads; ++head) {
            float *a = x + r * ld + head * l.Kp, *b = a + half;
            if (!m.cos) {
                for (int i = 0; i < l.Kp; i += kLanes)
                    store(a + i, load(a + i) * scale);
                continue;
            }
            const float *c = m.cos + at, *low = m.sin + at + (back ? half : 0),
                        *high = m.sin + at + (back ? 0 : half);
            int i = 0;
            for (; i + kLanes <= half; i += kLanes) {
                const vec first = load(a + i), second = load(b + i);
                store(a + i, (first * load(c + i) + second * load(low + i)) * scale);
                store(b + i, (second * load(c + half + i) + first * load(high + i)) * scale);
            }
            for (; i < half; ++i) {
                const float first = a[i], second = b[i];
                a[i] = (first * c[i] + second * low[i]) * scale;
                b[i] = (second * c[half + i] + first * high[i]) * scale;
            }
        }
    }
}

// [T, Kp] with rows ld apart -> [Kp, Tp], the columns behind T zero.
inline void transpose(float *to, const float *from, long ld, const Layout &l) {
    for (int t = 0; t < l.T; ++t)
        for (int k = 0; k < l.Kp; ++k)
            to[static_cast<long>(k) * l.Tp + t] = from[t * ld + k];
    for (int k = 0; k < l.Kp; ++k)
        for (int t = l.T; t < l.Tp; ++t)
            to[static_cast<long>(k) * l.Tp + t] = 0.0F;
}

// Rows of scores -> e^(score - maximum); top and inv get the maximum and 1 / sum.
inline void softmax(float *scores, float *top, float *inv, int R, const Layout &l) {
    for (int t = 0; t < R; ++t, scores += l.Tp) {
        for (int s = l.T; s < l.Tp; ++s)
            scores[s] = -1e30F;
        vec most = load(scores), total{};
        for (int s = kLanes; s < l.Tp; s += kLanes)
            most = larger(most, load(scores + s));
        top[t] = largest(most);
        for (int s = 0; s < l.Tp; s += kLanes) {
            const vec p = exponential(load(scores + s) - top[t]);
            store(scores + s, p);
            total += p;
        }
        inv[t] = 1.0F / sum(total);
    }
}

inline void attention(const Model &m, Saved &s, Scratch &w, int R) {
    const Layout &l = *m.layout;
    const long ld = 3L * l.HK;
    for (int head = 0; head < l.shape.heads; ++head) {
        const float *q = s.qkv + head * l.Kp, *k = q + l.HK, *v = k + l.HK;
        float *top = s.top + static_cast<long>(head) * l.T,
              *inv = s.inv + static_cast<long>(head) * l.T;
        transpose(w.k_t, k, ld, l);
        for (int t = 0; t < R; t += l.tile) {
            const int n = R - t < l.tile ? R - t : l.tile;
            float *o = s.o + static_cast<long>(t) * l.HK + head * l.Kp;
            multiply<false>(w.scores, l.Tp, {q + t * ld, ld, 1}, {w.k_t, l.Tp}, n, l.Tp, l.Kp);
            softmax(w.scores, top + t, inv + t, n, l);
            multiply<false>(o, l.HK, {w.scores, l.Tp, 1}, {v, ld}, n, l.Kp, l.T);
            for (int r = 0; r < n; ++r)
                for (int i = 0; i < l.Kp; i += kLanes)
                    store(o + r * l.HK + i, load(o + r * l.HK + i) * inv[t + r]);
        }
    }
}

// s.x [T, Dp] -> s.y [R, Dp]; they may be the same memory. `keep` what the way back reads.
inline void block_forward(const Model &m, int layer, Saved &s, Scratch &w, const int *rows, int R,
                          bool keep) {
    const Layout &l = *m.layout;
    const BlockWeights W = block_weights(l, m.forward, layer);
    const long ld = 3L * l.HK;
    const float *x = s.x;
    if (rows) {
        gather(w.wanted, s.x, rows, R, l.Dp);
        x = w.wanted;
        multiply<false>(s.qkv + l.HK, ld, {s.x, l.Dp, 1}, {W.qkv + l.HK, ld}, l.T, 2 * l.HK, l.Dp);
        multiply<false>(s.qkv, ld, {x, l.Dp, 1}, {W.qkv, ld}, R, l.HK, l.Dp);
    } else {
        multiply<false>(s.qkv, ld, {x, l.Dp, 1}, {W.qkv, ld}, l.T, 3 * l.HK, l.Dp);
    }
    turn(s.qkv, ld, m, rows, R, 1.0F / sqrtf(l.K), false);
    if (m.cos)
        turn(s.qkv + l.HK, ld, m, nullptr, l.T, 1.0F, false);
    attention(m, s, w, R);
    multiply<false>(s.x1, l.Dp, {s.o, l.HK, 1}, {W.out, l.Dp}, R, l.Dp, l.HK);
    rms_residual(s.x1, x, s.r1, R, l);
    for (int t = 0; t < R; t += l.tile) {
        const int n = R - t < l.tile ? R - t : l.tile;
        float *gu = s.gu + (keep ? 2L * t * l.Fp : 0), *x1 = s.x1 + static_cast<long>(t) * l.Dp,
              *y = s.y + static_cast<long>(t) * l.Dp;
        multiply<false>(gu, 2 * l.Fp, {x1, l.Dp, 1}, {W.gate_up, 2 * l.Fp}, n, 2 * l.Fp, l.Dp);
        for (int r = 0; r < n; ++r) {
            const float *g = gu + 2L * r * l.Fp, *u = g + l.Fp;
            for (int i = 0; i < l.Fp; i += kLanes)
                store(w.h + static_cast<long>(r) * l.Fp + i,
                      load(g + i) * sigmoid(load(g + i)) * load(u + i));
        }
        multiply<false>(y, l.Dp, {w.h, l.Fp, 1}, {W.down, l.Dp}, n, l.Dp, l.Fp);
        rms_residual(y, x1, s.r2 + t, n, l);
    }
}

// The way back through attention: w.d_o [R, HK] -> w.d_qkv [T, 3 HK], turned back.
inline void attention_backward(const Model &m, const Saved &s, Scratch &w, const int *rows, int R) {
    const Layout &l = *m.layout;
    const long ld = 3L * l.HK;
    std::memset(w.d_qkv, 0, l.T * ld * sizeof(float));
    for (int head = 0; head < l.shape.heads; ++head) {
        const long at = static_cast<long>(head) * l.Kp, stat = static_cast<long>(head) * l.T;
        const float *q = s.qkv + at, *k = q + l.HK, *v = k + l.HK;
        float *dq = w.d_qkv + at, *dk = dq + l.HK, *dv = dk + l.HK;
        transpose(w.k_t, k, ld, l);
        transpose(w.v_t, v, ld, l);
        for (int t = 0; t < R; t += l.tile) {
            const int n = R - t < l.tile ? R - t : l.tile;
            const float *d_o = w.d_o + static_cast<long>(t) * l.HK + at,
                        *o = s.o + static_cast<long>(t) * l.HK + at;
            multiply<false>(w.scores, l.Tp, {q + t * ld, ld, 1}, {w.k_t, l.Tp}, n, l.Tp, l.Kp);
            multiply<false>(w.d_scores, l.Tp, {d_o, l.HK, 1}, {w.v_t, l.Tp}, n, l.Tp, l.Kp);
            for (int r = 0; r < n; ++r) {
                vec dot{};
                for (int i = 0; i < l.Kp; i += kLanes)
                    dot += load(d_o + r * l.HK + i) * load(o + r * l.HK + i);
                const float delta = sum(dot), top = s.top[stat + t + r], inv = s.inv[stat + t + r];
                float *p = w.scores + static_cast<long>(r) * l.Tp,
                      *dp = w.d_scores + static_cast<long>(r) * l.Tp;
                for (int i = 0; i < l.Tp; i += kLanes) {
                    const vec share = exponential(load(p + i) - top) * inv;
                    store(p + i, share);
                    store(dp + i, share * (load(dp + i) - delta));
                }
            }
            multiply<true>(dv, ld, {w.scores, 1, l.Tp}, {d_o, l.HK}, l.T, l.Kp, n);
            multiply<true>(dk, ld, {w.d_scores, 1, l.Tp}, {q + t * ld, ld}, l.T, l.Kp, n);
            multiply<false>(dq + t * ld, ld, {w.d_scores, l.Tp, 1}, {k, ld}, n, l.Kp, l.T);
        }
    }
    turn(w.d_qkv, ld, m, rows, R, 1.0F / sqrtf(l.K), true);
    if (m.cos)
        turn(w.d_qkv + l.HK, ld, m, nullptr, l.T, 1.0F, true);
}

// The way back through the SwiGLU: w.d_y [R, Dp] becomes the gradient of x1.
inline void swiglu_backward(const Layout &l, const BlockWeights &W, float *grad, const Saved &s,
                            Scratch &w, int R) {
    float *d_gate_up = grad + l.qkv + l.out, *d_down = d_gate_up + l.gate_up;
    rms_backward(w.d_y, s.y, s.r2, R, l);
    for (int t = 0; t < R; t += l.tile) {
        const int n = R - t < l.tile ? R - t : l.tile;
        float *dv = w.d_y + static_cast<long>(t) * l.Dp;
        const float *x1 = s.x1 + static_cast<long>(t) * l.Dp;
        multiply<false>(w.d_h, l.Fp, {dv, l.Dp, 1}, {W.down, l.Fp}, n, l.Fp, l.Dp);
        for (int r = 0; r < n; ++r) {
            const float *g = s.gu + 2L * (t + r) * l.Fp, *u = g + l.Fp;
            float *dg = w.d_gu + 2L * r * l.Fp, *du = dg + l.Fp;
            for (int i = 0; i < l.Fp; i += kLanes) {
                const vec gate = load(g + i), sig = sigmoid(gate), silu = gate * sig,
                          dh = load(w.d_h + static_cast<long>(r) * l.Fp + i);
                store(w.h + static_cast<long>(r) * l.Fp + i, silu * load(u + i));
                store(du + i, dh * silu);
                store(dg + i, dh * load(u + i) * (sig + silu * (1.0F - sig)));
            }
        }
        multiply<true>(d_down, l.Fp, {dv, 1, l.Dp}, {w.h, l.Fp}, l.Dp, l.Fp, n);
        multiply<true>(d_gate_up, l.Dp, {w.d_gu, 1, 2 * l.Fp}, {x1, l.Dp}, 2 * l.Fp, l.Dp, n);
        multiply<true>(dv, l.Dp, {w.d_gu, 2 * l.Fp, 1}, {W.gate_up, l.Dp}, n, l.Dp, 2 * l.Fp);
    }
}

// w.d_y [R, Dp], the gradient of s.y, becomes that of s.x [T, Dp]; grad [block] += the weights'.
inline void block_backward(const Model &m, int layer, float *grad, const Saved &s, Scratch &w,
                           const int *rows, int R) {
    const Layout &l = *m.layout;
    const BlockWeights W = block_weights(l, m.backward, layer);
    const long ld = 3L * l.HK;
    float *d_qkv = grad, *d_out = grad + l.qkv;
    swiglu_backward(l, W, grad, s, w, R);
    rms_backward(w.d_y, s.x1, s.r1, R, l);
    multiply<false>(w.d_o, l.HK, {w.d_y, l.Dp, 1}, {W.out, l.HK}, R, l.HK, l.Dp);
    multiply<true>(d_out, l.HK, {w.d_y, 1, l.Dp}, {s.o, l.HK}, l.Dp, l.HK, R);
    attention_backward(m, s, w, rows, R);
    if (!rows) {
        multiply<true>(d_qkv, l.Dp, {w.d_qkv, 1, ld}, {s.x, l.Dp}, 3 * l.HK, l.Dp, l.T);
        multiply<true>(w.d_y, l.Dp, {w.d_qkv, ld, 1}, {W.qkv, l.Dp}, l.T, l.Dp, 3 * l.HK);
        return;
    }
    gather(w.wanted, s.x, rows, R, l.Dp);
    multiply<true>(d_qkv, l.Dp, {w.d_qkv, 1, ld}, {w.wanted, l.Dp}, l.HK, l.Dp, R);
    multiply<true>(w.d_y, l.Dp, {w.d_qkv, ld, 1}, {W.qkv, l.Dp}, R, l.Dp, l.HK);
    copy(w.d_x, w.d_y, static_cast<long>(R) * l.Dp);
    const long kv = static_cast<long>(l.HK) * l.Dp;
    multiply<true>(d_qkv + kv, l.Dp, {w.d_qkv + l.HK, 1, ld}, {s.x, l.Dp}, 2 * l.HK, l.Dp, l.T);
    multiply<false>(w.d_y, l.Dp, {w.d_qkv + l.HK, ld, 1}, {W.qkv + kv, l.Dp}, l.T, l.Dp, 2 * l.HK);
    for (int r = 0; r < R; ++r)
        add(w.d_y + static_cast<long>(rows[r]) * l.Dp, w.d_x + static_cast<long>(r) * l.Dp, l.Dp);
}

} // namespace
} // namespace hrm
