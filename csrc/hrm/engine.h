// The HRM on a CPU: boards spread over threads, each board computed by one thread from start to
// end. Owns the memory, which is all allocated at construction or when a larger batch comes.
#pragma once

#include "common/thread_pool.h"
#include "hrm/instructions.h"
#include "hrm/layout.h"

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace hrm {

// A model's parameters, or where their gradients go, contiguous float32: embed [V, D], position
// [T, D] or null, puzzle [D]; qkv, out, gate_up, down of every block of L, then of H; head [A, D].
using Parameters = std::vector<float *>;

// A batch of starts; z_H and z_L [B, T, D] with strides in numbers per board and per token.
struct Batch {
    int size;
    const uint8_t *tokens; // [B, cells]
    const float *z_H, *z_L;
    long board, token;
    const int32_t *read; // [B] the token that Q is read from; null: the mean of all
};

// A loss (layout.h), or gradients from outside; null: none.
struct Upstreams {
    Loss loss;
    const int64_t *action;        // [B]
    const float *target, *weight; // TD: [B], unread; goals: [B, cells] each
    const float *q, *z_H, *z_L;   // [B, A], [B, T, D], [B, T, D]
};

const Instructions &best_instructions();
const Instructions *find_instructions(const char *name); // null: unknown, or not on this CPU

class Engine {
  public:
    // cos and sin [T, K], or null; `poison` fills the scratch with NaN before every board.
    Engine(const Shape &shape, bool learned, const float *cos, const float *sin, int threads,
           const Instructions &code, bool poison);

    const Shape &shape() const { return layout_.shape; }
    int layers() const { return layout_.layers; }
    const char *instructions() const { return code_.name; }
    int threads() const { return pool_.size(); }

    // q [B, A]; z_H and z_L [B, T, D], or [B, D] of the last token; null: not wanted.
    void decide(const Parameters &parameters, const Batch &batch, int segments, float *q,
                float *z_H, float *z_L, bool last_only);

    // One segment and its gradients, in the same bits whatever the number of threads. Returns the
    // sum of the boards' losses.
    double gradient(const Parameters &parameters, const Batch &batch, const Upstreams &upstream,
                    float *q, float *z_H, float *z_L, const Parameters &gradients);

  private:
    void pack(const Parameters &parameters, bool both);
    void unpack(const Parameters &to) const;
    Start start(const Batch &batch, int board) const;
    void each(int count, const std::function<void(int, Scratch &)> &job);
    void reduce(int chunks);

    Layout layout_;
    const Instructions &code_;
    bool poison_;
    ThreadPool pool_;
    ForkSafeMutex mutex_; // calls from several threads take turns
    Model model_;
    std::vector<float> cos_, sin_, sin_back_;
    std::vector<float> forward_, backward_, table_, position_, head_;
    std::vector<std::vector<float>> arena_; // per thread
    std::vector<Scratch> scratch_;          // per thread
    std::vector<std::vector<Saved>> saved_; // per thread and layer
    std::vector<float> gradients_;          // [chunks, total]
    std::vector<float> losses_;             // [B]
};

} // namespace hrm
