// One bit per cell from the first open one on, and breadth-first search as a few shifts of whole
// boards. Cells are open ones wherever a bit is asked for.
#pragma once

#include "common/host_device.h"
#include "maze/spec.h"

namespace maze {

template <int W> struct Bits {
    uint64_t word[W];

    HOST_DEVICE bool has(int cell) const { return word[cell >> 6] >> (cell & 63) & 1; }
    HOST_DEVICE void add(int cell) { word[cell >> 6] |= uint64_t{1} << (cell & 63); }
    HOST_DEVICE void drop(int cell) { word[cell >> 6] &= ~(uint64_t{1} << (cell & 63)); }
};

template <int W> HOST_DEVICE inline Bits<W> load_bits(const uint64_t *words) {
    Bits<W> bits;
    for (int i = 0; i < W; ++i)
        bits.word[i] = words[i];
    return bits;
}

// Moves every bit to the cell `64 * words + n` further on; n is below 64.
template <int W> HOST_DEVICE inline Bits<W> up_by(const Bits<W> &bits, int words, int n) {
    Bits<W> out;
    for (int i = W - 1; i >= 0; --i) {
        const uint64_t here = i >= words ? bits.word[i - words] : 0;
        const uint64_t below = i > words ? bits.word[i - words - 1] : 0;
        out.word[i] = here << n | below >> 1 >> (63 - n);
    }
    return out;
}

template <int W> HOST_DEVICE inline Bits<W> down_by(const Bits<W> &bits, int words, int n) {
    Bits<W> out;
    for (int i = 0; i < W; ++i) {
        const uint64_t here = i + words < W ? bits.word[i + words] : 0;
        const uint64_t above = i + words + 1 < W ? bits.word[i + words + 1] : 0;
        out.word[i] = here >> n | above << 1 << (63 - n);
    }
    return out;
}

// The constant 0 lets the compiler keep narrow boards in registers.
template <int W> HOST_DEVICE inline Bits<W> up(const Bits<W> &bits, int n) {
    return n < 64 ? up_by(bits, 0, n) : up_by(bits, n >> 6, n & 63);
}

template <int W> HOST_DEVICE inline Bits<W> down(const Bits<W> &bits, int n) {
    return n < 64 ? down_by(bits, 0, n) : down_by(bits, n >> 6, n & 63);
}

// All cells one move away from `from`, and with 8 actions `from` itself.
template <int W> HOST_DEVICE inline Bits<W> neighbours(const Spec &spec, const Bits<W> &from) {
    Bits<W> east = up(from, 1), west = down(from, 1);
    Bits<W> sides, rows = from;
    for (int i = 0; i < W; ++i)
        sides.word[i] = (east.word[i] & spec.not_first[i]) | (west.word[i] & spec.not_last[i]);
    if (spec.actions == 8)
        for (int i = 0; i < W; ++i)
            rows.word[i] |= sides.word[i];
    const Bits<W> south = up(rows, spec.cols), north = down(rows, spec.cols);
    Bits<W> out;
    for (int i = 0; i < W; ++i)
        out.word[i] = sides.word[i] | south.word[i] | north.word[i];
    return out;
}

// Cells by their distance from a source, modulo 3. Neighbours differ by at most 1, so that is
// enough to walk back to the source, in three boards instead of one per distance.
template <int W> struct Distances {
    Bits<W> layer[3];

    // The first action that brings `cell`, at `distance` > 0, nearer to the source.
    HOST_DEVICE int nearer(const Spec &spec, int cell, int distance) const {
        const Bits<W> &inner = layer[(distance + 2) % 3];
        for (int action = 0; action < spec.actions; ++action)
            if (inner.has(spec.next[kMaxActions * cell + action] - spec.first_open))
                return action;
        return kNone;
    }
};

// Length of a shortest path between two open cells through open cells, or kNone.
template <int W>
HOST_DEVICE inline int search(const Spec &spec, const Bits<W> &open, int source, int target,
                              Distances<W> &distances) {
    distances = {};
    distances.layer[0].add(source - spec.first_open);
    Bits<W> fresh = distances.layer[0], unseen = open;
    unseen.drop(source - spec.first_open);
    for (int distance = 1;; ++distance) {
        fresh = neighbours(spec, fresh);
        uint64_t any = 0;
        for (int i = 0; i < W; ++i) {
            fresh.word[i] &= unseen.word[i];
            unseen.word[i] ^= fresh.word[i];
            any |= fresh.word[i];
        }
        if (!any)
            return kNone;
        Bits<W> &layer = distances.layer[distance % 3];
        for (int i = 0; i < W; ++i)
            layer.word[i] |= fresh.word[i];
        if (fresh.has(target - spec.first_open))
            return distance;
    }
}

} // namespace maze
