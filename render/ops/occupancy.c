/* The occupancy grid: which cells may hold something, learned from the field itself.
 *
 * Muller et al. 2022, appendix C.2. Every so many steps some cells, part of all, part of the
 * occupied ones, are asked for the density at a random point within. A cell's value is the largest
 * seen, fading by a factor each update; its bit is set while the value exceeds the smaller of a
 * threshold and the mean. */
#include "render/render.h"

#include "autodiff/ops/random.h"
#include "render/ops/occupancy.h"

#include <math.h>
#include <string.h>

typedef struct cells_attributes {
    int32_t cascades, resolution;
    int64_t count, uniform;   // cells to draw; the first `uniform` of them anywhere,
    int64_t start;            // or from here on in order; -1: anywhere
    uint32_t ordinal;
    uint64_t seed;
} cells_attributes;

int64_t render_occupancy_cells(int cascades, int resolution) {
    return occupancy_cells(cascades, resolution);
}

int64_t render_occupancy_words(int cascades, int resolution) {
    return occupancy_words(cascades, resolution);
}

static bool good_size(ad_context *ctx, const char *name, int cascades, int resolution) {
    if (occupancy_good_size(cascades, resolution)) return true;
    ad_raise(ctx, "%s: %d cascades of %d cells along an axis: expected 1 to 16 of 8 to 512 "
             "cells, a multiple of 8", name, cascades, resolution);
    return false;
}

/* ---- drawing cells: inputs bits, step; outputs cell numbers, points */

static void cells_infer(ad_infer *call) {
    const cells_attributes *a = call->attributes;
    if (!occupancy_good_bits(call, &call->input[0], a->cascades, a->resolution)) return;
    call->output[0] = (ad_view){.type = AD_U32, .rank = 1, .size = {a->count}};
    call->output[1] = (ad_view){.type = AD_F32, .rank = 2, .size = {a->count, 3}};
    int64_t words = (occupancy_cells(a->cascades, a->resolution) + 31) / 32;
    call->workspace = (size_t)(words + 1) * sizeof(uint32_t);
}

// before[w]: how many bits are set in front of word w; before[words]: in all.
static void count_bits(const uint32_t *bits, int64_t words, uint32_t *before) {
    before[0] = 0;
    for (int64_t w = 0; w < words; w++)
        before[w + 1] = before[w] + (uint32_t)__builtin_popcount(bits[w]);
}

// The number of the bit with so many set ones in front of it.
static int64_t find_bit(const uint32_t *bits, int64_t words, const uint32_t *before,
                        uint32_t rank) {
    int64_t low = 0, high = words; // before[low] <= rank < before[high]
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (before[middle] <= rank) low = middle;
        else high = middle;
    }
    uint32_t word = bits[low];
    for (uint32_t skip = rank - before[low]; skip; skip--) word &= word - 1;
    return low * 32 + __builtin_ctz(word);
}

static void cells_cpu(const ad_launch *launch) {
    const cells_attributes *a = launch->attributes;
    const uint32_t *bits = launch->input[0].data;
    uint32_t step = *(const uint32_t *)launch->input[1].data;
    uint32_t *cells = launch->output[0].data, *before = launch->workspace;
    float *points = launch->output[1].data;
    int n = a->resolution;
    uint64_t total = (uint64_t)occupancy_cells(a->cascades, n);
    int64_t words = ((int64_t)total + 31) / 32;
    if (a->count > a->uniform) count_bits(bits, words, before);
    uint64_t occupied = a->count > a->uniform ? before[words] : 0;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (a->count > 4096)
    for (int64_t i = 0; i < a->count; i++) {
        ad_random_words w = ad_random_philox((uint32_t)i, 0, a->ordinal, step, (uint32_t)a->seed,
                                             (uint32_t)(a->seed >> 32));
        uint64_t cell = w.w * total >> 32;
        if (i >= a->uniform && occupied)
            cell = (uint64_t)find_bit(bits, words, before, (uint32_t)(w.w * occupied >> 32));
        else if (a->start >= 0)
            cell = (uint64_t)(a->start + i) % total;
        cells[i] = (uint32_t)cell;
        uint64_t at[3] = {cell % (uint64_t)n, cell / (uint64_t)n % (uint64_t)n,
                          cell / ((uint64_t)n * (uint64_t)n) % (uint64_t)n};
        int cascade = (int)(cell / ((uint64_t)n * (uint64_t)n * (uint64_t)n));
        float side = ldexpf(1, cascade + 1 - a->cascades);
        uint32_t word[3] = {w.x, w.y, w.z};
        for (int axis = 0; axis < 3; axis++)
            points[3 * i + axis] = 0.5f - 0.5f * side
                + ((float)at[axis] + ad_random_uniform(word[axis])) * side / (float)n;
    }
}

