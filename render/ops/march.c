/* Marching: rays to packed samples, skipping what the occupancy grid knows to be empty.
 *
 * Muller et al. 2022, appendix E.1. Samples lie at t_k = T(s_0 + k): T is linear with the least
 * step near the camera, exponential (steps proportional to distance) where the cone angle says so,
 * linear again with the largest step. So a sample is a number k, and the set of a ray's samples is
 * a row of bits. The first pass marches every ray and leaves such rows; a prefix sum over their
 * counts gives each ray its place in the packed arrays; the second pass writes t and delta there.
 * A ray whose samples do not all fit has none, and so have the rays behind it: `rays` says how
 * many are whole. A caller may march each ray piece by piece: `most` samples behind `from`, the
 * same ones as in one go. No sample's place depends on the thread count. Sampling is a
 * stop-gradient. */
#include "render/render.h"

#include "autodiff/ops/math.h"
#include "autodiff/ops/random.h"
#include "render/ops/occupancy.h"

#include <math.h>
#include <string.h>

enum { STEPS_MAX = 2048, ROW_WORDS = STEPS_MAX / 32, LANES = 16 };
enum { LEAP_MAX = 8 }; // blocks crossed at once to each side

typedef struct march_attributes {
    float low[3], high[3];   // the box
    float step_min, step_max, cone, near_distance;
    float s_near, s_far, t_near, t_far, rate; // where the stretches of T meet, its growth
    int32_t cascades, resolution, jitter, most;
    uint32_t ordinal;
    uint64_t seed;
    int64_t capacity;
} march_attributes;

enum { ORIGIN, DIRECTION, BITS, STEP, LIVE, FROM, INPUTS };
enum { OUT_T, OUT_DELTA, OUT_OFFSETS, OUT_COUNT, OUT_RAYS, OUTPUTS };

static void march_infer(ad_infer *call) {
    const march_attributes *a = call->attributes;
    const ad_view *in = call->input;
    int64_t rays = in[ORIGIN].size[0];
    if (in[ORIGIN].rank != 2 || in[ORIGIN].size[1] != 3
        || !ad_view_same_shape(&in[ORIGIN], &in[DIRECTION]) || in[ORIGIN].type != AD_F32
        || in[DIRECTION].type != AD_F32)
        ad_infer_fail(call, "origins and directions are f32 (rays, 3)");
    else if (!occupancy_good_bits(call, &in[BITS], a->cascades, a->resolution))
        return;
    else if (ad_view_present(&in[LIVE])
             && (in[LIVE].type != AD_U32 || ad_view_count(&in[LIVE]) != 1))
        ad_infer_fail(call, "the number of live rays is one u32");
    else if (ad_view_present(&in[FROM])
             && (in[FROM].type != AD_F32 || ad_view_count(&in[FROM]) != rays))
        ad_infer_fail(call, "from is f32 (rays)");
    ad_view *out = call->output;
    out[OUT_T] = (ad_view){.type = AD_F32, .rank = 1, .size = {a->capacity}};
    out[OUT_DELTA] = out[OUT_T];
    out[OUT_OFFSETS] = (ad_view){.type = AD_U32, .rank = 1, .size = {rays + 1}};
    out[OUT_COUNT] = out[OUT_RAYS] = (ad_view){.type = AD_U32};
    int64_t blocks = occupancy_cells(1, a->resolution / OCCUPANCY_BLOCK);
    call->workspace = (size_t)rays * (ROW_WORDS + 2) * 4 + STEPS_MAX * sizeof(float)
                    + 3 * (size_t)blocks;
}

/* ---- t as a function of the step number, and back */

// The three stretches: they meet at the steps s_near and s_far, at t_near and t_far.
static void set_stretches(march_attributes *a) {
    a->t_near = a->t_far = a->s_near = a->s_far = HUGE_VALF, a->rate = 1;
    if (a->cone <= 0) return;
    a->s_near = 1 / a->cone, a->t_near = a->step_min * a->s_near;
    a->rate = ad_math_log1p(a->cone), a->t_far = a->step_max / a->cone;
    a->s_far = a->s_near + ad_math_log(a->t_far / a->t_near) / a->rate;
}

