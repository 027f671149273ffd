/* Reductions over any set of axes: sum, mean, norm, prod, max, min, any, all.
 *
 * One kernel (autodiff/cpu/reduce.c) and one rule of shapes serve them all; what differs is a line
 * in reduce.def and the derivative. A sum's cotangent is spread over what was added. max and min
 * share theirs equally among ties. The derivative of a product in one factor is the product of the
 * others, which is made from products of what comes before and of what comes after, never by a
 * division, and so is exact with any number of zeros. The norm has slope 0 at 0. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/reduce.h"
#include "autodiff/ops/axes.h"
#include "autodiff/ops/elementwise.h"

#include <string.h>

extern const ad_op ad_op_sum, ad_op_mean, ad_op_norm, ad_op_prod, ad_op_max, ad_op_min, ad_op_any,
    ad_op_all;

typedef struct choice {
    uint32_t axes, keep;
    ad_reduction reduction;
} choice;

static void reduce_cpu(const ad_launch *l) {
    const choice *c = l->attributes;
    ad_cpu_reduce(c->reduction, &l->input[0], c->axes, l->output[0].data, l->workspace,
                  l->threads);
}

static void reduce_infer(ad_infer *call) {
    const choice *c = call->attributes;
    const ad_view *x = &call->input[0];
    ad_view *y = &call->output[0];
    y->type = x->type, y->rank = 0;
    if (!ad_axes_exist(call->ctx, call->op->name, c->axes, x->rank)) return;
    for (int i = 0; i < x->rank; i++) {
        bool reduced = c->axes >> i & 1;
        if (!reduced || c->keep) y->size[y->rank++] = reduced ? 1 : x->size[i];
    }
    ad_reduction op = c->reduction;
    bool mask = op == AD_REDUCE_ANY || op == AD_REDUCE_ALL;
    bool real = op == AD_REDUCE_MEAN || op == AD_REDUCE_NORM;
    if ((mask && x->type != AD_U32) || (real && !ad_type_is_real(x->type))) {
        ad_infer_fail(call, "the operand is %s, %s is needed", ad_type_name(x->type),
                      mask ? "u32" : "a float type");
        return;
    }
    call->workspace = ad_cpu_reduce_workspace(x, c->axes);
    bool input = op != AD_REDUCE_SUM && op != AD_REDUCE_MEAN && !mask;
    call->saved_inputs = input;
    call->saved_outputs = input && op != AD_REDUCE_PROD;
}

static void reduce_cost(const ad_infer *call, double *flops, double *bytes) {
    const choice *c = call->attributes;
    int64_t count = ad_view_count(&call->input[0]);
    *flops = (double)count * (c->reduction == AD_REDUCE_NORM ? 2 : 1);
    *bytes = (double)(count + ad_view_count(&call->output[0]))
           * (double)ad_type_bytes(call->input[0].type);
}

/* ---- derivatives */

// A reduced tensor stretched over the axes that were reduced.
static ad_tensor expand(ad_context *ctx, ad_tensor y, ad_shape x, unsigned axes) {
    ad_shape kept = x;
    for (int i = 0; i < x.rank; i++)
        if (axes >> i & 1) kept.size[i] = 1;
    return ad_broadcast(ctx, ad_reshape(ctx, y, kept), x);
}

static unsigned axes_of(const void *attributes) { return ((const choice *)attributes)->axes; }

static void sum_vjp(ad_vjp *call) {
    ad_shape shape = ad_shape_of(call->ctx, call->input[0]);
    call->dx[0] = expand(call->ctx, call->dy[0], shape, axes_of(call->attributes));
}

static void mean_vjp(ad_vjp *call) {
    ad_shape shape = ad_shape_of(call->ctx, call->input[0]);
    int64_t count = ad_shape_count(shape), means = ad_count(call->ctx, call->dy[0]);
    if (count == 0) return;
    ad_tensor share = ad_affine(call->ctx, call->dy[0], (double)means / (double)count, 0);
    call->dx[0] = expand(call->ctx, share, shape, axes_of(call->attributes));
}

// Which elements are the extreme one, and how many in each reduction.
static ad_tensor ties(ad_context *ctx, ad_tensor x, ad_tensor y, const choice *c,
                      ad_tensor *count) {
    ad_tensor mask = ad_equal(ctx, x, expand(ctx, y, ad_shape_of(ctx, x), c->axes));
    *count = ad_sum(ctx, ad_cast(ctx, mask, ad_type_of(ctx, y)), c->axes, c->keep);
    return mask;
}

