/* The hash grid's kernels: interpolate, scatter, and the slope along the point.
 *
 * Corner numbers and weights are made for a block of points at a time, in loops that the compiler
 * turns into vectors; then each point gathers its eight entries, one 16-byte load each where an
 * entry has four features. The forward pass goes level by level over blocks small enough that the
 * block's features stay in the nearest cache. The scatter gives every (level, slice of its table)
 * one owner who walks the points in order: each entry's sum is formed in the order of the points,
 * whoever owns it, so its bits do not depend on the thread count. */
#include "render/ops/hash_grid.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, BLOCK = 1024 };

typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float f2 __attribute__((vector_size(8), aligned(4), may_alias));

// Numbers and weights of the eight corners around LANES points; d: slopes of the weights.
typedef struct corners {
    uint32_t index[8][LANES];
    float weight[8][LANES];
    float part[3][LANES];   // position within the cell
} corners;

// Corner c lies at +1 along x, y, z where bit 0, 1, 2 of c is set. Points past `count` repeat the
// first one; their results are not used.
static inline void find_corners(const hash_grid_level *level, const float *x, int count,
                                corners *out) {
    float p[3][LANES];
    uint32_t cell[3][LANES];
    for (int i = 0; i < LANES; i++) {
        const float *point = x + 3 * (i < count ? i : 0);
        p[0][i] = point[0], p[1][i] = point[1], p[2][i] = point[2];
    }
    for (int axis = 0; axis < 3; axis++)
        for (int i = 0; i < LANES; i++) {
            // NaN compares false and lands on 0.
            float inside = p[axis][i] > 0 ? p[axis][i] : 0;
            inside = inside < 1 ? inside : 1;
            float position = inside * level->scale + 0.5f;
            int32_t whole = (int32_t)position;
            cell[axis][i] = (uint32_t)whole;
            out->part[axis][i] = position - (float)whole;
        }
    uint32_t stride_y = level->hashed ? HASH_GRID_PRIME_Y : level->resolution;
    uint32_t stride_z = level->hashed ? HASH_GRID_PRIME_Z : level->resolution * level->resolution;
    uint32_t last = level->size - 1;
    for (int c = 0; c < 8; c++)
        for (int i = 0; i < LANES; i++) {
            uint32_t a = cell[0][i] + (uint32_t)(c & 1);
            uint32_t b = (cell[1][i] + (uint32_t)(c >> 1 & 1)) * stride_y;
            uint32_t d = (cell[2][i] + (uint32_t)(c >> 2)) * stride_z;
            uint32_t dense = a + b + d;
            dense = dense < last ? dense : last;
            uint32_t hash = (a ^ b ^ d) & last;
            out->index[c][i] = level->hashed ? hash : dense;
            float wx = c & 1 ? out->part[0][i] : 1 - out->part[0][i];
            float wy = c & 2 ? out->part[1][i] : 1 - out->part[1][i];
            float wz = c & 4 ? out->part[2][i] : 1 - out->part[2][i];
            out->weight[c][i] = wx * wy * wz;
        }
}

static void forward_block(const hash_grid_attributes *grid, const hash_grid_level *level,
                          int64_t n, const float *x, const float *table, float *y) {
    int features = grid->features, row = grid->levels * features;
    const float *entries = table + (int64_t)level->offset * features;
    corners c;
    for (int64_t at = 0; at < n; at += LANES) {
        int count = n - at < LANES ? (int)(n - at) : LANES;
        find_corners(level, x + 3 * at, count, &c);
        for (int i = 0; i < count; i++) {
            float *to = y + (at + i) * row;
            if (features == 4) {
                f4 sum = c.weight[0][i] * *(const f4 *)(entries + 4 * (size_t)c.index[0][i]);
                for (int k = 1; k < 8; k++)
                    sum += c.weight[k][i] * *(const f4 *)(entries + 4 * (size_t)c.index[k][i]);
                *(f4 *)to = sum;
            } else if (features == 2) {
                f2 sum = c.weight[0][i] * *(const f2 *)(entries + 2 * (size_t)c.index[0][i]);
                for (int k = 1; k < 8; k++)
                    sum += c.weight[k][i] * *(const f2 *)(entries + 2 * (size_t)c.index[k][i]);
                *(f2 *)to = sum;
            } else {
                for (int f = 0; f < features; f++) {
                    float sum = 0;
                    for (int k = 0; k < 8; k++)
                        sum += c.weight[k][i] * entries[(size_t)c.index[k][i] * (size_t)features
                                                        + (size_t)f];
                    to[f] = sum;
                }
            }
        }
    }
}

