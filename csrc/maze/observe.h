// Writes observations from board pictures.
#pragma once

#include <string.h> // the global names, which a device knows as well

#include "common/host_device.h"
#include "maze/spec.h"

namespace maze {

// Copies n bytes to two places at once, 16 at a time with an overlapping last piece: a memcpy of
// unknown size costs several times as much on rows of about 100 bytes.
HOST_DEVICE inline void copy_row(uint8_t *one, uint8_t *two, const uint8_t *from, int n) {
    struct Piece {
        uint8_t bytes[16];
    } piece;
    if (n < 16) {
        memcpy(one, from, n);
        memcpy(two, from, n);
        return;
    }
    for (int i = 0; i + 16 <= n; i += 16) {
        memcpy(&piece, from + i, 16);
        memcpy(one + i, &piece, 16);
        memcpy(two + i, &piece, 16);
    }
    memcpy(&piece, from + n - 16, 16);
    memcpy(one + n - 16, &piece, 16);
    memcpy(two + n - 16, &piece, 16);
}

// What an agent at `agent` sees: '?' further away than view_radius rows or columns.
HOST_DEVICE inline void write_view(const Spec &spec, int agent, const uint8_t *board,
                                   uint8_t *obs) {
    const int top = agent / spec.cols - spec.view_radius;
    const int left = agent % spec.cols - spec.view_radius;
    const int bottom = top + 2 * spec.view_radius, right = left + 2 * spec.view_radius;
    for (int row = 0, cell = 0; row < spec.rows; ++row)
        for (int col = 0; col < spec.cols; ++col, ++cell)
            obs[cell] =
                row >= top && row <= bottom && col >= left && col <= right ? board[cell] : '?';
}

HOST_DEVICE inline void write_obs(const Spec &spec, int agent, const uint8_t *board, uint8_t *one,
                                  uint8_t *two) {
    if (spec.view_radius == kNone) {
        copy_row(one, two, board, spec.cells);
        return;
    }
    write_view(spec, agent, board, one);
    memcpy(two, one, spec.cells);
}

} // namespace maze
