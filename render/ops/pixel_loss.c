/* The loss of a step: pixels against pictures, both over one background.
 *
 * With o the ray's opacity, a the picture's alpha and b the background,
 *   e = (colour + (1 - o) b) - (a rgb + (1 - a) b)
 *   loss = mean of Huber(e) = s (2 |e| - s), s = min(|e|, delta): e^2 up to delta, then linear,
 * as Muller et al. 2022 train, scaled so that small errors count as squares. The mean is over the
 * channels of the live rays; rays past the count have no say. The mean square comes out beside it:
 * it is what a PSNR is made of, and the loss where delta is 0.
 *
 * As public operations this is some forty passes, forward and back, over arrays of three numbers a
 * ray. Here it is one each way. Sums are made in blocks of fixed size, whatever the threads. */
#include "render/render.h"

#include "autodiff/ops/axes.h"

#include <math.h>
#include <string.h>

typedef struct loss_attributes {
    double delta; // 0: squares everywhere
} loss_attributes;

enum { COLOUR, OPACITY, PICTURE, BACKGROUND, RAYS, INPUTS };
enum { LOSS, SQUARES, OUTPUTS };
enum { LANES = 16, BLOCK = 512 }; // rays

static void loss_infer(ad_infer *call) {
    const ad_view *in = call->input;
    int64_t rays = in[COLOUR].rank == 2 ? in[COLOUR].size[0] : -1;
    char picture[160], background[160];
    ad_view_text(&in[PICTURE], picture, sizeof picture);
    ad_view_text(&in[BACKGROUND], background, sizeof background);
    if (rays < 0 || in[COLOUR].size[1] != 3 || in[OPACITY].rank != 1
        || in[OPACITY].size[0] != rays)
        ad_infer_fail(call, "colours are (rays, 3), opacities (rays)");
    else if (in[PICTURE].rank != 2 || in[PICTURE].size[0] != rays || in[PICTURE].size[1] != 4)
        ad_infer_fail(call, "the picture is (%lld, 4), not %s", (long long)rays, picture);
    else if (in[BACKGROUND].rank != 2 || in[BACKGROUND].size[1] != 3
             || (in[BACKGROUND].size[0] != rays && in[BACKGROUND].size[0] != 1))
        ad_infer_fail(call, "the background is (%lld, 3) or (1, 3), not %s", (long long)rays,
                      background);
    else if (in[OPACITY].type != in[COLOUR].type || in[PICTURE].type != in[COLOUR].type
             || in[BACKGROUND].type != in[COLOUR].type || !ad_type_is_real(in[COLOUR].type))
        ad_infer_fail(call, "colour, opacity, picture and background have one real type");
    else if (in[RAYS].type != AD_U32 || ad_view_count(&in[RAYS]) != 1)
        ad_infer_fail(call, "the count of rays is one u32 number");
    call->output[LOSS] = call->output[SQUARES] = (ad_view){.type = in[COLOUR].type};
    call->saved_outputs = 0;
    call->workspace = rays > 0 ? (size_t)(rays / BLOCK + 1) * OUTPUTS * sizeof(double) : 0;
}

// What both kernels read: rays that count, and what to divide by.
typedef struct loss_work {
    const float *colour, *opacity, *picture, *background;
    int64_t step;            // between rays' backgrounds
    int64_t rays, live;
    float delta, share;
} loss_work;

static loss_work work_of(const ad_view *in, double delta) {
    int64_t rays = in[COLOUR].size[0], live = *(const uint32_t *)in[RAYS].data;
    if (live > rays) live = rays;
    return (loss_work){
        .colour = in[COLOUR].data, .opacity = in[OPACITY].data, .picture = in[PICTURE].data,
        .background = in[BACKGROUND].data, .step = in[BACKGROUND].size[0] == 1 ? 0 : 3,
        .rays = rays, .live = live,
        .delta = delta > 0 ? (float)delta : INFINITY, .share = 1 / (3 * (float)(live ? live : 1))};
}

// The errors of ray i, one a channel.
static inline void errors(const loss_work *w, int64_t i, float e[3]) {
    const float *p = w->picture + 4 * i, *b = w->background + w->step * i;
    float open = 1 - w->opacity[i], clear = 1 - p[3];
    for (int c = 0; c < 3; c++)
        e[c] = (w->colour[3 * i + c] + open * b[c]) - (p[c] * p[3] + clear * b[c]);
}

