/* softmax, logsumexp, argmax, argmin: one row at a time, along the last axis.
 *
 * The operations know only the last axis; the public functions bring other axes there with views.
 * Exponentials are taken of differences from the row's maximum, so that nothing overflows; their
 * sum is made of short f32 sums in f64. The softmax of y has the slope y (dy - sum(dy y)), and
 * logsumexp's slope is the softmax, exp(x - y), whose exponent is at most 0. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"
#include "autodiff/ops/elementwise.h"
#include "autodiff/ops/math.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 1024, LANES = 16 };

extern const ad_op ad_op_softmax, ad_op_logsumexp, ad_op_argmax, ad_op_argmin;

/* ---- kernels */

static float larger(float a, float b) { return a > b || a != a ? a : b; }

static float max_f32(const float *x, int64_t n) {
    float most[LANES];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) most[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) most[j] = larger(most[j], x[i + j]);
    for (; i < n; i++) most[0] = larger(most[0], x[i]);
    for (int j = 1; j < LANES; j++) most[0] = larger(most[0], most[j]);
    return most[0];
}

// y = exp(x - base) of at most a block; returns the sum.
static double exp_f32(const float *restrict x, float base, float *restrict y, int64_t n) {
    float sum[LANES] = {0};
    int64_t i = 0;
    for (int64_t k = 0; k < n; k++) y[k] = ad_math_exp(x[k] - base);
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += y[i + j];
    double total = 0;
    for (; i < n; i++) total += (double)y[i];
    for (int j = 0; j < LANES; j++) total += (double)sum[j];
    return total;
}

