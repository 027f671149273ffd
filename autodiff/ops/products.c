/* Dense products: matmul for a batch of matrices, dense for a layer act(x W' + b).
 *
 * Where operands may lie and how batches are cut is the matter of cpu/product.h. The derivatives
 * are products again: of c = a b they are dc b' and a' dc; of a layer dz W, dz' x and the sum of
 * dz, where dz is dy behind the gate of the activation. */
#include "autodiff/core.h"
#include "autodiff/cpu/product.h"
#include "autodiff/ops/axes.h"
#include "autodiff/ops/elementwise.h"

#include <string.h>

enum { X, WEIGHT, BIAS };

typedef struct matmul_attributes {
    int32_t transpose_a, transpose_b;
} matmul_attributes;

typedef struct dense_attributes {
    int32_t activation;
} dense_attributes;

extern const ad_op ad_op_matmul, ad_op_dense;

/* ---- matmul */

// (m, k) or (k, n) of an operand as it is meant, transposed or not.
static int64_t size_of(const ad_view *x, bool transposed, int axis) {
    return x->size[x->rank - 2 + (transposed ? 1 - axis : axis)];
}

// What would make the inner sizes agree.
static const char *hint(const ad_view *a, const ad_view *b, bool ta, bool tb) {
    if (size_of(a, ta, 1) == size_of(b, !tb, 0)) return "; another transpose_b would make them so";
    if (size_of(a, !ta, 1) == size_of(b, tb, 0)) return "; another transpose_a would make them so";
    return "";
}

static bool check_matmul(ad_infer *call) {
    const matmul_attributes *flags = call->attributes;
    const ad_view *a = &call->input[0], *b = &call->input[1];
    if (a->type == b->type && ad_type_is_real(a->type) && a->rank >= 2 && b->rank >= 2 &&
        size_of(a, flags->transpose_a, 1) == size_of(b, flags->transpose_b, 0))
        return true;
    char left[160], right[160];
    ad_view_text(a, left, sizeof left), ad_view_text(b, right, sizeof right);
    const char *of_a = flags->transpose_a ? " transposed" : "";
    const char *of_b = flags->transpose_b ? " transposed" : "";
    if (a->type != b->type || !ad_type_is_real(a->type)) {
        ad_infer_fail(call, "a is %s, b is %s: both must have one floating-point type; see ad_cast",
                      left, right);
    } else if (a->rank < 2 || b->rank < 2) {
        ad_infer_fail(call, "a is %s, b is %s: both need a rank of at least 2; reshape a vector to "
                      "(1, n) or (n, 1)", left, right);
    } else {
        ad_infer_fail(call, "a is %s%s, b is %s%s: the inner sizes, %lld and %lld, must agree%s",
                      left, of_a, right, of_b, (long long)size_of(a, flags->transpose_a, 1),
                      (long long)size_of(b, flags->transpose_b, 0),
                      hint(a, b, flags->transpose_a, flags->transpose_b));
    }
    return false;
}

static ad_product matmul_product(const matmul_attributes *flags, const ad_view *a, const ad_view *b,
                                 const ad_view *c) {
    return (ad_product){.a = a, .b = b, .c = c, .transposed_a = flags->transpose_a,
                        .transposed_b = flags->transpose_b};
}

static void matmul_infer(ad_infer *call) {
    const matmul_attributes *flags = call->attributes;
    const ad_view *a = &call->input[0], *b = &call->input[1];
    ad_view *c = &call->output[0];
    if (!check_matmul(call)) return;
    c->type = a->type, c->rank = a->rank > b->rank ? a->rank : b->rank;
    for (int axis = 0; axis < c->rank - 2; axis++) {
        int own_a = axis - (c->rank - a->rank), own_b = axis - (c->rank - b->rank);
        int64_t size_a = own_a < 0 ? 1 : a->size[own_a], size_b = own_b < 0 ? 1 : b->size[own_b];
        c->size[axis] = size_a == 1 ? size_b : size_a;
        if (size_a == size_b || size_a == 1 || size_b == 1) continue;
        char left[160], right[160];
        ad_view_text(a, left, sizeof left), ad_view_text(b, right, sizeof right);
        ad_infer_fail(call, "a is %s, b is %s: the leading sizes %lld and %lld must agree, or one "
                      "of them be 1", left, right, (long long)size_a, (long long)size_b);
        return;
    }
    int64_t m = size_of(a, flags->transpose_a, 0), n = size_of(b, flags->transpose_b, 1);
    c->size[c->rank - 2] = m, c->size[c->rank - 1] = n;
    ad_product product = matmul_product(flags, a, b, c);
    call->workspace = ad_product_workspace(&product, ad_threads(call->ctx));
    call->saved_outputs = 0;
}

