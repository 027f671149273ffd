/* The multiresolution hash grid: points of the unit cube to features.
 *
 * Muller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a Multiresolution
 * Hash Encoding", 2022, section 3. Level l has about n_min b^l cells along the cube, b chosen so
 * that the finest has n_max; a level whose vertices fit into 2^log2_entries is stored densely, a
 * finer one shares that many entries by h(i, j, k) = i xor 2654435761 j xor 805459861 k. A
 * feature is the trilinear mean of the eight entries around the point.
 *
 * The kernels are fused; the composition below says the same in public operations and serves f64,
 * tangents and gradients of gradients. Rows past `count` are dead: zero, and no gradient.
 *
 * Where a pass without a tape has found the values already, to choose among the points, the kernel
 * copies the chosen rows instead of finding them again; everything else stays as it is. */
#include "render/ops/hash_grid.h"

#include "autodiff/cpu/simd.h"
#include "autodiff/ops/axes.h"

#include <math.h>
#include <string.h>

/* ---- levels */

static bool lay_levels(const render_grid_options *options, hash_grid_attributes *grid) {
    int levels = options->levels ? options->levels : 8;
    int features = options->features ? options->features : 4;
    int log2_entries = options->log2_entries ? options->log2_entries : 17;
    double n_min = options->n_min ? options->n_min : 16;
    double n_max = options->n_max ? options->n_max : 2048;
    if (levels < 1 || levels > RENDER_GRID_LEVELS_MAX || features < 1 || features > 8
        || log2_entries < 3 || log2_entries > 26 || n_min < 1 || n_max < n_min || n_max > 1 << 20)
        return false;
    memset(grid, 0, sizeof *grid); // attributes are compared and copied as bytes
    grid->levels = levels, grid->features = features;
    double growth = levels > 1 ? exp(log(n_max / n_min) / (levels - 1)) : 1;
    uint64_t most = (uint64_t)1 << log2_entries, offset = 0;
    for (int l = 0; l < levels; l++) {
        double scale = n_min * pow(growth, l) - 1;
        uint64_t resolution = (uint64_t)ceil(scale - 1e-6) + 1;
        // One vertex more than cells, and one for the half-cell shift.
        uint64_t vertices = (resolution + 1) * (resolution + 1) * (resolution + 1);
        bool hashed = vertices > most;
        uint64_t size = hashed ? most : (vertices + 7) / 8 * 8;
        grid->level[l] = (hash_grid_level){.scale = (float)scale,
            .resolution = (uint32_t)(resolution + 1), .offset = (uint32_t)offset,
            .size = (uint32_t)size, .hashed = hashed};
        offset += size;
    }
    grid->entries = (uint32_t)offset;
    return true;
}

int64_t render_grid_entries(const render_grid_options *options) {
    hash_grid_attributes grid;
    return lay_levels(options, &grid) ? grid.entries : 0;
}

/* ---- shapes */

// From COUNT on they may be absent; of the known values' tables those behind the first, too.
enum { POINTS, ENTRIES, COUNT, ROWS, KNOWN, INPUTS = KNOWN + RENDER_PIECES_MAX };

static void grid_infer(ad_infer *call) {
    const hash_grid_attributes *grid = call->attributes;
    const ad_view *in = call->input, *x = &in[POINTS], *table = &in[ENTRIES];
    call->saved_outputs = 0, call->saved_inputs &= 1u << POINTS | 1u << ENTRIES | 1u << COUNT;
    char a[160], b[160];
    ad_view_text(x, a, sizeof a), ad_view_text(table, b, sizeof b);
    if (x->rank != 2 || x->size[1] != 3 || !ad_type_is_real(x->type))
        ad_infer_fail(call, "points are real (n, 3), not %s", a);
    else if (table->rank != 2 || table->size[0] != grid->entries
             || table->size[1] != grid->features || table->type != x->type)
        ad_infer_fail(call, "the table is (%u, %d) of the points' type, not %s", grid->entries,
                      grid->features, b);
    int64_t features = (int64_t)grid->levels * grid->features;
    bool known = call->inputs > ROWS && ad_view_present(&in[ROWS]);
    bool good = !known || (x->type == AD_F32 && x->rank > 0 && in[ROWS].type == AD_U32
                           && ad_view_count(&in[ROWS]) == x->size[0]);
    for (int i = KNOWN; i < call->inputs && known; i++)
        if (ad_view_present(&in[i]))
            good = good && in[i].rank == 2 && in[i].size[1] == features && in[i].type == AD_F32;
    if (!good)
        ad_infer_fail(call, "known values are f32 (m, %lld), their rows u32, one for each point",
                      (long long)features);
    call->output[0] = (ad_view){.type = x->type, .rank = 2, .size = {x->size[0], features}};
    if (x->rank > 0 && !known) call->workspace = render_grid_workspace(grid, x->size[0]);
}

