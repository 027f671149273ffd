/* hash_grid.h: the levels of a multiresolution hash grid, shared by operation and kernels. */
#ifndef ADJOINT_RENDER_HASH_GRID_H
#define ADJOINT_RENDER_HASH_GRID_H

#include "autodiff/autodiff.h"
#include "autodiff/ops/optimize.h"
#include "render/render.h"

enum { HASH_GRID_PRIME_Y = 2654435761u, HASH_GRID_PRIME_Z = 805459861u };

typedef struct hash_grid_level {
    float scale;          // cells along the unit cube, less one: position = x scale + 1/2
    uint32_t resolution;  // vertices along an axis
    uint32_t offset;      // of its first entry in the table
    uint32_t size;        // entries; a power of two where hashed
    uint32_t hashed;
} hash_grid_level;

typedef struct hash_grid_attributes {
    int32_t levels, features;
    uint32_t entries;     // of all levels
    hash_grid_level level[RENDER_GRID_LEVELS_MAX];
} hash_grid_attributes;

// Lays out the levels; false, with the context's error raised, where the options are out of range.
bool render_grid_levels(ad_context *ctx, const render_grid_options *options,
                        hash_grid_attributes *grid);

// Kernels on rows [0, rows): y (n, levels * features); dtable is added to, dx is overwritten.
// workspace: render_grid_workspace bytes.
size_t render_grid_workspace(const hash_grid_attributes *grid, int64_t rows);
void render_grid_forward(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *table, float *y, float *workspace);
void render_grid_scatter(const hash_grid_attributes *grid, int threads, int64_t rows,
                       const float *x, const float *dy, float *dtable, float *workspace);
// A step of sparse Adam on the table for the same sums, which are formed a level at a time and
// spent while the caches hold them. The same bits as a scatter to zeros and ad_adam after it.
typedef struct hash_grid_step {
    ad_adam_rule rule;
    float *table, *first, *second;
    uint32_t *steps;
} hash_grid_step;
size_t render_grid_step_workspace(const hash_grid_attributes *grid, int threads, int64_t rows);
void render_grid_step(const hash_grid_attributes *grid, int threads, int64_t rows, const float *x,
                      const float *dy, const hash_grid_step *step, float *workspace);
void render_grid_points(const hash_grid_attributes *grid, int threads, int64_t rows,
                      const float *x, const float *table, const float *dy, float *dx);

#endif