static void matmul_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    ad_product product = matmul_product(launch->attributes, &in[0], &in[1], launch->output);
    ad_product_run(&product, launch->threads, launch->workspace);
}

// The leading axes as rows: (..., n) -> (rows, n).
static ad_tensor as_rows(ad_context *ctx, ad_tensor x) {
    ad_shape shape = ad_shape_of(ctx, x);
    int64_t rows = 1;
    for (int i = 0; i < shape.rank - 1; i++) rows *= shape.size[i];
    return ad_reshape(ctx, x, AD_SHAPE(rows, shape.rank ? shape.size[shape.rank - 1] : 1));
}

// Whether b is one matrix for a batch that a has as a whole.
static bool is_shared(ad_shape a, ad_shape b, ad_shape c) {
    bool shared = a.rank == c.rank && c.rank > 2;
    for (int i = 0; i < a.rank - 2; i++) shared = shared && a.size[i] == c.size[i];
    for (int i = 0; i < b.rank - 2; i++) shared = shared && b.size[i] == 1;
    return shared;
}

static ad_tensor matmul_db(ad_context *ctx, const matmul_attributes *flags, ad_tensor a,
                           ad_tensor dc, ad_shape shape) {
    // One product over all rows sums over the batch by itself.
    if (!flags->transpose_a && is_shared(ad_shape_of(ctx, a), shape, ad_shape_of(ctx, dc)))
        a = as_rows(ctx, a), dc = as_rows(ctx, dc);
    ad_tensor db = flags->transpose_b ? ad_matmul(ctx, dc, a, true, flags->transpose_a)
                                      : ad_matmul(ctx, a, dc, !flags->transpose_a, false);
    if (ad_shape_of(ctx, db).rank < shape.rank) return ad_reshape(ctx, db, shape);
    return ad_sum_to(ctx, db, shape);
}

static void matmul_vjp(ad_vjp *call) {
    const matmul_attributes *flags = call->attributes;
    ad_context *ctx = call->ctx;
    ad_tensor a = call->input[0], b = call->input[1], dc = call->dy[0];
    if (call->wanted & 1) {
        ad_tensor da = flags->transpose_a ? ad_matmul(ctx, b, dc, flags->transpose_b, true)
                                          : ad_matmul(ctx, dc, b, false, !flags->transpose_b);
        call->dx[0] = ad_sum_to(ctx, da, ad_shape_of(ctx, a));
    }
    if (call->wanted & 2) call->dx[1] = matmul_db(ctx, flags, a, dc, ad_shape_of(ctx, b));
}

static void matmul_jvp(ad_jvp *call) {
    const matmul_attributes *flags = call->attributes;
    bool ta = flags->transpose_a, tb = flags->transpose_b;
    ad_tensor da = call->dx[0], db = call->dx[1], dy = {0};
    if (da.slot) dy = ad_matmul(call->ctx, da, call->input[1], ta, tb);
    if (db.slot) {
        ad_tensor term = ad_matmul(call->ctx, call->input[0], db, ta, tb);
        dy = dy.slot ? ad_add(call->ctx, dy, term) : term;
    }
    call->dy[0] = dy;
}

static void product_cost(const ad_infer *call, double k, double *flops, double *bytes) {
    *flops = 2 * k * (double)ad_view_count(&call->output[0]);
    *bytes = 0;
    const ad_view *view[] = {&call->input[0], &call->input[1], &call->output[0]};
    for (int i = 0; i < 3; i++)
        *bytes += (double)ad_view_count(view[i]) * (double)ad_type_bytes(view[i]->type);
}

static void matmul_cost(const ad_infer *call, double *flops, double *bytes) {
    const matmul_attributes *flags = call->attributes;
    product_cost(call, (double)size_of(&call->input[0], flags->transpose_a, 1), flops, bytes);
}

ad_tensor ad_matmul(ad_context *ctx, ad_tensor a, ad_tensor b, bool transpose_a, bool transpose_b) {
    matmul_attributes flags = {transpose_a, transpose_b};
    return ad_apply1(ctx, &ad_op_matmul, 2, (ad_tensor[]){a, b}, &flags);
}

/* ---- dense */

