/* Culling: of each ray's candidates, those that light still reaches.
 *
 * A ray's samples behind the point where its transmittance falls below `stop` carry no weight, yet
 * would cost a forward and a backward pass each. Given the candidates' densities (found without a
 * tape), each ray keeps the candidates k with sum over i < k of sigma_i delta_i <= -log(stop): the
 * front of its row, so culling is a copy of prefixes into packed arrays of another capacity. A ray
 * that does not fit whole has none, and so have the rays behind it, as in marching. Choosing
 * samples is a stop-gradient. */
#include "render/render.h"

#include <math.h>
#include <string.h>

typedef struct cull_attributes {
    double depth;            // -log(stop)
    int64_t capacity;
} cull_attributes;

enum { SIGMA, T, DELTA, OFFSETS, RAYS, INPUTS };
enum { OUT_T, OUT_DELTA, OUT_OFFSETS, OUT_COUNT, OUT_RAYS, OUT_ROWS, OUTPUTS };

static void cull_infer(ad_infer *call) {
    const ad_view *in = call->input;
    const cull_attributes *a = call->attributes;
    if (in[SIGMA].rank != 1 || !ad_view_same_shape(&in[SIGMA], &in[T])
        || !ad_view_same_shape(&in[SIGMA], &in[DELTA]) || in[SIGMA].type != AD_F32)
        ad_infer_fail(call, "density, t and delta are f32 (samples), all of one length");
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].size[0] < 1 || in[OFFSETS].type != AD_U32)
        ad_infer_fail(call, "offsets are u32 (rays + 1)");
    ad_view *out = call->output;
    out[OUT_T] = out[OUT_DELTA] = (ad_view){.type = AD_F32, .rank = 1, .size = {a->capacity}};
    out[OUT_ROWS] = (ad_view){.type = AD_U32, .rank = 1, .size = {a->capacity}};
    out[OUT_OFFSETS] = in[OFFSETS];
    out[OUT_COUNT] = out[OUT_RAYS] = (ad_view){.type = AD_U32};
    call->workspace = (size_t)(in[OFFSETS].rank == 1 ? in[OFFSETS].size[0] : 0) * 4;
}

static void cull_cpu(const ad_launch *launch) {
    const cull_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    const float *sigma = in[SIGMA].data, *t = in[T].data, *delta = in[DELTA].data;
    const uint32_t *from = in[OFFSETS].data;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    int64_t given = *(const uint32_t *)in[RAYS].data, total = 0, whole = 0;
    float *out_t = launch->output[OUT_T].data, *out_delta = launch->output[OUT_DELTA].data;
    uint32_t *offsets = launch->output[OUT_OFFSETS].data, *kept = launch->workspace;
    uint32_t *rows = launch->output[OUT_ROWS].data;
    float depth = (float)a->depth;
    if (given > rays) given = rays;

#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 65536)
    for (int64_t ray = 0; ray < given; ray++) {
        int64_t end = from[ray + 1] < n ? from[ray + 1] : n, k = from[ray];
        float tau = 0;
        kept[ray] = 0;
        for (; k < end && tau <= depth; k++) tau += sigma[k] * delta[k];
        if (k > from[ray]) kept[ray] = (uint32_t)(k - from[ray]);
    }
    bool full = false;
    for (int64_t ray = 0; ray < rays; ray++) {
        offsets[ray] = (uint32_t)total;
        full = full || ray >= given || total + kept[ray] > a->capacity;
        if (!full) total += kept[ray], whole++;
    }
    offsets[rays] = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_COUNT].data = (uint32_t)total;
    *(uint32_t *)launch->output[OUT_RAYS].data = (uint32_t)whole;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 65536)
    for (int64_t ray = 0; ray < whole; ray++) {
        if (!kept[ray]) continue;
        memcpy(out_t + offsets[ray], t + from[ray], kept[ray] * sizeof *t);
        memcpy(out_delta + offsets[ray], delta + from[ray], kept[ray] * sizeof *delta);
        for (uint32_t k = 0; k < kept[ray]; k++) rows[offsets[ray] + k] = from[ray] + k;
    }
    memset(out_t + total, 0, (size_t)(a->capacity - total) * sizeof *t);
    memset(out_delta + total, 0, (size_t)(a->capacity - total) * sizeof *delta);
    memset(rows + total, 0, (size_t)(a->capacity - total) * sizeof *rows);
}

bool render_cull(ad_context *ctx, ad_tensor sigma, const render_samples *candidates, double stop,
                 int64_t capacity, render_samples *samples, ad_tensor *rows) {
    cull_attributes a = {stop > 0 ? -log(stop) : HUGE_VAL, capacity};
    ad_tensor out[OUTPUTS];
    *samples = (render_samples){0}, *rows = (ad_tensor){0};
    if (capacity < 1 || capacity > INT32_MAX) {
        ad_raise(ctx, "cull: a capacity of %lld samples: expected 1 to 2^31 - 1",
                 (long long)capacity);
        return false;
    }
    bool good = ad_apply(ctx, &render_op_cull, INPUTS,
                         (ad_tensor[]){sigma, candidates->t, candidates->delta,
                                       candidates->offsets, candidates->rays}, &a, out);
    *samples = (render_samples){out[OUT_T], out[OUT_DELTA], out[OUT_OFFSETS], out[OUT_COUNT],
                                out[OUT_RAYS]};
    *rows = out[OUT_ROWS];
    return good;
}

const ad_op render_op_cull = {
    .name = "cull", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(cull_attributes), .infer = cull_infer,
    .cpu = cull_cpu};