void hash_grid_forward(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *table, float *y) {
    int64_t blocks = (rows + BLOCK - 1) / BLOCK;
    int row = grid->levels * grid->features;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * BLOCK, n = rows - first < BLOCK ? rows - first : BLOCK;
        for (int l = 0; l < grid->levels; l++)
            forward_block(grid, &grid->level[l], n, x + 3 * first, table,
                          y + first * row + l * grid->features);
    }
}

// Adds the rows' shares to the entries [from, to) of one level.
static void scatter_level(const hash_grid_attributes *grid, int l, uint32_t from, uint32_t to,
                          int64_t rows, const float *x, const float *dy, float *dtable) {
    const hash_grid_level *level = &grid->level[l];
    int features = grid->features, row = grid->levels * features;
    float *entries = dtable + (int64_t)level->offset * features;
    bool whole = from == 0 && to == level->size;
    corners c;
    for (int64_t at = 0; at < rows; at += LANES) {
        int count = rows - at < LANES ? (int)(rows - at) : LANES;
        find_corners(level, x + 3 * at, count, &c);
        for (int i = 0; i < count; i++) {
            const float *d = dy + (at + i) * row + l * features;
            if (features == 4 && whole) {
                f4 slope = *(const f4 *)d;
                for (int k = 0; k < 8; k++)
                    *(f4 *)(entries + 4 * (size_t)c.index[k][i]) += c.weight[k][i] * slope;
                continue;
            }
            for (int k = 0; k < 8; k++) {
                uint32_t index = c.index[k][i];
                if (index < from || index >= to) continue;
                float *entry = entries + (size_t)index * (size_t)features;
                for (int f = 0; f < features; f++) entry[f] += c.weight[k][i] * d[f];
            }
        }
    }
}

void hash_grid_scatter(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *dy, float *dtable) {
    // Up to four threads share whole levels; more of them share slices of levels.
    int slices = threads <= 4 ? 1 : (2 * threads + grid->levels - 1) / grid->levels;
    int owners = grid->levels * slices;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (rows > 256)
    for (int owner = owners - 1; owner >= 0; owner--) {
        int l = owner / slices, slice = owner % slices;
        uint64_t size = grid->level[l].size;
        uint32_t from = (uint32_t)(size * (uint64_t)slice / (uint64_t)slices);
        uint32_t to = (uint32_t)(size * (uint64_t)(slice + 1) / (uint64_t)slices);
        scatter_level(grid, l, from, to, rows, x, dy, dtable);
    }
}

// d feature / d x = sum over corners of entry times the weight's slope, times the level's scale.
void hash_grid_points(const hash_grid_attributes *grid, int threads, int64_t rows,
                      const float *x, const float *table, const float *dy, float *dx) {
    int features = grid->features, row = grid->levels * features;
    int64_t blocks = (rows + LANES - 1) / LANES;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 16)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t at = block * LANES;
        int count = rows - at < LANES ? (int)(rows - at) : LANES;
        memset(dx + 3 * at, 0, (size_t)count * 3 * sizeof *dx);
        for (int l = 0; l < grid->levels; l++) {
            const hash_grid_level *level = &grid->level[l];
            const float *entries = table + (int64_t)level->offset * features;
            corners c;
            find_corners(level, x + 3 * at, count, &c);
            for (int i = 0; i < count; i++) {
                const float *d = dy + (at + i) * row + l * features;
                float slope[3] = {0, 0, 0};
                for (int k = 0; k < 8; k++) {
                    const float *entry = entries + (size_t)c.index[k][i] * (size_t)features;
                    float along = 0;
                    for (int f = 0; f < features; f++) along += entry[f] * d[f];
                    float w[3], s[3];
                    for (int axis = 0; axis < 3; axis++) {
                        bool up = k >> axis & 1;
                        w[axis] = up ? c.part[axis][i] : 1 - c.part[axis][i];
                        s[axis] = up ? level->scale : -level->scale;
                    }
                    slope[0] += along * s[0] * w[1] * w[2];
                    slope[1] += along * w[0] * s[1] * w[2];
                    slope[2] += along * w[0] * w[1] * s[2];
                }
                const float *point = x + 3 * (at + i);
                for (int axis = 0; axis < 3; axis++) // clamped outside: no slope there
                    if (point[axis] >= 0 && point[axis] <= 1) dx[3 * (at + i) + axis] += slope[axis];
            }
        }
    }
}
