// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a pure function of (seed, maze, clock, draw), so it depends
// neither on the order in which mazes are stepped nor on how many there are.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace maze {

struct Block {
    uint32_t word[4];
};

HOST_DEVICE inline Block philox(Block counter, uint32_t key_lo, uint32_t key_hi) {
    Block c = counter;
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c.word[0];
        const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.word[2];
        c = {{static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ key_lo, static_cast<uint32_t>(p1),
              static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ key_hi, static_cast<uint32_t>(p0)}};
        key_lo += 0x9E3779B9u;
        key_hi += 0xBB67AE85u;
    }
    return c;
}

// The draws of one maze at one tick of its clock.
struct Stream {
    uint64_t seed;
    Block counter; // draw block, maze, clock low, clock high
    Block block;
    int used;

    HOST_DEVICE Stream(uint64_t seed, uint32_t maze, uint64_t clock)
        : seed(seed),
          counter{{0, maze, static_cast<uint32_t>(clock), static_cast<uint32_t>(clock >> 32)}},
          block{}, used(4) {}

    HOST_DEVICE uint32_t next() {
        if (used == 4) {
            block = philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
            ++counter.word[0];
            used = 0;
        }
        return block.word[used++];
    }

    // Uniform over 0 ... n - 1 by multiply-shift: no value is off by more than n / 2^32 of its
    // share, 2.4e-7 for the largest board.
    HOST_DEVICE int below(int n) {
        return static_cast<int>((uint64_t{next()} * static_cast<uint32_t>(n)) >> 32);
    }
};

} // namespace maze