static int64_t live_rows(const ad_launch *launch, int operand, int64_t rows) {
    if (operand >= launch->inputs || !ad_view_present(&launch->input[operand])) return rows;
    int64_t count = *(const uint32_t *)launch->input[operand].data;
    return count < rows ? count : rows;
}

static void clear_rows(int threads, float *data, int64_t from, int64_t to, int64_t row) {
    enum { PIECE = 1024 };
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (to - from > 2 * PIECE)
    for (int64_t at = from; at < to; at += PIECE) {
        int64_t rows = to - at < PIECE ? to - at : PIECE;
        memset(data + at * row, 0, (size_t)(rows * row) * sizeof *data);
    }
}

// A row from whichever of the tables it lies in, one behind the other; zeros behind all of them.
AD_INLINE void copy_row(const ad_launch *launch, int64_t row, int64_t width, float *to) {
    for (int i = KNOWN; i < launch->inputs; i++) {
        const ad_view *table = &launch->input[i];
        int64_t size = table->data ? table->size[0] : 0;
        if (row < size) {
            memcpy(to, (const float *)table->data + row * width, (size_t)width * sizeof *to);
            return;
        }
        row -= size;
    }
    memset(to, 0, (size_t)width * sizeof *to);
}

static void copy_known(const ad_launch *launch, int64_t live, int64_t width, float *y) {
    const uint32_t *rows = launch->input[ROWS].data;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (live > 4096)
    for (int64_t i = 0; i < live; i++) {
        if (width == 32) copy_row(launch, rows[i], 32, y + 32 * i); // known to the compiler
        else copy_row(launch, rows[i], width, y + i * width);
    }
}

static void grid_cpu(const ad_launch *launch) {
    const hash_grid_attributes *grid = launch->attributes;
    int64_t rows = launch->input[POINTS].size[0], live = live_rows(launch, COUNT, rows);
    float *y = launch->output[0].data;
    if (launch->inputs > ROWS && ad_view_present(&launch->input[ROWS]))
        copy_known(launch, live, (int64_t)grid->levels * grid->features, y);
    else
        render_grid_forward(grid, launch->threads, live, launch->input[POINTS].data,
                            launch->input[ENTRIES].data, y, launch->workspace);
    clear_rows(launch->threads, y, live, rows, (int64_t)grid->levels * grid->features);
}

/* ---- the fused derivative: three operations without derivatives of their own */

// table' (a state), x, dy, count: adds to the state.
static void scatter_state_infer(ad_infer *call) {
    call->workspace = render_grid_workspace(call->attributes, call->input[1].size[0]);
}

static void scatter_state_cpu(const ad_launch *launch) {
    int64_t live = live_rows(launch, 3, launch->input[1].size[0]);
    render_grid_scatter(launch->attributes, launch->threads, live, launch->input[1].data,
                      launch->input[2].data, launch->input[0].data, launch->workspace);
}

// x, dy, count: a fresh gradient of the table.
static void scatter_infer(ad_infer *call) {
    const hash_grid_attributes *grid = call->attributes;
    call->output[0] = (ad_view){.type = AD_F32, .rank = 2,
                                .size = {grid->entries, grid->features}};
    call->workspace = render_grid_workspace(grid, call->input[0].size[0]);
}

static void scatter_cpu(const ad_launch *launch) {
    const hash_grid_attributes *grid = launch->attributes;
    int64_t live = live_rows(launch, 2, launch->input[0].size[0]);
    memset(launch->output[0].data, 0, (size_t)grid->entries * (size_t)grid->features * 4);
    render_grid_scatter(grid, launch->threads, live, launch->input[0].data, launch->input[1].data,
                      launch->output[0].data, launch->workspace);
}

// x, table, dy, count: the gradient of the points.
static void points_infer(ad_infer *call) { call->output[0] = call->input[0]; }

