// What the decision kernel can compute, and how a batch is laid out for it.
#include "hrm/decide.h"

#include <stdexcept>
#include <string>

namespace hrm {
namespace {

void require(const char *name, int value, bool fits, const char *expected) {
    if (!fits)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    ": kernels 'cuda' takes " + expected);
}

void need(const char *name, const void *address, size_t aligned) {
    if (!address || reinterpret_cast<uintptr_t>(address) % aligned != 0)
        throw std::invalid_argument(
            std::string(name) + " is " + (address ? "misaligned" : "a null pointer") +
            ": expected an address that " + std::to_string(aligned) + " divides");
}

// Of 16 x D weights each, in whole chunks: queries, keys, values and output D / 16; gate, up and
// down F / 16.
int strips(const DecideShape &shape) {
    const auto whole = [](int count) { return (count + kChunk - 1) / kChunk * kChunk; };
    return whole(4 * shape.width / 16) + whole(3 * shape.inner / 16);
}

} // namespace

void check(const DecideShape &s) {
    require("T", s.T(), s.T() >= 2 && s.T() <= kLargestT, "2 to 256");
    const bool known = s.width == 32 || s.width == 48 || s.width == 64 || s.width == 128;
    require("width", s.width, known, "32, 48, 64 or 128");
    require("heads", s.heads, s.heads > 0 && s.width % s.heads == 0, "a divisor of the width");
    const int K = s.head_size();
    require("head size", K, K == 16 || ((K == 32 || K == 64) && s.width != 48),
            s.width == 48 ? "16 at width 48" : "16, 32 or 64");
    require("inner", s.inner, s.inner > 0 && s.inner % 16 == 0 && s.inner <= 4096,
            "a multiple of 16 up to 4096");
    require("actions", s.actions, s.actions > 0 && s.actions <= 1024, "1 to 1024");
    require("vocab", s.vocab, s.vocab > 0 && s.vocab <= 1 << 20, "1 to 1048576");
    require("h_layers", s.h_layers, s.h_layers > 0 && s.h_layers <= 1024, "1 to 1024");
    require("l_layers", s.l_layers, s.l_layers > 0 && s.l_layers <= 1024, "1 to 1024");
    require("h_cycles", s.h_cycles, s.h_cycles > 0 && s.h_cycles <= 1024, "1 to 1024");
    require("l_cycles", s.l_cycles, s.l_cycles > 0 && s.l_cycles <= 1024, "1 to 1024");
}

void check(const DecideShape &s, const DecideArgs &a) {
    const size_t pair = s.bf16 ? 4 : 8;
    require("size", a.size, a.size >= 0 && a.size <= 1 << 24, "0 to 16777216");
    require("segments", a.segments, a.segments > 0 && a.segments <= 1024, "1 to 1024");
    require("ctas", a.ctas, a.ctas > 0, "1 or more");
    require("board", static_cast<int>(a.board), a.board >= 0 && a.board % 2 == 0, "an even stride");
    require("token", static_cast<int>(a.token), a.token >= 0 && a.token % 2 == 0, "an even stride");
    need("weights", a.weights, 16);
    need("table", a.table, 4);
    need("head", a.head, 4);
    need("rope", a.rope, 16);
    need("tokens", a.tokens, 1);
    need("z_H", a.z_H, pair);
    need("z_L", a.z_L, pair);
    if (!a.q || !a.new_H)
        require("results", 0, a.q || a.new_H, "q or the states");
    const void *const optional[] = {a.workspace, a.new_H, a.new_L, a.q, a.position, a.read};
    const char *const names[] = {"workspace", "new_H", "new_L", "q", "position", "read"};
    const size_t aligned[] = {16, pair, pair, 4, 4, 4};
    for (int i = 0; i < 6; ++i)
        if (optional[i])
            need(names[i], optional[i], aligned[i]);
    if (!a.new_H != !a.new_L)
        need(a.new_H ? "new_L" : "new_H", nullptr, pair);
}

long block_numbers(const DecideShape &shape) {
    return static_cast<long>(strips(shape)) * 16 * shape.width;
}

bool unrolled(const DecideShape &shape) {
    const int tiles = (shape.T() + 15) / 16;
    return shape.bf16 && shape.width == 64 && shape.head_size() == 32 && (tiles == 8 || tiles == 9);
}

DecidePlan plan(const DecideShape &shape, int boards, int shared_limit) {
    const int tiles = (shape.T() + 15) / 16, bytes = shape.bf16 ? 2 : 4;
    const bool two = unrolled(shape);
    require("boards", boards, boards >= 0 && boards <= (two ? 2 : 1),
            two ? "0 to 2" : "0 or 1 for this shape");
    const int state = tiles * 16 * shape.width * bytes;
    const auto laid_out = [&](int count, bool states_outside, bool keys_outside) {
        const int inside = (states_outside ? 0 : 3) + (keys_outside ? 0 : 2);
        const int shared = kStages * kChunk * 16 * shape.width * bytes +
                           count * (inside * state + shape.width * 4);
        const long outside = static_cast<long>(5 - inside) * count * state;
        return DecidePlan{count,        tiles,  warps_of(count, tiles), shared, states_outside,
                          keys_outside, outside};
    };
    for (const bool states_outside : {false, true}) {
        const DecidePlan both = laid_out(2, states_outside, false);
        if (two && boards != 1 && both.shared_bytes <= shared_limit)
            return both;
    }
    if (boards == 2)
        require("shared_limit", shared_limit, false, "two boards only where they fit");
    for (const bool keys_outside : {false, true})
        for (const bool states_outside : {false, true}) {
            const DecidePlan one = laid_out(1, states_outside, keys_outside);
            if (one.shared_bytes <= shared_limit && (states_outside || !keys_outside))
                return one;
        }
    const int least = laid_out(1, true, true).shared_bytes;
    throw std::invalid_argument("shared_limit is " + std::to_string(shared_limit) +
                                ": kernels 'cuda' takes at least " + std::to_string(least));
}

} // namespace hrm
