// The sizes of a model, and where its numbers lie in the engine's memory.
//
// Every row is padded with zeros to whole vectors, so no loop has a remainder and any width works:
// D -> Dp, a head's K -> Kp, the inner F -> Fp. Plain data: the files of all instruction sets
// include this, so there is not even an inline function here.
#pragma once

#include <cstdint>

namespace hrm {

struct Shape {
    int cells, width, heads, inner, actions, vocab; // T = cells + 1, D, heads, F, A, V
    int h_layers, l_layers, h_cycles, l_cycles;
};

// A block's matrices: as stored [out, in] for backward, transposed [in, out] for forward.
struct BlockWeights {
    const float *qkv, *out, *gate_up, *down;
};

struct Layout {
    Shape shape;
    int T, Tp, D, Dp, K, Kp, HK, F, Fp; // HK = heads * Kp
    int tile;                           // queries or rows handled at once: whole vectors
    long qkv, out, gate_up, down;       // numbers per matrix; a block holds them in this order
    long block;                         // their sum
    // offsets in a gradient, and in the packed weights; L's blocks come first, then H's
    long blocks, embed, position, puzzle, head, total;
    int layers; // of both levels
};

// What the backward pass of one block reads.
struct Saved {
    float *x;         // [T, Dp] input
    float *qkv;       // [T, 3 HK] queries (turned, times 1 / sqrt K), keys (turned), values
    float *top, *inv; // [heads, Tp] softmax's maximum and 1 / sum
    float *o;         // [T, HK] attention's output
    float *x1, *r1;   // [T, Dp] after attention; [T] its 1 / rms
    float *gu;        // [T, 2 Fp] gate, up
    float *y, *r2;    // [T, Dp] output; [T] its 1 / rms
};

// One thread's memory.
struct Scratch {
    float *e, *injection, *z_H, *z_L, *x; // [T, Dp]
    float *wanted;                        // [T, Dp] rows of a block's input
    float *scores, *d_scores;             // [T, tile]
    float *q_t, *d_o_t;                   // [K, Tp]
    float *turned;                        // [Kp]
    float *h, *d_h, *d_gu;                // [tile, Fp], [tile, Fp], [tile, 2 Fp]
    float *d_y, *d_x;                     // [T, Dp]
    float *d_o, *d_qkv, *dq;              // [T, HK], [T, 3 HK], [A]
    Saved *saved;                         // one per layer; the first serves calls without gradient
};

// The model as the engine reads it: packed, padded, shared by all threads.
struct Model {
    const Layout *layout;
    const float *forward;   // transposed blocks
    const float *backward;  // blocks as stored
    const float *table;     // [1 + V, Dp] puzzle token and embeddings, times their scale
    const float *position;  // [T, Dp] learned positions times their scale, or null
    const float *head;      // [A, Dp]
    const float *cos, *sin; // [T, Kp] (sin's first half negative), or null
    const float *sin_back;  // its halves swapped, which rotates back
    float scale;            // of the embedding
};

// What one board starts from. A state is [T, D] with its own stride per token: 0 repeats one.
struct Start {
    const uint8_t *tokens; // [cells]
    const float *z_H, *z_L;
    long token;
    int read; // the token that Q is read from; kMean: the mean of all
};

constexpr int kMean = -1;

// Where one board's results go; null: not wanted.
struct Result {
    float *q;         // [A]
    float *z_H, *z_L; // [T, D], or the last token's [D]
    bool last_only;
};

// What pulls on one board's results: a loss on one action's values, or gradients from outside.
enum class Loss {
    kNone,  // by q, z_H, z_L
    kTD,    // weight * (q[action] - target)^2
    kGoals, // sum over goals g of weight[g] * cross-entropy(head[action] z_H[1 + g], target[g])
};

struct Upstream {
    Loss loss;
    int64_t action;
    float scale;                  // of the loss: 1 / B
    const float *target, *weight; // TD: [1], unread; goals: [cells], [cells]
    const float *q, *z_H, *z_L;   // [A], [T, D], [T, D]; null: none
};

// One step of the optimiser. Complements are rounded once, from double: 1 - 0.99F is off by 1e-6.
struct AdamStep {
    float one_minus_beta1, beta2, one_minus_beta2;
    float decay;             // 1 - lr * weight decay
    float first, second;     // lr / (1 - beta1^t), sqrt(1 / (1 - beta2^t))
    float one_minus_average; // of the moving average's decay
};

} // namespace hrm
