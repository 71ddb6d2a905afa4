// One block, forward and backward: y = rms(x1 + down (silu(gate x1) * up x1)), where
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
// Tokens that are summed one by one; the sums of such parts are added up in turn. In a single sum
// over the 961 cells of the largest maze a float loses three times what PyTorch loses.
constexpr int kPart = 256;

inline BlockWeights block_weights(const Layout &l, const float *packed, int layer) {
    const float *at = packed + layer * l.block;
    return {at, at + l.qkv, at + l.qkv + l.out, at + l.qkv + l.out + l.gate_up};
}

inline int least(int a, int b) {
    return a < b ? a : b;
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

// The loops below keep sizes and row statistics in locals: the compiler must assume that a store of
// a vector changes what any pointer shows.

// y = (y + x) * r with r = 1 / rms(y + x), for R rows.
inline void rms_residual(float *y, const float *x, float *r, int R, const Layout &l) {
    const int D = l.D, Dp = l.Dp;
    for (int t = 0; t < R; ++t, y += Dp, x += Dp) {
        vec squares{};
        for (int d = 0; d < Dp; d += kLanes) {
            const vec v = load(y + d) + load(x + d);
            squares += v * v;
            store(y + d, v);
        }
        const float inverse = 1.0F / sqrtf(sum(squares) / D + kEps);
        for (int d = 0; d < Dp; d += kLanes)
            store(y + d, load(y + d) * inverse);
        r[t] = inverse;
    }
}

// dy becomes the gradient of y + x:  r (dy - y mean(y dy)).
inline void rms_backward(float *dy, const float *y, const float *r, int R, const Layout &l) {
    const int D = l.D, Dp = l.Dp;
    for (int t = 0; t < R; ++t, dy += Dp, y += Dp) {
        vec dot{};
        for (int d = 0; d < Dp; d += kLanes)
            dot += load(y + d) * load(dy + d);
        const float mean = sum(dot) / D, inverse = r[t];
        for (int d = 0; d < Dp; d += kLanes)
            store(dy + d, (load(dy + d) - load(y + d) * mean) * inverse);
    }
}

// Rotates the heads of R rows (row r is token rows[r]) and multiplies by `scale`:
// x'[i] = x[i] cos[i] + x[i +- K/2] sin[i]. Head by head: a load that reaches back into a head just
// stored would wait for it.
inline void rope(float *x, long ld, const Model &m, const float *sin, const int *rows, int R,
                 float scale, float *turned) {
    const int heads = m.layout->shape.heads, Kp = m.layout->Kp, half = m.layout->K / 2;
    const float *const cos = m.cos;
    ivec lane;
    for (int i = 0; i < kLanes; ++i)
        lane[i] = i;
    for (int head = 0; head < heads; ++head)
        for (int r = 0; r < R; ++r) {
            float *a = x + r * ld + static_cast<long>(head) * Kp;
            const long at = static_cast<long>(rows ? rows[r] : r) * Kp;
            for (int i = 0; i < Kp; i += kLanes) {
                const vec other = lane < half - i ? load(a + i + half) : load(a + i - half);
                const vec y = load(a + i) * load(cos + at + i) + other * load(sin + at + i);
                store(turned + i, y * scale);
            }
            for (int i = 0; i < Kp; i += kLanes)
                store(a + i, load(turned + i));
        }
}

inline void scale_rows(float *x, long ld, int R, int width, float scale) {
    for (int r = 0; r < R; ++r, x += ld)
        for (int i = 0; i < width; i += kLanes)
            store(x + i, load(x + i) * scale);
}

// Queries (of some rows) are rotated and scaled, keys only rotated; or their gradients rotated
// back.
inline void rope_both(float *qkv, const Model &m, const int *rows, int R, const float *sin,
                      Scratch &w) {
    const Layout &l = *m.layout;
    const long ld = 3L * l.HK;
    const float scale = 1.0F / sqrtf(l.K);
    if (!m.cos)
        return scale_rows(qkv, ld, R, l.HK, scale);
    rope(qkv, ld, m, sin, rows, R, scale, w.turned);
    rope(qkv + l.HK, ld, m, sin, nullptr, l.T, 1.0F, w.turned);
}

inline int padded(int n) {
    return (n + kLanes - 1) / kLanes * kLanes;
}

// R rows of K numbers, ld apart -> [K, padded(R)], the columns past R zero.
inline void transpose(float *to, const float *from, long ld, int R, int K) {
    const int Rp = padded(R);
    for (int k = 0; k < K; ++k, to += Rp) {
        for (int r = 0; r < R; ++r)
            to[r] = from[r * ld + k];
        for (int r = R; r < Rp; ++r)
            to[r] = 0.0F;
    }
}

// Columns of scores, a query each -> e^(score - maximum); top and inv get the maximum and 1 / sum.
// n columns, whole vectors of them. Four maxima, so that none waits for the one before.
inline void softmax(float *scores, float *top, float *inv, int n, const Layout &l) {
    const int T = l.T;
    const long ld = l.tile;
    for (int i = 0; i < n; i += kLanes) {
        float *s = scores + i;
        vec most[4] = {load(s), load(s), load(s), load(s)};
        int t = 0;
        for (; t + 4 <= T; t += 4)
            for (int j = 0; j < 4; ++j)
                most[j] = max(most[j], load(s + (t + j) * ld));
        for (; t < T; ++t)
            most[0] = max(most[0], load(s + t * ld));
        const vec highest = max(max(most[0], most[1]), max(most[2], most[3]));
        vec total{};
        for (t = 0; t < T;) {
            vec part{};
            for (const int end = least(t + kPart, T); t < end; ++t) {
                const vec p = exponential(load(s + t * ld) - highest);
                store(s + t * ld, p);
                part += p;
            }
            total += part;
        }
        store(top + i, highest);
        store(inv + i, 1.0F / total);
    }
}

// C [M, N] = A [M, T] B [T, N], a sum over all tokens.
inline void multiply_tokens(float *C, long ldc, Left A, Right B, int M, int N, int T) {
    multiply<To::kSet>(C, ldc, A, B, M, N, least(T, kPart));
    for (int t = kPart; t < T; t += kPart)
        multiply<To::kSum>(C, ldc, {A.data + t * A.column, A.row, A.column},
                           {B.data + t * B.row, B.row}, M, N, least(T - t, kPart));
}

// C [M, N] += A [M, R] B [R, N], a sum over some of the T tokens.
inline void add_tokens(const Layout &l, float *C, long ldc, Left A, Right B, int M, int N, int R) {
    if (l.T <= kPart)
        return multiply<To::kAdd>(C, ldc, A, B, M, N, R);
    for (int r = 0; r < R; r += kPart)
        multiply<To::kSum>(C, ldc, {A.data + r * A.column, A.row, A.column},
                           {B.data + r * B.row, B.row}, M, N, least(R - r, kPart));
}

// Scores lie key by key, [T, tile]: so softmax needs no sums across a vector, and a head's K, which
// rarely fills vectors, is never the direction of one.
inline void attention(const Model &m, Saved &s, Scratch &w, int R) {
    const Layout &l = *m.layout;
    const long ld = 3L * l.HK;
    const int Rp = padded(R);
    for (int head = 0; head < l.shape.heads; ++head) {
        const float *q = s.qkv + static_cast<long>(head) * l.Kp, *k = q + l.HK, *v = k + l.HK;
        const long stat = static_cast<long>(head) * l.Tp;
        transpose(w.q_t, q, ld, R, l.K);
        for (int t = 0; t < R; t += l.tile) {
            const int n = R - t < l.tile ? R - t : l.tile, columns = padded(n);
            float *o = s.o + static_cast<long>(t) * l.HK + head * l.Kp, *inv = s.inv + stat + t;
            multiply<To::kSet>(w.scores, l.tile, {k, ld, 1}, {w.q_t + t, Rp}, l.T, columns, l.K);
            softmax(w.scores, s.top + stat + t, inv, columns, l);
            multiply_tokens(o, l.HK, {w.scores, 1, l.tile}, {v, ld}, n, l.Kp, l.T);
            for (int r = 0; r < n; ++r)
                scale_rows(o + static_cast<long>(r) * l.HK, 0, 1, l.Kp, inv[r]);
        }
    }
}

// h = silu(gate) * up for R rows of gate and up.
inline void gated(float *h, const float *gu, int R, int Fp) {
    for (int r = 0; r < R; ++r, h += Fp, gu += 2L * Fp)
        for (int i = 0; i < Fp; i += kLanes) {
            const vec gate = load(gu + i);
            store(h + i, gate * sigmoid(gate) * load(gu + Fp + i));
        }
}

// s.x [T, Dp] -> s.y [R, Dp]; they may be the same memory. `keep` what backward reads.
inline void block_forward(const Model &m, int layer, Saved &s, Scratch &w, const int *rows, int R,
                          bool keep) {
    const Layout &l = *m.layout;
    const BlockWeights W = block_weights(l, m.forward, layer);
    const long ld = 3L * l.HK;
    const float *x = s.x;
    if (rows) {
        gather(w.wanted, s.x, rows, R, l.Dp);
        x = w.wanted;
        multiply<To::kSet>(s.qkv + l.HK, ld, {s.x, l.Dp, 1}, {W.qkv + l.HK, ld}, l.T, 2 * l.HK,
                           l.Dp);
        multiply<To::kSet>(s.qkv, ld, {x, l.Dp, 1}, {W.qkv, ld}, R, l.HK, l.Dp);
    } else {
        multiply<To::kSet>(s.qkv, ld, {x, l.Dp, 1}, {W.qkv, ld}, l.T, 3 * l.HK, l.Dp);
    }
    rope_both(s.qkv, m, rows, R, m.sin, w);
    attention(m, s, w, R);
    multiply<To::kSet>(s.x1, l.Dp, {s.o, l.HK, 1}, {W.out, l.Dp}, R, l.Dp, l.HK);
    rms_residual(s.x1, x, s.r1, R, l);
    for (int t = 0; t < R; t += l.tile) {
        const int n = R - t < l.tile ? R - t : l.tile;
        float *gu = s.gu + (keep ? 2L * t * l.Fp : 0), *x1 = s.x1 + static_cast<long>(t) * l.Dp,
              *y = s.y + static_cast<long>(t) * l.Dp;
        multiply<To::kSet>(gu, 2 * l.Fp, {x1, l.Dp, 1}, {W.gate_up, 2 * l.Fp}, n, 2 * l.Fp, l.Dp);
        gated(w.h, gu, n, l.Fp);
        multiply<To::kSet>(y, l.Dp, {w.h, l.Fp, 1}, {W.down, l.Dp}, n, l.Dp, l.Fp);
        rms_residual(y, x1, s.r2 + t, n, l);
    }
}

// Scores -> shares P, and gradients of P -> gradients of scores: P (dP - sum(P dP)).
inline void softmax_backward(float *p, float *dp, const float *top, const float *inv, int n,
                             const Layout &l) {
    const int T = l.T;
    const long ld = l.tile;
    for (int i = 0; i < n; i += kLanes) {
        const vec highest = load(top + i), share = load(inv + i);
        vec sum{};
        for (int t = 0; t < T;) {
            vec part{};
            for (const int end = least(t + kPart, T); t < end; ++t) {
                const long at = t * ld + i;
                const vec shares = exponential(load(p + at) - highest) * share;
                store(p + at, shares);
                part += shares * load(dp + at);
            }
            sum += part;
        }
        for (int t = 0; t < T; ++t) {
            const long at = t * ld + i;
            store(dp + at, load(p + at) * (load(dp + at) - sum));
        }
    }
}

// Backward through attention: w.d_o [R, HK] -> w.d_qkv [T, 3 HK], rotated back.
inline void attention_backward(const Model &m, const Saved &s, Scratch &w, const int *rows, int R) {
    const Layout &l = *m.layout;
    const long ld = 3L * l.HK;
    const int Rp = padded(R);
    std::memset(w.d_qkv, 0, l.T * ld * sizeof(float));
    for (int head = 0; head < l.shape.heads; ++head) {
        const long at = static_cast<long>(head) * l.Kp, stat = static_cast<long>(head) * l.Tp;
        const float *q = s.qkv + at, *k = q + l.HK, *v = k + l.HK;
        float *dq = w.d_qkv + at, *dk = dq + l.HK, *dv = dk + l.HK;
        transpose(w.q_t, q, ld, R, l.K);
        transpose(w.d_o_t, w.d_o + at, l.HK, R, l.K);
        for (int t = 0; t < R; t += l.tile) {
            const int n = R - t < l.tile ? R - t : l.tile, columns = padded(n);
            const float *d_o = w.d_o + static_cast<long>(t) * l.HK + at;
            multiply<To::kSet>(w.scores, l.tile, {k, ld, 1}, {w.q_t + t, Rp}, l.T, columns, l.K);
            multiply<To::kSet>(w.d_scores, l.tile, {v, ld, 1}, {w.d_o_t + t, Rp}, l.T, columns,
                               l.K);
            softmax_backward(w.scores, w.d_scores, s.top + stat + t, s.inv + stat + t, columns, l);
            add_tokens(l, dv, ld, {w.scores, l.tile, 1}, {d_o, l.HK}, l.T, l.Kp, n);
            add_tokens(l, dk, ld, {w.d_scores, l.tile, 1}, {q + t * ld, ld}, l.T, l.Kp, n);
            multiply_tokens(dq + t * ld, ld, {w.d_scores, 1, l.tile}, {k, ld}, n, l.Kp, l.T);
        }
    }
    rope_both(w.d_qkv, m, rows, R, m.sin_back, w);
}

// Gradients of gate and up from that of h, and h once more.
inline void gated_backward(float *d_gu, float *h, const float *d_h, const float *gu, int R,
                           int Fp) {
    for (int r = 0; r < R; ++r, d_gu += 2L * Fp, gu += 2L * Fp, h += Fp, d_h += Fp)
        for (int i = 0; i < Fp; i += kLanes) {
            const vec gate = load(gu + i), up = load(gu + Fp + i), d = load(d_h + i);
            const vec sig = sigmoid(gate), silu = gate * sig;
            store(h + i, silu * up);
            store(d_gu + i, d * up * (sig + silu * (1.0F - sig)));
            store(d_gu + Fp + i, d * silu);
        }
}

// Backward through the SwiGLU: w.d_y [R, Dp] becomes the gradient of x1.
inline void swiglu_backward(const Layout &l, const BlockWeights &W, float *grad, const Saved &s,
                            Scratch &w, int R) {
    float *d_gate_up = grad + l.qkv + l.out, *d_down = d_gate_up + l.gate_up;
    rms_backward(w.d_y, s.y, s.r2, R, l);
    for (int t = 0; t < R; t += l.tile) {
        const int n = R - t < l.tile ? R - t : l.tile;
        float *dv = w.d_y + static_cast<long>(t) * l.Dp;
        const float *x1 = s.x1 + static_cast<long>(t) * l.Dp;
        multiply<To::kSet>(w.d_h, l.Fp, {dv, l.Dp, 1}, {W.down, l.Fp}, n, l.Fp, l.Dp);
        gated_backward(w.d_gu, w.h, w.d_h, s.gu + 2L * t * l.Fp, n, l.Fp);
        add_tokens(l, d_down, l.Fp, {dv, 1, l.Dp}, {w.h, l.Fp}, l.Dp, l.Fp, n);
        add_tokens(l, d_gate_up, l.Dp, {w.d_gu, 1, 2 * l.Fp}, {x1, l.Dp}, 2 * l.Fp, l.Dp, n);
        multiply<To::kAdd>(dv, l.Dp, {w.d_gu, 2 * l.Fp, 1}, {W.gate_up, l.Dp}, n, l.Dp, 2 * l.Fp);
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
    multiply<To::kSet>(w.d_o, l.HK, {w.d_y, l.Dp, 1}, {W.out, l.HK}, R, l.HK, l.Dp);
    add_tokens(l, d_out, l.HK, {w.d_y, 1, l.Dp}, {s.o, l.HK}, l.Dp, l.HK, R);
    attention_backward(m, s, w, rows, R);
    if (!rows) {
        add_tokens(l, d_qkv, l.Dp, {w.d_qkv, 1, ld}, {s.x, l.Dp}, 3 * l.HK, l.Dp, l.T);
        multiply<To::kAdd>(w.d_y, l.Dp, {w.d_qkv, ld, 1}, {W.qkv, l.Dp}, l.T, l.Dp, 3 * l.HK);
        return;
    }
    gather(w.wanted, s.x, rows, R, l.Dp);
    add_tokens(l, d_qkv, l.Dp, {w.d_qkv, 1, ld}, {w.wanted, l.Dp}, l.HK, l.Dp, R);
    multiply<To::kAdd>(w.d_y, l.Dp, {w.d_qkv, ld, 1}, {W.qkv, l.Dp}, R, l.Dp, l.HK);
    copy(w.d_x, w.d_y, static_cast<long>(R) * l.Dp);
    const long kv = static_cast<long>(l.HK) * l.Dp;
    add_tokens(l, d_qkv + kv, l.Dp, {w.d_qkv + l.HK, 1, ld}, {s.x, l.Dp}, 2 * l.HK, l.Dp, l.T);
    multiply<To::kSet>(w.d_y, l.Dp, {w.d_qkv + l.HK, ld, 1}, {W.qkv + kv, l.Dp}, l.T, l.Dp,
                       2 * l.HK);
    for (int r = 0; r < R; ++r)
        add(w.d_y + static_cast<long>(rows[r]) * l.Dp, w.d_x + static_cast<long>(r) * l.Dp, l.Dp);
}

} // namespace
} // namespace hrm
