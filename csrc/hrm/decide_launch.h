// From a shape to the kernel that was compiled for it. decide.cpp has refused all others.
#pragma once

#include "hrm/decide_kernel.h"

namespace hrm {
namespace SIDE {

template <typename E, int D, int K, int TILES> void launch_boards(const Work &work, void *stream) {
    if (work.plan.boards == 2)
        launch<E, D, K, 2, TILES>(work, stream);
    else
        launch<E, D, K, 1, TILES>(work, stream);
}

template <typename E, int D> void launch_width(const Work &work, void *stream) {
    switch (work.shape.head_size()) {
    case 16:
        return launch<E, D, 16, 1>(work, stream);
    case 32:
        return launch<E, D, 32, 1>(work, stream);
    default:
        if constexpr (D >= 64)
            return launch<E, D, 64, 1>(work, stream);
    }
}

template <typename E> void launch_any(const Work &work, void *stream) {
    switch (work.shape.width) {
    case 32:
        return launch_width<E, 32>(work, stream);
    case 48:
        return launch<E, 48, 16, 1>(work, stream);
    case 64:
        return launch_width<E, 64>(work, stream);
    default:
        return launch_width<E, 128>(work, stream);
    }
}

} // namespace SIDE
} // namespace hrm
