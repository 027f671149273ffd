/* The distortion loss of Barron et al., "Mip-NeRF 360", 2022, equation 15, in time O(samples).
 *
 *   L = sum over i, j of w_i w_j |m_i - m_j| + 1/3 sum of w_i^2 delta_i
 *
 * of each ray; it pulls a ray's weight together into one place. As samples lie near to far, the
 * absolute values resolve: with W_i the weight before sample i and D_i = sum over j < i of
 * w_j (m_i - m_j), the double sum is 2 sum w_i D_i (prefix sums as in DVGO v2). The kernel walks
 * D_(i+1) = D_i + W_(i+1) (m_(i+1) - m_i), a sum of positive terms, where the difference of two
 * prefix sums would cancel. Rays are owned whole by one thread. */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "render/ops/rows.h"

#include <string.h>

enum { WEIGHT, T, DELTA, OFFSETS, INPUTS };

static void distortion_infer(ad_infer *call) {
    const ad_view *in = call->input;
    bool ranks = in[WEIGHT].rank == 1 && ad_view_same_shape(&in[WEIGHT], &in[T])
              && ad_view_same_shape(&in[WEIGHT], &in[DELTA]);
    if (!ranks || !ad_type_is_real(in[WEIGHT].type) || in[T].type != in[WEIGHT].type
        || in[DELTA].type != in[WEIGHT].type)
        ad_infer_fail(call, "weight, t and delta are (samples), all of one length and real type");
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].size[0] < 1 || in[OFFSETS].type != AD_U32)
        ad_infer_fail(call, "offsets are u32 (rays + 1)");
    else
        call->output[0] = (ad_view){.type = in[WEIGHT].type, .rank = 1,
                                    .size = {in[OFFSETS].size[0] - 1}};
    call->saved_outputs = 0;
}

static void distortion_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *w = in[WEIGHT].data, *m = in[T].data, *delta = in[DELTA].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *loss = launch->output[0].data; // (rays)
    int64_t n = in[WEIGHT].size[0], rays = in[OFFSETS].size[0] - 1;
    int threads = rows_threads(offsets, rays, launch->threads);
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (n > 16384)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t first, end;
        float before = 0, spread = 0, pairs = 0, own = 0; // W_i, D_i and the two sums
        rows_of_ray(offsets, ray, n, &first, &end);
        for (int64_t i = first; i < end; i++) {
            if (i > first) spread += before * (m[i] - m[i - 1]);
            pairs += w[i] * spread;
            own += w[i] * w[i] * delta[i];
            before += w[i];
        }
        loss[ray] = 2 * pairs + own * (1.0f / 3);
    }
}

/* ---- the derivative: inputs as above and the cotangent (rays) -> dweight, dt, ddelta */

enum { DLOSS = INPUTS, VJP_INPUTS };

static void distortion_vjp_infer(ad_infer *call) {
    for (int i = 0; i < OFFSETS; i++) call->output[i] = call->input[i];
}

// dL/dw_i = 2 sum_j w_j |m_i - m_j| + 2/3 w_i delta_i,  dL/dm_i = 2 w_i (W before - W behind).
static void distortion_vjp_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *w = in[WEIGHT].data, *m = in[T].data, *delta = in[DELTA].data;
    const float *dloss = in[DLOSS].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *dw = launch->output[WEIGHT].data, *dm = launch->output[T].data;
    float *ddelta = launch->output[DELTA].data;
    int64_t n = in[WEIGHT].size[0], rays = in[OFFSETS].size[0] - 1;
    int threads = rows_threads(offsets, rays, launch->threads);
    (void)threads;
    size_t bytes = (size_t)n * sizeof(float);
    memset(dw, 0, bytes), memset(dm, 0, bytes), memset(ddelta, 0, bytes);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > 16384)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t first, end;
        float before = 0, behind = 0, spread = 0, g = dloss[ray];
        rows_of_ray(offsets, ray, n, &first, &end);
        // Near to far: what lies before; far to near: what lies behind.
        for (int64_t i = first; i < end; i++) {
            if (i > first) spread += before * (m[i] - m[i - 1]);
            dw[i] = spread + w[i] * delta[i] * (1.0f / 3);
            dm[i] = before;
            ddelta[i] = g * w[i] * w[i] * (1.0f / 3);
            before += w[i];
        }
        spread = 0;
        for (int64_t i = end; i-- > first;) {
            if (i + 1 < end) spread += behind * (m[i + 1] - m[i]);
            dw[i] = 2 * g * (dw[i] + spread);
            dm[i] = 2 * g * w[i] * (dm[i] - behind);
            behind += w[i];
        }
    }
}