static const ad_op op_cells = {
    .name = "occupancy_cells", .inputs_min = 2, .inputs_max = 2, .outputs = 2,
    .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM, .attribute_bytes = sizeof(cells_attributes),
    .infer = cells_infer, .cpu = cells_cpu};

bool render_occupancy_draw(ad_context *ctx, ad_tensor bits, int cascades, int resolution,
                           int64_t start, int64_t uniform, int64_t occupied, ad_tensor *cells,
                           ad_tensor *points) {
    cells_attributes a;
    *cells = *points = (ad_tensor){0};
    if (!good_size(ctx, "occupancy_cells", cascades, resolution)) return false;
    if (uniform < 0 || occupied < 0 || uniform > INT32_MAX || occupied > INT32_MAX - uniform) {
        ad_raise(ctx, "occupancy_cells: %lld cells anywhere and %lld occupied ones: expected 0 to "
                 "2^31 - 1", (long long)uniform, (long long)occupied);
        return false;
    }
    memset(&a, 0, sizeof a);
    a.cascades = cascades, a.resolution = resolution;
    a.count = uniform + occupied, a.uniform = uniform, a.start = start;
    a.ordinal = ad_random_ordinal(ctx), a.seed = ad_seed(ctx);
    ad_tensor out[2];
    bool good = ad_apply(ctx, &op_cells, 2, (ad_tensor[]){bits, ad_step_tensor(ctx)}, &a, out);
    *cells = out[0], *points = out[1];
    return good;
}

/* ---- updating: inputs value (state), bits (state), cells, densities */

typedef struct update_attributes {
    int32_t cascades, resolution;
    float decay, step, threshold;
} update_attributes;

static void update_infer(ad_infer *call) {
    const update_attributes *a = call->attributes;
    const ad_view *in = call->input;
    int64_t cells = occupancy_cells(a->cascades, a->resolution);
    if (in[0].type != AD_F32 || ad_view_count(&in[0]) != cells)
        ad_infer_fail(call, "the values of %d cascades of %d cells along an axis are %lld f32",
                      a->cascades, a->resolution, (long long)cells);
    else if (!occupancy_good_bits(call, &in[1], a->cascades, a->resolution))
        return;
    else if (in[2].rank != 1 || !ad_view_same_shape(&in[2], &in[3]) || in[2].type != AD_U32
             || in[3].type != AD_F32)
        ad_infer_fail(call, "cells are u32, densities f32, both (n)");
    call->workspace = 4096 * sizeof(double);
}

// The mean of the cells that were not ruled out: sums of fixed pieces, added in order.
static double mean_value(const float *value, int64_t cells, double *part, int threads) {
    int64_t pieces = 1024, piece = (cells / 16 + pieces - 1) / pieces * 16;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (cells > 65536)
    for (int64_t p = 0; p < pieces; p++) {
        float lane[16] = {0}; // whole vectors
        int64_t end = (p + 1) * piece < cells ? (p + 1) * piece : cells;
        for (int64_t i = p * piece; i < end; i += 16)
            for (int64_t k = 0; k < 16; k++) // cells are a multiple of 512
                lane[k] += value[i + k] > 0 ? value[i + k] : 0;
        double sum = 0;
        for (int k = 0; k < 16; k++) sum += lane[k];
        part[p] = sum;
    }
    double sum = 0;
    for (int64_t p = 0; p < pieces; p++) sum += part[p];
    return sum / (double)cells;
}