static void loss_cpu(const ad_launch *launch) {
    loss_work w = work_of(launch->input, ((const loss_attributes *)launch->attributes)->delta);
    double *part = launch->workspace, sum[OUTPUTS] = {0}; // (blocks, OUTPUTS)
    int64_t blocks = (w.live + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t end = (block + 1) * BLOCK < w.live ? (block + 1) * BLOCK : w.live;
        float loss[LANES] = {0}, squares[LANES] = {0};
        for (int64_t i = block * BLOCK; i < end; i++) {
            float e[3];
            errors(&w, i, e);
            for (int c = 0; c < 3; c++) {
                float size = fabsf(e[c]), low = size < w.delta ? size : w.delta;
                loss[i % LANES] += low * (2 * size - low);
                squares[i % LANES] += e[c] * e[c];
            }
        }
        double *total = part + block * OUTPUTS;
        total[LOSS] = total[SQUARES] = 0;
        for (int i = 0; i < LANES; i++) total[LOSS] += loss[i], total[SQUARES] += squares[i];
    }
    for (int64_t block = 0; block < blocks; block++)
        for (int k = 0; k < OUTPUTS; k++) sum[k] += part[block * OUTPUTS + k];
    for (int k = 0; k < OUTPUTS; k++)
        *(float *)launch->output[k].data = (float)sum[k] * w.share;
}

/* ---- the derivative: inputs as above, then both cotangents, of which one may be absent */

enum { DLOSS = INPUTS, DSQUARES, VJP_INPUTS };
enum { DCOLOUR, DOPACITY, VJP_OUTPUTS };

static void loss_vjp_infer(ad_infer *call) {
    call->output[DCOLOUR] = call->input[COLOUR];
    call->output[DOPACITY] = call->input[OPACITY];
}

static void loss_vjp_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    loss_work w = work_of(in, ((const loss_attributes *)launch->attributes)->delta);
    float *dcolour = launch->output[DCOLOUR].data, *dopacity = launch->output[DOPACITY].data;
    const float *dloss = in[DLOSS].data, *dsquares = in[DSQUARES].data;
    float outer = 2 * w.share * (dloss ? *dloss : 0), square = 2 * w.share;
    square *= dsquares ? *dsquares : 0;
    int64_t blocks = (w.live + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t end = (block + 1) * BLOCK < w.live ? (block + 1) * BLOCK : w.live;
        for (int64_t i = block * BLOCK; i < end; i++) {
            const float *b = w.background + w.step * i;
            float e[3], behind = 0;
            errors(&w, i, e);
            for (int c = 0; c < 3; c++) {
                float low = e[c] < -w.delta ? -w.delta : e[c] > w.delta ? w.delta : e[c];
                float slope = outer * low + square * e[c];
                dcolour[3 * i + c] = slope;
                behind += slope * b[c];
            }
            dopacity[i] = -behind;
        }
    }
    memset(dcolour + 3 * w.live, 0, (size_t)(w.rays - w.live) * 12);
    memset(dopacity + w.live, 0, (size_t)(w.rays - w.live) * 4);
}

static const ad_op op_pixel_loss_vjp = {
    .name = "pixel_loss_vjp", .inputs_min = VJP_INPUTS, .inputs_max = VJP_INPUTS,
    .outputs = VJP_OUTPUTS, .optional = 3u << DLOSS, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(loss_attributes), .infer = loss_vjp_infer, .cpu = loss_vjp_cpu};

// The kernel finds what reaches colour and opacity. Pictures and backgrounds seldom learn: their
// share follows from d colour.
static void loss_vjp_fused(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    const ad_tensor *x = call->input;
    ad_tensor in[VJP_INPUTS], out[VJP_OUTPUTS];
    memcpy(in, x, INPUTS * sizeof *in);
    memcpy(in + DLOSS, call->dy, OUTPUTS * sizeof *in);
    if (!ad_apply(ctx, &op_pixel_loss_vjp, VJP_INPUTS, in, call->attributes, out)) return;
    if (call->wanted >> COLOUR & 1) call->dx[COLOUR] = out[DCOLOUR];
    if (call->wanted >> OPACITY & 1) call->dx[OPACITY] = out[DOPACITY];
    if (!(call->wanted >> PICTURE & 1) && !(call->wanted >> BACKGROUND & 1)) return;
    ad_tensor alpha = ad_slice(ctx, x[PICTURE], 1, 3, 4, 1); // (rays, 1)
    ad_tensor rgb = ad_slice(ctx, x[PICTURE], 1, 0, 3, 1);   // (rays, 3)
    ad_tensor against = ad_mul(ctx, out[DCOLOUR], ad_sub(ctx, x[BACKGROUND], rgb));
    ad_tensor parts[] = {ad_neg(ctx, ad_mul(ctx, out[DCOLOUR], alpha)),
                         ad_sum(ctx, against, AD_AXIS(1), true)};
    if (call->wanted >> PICTURE & 1) call->dx[PICTURE] = ad_concat(ctx, 2, parts, 1);
    if (!(call->wanted >> BACKGROUND & 1)) return;
    ad_tensor opacity = ad_reshape(ctx, x[OPACITY], AD_SHAPE(ad_count(ctx, x[OPACITY]), 1));
    ad_tensor seen = ad_mul(ctx, out[DCOLOUR], ad_sub(ctx, alpha, opacity));
    call->dx[BACKGROUND] = ad_sum_to(ctx, seen, ad_shape_of(ctx, x[BACKGROUND]));
}

