/* The occupancy grid: which cells may hold something, learned from the field itself.
 *
 * Muller et al. 2022, appendix C.2. Every so many steps some cells, part of all, part of the
 * occupied ones, are asked for the density at a random point within. A cell's value is the largest
 * seen, fading by a factor each update; its bit is set while the value exceeds the smaller of a
 * threshold and a share of the mean. The paper's share is 1: of a scene that is thin fog at first,
 * as photographs of a room are, that takes most cells away before anything is known, and what is
 * learned without them is fog everywhere. */
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
    call->workspace = (size_t)(2 * words + 3) * sizeof(uint32_t);
}

// Where set bits are: how many lie in front of each word (and of the end), and, so that looking
// for one begins close to it, the word that holds each STRIDE-th; behind those the last word.
typedef struct bit_index {
    const uint32_t *bits;
    uint32_t *before, *start; // (words + 1), (set bits / STRIDE + 2)
} bit_index;

enum { STRIDE = 32, LANES = 16 };

static bit_index index_bits(const uint32_t *bits, int64_t words, uint32_t *workspace) {
    bit_index index = {bits, workspace, workspace + words + 1};
    uint32_t count = 0, starts = 0;
    for (int64_t w = 0; w < words; w++) {
        index.before[w] = count;
        count += (uint32_t)__builtin_popcount(bits[w]);
        if (count > starts * STRIDE) index.start[starts++] = (uint32_t)w;
    }
    index.before[words] = count, index.start[starts] = (uint32_t)words - 1;
    return index;
}

// The number of the bit with so many set ones in front of it.
static uint32_t find_bit(const bit_index *index, uint32_t rank) {
    const uint32_t *before = index->before;
    uint32_t low = index->start[rank / STRIDE], high = index->start[rank / STRIDE + 1] + 1;
    while (high - low > 1) { // before[low] <= rank < before[high]
        uint32_t middle = (low + high) / 2;
        if (before[middle] <= rank) low = middle;
        else high = middle;
    }
    // Within the word by halves: is it in the upper one?
    uint32_t word = index->bits[low], skip = rank - before[low], at = low * 32;
    for (uint32_t half = 16; half; half /= 2) {
        uint32_t below = (uint32_t)__builtin_popcount(word & ((1u << half) - 1));
        bool up = skip >= below;
        skip -= up ? below : 0, at += up ? half : 0, word >>= up ? half : 0;
    }
    return at;
}

// A random point in a cell.
static void draw_point(const cells_attributes *a, uint32_t cell, const uint32_t word[3],
                       float *point) {
    uint32_t n = (uint32_t)a->resolution, row = cell / n, layer = row / n;
    uint32_t at[3] = {cell % n, row % n, layer % n};
    float side = ldexpf(1, (int)(layer / n) + 1 - a->cascades);
    for (int axis = 0; axis < 3; axis++)
        point[axis] = 0.5f - 0.5f * side
            + ((float)at[axis] + ad_random_uniform(word[axis])) * side / (float)n;
}

