#include "hrm/engine.h"

#include "common/flush_denormals.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

namespace hrm {

namespace {

// Gradients are summed over the boards of a chunk and then over the chunks, always in this order.
constexpr int kChunks = 8;
// Queries, or rows of the SwiGLU, at once: their scores and inner values stay in L1.
constexpr int kTile = 64;

int padded(int n, int lanes) {
    return (n + lanes - 1) / lanes * lanes;
}

Layout make_layout(const Shape &shape, int lanes, bool learned) {
    Layout l{};
    l.shape = shape;
    l.layers = shape.l_layers + shape.h_layers;
    l.T = shape.cells + 1, l.Tp = padded(l.T, lanes);
    l.D = shape.width, l.Dp = padded(l.D, lanes);
    l.K = l.D / shape.heads, l.Kp = padded(l.K, lanes), l.HK = shape.heads * l.Kp;
    l.F = shape.inner, l.Fp = padded(l.F, lanes);
    const int tiles = (l.T + kTile - 1) / kTile;
    l.tile = padded((l.T + tiles - 1) / tiles, lanes);
    l.qkv = 3L * l.HK * l.Dp, l.out = static_cast<long>(l.Dp) * l.HK;
    l.gate_up = 2L * l.Fp * l.Dp, l.down = static_cast<long>(l.Dp) * l.Fp;
    l.block = l.qkv + l.out + l.gate_up + l.down;
    l.blocks = l.layers * l.block;
    l.embed = l.blocks;
    l.position = l.embed + static_cast<long>(shape.vocab) * l.Dp;
    l.puzzle = l.position + (learned ? static_cast<long>(l.T) * l.Dp : 0);
    l.head = l.puzzle + l.Dp;
    l.total = l.head + static_cast<long>(shape.actions) * l.Dp;
    return l;
}

// Hands out pieces of one allocation; without a base it only counts.
class Arena {
  public:
    explicit Arena(float *base) : base_(base) {}
    float *take(long n) {
        float *at = base_ ? base_ + used_ : nullptr;
        used_ += (n + 15) / 16 * 16;
        return at;
    }
    long used() const { return used_; }

  private:
    float *base_;
    long used_ = 0;
};

long place(Scratch &w, std::vector<Saved> &saved, const Layout &l, float *base) {
    Arena arena(base);
    const long state = static_cast<long>(l.T) * l.Dp, attended = static_cast<long>(l.T) * l.HK;
    const long scores = static_cast<long>(l.tile) * l.T, inner = static_cast<long>(l.tile) * l.Fp;
    for (float **p : {&w.e, &w.injection, &w.z_H, &w.z_L, &w.x, &w.wanted, &w.d_y, &w.d_x})
        *p = arena.take(state);
    w.scores = arena.take(scores), w.d_scores = arena.take(scores);
    w.q_t = arena.take(static_cast<long>(l.K) * l.Tp);
    w.d_o_t = arena.take(static_cast<long>(l.K) * l.Tp);
    w.turned = arena.take(l.Kp);
    w.h = arena.take(inner), w.d_h = arena.take(inner), w.d_gu = arena.take(2 * inner);
    w.d_o = arena.take(attended), w.d_qkv = arena.take(3 * attended);
    w.dq = arena.take(l.shape.actions);
    w.saved = saved.data();
    for (size_t i = 0; i < saved.size(); ++i) {
        Saved &s = saved[i];
        const bool first = i == 0 || static_cast<int>(i) == l.shape.l_layers;
        s.x =
            first ? arena.take(state) : saved[i - 1].y; // a block's input is the last one's output
        s.qkv = arena.take(3 * attended);
        s.top = arena.take(static_cast<long>(l.shape.heads) * l.Tp);
        s.inv = arena.take(static_cast<long>(l.shape.heads) * l.Tp);
        s.o = arena.take(attended);
        s.x1 = arena.take(state), s.r1 = arena.take(l.T);
        s.gu = arena.take(2L * l.T * l.Fp);
        s.y = arena.take(state), s.r2 = arena.take(l.T);
    }
    return arena.used();
}

// How a matrix is padded: groups of rows and of columns, each filled up with zeros.
struct Padding {
    int row_groups, rows, rows_padded, column_groups, columns, columns_padded;

    int width() const { return column_groups * columns; }
    int width_padded() const { return column_groups * columns_padded; }
    int height_padded() const { return row_groups * rows_padded; }

