/* A small network as one operation: x through dense layers with ReLU between them.
 *
 * The kernels of cpu/mlp_*.c take a block of rows through all layers while its activations stay in
 * the nearest caches, and keep the hidden activations for the backward pass: output 1, which only
 * the fused rule sees, and which is not made where nothing is recorded. The composition is a chain
 * of ad_dense. Rows past `count` are dead: zero, and without gradient. */
#include "autodiff/core.h"
#include "autodiff/cpu/amx.h"
#include "autodiff/cpu/mlp.h"
#include "autodiff/ops/axes.h"

#include <string.h>

enum { X, COUNT, WEIGHTS, LAYERS_MAX = (AD_INPUTS_MAX - WEIGHTS) / 2 };

typedef struct mlp_attributes {
    int32_t layers, bf16, keep;
} mlp_attributes;

extern const ad_op ad_op_mlp;

// The kernels' description of the network, from weights that start at operand `first`.
static ad_cpu_mlp network(const mlp_attributes *a, const ad_view *in, int first) {
    ad_cpu_mlp net = {.layers = a->layers, .bf16 = a->bf16, .hidden_activation = AD_CPU_RELU,
                      .has_bias = ad_view_present(&in[first + a->layers])};
    net.width[0] = (int)in[first].size[1];
    for (int i = 0; i < a->layers; i++) net.width[i + 1] = (int)in[first + i].size[0];
    return net;
}

static int64_t live_rows(const ad_view *x, const ad_view *count) {
    if (!ad_view_present(count)) return x->size[0];
    int64_t live = *(const uint32_t *)count->data;
    return live < x->size[0] ? live : x->size[0];
}

static bool check_widths(ad_infer *call, const ad_view *weight, const ad_view *bias, int layer,
                         int64_t in) {
    const ad_type type = call->input[X].type;
    const bool biased = ad_view_present(bias);
    const bool types = ad_type_is_real(type) && weight->type == type
                    && (!biased || bias->type == type);
    const bool widths = weight->rank == 2 && weight->size[1] == in && weight->size[0] >= 1
                     && weight->size[0] <= AD_CPU_MLP_WIDTH_MAX && in <= AD_CPU_MLP_WIDTH_MAX;
    if (types && widths && (!biased || (bias->rank == 1 && bias->size[0] == weight->size[0])))
        return true;
    char text[160];
    ad_view_text(weight, text, sizeof text);
    if (!types)
        ad_infer_fail(call, "x is %s, weight %d is %s: all must have one floating-point type",
                      ad_type_name(type), layer, text);
    else if (!widths)
        ad_infer_fail(call, "weight %d is (out, %lld) with widths of at most %d, not %s", layer,
                      (long long)in, AD_CPU_MLP_WIDTH_MAX, text);
    else
        ad_infer_fail(call, "bias %d is (%lld)", layer, (long long)weight->size[0]);
    return false;
}

static void mlp_infer(ad_infer *call) {
    const mlp_attributes *a = call->attributes;
    const ad_view *in = call->input;
    if (in[X].rank != 2) {
        char text[160];
        ad_view_text(&in[X], text, sizeof text);
        ad_infer_fail(call, "x is (rows, in), not %s", text);
        return;
    }
    int64_t width = in[X].size[1];
    for (int i = 0; i < a->layers; i++) {
        const ad_view *bias = &in[WEIGHTS + a->layers + i];
        if (!check_widths(call, &in[WEIGHTS + i], bias, i, width)) return;
        if (ad_view_present(bias) != ad_view_present(&in[WEIGHTS + a->layers]))
            ad_infer_fail(call, "either all layers have a bias or none has");
        width = in[WEIGHTS + i].size[0];
    }
    ad_cpu_mlp net = network(a, in, WEIGHTS);
    int64_t rows = in[X].size[0];
    call->output[0] = (ad_view){.type = in[X].type, .rank = 2, .size = {rows, width}};
    call->output[1] = (ad_view){.type = AD_U32, .rank = 1,
        .size = {((int64_t)ad_cpu_mlp_saved_bytes(&net, rows) + 3) / 4}};
    if (!a->keep) call->outputs = 1;
    call->workspace = ad_cpu_mlp_workspace(&net, rows, ad_threads(call->ctx), false);
    call->saved_outputs = 2;
}

static void mlp_cpu(const ad_launch *launch) {
    const mlp_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    ad_cpu_mlp net = network(a, in, WEIGHTS);
    const float *weights[LAYERS_MAX], *biases[LAYERS_MAX];
    for (int i = 0; i < a->layers; i++) {
        weights[i] = in[WEIGHTS + i].data;
        biases[i] = in[WEIGHTS + a->layers + i].data;
    }
    int64_t live = live_rows(&in[X], &in[COUNT]), out = net.width[a->layers];
    float *y = launch->output[0].data;
    ad_cpu_mlp_forward_job job = {
        .rows = live, .x = in[X].data, .weights = weights, .biases = net.has_bias ? biases : NULL,
        .y = y, .saved = launch->outputs > 1 ? launch->output[1].data : NULL,
        .workspace = launch->workspace};
    net.amx = net.bf16 && ad_amx_ready();
    if (live) ad_cpu_mlp_forward(&net, launch->threads, &job);
    memset(y + live * out, 0, (size_t)((in[X].size[0] - live) * out) * sizeof *y);
}

