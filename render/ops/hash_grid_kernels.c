/* The hash grid's kernels: interpolate, scatter, and the slope along the point.
 *
 * Corner numbers and weights are made for a block of points at a time, in loops that the compiler
 * turns into vectors; then each point gathers its eight entries, one 16-byte load each where an
 * entry has four features. The forward pass goes level by level over blocks small enough that the
 * block's features stay in the nearest cache. The scatter gives every (level, slice of its table)
 * one owner who walks the points in order: each entry's sum is formed in the order of the points,
 * whoever owns it, so its bits do not depend on the thread count. */
#include "render/ops/hash_grid.h"

#include "autodiff/cpu/simd.h"

#include <math.h>
#include <string.h>

enum { LANES = AD_LANES, BLOCK = 1024 };

typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));

// Numbers and weights of the eight corners around LANES points; corner c lies at +1 along x, y, z
// where bit 0, 1, 2 of c is set. part: the points' positions within their cells.
typedef struct corners {
    uint32_t index[8][LANES];
    float weight[8][LANES];
    float part[3][LANES];
} corners;

// x: coordinates of LANES points, one axis after the other, `stride` numbers apart.
AD_INLINE void find_corners(const hash_grid_level *level, const float *x, int64_t stride,
                            corners *out) {
    ad_f32v one = ad_f32v_set(1), side[3][2]; // weights of the lower and upper side
    ad_u32v cell[3];
    for (int axis = 0; axis < 3; axis++) {
        ad_f32v position = ad_f32v_load(x + axis * stride) * ad_f32v_set(level->scale)
                         + ad_f32v_set(0.5f);
        ad_i32v whole = __builtin_convertvector(position, ad_i32v);
        cell[axis] = (ad_u32v)whole;
        side[axis][1] = position - __builtin_convertvector(whole, ad_f32v);
        side[axis][0] = one - side[axis][1];
        ad_f32v_store(out->part[axis], side[axis][1]);
    }
    bool hashed = level->hashed;
    uint32_t y = hashed ? HASH_GRID_PRIME_Y : level->resolution;
    uint32_t z = hashed ? HASH_GRID_PRIME_Z : level->resolution * level->resolution;
    ad_u32v a[2] = {cell[0], cell[0] + ad_u32v_set(1)};
    ad_u32v b[2] = {cell[1] * ad_u32v_set(y), (cell[1] + ad_u32v_set(1)) * ad_u32v_set(y)};
    ad_u32v d[2] = {cell[2] * ad_u32v_set(z), (cell[2] + ad_u32v_set(1)) * ad_u32v_set(z)};
    ad_u32v last = ad_u32v_set(level->size - 1);
    AD_UNROLL
    for (int c = 0; c < 8; c++) {
        ad_u32v index;
        if (hashed) {
            index = (a[c & 1] ^ b[c >> 1 & 1] ^ d[c >> 2]) & last;
        } else {
            index = a[c & 1] + b[c >> 1 & 1] + d[c >> 2];
            ad_u32v inside = (ad_u32v)(index < last);
            index = (index & inside) | (last & ~inside);
        }
        ad_u32v_store(out->index[c], index);
        ad_f32v_store(out->weight[c], side[0][c & 1] * side[1][c >> 1 & 1] * side[2][c >> 2]);
    }
}

// Points axis by axis, clamped to the cube (a NaN goes to 0), with room for a last full vector.
static int64_t split_stride(int64_t rows) { return (rows + LANES - 1) / LANES * LANES; }

static void split_points(int64_t first, int64_t n, int64_t rows, const float *x, float *split) {
    int64_t stride = split_stride(rows), end = first + n == rows ? stride : first + n;
    for (int64_t i = first; i < end; i++)
        for (int axis = 0; axis < 3; axis++) {
            float at = i < rows ? x[3 * i + axis] : 0;
            at = at > 0 ? at : 0;
            split[axis * stride + i] = at < 1 ? at : 1;
        }
}

// One point's features: its eight entries times their weights.
AD_INLINE f4 sum_fours(const corners *c, int i, const float *entries) {
    f4 even = {0}, odd = {0};
    AD_UNROLL
    for (int k = 0; k < 8; k += 2) {
        even += c->weight[k][i] * *(const f4 *)(entries + 4 * (size_t)c->index[k][i]);
        odd += c->weight[k + 1][i] * *(const f4 *)(entries + 4 * (size_t)c->index[k + 1][i]);
    }
    return even + odd;
}

static void sum_any(const corners *c, int i, int features, const float *entries, float *to) {
    for (int f = 0; f < features; f++) {
        float sum = 0;
        for (int k = 0; k < 8; k++)
            sum += c->weight[k][i] * entries[(size_t)c->index[k][i] * (size_t)features + (size_t)f];
        to[f] = sum;
    }
}

