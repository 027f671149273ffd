/* Density: exp of the first column of a network's output, as in instant-ngp.
 *
 * exp makes densities of every size easy to learn and impossible to hold: one large step and the
 * next slope is astronomical. So the slope is taken at min(x, 15), on purpose: up to 15 it is the
 * derivative, beyond it the constant e^15 (truncated exponential of torch-ngp and instant-ngp).
 * The derivative needs the output alone: exp(min(x, 15)) = min(sigma, e^15). */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "render/ops/density.h"

#include <math.h>

enum { BLOCK = 2048 };

static void density_infer(ad_infer *call) {
    const ad_view *h = &call->input[0];
    char text[160];
    ad_view_text(h, text, sizeof text);
    if (h->rank != 2 || h->size[1] < 1 || !ad_type_is_real(h->type))
        ad_infer_fail(call, "the network's output is real (n, c) with c > 0, not %s", text);
    else
        call->output[0] = (ad_view){.type = h->type, .rank = 1, .size = {h->size[0]}};
}

static void density_cpu(const ad_launch *launch) {
    const float *h = launch->input[0].data; // (n, c)
    float *sigma = launch->output[0].data;  // (n)
    int64_t n = launch->input[0].size[0], c = launch->input[0].size[1];
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * BLOCK, end = first + BLOCK < n ? first + BLOCK : n;
        if (c == 1) density_rows(first, end, 1, h, sigma); // contiguous
        else density_rows(first, end, c, h, sigma);
    }
}

/* ---- the derivative: sigma (n), d sigma (n) -> dh (n, c), zero but in the first column */

typedef struct density_attributes {
    int64_t columns;
} density_attributes;

static void density_vjp_infer(ad_infer *call) {
    const density_attributes *a = call->attributes;
    call->output[0] = (ad_view){.type = AD_F32, .rank = 2,
                                .size = {call->input[0].size[0], a->columns}};
}

static inline __attribute__((always_inline)) void density_slopes(
    int64_t first, int64_t end, int64_t c, float limit, const float *restrict sigma,
    const float *restrict dsigma, float *restrict dh) {
    for (int64_t k = first; k < end; k++) {
        float slope = sigma[k] > limit ? limit : sigma[k];
        for (int64_t i = 1; i < c; i++) dh[k * c + i] = 0;
        dh[k * c] = dsigma[k] * slope;
    }
}

static void density_vjp_cpu(const ad_launch *launch) {
    const float *sigma = launch->input[0].data, *dsigma = launch->input[1].data;
    float *dh = launch->output[0].data;
    int64_t n = launch->input[0].size[0], c = launch->output[0].size[1];
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    float limit = ad_math_exp(DENSITY_SLOPE_LIMIT);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * BLOCK, end = first + BLOCK < n ? first + BLOCK : n;
        if (c == 16) density_slopes(first, end, 16, limit, sigma, dsigma, dh);
        else density_slopes(first, end, c, limit, sigma, dsigma, dh);
    }
}

static const ad_op op_density_vjp = {
    .name = "density_vjp", .inputs_min = 2, .inputs_max = 2, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(density_attributes),
    .infer = density_vjp_infer, .cpu = density_vjp_cpu};

static void density_vjp_fused(ad_vjp *call) {
    density_attributes attributes = {ad_shape_of(call->ctx, call->input[0]).size[1]};
    call->dx[0] = ad_apply1(call->ctx, &op_density_vjp, 2,
                            (ad_tensor[]){call->output[0], call->dy[0]}, &attributes);
}

// exp(min(x, 15)) + e^15 max(x - 15, 0) has the wanted slope everywhere; what its value lacks
// beyond 15 is added as a constant.
static void density_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    ad_tensor x = ad_slice(ctx, call->input[0], 1, 0, 1, 1);
    x = ad_reshape(ctx, x, AD_SHAPE(ad_count(ctx, x)));
    ad_tensor inside = ad_exp(ctx, ad_clamp(ctx, x, -INFINITY, DENSITY_SLOPE_LIMIT));
    ad_tensor beyond = ad_relu(ctx, ad_affine(ctx, x, 1, -DENSITY_SLOPE_LIMIT));
    ad_tensor sloped = ad_add(ctx, inside, ad_affine(ctx, beyond, exp(DENSITY_SLOPE_LIMIT), 0));
    ad_tensor lacking = ad_sub(ctx, ad_exp(ctx, x), sloped);
    output[0] = ad_add(ctx, sloped, ad_stop_gradient(ctx, lacking));
}

ad_tensor render_density(ad_context *ctx, ad_tensor h) {
    return ad_apply1(ctx, &render_op_density, 1, &h, NULL);
}

static void density_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 20.0 * (double)call->input[0].size[0];
    *bytes = 68.0 * (double)call->input[0].size[0]; // a cache line for each number
}

static bool density_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 2 || s->shape.size[1] < 1
        || !ad_type_is_real(s->type))
        return false;
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2; // below 15, where the slope is the derivative
    return true;
}

const ad_op render_op_density = {
    .name = "density", .inputs_min = 1, .inputs_max = 1, .outputs = 1, .infer = density_infer,
    .cpu = density_cpu, .compose = density_compose, .vjp_fused = density_vjp_fused,
    .cost = density_cost, .sample = density_sample};
