// Python's view of the decision kernel. Addresses come from hrm_fast/backends/cuda.py, which checks
// every tensor; here sizes and alignment are checked once more before a launch.
#include "hrm/bind_cuda.h"

#include <pybind11/stl.h>

#include "common/cuda_shim.h"
#include "hrm/decide.h"

#include <optional>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace hrm {

#ifndef HRM_FAST_CUDA
namespace gpu {
void decide(const DecideShape &, const DecidePlan &, const DecideArgs &, void *) {
    throw std::runtime_error("no CUDA kernels: built without nvcc");
}
} // namespace gpu
#endif

namespace {

using Address = uintptr_t;

template <typename T = void> T *at(Address address) {
    return reinterpret_cast<T *>(address);
}

DecideShape *make_shape(int cells, int width, int heads, int inner, int actions, int vocab,
                        int h_layers, int l_layers, int h_cycles, int l_cycles, bool bf16) {
    const DecideShape shape{cells,    width,    heads,    inner,    actions, vocab,
                            h_layers, l_layers, h_cycles, l_cycles, bf16};
    check(shape);
    return new DecideShape(shape);
}

py::tuple plan_of(const DecideShape &shape, int boards, int shared_limit) {
    const DecidePlan p = plan(shape, boards, shared_limit);
    return py::make_tuple(p.boards, p.warps, p.shared_bytes, p.workspace_bytes);
}

void launch(const DecideShape &shape, std::optional<Address> stream, int boards, int shared_limit,
            int ctas, Address workspace, Address weights, Address table, Address position,
            Address head, Address rope, int size, Address tokens, Address z_H, Address z_L,
            long board, long token, Address read, int segments, bool open, Address q, Address new_H,
            Address new_L, bool last_only) {
    const DecidePlan layout = plan(shape, boards, shared_limit);
    const DecideArgs args{at(weights),
                          at<float>(table),
                          at<float>(position),
                          at<float>(head),
                          at<float>(rope),
                          size,
                          at<uint8_t>(tokens),
                          at(z_H),
                          at(z_L),
                          board,
                          token,
                          at<int32_t>(read),
                          segments,
                          open,
                          at<float>(q),
                          at(new_H),
                          at(new_L),
                          last_only,
                          at(workspace),
                          ctas};
    check(shape, args);
    if (layout.workspace_bytes && !workspace)
        throw std::invalid_argument("workspace is a null pointer: expected " +
                                    std::to_string(layout.workspace_bytes) + " bytes a CTA");
    py::gil_scoped_release unlocked;
    (stream ? gpu::decide : host::decide)(shape, layout, args, at(stream.value_or(0)));
}

} // namespace

void bind_cuda(py::module_ &m) {
#ifdef HRM_FAST_CUDA
    m.attr("CUDA_BUILT") = true;
#else
    m.attr("CUDA_BUILT") = false;
#endif
    m.attr("CHUNK") = kChunk;
    m.def("set_thread_order", &shim::set_thread_order, py::arg("seed"));
    m.def("products_on_host", [] { return shim::products; });
    py::class_<DecideShape>(m, "Decider")
        .def(py::init(&make_shape), py::kw_only(), py::arg("cells"), py::arg("width"),
             py::arg("heads"), py::arg("inner"), py::arg("actions"), py::arg("vocab"),
             py::arg("h_layers"), py::arg("l_layers"), py::arg("h_cycles"), py::arg("l_cycles"),
             py::arg("bf16"))
        .def("plan", &plan_of)
        .def("decide", &launch, py::kw_only(), py::arg("stream").none(true), py::arg("boards"),
             py::arg("shared_limit"), py::arg("ctas"), py::arg("workspace"), py::arg("weights"),
             py::arg("table"), py::arg("position"), py::arg("head"), py::arg("rope"),
             py::arg("size"), py::arg("tokens"), py::arg("z_H"), py::arg("z_L"), py::arg("board"),
             py::arg("token"), py::arg("read"), py::arg("segments"), py::arg("open"), py::arg("q"),
             py::arg("new_H"), py::arg("new_L"), py::arg("last_only"));
}

} // namespace hrm