static ad_product dense_product(const dense_attributes *attributes, const ad_view *in, int inputs,
                                const ad_view *y) {
    const ad_view *bias = inputs > BIAS && ad_view_present(&in[BIAS]) ? &in[BIAS] : NULL;
    return (ad_product){.a = &in[X], .b = &in[WEIGHT], .bias = bias, .c = y, .transposed_b = true,
                        .relu = attributes->activation == AD_RELU};
}

static bool check_dense(ad_infer *call, const ad_view *x, const ad_view *w, const ad_view *bias) {
    const bool sizes = x->rank >= 1 && w->rank == 2 && x->size[x->rank - 1] == w->size[1]
                    && (!bias || (bias->rank == 1 && bias->size[0] == w->size[0]));
    const bool types = x->type == w->type && (!bias || bias->type == w->type)
                    && ad_type_is_real(x->type);
    if (sizes && types) return true;
    char of_x[160], of_w[160], of_bias[160] = "absent";
    ad_view_text(x, of_x, sizeof of_x), ad_view_text(w, of_w, sizeof of_w);
    if (bias) ad_view_text(bias, of_bias, sizeof of_bias);
    if (!sizes)
        ad_infer_fail(call, "x (..., in), weight (out, in) and bias (out) expected, but x is %s, "
                      "weight %s, bias %s%s", of_x, of_w, of_bias,
                      x->rank && w->rank == 2 && x->size[x->rank - 1] == w->size[0]
                          ? "; is the weight transposed?" : "");
    else
        ad_infer_fail(call, "x is %s, weight %s, bias %s: all must have one floating-point type; "
                      "see ad_cast", of_x, of_w, of_bias);
    return false;
}

static void dense_shapes(ad_infer *call) {
    const dense_attributes *attributes = call->attributes;
    const ad_view *x = &call->input[X], *w = &call->input[WEIGHT];
    ad_view *y = &call->output[0];
    const ad_view *bias = call->inputs > BIAS && ad_view_present(&call->input[BIAS])
                        ? &call->input[BIAS] : NULL;
    if (!check_dense(call, x, w, bias)) return;
    *y = *x;
    y->size[x->rank - 1] = w->size[0];
    ad_product product = dense_product(attributes, call->input, call->inputs, y);
    call->workspace = ad_product_workspace(&product, ad_threads(call->ctx));
    call->saved_inputs = 1u << X | 1u << WEIGHT;
    call->saved_outputs = attributes->activation == AD_RELU;
}

static void dense_infer(ad_infer *call) {
    static const ad_op linear = {.name = "linear"}; // in sentences: what the caller wrote
    const dense_attributes *attributes = call->attributes;
    const ad_op *op = call->op;
    if (attributes->activation == AD_LINEAR) call->op = &linear;
    dense_shapes(call);
    call->op = op;
}

static void dense_cpu(const ad_launch *launch) {
    ad_product product = dense_product(launch->attributes, launch->input, launch->inputs,
                                       launch->output);
    ad_product_run(&product, launch->threads, launch->workspace);
}

// Cotangents and tangents of what the activation is applied to.
static ad_tensor behind_gate(ad_context *ctx, const dense_attributes *a, ad_tensor t, ad_tensor y) {
    return a->activation == AD_RELU ? ad_gate(ctx, t, y) : t;
}

static void dense_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor x = call->input[X], w = call->input[WEIGHT];
    ad_spend(ctx, call->dy[0]);
    ad_tensor dz = as_rows(ctx, behind_gate(ctx, call->attributes, call->dy[0], call->output[0]));
    if (call->wanted >> X & 1)
        call->dx[X] = ad_reshape(ctx, ad_matmul(ctx, dz, w, false, false), ad_shape_of(ctx, x));
    if (call->wanted >> WEIGHT & 1)
        call->dx[WEIGHT] = ad_matmul(ctx, dz, as_rows(ctx, x), true, false);
    if (call->wanted >> BIAS & 1) call->dx[BIAS] = ad_sum(ctx, dz, AD_AXIS(0), false);
}

static void dense_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor x = call->input[X], w = call->input[WEIGHT], dz = {0};
    ad_tensor dx = call->dx[X], dw = call->dx[WEIGHT];
    ad_tensor db = call->inputs > BIAS ? call->dx[BIAS] : (ad_tensor){0};
    if (dx.slot) dz = ad_linear(ctx, dx, w, db);
    if (dw.slot) {
        ad_tensor term = ad_linear(ctx, x, dw, dz.slot ? (ad_tensor){0} : db);
        dz = dz.slot ? ad_add(ctx, dz, term) : term;
    }
    if (!dz.slot && db.slot) dz = ad_broadcast(ctx, db, ad_shape_of(ctx, call->output[0]));
    if (dz.slot) call->dy[0] = behind_gate(ctx, call->attributes, dz, call->output[0]);
}

