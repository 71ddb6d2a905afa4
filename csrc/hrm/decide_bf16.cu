// The decision kernel in bfloat16; the published shapes' loops over keys are unrolled.
#include "hrm/decide_launch.h"

namespace hrm {
namespace SIDE {

void decide_bf16(const Work &work, void *stream) {
    const DecidePlan &plan = work.plan;
    if (!unrolled(work.shape) || plan.keys_outside)
        launch_any<BFloat16>(work, stream);
    else if (plan.tiles == 9)
        launch_boards<BFloat16, 64, 32, 9>(work, stream);
    else
        launch_boards<BFloat16, 64, 32, 8>(work, stream);
}

} // namespace SIDE
} // namespace hrm
