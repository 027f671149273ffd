/* Volume rendering of packed samples: densities and colours along rays to pixels.
 *
 * Max, "Optical Models for Direct Volume Rendering", 1995, as in Mildenhall et al., "NeRF", 2020,
 * equation 3. Samples lie ray after ray, near to far; offsets say where each ray starts:
 *
 *   alpha_k = 1 - exp(-sigma_k delta_k), T_k = prod over i < k of (1 - alpha_i),  w_k = T_k alpha_k
 *   colour = sum w_k c_k,  opacity = sum w_k,  depth = sum w_k t_k
 *
 * A ray ends before the first sample with T_k < stop; samples behind have weight 0, exactly. With
 * g_k the cotangent that falls on w_k (through colour, opacity, depth and the weights themselves),
 * the derivative has the closed form d sigma_k = delta_k (T_(k+1) g_k - sum over i > k of w_i g_i),
 * which one walk from far to near gives. Rays are owned whole by one thread; the exponentials of
 * the next LANES samples are made at once, as vectors, the products and sums one by one. */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "autodiff/ops/math.h"
#include "render/ops/rows.h"

#include <math.h>
#include <string.h>

typedef struct composite_attributes {
    double stop;
} composite_attributes;

enum { SIGMA, COLOUR, T, DELTA, OFFSETS, INPUTS };   // inputs
enum { PIXEL, OPACITY, DEPTH, WEIGHT, OUTPUTS };     // outputs
enum { LANES = 16 };

static void composite_infer(ad_infer *call) {
    const ad_view *in = call->input;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    char colour[160];
    ad_view_text(&in[COLOUR], colour, sizeof colour);
    if (in[SIGMA].rank != 1 || in[T].rank != 1 || in[DELTA].rank != 1 || in[T].size[0] != n
        || in[DELTA].size[0] != n)
        ad_infer_fail(call, "density, t and delta are (samples), all of one length");
    else if (in[COLOUR].rank != 2 || in[COLOUR].size[0] != n || in[COLOUR].size[1] != 3)
        ad_infer_fail(call, "colours are (%lld, 3), not %s", (long long)n, colour);
    else if (in[OFFSETS].rank != 1 || rays < 0 || in[OFFSETS].type != AD_U32)
        ad_infer_fail(call, "offsets are u32 (rays + 1)");
    ad_type type = in[SIGMA].type;
    if (!ad_type_is_real(type) || in[COLOUR].type != type || in[T].type != type
        || in[DELTA].type != type)
        ad_infer_fail(call, "density, colours, t and delta have one real type");
    call->output[PIXEL] = (ad_view){.type = type, .rank = 2, .size = {rays, 3}};
    call->output[OPACITY] = (ad_view){.type = type, .rank = 1, .size = {rays}};
    call->output[DEPTH] = call->output[OPACITY];
    call->output[WEIGHT] = (ad_view){.type = type, .rank = 1, .size = {n}};
}

// What passes the samples from k on, exp(-sigma delta), and the rest, 1 - that, each to its last
// digit: the one is small behind a wall, the other in thin air. Past the n rows: 1 and 0.
static inline void split_light(const float *sigma, const float *delta, int64_t k, int64_t n,
                               float kept[LANES], float alpha[LANES]) {
    float depth[LANES] = {0};
    if (k + LANES <= n) {
        for (int i = 0; i < LANES; i++) depth[i] = sigma[k + i] * delta[k + i];
    } else {
        for (int64_t i = 0; k + i < n; i++) depth[i] = sigma[k + i] * delta[k + i];
    }
    for (int i = 0; i < LANES; i++) {
        kept[i] = ad_math_exp(-depth[i]);
        alpha[i] = -ad_math_expm1(-depth[i]);
    }
}

static void composite_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *sigma = in[SIGMA].data, *colour = in[COLOUR].data, *t = in[T].data;
    const float *delta = in[DELTA].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *pixel = launch->output[PIXEL].data, *opacity = launch->output[OPACITY].data;
    float *depth = launch->output[DEPTH].data, *weight = launch->output[WEIGHT].data;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    int threads = rows_threads(offsets, rays, launch->threads);
    (void)threads;
    float stop = (float)((const composite_attributes *)launch->attributes)->stop;
    memset(weight, 0, (size_t)n * sizeof *weight); // rows of no ray