static void points_cpu(const ad_launch *launch) {
    int64_t rows = launch->input[0].size[0], live = live_rows(launch, 3, rows);
    float *dx = launch->output[0].data;
    render_grid_points(launch->attributes, launch->threads, live, launch->input[0].data,
                     launch->input[1].data, launch->input[2].data, dx);
    clear_rows(launch->threads, dx, live, rows, 3);
}

static const ad_op op_scatter_state = {
    .name = "hash_grid_add", .inputs_min = 3, .inputs_max = 4, .optional = 8, .writes = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL, .attribute_bytes = sizeof(hash_grid_attributes),
    .infer = scatter_state_infer, .cpu = scatter_state_cpu};
static const ad_op op_scatter = {
    .name = "hash_grid_scatter", .inputs_min = 2, .inputs_max = 3, .optional = 4, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(hash_grid_attributes),
    .infer = scatter_infer, .cpu = scatter_cpu};
static const ad_op op_points = {
    .name = "hash_grid_points", .inputs_min = 3, .inputs_max = 4, .optional = 8, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(hash_grid_attributes),
    .infer = points_infer, .cpu = points_cpu};

static void grid_vjp_fused(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor x = call->input[0], table = call->input[1], none[1];
    ad_tensor count = call->inputs > 2 ? call->input[2] : (ad_tensor){0}, dy = call->dy[0];
    if (call->wanted & 1)
        call->dx[0] = ad_apply1(ctx, &op_points, 4, (ad_tensor[]){x, table, dy, count},
                                call->attributes);
    if (!(call->wanted & 2)) return;
    if (call->target[1].slot) {
        ad_apply(ctx, &op_scatter_state, 4, (ad_tensor[]){call->target[1], x, dy, count},
                 call->attributes, none);
        call->done |= 2;
    } else {
        call->dx[1] = ad_apply1(ctx, &op_scatter, 3, (ad_tensor[]){x, dy, count},
                                call->attributes);
    }
}

/* ---- the composition */

// (n) u32 x + y * multiplier + z * multiplier of one corner, summed or xored.
static ad_tensor corner_index(ad_context *ctx, const hash_grid_level *level, const ad_tensor *cell,
                              int corner) {
    uint32_t stride[3] = {1, level->hashed ? HASH_GRID_PRIME_Y : level->resolution,
                          level->hashed ? HASH_GRID_PRIME_Z
                                        : level->resolution * level->resolution};
    ad_tensor index = {0};
    for (int axis = 0; axis < 3; axis++) {
        ad_tensor up = ad_scalar(ctx, AD_U32, corner >> axis & 1);
        ad_tensor term = ad_mul(ctx, ad_add(ctx, cell[axis], up),
                                ad_scalar(ctx, AD_U32, stride[axis]));
        if (!axis) index = term;
        else if (level->hashed) index = ad_bit_xor(ctx, index, term);
        else index = ad_add(ctx, index, term);
    }
    ad_tensor last = ad_scalar(ctx, AD_U32, level->size - 1);
    index = level->hashed ? ad_bit_and(ctx, index, last) : ad_minimum(ctx, index, last);
    return ad_add(ctx, index, ad_scalar(ctx, AD_U32, level->offset));
}

static ad_tensor level_features(ad_context *ctx, const hash_grid_level *level, ad_tensor x,
                                ad_tensor table) {
    ad_tensor position = ad_affine(ctx, ad_clamp(ctx, x, 0, 1), level->scale, 0.5);
    ad_tensor whole = ad_floor(ctx, position), part = ad_sub(ctx, position, whole);
    ad_tensor cell[3], weight[3], sum = {0};
    for (int axis = 0; axis < 3; axis++) {
        ad_tensor column = ad_slice(ctx, whole, 1, axis, axis + 1, 1);
        ad_shape rows = {.rank = 1, .size = {ad_shape_of(ctx, x).size[0]}};
        cell[axis] = ad_cast(ctx, ad_reshape(ctx, column, rows), AD_U32);
        weight[axis] = ad_slice(ctx, part, 1, axis, axis + 1, 1); // (n, 1)
    }
    for (int c = 0; c < 8; c++) {
        ad_tensor w = {0};
        for (int axis = 0; axis < 3; axis++) {
            ad_tensor side = c >> axis & 1 ? weight[axis] : ad_affine(ctx, weight[axis], -1, 1);
            w = axis ? ad_mul(ctx, w, side) : side;
        }
        ad_tensor entry = ad_gather(ctx, table, corner_index(ctx, level, cell, c), 0);
        ad_tensor term = ad_mul(ctx, w, entry);
        sum = c ? ad_add(ctx, sum, term) : term;
    }
    return sum; // (n, features)
}

