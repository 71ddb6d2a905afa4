// Python's view of the simulator. Arrays are checked here once; no unchecked address goes further.
#include <pybind11/pybind11.h>

#include <pybind11/numpy.h>

#include <pybind11/stl.h>

#include <algorithm>
#include <climits>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

#include "maze/batch.h"
#include "maze/device.h"
#include "maze/random.h"

// The digest of the sources (csrc/digest.py) comes from setup.py as a bare word.
#define HRM_FAST_QUOTED(word) #word
#define HRM_FAST_STRING(word) HRM_FAST_QUOTED(word)

namespace py = pybind11;

namespace maze {

#ifndef HRM_FAST_CUDA
int cuda_devices() {
    return 0;
}

namespace gpu {
void reset_all(const OnDevice &, uint8_t *, void *) {
    throw std::runtime_error("no mazes on a GPU: built without nvcc");
}

void step_all(const OnDevice &, const int64_t *, const Results &, void *) {
    throw std::runtime_error("no mazes on a GPU: built without nvcc");
}
} // namespace gpu
#endif

namespace {

// The address of a C-contiguous array of exactly this dtype (kind 'u', 'i', 'f', 'b') and shape.
void *address(const py::array &array, const char *name, char kind, py::ssize_t itemsize,
              std::initializer_list<py::ssize_t> shape) {
    const py::dtype dtype = array.dtype();
    const bool same_shape = array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
                            std::equal(shape.begin(), shape.end(), array.shape());
    if (dtype.kind() == kind && dtype.itemsize() == itemsize && same_shape &&
        (array.flags() & py::array::c_style))
        return const_cast<void *>(array.data());
    std::string wanted = std::string(1, kind) + std::to_string(itemsize) + " [";
    for (py::ssize_t n : shape)
        wanted += std::to_string(n) + (n == *(shape.end() - 1) ? "]" : ", ");
    throw std::invalid_argument(
        std::string(name) + " is " + py::str(py::handle(dtype)).cast<std::string>() +
        py::str(array.attr("shape")).cast<std::string>() + ": expected contiguous " + wanted);
}

template <typename T>
const T *input(const py::array &array, const char *name, char kind,
               std::initializer_list<py::ssize_t> shape) {
    return static_cast<const T *>(address(array, name, kind, sizeof(T), shape));
}

template <typename T>
T *output(const py::array &array, const char *name, char kind,
          std::initializer_list<py::ssize_t> shape) {
    if (!array.writeable())
        throw std::invalid_argument(std::string(name) +
                                    " is read-only: expected a writeable array");
    return static_cast<T *>(address(array, name, kind, sizeof(T), shape));
}

void check_range(const char *name, long long value, long long low, long long high) {
    if (value < low || value > high)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    ": expected " + std::to_string(low) + " to " +
                                    std::to_string(high));
}

Batch *make_batch(const py::array &map, const py::array &rooms, int actions, int closed_doors,
                  int door_glyph, double p_change, int fixed_walls, int max_steps,
                  int start_goal_distance, int view_radius, int num_envs, uint64_t seed,
                  uint32_t first, int threads) {
    if (map.ndim() != 2)
        throw std::invalid_argument("map: expected 2 dimensions");
    check_range("map cells", map.size(), 2, kMaxCells);
    if (actions != 4 && actions != 8)
        throw std::invalid_argument("actions is " + std::to_string(actions) + ": expected 4 or 8");
    check_range("num_envs", num_envs, 1, INT_MAX);
    check_range("threads", threads, 0, 1024);
    check_range("start_goal_distance", start_goal_distance, kNone, 2);
    check_range("view_radius", view_radius, kNone, kMaxCells);
    check_range("max_steps", max_steps, 1, INT_MAX);
    check_range("fixed_walls", fixed_walls, 0, kMaxCells);
    check_range("door_glyph", door_glyph, 0, 127);
    if (!(p_change >= 0 && p_change <= 1))
        throw std::invalid_argument("p_change is " + std::to_string(p_change) +
                                    ": expected 0 to 1");
    const int rows = static_cast<int>(map.shape(0)), cols = static_cast<int>(map.shape(1));
    const Settings settings{rows,
                            cols,
                            actions,
                            closed_doors,
                            fixed_walls,
                            max_steps,
                            start_goal_distance,
                            view_radius,
                            p_change,
                            static_cast<uint8_t>(door_glyph)};
    const Spec spec = make_spec(settings, input<uint8_t>(map, "map", 'u', {rows, cols}),
                                input<uint8_t>(rooms, "rooms", 'u', {rows, cols}));
    return new Batch(spec, num_envs, seed, first, threads);
}

void reset(Batch &batch, const py::array &obs) {
    uint8_t *to = output<uint8_t>(obs, "obs", 'u', {batch.num_envs(), batch.spec().cells});
    py::gil_scoped_release unlocked;
    batch.reset(to);
}

void observe(const Batch &batch, const py::array &obs) {
    batch.observe(output<uint8_t>(obs, "obs", 'u', {batch.num_envs(), batch.spec().cells}));
}

void step(Batch &batch, const py::array &actions, const py::array &obs, const py::array &reward,
          const py::array &terminated, const py::array &truncated, const py::array &final_obs) {
    const py::ssize_t n = batch.num_envs(), cells = batch.spec().cells;
    const auto *actions_in = input<int64_t>(actions, "actions", 'i', {n});
    auto *obs_out = output<uint8_t>(obs, "obs", 'u', {n, cells});
    auto *reward_out = output<float>(reward, "reward", 'f', {n});
    auto *terminated_out = output<bool>(terminated, "terminated", 'b', {n});
    auto *truncated_out = output<bool>(truncated, "truncated", 'b', {n});
    auto *final_out = output<uint8_t>(final_obs, "final_obs", 'u', {n, cells});
    py::gil_scoped_release unlocked;
    batch.step(actions_in, obs_out, reward_out, terminated_out, truncated_out, final_out);
}

void get_state(const Batch &batch, const py::array &boards, const py::array &elapsed,
               const py::array &clock) {
    const py::ssize_t n = batch.num_envs(), rows = batch.spec().rows, cols = batch.spec().cols;
    batch.get_state(output<uint8_t>(boards, "boards", 'u', {n, rows, cols}),
                    output<int32_t>(elapsed, "elapsed", 'i', {n}),
                    output<int64_t>(clock, "clock", 'i', {n}));
}

void set_state(Batch &batch, const py::array &boards, const py::array &elapsed,
               const py::array &clock) {
    const py::ssize_t n = batch.num_envs(), rows = batch.spec().rows, cols = batch.spec().cols;
    batch.set_state(input<uint8_t>(boards, "boards", 'u', {n, rows, cols}),
                    input<int32_t>(elapsed, "elapsed", 'i', {n}),
                    input<int64_t>(clock, "clock", 'i', {n}));
}

void load_boards(Batch &batch, const py::array &boards) {
    const py::ssize_t n = batch.num_envs(), rows = batch.spec().rows, cols = batch.spec().cols;
    batch.set_state(input<uint8_t>(boards, "boards", 'u', {n, rows, cols}), nullptr, nullptr);
}

void shortest_path(Batch &batch, const py::array &length, const py::array &action) {
    int32_t *length_out = output<int32_t>(length, "length", 'i', {batch.num_envs()});
    int64_t *action_out = output<int64_t>(action, "action", 'i', {batch.num_envs()});
    py::gil_scoped_release unlocked;
    batch.shortest_path(length_out, action_out);
}

void give(const Batch &batch, const py::array &mazes, const py::array &boards) {
    const py::ssize_t n = batch.num_envs(), size = sizeof(Maze), cells = batch.spec().cells;
    batch.give(reinterpret_cast<Maze *>(output<uint8_t>(mazes, "mazes", 'u', {n, size})),
               output<uint8_t>(boards, "boards", 'u', {n, cells}));
}

void take(Batch &batch, const py::array &mazes, const py::array &boards) {
    const py::ssize_t n = batch.num_envs(), size = sizeof(Maze), cells = batch.spec().cells;
    batch.take(reinterpret_cast<const Maze *>(input<uint8_t>(mazes, "mazes", 'u', {n, size})),
               input<uint8_t>(boards, "boards", 'u', {n, cells}));
}

template <typename T> T *at(uintptr_t address) {
    return reinterpret_cast<T *>(address);
}

OnDevice on_device(const Batch &batch, uintptr_t spec, uintptr_t mazes, uintptr_t boards) {
    return {at<const Spec>(spec), at<Maze>(mazes), at<uint8_t>(boards),  batch.num_envs(),
            batch.seed(),         batch.first(),   batch.spec().doorways};
}

void device_reset(const Batch &batch, uintptr_t spec, uintptr_t mazes, uintptr_t boards,
                  uintptr_t obs, std::optional<uintptr_t> stream) {
    const auto launch = stream ? gpu::reset_all : host::reset_all;
    launch(on_device(batch, spec, mazes, boards), at<uint8_t>(obs), at<void>(stream.value_or(0)));
}

void device_step(const Batch &batch, uintptr_t spec, uintptr_t mazes, uintptr_t boards,
                 uintptr_t actions, uintptr_t obs, uintptr_t reward, uintptr_t terminated,
                 uintptr_t truncated, uintptr_t final_obs, std::optional<uintptr_t> stream) {
    const auto launch = stream ? gpu::step_all : host::step_all;
    const Results to{at<uint8_t>(obs), at<float>(reward), at<bool>(terminated), at<bool>(truncated),
                     at<uint8_t>(final_obs)};
    launch(on_device(batch, spec, mazes, boards), at<const int64_t>(actions), to,
           at<void>(stream.value_or(0)));
}

py::bytes spec_bytes(const Batch &batch) {
    return {reinterpret_cast<const char *>(&batch.spec()), sizeof(Spec)};
}

py::tuple philox_words(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0,
                       uint32_t k1) {
    const Block block = philox({{c0, c1, c2, c3}}, k0, k1);
    return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
}

} // namespace