static void forward_block(const hash_grid_attributes *grid, const hash_grid_level *level,
                          int64_t n, const float *x, int64_t stride, const float *table,
                          float *y) {
    int features = grid->features;
    const float *entries = table + (int64_t)level->offset * features;
    corners c;
    for (int64_t at = 0; at < n; at += LANES) {
        int count = n - at < LANES ? (int)(n - at) : LANES;
        float *to = y + at * features;
        find_corners(level, x + at, stride, &c);
        if (features == 4)
            for (int i = 0; i < count; i++) *(f4 *)(to + 4 * i) = sum_fours(&c, i, entries);
        else
            for (int i = 0; i < count; i++) sum_any(&c, i, features, entries, to + i * features);
    }
}

// Reads an entry of each cache line in order: the memory then streams what random access would
// fetch one miss at a time. The sum keeps the loop alive.
static float touch(const float *from, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; i += 16) sum += from[i];
    return sum;
}

// Copies n groups of `features` numbers, strides apart in numbers.
static void copy_groups(int64_t n, int features, const float *from, int64_t from_stride, float *to,
                        int64_t to_stride) {
    if (features == 4)
        for (int64_t i = 0; i < n; i++)
            *(f4 *)(to + i * to_stride) = *(const f4 *)(from + i * from_stride);
    else
        for (int64_t i = 0; i < n; i++)
            for (int f = 0; f < features; f++) to[i * to_stride + f] = from[i * from_stride + f];
}

// Between (levels, rows, features), as the levels are walked, and (rows, levels, features), as
// the rest of the world has it: the rows of one block.
static void swap_levels(const hash_grid_attributes *grid, int64_t first, int64_t n, int64_t rows,
                        float *by_level, float *by_row, bool to_rows) {
    int features = grid->features, row = grid->levels * features;
    enum { TILE = 64 };
    for (int64_t tile = 0; tile < n; tile += TILE) {
        int64_t at = first + tile, count = n - tile < TILE ? n - tile : TILE;
        for (int l = 0; l < grid->levels; l++) {
            float *level = by_level + ((int64_t)l * rows + at) * features;
            float *wide = by_row + at * row + l * features;
            if (to_rows) copy_groups(count, features, level, features, wide, row);
            else copy_groups(count, features, wide, row, level, features);
        }
    }
}

size_t render_grid_workspace(const hash_grid_attributes *grid, int64_t rows) {
    // The points axis by axis, then the features level by level.
    return ((size_t)split_stride(rows) * 3 + (size_t)rows * (size_t)(grid->levels * grid->features))
         * sizeof(float);
}

void render_grid_forward(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *table, float *y, float *workspace) {
    // One level at a time, finest first: its table stays in the nearest caches meanwhile. Many
    // threads share a level in parts.
    int64_t parts = threads <= 4 ? 1 : threads, part = (rows + parts - 1) / parts;
    int64_t blocks = (rows + BLOCK - 1) / BLOCK, tasks = grid->levels * parts;
    int64_t stride = split_stride(rows);
    float *split = workspace, *by_level = workspace + 3 * stride;
    int features = grid->features;
    part = (part + LANES - 1) / LANES * LANES;
    (void)threads;
#pragma omp parallel num_threads(threads) if (blocks > 1)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = block * BLOCK, n = rows - first < BLOCK ? rows - first : BLOCK;
            split_points(first, n, rows, x, split);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; task++) {
            int l = grid->levels - 1 - (int)(task / parts);
            int64_t first = task % parts * part;
            int64_t n = rows - first < part ? rows - first : part;
            const hash_grid_level *level = &grid->level[l];
            float *to = by_level + ((int64_t)l * rows + first) * features;
            if (n <= 0) continue;
            if (n > level->size / 16)
                to[0] = touch(table + (int64_t)level->offset * features,
                              (int64_t)level->size * features);
            forward_block(grid, level, n, split + first, stride, table, to);
        }
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = block * BLOCK, n = rows - first < BLOCK ? rows - first : BLOCK;
            swap_levels(grid, first, n, rows, by_level, y, true);
        }
    }
}

// Adds the rows' shares, dy (rows, features), to the entries [from, to) of one level; sums: of
// entry `from` on.
static void scatter_level(const hash_grid_attributes *grid, int l, uint32_t from, uint32_t to,
                          int64_t rows, const float *x, int64_t stride, const float *dy,
                          float *sums) {
    const hash_grid_level *level = &grid->level[l];
    int features = grid->features;
    bool whole = from == 0 && to == level->size;
    corners c;
    for (int64_t at = 0; at < rows; at += LANES) {
        int count = rows - at < LANES ? (int)(rows - at) : LANES;
        find_corners(level, x + at, stride, &c);
        for (int i = 0; i < count; i++) {
            const float *d = dy + (at + i) * features;
            if (features == 4 && whole) {
                f4 slope = *(const f4 *)d;
                for (int k = 0; k < 8; k++)
                    *(f4 *)(sums + 4 * (size_t)c.index[k][i]) += c.weight[k][i] * slope;
                continue;
            }
            for (int k = 0; k < 8; k++) {
                uint32_t index = c.index[k][i];
                if (index < from || index >= to) continue;
                float *entry = sums + (size_t)(index - from) * (size_t)features;
                for (int f = 0; f < features; f++) entry[f] += c.weight[k][i] * d[f];
            }
        }
    }
}