static double max_f64(const double *x, int64_t n) {
    double most = -INFINITY;
    for (int64_t i = 0; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    return most;
}

static double exp_f64(const double *x, double base, double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += y[i] = ad_math_exp_f64(x[i] - base);
    return sum;
}

static void softmax_rows(const void *user, int64_t first, int64_t last) {
    const ad_launch *l = user;
    int64_t n = l->input[0].size[l->input[0].rank - 1];
    for (int64_t row = first; row < last; row++) {
        double sum = 0;
        if (l->input[0].type == AD_F32) {
            const float *x = (const float *)l->input[0].data + row * n;
            float *y = (float *)l->output[0].data + row * n, base = max_f32(x, n);
            for (int64_t i = 0; i < n; i += BLOCK)
                sum += exp_f32(x + i, base, y + i, n - i < BLOCK ? n - i : BLOCK);
            float scale = (float)(1 / sum);
            for (int64_t i = 0; i < n; i++) y[i] *= scale;
        } else {
            const double *x = (const double *)l->input[0].data + row * n;
            double *y = (double *)l->output[0].data + row * n;
            sum = exp_f64(x, max_f64(x, n), y, n);
            for (int64_t i = 0; i < n; i++) y[i] /= sum;
        }
    }
}

// A row of nothing but -inf, or of nothing, gives -inf; one with +inf gives +inf.
static void logsumexp_rows(const void *user, int64_t first, int64_t last) {
    const ad_launch *l = user;
    int64_t n = l->input[0].size[l->input[0].rank - 1];
    for (int64_t row = first; row < last; row++) {
        double sum = 0, base;
        if (l->input[0].type == AD_F32) {
            const float *x = (const float *)l->input[0].data + row * n;
            float y[BLOCK], most = max_f32(x, n);
            base = (double)most;
            for (int64_t i = 0; i < n && !isinf(most); i += BLOCK)
                sum += exp_f32(x + i, most, y, n - i < BLOCK ? n - i : BLOCK);
            ((float *)l->output[0].data)[row] = isinf(most) ? most : (float)(base + log(sum));
        } else {
            const double *x = (const double *)l->input[0].data + row * n;
            base = max_f64(x, n);
            for (int64_t i = 0; i < n && !isinf(base); i++) sum += ad_math_exp_f64(x[i] - base);
            ((double *)l->output[0].data)[row] = isinf(base) ? base : base + log(sum);
        }
    }
}

static inline double value_at(const ad_view *x, int64_t i) {
    switch (x->type) {
    case AD_F32: return (double)((const float *)x->data)[i];
    case AD_F64: return ((const double *)x->data)[i];
    case AD_I32: return (double)((const int32_t *)x->data)[i];
    default: return (double)((const uint32_t *)x->data)[i];
    }
}

// The first among ties; a NaN beats every number.
static void arg_rows(const void *user, int64_t first, int64_t last) {
    const ad_launch *l = user;
    const ad_view *x = &l->input[0];
    double sign = *(const int *)l->attributes;
    int64_t n = x->size[x->rank - 1];
    for (int64_t row = first; row < last; row++) {
        double best = sign * value_at(x, row * n);
        int64_t at = 0;
        for (int64_t i = 1; i < n && best == best; i++) {
            double value = sign * value_at(x, row * n + i);
            if (!(value <= best)) best = value, at = i;
        }
        ((int32_t *)l->output[0].data)[row] = (int32_t)at;
    }
}

static void each_row(const ad_launch *l, ad_tasks body, int64_t cost) {
    const ad_view *x = &l->input[0];
    int64_t rows = 1, n = x->size[x->rank - 1];
    for (int i = 0; i + 1 < x->rank; i++) rows *= x->size[i];
    ad_parallel(l->threads, rows * n * cost, rows, body, l);
}

static void softmax_cpu(const ad_launch *l) { each_row(l, softmax_rows, 8); }
static void logsumexp_cpu(const ad_launch *l) { each_row(l, logsumexp_rows, 8); }
static void arg_cpu(const ad_launch *l) { each_row(l, arg_rows, 4); }

/* ---- shapes */

static bool last_axis(ad_infer *call, bool real) {
    call->output[0] = call->input[0];
    if (call->input[0].rank > 0 && (!real || ad_type_is_real(call->input[0].type))) return true;
    char text[160];
    ad_view_text(&call->input[0], text, sizeof text);
    ad_infer_fail(call, "the operand is %s: %s", text,
                  call->input[0].rank ? "a float type is needed" : "there is no axis");
    return false;
}

static void softmax_infer(ad_infer *call) {
    last_axis(call, true);
    call->saved_inputs = 0;
}

static void logsumexp_infer(ad_infer *call) {
    if (last_axis(call, true)) call->output[0].rank--;
}

static void arg_infer(ad_infer *call) {
    const ad_view *x = &call->input[0];
    call->saved_inputs = call->saved_outputs = 0;
    if (!last_axis(call, false)) return;
    call->output[0].rank--, call->output[0].type = AD_I32;
    if (x->size[x->rank - 1] == 0 && ad_view_count(&call->output[0]))
        ad_infer_fail(call, "the axis is empty: nothing is the %s", call->op->name + 3);
}

static void row_cost(const ad_infer *call, double *flops, double *bytes) {
    double count = (double)ad_view_count(&call->input[0]);
    *flops = 4 * count;
    *bytes = (count + (double)ad_view_count(&call->output[0]))
           * (double)ad_type_bytes(call->input[0].type);
}

/* ---- derivatives */

static ad_tensor softmax_slope(ad_context *ctx, ad_tensor y, ad_tensor dy) {
    int last = ad_shape_of(ctx, y).rank - 1;
    ad_tensor mean = ad_sum(ctx, ad_chain_mul(ctx, dy, y), AD_AXIS(last), true);
    return ad_chain_mul(ctx, ad_sub(ctx, dy, mean), y);
}

static void softmax_vjp(ad_vjp *call) {
    call->dx[0] = softmax_slope(call->ctx, call->output[0], call->dy[0]);
}

static void softmax_jvp(ad_jvp *call) {
    call->dy[0] = softmax_slope(call->ctx, call->output[0], call->dx[0]);
}

// y with an axis of size 1 at the end.
static ad_tensor with_axis(ad_context *ctx, ad_tensor y) {
    ad_shape shape = ad_shape_of(ctx, y);
    shape.size[shape.rank++] = 1;
    return ad_reshape(ctx, y, shape);
}

// exp(x - y); where y is infinite, 0 is taken for it: rows of -inf have slope 0.
static ad_tensor weights(ad_context *ctx, ad_tensor x, ad_tensor y) {
    ad_tensor zero = ad_scalar(ctx, ad_type_of(ctx, y), 0);
    ad_tensor base = ad_where(ctx, ad_isfinite(ctx, y), y, zero);
    return ad_exp(ctx, ad_sub(ctx, x, with_axis(ctx, base)));
}

static void logsumexp_vjp(ad_vjp *call) {
    ad_tensor w = weights(call->ctx, call->input[0], call->output[0]);
    call->dx[0] = ad_chain_mul(call->ctx, with_axis(call->ctx, call->dy[0]), w);
}

static void logsumexp_jvp(ad_jvp *call) {
    int last = ad_shape_of(call->ctx, call->input[0]).rank - 1;
    ad_tensor w = weights(call->ctx, call->input[0], call->output[0]);
    call->dy[0] = ad_sum(call->ctx, ad_chain_mul(call->ctx, call->dx[0], w), AD_AXIS(last),
                         false);
}

/* ---- public */

// Puts an axis last, or back from there.
static ad_tensor move_axis(ad_context *ctx, ad_tensor x, int from, int to) {
    int order[AD_RANK_MAX], at = 0, rank = ad_shape_of(ctx, x).rank;
    if (from == to) return x;
    for (int i = 0; i < rank; i++) {
        if (at == from) at++;
        order[i] = i == to ? from : at++;
    }
    return ad_permute(ctx, x, order);
}

ad_tensor ad_softmax(ad_context *ctx, ad_tensor x, int axis) {
    axis = ad_axis_from_front(ctx, "softmax", x, axis);
    if (ad_failed(ctx) || ad_is_null(x)) return ad_apply1(ctx, &ad_op_softmax, 1, &x, NULL);
    int last = ad_shape_of(ctx, x).rank - 1;
    x = move_axis(ctx, x, axis, last);
    return move_axis(ctx, ad_apply1(ctx, &ad_op_softmax, 1, &x, NULL), last, axis);
}

ad_tensor ad_logsumexp(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    if (ad_failed(ctx) || ad_is_null(x)) return ad_apply1(ctx, &ad_op_logsumexp, 1, &x, NULL);
    ad_shape shape = ad_shape_of(ctx, x), result = {0};
    if (!ad_axes_exist(ctx, "logsumexp", axes, shape.rank)) return (ad_tensor){0};
    // As (kept, reduced), with the reduced axes last.
    int order[AD_RANK_MAX], at = 0;
    int64_t size[2] = {1, 1};
    for (int reduced = 0; reduced < 2; reduced++)
        for (int i = 0; i < shape.rank; i++) {
            if ((int)(axes >> i & 1) != reduced) continue;
            order[at++] = i;
            size[reduced] *= shape.size[i];
        }
    for (int i = 0; i < shape.rank; i++) {
        bool reduced = axes >> i & 1;
        if (!reduced || keep) result.size[result.rank++] = reduced ? 1 : shape.size[i];
    }
    x = ad_reshape(ctx, ad_permute(ctx, x, order), AD_SHAPE(size[0], size[1]));
    return ad_reshape(ctx, ad_apply1(ctx, &ad_op_logsumexp, 1, &x, NULL), result);
}

static ad_tensor arg(ad_context *ctx, const ad_op *op, ad_tensor x, int axis, int sign) {
    axis = ad_axis_from_front(ctx, op->name, x, axis);
    if (!ad_failed(ctx) && !ad_is_null(x))
        x = move_axis(ctx, x, axis, ad_shape_of(ctx, x).rank - 1);
    return ad_apply1(ctx, op, 1, &x, &sign);
}

ad_tensor ad_argmax(ad_context *ctx, ad_tensor x, int axis) {
    return arg(ctx, &ad_op_argmax, x, axis, 1);
}

ad_tensor ad_argmin(ad_context *ctx, ad_tensor x, int axis) {
    return arg(ctx, &ad_op_argmin, x, axis, -1);
}

/* ---- for the test harness */

static bool row_sample(ad_sample *s) {
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -3, s->input[0].high = 3;
    return s->variant == 0 && s->shape.rank > 0 && ad_type_is_real(s->type);
}

static bool arg_sample(ad_sample *s, int sign) {
    row_sample(s);
    memcpy(s->attributes.bytes, &sign, sizeof sign);
    return s->variant == 0 && s->shape.rank > 0 && s->shape.size[s->shape.rank - 1] > 0;
}

static bool argmax_sample(ad_sample *s) { return arg_sample(s, 1); }
static bool argmin_sample(ad_sample *s) { return arg_sample(s, -1); }

const ad_op ad_op_softmax = {
    .name = "softmax", .inputs_min = 1, .inputs_max = 1, .outputs = 1, .infer = softmax_infer,
    .cpu = softmax_cpu, .vulkan = "softmax", .vjp = softmax_vjp, .jvp = softmax_jvp,
    .cost = row_cost, .sample = row_sample};

const ad_op ad_op_logsumexp = {
    .name = "logsumexp", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .infer = logsumexp_infer, .cpu = logsumexp_cpu, .vulkan = "logsumexp",
    .vjp = logsumexp_vjp, .jvp = logsumexp_jvp, .cost = row_cost, .sample = row_sample};

const ad_op ad_op_argmax = {
    .name = "argmax", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(int), .infer = arg_infer,
    .cpu = arg_cpu, .vulkan = "argmax", .cost = row_cost, .sample = argmax_sample};

const ad_op ad_op_argmin = {
    .name = "argmin", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(int), .infer = arg_infer,
    .cpu = arg_cpu, .vulkan = "argmax", .cost = row_cost, .sample = argmin_sample};