static float s_of(const march_attributes *a, float t) {
    if (t < a->t_near) return t / a->step_min;
    if (t < a->t_far) return a->s_near + ad_math_log(t / a->t_near) / a->rate;
    return a->s_far + (t - a->t_far) / a->step_max;
}

// T of sample k of the ray whose sample 0 is step `start`; base: base_of(start). The growth over k
// steps, (1 + cone)^k, comes from a table: one exponential a ray instead of one a sample.
static float base_of(const march_attributes *a, float start) {
    return a->cone > 0 ? a->t_near * ad_math_exp((start - a->s_near) * a->rate) : 0;
}

static float t_of(const march_attributes *a, const float *growth, float start, float base, int k) {
    float s = start + (float)k;
    if (s < a->s_near) return s * a->step_min;
    if (s < a->s_far) return base * growth[k];
    return a->t_far + (s - a->s_far) * a->step_max;
}

static void fill_growth(const march_attributes *a, float *growth) {
    for (int k = 0; k < STEPS_MAX; k++) growth[k] = ad_math_exp((float)k * a->rate);
}

static float delta_of(const march_attributes *a, float t) {
    float step = t * a->cone;
    return step < a->step_min ? a->step_min : step > a->step_max ? a->step_max : step;
}

/* ---- one ray */

typedef struct ray {
    float origin[3], direction[3], inverse[3];
    float near, far, start, base; // start: s of sample 0
    int first;              // the first sample that is wanted
} ray;

// Steps as a whole number: no more than there are, whatever the share.
static int whole_steps(float steps) { return steps < STEPS_MAX ? (int)steps : STEPS_MAX; }

// The cell along an axis, of n; the outermost ones reach on without end.
static int whole_cell(float cell, float n) {
    cell = cell > 0 ? cell : 0; // NaN: the first
    return (int)(cell < n - 1 ? cell : n - 1);
}

// Where the ray is inside the box, and its first sample behind `from`; false where it never is, or
// where it is no ray: a number that is not finite.
static bool enter(const march_attributes *a, ray *r, uint32_t step, uint32_t number, float from) {
    r->near = a->near_distance, r->far = 1e9f;
    for (int axis = 0; axis < 3; axis++) {
        float d = r->direction[axis];
        if (!isfinite(r->origin[axis]) || !isfinite(d)) return false;
        if (fabsf(d) < 1e-9f) d = d < 0 ? -1e-9f : 1e-9f;
        r->inverse[axis] = 1 / d;
        float t0 = (a->low[axis] - r->origin[axis]) * r->inverse[axis];
        float t1 = (a->high[axis] - r->origin[axis]) * r->inverse[axis];
        float first = t0 < t1 ? t0 : t1, last = t0 < t1 ? t1 : t0;
        if (first > r->near) r->near = first;
        if (last < r->far) r->far = last;
    }
    if (!isfinite(r->near) || !(r->near < r->far)) return false;
    float shift = 0.5f;
    if (a->jitter) {
        ad_random_words words = ad_random_philox(number, 0, a->ordinal, step, (uint32_t)a->seed,
                                                 (uint32_t)(a->seed >> 32));
        shift = ad_random_uniform(words.x);
    }
    r->start = s_of(a, r->near) + shift;
    r->base = base_of(a, r->start);
    r->first = 0;
    if (from > r->near) {
        float skipped = s_of(a, from) - r->start;
        r->first = skipped < 0 ? 0 : whole_steps(skipped) + 1;
    }
    return true;
}

// The smallest cascade whose cube holds the point and whose cells are no smaller than the step.
static int cascade_of(const march_attributes *a, const float p[3], float delta) {
    int cascade = 0;
    float half = ldexpf(0.5f, 1 - a->cascades), cell = 2 * half / (float)a->resolution, far = 0;
    for (int axis = 0; axis < 3; axis++) {
        float d = fabsf(p[axis] - 0.5f);
        if (d > far) far = d;
    }
    while (cascade + 1 < a->cascades && (far > half || delta > 2 * cell))
        half *= 2, cell *= 2, cascade++;
    return cascade;
}

static uint8_t least(uint8_t a, uint8_t b) { return a < b ? a : b; }