static void max_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor count, x = call->input[0];
    ad_tensor mask = ties(ctx, x, call->output[0], call->attributes, &count);
    ad_tensor share = ad_div(ctx, call->dy[0], count), zero;
    zero = ad_scalar(ctx, ad_type_of(ctx, share), 0);
    share = expand(ctx, share, ad_shape_of(ctx, x), axes_of(call->attributes));
    call->dx[0] = ad_where(ctx, mask, share, zero);
}

static void max_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    const choice *c = call->attributes;
    ad_tensor count, mask = ties(ctx, call->input[0], call->output[0], c, &count);
    ad_tensor zero = ad_scalar(ctx, ad_type_of(ctx, call->dx[0]), 0);
    ad_tensor sum = ad_sum(ctx, ad_where(ctx, mask, call->dx[0], zero), c->axes, c->keep);
    // An empty reduction has no ties: its tangent is 0, not 0 / 0.
    call->dy[0] = ad_div(ctx, sum, ad_maximum(ctx, count, ad_scalar(ctx, ad_type_of(ctx, sum), 1)));
}

// x / y, and 0 where y is 0.
static ad_tensor ratio(ad_context *ctx, ad_tensor x, ad_tensor y) {
    ad_type type = ad_type_of(ctx, y);
    ad_tensor zero = ad_scalar(ctx, type, 0), mask = ad_greater(ctx, y, zero);
    ad_tensor divisor = ad_where(ctx, mask, y, ad_scalar(ctx, type, 1));
    return ad_where(ctx, mask, ad_div(ctx, x, divisor), zero);
}

static void norm_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor x = call->input[0], share = ratio(ctx, call->dy[0], call->output[0]);
    share = expand(ctx, share, ad_shape_of(ctx, x), axes_of(call->attributes));
    call->dx[0] = ad_chain_mul(ctx, share, x);
}

static void norm_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    const choice *c = call->attributes;
    ad_tensor sum = ad_sum(ctx, ad_mul(ctx, call->input[0], call->dx[0]), c->axes, c->keep);
    call->dy[0] = ratio(ctx, sum, call->output[0]);
}

// The order of axes that puts the reduced ones last.
static void reduced_last(ad_shape shape, unsigned axes, int *order) {
    int at = 0;
    for (int reduced = 0; reduced < 2; reduced++)
        for (int i = 0; i < shape.rank; i++)
            if ((int)(axes >> i & 1) == reduced) order[at++] = i;
}

// x as (kept, reduced).
static ad_tensor as_rows(ad_context *ctx, ad_tensor x, unsigned axes) {
    ad_shape shape = ad_shape_of(ctx, x);
    int order[AD_RANK_MAX];
    int64_t kept = 1, reduced = 1;
    for (int i = 0; i < shape.rank; i++) *(axes >> i & 1 ? &reduced : &kept) *= shape.size[i];
    reduced_last(shape, axes, order);
    return ad_reshape(ctx, ad_permute(ctx, x, order), AD_SHAPE(kept, reduced));
}

// (kept, reduced): at each element the product of the others in its row.
static ad_tensor product_of_others(ad_context *ctx, ad_tensor rows) {
    return ad_mul(ctx, ad_cumprod(ctx, rows, 1, true, false), ad_cumprod(ctx, rows, 1, true, true));
}

static void prod_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    unsigned axes = axes_of(call->attributes);
    ad_shape shape = ad_shape_of(ctx, call->input[0]), permuted = shape;
    ad_tensor others = product_of_others(ctx, as_rows(ctx, call->input[0], axes));
    int64_t kept = ad_shape_of(ctx, others).size[0];
    ad_tensor dx = ad_chain_mul(ctx, ad_reshape(ctx, call->dy[0], AD_SHAPE(kept, 1)), others);
    int order[AD_RANK_MAX], back[AD_RANK_MAX];
    reduced_last(shape, axes, order);
    for (int i = 0; i < shape.rank; i++)
        permuted.size[i] = shape.size[order[i]], back[order[i]] = i;
    call->dx[0] = ad_permute(ctx, ad_reshape(ctx, dx, permuted), back);
}

static void prod_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    unsigned axes = axes_of(call->attributes);
    ad_tensor others = product_of_others(ctx, as_rows(ctx, call->input[0], axes));
    ad_tensor terms = ad_mul(ctx, others, as_rows(ctx, call->dx[0], axes));
    ad_tensor sum = ad_sum(ctx, terms, AD_AXIS(1), false);
    call->dy[0] = ad_reshape(ctx, sum, ad_shape_of(ctx, call->output[0]));
}

/* ---- public */

static ad_tensor reduce(ad_context *ctx, const ad_op *op, ad_reduction reduction, ad_tensor x,
                        unsigned axes, bool keep) {
    return ad_apply1(ctx, op, 1, &x, &(choice){axes, keep, reduction});
}

