/* leaps.h: how far a ray may leap through the empty blocks of an occupancy grid. */
#ifndef ADJOINT_RENDER_LEAPS_H
#define ADJOINT_RENDER_LEAPS_H

#include "render/ops/occupancy.h"

enum { LEAP_MAX = 8 }; // blocks crossed at once to each side

static inline int64_t leap_blocks(int resolution) {
    return occupancy_cells(1, resolution / OCCUPANCY_BLOCK);
}

// leap (3 x leap_blocks; the last two thirds are scratch): the distance of each block of cascade 0
// to the nearest that may hold something, in blocks along the farthest axis, up to LEAP_MAX. The
// cube of 2 d - 1 blocks around a block with distance d > 0 is empty.
void render_leaps_find(const uint32_t *bits, int cascades, int resolution, uint8_t *leap);

#endif
