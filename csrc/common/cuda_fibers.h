// A kernel's threads on the host, in one of ours.
//
// Blocks are a loop, threads are fibers (stacks switched by hand: ucontext costs a system call, 1
// us, a switch). A thread runs until it meets others in a barrier or a warp collective; who runs
// next is drawn from a seeded generator, so that a missing barrier shows. So does its neighbour's
// luck: shared memory is filled with NaN before every block, a copy's target when the copy is
// issued; what is copied arrives at the wait, not before. A barrier that not every thread reaches,
// threads of a warp in different collectives, and writes past the shared memory raise
// std::runtime_error.
//
// Limits: whole warps only (block size a multiple of 32), collectives of all 32 lanes, arrays
// declared `__shared__ float x[..]` are not filled with NaN (DYNAMIC_SHARED is), one launch at a
// time.
#pragma once

#include "common/fork_safe_mutex.h"
#include "common/switch_stack.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace shim {

constexpr int kWarp = 32;
constexpr size_t kStack = 128 << 10, kGuard = 64;
constexpr uint32_t kAll = 0xFFFFFFFFU;

struct alignas(16) Line { // of shared memory
    unsigned char bytes[16];
};

struct alignas(16) Slot { // what one lane brings to a collective and takes away
    unsigned char bytes[64];
};

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct Thread {
    void *stack_pointer = nullptr; // while it does not run
    void *fake_stack = nullptr;    // AddressSanitizer's
    const void *stack = nullptr;
    size_t stack_bytes = kStack;
    dim3 index;
    int warp = 0, lane = 0;
    std::vector<Copy> copies;
    std::vector<size_t> commits; // how many copies lay before each
};

struct Warp {
    uint32_t runnable = kAll, arrived = 0;
    const char *meeting = "";
    int turn = 0; // slots alternate: a quick lane may be at the next meeting already
    Slot slots[2][kWarp];
};

struct Machine {
    ForkSafeMutex turn; // one launch at a time
    uint64_t order = 1;
    std::function<void()> kernel;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::unique_ptr<unsigned char[]> stacks;
    std::vector<Line> shared;
    Thread host, *current = nullptr;
    size_t waiting = 0, finished = 0;
    std::string error;
};

inline Machine machine;
inline long products = 0; // of warps on tensor cores, in all launches (hrm/mma.h)

// The order of threads in all launches from now on.
inline void set_thread_order(uint64_t seed) {
    machine.order = seed * 2 + 1;
}

inline uint32_t draw() { // xorshift64*
    uint64_t &x = machine.order;
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    return static_cast<uint32_t>((x * 0x2545F4914F6CDD1DULL) >> 32);
}

inline void arrive_on_stack([[maybe_unused]] Thread &self) {
#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self.fake_stack, &stack, &bytes);
    if (!machine.host.stack) // a block's first switch comes from there
        machine.host.stack = stack, machine.host.stack_bytes = bytes;
#endif
}

inline void switch_to(Thread &from, Thread &to) {
    machine.current = &to;
    threadIdx = to.index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
    switch_stack(&from.stack_pointer, to.stack_pointer);
    arrive_on_stack(from);
}

// Ends the launch; what its threads still had to do is dropped.
[[noreturn]] inline void fail(std::string error) {
    machine.error = std::move(error); // nothing on this stack is destroyed
    switch_to(*machine.current, machine.host);
    std::abort();
}

[[noreturn]] inline void stuck() {
    for (const Warp &warp : machine.warps)
        if (warp.arrived)
            fail(std::string("not all lanes of a warp reach ") + warp.meeting);
    fail("not all threads of a block reach __syncthreads");
}

// Lets another thread run, or by chance the same: one of this warp where there is any.
inline void yield(bool elsewhere = false) {
    Thread &self = *machine.current;
    const size_t warps = machine.warps.size();
    elsewhere |= !machine.warps[self.warp].runnable;
    size_t w = elsewhere ? draw() % warps : self.warp, tried = 0;
    for (; tried < warps && !machine.warps[w].runnable; ++tried)
        w = (w + 1) % warps;
    if (tried == warps && machine.finished == machine.threads.size())
        return switch_to(self, machine.host);
    if (tried == warps)
        stuck();
    const uint32_t runnable = machine.warps[w].runnable, turn = draw() % kWarp;
    const uint32_t turned = runnable >> turn | runnable << (kWarp - turn) % kWarp;
    Thread &next = machine.threads[w * kWarp + (__builtin_ctz(turned) + turn) % kWarp];
    if (&next != &self)
        switch_to(self, next);
}

