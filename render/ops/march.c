/* Marching: rays to packed samples, skipping what the occupancy grid knows to be empty.
 *
 * Muller et al. 2022, appendix E.1. Samples lie at t_k = T(s_0 + k): T is linear with the least
 * step near the camera, exponential (steps proportional to distance) where the cone angle says so,
 * linear again with the largest step. So a sample is a number k, and a ray's samples are marks:
 * numbers with a bit for each of the LANES from there on. The first pass marches every ray and
 * leaves marks; a prefix sum over their samples gives each ray its place in the packed arrays; the
 * second pass writes t and delta there. A ray whose samples do not all fit has none, and so have
 * the rays behind it: `rays` says how many are whole.
 *
 * A caller may march each ray piece by piece, for the same samples as in one go: a piece ends
 * after `most` samples, or where the densities that the occupancy grid remembers say that light
 * will have ended, and `next` says where the next one begins. Leaps through empty space end a
 * little early, so whatever path leads to a sample, it is there. No sample's place depends on the
 * thread count. Sampling is a stop-gradient. */
#include "render/render.h"

#include "autodiff/ops/math.h"
#include "autodiff/ops/random.h"
#include "render/ops/leaps.h"
#include "render/ops/rows.h"

#include <math.h>
#include <string.h>

enum { STEPS_MAX = 2048, LANES = 16, MARKS_MAX = STEPS_MAX / LANES };
enum { CHUNK = 64 };   // rays that enter the box side by side

typedef struct march_attributes {
    float low[3], high[3];   // the box
    float step_min, step_max, cone, near_distance;
    float s_near, s_far, t_near, t_far, rate; // where the stretches of T meet, its growth
    float depth, share;      // -log(stop); how much of it the values may sum to
    int32_t cascades, resolution, jitter, most;
    uint32_t ordinal;
    uint64_t seed;
    int64_t capacity;
} march_attributes;

// What the first pass leaves of a ray for the second.
typedef struct path {
    float start;             // s of sample 0
    uint32_t samples, mark, marks; // how many; the number of its first mark, how many
} path;

enum { ORIGIN, DIRECTION, BITS, STEP, LIVE, FROM, VALUE, TAU, INPUTS };
enum { OUT_T, OUT_DELTA, OUT_OFFSETS, OUT_COUNT, OUT_RAYS, OUT_NEXT, OUTPUTS };

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
    else if (ad_view_present(&in[TAU])
             && (in[TAU].type != AD_F32 || ad_view_count(&in[TAU]) != rays))
        ad_infer_fail(call, "tau is f32 (rays)");
    else if (ad_view_present(&in[VALUE])
             && (in[VALUE].type != AD_F32
                 || ad_view_count(&in[VALUE]) != occupancy_cells(a->cascades, a->resolution)))
        ad_infer_fail(call, "values are f32 (cells), as the bits have it");
    ad_view *out = call->output;
    out[OUT_T] = (ad_view){.type = AD_F32, .rank = 1, .size = {a->capacity}};
    out[OUT_DELTA] = out[OUT_T];
    out[OUT_OFFSETS] = (ad_view){.type = AD_U32, .rank = 1, .size = {rays + 1}};
    out[OUT_COUNT] = out[OUT_RAYS] = (ad_view){.type = AD_U32};
    out[OUT_NEXT] = (ad_view){.type = AD_F32, .rank = 1, .size = {rays}};
    call->workspace = (size_t)rays * (MARKS_MAX * 4 + sizeof(path)) + STEPS_MAX * sizeof(float)
                    + 3 * (size_t)leap_blocks(a->resolution);
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

/* ---- rays into the box */

typedef struct bundle { // rays side by side; those that never are inside the box have near = far
    float origin[3][CHUNK], direction[3][CHUNK], inverse[3][CHUNK];
    float near[CHUNK], far[CHUNK], start[CHUNK]; // start: s of sample 0
} bundle;

