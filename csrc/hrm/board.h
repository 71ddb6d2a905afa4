// Segments of one board, forward and backward. This is the whole algorithm: everything a board
// needs stays in its thread's caches, and boards share nothing but the weights.
//
//     e = scale * ([puzzle, embed(tokens)] + position)
//     for h in H_cycles:  for l in L_cycles:  z_L = L(z_L + z_H + e)
//                         z_H = H(z_H + z_L)
//     q = head z_H[read]
//
// One-step gradient: only the last call of L and the last call of H carry gradient.
#pragma once

#include "hrm/block.h"

namespace hrm {
namespace {

inline void sum_rows(float *to, const float *a, const float *b, const Layout &l) {
    for (long i = 0; i < static_cast<long>(l.T) * l.Dp; i += kLanes)
        store(to + i, load(a + i) + load(b + i));
}

// [T, D] with a stride per token -> [T, Dp]
inline void read_state(float *to, const float *from, long token, const Layout &l) {
    for (int t = 0; t < l.T; ++t, to += l.Dp, from += token) {
        copy(to, from, l.D);
        for (int d = l.D; d < l.Dp; ++d)
            to[d] = 0.0F;
    }
}

inline void embed(const Model &m, const uint8_t *tokens, float *e) {
    const Layout &l = *m.layout;
    for (int t = 0; t < l.T; ++t, e += l.Dp) {
        const float *row = m.table + static_cast<long>(t ? tokens[t - 1] + 1 : 0) * l.Dp;
        copy(e, row, l.Dp);
        if (m.position)
            add(e, m.position + static_cast<long>(t) * l.Dp, l.Dp);
    }
}

// Calls one level. Without gradient it works in place on w.x; with it, every layer keeps what its
// backward pass reads, from the first one's x to the last one's y.
inline void level(const Model &m, int first, int layers, Scratch &w, const int *rows, int R,
                  bool keep) {
    const Layout &l = *m.layout;
    for (int i = 0; i < layers; ++i) {
        Saved s = w.saved[keep ? first + i : 0];
        if (!keep)
            s.x = s.y = w.x;
        const bool last = i + 1 == layers;
        block_forward(m, first + i, s, w, last ? rows : nullptr, last ? R : l.T, keep);
    }
}

// One segment on w.z_H and w.z_L. With rows, z_H becomes [R, Dp]: only what is wanted of it.
inline void segment(const Model &m, Scratch &w, const int *rows, int R, bool keep) {
    const Layout &l = *m.layout;
    const Shape &shape = l.shape;
    const long all = static_cast<long>(l.T) * l.Dp;
    for (int h = 0; h < shape.h_cycles; ++h) {
        const bool last_h = h + 1 == shape.h_cycles;
        sum_rows(w.injection, w.z_H, w.e, l);
        for (int i = 0; i < shape.l_cycles; ++i) {
            const bool save = keep && last_h && i + 1 == shape.l_cycles;
            float *x = save ? w.saved[0].x : w.x;
            sum_rows(x, w.z_L, w.injection, l);
            level(m, 0, shape.l_layers, w, nullptr, l.T, save);
            copy(w.z_L, save ? w.saved[shape.l_layers - 1].y : w.x, all);
        }
        const bool save = keep && last_h;
        sum_rows(save ? w.saved[shape.l_layers].x : w.x, w.z_H, w.z_L, l);
        level(m, shape.l_layers, shape.h_layers, w, last_h ? rows : nullptr, last_h ? R : l.T,
              save);
        copy(w.z_H, save ? w.saved[l.layers - 1].y : w.x, last_h ? R * l.Dp : all);
    }
}

inline float dot(const float *a, const float *b, int n) {
    vec products{};
    for (int i = 0; i < n; i += kLanes)
        products += load(a + i) * load(b + i);
    return sum(products);
}

inline void q_values(const Model &m, const float *z, float *q) {
    const Layout &l = *m.layout;
    for (int a = 0; a < l.shape.actions; ++a)
        q[a] = dot(z, m.head + static_cast<long>(a) * l.Dp, l.Dp);
}

// The vector [Dp] that Q is read from: a row of z_H, or the mean of all.
inline const float *read_vector(const Layout &l, const float *z_H, int row, float *mean) {
    if (row != kMean)
        return z_H + static_cast<long>(row) * l.Dp;
    std::memset(mean, 0, l.Dp * sizeof(float));
    for (int t = 0; t < l.T; ++t)
        add(mean, z_H + static_cast<long>(t) * l.Dp, l.Dp);
    for (int d = 0; d < l.Dp; ++d)
        mean[d] /= l.T;
    return mean;
}

inline void write_state(float *to, const float *z, const Layout &l) {
    for (int t = 0; t < l.T; ++t)
        copy(to + static_cast<long>(t) * l.D, z + static_cast<long>(t) * l.Dp, l.D);
}

inline void begin(const Model &m, const Start &start, Scratch &w) {
    embed(m, start.tokens, w.e);
    read_state(w.z_H, start.z_H, start.token, *m.layout);
    read_state(w.z_L, start.z_L, start.token, *m.layout);
}

// `segments` segments without gradient.
void decide(const Model &m, const Start &start, int segments, const Result &to, Scratch &w) {
    const Layout &l = *m.layout;
    const int rows[2] = {start.read, l.T - 1};
    const bool few = to.last_only && start.read != kMean;
    begin(m, start, w);
    for (int s = 0; s < segments; ++s) {
        const bool wanted = few && s + 1 == segments;
        segment(m, w, wanted ? rows : nullptr, wanted ? 2 : l.T, false);
    }
    if (to.q)
        q_values(m, read_vector(l, w.z_H, few ? 0 : start.read, w.wanted), to.q);
    if (!to.z_H)
        return;
    if (!to.last_only) {
        write_state(to.z_H, w.z_H, l);
        write_state(to.z_L, w.z_L, l);
        return;
    }
    copy(to.z_H, w.z_H + static_cast<long>(few ? 1 : l.T - 1) * l.Dp, l.D);
    copy(to.z_L, w.z_L + static_cast<long>(l.T - 1) * l.Dp, l.D);
}

// w.d_y [R, Dp] = the gradient of the new z_H, through the head and from outside; head's += too.
inline void head_backward(const Model &m, const float *z, const float *dq, int row, int R,
                          const float *outside, float *d_head, Scratch &w) {
    const Layout &l = *m.layout;
    if (outside)
        read_state(w.d_y, outside, l.D, l);
    else
        std::memset(w.d_y, 0, static_cast<long>(R) * l.Dp * sizeof(float));
    for (int a = 0; a < l.shape.actions; ++a) {
        const float *head = m.head + static_cast<long>(a) * l.Dp;
        for (int d = 0; d < l.Dp; d += kLanes) {
            float *to = d_head + static_cast<long>(a) * l.Dp + d;
            store(to, load(to) + load(z + d) * dq[a]);
        }
        const bool mean = row == kMean;
        for (int t = mean ? 0 : row; t < (mean ? l.T : row + 1); ++t)
            for (int d = 0; d < l.Dp; d += kLanes) {
                float *to = w.d_y + static_cast<long>(t) * l.Dp + d;
                store(to, load(to) + load(head + d) * (mean ? dq[a] / l.T : dq[a]));
            }
    }
}

// Returns the loss on one action's value at every cell as a goal. Sets w.d_y [T, Dp] to its
// gradient and adds that of the head to d_head.
inline float goals_loss(const Model &m, const Upstream &up, float *d_head, Scratch &w) {
    const Layout &l = *m.layout;
    const long at = up.action * l.Dp;
    const float *head = m.head + at;
    float loss = 0.0F;
    std::memset(w.d_y, 0, static_cast<long>(l.T) * l.Dp * sizeof(float));
    for (int first = 0; first < l.shape.cells; first += kPart) {
        float part = 0.0F, *const d_part = first ? w.wanted : d_head + at;
        if (first)
            std::memset(d_part, 0, l.Dp * sizeof(float));
        for (int g = first; g < least(first + kPart, l.shape.cells); ++g) {
            const float weight = up.weight[g] * up.scale, y = up.target[g];
            if (weight == 0.0F)
                continue;
            const float *z = w.z_H + (g + 1L) * l.Dp;
            const float logit = dot(z, head, l.Dp), decay = expf(-fabsf(logit));
            part += weight * (fmaxf(logit, 0.0F) - y * logit + log1pf(decay));
            const float value = (logit > 0.0F ? 1.0F : decay) / (1.0F + decay);
            const float d_logit = weight * (value - y);
            float *d_z = w.d_y + (g + 1L) * l.Dp;
            for (int d = 0; d < l.Dp; d += kLanes) {
                store(d_z + d, load(head + d) * d_logit);
                store(d_part + d, load(d_part + d) + load(z + d) * d_logit);
            }
        }
        loss += part;
        if (first)
            add(d_head + at, d_part, l.Dp);
    }
    return loss;
}

inline void embed_backward(const Model &m, const uint8_t *tokens, const float *d_e, float *grad) {
    const Layout &l = *m.layout;
    for (int t = 0; t < l.T; ++t, d_e += l.Dp) {
        float *row = grad + (t ? l.embed + static_cast<long>(tokens[t - 1]) * l.Dp : l.puzzle);
        for (int d = 0; d < l.Dp; d += kLanes)
            store(row + d, load(row + d) + load(d_e + d) * m.scale);
        if (m.position) {
            float *place = grad + l.position + static_cast<long>(t) * l.Dp;
            for (int d = 0; d < l.Dp; d += kLanes)
                store(place + d, load(place + d) + load(d_e + d) * m.scale);
        }
    }
}

// One segment and its gradient, grad [total] += . Returns the board's loss (0 with gradients from
// outside).
float gradient(const Model &m, const Start &start, const Upstream &up, const Result &to,
               float *grad, Scratch &w) {
    const Layout &l = *m.layout;
    const Shape &shape = l.shape;
    const bool few = !to.z_H && !up.z_H && start.read != kMean && up.loss != Loss::kGoals;
    const int *rows = few ? &start.read : nullptr, R = few ? 1 : l.T, row = few ? 0 : start.read;
    begin(m, start, w);
    segment(m, w, rows, R, true);
    if (to.z_H) {
        write_state(to.z_H, w.z_H, l);
        write_state(to.z_L, w.z_L, l);
    }
    const float *z = read_vector(l, w.z_H, row, w.wanted);
    float *dq = w.dq, loss = 0.0F;
    q_values(m, z, to.q);
    for (int a = 0; a < shape.actions; ++a)
        dq[a] = up.q ? up.q[a] : 0.0F;
    if (up.loss == Loss::kTD) {
        const float error = to.q[up.action] - *up.target;
        dq[up.action] = 2.0F * up.scale * error;
        loss = up.scale * error * error;
    }
    if (up.loss == Loss::kGoals)
        loss = goals_loss(m, up, grad + l.head, w);
    else
        head_backward(m, z, dq, row, R, up.z_H, grad + l.head, w);
    for (int i = l.layers - 1; i >= 0; --i) {
        if (i == shape.l_layers - 1 && up.z_L) {
            read_state(w.d_x, up.z_L, l.D, l);
            add(w.d_y, w.d_x, static_cast<long>(l.T) * l.Dp);
        }
        const bool wanted = few && i + 1 == l.layers;
        block_backward(m, i, grad + i * l.block, w.saved[i], w, wanted ? rows : nullptr,
                       wanted ? R : l.T);
    }
    embed_backward(m, start.tokens, w.d_y, grad);
    return loss;
}

} // namespace
} // namespace hrm
