// Puts the decision kernel into the module; bind.cpp calls this.
#pragma once

#include <pybind11/pybind11.h>

namespace hrm {

void bind_cuda(pybind11::module_ &m);

} // namespace hrm