    // f(row, padded row, column, padded column, count) for every run of columns that belong
    // together
    template <typename F> void each(F f) const {
        for (int g = 0; g < row_groups; ++g)
            for (int r = 0; r < rows; ++r)
                for (int c = 0; c < column_groups; ++c)
                    f(g * rows + r, g * rows_padded + r, c * columns, c * columns_padded, columns);
    }
};

struct BlockPadding {
    Padding part[4];
};

BlockPadding block_padding(const Layout &l) {
    const int heads = l.shape.heads;
    return {{{3 * heads, l.K, l.Kp, 1, l.D, l.Dp},
             {1, l.D, l.Dp, heads, l.K, l.Kp},
             {2, l.F, l.Fp, 1, l.D, l.Dp},
             {1, l.D, l.Dp, 1, l.F, l.Fp}}};
}

void pack_matrix(const Padding &p, const float *from, float *as_stored, float *transposed) {
    const long in = p.width_padded(), out = p.height_padded();
    p.each([&](int row, long to_row, int column, long to_column, int count) {
        const float *source = from + static_cast<long>(row) * p.width() + column;
        if (as_stored)
            std::memcpy(as_stored + to_row * in + to_column, source, count * sizeof(float));
        for (int i = 0; i < count; ++i)
            transposed[(to_column + i) * out + to_row] = source[i];
    });
}

void scaled_rows(float *to, const float *from, int rows, float scale, const Layout &l) {
    for (int r = 0; r < rows; ++r)
        for (int d = 0; d < l.D; ++d)
            to[static_cast<long>(r) * l.Dp + d] = from[static_cast<long>(r) * l.D + d] * scale;
}

// [T, K] -> [T, Kp], every row turned left by `shift`
std::vector<float> padded_angles(const float *from, const Layout &l, int shift) {
    std::vector<float> to(static_cast<size_t>(l.T) * l.Kp);
    for (int t = 0; t < l.T; ++t)
        for (int i = 0; i < l.K; ++i)
            to[static_cast<long>(t) * l.Kp + i] =
                from[static_cast<long>(t) * l.K + (i + shift) % l.K];
    return to;
}

} // namespace

const Instructions *find_instructions(const char *name) {
    const std::string wanted = name;
#if defined(__x86_64__)
    if (wanted == "avx512" && __builtin_cpu_supports("avx512f"))
        return &kAvx512;
    if (wanted == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kAvx2;
#endif
    return wanted == "portable" ? &kPortable : nullptr;
}

const Instructions &best_instructions() {
    for (const char *name : {"avx512", "avx2"})
        if (const Instructions *found = find_instructions(name))
            return *found;
    return kPortable;
}

Engine::Engine(const Shape &shape, bool learned, const float *cos, const float *sin, int threads,
               const Instructions &code, bool poison)
    : layout_(make_layout(shape, code.lanes, learned)), code_(code), poison_(poison),
      pool_(threads) {
    const Layout &l = layout_;
    forward_.resize(l.blocks), backward_.resize(l.blocks);
    table_.resize((1L + shape.vocab) * l.Dp);
    head_.resize(static_cast<long>(shape.actions) * l.Dp);
    if (cos)
        cos_ = padded_angles(cos, l, 0), sin_ = padded_angles(sin, l, 0),
        sin_back_ = padded_angles(sin, l, l.K / 2);
    if (learned)
        position_.resize(static_cast<long>(l.T) * l.Dp);
    // what the published code does: sqrt(D), and with learned positions sqrt(D / 2)
    const float scale = std::sqrt(learned ? l.D / 2.0 : static_cast<double>(l.D));
    model_ = {&layout_,
              forward_.data(),
              backward_.data(),
              table_.data(),
              learned ? position_.data() : nullptr,
              head_.data(),
              cos ? cos_.data() : nullptr,
              cos ? sin_.data() : nullptr,
              cos ? sin_back_.data() : nullptr,
              scale};
    arena_.resize(pool_.size()), scratch_.resize(pool_.size()), saved_.resize(pool_.size());
    for (int i = 0; i < pool_.size(); ++i) {
        saved_[i].resize(l.layers);
        arena_[i].resize(place(scratch_[i], saved_[i], l, nullptr));
        place(scratch_[i], saved_[i], l, arena_[i].data());
    }
}

void Engine::pack(const Parameters &parameters, bool both) {
    const Layout &l = layout_;
    const Shape &shape = l.shape;
    const float *const *p = parameters.data();
    scaled_rows(table_.data(), p[2], 1, model_.scale, l);
    scaled_rows(table_.data() + l.Dp, p[0], shape.vocab, model_.scale, l);
    if (p[1])
        scaled_rows(position_.data(), p[1], l.T, model_.scale, l);
    const BlockPadding padding = block_padding(l);
    const long sizes[4] = {l.qkv, l.out, l.gate_up, l.down};
    long at = 0;
    for (int i = 0; i < 4 * l.layers; ++i) {
        pack_matrix(padding.part[i % 4], p[3 + i], both ? backward_.data() + at : nullptr,
                    forward_.data() + at);
        at += sizes[i % 4];
    }
    scaled_rows(head_.data(), p[3 + 4 * l.layers], shape.actions, 1.0F, l);
}

void Engine::unpack(const Parameters &to) const {
    const Layout &l = layout_;
    const Shape &shape = l.shape;
    const float *from = gradients_.data();
    const auto write = [](const Padding &p, const float *source, float *target) {
        p.each([&](long row, long from_row, long column, long from_column, int count) {
            std::memcpy(target + row * p.width() + column,
                        source + from_row * p.width_padded() + from_column, count * sizeof(float));
        });
    };
    const auto rows = [&](int n) { return Padding{1, n, n, 1, l.D, l.Dp}; };
    write(rows(shape.vocab), from + l.embed, to[0]);
    if (to[1])
        write(rows(l.T), from + l.position, to[1]);
    write(rows(1), from + l.puzzle, to[2]);
    const BlockPadding padding = block_padding(l);
    const long sizes[4] = {l.qkv, l.out, l.gate_up, l.down};
    long at = 0;
    for (int i = 0; i < 4 * l.layers; ++i) {
        write(padding.part[i % 4], from + at, to[3 + i]);
        at += sizes[i % 4];
    }
    write(rows(shape.actions), from + l.head, to[3 + 4 * l.layers]);
}

Start Engine::start(const Batch &batch, int board) const {
    return {batch.tokens + static_cast<long>(board) * layout_.shape.cells,
            batch.z_H + board * batch.board, batch.z_L + board * batch.board, batch.token,
            batch.read ? batch.read[board] : kMean};
}

// job(item, thread's scratch) for every item, whichever thread is free next.
void Engine::each(int count, const std::function<void(int, Scratch &)> &job) {
    std::atomic<int> next{0};
    pool_.run([&](int thread) {
        const FlushDenormals here;
        for (int item = next++; item < count; item = next++) {
            if (poison_)
                std::fill(arena_[thread].begin(), arena_[thread].end(),
                          std::numeric_limits<float>::quiet_NaN());
            job(item, scratch_[thread]);
        }
    });
}

void Engine::decide(const Parameters &parameters, const Batch &batch, int segments, float *q,
                    float *z_H, float *z_L, bool last_only) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    pack(parameters, false);
    const long state = last_only ? layout_.D : static_cast<long>(layout_.T) * layout_.D;
    each(batch.size, [&](int b, Scratch &scratch) {
        const Result to{q + static_cast<long>(b) * layout_.shape.actions,
                        z_H ? z_H + b * state : nullptr, z_H ? z_L + b * state : nullptr,
                        last_only};
        code_.decide(model_, start(batch, b), segments, to, scratch);
    });
}

double Engine::gradient(const Parameters &parameters, const Batch &batch, const Upstreams &upstream,
                        float *q, float *z_H, float *z_L, const Parameters &gradients) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    pack(parameters, true);
    const int chunks = std::min(kChunks, batch.size);
    const long A = layout_.shape.actions, state = static_cast<long>(layout_.T) * layout_.D;
    const long targets = upstream.loss == Loss::kGoals ? layout_.shape.cells : 1;
    gradients_.resize(chunks * layout_.total);
    losses_.resize(batch.size);
    each(chunks, [&](int chunk, Scratch &scratch) {
        float *grad = gradients_.data() + chunk * layout_.total;
        std::fill(grad, grad + layout_.total, 0.0F);
        const long first = static_cast<long>(chunk) * batch.size / chunks;
        const long end = (chunk + 1L) * batch.size / chunks;
        for (long b = first; b < end; ++b) {
            const auto at = [b](auto *p, long stride) { return p ? p + b * stride : p; };
            const Upstream up{upstream.loss,
                              upstream.action ? upstream.action[b] : 0,
                              1.0F / batch.size,
                              at(upstream.target, targets),
                              at(upstream.weight, targets),
                              at(upstream.q, A),
                              at(upstream.z_H, state),
                              at(upstream.z_L, state)};
            const Result to{q + b * A, at(z_H, state), at(z_L, state), false};
            losses_[b] =
                code_.gradient(model_, start(batch, static_cast<int>(b)), up, to, grad, scratch);
        }
    });
    reduce(chunks);
    unpack(gradients);
    double loss = 0;
    for (float part : losses_)
        loss += part;
    return loss;
}

// gradients_[0] += all other chunks, slice by slice.
void Engine::reduce(int chunks) {
    const long total = layout_.total;
    constexpr long kSlice = 4096;
    std::atomic<long> next{0};
    pool_.run([&](int) {
        for (long at = next.fetch_add(kSlice); at < total; at = next.fetch_add(kSlice))
            for (int c = 1; c < chunks; ++c) {
                const float *from = gradients_.data() + c * total;
                for (long i = at; i < std::min(at + kSlice, total); ++i)
                    gradients_[i] += from[i];
            }
    });
}

} // namespace hrm
