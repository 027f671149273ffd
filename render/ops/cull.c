/* Culling: of each ray's candidates, those that light still reaches.
 *
 * A ray's samples behind the point where its transmittance falls below `stop` carry no weight, yet
 * would cost a forward and a backward pass each. Given the candidates' densities (found without a
 * tape), each ray keeps the candidates k with sum over i < k of sigma_i delta_i <= -log(stop): the
 * front of its row, so culling is a copy of prefixes into packed arrays of another capacity. A ray
 * that does not fit whole has none, and so have the rays behind it, as in marching. Choosing
 * samples is a stop-gradient.
 *
 * Rays may be marched and culled in pieces, so that what lies far behind a surface is not even
 * asked for: the first piece says where the rays that are still lit go on and what lies in front
 * of there, and joining puts each ray's pieces side by side again. */
#include "render/render.h"

#include <math.h>
#include <string.h>

static const float nowhere = 1e9f; // behind every scene

// Packed samples to come: rays that fit get their place in turn, the others none.
typedef struct packing {
    int64_t capacity, total, whole;
    bool full;
} packing;

static void place_ray(packing *p, uint32_t samples, bool there, uint32_t *offset) {
    *offset = (uint32_t)p->total;
    p->full = p->full || !there || p->total + samples > p->capacity;
    if (!p->full) p->total += samples, p->whole++;
}

// The outputs that both operations begin with, and what they leave behind the last sample.
enum { OUT_T, OUT_DELTA, OUT_OFFSETS, OUT_COUNT, OUT_RAYS, OUT_ROWS, SAMPLE_OUTPUTS };

static void sample_outputs(ad_infer *call, int64_t capacity, const ad_view *offsets) {
    ad_view *out = call->output;
    out[OUT_T] = out[OUT_DELTA] = (ad_view){.type = AD_F32, .rank = 1, .size = {capacity}};
    out[OUT_ROWS] = (ad_view){.type = AD_U32, .rank = 1, .size = {capacity}};
    out[OUT_OFFSETS] = *offsets;
    out[OUT_COUNT] = out[OUT_RAYS] = (ad_view){.type = AD_U32};
}

static void finish_samples(const ad_launch *launch, const packing *p, int64_t rays) {
    static const int arrays[] = {OUT_T, OUT_DELTA, OUT_ROWS};
    ((uint32_t *)launch->output[OUT_OFFSETS].data)[rays] = (uint32_t)p->total;
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)p->total;
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)p->whole;
    for (int i = 0; i < 3; i++)
        memset((uint32_t *)launch->output[arrays[i]].data + p->total, 0,
               (size_t)(p->capacity - p->total) * 4);
}

/* ---- culling */

typedef struct cull_attributes {
    double depth;            // -log(stop)
    int64_t capacity, most;
} cull_attributes;

enum { SIGMA, T, DELTA, OFFSETS, RAYS, TAU, INPUTS };
enum { OUT_TAU = SAMPLE_OUTPUTS, OUT_FROM, OUTPUTS };

static void cull_infer(ad_infer *call) {
    const ad_view *in = call->input;
    const cull_attributes *a = call->attributes;
    if (in[SIGMA].rank != 1 || !ad_view_same_shape(&in[SIGMA], &in[T])
        || !ad_view_same_shape(&in[SIGMA], &in[DELTA]) || in[SIGMA].type != AD_F32)
        ad_infer_fail(call, "density, t and delta are f32 (samples), all of one length");
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].size[0] < 1 || in[OFFSETS].type != AD_U32)
        ad_infer_fail(call, "offsets are u32 (rays + 1)");
    else if (ad_view_present(&in[TAU])
             && (in[TAU].type != AD_F32 || ad_view_count(&in[TAU]) != in[OFFSETS].size[0] - 1))
        ad_infer_fail(call, "tau is f32 (rays)");
    int64_t rays = in[OFFSETS].rank == 1 && in[OFFSETS].size[0] > 0 ? in[OFFSETS].size[0] - 1 : 0;
    sample_outputs(call, a->capacity, &in[OFFSETS]);
    call->output[OUT_TAU] = (ad_view){.type = AD_F32, .rank = 1, .size = {rays}};
    call->output[OUT_FROM] = call->output[OUT_TAU];
    call->workspace = (size_t)rays * 4;
}