// to[i] = min(from[i - stride], from[i], from[i + stride]), where there are such.
static void spread(int64_t n, int64_t stride, const uint8_t *restrict from, uint8_t *restrict to) {
    for (int64_t i = 0; i < stride; i++) to[i] = least(from[i], from[i + stride]);
    for (int64_t i = stride; i < n - stride; i++)
        to[i] = least(least(from[i - stride], from[i]), from[i + stride]);
    for (int64_t i = n - stride; i < n; i++) to[i] = least(from[i - stride], from[i]);
}

// Distances of the blocks of cascade 0 to the nearest that may hold something, in blocks along the
// farthest axis, up to LEAP_MAX: the cube of 2 d - 1 blocks around a block with distance d > 0 is
// empty. A row's end counts as the next one's neighbour, which only shortens leaps. spare: two
// bytes a block.
static void find_leaps(const march_attributes *a, const uint32_t *bits, uint8_t *restrict leap,
                       uint8_t *restrict spare) {
    int64_t m = a->resolution / OCCUPANCY_BLOCK, blocks = m * m * m;
    const uint32_t *block_bits = bits + (occupancy_cells(a->cascades, a->resolution) + 31) / 32;
    for (int64_t i = 0; i < blocks; i++) leap[i] = occupancy_bit(block_bits, i) ? 0 : LEAP_MAX;
    for (int d = 1; d < LEAP_MAX; d++) { // d (v) = min(d (v), 1 + min d (neighbours))
        spread(blocks, 1, leap, spare);
        spread(blocks, m, spare, spare + blocks);
        spread(blocks, m * m, spare + blocks, spare);
        for (int64_t i = 0; i < blocks; i++) leap[i] = least(leap[i], (uint8_t)(spare[i] + 1));
    }
}

// Where a ray at `cell` (the position, in cells of the cascade), in the empty cell `index`, leaves
// what is known to be empty: a way in cells.
static float leave_empty(const march_attributes *a, const ray *r, const uint32_t *bits,
                         const uint8_t *leap, int cascade, const int *index, const float *cell) {
    int n = a->resolution, m = n / OCCUPANCY_BLOCK;
    int block[3], side = 1, low[3] = {index[0], index[1], index[2]};
    for (int axis = 0; axis < 3; axis++) block[axis] = index[axis] / OCCUPANCY_BLOCK;
    int64_t at = ((int64_t)block[2] * m + block[1]) * m + block[0];
    int64_t first = (occupancy_cells(a->cascades, n) + 31) / 32 * 32; // bit of the first block
    bool empty = cascade == 0 ? leap[at]
               : !occupancy_bit(bits, first + (int64_t)cascade * m * m * m + at);
    if (empty) {
        int around = cascade == 0 ? leap[at] - 1 : 0;
        side = (2 * around + 1) * OCCUPANCY_BLOCK;
        for (int axis = 0; axis < 3; axis++) low[axis] = (block[axis] - around) * OCCUPANCY_BLOCK;
    }
    float leave = 1e9f;
    for (int axis = 0; axis < 3; axis++) {
        int edge = r->inverse[axis] > 0 ? low[axis] + side : low[axis];
        // A cascade ends where the next begins.
        if (a->cascades > 1) edge = edge < 0 ? 0 : edge > n ? n : edge;
        float away = ((float)edge - cell[axis]) * r->inverse[axis];
        if (away < leave) leave = away;
    }
    return leave > 0 ? leave : 0;
}

// Marks the ray's samples in `row`; returns how many.
static uint32_t march_ray(const march_attributes *a, const ray *r, const uint32_t *bits,
                          const float *growth, const uint8_t *leap, uint32_t *row) {
    int n = a->resolution;
    float half = ldexpf(0.5f, 1 - a->cascades); // of the inner cube
    uint32_t found = 0, most = (uint32_t)a->most;
    for (int k = r->first; k < STEPS_MAX && found < most;) {
        float t = t_of(a, growth, r->start, r->base, k);
        if (!(t < r->far)) break;
        float delta = delta_of(a, t), p[3], cell[3];
        for (int axis = 0; axis < 3; axis++) p[axis] = r->origin[axis] + t * r->direction[axis];
        int cascade = a->cascades == 1 ? 0 : cascade_of(a, p, delta);
        float middle = half * (float)(1 << cascade), width = 2 * middle / (float)n;
        int index[3];
        for (int axis = 0; axis < 3; axis++) {
            cell[axis] = (p[axis] - 0.5f + middle) / width;
            index[axis] = whole_cell(cell[axis], (float)n);
        }
        int64_t number = (((int64_t)cascade * n + index[2]) * n + index[1]) * n + index[0];
        if (occupancy_bit(bits, number)) {
            row[k >> 5] |= 1u << (k & 31);
            found++, k++;
            continue;
        }
        float leave = width * leave_empty(a, r, bits, leap, cascade, index, cell);
        int to = whole_steps(s_of(a, t + leave) - r->start) + 1;
        k = to > k ? to : k + 1;
    }
    return found;
}