static void dense_cost(const ad_infer *call, double *flops, double *bytes) {
    product_cost(call, (double)call->input[WEIGHT].size[1], flops, bytes);
}

ad_tensor ad_dense(ad_context *ctx, ad_tensor x, ad_tensor weight, ad_tensor bias,
                   ad_activation activation) {
    dense_attributes attributes = {(int32_t)activation};
    return ad_apply1(ctx, &ad_op_dense, bias.slot ? 3 : 2, (ad_tensor[]){x, weight, bias},
                     &attributes);
}

ad_tensor ad_linear(ad_context *ctx, ad_tensor x, ad_tensor weight, ad_tensor bias) {
    return ad_dense(ctx, x, weight, bias, AD_LINEAR);
}

/* ---- for the test harness */

static void wish(ad_sample *s, int inputs) {
    s->inputs = inputs;
    for (int i = 0; i < inputs; i++) {
        s->input[i].type = s->type;
        s->input[i].low = -1, s->input[i].high = 1;
    }
}

// The four transposes; b or a shared by the batch (a also repeated along a new axis); b a column.
static bool matmul_sample(ad_sample *s) {
    enum { SHARED_B = 4, SHARED_A, COLUMN, VARIANTS };
    ad_shape a = s->shape;
    if (!ad_type_is_real(s->type)) return false;
    if (a.rank < 2) a = a.rank ? AD_SHAPE(1, a.size[0]) : AD_SHAPE(1, 1);
    if (s->variant >= VARIANTS || (s->variant == SHARED_A && a.rank == AD_RANK_MAX)) return false;
    wish(s, 2);
    int transposes = s->variant < SHARED_B ? s->variant : 0;
    matmul_attributes flags = {transposes & 1, transposes >> 1};
    memcpy(s->attributes.bytes, &flags, sizeof flags);
    int64_t k = a.size[a.rank - (flags.transpose_a ? 2 : 1)], n = s->variant == COLUMN ? 1 : 3;
    ad_shape b = a;
    if (s->variant == SHARED_B) b.rank = 2;
    if (s->variant == SHARED_A) {
        b.rank++;
        memcpy(b.size + 1, a.size, sizeof a.size - sizeof a.size[0]);
        b.size[0] = 2;
        if (a.rank > 2) a.size[0] = 1;
    }
    b.size[b.rank - 2] = flags.transpose_b ? n : k, b.size[b.rank - 1] = flags.transpose_b ? k : n;
    s->input[0].shape = a, s->input[1].shape = b;
    return true;
}

// Linear and ReLU, with and without bias.
static bool dense_sample(ad_sample *s) {
    if (s->variant > 3 || s->shape.rank < 1 || !ad_type_is_real(s->type)) return false;
    dense_attributes attributes = {s->variant & 1 ? AD_RELU : AD_LINEAR};
    memcpy(s->attributes.bytes, &attributes, sizeof attributes);
    wish(s, s->variant < 2 ? 3 : 2);
    s->input[X].shape = s->shape;
    s->input[WEIGHT].shape = AD_SHAPE(3, s->shape.size[s->shape.rank - 1]);
    if (s->variant < 2) s->input[BIAS].shape = AD_SHAPE(3);
    return true;
}

const ad_op ad_op_matmul = {
    .name = "matmul", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .flags = AD_OP_STRIDED,
    .attribute_bytes = sizeof(matmul_attributes), .infer = matmul_infer, .cpu = matmul_cpu,
    .vjp = matmul_vjp, .jvp = matmul_jvp, .cost = matmul_cost, .sample = matmul_sample,
    .exempt = "infinity: the products of a sum are not gated one by one"};

const ad_op ad_op_dense = {
    .name = "dense", .inputs_min = 2, .inputs_max = 3, .outputs = 1, .optional = 1u << BIAS,
    .flags = AD_OP_STRIDED, .attribute_bytes = sizeof(dense_attributes), .infer = dense_infer,
    .cpu = dense_cpu, .vjp = dense_vjp, .jvp = dense_jvp, .cost = dense_cost,
    .sample = dense_sample,
    .exempt = "infinity: the products of a sum are not gated one by one"};