// Where the rays from number `first` on are inside the box: nowhere also for what is no ray, with
// a number that is not finite.
static void enter(const march_attributes *a, const ad_launch *launch, int64_t first, bundle *b) {
    const float *origin = launch->input[ORIGIN].data, *direction = launch->input[DIRECTION].data;
    uint32_t step = *(const uint32_t *)launch->input[STEP].data;
    int64_t rays = launch->input[ORIGIN].size[0];
    int32_t good[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        b->near[i] = a->near_distance, b->far[i] = 1e9f, b->start[i] = 0.5f, good[i] = 1;
    for (int axis = 0; axis < 3; axis++) {
        float *o = b->origin[axis], *d = b->direction[axis], *inverse = b->inverse[axis];
        for (int i = 0; i < CHUNK; i++) {
            int64_t ray = first + i < rays ? first + i : rays - 1;
            o[i] = origin[3 * ray + axis], d[i] = direction[3 * ray + axis];
        }
        for (int i = 0; i < CHUNK; i++) {
            good[i] &= fabsf(o[i]) < HUGE_VALF && fabsf(d[i]) < HUGE_VALF;
            float least = d[i] < 0 ? -1e-9f : 1e-9f;
            inverse[i] = 1 / (fabsf(d[i]) < 1e-9f ? least : d[i]);
            float t0 = (a->low[axis] - o[i]) * inverse[i];
            float t1 = (a->high[axis] - o[i]) * inverse[i];
            float in = t0 < t1 ? t0 : t1, out = t0 < t1 ? t1 : t0;
            b->near[i] = in > b->near[i] ? in : b->near[i];
            b->far[i] = out < b->far[i] ? out : b->far[i];
        }
    }
    if (a->jitter)
        for (int i = 0; i < CHUNK; i++)
            b->start[i] = ad_random_uniform(ad_random_philox(
                (uint32_t)(first + i), 0, a->ordinal, step, (uint32_t)a->seed,
                (uint32_t)(a->seed >> 32)).x);
    for (int i = 0; i < CHUNK; i++) {
        bool inside = good[i] && fabsf(b->near[i]) < HUGE_VALF && b->near[i] < b->far[i];
        if (!inside) b->near[i] = b->far[i] = 0;
    }
    if (a->cone <= 0)
        for (int i = 0; i < CHUNK; i++) b->start[i] += b->near[i] / a->step_min;
    else
        for (int i = 0; i < CHUNK; i++) b->start[i] += s_of(a, b->near[i]);
}

/* ---- one ray */

typedef struct ray {
    float origin[3], direction[3], inverse[3];
    float far, start, base;
    int first;               // the first sample that is wanted
    float budget;            // the sum of values that ends it
    uint32_t *mark;          // samples: the number of a step and, as bits, which LANES from it on
    uint32_t marks, samples;
    float sum;
    int last;                // where the budget or the greatest number ended it; or -1
} ray;

// Steps as a whole number: no more than there are, whatever the share.
static int whole_steps(float steps) { return steps < STEPS_MAX ? (int)steps : STEPS_MAX; }

// The cell along an axis, of n; the outermost ones reach on without end.
static int whole_cell(float cell, float n) {
    cell = cell > 0 ? cell : 0; // NaN: the first
    return (int)(cell < n - 1 ? cell : n - 1);
}

static void pick_ray(const march_attributes *a, const bundle *b, int i, float from, ray *r) {
    *r = (ray){.far = b->far[i], .start = b->start[i], .last = -1, .budget = HUGE_VALF};
    for (int axis = 0; axis < 3; axis++) {
        r->origin[axis] = b->origin[axis][i], r->direction[axis] = b->direction[axis][i];
        r->inverse[axis] = b->inverse[axis][i];
    }
    r->base = base_of(a, r->start);
    if (from > b->near[i]) {
        float skipped = s_of(a, from) - r->start;
        r->first = skipped < 0 ? 0 : whole_steps(skipped) + 1;
    }
}

// One more sample, k, which adds to the sum of values; false where the ray ends with it.
static bool add_sample(const march_attributes *a, ray *r, int k, float value) {
    r->samples++;
    r->sum += value > 0 ? value : 0;
    if (r->samples < (uint32_t)a->most && r->sum <= r->budget) return true;
    r->last = k;
    return false;
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

// From a position in cells, where one cell along an axis takes `inverse`, the way until `side`
// cells from `low` on are left: a little less, so that no rounding leads past a sample. The cells
// of one cascade of several end where the next begins.
static float leave_cube(const march_attributes *a, const float *inverse, const int *low, int side,
                        const float *cell) {
    static const float slack = 2e-3f; // cells
    float leave = 1e9f;
    for (int axis = 0; axis < 3; axis++) {
        bool up = inverse[axis] > 0;
        int n = a->resolution, edge = up ? low[axis] + side : low[axis];
        if (a->cascades > 1) edge = edge < 0 ? 0 : edge > n ? n : edge;
        float away = ((float)edge + (up ? -slack : slack) - cell[axis]) * inverse[axis];
        if (away < leave) leave = away;
    }
    return leave > 0 ? leave : 0;
}

// The same for a ray at `cell` of a cascade, in the empty cell `index`: what is known to be empty.
static float leave_empty(const march_attributes *a, const ray *r, const uint32_t *bits,
                         const uint8_t *leap, int cascade, const int *index, const float *cell) {
    int n = a->resolution, m = n / OCCUPANCY_BLOCK;
    int block[3], side = 1, low[3] = {index[0], index[1], index[2]};
    for (int axis = 0; axis < 3; axis++) block[axis] = index[axis] / OCCUPANCY_BLOCK;
    int64_t at = ((int64_t)block[2] * m + block[1]) * m + block[0];
    int64_t first = (occupancy_cells(a->cascades, n) + 31) / 32 * 32; // bit of the first block
    // The next smaller cube begins at a block's side only where n is a multiple of four blocks.
    bool empty = cascade == 0 ? leap[at] : n % (4 * OCCUPANCY_BLOCK) == 0
               && !occupancy_bit(bits, first + (int64_t)cascade * m * m * m + at);
    if (empty) {
        int around = cascade == 0 ? leap[at] - 1 : 0;
        side = (2 * around + 1) * OCCUPANCY_BLOCK;
        for (int axis = 0; axis < 3; axis++) low[axis] = (block[axis] - around) * OCCUPANCY_BLOCK;
    }
    return leave_cube(a, r->inverse, low, side, cell);
}

static void march_ray(const march_attributes *a, ray *r, const uint32_t *bits, const float *value,
                      const float *growth, const uint8_t *leap) {
    int n = a->resolution;
    float half = ldexpf(0.5f, 1 - a->cascades); // of the inner cube
    for (int k = r->first; k < STEPS_MAX && r->last < 0;) {
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
            uint32_t mark = r->marks ? r->mark[r->marks - 1] : 0;
            if (r->marks && k - (int)(mark >> 16) < LANES)
                r->mark[r->marks - 1] = mark | 1u << (k - (int)(mark >> 16));
            else
                r->mark[r->marks++] = (uint32_t)k << 16 | 1;
            add_sample(a, r, k, value ? value[number] * (delta / a->step_min) : 0);
            k++;
            continue;
        }
        float leave = width * leave_empty(a, r, bits, leap, cascade, index, cell);
        int to = whole_steps(s_of(a, t + leave) - r->start) + 1;
        k = to > k ? to : k + 1;
    }
}

// The same for even steps through one cascade, LANES of them at once.
static void march_evenly(const march_attributes *a, ray *r, const uint32_t *bits,
                         const float *value, const uint8_t *leap) {
    int n = a->resolution, m = n / OCCUPANCY_BLOCK;
    float size = (float)n, step = a->step_min, origin[3], way[3], inverse[3]; // in cells, steps
    for (int axis = 0; axis < 3; axis++) {
        origin[axis] = (r->origin[axis] + r->start * step * r->direction[axis]) * size;
        way[axis] = step * r->direction[axis] * size;
        inverse[axis] = r->inverse[axis] / (step * size);
    }
    float end = r->far / step - r->start; // steps in front of here are inside
    for (int k = r->first; (float)k < end && k <= STEPS_MAX - LANES && r->last < 0;) {
        float at[3], cell[3][LANES];
        int low[3], index[3][LANES];
        uint32_t set[LANES], number[LANES], mask = 0;
        for (int axis = 0; axis < 3; axis++) {
            at[axis] = origin[axis] + (float)k * way[axis];
            low[axis] = whole_cell(at[axis], size) / OCCUPANCY_BLOCK;
        }
        int around = leap[(low[2] * m + low[1]) * m + low[0]] - 1;
        if (around > 0) {
            for (int axis = 0; axis < 3; axis++)
                low[axis] = (low[axis] - around) * OCCUPANCY_BLOCK;
            int to = k + 1 + whole_steps(leave_cube(a, inverse, low,
                                                    (2 * around + 1) * OCCUPANCY_BLOCK, at));
            if (to > k + LANES / 2) { // else a look at LANES cells leads farther
                k = to;
                continue;
            }
        }
        for (int axis = 0; axis < 3; axis++)
            for (int i = 0; i < LANES; i++) {
                cell[axis][i] = origin[axis] + (float)(k + i) * way[axis];
                index[axis][i] = whole_cell(cell[axis][i], size);
            }
        for (int i = 0; i < LANES; i++) {
            number[i] = (uint32_t)((index[2][i] * n + index[1][i]) * n + index[0][i]);
            set[i] = bits[number[i] >> 5] >> (number[i] & 31) & 1 & ((float)(k + i) < end);
        }
        for (int i = 0; i < LANES; i++) mask |= set[i] << i;
        for (uint32_t left = mask; left; left &= left - 1) {
            int i = __builtin_ctz(left);
            if (add_sample(a, r, k + i, value ? value[number[i]] : 0)) continue;
            mask &= (2u << i) - 1;
            break;
        }
        if (mask) r->mark[r->marks++] = (uint32_t)k << 16 | mask;
        k += LANES;
    }
}

/* ---- all rays */

typedef struct march_space {
    path *paths;
    uint32_t *marks;         // of CHUNK rays at a time, one behind the other
    float *growth;
    uint8_t *leap;
} march_space;

// The rays from number `first` on: marks their samples.
static void march_chunk(const ad_launch *launch, const march_space *space, int64_t first,
                        int64_t end) {
    const march_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const uint32_t *bits = in[BITS].data;
    const float *value = ad_view_present(&in[VALUE]) ? in[VALUE].data : NULL;
    const float *tau = ad_view_present(&in[TAU]) ? in[TAU].data : NULL;
    const float *from = ad_view_present(&in[FROM]) ? in[FROM].data : NULL;
    float *next = launch->output[OUT_NEXT].data;
    uint32_t at = (uint32_t)(first * MARKS_MAX);
    bool some = false;
    for (int64_t i = first; i < end; i++) {
        next[i] = rows_nowhere, space->paths[i] = (path){.mark = at};
        some = some || !from || from[i] < rows_nowhere;
    }
    if (!some) return;
    bundle b;
    enter(a, launch, first, &b);
    for (int64_t i = first; i < end; i++) {
        float behind = from ? from[i] : 0, far = b.far[i - first];
        if (!(b.near[i - first] < far) || behind >= far) continue;
        ray r;
        pick_ray(a, &b, (int)(i - first), behind, &r);
        r.mark = space->marks + at;
        if (value) r.budget = a->share * (a->depth - (tau ? tau[i] : 0));
        if (a->cascades == 1 && a->cone <= 0) march_evenly(a, &r, bits, value, space->leap);
        else march_ray(a, &r, bits, value, space->growth, space->leap);
        space->paths[i] = (path){r.start, r.samples, at, r.marks};
        at += r.marks;
        if (r.last < 0) continue;
        float t = t_of(a, space->growth, r.start, r.base, r.last);
        next[i] = t + 0.5f * delta_of(a, t);
    }
}

static void write_samples(const march_attributes *a, const march_space *space, const path *p,
                          float *t, float *delta) {
    float base = base_of(a, p->start);
    for (uint32_t mark = 0; mark < p->marks; mark++) {
        uint32_t word = space->marks[p->mark + mark];
        for (uint32_t left = word & 0xffff; left; left &= left - 1) {
            int k = (int)(word >> 16) + __builtin_ctz(left);
            *t = t_of(a, space->growth, p->start, base, k);
            *delta++ = delta_of(a, *t++);
        }
    }
}

static void march_cpu(const ad_launch *launch) {
    const march_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    int64_t rays = in[ORIGIN].size[0], live = rays;
    if (ad_view_present(&in[LIVE])) live = *(const uint32_t *)in[LIVE].data;
    if (live > rays) live = rays;
    march_space space = {.growth = launch->workspace};
    space.paths = (path *)(space.growth + STEPS_MAX);
    space.marks = (uint32_t *)(space.paths + rays);
    space.leap = (uint8_t *)(space.marks + rays * MARKS_MAX);
    float *t = launch->output[OUT_T].data, *delta = launch->output[OUT_DELTA].data;
    float *next = launch->output[OUT_NEXT].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    render_leaps_find(in[BITS].data, a->cascades, a->resolution, space.leap);
    if (a->cone > 0) fill_growth(a, space.growth);

#pragma omp parallel for num_threads(launch->threads) schedule(dynamic, 1) if (live > CHUNK)
    for (int64_t chunk = 0; chunk < (live + CHUNK - 1) / CHUNK; chunk++) {
        int64_t first = chunk * CHUNK;
        march_chunk(launch, &space, first, first + CHUNK < live ? first + CHUNK : live);
    }
    int64_t total = 0, whole = 0;
    for (; whole < live && total + space.paths[whole].samples <= a->capacity; whole++) {
        offsets[whole] = (uint32_t)total;
        total += space.paths[whole].samples;
    }
    for (int64_t i = whole; i < rays; i++) offsets[i] = (uint32_t)total, next[i] = rows_nowhere;
    offsets[rays] = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)whole;

#pragma omp parallel for num_threads(launch->threads) schedule(static) if (whole > 256)
    for (int64_t i = 0; i < whole; i++)
        write_samples(a, &space, space.paths + i, t + offsets[i], delta + offsets[i]);
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
        || options->most < 0 || (!ad_is_null(options->value) && options->share <= 0)) {
        ad_raise(ctx, "march: 1 to 16 cascades of 8 to 512 cells (a multiple of 8), 1 to 1024 "
                 "steps, a capacity of at least 1, no negative number of samples, and values only "
                 "with a share");
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
    a.depth = options->stop > 0 ? (float)-log(options->stop) : HUGE_VALF;
    a.share = (float)options->share;
    if (options->jitter) { // one more than the ordinal, as 0 asks for a new one
        uint32_t draw = options->draw && *options->draw ? *options->draw
                                                        : ad_random_ordinal(ctx) + 1;
        a.ordinal = draw - 1;
        if (options->draw) *options->draw = draw;
    }
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_march, INPUTS,
                         (ad_tensor[]){origins, directions, bits, ad_step_tensor(ctx), live,
                                       options->from, options->value, options->tau}, &a, out);
    *samples = (render_samples){out[OUT_T], out[OUT_DELTA], out[OUT_OFFSETS], out[OUT_COUNT],
                                out[OUT_RAYS], out[OUT_NEXT]};
    return good;
}

const ad_op render_op_march = {
    .name = "march", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .optional = 1u << LIVE | 1u << FROM | 1u << VALUE | 1u << TAU,
    .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM, .attribute_bytes = sizeof(march_attributes),
    .infer = march_infer, .cpu = march_cpu};
