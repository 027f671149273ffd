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
 * asked for: each piece says where the rays that are still lit go on and what lies in front of
 * there, and joining puts each ray's pieces side by side again. */
#include "render/render.h"

#include "render/ops/rows.h"

#include <math.h>
#include <string.h>

// Packed samples to come: rays that fit get their place in turn, the others none.
typedef struct packing {
    int64_t capacity, total, whole;
    bool full;
} packing;

static void place_ray(packing *p, int64_t samples, uint32_t *offset) {
    *offset = (uint32_t)p->total;
    p->full = p->full || p->total + samples > p->capacity;
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
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    for (int64_t ray = p->whole; ray <= rays; ray++) offsets[ray] = (uint32_t)p->total;
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)p->total;
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)p->whole;
    for (int i = 0; i < 3; i++)
        memset((uint32_t *)launch->output[arrays[i]].data + p->total, 0,
               (size_t)(p->capacity - p->total) * 4);
}

/* ---- culling */

typedef struct cull_attributes {
    double depth;            // -log(stop)
    int64_t capacity;
} cull_attributes;

enum { SIGMA, T, DELTA, OFFSETS, RAYS, TAU, NEXT, INPUTS };
enum { OUT_TAU = SAMPLE_OUTPUTS, OUT_NEXT, OUTPUTS };

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
    else if (ad_view_present(&in[NEXT])
             && (in[NEXT].type != AD_F32 || ad_view_count(&in[NEXT]) != in[OFFSETS].size[0] - 1))
        ad_infer_fail(call, "next is f32 (rays)");
    int64_t rays = in[OFFSETS].rank == 1 && in[OFFSETS].size[0] > 0 ? in[OFFSETS].size[0] - 1 : 0;
    sample_outputs(call, a->capacity, &in[OFFSETS]);
    call->output[OUT_TAU] = (ad_view){.type = AD_F32, .rank = 1, .size = {rays}};
    call->output[OUT_NEXT] = call->output[OUT_TAU];
    call->workspace = (size_t)rays * 4;
}

static void cull_cpu(const ad_launch *launch) {
    const cull_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const float *sigma = in[SIGMA].data, *t = in[T].data, *delta = in[DELTA].data;
    const float *before = ad_view_present(&in[TAU]) ? in[TAU].data : NULL;
    const float *next = ad_view_present(&in[NEXT]) ? in[NEXT].data : NULL;
    const uint32_t *from = in[OFFSETS].data;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    int64_t given = *(const uint32_t *)in[RAYS].data;
    if (given > rays) given = rays;
    float *out_t = launch->output[OUT_T].data, *out_delta = launch->output[OUT_DELTA].data;
    float *out_tau = launch->output[OUT_TAU].data, *out_next = launch->output[OUT_NEXT].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data, *kept = launch->workspace;
    uint32_t *rows = launch->output[OUT_ROWS].data;
    float depth = (float)a->depth;
    packing pack = {.capacity = a->capacity};

#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (n > 4096)
    for (int64_t ray = 0; ray < given; ray++) {
        int64_t first = from[ray], end = from[ray + 1] < n ? from[ray + 1] : n, k = first;
        float tau = before ? before[ray] : 0;
        for (; k < end && tau <= depth; k++) tau += sigma[k] * delta[k];
        kept[ray] = k > first ? (uint32_t)(k - first) : 0;
        out_tau[ray] = tau;
        out_next[ray] = next && tau <= depth ? next[ray] : rows_nowhere;
    }
    for (int64_t ray = given; ray < rays; ray++)
        out_tau[ray] = before ? before[ray] : 0;
    for (int64_t ray = 0; ray < given; ray++) place_ray(&pack, kept[ray], offsets + ray);
    for (int64_t ray = pack.whole; ray < rays; ray++) out_next[ray] = rows_nowhere;
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (n > 4096)
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
    return (render_samples){.t = out[OUT_T], .delta = out[OUT_DELTA],
                            .offsets = out[OUT_OFFSETS], .count = out[OUT_COUNT],
                            .rays = out[OUT_RAYS]};
}

bool render_cull(ad_context *ctx, ad_tensor sigma, const render_samples *candidates,
                 const render_cull_options *options, render_samples *samples,
                 render_culled *culled) {
    cull_attributes a = {.depth = options->stop > 0 ? -log(options->stop) : HUGE_VAL,
                         .capacity = options->capacity};
    ad_tensor out[OUTPUTS];
    *samples = (render_samples){0}, *culled = (render_culled){0};
    if (!good_capacity(ctx, "cull", options->capacity)) return false;
    bool good = ad_apply(ctx, &render_op_cull, INPUTS,
                         (ad_tensor[]){sigma, candidates->t, candidates->delta,
                                       candidates->offsets, candidates->rays, options->tau,
                                       candidates->next}, &a, out);
    *samples = samples_of(out), samples->next = out[OUT_NEXT];
    *culled = (render_culled){out[OUT_ROWS], out[OUT_TAU]};
    return good;
}

const ad_op render_op_cull = {
    .name = "cull", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .optional = 1u << TAU | 1u << NEXT, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(cull_attributes), .infer = cull_infer, .cpu = cull_cpu};

/* ---- joining: of each ray the samples of the first piece, then those of the second and so on */