#pragma omp parallel for num_threads(threads) schedule(static, 256) if (n > 8192)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t first, end;
        float transmittance = 1, sum[3] = {0, 0, 0}, far = 0, mass = 0;
        float kept[LANES], alpha[LANES];
        rows_of_ray(offsets, ray, n, &first, &end);
        for (int64_t k = first; k < end && transmittance >= stop; k++) {
            int64_t lane = (k - first) % LANES;
            if (lane == 0) split_light(sigma, delta, k, n, kept, alpha);
            float w = transmittance * alpha[lane];
            weight[k] = w;
            for (int c = 0; c < 3; c++) sum[c] += w * colour[3 * k + c];
            mass += w, far += w * t[k];
            transmittance *= kept[lane];
        }
        memcpy(pixel + 3 * ray, sum, sizeof sum);
        opacity[ray] = mass, depth[ray] = far;
    }
}

/* ---- the closed-form derivative: inputs as above, then the four cotangents (any may be absent) */

enum { DPIXEL = INPUTS, DOPACITY, DDEPTH, DWEIGHT, VJP_INPUTS };
enum { DSIGMA, DCOLOUR, DT, DDELTA, VJP_OUTPUTS };

typedef struct composite_vjp_attributes {
    double stop;
    int64_t delta; // whether the lengths want their gradient; samplers give none
} composite_vjp_attributes;

static void composite_vjp_infer(ad_infer *call) {
    call->output[DSIGMA] = call->input[SIGMA];
    call->output[DCOLOUR] = call->input[COLOUR];
    call->output[DT] = call->output[DDELTA] = call->input[T];
    if (!((const composite_vjp_attributes *)call->attributes)->delta) call->outputs = DDELTA;
}

static void composite_vjp_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *sigma = in[SIGMA].data, *colour = in[COLOUR].data, *t = in[T].data;
    const float *delta = in[DELTA].data;
    const float *dpixel = in[DPIXEL].data, *dopacity = in[DOPACITY].data;
    const float *ddepth = in[DDEPTH].data, *dweight = in[DWEIGHT].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *dsigma = launch->output[DSIGMA].data, *dcolour = launch->output[DCOLOUR].data;
    float *dt = launch->output[DT].data;
    float *ddelta = launch->outputs > DDELTA ? launch->output[DDELTA].data : NULL;
    int64_t n = in[SIGMA].size[0], rays = in[OFFSETS].size[0] - 1;
    int threads = rows_threads(offsets, rays, launch->threads);
    (void)threads;
    float stop = (float)((const composite_vjp_attributes *)launch->attributes)->stop;
    memset(dsigma, 0, (size_t)n * 4), memset(dcolour, 0, (size_t)n * 12);
    memset(dt, 0, (size_t)n * 4);
    if (ddelta) memset(ddelta, 0, (size_t)n * 4);
#pragma omp parallel for num_threads(threads) schedule(static, 256) if (n > 8192)
    for (int64_t ray = 0; ray < rays; ray++) {
        int64_t first, end, last;
        rows_of_ray(offsets, ray, n, &first, &end);
        // Near to far once more: weights into dsigma's place, T_(k+1) into dt's.
        float transmittance = 1, kept[LANES], alpha[LANES];
        for (last = first; last < end && transmittance >= stop; last++) {
            int64_t lane = (last - first) % LANES;
            if (lane == 0) split_light(sigma, delta, last, n, kept, alpha);
            dsigma[last] = transmittance * alpha[lane];
            transmittance *= kept[lane];
            dt[last] = transmittance;
        }
        const float zero[3] = {0, 0, 0};
        const float *dp = dpixel ? dpixel + 3 * ray : zero;
        float d_opacity = dopacity ? dopacity[ray] : 0, d_depth = ddepth ? ddepth[ray] : 0;
        float behind = 0;
        for (int64_t k = last; k-- > first;) {
            float w = dsigma[k], g = d_opacity + d_depth * t[k] + (dweight ? dweight[k] : 0);
            for (int c = 0; c < 3; c++) {
                g += dp[c] * colour[3 * k + c];
                dcolour[3 * k + c] = w * dp[c];
            }
            float slope = dt[k] * g - behind; // along the optical depth sigma delta
            dsigma[k] = delta[k] * slope;
            if (ddelta) ddelta[k] = sigma[k] * slope;
            dt[k] = w * d_depth;
            behind += w * g;
        }
    }
}

static const ad_op op_composite_vjp = {
    .name = "composite_vjp", .inputs_min = VJP_INPUTS, .inputs_max = VJP_INPUTS,
    .outputs = VJP_OUTPUTS, .optional = 15u << DPIXEL, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(composite_vjp_attributes), .infer = composite_vjp_infer,
    .cpu = composite_vjp_cpu};

