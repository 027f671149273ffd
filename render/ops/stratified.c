/* Samples of rays without a grid: one in each of equal parts, and more where the first ones found
 * something (Mildenhall et al., "NeRF", 2020, sections 4 and 5.2).
 *
 * stratified cuts the way of a ray through the scene box into n parts and draws one place in each;
 * without jitter it takes the middles. importance reads the weights that a composite gave those
 * samples as a density over the stretches between their midpoints, draws m more places by inverting
 * its cumulative sum at (k + random) / m, k = 0 ... m - 1, and merges both lists near to far. The
 * draws of a ray are sorted as they come, so no sort is needed. Every ray has the same number of
 * samples; rays that miss the box have theirs at 0 with no length. Each number is a function of
 * seed, operation, step and sample. Sampling is a stop-gradient. */
#include "render/render.h"

#include "autodiff/ops/random.h"

#include <math.h>
#include <string.h>

enum { OUT_T, OUT_DELTA, OUT_OFFSETS, OUT_COUNT, OUT_RAYS, OUTPUTS };
enum { PER_RAY_MAX = 1024 };
static const float floor_weight = 1e-5f; // so that no stretch is never looked at again

// rows of t and delta; offsets of `rays` rays of which the first `whole` have `each` samples
static void samples_shape(ad_infer *call, int64_t rays, int64_t whole, int64_t each) {
    ad_view *out = call->output;
    out[OUT_T] = (ad_view){.type = AD_F32, .rank = 1, .size = {whole * each}};
    out[OUT_DELTA] = out[OUT_T];
    out[OUT_OFFSETS] = (ad_view){.type = AD_U32, .rank = 1, .size = {rays + 1}};
    out[OUT_COUNT] = out[OUT_RAYS] = (ad_view){.type = AD_U32};
}

static void samples_starts(const ad_launch *launch, int64_t rays, int64_t whole, int64_t each) {
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    for (int64_t i = 0; i <= rays; i++) offsets[i] = (uint32_t)((i < whole ? i : whole) * each);
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)(whole * each);
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)whole;
}

// Each sample reaches to the next one, the last one to the end.
static void lengths(const float *t, int64_t n, float end, float *delta) {
    for (int64_t k = 0; k < n; k++) {
        float length = (k + 1 < n ? t[k + 1] : end) - t[k];
        delta[k] = length > 0 ? length : 0;
    }
}

static float draw(uint64_t seed, uint32_t ordinal, uint32_t step, int64_t index, bool jitter) {
    if (!jitter) return 0.5f;
    ad_random_words words = ad_random_philox((uint32_t)index, (uint32_t)(index >> 32), step,
                                             ordinal, (uint32_t)seed, (uint32_t)(seed >> 32));
    return ad_random_uniform(words.x);
}

/* ---- stratified */

enum { ORIGINS, DIRECTIONS, STRATIFIED_STEP, STRATIFIED_INPUTS };

typedef struct stratified_attributes {
    float low[3], high[3], near_distance; // of the box
    uint32_t ordinal;
    uint64_t seed;
    int64_t each, rays;                   // samples of a ray; most rays, 0: all
    int64_t jitter;
} stratified_attributes;

static int64_t whole_rays(const stratified_attributes *a, int64_t rays) {
    return a->rays > 0 && a->rays < rays ? a->rays : rays;
}

static void stratified_infer(ad_infer *call) {
    const stratified_attributes *a = call->attributes;
    const ad_view *o = &call->input[ORIGINS];
    if (o->rank != 2 || o->size[1] != 3 || o->type != AD_F32
        || !ad_view_same_shape(o, &call->input[DIRECTIONS])
        || call->input[DIRECTIONS].type != AD_F32)
        ad_infer_fail(call, "origins and directions are f32 (rays, 3)");
    else
        samples_shape(call, o->size[0], whole_rays(a, o->size[0]), a->each);
}

// Where the ray is inside the box; false where it never is.
static bool enter(const stratified_attributes *a, const float *o, const float *d, float *near,
                  float *far) {
    *near = a->near_distance, *far = 1e9f;
    for (int axis = 0; axis < 3; axis++) {
        float along = fabsf(d[axis]) < 1e-9f ? copysignf(1e-9f, d[axis]) : d[axis];
        float t0 = (a->low[axis] - o[axis]) / along, t1 = (a->high[axis] - o[axis]) / along;
        *near = fmaxf(*near, fminf(t0, t1)), *far = fminf(*far, fmaxf(t0, t1));
    }
    return *near < *far;
}

