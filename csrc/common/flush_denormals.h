// Numbers below 1e-38 count as zero while this lives, on its thread. A softmax that has become
// sharp makes many of them, and x86 takes a hundred cycles for a multiply-add of one.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace hrm {

class FlushDenormals {
  public:
#if defined(__SSE__)
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); } // FTZ, DAZ
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#else
    FlushDenormals() {}
#endif
};

} // namespace hrm