static void composite_vjp_fused(ad_vjp *call) {
    ad_tensor in[VJP_INPUTS], out[VJP_OUTPUTS];
    memcpy(in, call->input, INPUTS * sizeof *in);
    memcpy(in + DPIXEL, call->dy, OUTPUTS * sizeof *in);
    composite_vjp_attributes attributes = {
        .stop = ((const composite_attributes *)call->attributes)->stop,
        .delta = call->wanted >> DELTA & 1};
    if (!ad_apply(call->ctx, &op_composite_vjp, VJP_INPUTS, in, &attributes, out)) return;
    for (int i = 0; i < VJP_OUTPUTS; i++) // in the order of the inputs
        if (call->wanted >> i & 1) call->dx[i] = out[i];
}

/* ---- the composition */

static void composite_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const ad_tensor *in = call->input;
    double stop = ((const composite_attributes *)call->attributes)->stop;
    ad_type type = ad_type_of(ctx, in[SIGMA]);
    int64_t n = ad_count(ctx, in[SIGMA]);
    ad_tensor tau = ad_mul(ctx, in[SIGMA], in[DELTA]); // (samples)
    // T_k = exp(-(tau_0 + ... + tau_(k-1))); the ray ends where it falls below stop.
    ad_tensor before = ad_segment_cumsum(ctx, tau, in[OFFSETS], true, false);
    ad_tensor transmittance = ad_exp(ctx, ad_neg(ctx, before));
    ad_tensor alpha = ad_neg(ctx, ad_expm1(ctx, ad_neg(ctx, tau)));
    ad_tensor seen = ad_less_equal(ctx, ad_scalar(ctx, type, stop), transmittance);
    ad_tensor one = ad_full(ctx, type, AD_SHAPE(ad_count(ctx, in[OFFSETS]) - 1), 1);
    ad_tensor inside = ad_segment_repeat(ctx, one, in[OFFSETS], n); // 0 on rows of no ray
    ad_tensor live = ad_mul(ctx, ad_cast(ctx, seen, type), inside);
    ad_tensor weight = ad_mul(ctx, ad_mul(ctx, transmittance, alpha), live);
    ad_tensor column = ad_reshape(ctx, weight, AD_SHAPE(n, 1));
    output[PIXEL] = ad_segment_sum(ctx, ad_mul(ctx, column, in[COLOUR]), in[OFFSETS]);
    output[OPACITY] = ad_segment_sum(ctx, weight, in[OFFSETS]);
    output[DEPTH] = ad_segment_sum(ctx, ad_mul(ctx, weight, in[T]), in[OFFSETS]);
    output[WEIGHT] = weight;
}

/* ---- public */

bool render_composite(ad_context *ctx, ad_tensor sigma, ad_tensor colour, ad_tensor t,
                      ad_tensor delta, ad_tensor offsets, double stop, render_pixels *pixels) {
    composite_attributes attributes = {stop};
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_composite, INPUTS,
                         (ad_tensor[]){sigma, colour, t, delta, offsets}, &attributes, out);
    *pixels = (render_pixels){out[PIXEL], out[OPACITY], out[DEPTH], out[WEIGHT]};
    return good;
}

static void composite_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 30.0 * (double)call->input[SIGMA].size[0];
    *bytes = 28.0 * (double)call->input[SIGMA].size[0];
}

// Variant 1 is thin air: optical depths of 1e-5 to 1e-3 a sample.
static bool composite_sample(ad_sample *s) {
    if (s->variant > 1 || s->shape.rank != 1 || !ad_type_is_real(s->type)) return false;
    int64_t n = s->shape.size[0];
    s->inputs = INPUTS;
    for (int i = 0; i < OFFSETS; i++) {
        s->input[i].type = s->type, s->input[i].shape = s->shape;
        s->input[i].low = 0.1, s->input[i].high = 1;
    }
    if (s->variant) s->input[SIGMA].low = 1e-4, s->input[SIGMA].high = 1e-3;
    s->input[COLOUR].shape = AD_SHAPE(n, 3);
    s->input[OFFSETS].type = AD_U32, s->input[OFFSETS].shape = AD_SHAPE(n / 4 + 2);
    s->input[OFFSETS].low = 0, s->input[OFFSETS].high = (double)n, s->input[OFFSETS].sorted = true;
    return true;
}

const ad_op render_op_composite = {
    .name = "composite", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .attribute_bytes = sizeof(composite_attributes), .infer = composite_infer,
    .cpu = composite_cpu, .compose = composite_compose, .vjp_fused = composite_vjp_fused,
    .cost = composite_cost, .sample = composite_sample};
