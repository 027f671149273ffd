/* pad and concat: tensors placed side by side in a larger one.
 *
 * Both are copies of sections: a section of the result along one axis is filled from a tensor, or
 * from one number that is read over and over. Operands may be strided and of any type, since only
 * bytes move. concat takes as many operands at once as an operation can have and folds the rest. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/loop.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"
#include "autodiff/ops/half.h"

#include <string.h>

extern const ad_op ad_op_pad, ad_op_concat;

typedef struct padding {
    int axis;
    int64_t before, after;
    double value;
} padding;

/* ---- kernels */

static void copy_piece(const void *user, int64_t n, char *const *data, const int64_t *stride) {
    size_t bytes = *(const size_t *)user;
    if (stride[0] == 1 && stride[1] == 1) {
        memcpy(data[0], data[1], (size_t)n * bytes);
    } else if (bytes == 4) {
        uint32_t *to = (uint32_t *)data[0];
        const uint32_t *from = (const uint32_t *)data[1];
        for (int64_t i = 0; i < n; i++) to[i * stride[0]] = from[i * stride[1]];
    } else if (bytes == 8) {
        uint64_t *to = (uint64_t *)data[0];
        const uint64_t *from = (const uint64_t *)data[1];
        for (int64_t i = 0; i < n; i++) to[i * stride[0]] = from[i * stride[1]];
    } else {
        uint16_t *to = (uint16_t *)data[0];
        const uint16_t *from = (const uint16_t *)data[1];
        for (int64_t i = 0; i < n; i++) to[i * stride[0]] = from[i * stride[1]];
    }
}

// Many rows of a few bytes, packed each: such as (n, 3) beside (n, 4).
typedef struct narrow_rows {
    char *to;
    const char *from;
    int64_t to_step, from_step; // bytes
    size_t bytes;
} narrow_rows;

static void copy_narrow(const void *user, int64_t first, int64_t last) {
    const narrow_rows *r = user;
    char *to = r->to + first * r->to_step;
    const char *from = r->from + first * r->from_step;
    for (int64_t i = first; i < last; i++, to += r->to_step, from += r->from_step) {
        switch (r->bytes) { // a constant size needs no call
        case 4: memcpy(to, from, 4); break;
        case 8: memcpy(to, from, 8); break;
        case 12: memcpy(to, from, 12); break;
        case 16: memcpy(to, from, 16); break;
        default: memcpy(to, from, r->bytes);
        }
    }
}

// to[start ... start + size) along the axis = from, which may be a scalar.
static void copy_section(const ad_view *to, int axis, int64_t start, int64_t size,
                         const ad_view *from, int threads) {
    ad_view section = *to;
    size_t bytes = ad_type_bytes(to->type);
    section.size[axis] = size;
    section.data = (char *)to->data + start * to->stride[axis] * (int64_t)bytes;
    ad_loop loop;
    const ad_view *views[] = {&section, from};
    if (ad_view_count(&section) == 0) return;
    ad_loop_plan(&loop, &section, 2, views);
    if (loop.rank == 2 && loop.row * (int64_t)bytes <= 64 && loop.stride[0][1] == 1
        && loop.stride[1][1] == 1) {
        narrow_rows rows = {loop.data[0], loop.data[1], loop.stride[0][0] * (int64_t)bytes,
                            loop.stride[1][0] * (int64_t)bytes, (size_t)loop.row * bytes};
        ad_parallel(threads, loop.rows * loop.row, loop.rows, copy_narrow, &rows);
        return;
    }
    ad_loop_run(&loop, threads, copy_piece, &bytes);
}