ad_tensor ad_sum(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_sum, AD_REDUCE_SUM, x, axes, keep);
}

ad_tensor ad_mean(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_mean, AD_REDUCE_MEAN, x, axes, keep);
}

ad_tensor ad_max(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_max, AD_REDUCE_MAX, x, axes, keep);
}

ad_tensor ad_min(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_min, AD_REDUCE_MIN, x, axes, keep);
}

ad_tensor ad_prod(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_prod, AD_REDUCE_PROD, x, axes, keep);
}

ad_tensor ad_any(ad_context *ctx, ad_tensor mask, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_any, AD_REDUCE_ANY, mask, axes, keep);
}

ad_tensor ad_all(ad_context *ctx, ad_tensor mask, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_all, AD_REDUCE_ALL, mask, axes, keep);
}

ad_tensor ad_norm(ad_context *ctx, ad_tensor x, unsigned axes, bool keep) {
    return reduce(ctx, &ad_op_norm, AD_REDUCE_NORM, x, axes, keep);
}

/* ---- for the test harness */

// All axes; the last, kept; the first; every second one, kept; none.
static bool reduce_sample(ad_sample *s, ad_reduction reduction) {
    int rank = s->shape.rank;
    uint32_t axes[] = {AD_ALL_AXES, rank ? AD_AXIS(rank - 1) : 0, 1, 0x15, 0};
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -1.5, s->input[0].high = 1.5;
    if (s->variant > (rank ? 4 : 0)) return false;
    choice c = {axes[s->variant], s->variant % 2, reduction};
    if (s->variant == 3) c.axes &= (1u << rank) - 1;
    memcpy(s->attributes.bytes, &c, sizeof c);
    return true;
}

static bool sum_sample(ad_sample *s) { return reduce_sample(s, AD_REDUCE_SUM); }
static bool prod_sample(ad_sample *s) { return reduce_sample(s, AD_REDUCE_PROD); }

static bool mean_sample(ad_sample *s) {
    return reduce_sample(s, AD_REDUCE_MEAN) && ad_type_is_real(s->type);
}

// The norm of one element is its magnitude: away from 0.
static bool norm_sample(ad_sample *s) {
    bool has = reduce_sample(s, AD_REDUCE_NORM);
    s->input[0].kink = 4;
    return has && ad_type_is_real(s->type);
}

static bool extreme_sample(ad_sample *s, ad_reduction reduction) {
    bool has = reduce_sample(s, reduction);
    s->input[0].distinct = true;
    return has;
}

static bool max_sample(ad_sample *s) { return extreme_sample(s, AD_REDUCE_MAX); }
static bool min_sample(ad_sample *s) { return extreme_sample(s, AD_REDUCE_MIN); }

static bool mask_sample(ad_sample *s, ad_reduction reduction) {
    bool has = reduce_sample(s, reduction);
    s->input[0].low = 0, s->input[0].high = 1;
    return has && s->type == AD_U32;
}

static bool any_sample(ad_sample *s) { return mask_sample(s, AD_REDUCE_ANY); }
static bool all_sample(ad_sample *s) { return mask_sample(s, AD_REDUCE_ALL); }

#define REDUCTION                                                                       \
    .inputs_min = 1, .inputs_max = 1, .outputs = 1, .attribute_bytes = sizeof(choice),  \
    .infer = reduce_infer, .cpu = reduce_cpu, .cost = reduce_cost, .vulkan = "reduce"

const ad_op ad_op_sum = {.name = "sum", REDUCTION, .flags = AD_OP_LINEAR, .vjp = sum_vjp,
                         .sample = sum_sample};
const ad_op ad_op_mean = {.name = "mean", REDUCTION, .flags = AD_OP_LINEAR, .vjp = mean_vjp,
                          .sample = mean_sample};
const ad_op ad_op_norm = {.name = "norm", REDUCTION, .vjp = norm_vjp, .jvp = norm_jvp,
                          .sample = norm_sample};
const ad_op ad_op_prod = {.name = "prod", REDUCTION, .vjp = prod_vjp, .jvp = prod_jvp,
                          .sample = prod_sample};
const ad_op ad_op_max = {.name = "max", REDUCTION, .vjp = max_vjp, .jvp = max_jvp,
                         .sample = max_sample};
const ad_op ad_op_min = {.name = "min", REDUCTION, .vjp = max_vjp, .jvp = max_jvp,
                         .sample = min_sample};
const ad_op ad_op_any = {.name = "any", REDUCTION, .flags = AD_OP_NO_GRADIENT,
                         .sample = any_sample};
const ad_op ad_op_all = {.name = "all", REDUCTION, .flags = AD_OP_NO_GRADIENT,
                         .sample = all_sample};