static void cull_cpu(const ad_launch *launch) {
    const cull_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const float *sigma = in[SIGMA].data, *t = in[T].data, *delta = in[DELTA].data;
    const float *before = ad_view_present(&in[TAU]) ? in[TAU].data : NULL;
    const uint32_t *from = in[OFFSETS].data;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    int64_t given = *(const uint32_t *)in[RAYS].data;
    float *out_t = launch->output[OUT_T].data, *out_delta = launch->output[OUT_DELTA].data;
    float *out_tau = launch->output[OUT_TAU].data, *out_from = launch->output[OUT_FROM].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data, *kept = launch->workspace;
    uint32_t *rows = launch->output[OUT_ROWS].data;
    float depth = (float)a->depth;
    packing pack = {.capacity = a->capacity};

#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (n > 16384)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t first = from[ray], end = from[ray + 1] < n ? from[ray + 1] : n, k = first;
        float tau = before ? before[ray] : 0;
        for (; k < end && tau <= depth; k++) tau += sigma[k] * delta[k];
        kept[ray] = k > first ? (uint32_t)(k - first) : 0;
        bool more = ray < given && a->most > 0 && end - first == a->most && tau <= depth;
        out_tau[ray] = tau;
        out_from[ray] = more ? t[end - 1] + 0.5f * delta[end - 1] : nowhere;
    }
    for (int64_t ray = 0; ray < rays; ray++)
        place_ray(&pack, kept[ray], ray < given, offsets + ray);
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (n > 16384)
    for (int64_t ray = 0; ray < pack.whole; ray++) {
        if (!kept[ray]) continue;
        memcpy(out_t + offsets[ray], t + from[ray], kept[ray] * sizeof *t);
        memcpy(out_delta + offsets[ray], delta + from[ray], kept[ray] * sizeof *delta);
        for (uint32_t k = 0; k < kept[ray]; k++) rows[offsets[ray] + k] = from[ray] + k;
    }
    finish_samples(launch, &pack, rays);
}

static bool good_capacity(ad_context *ctx, const char *name, int64_t capacity) {
    if (capacity >= 1 && capacity <= INT32_MAX) return true;
    ad_raise(ctx, "%s: a capacity of %lld samples: expected 1 to 2^31 - 1", name,
             (long long)capacity);
    return false;
}

static render_samples samples_of(const ad_tensor *out) {
    return (render_samples){out[OUT_T], out[OUT_DELTA], out[OUT_OFFSETS], out[OUT_COUNT],
                            out[OUT_RAYS]};
}

bool render_cull(ad_context *ctx, ad_tensor sigma, const render_samples *candidates,
                 const render_cull_options *options, render_samples *samples,
                 render_culled *culled) {
    cull_attributes a = {options->stop > 0 ? -log(options->stop) : HUGE_VAL, options->capacity,
                         options->most};
    ad_tensor out[OUTPUTS];
    *samples = (render_samples){0}, *culled = (render_culled){0};
    if (!good_capacity(ctx, "cull", options->capacity)) return false;
    bool good = ad_apply(ctx, &render_op_cull, INPUTS,
                         (ad_tensor[]){sigma, candidates->t, candidates->delta,
                                       candidates->offsets, candidates->rays, options->tau},
                         &a, out);
    *samples = samples_of(out);
    *culled = (render_culled){out[OUT_ROWS], out[OUT_TAU], out[OUT_FROM]};
    return good;
}

const ad_op render_op_cull = {
    .name = "cull", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .optional = 1u << TAU, .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(cull_attributes),
    .infer = cull_infer, .cpu = cull_cpu};

/* ---- joining: the arrays of the first piece, then those of the second */

typedef struct join_attributes {
    int64_t capacity, base;
} join_attributes;

enum { PIECE_T, PIECE_DELTA, PIECE_OFFSETS, PIECE_RAYS, PIECE_ROWS, PIECE_INPUTS };

