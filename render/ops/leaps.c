/* Leaps: for each block of the occupancy grid, how many blocks around it are empty.
 *
 * A distance transform by relaxation: d (block) = min (d (block), 1 + min d (its 26 neighbours)),
 * LEAP_MAX - 1 times, the minimum over neighbours taken axis by axis. A row's end counts as the
 * next one's neighbour, which only shortens leaps and keeps the loops free of branches. */
#include "render/ops/leaps.h"

static uint8_t least(uint8_t a, uint8_t b) { return a < b ? a : b; }

// to[i] = min(from[i - stride], from[i], from[i + stride]), where there are such.
static void spread(int64_t n, int64_t stride, const uint8_t *restrict from, uint8_t *restrict to) {
    for (int64_t i = 0; i < stride; i++) to[i] = least(from[i], from[i + stride]);
    for (int64_t i = stride; i < n - stride; i++)
        to[i] = least(least(from[i - stride], from[i]), from[i + stride]);
    for (int64_t i = n - stride; i < n; i++) to[i] = least(from[i - stride], from[i]);
}

void render_leaps_find(const uint32_t *bits, int cascades, int resolution, uint8_t *leap) {
    int64_t m = resolution / OCCUPANCY_BLOCK, blocks = leap_blocks(resolution);
    const uint32_t *block_bits = bits + (occupancy_cells(cascades, resolution) + 31) / 32;
    uint8_t *spare = leap + blocks, *other = spare + blocks;
    for (int64_t i = 0; i < blocks; i++) leap[i] = occupancy_bit(block_bits, i) ? 0 : LEAP_MAX;
    for (int d = 1; d < LEAP_MAX; d++) {
        spread(blocks, 1, leap, spare);
        spread(blocks, m, spare, other);
        spread(blocks, m * m, other, spare);
        for (int64_t i = 0; i < blocks; i++) leap[i] = least(leap[i], (uint8_t)(spare[i] + 1));
    }
}
