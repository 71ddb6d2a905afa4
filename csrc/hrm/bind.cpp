// Python's view of the engine. Addresses come from kernels/native.py, which checks every tensor's
// dtype, shape, layout and device; nothing is checked again here but the tokens' codes.
#include <pybind11/pybind11.h>

#include <pybind11/stl.h>

#include "hrm/bind_cuda.h"
#include "hrm/engine.h"

#include <cmath>
#include <stdexcept>
#include <string>

// The digest of the sources (csrc/digest.py) comes from setup.py as a bare word.
#define HRM_FAST_QUOTED(word) #word
#define HRM_FAST_STRING(word) HRM_FAST_QUOTED(word)

namespace py = pybind11;

namespace hrm {
namespace {

using Address = uintptr_t;

template <typename T> T *at(Address address) {
    return reinterpret_cast<T *>(address);
}

Parameters parameters(const std::vector<Address> &addresses, const Engine &engine) {
    const size_t wanted = 4 + 4 * static_cast<size_t>(engine.layers());
    if (addresses.size() != wanted)
        throw std::invalid_argument("parameters: " + std::to_string(addresses.size()) +
                                    " addresses, expected " + std::to_string(wanted));
    Parameters to;
    for (Address address : addresses)
        to.push_back(at<float>(address));
    return to;
}

Batch make_batch(const Engine &engine, int size, Address tokens, Address z_H, Address z_L,
                 long board, long token, Address read) {
    const uint8_t *codes = at<uint8_t>(tokens);
    const Shape &shape = engine.shape();
    uint8_t highest = 0;
    for (long i = 0; i < static_cast<long>(size) * shape.cells; ++i)
        highest = codes[i] > highest ? codes[i] : highest;
    if (highest >= shape.vocab)
        throw py::index_error("tokens has the code " + std::to_string(highest) +
                              ": expected 0 to " + std::to_string(shape.vocab - 1));
    const int32_t *rows = at<int32_t>(read);
    for (int b = 0; rows && b < size; ++b)
        if (rows[b] < 0 || rows[b] > shape.cells)
            throw py::index_error("read has the token " + std::to_string(rows[b]) +
                                  ": expected 0 to " + std::to_string(shape.cells));
    return {size, codes, at<float>(z_H), at<float>(z_L), board, token, rows};
}

const Instructions &named_instructions(const std::string &name) {
    if (name.empty())
        return best_instructions();
    if (const Instructions *found = find_instructions(name.c_str()))
        return *found;
    throw std::invalid_argument("instructions is '" + name +
                                "': expected portable, avx2 or avx512, and a CPU that has it");
}

Engine *make_engine(int cells, int width, int heads, int inner, int actions, int vocab,
                    int h_layers, int l_layers, int h_cycles, int l_cycles, bool learned,
                    Address cos, Address sin, int threads, const std::string &instructions,
                    bool poison) {
    const Shape shape{cells, width,    heads,    inner,    actions,
                      vocab, h_layers, l_layers, h_cycles, l_cycles};
    return new Engine(shape, learned, at<float>(cos), at<float>(sin), threads,
                      named_instructions(instructions), poison);
}

void decide(Engine &engine, const std::vector<Address> &from, int size, Address tokens, Address z_H,
            Address z_L, long board, long token, Address read, int segments, Address q,
            Address new_H, Address new_L, bool last_only) {
    const Parameters model = parameters(from, engine);
    const Batch batch = make_batch(engine, size, tokens, z_H, z_L, board, token, read);
    py::gil_scoped_release unlocked;
    engine.decide(model, batch, segments, at<float>(q), at<float>(new_H), at<float>(new_L),
                  last_only);
}

double gradient(Engine &engine, const std::vector<Address> &from, int size, Address tokens,
                Address z_H, Address z_L, long board, long token, Address read, Address action,
                Address target, Address weight, Address d_q, Address d_H, Address d_L, Address q,
                Address new_H, Address new_L, const std::vector<Address> &to) {
    const Parameters model = parameters(from, engine), gradients = parameters(to, engine);
    const Batch batch = make_batch(engine, size, tokens, z_H, z_L, board, token, read);
    const int64_t *actions = at<int64_t>(action);
    for (int b = 0; actions && b < size; ++b)
        if (actions[b] < 0 || actions[b] >= engine.shape().actions)
            throw py::index_error("a_tm1 has the action " + std::to_string(actions[b]) +
                                  ": expected 0 to " + std::to_string(engine.shape().actions - 1));
    const Loss loss = !action ? Loss::kNone : weight ? Loss::kGoals : Loss::kTD;
    const Upstreams upstream{loss,           actions,        at<float>(target), at<float>(weight),
                             at<float>(d_q), at<float>(d_H), at<float>(d_L)};
    py::gil_scoped_release unlocked;
    return engine.gradient(model, batch, upstream, at<float>(q), at<float>(new_H), at<float>(new_L),
                           gradients);
}

void adam_atan2(Address w, Address g, Address m, Address v, Address average, long n, long t,
                double lr, double beta1, double beta2, double weight_decay, double average_decay,
                const std::string &instructions) {
    const auto rounded = [](double x) { return static_cast<float>(x); };
    const AdamStep step{rounded(1 - beta1),
                        rounded(beta2),
                        rounded(1 - beta2),
                        rounded(1 - lr * weight_decay),
                        rounded(lr / (1 - std::pow(beta1, t))),
                        rounded(1 / std::sqrt(1 - std::pow(beta2, t))),
                        rounded(1 - average_decay)};
    const Instructions &code = named_instructions(instructions);
    py::gil_scoped_release unlocked;
    code.adam_atan2(at<float>(w), at<float>(g), at<float>(m), at<float>(v), at<float>(average), n,
                    step);
}

} // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "The HRM in C++; see _native.pyi.";
    m.attr("SOURCES") = HRM_FAST_STRING(HRM_FAST_SOURCES);
    m.def("adam_atan2", &adam_atan2, py::arg("w"), py::arg("g"), py::arg("m"), py::arg("v"),
          py::arg("average"), py::arg("n"), py::arg("t"), py::arg("lr"), py::arg("beta1"),
          py::arg("beta2"), py::arg("weight_decay"), py::arg("average_decay"),
          py::arg("instructions"));
    py::class_<Engine>(m, "Engine")
        .def(py::init(&make_engine), py::kw_only(), py::arg("cells"), py::arg("width"),
             py::arg("heads"), py::arg("inner"), py::arg("actions"), py::arg("vocab"),
             py::arg("h_layers"), py::arg("l_layers"), py::arg("h_cycles"), py::arg("l_cycles"),
             py::arg("learned"), py::arg("cos"), py::arg("sin"), py::arg("threads"),
             py::arg("instructions"), py::arg("poison"))
        .def_property_readonly("instructions", &Engine::instructions)
        .def_property_readonly("threads", &Engine::threads)
        .def("decide", &decide)
        .def("gradient", &gradient);
    bind_cuda(m);
}

} // namespace hrm
