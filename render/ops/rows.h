/* rows.h: packed samples, seen row by row and ray by ray.
 *
 * offsets (rays + 1) u32 say where each ray's rows start; all other rows are dead. Kernels on rows
 * cut them into blocks of one size, whatever the thread count, and walk each block's stretches of
 * one ray. Kernels on rays own whole rays. Both stay inside the rows whatever the offsets hold, and
 * even wrong offsets give the same bits on any number of threads. */
#ifndef ADJOINT_RENDER_ROWS_H
#define ADJOINT_RENDER_ROWS_H

#include "autodiff/autodiff.h"

enum { ROWS_BLOCK = 2048 };

static const float rows_nowhere = 1e9f; // t behind every scene: a ray has no more samples

// Rows [first, end) belong to `ray`; -1: to none.
typedef struct row_stretch {
    int64_t first, end, ray;
} row_stretch;

// The last ray that starts at or before `row`, in -1 ... rays.
static inline int64_t rows_find_ray(const uint32_t *offsets, int64_t rays, int64_t row) {
    int64_t low = 0, high = rays + 1; // the first start behind `row` lies in low ... high
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (offsets[middle] <= row) low = middle + 1;
        else high = middle;
    }
    return low - 1;
}

// The stretch that begins at `row`; *ray is the walk's place among the rays, at first that of
// rows_find_ray. Invariant: the ray starts at or before the row, or there is none before it.
static inline row_stretch rows_stretch(const uint32_t *offsets, int64_t rays, int64_t row,
                                       int64_t end, int64_t *ray) {
    while (*ray >= 0 && *ray < rays && offsets[*ray + 1] <= row) ++*ray;
    bool live = *ray >= 0 && *ray < rays;
    int64_t stop = *ray < rays ? offsets[*ray + 1] : end;
    row_stretch stretch = {row, stop < end ? stop : end, live ? *ray : -1};
    if (*ray < rays) ++*ray;
    return stretch;
}

// The rows of one ray.
static inline void rows_of_ray(const uint32_t *offsets, int64_t ray, int64_t rows, int64_t *first,
                               int64_t *end) {
    *first = offsets[ray] < rows ? offsets[ray] : rows;
    *end = offsets[ray + 1] < rows ? offsets[ray + 1] : rows;
    if (*end < *first) *end = *first;
}

// Threads for kernels that own rays: one where rays overlap, so that they cannot race.
static inline int rows_threads(const uint32_t *offsets, int64_t rays, int threads) {
    uint32_t falls = 0;
    for (int64_t ray = 0; ray < rays; ray++) falls |= offsets[ray + 1] < offsets[ray];
    return falls ? 1 : threads;
}

#endif