typedef struct join_attributes {
    int64_t capacity, base[RENDER_PIECES_MAX]; // the number of each piece's first candidate
} join_attributes;

enum { PIECE_T, PIECE_DELTA, PIECE_OFFSETS, PIECE_RAYS, PIECE_ROWS, PIECE_INPUTS };

static void join_infer(ad_infer *call) {
    const join_attributes *a = call->attributes;
    const ad_view *offsets = &call->input[PIECE_OFFSETS];
    for (const ad_view *p = call->input; p < call->input + call->inputs; p += PIECE_INPUTS) {
        if (p[PIECE_T].rank != 1 || !ad_view_same_shape(&p[PIECE_T], &p[PIECE_DELTA])
            || !ad_view_same_shape(&p[PIECE_T], &p[PIECE_ROWS]) || p[PIECE_T].type != AD_F32
            || p[PIECE_ROWS].type != AD_U32)
            ad_infer_fail(call, "t and delta are f32, rows u32, all of one length");
        if (p[PIECE_OFFSETS].rank != 1 || p[PIECE_OFFSETS].size[0] < 1
            || p[PIECE_OFFSETS].type != AD_U32 || p[PIECE_RAYS].type != AD_U32
            || !ad_view_same_shape(&p[PIECE_OFFSETS], offsets))
            ad_infer_fail(call, "all pieces' offsets are u32 (rays + 1), their rays u32");
    }
    sample_outputs(call, a->capacity, offsets);
}

static void join_cpu(const ad_launch *launch) {
    const join_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    int pieces = launch->inputs / PIECE_INPUTS;
    int64_t rays = in[PIECE_OFFSETS].size[0] - 1, given = rays;
    float *t = launch->output[OUT_T].data, *delta = launch->output[OUT_DELTA].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data;
    uint32_t *rows = launch->output[OUT_ROWS].data;
    const uint32_t *from[RENDER_PIECES_MAX];
    packing pack = {.capacity = a->capacity};
    for (int piece = 0; piece < pieces; piece++) {
        int64_t whole = *(const uint32_t *)in[piece * PIECE_INPUTS + PIECE_RAYS].data;
        given = whole < given ? whole : given;
        from[piece] = in[piece * PIECE_INPUTS + PIECE_OFFSETS].data;
    }
    for (int64_t ray = 0; ray < given; ray++) {
        int64_t samples = 0, first, end;
        for (int piece = 0; piece < pieces; piece++, samples += end - first)
            rows_of_ray(from[piece], ray, in[piece * PIECE_INPUTS + PIECE_T].size[0], &first, &end);
        place_ray(&pack, samples, offsets + ray);
    }
#pragma omp parallel for num_threads(launch->threads) schedule(static, 256) if (rays > 4096)
    for (int64_t ray = 0; ray < pack.whole; ray++) {
        uint32_t at = offsets[ray];
        for (int piece = 0; piece < pieces; piece++) {
            const ad_view *p = in + piece * PIECE_INPUTS;
            int64_t first, end;
            rows_of_ray(from[piece], ray, p[PIECE_T].size[0], &first, &end);
            uint32_t count = (uint32_t)(end - first);
            const uint32_t *source = (const uint32_t *)p[PIECE_ROWS].data + first;
            memcpy(t + at, (const float *)p[PIECE_T].data + first, count * sizeof *t);
            memcpy(delta + at, (const float *)p[PIECE_DELTA].data + first, count * sizeof *t);
            for (uint32_t k = 0; k < count; k++)
                rows[at + k] = source[k] + (uint32_t)a->base[piece];
            at += count;
        }
    }
    finish_samples(launch, &pack, rays);
}

bool render_join_samples(ad_context *ctx, int count, const render_piece *pieces, int64_t capacity,
                         render_samples *samples, ad_tensor *rows) {
    join_attributes a = {.capacity = capacity};
    ad_tensor in[RENDER_PIECES_MAX * PIECE_INPUTS], out[SAMPLE_OUTPUTS];
    *samples = (render_samples){0}, *rows = (ad_tensor){0};
    if (!good_capacity(ctx, "join_samples", capacity)) return false;
    if (count < 1 || count > RENDER_PIECES_MAX) {
        ad_raise(ctx, "join_samples: %d pieces: expected 1 to %d", count, RENDER_PIECES_MAX);
        return false;
    }
    for (int piece = 0; piece < count; piece++) {
        const render_samples *s = &pieces[piece].samples;
        const ad_tensor arrays[] = {s->t, s->delta, s->offsets, s->rays, pieces[piece].rows};
        memcpy(in + piece * PIECE_INPUTS, arrays, sizeof arrays);
        if (piece > 0) a.base[piece] = a.base[piece - 1] + pieces[piece - 1].candidates;
    }
    bool good = ad_apply(ctx, &render_op_join_samples, count * PIECE_INPUTS, in, &a, out);
    *samples = samples_of(out), *rows = out[OUT_ROWS];
    return good;
}

const ad_op render_op_join_samples = {
    .name = "join_samples", .inputs_min = PIECE_INPUTS,
    .inputs_max = RENDER_PIECES_MAX * PIECE_INPUTS, .outputs = SAMPLE_OUTPUTS,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(join_attributes), .infer = join_infer,
    .cpu = join_cpu};