static void pad_cpu(const ad_launch *l) {
    const padding *p = l->attributes;
    const ad_view *x = &l->input[0], *y = &l->output[0];
    union { float f; double d; uint16_t h; int32_t i; uint32_t u; } value = {0};
    switch (y->type) {
    case AD_F32: value.f = (float)p->value; break;
    case AD_F64: value.d = p->value; break;
    case AD_F16: value.h = ad_to_half((float)p->value); break;
    case AD_BF16: value.h = ad_to_bf16((float)p->value); break;
    case AD_I32: value.i = (int32_t)p->value; break;
    default: value.u = (uint32_t)p->value;
    }
    ad_view scalar = {.data = &value, .type = y->type};
    copy_section(y, p->axis, 0, p->before, &scalar, l->threads);
    copy_section(y, p->axis, p->before, x->size[p->axis], x, l->threads);
    copy_section(y, p->axis, p->before + x->size[p->axis], p->after, &scalar, l->threads);
}

static void concat_cpu(const ad_launch *l) {
    int axis = *(const int *)l->attributes;
    int64_t start = 0;
    for (int i = 0; i < l->inputs; i++) {
        int64_t size = l->input[i].size[axis];
        copy_section(&l->output[0], axis, start, size, &l->input[i], l->threads);
        start += size;
    }
}

/* ---- shapes */

static void pad_infer(ad_infer *call) {
    const padding *p = call->attributes;
    const ad_view *x = &call->input[0];
    call->output[0] = *x;
    call->saved_inputs = call->saved_outputs = 0;
    bool integer = x->type == AD_I32 || x->type == AD_U32;
    double low = x->type == AD_U32 ? 0 : -2147483648.0;
    double high = x->type == AD_U32 ? 4294967295.0 : 2147483647.0;
    if (p->axis < 0 || p->axis >= x->rank)
        ad_infer_fail(call, "there is no axis %d in a tensor of rank %d", p->axis, x->rank);
    else if (p->before < 0 || p->after < 0 || p->before > INT32_MAX || p->after > INT32_MAX)
        ad_infer_fail(call, "%lld elements before and %lld after axis %d", (long long)p->before,
                      (long long)p->after, p->axis);
    else if (integer && !(p->value >= low && p->value <= high))
        ad_infer_fail(call, "the value %g is no %s", p->value, ad_type_name(x->type));
    else
        call->output[0].size[p->axis] += p->before + p->after;
}

static void concat_infer(ad_infer *call) {
    int axis = *(const int *)call->attributes;
    const ad_view *first = &call->input[0];
    ad_view *y = &call->output[0];
    *y = *first;
    call->saved_inputs = call->saved_outputs = 0;
    if (axis < 0 || axis >= first->rank) {
        ad_infer_fail(call, "there is no axis %d in a tensor of rank %d", axis, first->rank);
        return;
    }
    for (int i = 1; i < call->inputs; i++) {
        const ad_view *x = &call->input[i];
        ad_view like = *x;
        if (x->rank == first->rank) like.size[axis] = first->size[axis];
        if (x->type == first->type && ad_view_same_shape(&like, first)) {
            y->size[axis] += x->size[axis];
            continue;
        }
        char a[160], b[160];
        ad_view_text(first, a, sizeof a), ad_view_text(x, b, sizeof b);
        ad_infer_fail(call, "operand 0 is %s and operand %d is %s: they may differ in axis %d only",
                      a, i, b, axis);
        return;
    }
}

static void move_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 2.0 * (double)ad_view_count(&call->output[0])
           * (double)ad_type_bytes(call->output[0].type);
}

/* ---- derivatives */

static void pad_vjp(ad_vjp *call) {
    const padding *p = call->attributes;
    int64_t size = ad_shape_of(call->ctx, call->input[0]).size[p->axis];
    call->dx[0] = ad_slice(call->ctx, call->dy[0], p->axis, p->before, p->before + size, 1);
}

static void pad_jvp(ad_jvp *call) {
    const padding *p = call->attributes;
    call->dy[0] = ad_pad(call->ctx, call->dx[0], p->axis, p->before, p->after, 0);
}