/* ---- the fused derivative: x, count, saved, dy, weights, biases -> dx, all other gradients in
 * one row: weights first, then biases. The flags of `want` leave parts out. */

enum { BACK_SAVED = 2, BACK_DY, BACK_WEIGHTS };

typedef struct back_attributes {
    mlp_attributes net;
    int32_t want_x;
} back_attributes;

static int64_t parameters_of(const ad_cpu_mlp *net) {
    int64_t count = 0;
    for (int i = 0; i < net->layers; i++)
        count += (int64_t)net->width[i + 1] * (net->width[i] + net->has_bias);
    return count;
}

static void back_infer(ad_infer *call) {
    const back_attributes *a = call->attributes;
    ad_cpu_mlp net = network(&a->net, call->input, BACK_WEIGHTS);
    call->output[0] = (ad_view){.type = AD_F32, .rank = 1, .size = {parameters_of(&net)}};
    call->output[1] = call->input[X];
    if (!a->want_x) call->outputs = 1;
    call->workspace = ad_cpu_mlp_workspace(&net, call->input[X].size[0],
                                           ad_threads(call->ctx), true);
}

static void back_cpu(const ad_launch *launch) {
    const back_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    ad_cpu_mlp net = network(&a->net, in, BACK_WEIGHTS);
    const float *weights[LAYERS_MAX];
    float *dweights[LAYERS_MAX], *dbiases[LAYERS_MAX], *at = launch->output[0].data;
    for (int i = 0; i < net.layers; i++) {
        weights[i] = in[BACK_WEIGHTS + i].data;
        dweights[i] = at, at += (int64_t)net.width[i] * net.width[i + 1];
    }
    for (int i = 0; i < net.layers && net.has_bias; i++) dbiases[i] = at, at += net.width[i + 1];
    int64_t rows = in[X].size[0], live = live_rows(&in[X], &in[COUNT]), width = net.width[0];
    float *dx = a->want_x ? launch->output[1].data : NULL;
    ad_cpu_mlp_backward_job job = {
        .rows = live, .x = in[X].data, .weights = weights, .saved = in[BACK_SAVED].data,
        .dy = in[BACK_DY].data, .dx = dx, .dweights = dweights,
        .dbiases = net.has_bias ? dbiases : NULL, .workspace = launch->workspace};
    net.amx = net.bf16 && ad_amx_ready();
    if (live) ad_cpu_mlp_backward(&net, launch->threads, &job);
    else memset(launch->output[0].data, 0, (size_t)parameters_of(&net) * 4);
    if (dx) memset(dx + live * width, 0, (size_t)((rows - live) * width) * sizeof *dx);
}

// Two products a layer: the weights' gradient, and the input's where it is wanted.
static void back_cost(const ad_infer *call, double *flops, double *bytes) {
    const back_attributes *a = call->attributes;
    double rows = (double)call->input[X].size[0];
    *flops = *bytes = 0;
    for (int i = 0; i < a->net.layers; i++)
        *flops += 2 * rows * (double)ad_view_count(&call->input[BACK_WEIGHTS + i])
                * (i || a->want_x ? 2 : 1);
    *bytes = 4 * rows * (double)(call->input[X].size[1] * 2 + call->input[BACK_DY].size[1]);
}

static const ad_op op_mlp_back = {
    .name = "mlp_backward", .inputs_min = 6, .inputs_max = AD_INPUTS_MAX, .outputs = 2,
    .optional = 0xffffffff, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(back_attributes), .infer = back_infer, .cpu = back_cpu,
    .cost = back_cost};

static void mlp_vjp_fused(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    const mlp_attributes *a = call->attributes;
    back_attributes attributes = {*a, call->wanted & 1};
    ad_tensor in[AD_INPUTS_MAX], out[2];
    if (BACK_WEIGHTS + 2 * a->layers > AD_INPUTS_MAX || call->outputs < 2) {
        ad_raise(ctx, "mlp: it was run without what its derivative needs");
        return;
    }
    in[X] = call->input[X], in[COUNT] = call->input[COUNT];
    in[BACK_SAVED] = call->output[1], in[BACK_DY] = call->dy[0];
    memcpy(in + BACK_WEIGHTS, call->input + WEIGHTS, 2 * (size_t)a->layers * sizeof *in);
    if (!ad_apply(ctx, &op_mlp_back, BACK_WEIGHTS + 2 * a->layers, in, &attributes, out)) return;
    if (call->wanted & 1) call->dx[X] = out[1];
    int64_t at = 0;
    for (int i = WEIGHTS; i < call->inputs; i++) {
        if (!call->input[i].slot) continue;
        int64_t count = ad_count(ctx, call->input[i]);
        if (call->wanted >> i & 1)
            call->dx[i] = ad_reshape(ctx, ad_slice(ctx, out[0], 0, at, at + count, 1),
                                     ad_shape_of(ctx, call->input[i]));
        at += count;
    }
}