static void join_infer(ad_infer *call) {
    const join_attributes *a = call->attributes;
    const ad_view *in = call->input;
    for (int piece = 0; piece < 2; piece++) {
        const ad_view *p = in + piece * PIECE_INPUTS;
        if (p[PIECE_T].rank != 1 || !ad_view_same_shape(&p[PIECE_T], &p[PIECE_DELTA])
            || !ad_view_same_shape(&p[PIECE_T], &p[PIECE_ROWS]) || p[PIECE_T].type != AD_F32
            || p[PIECE_ROWS].type != AD_U32)
            ad_infer_fail(call, "t and delta are f32, rows u32, all of one length");
    }
    if (in[PIECE_OFFSETS].rank != 1 || in[PIECE_OFFSETS].size[0] < 1
        || !ad_view_same_shape(&in[PIECE_OFFSETS], &in[PIECE_INPUTS + PIECE_OFFSETS]))
        ad_infer_fail(call, "both pieces' offsets are u32 (rays + 1)");
    sample_outputs(call, a->capacity, &in[PIECE_OFFSETS]);
}

static void join_cpu(const ad_launch *launch) {
    const join_attributes *a = launch->attributes;
    const ad_view *one = launch->input, *two = launch->input + PIECE_INPUTS;
    const uint32_t *from[2] = {one[PIECE_OFFSETS].data, two[PIECE_OFFSETS].data};
    int64_t rays = one[PIECE_OFFSETS].size[0] - 1;
    int64_t given = *(const uint32_t *)one[PIECE_RAYS].data;
    if (*(const uint32_t *)two[PIECE_RAYS].data < given)
        given = *(const uint32_t *)two[PIECE_RAYS].data;
    float *t = launch->output[OUT_T].data, *delta = launch->output[OUT_DELTA].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    uint32_t *rows = launch->output[OUT_ROWS].data;
    packing pack = {.capacity = a->capacity};
    for (int64_t ray = 0; ray < rays; ray++)
        place_ray(&pack, from[0][ray + 1] - from[0][ray] + from[1][ray + 1] - from[1][ray],
                  ray < given, offsets + ray);
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (rays > 4096)
    for (int64_t ray = 0; ray < pack.whole; ray++) {
        uint32_t at = offsets[ray];
        for (int piece = 0; piece < 2; piece++) {
            const ad_view *p = piece ? two : one;
            uint32_t first = from[piece][ray], count = from[piece][ray + 1] - first;
            const uint32_t *source = (const uint32_t *)p[PIECE_ROWS].data + first;
            memcpy(t + at, (const float *)p[PIECE_T].data + first, count * sizeof *t);
            memcpy(delta + at, (const float *)p[PIECE_DELTA].data + first, count * sizeof *t);
            for (uint32_t k = 0; k < count; k++)
                rows[at + k] = source[k] + (piece ? (uint32_t)a->base : 0);
            at += count;
        }
    }
    finish_samples(launch, &pack, rays);
}

bool render_join_samples(ad_context *ctx, const render_samples *first, ad_tensor first_rows,
                         const render_samples *second, ad_tensor second_rows, int64_t base,
                         int64_t capacity, render_samples *samples, ad_tensor *rows) {
    join_attributes a = {capacity, base};
    ad_tensor out[SAMPLE_OUTPUTS];
    *samples = (render_samples){0}, *rows = (ad_tensor){0};
    if (!good_capacity(ctx, "join_samples", capacity)) return false;
    bool good = ad_apply(ctx, &render_op_join_samples, 2 * PIECE_INPUTS,
                         (ad_tensor[]){first->t, first->delta, first->offsets, first->rays,
                                       first_rows, second->t, second->delta, second->offsets,
                                       second->rays, second_rows}, &a, out);
    *samples = samples_of(out), *rows = out[OUT_ROWS];
    return good;
}

const ad_op render_op_join_samples = {
    .name = "join_samples", .inputs_min = 2 * PIECE_INPUTS, .inputs_max = 2 * PIECE_INPUTS,
    .outputs = SAMPLE_OUTPUTS, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(join_attributes), .infer = join_infer, .cpu = join_cpu};