// The same for even steps through one cascade, LANES of them at once.
static uint32_t march_evenly(const march_attributes *a, const ray *r, const uint32_t *bits,
                             const uint8_t *leap, uint32_t *row) {
    int n = a->resolution;
    float size = (float)n, step = a->step_min, origin[3], way[3]; // in cells
    uint32_t found = 0, most = (uint32_t)a->most;
    for (int axis = 0; axis < 3; axis++) {
        origin[axis] = (r->origin[axis] + r->start * step * r->direction[axis]) * size;
        way[axis] = step * r->direction[axis] * size; // of one step
    }
    float end = r->far / step - r->start; // steps in front of here are inside
    for (int k = r->first; (float)k < end && k <= STEPS_MAX - LANES && found < most;) {
        float cell[3][LANES];
        int index[3][LANES];
        uint32_t set[LANES], mask = 0;
        for (int axis = 0; axis < 3; axis++)
            for (int i = 0; i < LANES; i++) {
                cell[axis][i] = origin[axis] + (float)(k + i) * way[axis];
                index[axis][i] = whole_cell(cell[axis][i], size);
            }
        for (int i = 0; i < LANES; i++) {
            uint32_t number = (uint32_t)((index[2][i] * n + index[1][i]) * n + index[0][i]);
            set[i] = bits[number >> 5] >> (number & 31) & 1 & ((float)(k + i) < end);
        }
        for (int i = 0; i < LANES; i++) mask |= set[i] << i;
        uint32_t more = (uint32_t)__builtin_popcount(mask);
        for (; found + more > most; more--) mask &= ~(1u << (31 - __builtin_clz(mask)));
        int shift = k & 31;
        row[k >> 5] |= mask << shift;
        if (shift > 32 - LANES) row[(k >> 5) + 1] |= mask >> (32 - shift);
        found += more, k += LANES;
        if (set[LANES - 1]) continue;
        int last[3];
        float at[3];
        for (int axis = 0; axis < 3; axis++)
            last[axis] = index[axis][LANES - 1], at[axis] = cell[axis][LANES - 1];
        float leave = leave_empty(a, r, bits, leap, 0, last, at) / size;
        int to = k + whole_steps(leave / step); // from step k - 1 on
        k = to > k ? to : k;
    }
    return found;
}

/* ---- all rays */

static void march_cpu(const ad_launch *launch) {
    const march_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const float *origin = in[ORIGIN].data, *direction = in[DIRECTION].data;
    const uint32_t *bits = in[BITS].data;
    uint32_t step = *(const uint32_t *)in[STEP].data;
    int64_t rays = in[ORIGIN].size[0], live = rays;
    if (ad_view_present(&in[LIVE])) live = *(const uint32_t *)in[LIVE].data;
    const float *from = ad_view_present(&in[FROM]) ? in[FROM].data : NULL;
    if (live > rays) live = rays;
    uint32_t *rows = launch->workspace, *counts = rows + rays * ROW_WORDS;
    float *starts = (float *)(counts + rays), *growth = starts + rays;
    uint8_t *leap = (uint8_t *)(growth + STEPS_MAX);
    int64_t blocks = occupancy_cells(1, a->resolution / OCCUPANCY_BLOCK);
    float *t = launch->output[OUT_T].data, *delta = launch->output[OUT_DELTA].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    find_leaps(a, bits, leap, leap + blocks);
    fill_growth(a, growth);

#pragma omp parallel for num_threads(launch->threads) schedule(dynamic, 64) if (live > 64)
    for (int64_t i = 0; i < live; i++) {
        ray r;
        memcpy(r.origin, origin + 3 * i, sizeof r.origin);
        memcpy(r.direction, direction + 3 * i, sizeof r.direction);
        memset(rows + i * ROW_WORDS, 0, ROW_WORDS * 4);
        counts[i] = 0;
        if (!enter(a, &r, step, (uint32_t)i, from ? from[i] : 0)) continue;
        starts[i] = r.start;
        counts[i] = a->cascades == 1 && a->cone <= 0
                  ? march_evenly(a, &r, bits, leap, rows + i * ROW_WORDS)
                  : march_ray(a, &r, bits, growth, leap, rows + i * ROW_WORDS);
    }
    int64_t total = 0, whole = 0;
    bool full = false;
    for (int64_t i = 0; i < rays; i++) {
        offsets[i] = (uint32_t)total;
        full = full || i >= live || total + counts[i] > a->capacity;
        if (!full) total += counts[i], whole++;
    }
    offsets[rays] = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)whole;