// Up to four threads share whole levels; more of them share slices of levels.
static int slices_of(const hash_grid_attributes *grid, int threads) {
    return threads <= 4 ? 1 : (2 * threads + grid->levels - 1) / grid->levels;
}

static int64_t largest_slice(const hash_grid_attributes *grid, int threads) {
    int64_t most = 0, slices = slices_of(grid, threads);
    for (int l = 0; l < grid->levels; l++)
        if (grid->level[l].size > most) most = grid->level[l].size;
    return (most + slices - 1) / slices * grid->features;
}

size_t render_grid_step_workspace(const hash_grid_attributes *grid, int threads, int64_t rows) {
    return render_grid_workspace(grid, rows) + ad_adam_workspace()
         + (size_t)threads * (size_t)largest_slice(grid, threads) * sizeof(float);
}

// Forms the gradient of each slice of a level in turn and hands it over: to dtable, by adding, or
// where `step` is given to a step of Adam, whose sums then lie in `sums`, a slice for each thread.
static void scatter(const hash_grid_attributes *grid, int threads, int64_t rows, const float *x,
                    float *dy, float *dtable, const hash_grid_step *step, float *sums,
                    float *workspace) {
    int slices = slices_of(grid, threads), owners = grid->levels * slices, entered = 0;
    int64_t blocks = (rows + BLOCK - 1) / BLOCK, stride = split_stride(rows);
    int64_t features = grid->features;
    float *split = workspace, *by_level = workspace + 3 * stride;
#pragma omp parallel num_threads(threads) if (blocks > 1)
    {
        int me; // a number of its own for each thread
#pragma omp atomic capture
        me = entered++;
        int64_t most = largest_slice(grid, threads);
        float *mine = step ? sums + me * most : NULL;
        if (step) memset(mine, 0, (size_t)most * sizeof *mine); // a step leaves its sums zero
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = block * BLOCK, n = rows - first < BLOCK ? rows - first : BLOCK;
            split_points(first, n, rows, x, split);
            swap_levels(grid, first, n, rows, by_level, dy, false);
        }
#pragma omp for schedule(dynamic, 1)
        for (int owner = 0; owner < owners; owner++) {
            int l = grid->levels - 1 - owner / slices, slice = owner % slices;
            uint64_t size = grid->level[l].size;
            uint32_t from = (uint32_t)(size * (uint64_t)slice / (uint64_t)slices);
            uint32_t to = (uint32_t)(size * (uint64_t)(slice + 1) / (uint64_t)slices);
            const float *level_dy = by_level + l * rows * features;
            int64_t first = (int64_t)(grid->level[l].offset + from), count = to - from;
            int64_t at = first * features;
            if (step) {
                scatter_level(grid, l, from, to, rows, split, stride, level_dy, mine);
                ad_adam_sparse_rows(&step->rule, count, features, step->steps + first,
                                    step->table + at, mine, step->first + at, step->second + at);
                continue;
            }
            // Keeps the first entry as it is; the sum is only there to be read.
            volatile float seen = 0;
            if (rows > (int64_t)size / 16) seen = touch(dtable + at, count * features);
            (void)seen;
            scatter_level(grid, l, from, to, rows, split, stride, level_dy, dtable + at);
        }
    }
}

void render_grid_scatter(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *dy, float *dtable, float *workspace) {
    scatter(grid, threads, rows, x, (float *)dy, dtable, NULL, NULL, workspace);
}

void render_grid_step(const hash_grid_attributes *grid, int threads, int64_t rows, const float *x,
                      const float *dy, const hash_grid_step *step, float *workspace) {
    float *sums = workspace + render_grid_workspace(grid, rows) / sizeof *workspace;
    scatter(grid, threads, rows, x, (float *)dy, NULL, step, sums, workspace);
}

// d feature / d x = sum over corners of entry times the weight's slope, times the level's scale.
void render_grid_points(const hash_grid_attributes *grid, int threads, int64_t rows,
                      const float *x, const float *table, const float *dy, float *dx) {
    int features = grid->features, row = grid->levels * features;
    int64_t blocks = (rows + LANES - 1) / LANES;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 16)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t at = block * LANES;
        int count = rows - at < LANES ? (int)(rows - at) : LANES;
        float split[3 * LANES];
        split_points(0, count, count, x + 3 * at, split);
        memset(dx + 3 * at, 0, (size_t)count * 3 * sizeof *dx);
        for (int l = 0; l < grid->levels; l++) {
            const hash_grid_level *level = &grid->level[l];
            const float *entries = table + (int64_t)level->offset * features;
            corners c;
            find_corners(level, split, LANES, &c);
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
                    if (point[axis] >= 0 && point[axis] <= 1)
                        dx[3 * (at + i) + axis] += slope[axis];
            }
        }
    }
}