static void concat_vjp(ad_vjp *call) {
    int axis = *(const int *)call->attributes;
    int64_t start = 0;
    for (int i = 0; i < call->inputs; i++) {
        int64_t size = ad_shape_of(call->ctx, call->input[i]).size[axis];
        if (call->wanted >> i & 1)
            call->dx[i] = ad_slice(call->ctx, call->dy[0], axis, start, start + size, 1);
        start += size;
    }
}

/* ---- public */

ad_tensor ad_pad(ad_context *ctx, ad_tensor x, int axis, int64_t before, int64_t after,
                 double value) {
    padding p;
    memset(&p, 0, sizeof p);
    p.axis = ad_axis_from_front(ctx, "pad", x, axis);
    p.before = before, p.after = after, p.value = value;
    if (before == 0 && after == 0 && p.axis >= 0 && !ad_is_null(x)) return x;
    return ad_apply1(ctx, &ad_op_pad, 1, &x, &p);
}

ad_tensor ad_concat(ad_context *ctx, int count, const ad_tensor *x, int axis) {
    if (ad_failed(ctx)) return (ad_tensor){0};
    if (count < 1) {
        ad_raise(ctx, "concat: there are no operands");
        return (ad_tensor){0};
    }
    axis = ad_axis_from_front(ctx, "concat", x[0], axis);
    if (count == 1 && axis >= 0) return x[0];
    if (count <= AD_INPUTS_MAX) return ad_apply1(ctx, &ad_op_concat, count, x, &axis);
    // More than one operation can have: the first ones as one operand.
    ad_tensor part[AD_INPUTS_MAX];
    int at = AD_INPUTS_MAX;
    part[0] = ad_apply1(ctx, &ad_op_concat, AD_INPUTS_MAX, x, &axis);
    while (at < count && !ad_failed(ctx)) {
        int take = 1;
        for (; take < AD_INPUTS_MAX && at < count; take++) part[take] = x[at++];
        part[0] = ad_apply1(ctx, &ad_op_concat, take, part, &axis);
    }
    return part[0];
}

/* ---- for the test harness */

static void wish(ad_sample *s, int inputs) {
    s->inputs = inputs;
    for (int i = 0; i < inputs; i++) {
        s->input[i].type = s->type, s->input[i].shape = s->shape;
        s->input[i].low = -2, s->input[i].high = 2;
    }
}

// Both sides; in front only, of the last axis; behind only.
static bool pad_sample(ad_sample *s) {
    padding p;
    memset(&p, 0, sizeof p);
    wish(s, 1);
    if (s->shape.rank == 0 || s->variant > 2) return false;
    p.axis = s->variant == 1 ? s->shape.rank - 1 : 0;
    p.before = s->variant == 2 ? 0 : 2, p.after = s->variant == 1 ? 0 : 3;
    p.value = s->variant == 0 ? 7 : 0;
    memcpy(s->attributes.bytes, &p, sizeof p);
    return true;
}

// Three along the first axis; two of different sizes along the last.
static bool concat_sample(ad_sample *s) {
    int axis = s->variant ? s->shape.rank - 1 : 0;
    wish(s, s->variant ? 2 : 3);
    if (s->shape.rank == 0 || s->variant > 1) return false;
    if (s->variant) s->input[1].shape.size[axis] = 2;
    memcpy(s->attributes.bytes, &axis, sizeof axis);
    return true;
}

const ad_op ad_op_pad = {
    .name = "pad", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_STRIDED | AD_OP_STORAGE, .attribute_bytes = sizeof(padding),
    .infer = pad_infer, .cpu = pad_cpu, .vulkan = "pad", .vjp = pad_vjp, .jvp = pad_jvp,
    .cost = move_cost, .sample = pad_sample};

const ad_op ad_op_concat = {
    .name = "concat", .inputs_min = 1, .inputs_max = AD_INPUTS_MAX, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_STRIDED | AD_OP_STORAGE, .attribute_bytes = sizeof(int),
    .infer = concat_infer, .cpu = concat_cpu, .vulkan = "concat", .vjp = concat_vjp,
    .cost = move_cost, .sample = concat_sample};