#pragma omp parallel for num_threads(launch->threads) schedule(static) if (whole > 256)
    for (int64_t i = 0; i < whole; i++) {
        int64_t at = offsets[i];
        if (!counts[i]) continue;
        float base = base_of(a, starts[i]);
        for (int word = 0; word < ROW_WORDS; word++)
            for (uint32_t left = rows[i * ROW_WORDS + word]; left; left &= left - 1) {
                int k = word * 32 + __builtin_ctz(left);
                t[at] = t_of(a, growth, starts[i], base, k);
                delta[at] = delta_of(a, t[at]);
                at++;
            }
    }
    memset(t + total, 0, (size_t)(a->capacity - total) * 4);
    memset(delta + total, 0, (size_t)(a->capacity - total) * 4);
}

bool render_march(ad_context *ctx, ad_tensor origins, ad_tensor directions, ad_tensor bits,
                  ad_tensor live, const render_march_options *options,
                  render_samples *samples) {
    march_attributes a;
    memset(&a, 0, sizeof a);
    const render_domain *domain = &options->domain;
    a.cascades = domain->cascades > 0 ? domain->cascades : 1;
    a.resolution = options->resolution ? options->resolution : 128;
    int steps = options->steps ? options->steps : 1024;
    for (int axis = 0; axis < 3; axis++) {
        a.low[axis] = (float)domain->low[axis];
        a.high[axis] = (float)domain->high[axis];
    }
    *samples = (render_samples){0};
    if (!occupancy_good_size(a.cascades, a.resolution) || steps < 1 || steps > 1024
        || options->capacity < 1 || options->capacity > INT32_MAX
        || options->most < 0) {
        ad_raise(ctx, "march: 1 to 16 cascades of 8 to 512 cells (a multiple of 8), 1 to 1024 "
                 "steps, a capacity of at least 1 and no negative number of samples");
        return false;
    }
    double inner = ldexp(1, 1 - a.cascades);
    a.step_min = (float)(sqrt(3.0) / steps * inner);
    a.step_max = (float)(sqrt(3.0) / a.resolution);
    if (a.step_max < a.step_min) a.step_max = a.step_min;
    a.cone = (float)options->cone_angle, a.near_distance = (float)options->near_distance;
    set_stretches(&a);
    a.jitter = options->jitter;
    a.most = options->most && options->most < STEPS_MAX ? options->most : STEPS_MAX;
    a.capacity = options->capacity, a.seed = ad_seed(ctx);
    if (options->jitter) { // one more than the ordinal, as 0 asks for a new one
        uint32_t draw = options->draw && *options->draw ? *options->draw
                                                        : ad_random_ordinal(ctx) + 1;
        a.ordinal = draw - 1;
        if (options->draw) *options->draw = draw;
    }
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_march, INPUTS,
                         (ad_tensor[]){origins, directions, bits, ad_step_tensor(ctx), live,
                                       options->from}, &a, out);
    *samples = (render_samples){out[OUT_T], out[OUT_DELTA], out[OUT_OFFSETS], out[OUT_COUNT],
                                out[OUT_RAYS]};
    return good;
}

const ad_op render_op_march = {
    .name = "march", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .optional = 1u << LIVE | 1u << FROM, .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM,
    .attribute_bytes = sizeof(march_attributes), .infer = march_infer, .cpu = march_cpu};
