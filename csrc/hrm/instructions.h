// The code of one instruction set, as a table. engine.cpp takes the best that the CPU runs.
#pragma once

#include "hrm/layout.h"

namespace hrm {

struct Instructions {
    const char *name;
    int lanes;
    void (*decide)(const Model &, const Start &, int segments, const Result &, Scratch &);
    float (*gradient)(const Model &, const Start &, const Upstream &, const Result &, float *grad,
                      Scratch &);
    void (*adam_atan2)(float *w, float *g, float *m, float *v, float *average, long n,
                       const AdamStep &);
};

extern const Instructions kPortable;
#if defined(__x86_64__)
extern const Instructions kAvx2, kAvx512;
#endif

} // namespace hrm