static const ad_op op_distortion_vjp = {
    .name = "distortion_vjp", .inputs_min = VJP_INPUTS, .inputs_max = VJP_INPUTS,
    .outputs = OFFSETS, .flags = AD_OP_NO_GRADIENT, .infer = distortion_vjp_infer,
    .cpu = distortion_vjp_cpu};

static void distortion_vjp_fused(ad_vjp *call) {
    ad_tensor in[VJP_INPUTS], out[OFFSETS];
    memcpy(in, call->input, INPUTS * sizeof *in);
    in[DLOSS] = call->dy[0];
    if (!ad_apply(call->ctx, &op_distortion_vjp, VJP_INPUTS, in, NULL, out)) return;
    for (int i = 0; i < OFFSETS; i++)
        if (call->wanted >> i & 1) call->dx[i] = out[i];
}

static void distortion_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const ad_tensor *in = call->input;
    ad_tensor w = in[WEIGHT], m = in[T];
    ad_tensor before = ad_segment_cumsum(ctx, w, in[OFFSETS], true, false);                 // W_i
    ad_tensor moment = ad_segment_cumsum(ctx, ad_mul(ctx, w, m), in[OFFSETS], true, false);
    ad_tensor spread = ad_sub(ctx, ad_mul(ctx, m, before), moment);                         // D_i
    ad_tensor pairs = ad_affine(ctx, ad_mul(ctx, w, spread), 2, 0);
    ad_tensor own = ad_affine(ctx, ad_mul(ctx, ad_square(ctx, w), in[DELTA]), 1.0 / 3, 0);
    output[0] = ad_segment_sum(ctx, ad_add(ctx, pairs, own), in[OFFSETS]);
}

ad_tensor render_distortion(ad_context *ctx, ad_tensor weight, ad_tensor t, ad_tensor delta,
                            ad_tensor offsets) {
    return ad_apply1(ctx, &render_op_distortion, INPUTS, (ad_tensor[]){weight, t, delta, offsets},
                     NULL);
}

static void distortion_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 9.0 * (double)call->input[WEIGHT].size[0];
    *bytes = 12.0 * (double)call->input[WEIGHT].size[0];
}

static bool distortion_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 1 || !ad_type_is_real(s->type)) return false;
    int64_t n = s->shape.size[0];
    s->inputs = INPUTS;
    for (int i = 0; i < OFFSETS; i++) {
        s->input[i].type = s->type, s->input[i].shape = s->shape;
        s->input[i].low = 0.1, s->input[i].high = 1;
    }
    s->input[T].sorted = true; // near to far
    s->input[OFFSETS].type = AD_U32, s->input[OFFSETS].shape = AD_SHAPE(n / 4 + 2);
    s->input[OFFSETS].low = 0, s->input[OFFSETS].high = (double)n, s->input[OFFSETS].sorted = true;
    return true;
}

const ad_op render_op_distortion = {
    .name = "distortion", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = 1,
    .infer = distortion_infer, .cpu = distortion_cpu, .compose = distortion_compose,
    .vjp_fused = distortion_vjp_fused, .cost = distortion_cost, .sample = distortion_sample};
