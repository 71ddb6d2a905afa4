// The weights' way from global memory through shared memory into a warp's registers.
//
// A strip is 16 x D weights, D / 16 tiles in the layout of mma.h. Strips come in the order in which
// a block uses them: of each head the keys' K / 16 and the values', of each head the queries' and
// the output's, of every 16 inner columns gate, up and down; then nothing until the next whole
// chunk. L's blocks lie in front of H's. All warps read the same strip at about the same time;
// there is one barrier per chunk. The stream runs on over blocks, calls, segments and boards.
#pragma once

#include "hrm/decide.h"
#include "hrm/mma.h"

namespace hrm {
namespace SIDE {

template <typename E, int D> class Stream {
  public:
    static constexpr int kStripBytes = D / 16 * 32 * sizeof(Tile<E>);
    static constexpr int kChunkBytes = kChunk * kStripBytes;

    __device__ Stream(const void *weights, unsigned char *ring, int l_chunks, int h_chunks,
                      int l_cycles)
        : from(static_cast<const unsigned char *>(weights)), ring(ring), l_chunks(l_chunks),
          all_chunks(l_chunks + h_chunks), l_cycles(l_cycles) {}

    // Starts over with L's first call. What is under way arrives first.
    __device__ void restart() {
        async_wait<0>();
        __syncthreads();
        next = calls = 0;
        for (int i = 0; i + 1 < kStages; ++i)
            fetch(i * kChunkBytes);
        at = kStages * kChunkBytes;
    }

    // This lane's part of the next strip; tile j is 32 j tiles further.
    __device__ const Tile<E> *strip() {
        if (at % kChunkBytes == 0)
            advance();
        const unsigned char *found = ring + at;
        at += kStripBytes;
        return reinterpret_cast<const Tile<E> *>(found) + lane_of_thread();
    }

    // The next strip is the first of a chunk.
    __device__ void end_block() { at = (at + kChunkBytes - 1) / kChunkBytes * kChunkBytes; }

  private:
    __device__ void advance() {
        async_wait<kStages - 2>();
        __syncthreads(); // all of the chunk is there, and nobody reads the one before any more
        fetch(at - kChunkBytes); // in that one's place
        at = at == kStages * kChunkBytes ? 0 : at;
    }

    __device__ void fetch(int target) {
        const unsigned char *source = from + static_cast<long>(next) * kChunkBytes;
        for (int i = static_cast<int>(threadIdx.x) * 16; i < kChunkBytes;
             i += static_cast<int>(blockDim.x) * 16)
            async_copy16(ring + target + i, source + i);
        async_commit();
        if (++next == l_chunks && ++calls < l_cycles)
            next = 0; // L once more
        else if (next == all_chunks)
            next = calls = 0;
    }

    const unsigned char *from;
    unsigned char *ring;
    int l_chunks, all_chunks, l_cycles;
    int next = 0, calls = 0; // of fetch: chunk, calls of L in this cycle
    int at = 0;              // in the ring
};

} // namespace SIDE
} // namespace hrm