PYBIND11_MODULE(_maze, m) {
    m.doc() = "Batched mazes in C++; see _maze.pyi.";
    m.attr("SOURCES") = HRM_FAST_STRING(HRM_FAST_SOURCES);
    m.def("philox", &philox_words, "The block of Philox4x32-10 at a counter and a key.");
    m.attr("MAZE_BYTES") = sizeof(Maze);
    m.def("cuda_devices", &cuda_devices, "Usable CUDA devices.");
    py::class_<Batch>(m, "Batch")
        .def(py::init(&make_batch), py::kw_only(), py::arg("map"), py::arg("rooms"),
             py::arg("actions"), py::arg("closed_doors"), py::arg("door_glyph"),
             py::arg("p_change"), py::arg("fixed_walls"), py::arg("max_steps"),
             py::arg("start_goal_distance"), py::arg("view_radius"), py::arg("num_envs"),
             py::arg("seed"), py::arg("first"), py::arg("threads"))
        .def_property_readonly("threads", &Batch::threads)
        .def("reset", &reset)
        .def("observe", &observe)
        .def("step", &step)
        .def("get_state", &get_state)
        .def("set_state", &set_state)
        .def("load_boards", &load_boards)
        .def("shortest_path", &shortest_path)
        .def("give", &give)
        .def("take", &take)
        .def("spec_bytes", &spec_bytes)
        .def("device_reset", &device_reset)
        .def("device_step", &device_step);
}

} // namespace maze