static void set_bits(const update_attributes *a, const float *value, float threshold,
                     uint32_t *bits, int threads) {
    int n = a->resolution, m = n / OCCUPANCY_BLOCK;
    int64_t cells = occupancy_cells(a->cascades, n), words = (cells + 31) / 32;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (cells > 65536)
    for (int64_t w = 0; w < words; w++) {
        uint32_t word = 0;
        for (int64_t i = 0; i < 32 && w * 32 + i < cells; i++)
            word |= (uint32_t)(value[w * 32 + i] > threshold) << i;
        bits[w] = word;
    }
    uint32_t *block_bits = bits + words;
    int64_t blocks = occupancy_cells(a->cascades, m);
#pragma omp parallel for num_threads(threads) schedule(static) if (cells > 65536)
    for (int64_t w = 0; w < (blocks + 31) / 32; w++) {
        uint32_t word = 0;
        for (int64_t i = 0; i < 32 && w * 32 + i < blocks; i++) {
            int64_t b = w * 32 + i, x = b % m, y = b / m % m, z = b / m / m; // z: cascades too
            bool any = false;
            for (int64_t dz = 0; dz < OCCUPANCY_BLOCK && !any; dz++)
                for (int64_t dy = 0; dy < OCCUPANCY_BLOCK && !any; dy++) {
                    int64_t first = ((z * OCCUPANCY_BLOCK + dz) * n + y * OCCUPANCY_BLOCK + dy) * n
                                  + x * OCCUPANCY_BLOCK;
                    any = bits[first >> 5] >> (first & 31) & 15; // n is a multiple of 8
                }
            word |= (uint32_t)any << i;
        }
        block_bits[w] = word;
    }
}

static void update_cpu(const ad_launch *launch) {
    const update_attributes *a = launch->attributes;
    float *value = launch->input[0].data;
    uint32_t *bits = launch->input[1].data;
    const uint32_t *cell = launch->input[2].data;
    const float *density = launch->input[3].data;
    int64_t cells = occupancy_cells(a->cascades, a->resolution);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (cells > 65536)
    for (int64_t i = 0; i < cells; i++) value[i] *= value[i] > 0 ? a->decay : 1;
    for (int64_t i = 0; i < launch->input[2].size[0]; i++) { // few, in order
        uint32_t c = cell[i];
        if (c >= cells || value[c] < 0) continue; // negative: no camera sees it
        float alpha = density[i] * a->step;
        if (!(alpha < 1e10f)) alpha = 1e10f;
        if (alpha > value[c]) value[c] = alpha;
    }
    double mean = mean_value(value, cells, launch->workspace, launch->threads);
    float threshold = mean < a->threshold ? (float)mean : a->threshold;
    set_bits(a, value, threshold, bits, launch->threads);
}

static const ad_op op_update = {
    .name = "occupancy_update", .inputs_min = 4, .inputs_max = 4, .writes = 3,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL, .attribute_bytes = sizeof(update_attributes),
    .infer = update_infer, .cpu = update_cpu};

void render_occupancy_update(ad_context *ctx, ad_tensor value, ad_tensor bits, ad_tensor cells,
                             ad_tensor densities, int cascades, int resolution, double step,
                             bool fade) {
    update_attributes a;
    if (!good_size(ctx, "occupancy_update", cascades, resolution)) return;
    memset(&a, 0, sizeof a);
    a.cascades = cascades, a.resolution = resolution;
    a.decay = fade ? 0.95f : 1, a.step = (float)step, a.threshold = 0.01f;
    ad_tensor none[1];
    ad_apply(ctx, &op_update, 4, (ad_tensor[]){value, bits, cells, densities}, &a, none);
}