/* ---- the composition */

// colour + (1 - opacity) background
static ad_tensor over(ad_context *ctx, ad_tensor colour, ad_tensor opacity, ad_tensor background) {
    ad_tensor open = ad_affine(ctx, opacity, -1, 1); // (rays, 1)
    return ad_add(ctx, colour, ad_mul(ctx, open, background));
}

static void loss_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const ad_tensor *in = call->input;
    double delta = ((const loss_attributes *)call->attributes)->delta;
    ad_type type = ad_type_of(ctx, in[COLOUR]);
    int64_t rays = ad_count(ctx, in[OPACITY]);
    ad_tensor alpha = ad_slice(ctx, in[PICTURE], 1, 3, 4, 1); // (rays, 1)
    ad_tensor rgb = ad_mul(ctx, ad_slice(ctx, in[PICTURE], 1, 0, 3, 1), alpha);
    ad_tensor target = over(ctx, rgb, alpha, in[BACKGROUND]);
    ad_tensor opacity = ad_reshape(ctx, in[OPACITY], AD_SHAPE(rays, 1));
    ad_tensor colour = over(ctx, in[COLOUR], opacity, in[BACKGROUND]);
    // Rays past the count have no say.
    ad_tensor live = ad_minimum(ctx, ad_reshape(ctx, in[RAYS], AD_SCALAR),
                                ad_scalar(ctx, AD_U32, (double)rays));
    ad_tensor number = ad_reshape(ctx, ad_range(ctx, AD_U32, rays), AD_SHAPE(rays, 1));
    ad_tensor valid = ad_cast(ctx, ad_less(ctx, number, live), type);
    ad_tensor error = ad_mul(ctx, ad_sub(ctx, colour, target), valid); // (rays, 3)
    ad_tensor count = ad_cast(ctx, ad_maximum(ctx, live, ad_scalar(ctx, AD_U32, 1)), type);
    count = ad_affine(ctx, count, 3, 0);
    ad_tensor square = ad_sum(ctx, ad_square(ctx, error), AD_ALL_AXES, false);
    output[LOSS] = output[SQUARES] = ad_div(ctx, square, count);
    if (!(delta > 0)) {
        output[LOSS] = ad_affine(ctx, output[SQUARES], 1, 0); // outputs are tensors of their own
        return;
    }
    ad_tensor size = ad_abs(ctx, error), low = ad_clamp(ctx, size, 0, delta);
    ad_tensor huber = ad_mul(ctx, low, ad_sub(ctx, ad_affine(ctx, size, 2, 0), low));
    output[LOSS] = ad_div(ctx, ad_sum(ctx, huber, AD_ALL_AXES, false), count);
}

/* ---- public */

bool render_pixel_loss(ad_context *ctx, ad_tensor colour, ad_tensor opacity, ad_tensor picture,
                       ad_tensor background, ad_tensor rays, double delta, ad_tensor *loss,
                       ad_tensor *squares) {
    loss_attributes attributes = {delta};
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_pixel_loss, INPUTS,
                         (ad_tensor[]){colour, opacity, picture, background, rays}, &attributes,
                         out);
    *loss = out[LOSS], *squares = out[SQUARES];
    return good;
}

static void loss_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 40.0 * (double)call->input[OPACITY].size[0];
    *bytes = 44.0 * (double)call->input[OPACITY].size[0];
}

// Squares; Huber; Huber over one background for all; a count beyond the rays.
static bool loss_sample(ad_sample *s) {
    if (s->variant > 3 || s->shape.rank != 1 || !ad_type_is_real(s->type)) return false;
    int64_t rays = s->shape.size[0];
    s->inputs = INPUTS;
    for (int i = 0; i < RAYS; i++) {
        s->input[i].type = s->type, s->input[i].shape = AD_SHAPE(rays, i == PICTURE ? 4 : 3);
        s->input[i].low = 0, s->input[i].high = 1;
    }
    s->input[OPACITY].shape = s->shape;
    if (s->variant == 2) s->input[BACKGROUND].shape = AD_SHAPE(1, 3);
    s->input[RAYS].type = AD_U32, s->input[RAYS].shape = AD_SCALAR;
    s->input[RAYS].low = (double)(rays / 2), s->input[RAYS].high = (double)rays;
    if (s->variant == 3)
        s->input[RAYS].low = (double)(rays + 1), s->input[RAYS].high = (double)(2 * rays + 2);
    *(loss_attributes *)s->attributes.bytes = (loss_attributes){s->variant ? 0.25 : 0};
    return true;
}

const ad_op render_op_pixel_loss = {
    .name = "pixel_loss", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .attribute_bytes = sizeof(loss_attributes), .infer = loss_infer, .cpu = loss_cpu,
    .compose = loss_compose, .vjp_fused = loss_vjp_fused, .cost = loss_cost,
    .sample = loss_sample};