static void stratified_cpu(const ad_launch *launch) {
    const stratified_attributes *a = launch->attributes;
    const float *origins = launch->input[ORIGINS].data;
    const float *directions = launch->input[DIRECTIONS].data;
    uint32_t step = *(const uint32_t *)launch->input[STRATIFIED_STEP].data;
    int64_t rays = launch->input[ORIGINS].size[0], whole = whole_rays(a, rays), n = a->each;
    float *t = launch->output[OUT_T].data, *delta = launch->output[OUT_DELTA].data;
    samples_starts(launch, rays, whole, n);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (whole > 64)
    for (int64_t ray = 0; ray < whole; ray++) {
        float near, far;
        if (!enter(a, origins + 3 * ray, directions + 3 * ray, &near, &far)) near = far = 0;
        float part = (far - near) / (float)n;
        for (int64_t k = 0; k < n; k++) {
            float shift = draw(a->seed, a->ordinal, step, ray * n + k, a->jitter);
            t[ray * n + k] = near + part * ((float)k + shift);
        }
        lengths(t + ray * n, n, far, delta + ray * n);
    }
}

bool render_stratified(ad_context *ctx, ad_tensor origins, ad_tensor directions,
                       const render_domain *domain, double near_distance, int each, int64_t rays,
                       bool jitter, render_samples *samples) {
    stratified_attributes a;
    *samples = (render_samples){0};
    memset(&a, 0, sizeof a);
    if (each < 1 || each > PER_RAY_MAX) {
        ad_raise(ctx, "stratified: 1 to %d samples a ray, not %d", PER_RAY_MAX, each);
        return false;
    }
    for (int i = 0; i < 3; i++)
        a.low[i] = (float)domain->low[i], a.high[i] = (float)domain->high[i];
    a.near_distance = (float)near_distance, a.each = each, a.rays = rays, a.jitter = jitter;
    a.seed = ad_seed(ctx), a.ordinal = jitter ? ad_random_ordinal(ctx) : 0;
    ad_tensor out[OUTPUTS], in[] = {origins, directions, ad_step_tensor(ctx)};
    bool good = ad_apply(ctx, &render_op_stratified, STRATIFIED_INPUTS, in, &a, out);
    *samples = (render_samples){.t = out[OUT_T], .delta = out[OUT_DELTA],
                                .offsets = out[OUT_OFFSETS], .count = out[OUT_COUNT],
                                .rays = out[OUT_RAYS]};
    return good;
}

static bool stratified_sample(ad_sample *s) {
    if (s->variant > 1 || s->shape.rank != 1 || s->shape.size[0] < 1 || s->type != AD_F32)
        return false;
    s->inputs = STRATIFIED_INPUTS;
    for (int i = 0; i < STRATIFIED_STEP; i++) {
        s->input[i].type = AD_F32, s->input[i].shape = AD_SHAPE(s->shape.size[0], 3);
        s->input[i].low = 0.1, s->input[i].high = 1, s->input[i].constant = true;
    }
    s->input[STRATIFIED_STEP].type = AD_U32, s->input[STRATIFIED_STEP].shape = AD_SCALAR;
    s->input[STRATIFIED_STEP].high = 9, s->input[STRATIFIED_STEP].constant = true;
    *(stratified_attributes *)s->attributes.bytes = (stratified_attributes){
        .high = {1, 1, 1}, .each = 4, .jitter = s->variant, .seed = 7};
    return true;
}

const ad_op render_op_stratified = {
    .name = "stratified", .inputs_min = STRATIFIED_INPUTS, .inputs_max = STRATIFIED_INPUTS,
    .outputs = OUTPUTS, .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM,
    .attribute_bytes = sizeof(stratified_attributes), .infer = stratified_infer,
    .cpu = stratified_cpu, .sample = stratified_sample};

/* ---- importance */

enum { T, DELTA, WEIGHT, OFFSETS, STEP, INPUTS };

typedef struct importance_attributes {
    int64_t each, more; // samples a ray has, samples to add
    uint64_t seed;
    uint32_t ordinal, jitter;
} importance_attributes;

static void importance_infer(ad_infer *call) {
    const importance_attributes *a = call->attributes;
    const ad_view *in = call->input;
    int64_t n = in[T].size[0];
    if (in[T].rank != 1 || in[T].type != AD_F32 || !ad_view_same_shape(&in[T], &in[DELTA])
        || !ad_view_same_shape(&in[T], &in[WEIGHT]) || in[DELTA].type != AD_F32
        || in[WEIGHT].type != AD_F32)
        ad_infer_fail(call, "t, delta and weights are f32 (samples), all of one length");
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].type != AD_U32 || in[OFFSETS].size[0] < 1)
        ad_infer_fail(call, "offsets are u32 (rays + 1)");
    else if (n % a->each || n / a->each > in[OFFSETS].size[0] - 1)
        ad_infer_fail(call, "%lld samples are not %lld for each of at most %lld rays", (long long)n,
                      (long long)a->each, (long long)in[OFFSETS].size[0] - 1);
    else
        samples_shape(call, in[OFFSETS].size[0] - 1, n / a->each, a->each + a->more);
}

