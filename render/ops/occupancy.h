/* occupancy.h: how the occupancy grid is laid out, shared by marching and updating.
 *
 * Cascade c is a cube around the middle of the unit cube, 2^(c - cascades + 1) wide, of
 * resolution^3 cells; cell (x, y, z) of cascade c has the number
 * ((c resolution + z) resolution + y) resolution + x. One bit a cell says "may hold something";
 * behind all of them lies one bit for each block of 4 x 4 x 4 cells, set where any of its cells'
 * is, so that marching crosses empty space in long strides. */
#ifndef ADJOINT_RENDER_OCCUPANCY_H
#define ADJOINT_RENDER_OCCUPANCY_H

#include "autodiff/autodiff.h"

#include <stdbool.h>
#include <stdint.h>

enum { OCCUPANCY_BLOCK = 4 };

static inline int64_t occupancy_cells(int cascades, int resolution) {
    return (int64_t)cascades * resolution * resolution * resolution;
}

static inline int64_t occupancy_words(int cascades, int resolution) {
    int64_t blocks = occupancy_cells(cascades, resolution / OCCUPANCY_BLOCK);
    return (occupancy_cells(cascades, resolution) + 31) / 32 + (blocks + 31) / 32;
}

static inline bool occupancy_good_size(int64_t cascades, int64_t resolution) {
    return cascades >= 1 && cascades <= 16 && resolution >= 8 && resolution % 8 == 0
        && resolution <= 512;
}

// Whether an operation's input is a grid's bits; else the call has failed.
static inline bool occupancy_good_bits(ad_infer *call, const ad_view *bits, int cascades,
                                       int resolution) {
    int64_t words = occupancy_words(cascades, resolution);
    if (bits->type == AD_U32 && ad_view_count(bits) == words) return true;
    char text[160];
    ad_view_text(bits, text, sizeof text);
    ad_infer_fail(call, "the bits of %d cascades of %d cells along an axis are %lld u32, not %s",
                  cascades, resolution, (long long)words, text);
    return false;
}

static inline bool occupancy_bit(const uint32_t *bits, int64_t number) {
    return bits[number >> 5] >> (number & 31) & 1;
}

#endif
