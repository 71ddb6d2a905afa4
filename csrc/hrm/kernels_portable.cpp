// Any CPU: vectors of four floats, as the compiler makes them (SSE2, NEON).
#define HRM_LANES 4
#include "hrm/adam_atan2.h"
#include "hrm/board.h"
#include "hrm/instructions.h"

const hrm::Instructions hrm::kPortable{"portable", kLanes, decide, gradient, adam_atan2};