// One ray: t, weight (each) -> drawn (more), ascending.
static void draw_places(const importance_attributes *a, const float *t, const float *weight,
                        uint32_t step, int64_t ray, float *drawn) {
    int64_t n = a->each, bins = n - 2, bin = 0; // bin b: between the midpoints beside t[b + 1]
    float total = 0, below = 0;
    for (int64_t b = 0; b < bins; b++) total += fmaxf(weight[b + 1], 0) + floor_weight;
    for (int64_t k = 0; k < a->more; k++) {
        float shift = draw(a->seed, a->ordinal, step, ray * a->more + k, a->jitter);
        float goal = total * ((float)k + shift) / (float)a->more;
        float mass = fmaxf(weight[bin + 1], 0) + floor_weight;
        while (bin + 1 < bins && below + mass <= goal) {
            below += mass, bin++;
            mass = fmaxf(weight[bin + 1], 0) + floor_weight;
        }
        float low = 0.5f * (t[bin] + t[bin + 1]), high = 0.5f * (t[bin + 1] + t[bin + 2]);
        float share = fminf(fmaxf((goal - below) / mass, 0), 1);
        drawn[k] = low + share * (high - low);
    }
}

static void importance_cpu(const ad_launch *launch) {
    const importance_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const float *t = in[T].data, *delta = in[DELTA].data, *weight = in[WEIGHT].data;
    uint32_t step = *(const uint32_t *)in[STEP].data;
    int64_t n = a->each, all = n + a->more, rays = in[OFFSETS].size[0] - 1;
    int64_t whole = in[T].size[0] / n;
    float *out_t = launch->output[OUT_T].data, *out_delta = launch->output[OUT_DELTA].data;
    samples_starts(launch, rays, whole, all);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (whole > 64)
    for (int64_t ray = 0; ray < whole; ray++) {
        float drawn[PER_RAY_MAX], *to = out_t + ray * all;
        const float *from = t + ray * n;
        draw_places(a, from, weight + ray * n, step, ray, drawn);
        for (int64_t i = 0, k = 0; i + k < all;)
            if (k == a->more || (i < n && from[i] <= drawn[k])) to[i + k] = from[i], i++;
            else to[i + k] = drawn[k], k++;
        lengths(to, all, from[n - 1] + delta[ray * n + n - 1], out_delta + ray * all);
    }
}

bool render_importance(ad_context *ctx, const render_samples *coarse, ad_tensor weight, int each,
                       int more, bool jitter, render_samples *samples) {
    importance_attributes a;
    *samples = (render_samples){0};
    memset(&a, 0, sizeof a);
    if (each < 3 || each > PER_RAY_MAX || more < 0 || more > PER_RAY_MAX) {
        ad_raise(ctx, "importance: 3 to %d samples a ray and at most as many more, not %d and %d",
                 PER_RAY_MAX, each, more);
        return false;
    }
    a.each = each, a.more = more, a.jitter = jitter, a.seed = ad_seed(ctx);
    a.ordinal = jitter ? ad_random_ordinal(ctx) : 0;
    ad_tensor in[] = {coarse->t, coarse->delta, weight, coarse->offsets, ad_step_tensor(ctx)};
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_importance, INPUTS, in, &a, out);
    *samples = (render_samples){.t = out[OUT_T], .delta = out[OUT_DELTA],
                                .offsets = out[OUT_OFFSETS], .count = out[OUT_COUNT],
                                .rays = out[OUT_RAYS]};
    return good;
}

static bool importance_sample(ad_sample *s) {
    if (s->variant > 1 || s->shape.rank != 1 || s->shape.size[0] < 1 || s->type != AD_F32)
        return false;
    int64_t rays = s->shape.size[0];
    s->inputs = INPUTS;
    for (int i = 0; i < OFFSETS; i++) {
        s->input[i].type = AD_F32, s->input[i].shape = AD_SHAPE(4 * rays);
        s->input[i].low = 0.1, s->input[i].high = 1, s->input[i].constant = true;
    }
    s->input[T].sorted = true;
    for (int i = OFFSETS; i < INPUTS; i++) s->input[i].type = AD_U32, s->input[i].constant = true;
    s->input[OFFSETS].shape = AD_SHAPE(rays + 1), s->input[OFFSETS].sorted = true;
    s->input[OFFSETS].high = (double)(4 * rays);
    s->input[STEP].shape = AD_SCALAR, s->input[STEP].high = 9;
    *(importance_attributes *)s->attributes.bytes = (importance_attributes){
        .each = 4, .more = 6, .jitter = (uint32_t)s->variant, .seed = 7};
    return true;
}

const ad_op render_op_importance = {
    .name = "importance", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM, .attribute_bytes = sizeof(importance_attributes),
    .infer = importance_infer, .cpu = importance_cpu, .sample = importance_sample};
