// The decision kernel in float32, without tensor cores; and the choice between the two types.
#include "hrm/decide_launch.h"

namespace hrm {
namespace SIDE {

void decide_bf16(const Work &work, void *stream);

void decide(const DecideShape &shape, const DecidePlan &plan, const DecideArgs &args,
            void *stream) {
    if (args.size == 0)
        return;
    const int chunks = static_cast<int>(block_numbers(shape) / (kChunk * 16 * shape.width));
    const Work work{shape, plan, args, shape.l_layers * chunks, shape.h_layers * chunks};
    if (shape.bf16)
        decide_bf16(work, stream);
    else
        launch_any<Float32>(work, stream);
}

} // namespace SIDE
} // namespace hrm
