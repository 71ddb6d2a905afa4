// Whole decisions of many boards in one launch: what the kernel is given, and the way to it.
//
// A CTA thinks for one or two boards at a time, from their first segment to their last; a warp owns
// 16 tokens of each, or of one. What belongs to a token stays in that warp's registers; keys and
// values of all tokens lie in shared memory; weights stream through a ring there, chunk by chunk
// (decide_stream.h). States and embedding lie in shared memory where they fit, else in a workspace.
#pragma once

#include "common/host_device.h"

#include <cstddef>
#include <cstdint>

namespace hrm {

constexpr int kLargestT = 256;

// What tuning turns; `profiling/sass_report.py` counts what a turn costs.
constexpr int kChunk = 6;          // strips of 16 x D weights that are fetched at once
constexpr int kStages = 2;         // chunks in shared memory: one is read, the others are under way
constexpr int kTurns = kChunk / 3; // times 16 inner columns of SwiGLU in a chunk
constexpr int kKeys = 3;           // tiles of keys that attention's code has at once

// Warps of a CTA. Of two boards with an odd number of tiles the last tiles go to a warp each: 18
// parts come to four schedulers as 5 5 4 4, not as 6 4 4 4.
HOST_DEVICE constexpr int warps_of(int boards, int tiles) {
    return tiles + (boards == 2 && tiles % 2 ? 1 : 0);
}

// CTAs that registers shall leave room for, 0: ptxas chooses. Shared memory has no room for a
// second one of two boards or 9 tiles.
HOST_DEVICE constexpr int least_ctas(int boards, int tiles) {
    return boards == 2 || tiles == 9 ? 1 : 0;
}

// Sizes of a model; words as in layout.h.
struct DecideShape {
    int cells, width, heads, inner, actions, vocab;
    int h_layers, l_layers, h_cycles, l_cycles;
    bool bf16;

    HOST_DEVICE int T() const { return cells + 1; }
    HOST_DEVICE int head_size() const { return width / heads; }
};

// How a batch is laid out on a GPU.
struct DecidePlan {
    int boards, tiles;                 // of a CTA; 16s of a board's tokens
    int warps, shared_bytes;           // of a CTA
    bool states_outside, keys_outside; // in the workspace: shared memory is too small
    long workspace_bytes;              // of a CTA
};

// Everything by address. Numbers "E" have the model's type. T = cells + 1.
struct DecideArgs {
    // the model
    const void *weights;   // E, packed (backends/cuda.py)
    const float *table;    // [1 + V, D] puzzle token and embeddings, times their scale
    const float *position; // [T, D] times the scale, or null
    const float *head;     // [A, D]
    const float *rope;     // [16 tiles, K / 2, 2] cos, sin
    // the batch
    int size;
    const uint8_t *tokens; // [B, cells]
    const void *z_H, *z_L; // E [B, T, D], `board` and `token` numbers apart
    long board, token;
    const int32_t *read; // [B] the token that Q is read from; null: the mean of all
    int segments;
    bool open; // leave out the last call of L and the last of H, which carry gradient
    // results
    float *q;            // [B, A], or null
    void *new_H, *new_L; // E [B, T, D], or [B, D] with last_only; or null
    bool last_only;
    void *workspace; // plan's bytes for each CTA
    int ctas;
};

// std::invalid_argument: what the kernel cannot compute, in one line.
void check(const DecideShape &shape);
void check(const DecideShape &shape, const DecideArgs &args);

// Whether it is compiled for exactly this shape, and then for two boards at a time too.
bool unrolled(const DecideShape &shape);

// boards 0: two where two fit, if only with their states outside; else one. shared_limit: bytes of
// shared memory that a CTA may have.
DecidePlan plan(const DecideShape &shape, int boards, int shared_limit);

// Numbers of one block's packed weights, what fills its last chunk included.
long block_numbers(const DecideShape &shape);

// `host` runs the kernel's own source on the CPU, for tests; no stream.
namespace host {
void decide(const DecideShape &, const DecidePlan &, const DecideArgs &, void *stream);
} // namespace host
namespace gpu {
void decide(const DecideShape &, const DecidePlan &, const DecideArgs &, void *stream);
} // namespace gpu

} // namespace hrm