static void mlp_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const mlp_attributes *a = call->attributes;
    ad_tensor x = call->input[X];
    int64_t rows = ad_shape_of(ctx, x).size[0];
    for (int i = 0; i < a->layers; i++)
        x = ad_dense(ctx, x, call->input[WEIGHTS + i], call->input[WEIGHTS + a->layers + i],
                     i + 1 < a->layers ? AD_RELU : AD_LINEAR);
    if (call->input[COUNT].slot) {
        ad_tensor row = ad_reshape(ctx, ad_range(ctx, AD_U32, rows), AD_SHAPE(rows, 1));
        ad_tensor dead = ad_scalar(ctx, ad_type_of(ctx, x), 0);
        x = ad_where(ctx, ad_less(ctx, row, call->input[COUNT]), x, dead);
    }
    output[0] = x;
}

ad_tensor ad_mlp(ad_context *ctx, ad_tensor x, int layers, const ad_tensor *weights,
                 const ad_tensor *biases, ad_tensor count, const ad_mlp_options *options) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    if (layers < 1 || BACK_WEIGHTS + 2 * layers > AD_INPUTS_MAX) {
        ad_raise(ctx, "mlp: 1 to %d layers, not %d", (AD_INPUTS_MAX - BACK_WEIGHTS) / 2, layers);
        return (ad_tensor){0};
    }
    ad_tensor in[AD_INPUTS_MAX] = {x, count};
    mlp_attributes attributes = {.layers = layers, .bf16 = options && options->bf16,
                                 .keep = ad_is_tracked(ctx, x)};
    for (int i = 0; i < layers; i++) {
        in[WEIGHTS + i] = weights[i];
        in[WEIGHTS + layers + i] = biases ? biases[i] : (ad_tensor){0};
        attributes.keep |= ad_is_tracked(ctx, weights[i]);
        attributes.keep |= biases && ad_is_tracked(ctx, biases[i]);
    }
    return ad_apply1(ctx, &ad_op_mlp, WEIGHTS + 2 * layers, in, &attributes);
}

static void mlp_cost(const ad_infer *call, double *flops, double *bytes) {
    const mlp_attributes *a = call->attributes;
    double rows = (double)call->input[X].size[0];
    *flops = *bytes = 0;
    for (int i = 0; i < a->layers; i++)
        *flops += 2 * rows * (double)ad_view_count(&call->input[WEIGHTS + i]);
    *bytes = 4 * rows * (double)(call->input[X].size[1] + call->output[0].size[1]);
}

static bool mlp_sample(ad_sample *s) {
    if (s->variant > 1 || s->shape.rank < 1) return false;
    if (s->type == AD_I32 || s->type == AD_U32) return false;
    int64_t rows = 1;
    for (int i = 0; i < s->shape.rank; i++) rows *= s->shape.size[i];
    mlp_attributes a = {.layers = 2, .keep = 1};
    memcpy(s->attributes.bytes, &a, sizeof a);
    static const int64_t width[] = {3, 5, 2};
    s->inputs = WEIGHTS + 4;
    for (int i = 0; i < s->inputs; i++) {
        s->input[i].type = s->type;
        s->input[i].low = -1, s->input[i].high = 1;
    }
    s->input[X].shape = AD_SHAPE(rows, width[0]);
    s->input[COUNT].type = AD_U32, s->input[COUNT].shape = AD_SCALAR;
    s->input[COUNT].low = s->variant ? (double)(rows / 2) : (double)rows;
    s->input[COUNT].high = s->input[COUNT].low;
    for (int i = 0; i < 2; i++) {
        s->input[WEIGHTS + i].shape = AD_SHAPE(width[i + 1], width[i]);
        s->input[WEIGHTS + 2 + i].shape = AD_SHAPE(width[i + 1]);
    }
    return true;
}

const ad_op ad_op_mlp = {
    .name = "mlp", .inputs_min = 4, .inputs_max = AD_INPUTS_MAX, .outputs = 2,
    .optional = 0xfffffffe, .attribute_bytes = sizeof(mlp_attributes), .infer = mlp_infer,
    .cpu = mlp_cpu, .compose = mlp_compose, .vjp_fused = mlp_vjp_fused, .cost = mlp_cost,
    .sample = mlp_sample,
    .exempt = "infinity: the products of a sum are not gated one by one"};