static void grid_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const hash_grid_attributes *grid = call->attributes;
    ad_tensor features = {0};
    for (int l = 0; l < grid->levels && !ad_failed(ctx); l++) {
        ad_tensor level = level_features(ctx, &grid->level[l], call->input[0], call->input[1]);
        features = l ? ad_concat(ctx, 2, (ad_tensor[]){features, level}, 1) : level;
    }
    ad_tensor count = call->inputs > 2 ? call->input[2] : (ad_tensor){0};
    output[0] = render_mask_rows(ctx, features, count);
}

/* ---- public */

bool render_grid_levels(ad_context *ctx, const render_grid_options *options,
                        hash_grid_attributes *grid) {
    if (lay_levels(options, grid)) return true;
    ad_raise(ctx, "hash_grid: 1 to %d levels of 1 to 8 features, 2^3 to 2^26 entries, n_min up "
             "to n_max", RENDER_GRID_LEVELS_MAX);
    return false;
}

ad_tensor render_hash_grid(ad_context *ctx, ad_tensor points, ad_tensor table, ad_tensor count,
                           const render_grid_options *options) {
    hash_grid_attributes grid;
    if (!render_grid_levels(ctx, options, &grid)) return (ad_tensor){0};
    return ad_apply1(ctx, &render_op_hash_grid, 3, (ad_tensor[]){points, table, count}, &grid);
}

ad_tensor render_hash_grid_known(ad_context *ctx, ad_tensor points, ad_tensor table,
                                 ad_tensor count, int tables, const ad_tensor *known,
                                 ad_tensor rows, const render_grid_options *options) {
    hash_grid_attributes grid;
    ad_tensor input[INPUTS] = {points, table, count, rows};
    if (!render_grid_levels(ctx, options, &grid)) return (ad_tensor){0};
    if (tables < 1 || tables > RENDER_PIECES_MAX) {
        ad_raise(ctx, "hash_grid: %d tables of known values: expected 1 to %d", tables,
                 RENDER_PIECES_MAX);
        return (ad_tensor){0};
    }
    for (int i = 0; i < tables; i++) input[KNOWN + i] = known[i];
    return ad_apply1(ctx, &render_op_hash_grid, KNOWN + tables, input, &grid);
}

static void grid_cost(const ad_infer *call, double *flops, double *bytes) {
    const hash_grid_attributes *grid = call->attributes;
    double entries = (double)call->input[0].size[0] * grid->levels * 8;
    *flops = entries * (2.0 * grid->features + 3);
    *bytes = entries * 4.0 * grid->features;
}

static bool grid_sample(ad_sample *s) {
    // Points inside the cube; few, coarse cells, so that a finite difference stays in its cell.
    hash_grid_attributes grid;
    static const render_grid_options sizes[] = {
        {.levels = 2, .features = 4, .log2_entries = 4, .n_min = 2, .n_max = 3},
        {.levels = 1, .features = 2, .log2_entries = 8, .n_min = 3, .n_max = 3}};
    if (s->variant > 1 || s->shape.rank < 1 || !ad_type_is_real(s->type)) return false;
    lay_levels(&sizes[s->variant], &grid);
    memcpy(s->attributes.bytes, &grid, sizeof grid < sizeof s->attributes ? sizeof grid : 0);
    int64_t rows = 1;
    for (int i = 0; i < s->shape.rank; i++) rows *= s->shape.size[i];
    s->inputs = 2;
    s->input[0].type = s->input[1].type = s->type;
    s->input[0].shape = AD_SHAPE(rows, 3), s->input[0].low = 0.05, s->input[0].high = 0.2;
    s->input[1].shape = AD_SHAPE(grid.entries, grid.features);
    s->input[1].low = -1, s->input[1].high = 1;
    return true;
}

const ad_op render_op_hash_grid = {
    .name = "hash_grid", .inputs_min = 2, .inputs_max = INPUTS, .outputs = 1,
    .optional = (1u << INPUTS) - (1u << COUNT),
    .attribute_bytes = sizeof(hash_grid_attributes), .infer = grid_infer, .cpu = grid_cpu,
    .compose = grid_compose, .vjp_fused = grid_vjp_fused, .cost = grid_cost,
    .sample = grid_sample};
