// The weights' way from global memory through shared memory into a warp's registers.
//
// A strip is 16 x D weights, D / 16 tiles in the layout of mma.h. Strips come in the order in which
// a block uses them: of each head the keys' K / 16, the values' and the queries', then the
// output's, then zeros until the next whole chunk; of every 16 inner columns gate, up and down,
// then zeros. L's blocks lie in front of H's. All warps read the same strip at about the same time;
// there is one barrier per chunk. The stream runs on over blocks, calls, segments and boards.
#pragma once

#include "hrm/decide.h"
#include "hrm/mma.h"

namespace hrm {
namespace SIDE {

// THREADS: of the CTA, 0 where it is not known.
template <typename E, int D, int THREADS> class Stream {
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
        at = (kStages - 1) * kChunkBytes;
        end_part();
    }

    // This lane's part of the next strip; tile j is 32 j tiles further. Where loops are unrolled,
    // `used` is known to the compiler, which leaves nothing of it.
    __device__ const Tile<E> *strip() {
        if (used == kChunk)
            advance();
        const unsigned char *found = ring + at + used++ * kStripBytes;
        return reinterpret_cast<const Tile<E> *>(found) + lane_of_thread();
    }

    // The next strip is the first of a chunk.
    __device__ void end_part() { used = kChunk; }

  private:
    __device__ void advance() {
        async_wait<kStages - 2>();
        __syncthreads(); // all of the chunk is there, and nobody reads the one before any more
        fetch(at);       // in that one's place
        at = at == (kStages - 1) * kChunkBytes ? 0 : at + kChunkBytes;
        used = 0;
    }

    __device__ void fetch(int target) {
        const unsigned char *source = from + static_cast<long>(next) * kChunkBytes;
        const int threads = THREADS ? THREADS : static_cast<int>(blockDim.x);
#pragma unroll
        for (int i = 0; i < kChunkBytes; i += 16 * threads) {
            const int mine = i + 16 * static_cast<int>(threadIdx.x);
            if (mine < kChunkBytes)
                async_copy16(ring + target + mine, source + mine);
        }
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
    int at = 0, used = 0;    // the chunk in the ring that is read, how many strips of it were
};

} // namespace SIDE
} // namespace hrm
