// setup.py compiles this file for its instruction set and no other, so nothing here may be an
// inline function that another file compiles too: the linker would keep one of the two.
#if defined(__x86_64__)
#define HRM_LANES 16
#include "hrm/adam_atan2.h"
#include "hrm/board.h"
#include "hrm/instructions.h"

const hrm::Instructions hrm::kAvx512{"avx512", kLanes, decide, gradient, adam_atan2};
#endif