// All lanes of a warp meet: each brings `in`, the last one computes, each reads what it wants.
inline const Slot *meet(const char *meeting, const void *in, size_t bytes,
                        void (*once)(Slot *) = nullptr) {
    Thread &self = *machine.current;
    Warp &warp = machine.warps[self.warp];
    Slot *const slots = warp.slots[warp.turn];
    std::memcpy(slots[self.lane].bytes, in, bytes);
    if (warp.arrived && std::strcmp(warp.meeting, meeting) != 0)
        fail(std::string("lanes of a warp meet in ") + warp.meeting + " and in " + meeting);
    warp.meeting = meeting;
    warp.arrived |= 1U << self.lane;
    warp.runnable &= ~(1U << self.lane);
    if (warp.arrived != kAll) {
        yield();
        return slots;
    }
    if (once)
        once(slots);
    warp.arrived = 0;
    warp.turn ^= 1;
    warp.runnable = kAll;
    if (draw() % 8 == 0)
        yield(true);
    return slots;
}

inline void barrier() {
    Thread &self = *machine.current;
    machine.warps[self.warp].runnable &= ~(1U << self.lane);
    if (++machine.waiting == machine.threads.size()) {
        machine.waiting = 0;
        for (Warp &warp : machine.warps)
            warp.runnable = kAll;
    }
    yield(true);
}

inline void async_copy(void *to, const void *from, size_t bytes) {
    std::memset(to, 0xFF, bytes);
    machine.current->copies.push_back({to, from, bytes});
}

inline void async_commit() {
    machine.current->commits.push_back(machine.current->copies.size());
}

inline void async_wait(size_t but) { // all but the last `but` commits
    Thread &self = *machine.current;
    if (self.commits.size() <= but)
        return;
    const size_t groups = self.commits.size() - but, done = self.commits[groups - 1];
    for (size_t i = 0; i < done; ++i)
        std::memcpy(self.copies[i].to, self.copies[i].from, self.copies[i].bytes);
    self.copies.erase(self.copies.begin(), self.copies.begin() + done);
    self.commits.erase(self.commits.begin(), self.commits.begin() + groups);
    for (size_t &commit : self.commits)
        commit -= done;
}

inline unsigned char *shared_memory() {
    return reinterpret_cast<unsigned char *>(machine.shared.data());
}

[[noreturn]] inline void run_thread() {
    arrive_on_stack(*machine.current);
    try {
        machine.kernel();
    } catch (const std::exception &error) {
        fail(error.what());
    }
    Thread &self = *machine.current;
    machine.warps[self.warp].runnable &= ~(1U << self.lane);
    ++machine.finished;
    yield(true);
    std::abort(); // nobody comes back to a thread that has ended
}

inline void prepare(Thread &thread, size_t i, unsigned char *stack) {
    thread = Thread{};
    thread.stack = stack;
    thread.warp = static_cast<int>(i / kWarp), thread.lane = static_cast<int>(i % kWarp);
    thread.index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, kStack); // of what the last thread left on it
#endif
    void **frame = reinterpret_cast<void **>(stack + kStack - 256); // as if it had switched here
    std::memset(frame, 0, kFrame * sizeof(void *));
    frame[kReturn] = reinterpret_cast<void *>(&run_thread);
    thread.stack_pointer = frame;
}

inline void run_block(size_t shared_bytes) {
    std::memset(shared_memory(), 0xFF, machine.shared.size() * sizeof(Line));
    for (size_t i = 0; i < machine.threads.size(); ++i)
        prepare(machine.threads[i], i, machine.stacks.get() + i * kStack);
    machine.warps.assign(machine.threads.size() / kWarp, Warp{});
    machine.waiting = machine.finished = 0;
    machine.error.clear();
    machine.host.stack = nullptr;
    switch_to(machine.host, machine.threads[draw() % machine.threads.size()]);
    if (!machine.error.empty())
        throw std::runtime_error(machine.error);
    for (size_t i = 0; i < kGuard; ++i)
        if (shared_memory()[shared_bytes + i] != 0xFF)
            throw std::runtime_error("a block wrote past its shared memory");
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
    if (!kFibers)
        throw std::runtime_error("kernels run on the host on x86-64 and aarch64 only");
    const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
    if (threads == 0 || threads % kWarp != 0)
        throw std::runtime_error("a block has " + std::to_string(threads) +
                                 " threads: expected whole warps of 32");
    const std::lock_guard<ForkSafeMutex> alone(machine.turn);
    gridDim = grid, blockDim = block;
    machine.kernel = std::move(kernel);
    if (machine.threads.size() != threads) {
        machine.threads.resize(threads);
        machine.stacks.reset(new unsigned char[threads * kStack]); // pages come with the first use
    }
    machine.shared.assign((shared_bytes + kGuard) / sizeof(Line) + 1, Line{});
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                run_block(shared_bytes);
}

template <typename T> T exchange(const char *name, T value, int lane) {
    const Slot *slots = meet(name, &value, sizeof value);
    std::memcpy(&value, slots[lane % kWarp].bytes, sizeof value);
    return value;
}

inline uint32_t ballot(const char *name, bool vote) {
    const Slot *slots = meet(name, &vote, sizeof vote);
    uint32_t votes = 0;
    for (int lane = 0; lane < kWarp; ++lane)
        votes |= static_cast<uint32_t>(slots[lane].bytes[0]) << lane;
    return votes;
}

inline int lane() {
    return machine.current->lane;
}

} // namespace shim