static void cells_cpu(const ad_launch *launch) {
    const cells_attributes *a = launch->attributes;
    const uint32_t *bits = launch->input[0].data;
    uint32_t step = *(const uint32_t *)launch->input[1].data;
    uint32_t *cells = launch->output[0].data;
    float *points = launch->output[1].data;
    uint64_t total = (uint64_t)occupancy_cells(a->cascades, a->resolution), occupied = 0;
    int64_t words = ((int64_t)total + 31) / 32, blocks = (a->count + LANES - 1) / LANES;
    bit_index index = {0};
    if (a->count > a->uniform) {
        index = index_bits(bits, words, launch->workspace);
        occupied = index.before[words];
    }
#pragma omp parallel for num_threads(launch->threads) schedule(static, 64) if (blocks > 128)
    for (int64_t block = 0; block < blocks; block++) {
        uint32_t word[LANES][4]; // whole vectors of draws
        for (int k = 0; k < LANES; k++) {
            ad_random_words w = ad_random_philox((uint32_t)(block * LANES + k), 0, a->ordinal,
                                                 step, (uint32_t)a->seed,
                                                 (uint32_t)(a->seed >> 32));
            word[k][0] = w.x, word[k][1] = w.y, word[k][2] = w.z, word[k][3] = w.w;
        }
        for (int64_t i = block * LANES; i < (block + 1) * LANES && i < a->count; i++) {
            const uint32_t *w = word[i % LANES];
            uint32_t cell = (uint32_t)(w[3] * total >> 32);
            if (i >= a->uniform && occupied)
                cell = find_bit(&index, (uint32_t)(w[3] * occupied >> 32));
            else if (a->start >= 0)
                cell = (uint32_t)((uint64_t)(a->start + i) % total);
            cells[i] = cell;
            draw_point(a, cell, w, points + 3 * i);
        }
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

// The grid's cells in pieces, whose sums are added in order, and in chunks of several pieces that
// stay in a core's cache while all that is done to them is done.
enum { PIECES = 1024, CHUNK_PIECES = 32 };
static const double MEAN_SHARE = 0.3;

typedef struct update_work {
    const update_attributes *attributes;
    float *value;
    uint32_t *bits;
    const uint32_t *cell;     // (answers)
    const float *density;     // (answers)
    int64_t answers, cells, piece;
    double *part;             // (PIECES)
} update_work;

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
    call->workspace = PIECES * sizeof(double);
}

// The answers for cells first ... end - 1 of all.
static void write_answers(const update_work *w, int64_t first, int64_t end) {
    uint32_t from = (uint32_t)first, size = (uint32_t)(end - first);
    for (int64_t i = 0; i < w->answers; i += LANES) {
        uint32_t here = 0; // one bit each, found as a vector: most lie elsewhere
        if (i + LANES <= w->answers) {
            for (int k = 0; k < LANES; k++)
                here |= (uint32_t)(w->cell[i + k] - from < size) << k;
        } else {
            for (int k = 0; i + k < w->answers; k++)
                here |= (uint32_t)(w->cell[i + k] - from < size) << k;
        }
        for (; here; here &= here - 1) {
            int64_t answer = i + __builtin_ctz(here);
            float *value = w->value + w->cell[answer];
            float alpha = w->density[answer] * w->attributes->step;
            if (!(alpha < 1e10f)) alpha = 1e10f;
            if (*value >= 0 && alpha > *value) *value = alpha; // negative: no camera sees it
        }
    }
}

// The sum over the cells of a piece that were not ruled out.
static double sum_piece(const float *value, int64_t first, int64_t end) {
    float lane[LANES] = {0}; // whole vectors: cells and pieces are multiples of 16
    for (int64_t i = first; i < end; i += LANES)
        for (int64_t k = 0; k < LANES; k++) lane[k] += value[i + k] > 0 ? value[i + k] : 0;
    double sum = 0;
    for (int k = 0; k < LANES; k++) sum += lane[k];
    return sum;
}

// Cells are a multiple of 512, and first of 32.
static void set_bits(const float *value, float threshold, uint32_t *bits, int64_t first,
                     int64_t end) {
    for (int64_t i = first; i < end; i += 32) {
        uint32_t word = 0;
        for (int k = 0; k < 32; k++) word |= (uint32_t)(value[i + k] > threshold) << k;
        bits[i >> 5] = word;
    }
}

// One bit a block, from its 16 rows of cells. A row of the grid is whole bytes of bits, and mostly
// whole words: so many blocks are looked at together.
static void set_block_bits(const update_work *w, int threads) {
    int64_t n = w->attributes->resolution, m = n / OCCUPANCY_BLOCK, width = n % 32 ? 8 : 32;
    int64_t together = width / OCCUPANCY_BLOCK;
    int64_t blocks = occupancy_cells(w->attributes->cascades, (int)m);
    uint32_t *block_bits = w->bits + (w->cells + 31) / 32;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 4096)
    for (int64_t to = 0; to < (blocks + 31) / 32; to++) {
        uint32_t word = 0;
        for (int64_t i = 0; i < 32 && to * 32 + i < blocks; i += together) {
            int64_t b = to * 32 + i, x = b % m, y = b / m % m, z = b / m / m; // z: cascades too
            uint32_t any = 0;
            for (int64_t row = 0; row < OCCUPANCY_BLOCK * OCCUPANCY_BLOCK; row++) {
                int64_t dz = row / OCCUPANCY_BLOCK, dy = row % OCCUPANCY_BLOCK;
                int64_t first = ((z * OCCUPANCY_BLOCK + dz) * n + y * OCCUPANCY_BLOCK + dy) * n
                              + x * OCCUPANCY_BLOCK;
                any |= w->bits[first >> 5] >> (first & 31);
            }
            for (int64_t k = 0; k < together; k++)
                word |= (uint32_t)((any >> OCCUPANCY_BLOCK * k & 15) != 0) << (i + k);
        }
        block_bits[to] = word;
    }
}

static void update_cpu(const ad_launch *launch) {
    const update_attributes *a = launch->attributes;
    int64_t cells = occupancy_cells(a->cascades, a->resolution);
    update_work w = {.attributes = a, .value = launch->input[0].data,
                     .bits = launch->input[1].data, .cell = launch->input[2].data,
                     .density = launch->input[3].data, .answers = launch->input[2].size[0],
                     .cells = cells, .piece = (cells / 16 + PIECES - 1) / PIECES * 16,
                     .part = launch->workspace};
    double sum = 0;
    // Fade, take the answers in, sum up. Mostly the share of the mean lies above the threshold: so
    // the bits are set as if it did, while the cells are at hand.
#pragma omp parallel for num_threads(launch->threads) schedule(static, 1) if (cells > 65536)
    for (int64_t chunk = 0; chunk < PIECES / CHUNK_PIECES; chunk++) {
        int64_t first = chunk * CHUNK_PIECES * w.piece, end = first + CHUNK_PIECES * w.piece;
        if (first > cells) first = cells;
        if (end > cells) end = cells;
        for (int64_t i = first; i < end && a->decay < 1; i++)
            w.value[i] *= w.value[i] > 0 ? a->decay : 1;
        write_answers(&w, first, end);
        for (int64_t p = chunk * CHUNK_PIECES; p < (chunk + 1) * CHUNK_PIECES; p++) {
            int64_t from = p * w.piece < cells ? p * w.piece : cells;
            w.part[p] = sum_piece(w.value, from, from + w.piece < cells ? from + w.piece : cells);
        }
        set_bits(w.value, a->threshold, w.bits, first, end);
    }
    for (int64_t p = 0; p < PIECES; p++) sum += w.part[p];
    double low = MEAN_SHARE * sum / (double)cells;
    if (low < a->threshold) {
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (cells > 65536)
        for (int64_t chunk = 0; chunk < PIECES / CHUNK_PIECES; chunk++) {
            int64_t first = chunk * CHUNK_PIECES * w.piece, end = first + CHUNK_PIECES * w.piece;
            set_bits(w.value, (float)low, w.bits, first < cells ? first : cells,
                     end < cells ? end : cells);
        }
    }
    set_block_bits(&w, launch->threads);
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
