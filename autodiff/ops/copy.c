/* Copies and conversions: copy, cast, contiguous, identity, stop_gradient, assign, accumulate.
 *
 * The only operations that read and write every type themselves, strided or not; all others see
 * f16 and bf16 through them. identity and stop_gradient are views: they move no bytes. */
#include "autodiff/core.h"
#include "autodiff/cpu/loop.h"
#include "autodiff/ops/half.h"

#include <string.h>

/* ---- kernels */

static double load(const char *at, ad_type type) {
    switch (type) {
    case AD_F32: return *(const float *)at;
    case AD_F64: return *(const double *)at;
    case AD_F16: return ad_from_half(*(const uint16_t *)at);
    case AD_BF16: return ad_from_bf16(*(const uint16_t *)at);
    case AD_I32: return *(const int32_t *)at;
    default: return *(const uint32_t *)at;
    }
}

// Integers of the other kind keep their bits; a float outside the range gives the nearest end.
static void store(char *at, ad_type type, double value, bool float_source) {
    switch (type) {
    case AD_F32: *(float *)at = (float)value; break;
    case AD_F64: *(double *)at = value; break;
    case AD_F16: *(uint16_t *)at = ad_to_half((float)value); break;
    case AD_BF16: *(uint16_t *)at = ad_to_bf16((float)value); break;
    case AD_I32:
        if (!float_source) *(int32_t *)at = (int32_t)(uint32_t)(int64_t)value;
        else *(int32_t *)at = value != value ? 0 : value >= 2147483647.0 ? INT32_MAX
                            : value <= -2147483648.0 ? INT32_MIN : (int32_t)value;
        break;
    default:
        if (!float_source) *(uint32_t *)at = (uint32_t)(int64_t)value;
        else *(uint32_t *)at = value >= 4294967295.0 ? UINT32_MAX : value > 0 ? (uint32_t)value : 0;
    }
}

typedef struct types {
    ad_type to, from;
    bool add;
} types;

static void convert_piece(const void *user, int64_t n, char *const *data, const int64_t *stride) {
    const types *t = user;
    int64_t to = (int64_t)ad_type_bytes(t->to), from = (int64_t)ad_type_bytes(t->from);
    bool dense = stride[0] == 1 && stride[1] == 1;
    if (t->add) {
        if (t->to == AD_F32 && t->from == AD_F32) {
            float *sum = (float *)data[0];
            const float *term = (const float *)data[1];
            for (int64_t i = 0; i < n; i++) sum[i * stride[0]] += term[i * stride[1]];
        } else {
            for (int64_t i = 0; i < n; i++) {
                char *at = data[0] + i * stride[0] * to;
                double sum = load(at, t->to) + load(data[1] + i * stride[1] * from, t->from);
                store(at, t->to, sum, true);
            }
        }
    } else if (t->to == t->from && dense) {
        memcpy(data[0], data[1], (size_t)(n * to));
    } else if (t->to == t->from && to == 4) {
        uint32_t *out = (uint32_t *)data[0];
        const uint32_t *in = (const uint32_t *)data[1];
        for (int64_t i = 0; i < n; i++) out[i * stride[0]] = in[i * stride[1]];
    } else if (t->to == AD_F32 && t->from == AD_BF16) {
        float *out = (float *)data[0];
        const uint16_t *in = (const uint16_t *)data[1];
        for (int64_t i = 0; i < n; i++) out[i * stride[0]] = ad_from_bf16(in[i * stride[1]]);
    } else if (t->to == AD_BF16 && t->from == AD_F32) {
        uint16_t *out = (uint16_t *)data[0];
        const float *in = (const float *)data[1];
        for (int64_t i = 0; i < n; i++) out[i * stride[0]] = ad_to_bf16(in[i * stride[1]]);
    } else {
        bool real = t->from != AD_I32 && t->from != AD_U32;
        for (int64_t i = 0; i < n; i++)
            store(data[0] + i * stride[0] * to, t->to,
                  load(data[1] + i * stride[1] * from, t->from), real);
    }
}

static void convert(const ad_view *to, const ad_view *from, int threads, bool add) {
    ad_loop loop;
    const ad_view *views[] = {to, from};
    types t = {to->type, from->type, add};
    ad_loop_plan(&loop, to, 2, views);
    ad_loop_run(&loop, threads, convert_piece, &t);
}

static void copy_cpu(const ad_launch *l) {
    convert(&l->output[0], &l->input[0], l->threads, false);
}

static void assign_cpu(const ad_launch *l) {
    convert(&l->input[0], &l->input[1], l->threads, false);
}

static void accumulate_cpu(const ad_launch *l) {
    convert(&l->input[0], &l->input[1], l->threads, true);
}

/* ---- shapes and rules */

static void copy_infer(ad_infer *call) {
    call->output[0] = call->input[0];
    call->saved_inputs = call->saved_outputs = 0;
}

static void cast_infer(ad_infer *call) {
    copy_infer(call);
    call->output[0].type = *(const ad_type *)call->attributes;
}

static void view_infer(ad_infer *call) {
    copy_infer(call);
    call->view_offset = 0;
}

static void write_infer(ad_infer *call) {
    call->saved_inputs = 0;
    if (ad_view_same_shape(&call->input[0], &call->input[1])) return;
    char state[160], value[160];
    ad_view_text(&call->input[0], state, sizeof state);
    ad_view_text(&call->input[1], value, sizeof value);
    ad_infer_fail(call, "the state is %s, the value %s: their shapes must agree", state, value);
}

static void pass_vjp(ad_vjp *call) { call->dx[0] = call->dy[0]; }

static bool is_real(ad_type type) { return type != AD_I32 && type != AD_U32; }

static void cast_vjp(ad_vjp *call) {
    ad_type type = ad_type_of(call->ctx, call->input[0]);
    if (is_real(*(const ad_type *)call->attributes))
        call->dx[0] = ad_cast(call->ctx, call->dy[0], type);
}

static void cast_jvp(ad_jvp *call) {
    ad_type type = *(const ad_type *)call->attributes;
    if (is_real(type)) call->dy[0] = ad_cast(call->ctx, call->dx[0], type);
}

/* ---- public */

ad_tensor ad_cast(ad_context *ctx, ad_tensor x, ad_type type) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    if ((unsigned)type >= AD_TYPES) {
        ad_raise(ctx, "cast: no such type: %d", (int)type);
        return (ad_tensor){0};
    }
    return ad_type_of(ctx, x) == type ? x : ad_apply1(ctx, &ad_op_cast, 1, &x, &type);
}

ad_tensor ad_contiguous(ad_context *ctx, ad_tensor x) {
    ad_record *record = ad_record_of(ctx, x, "contiguous");
    if (!record || !record->layout) return record ? x : (ad_tensor){0};
    return ad_apply1(ctx, &ad_op_copy, 1, &x, NULL);
}

extern const ad_op ad_op_stop_gradient;
ad_tensor ad_stop_gradient(ad_context *ctx, ad_tensor x) {
    ad_tensor y = ad_apply1(ctx, &ad_op_stop_gradient, 1, &x, NULL);
    return y;
}

/* ---- for the test harness */

static bool any_sample(ad_sample *s) {
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
    return s->variant == 0;
}

static bool cast_sample(ad_sample *s) {
    static const ad_type to[] = {AD_F64, AD_F32};
    any_sample(s);
    if (s->variant > (s->type == AD_F64 ? 0 : 1)) return false; // f32 would hide differences
    memcpy(s->attributes.bytes, &to[s->variant], sizeof to[0]);
    return true;
}

static bool write_sample(ad_sample *s) {
    any_sample(s);
    s->inputs = 2, s->input[1] = s->input[0];
    return s->variant == 0;
}

const ad_op ad_op_copy = {
    .name = "copy", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_STRIDED | AD_OP_STORAGE, .infer = copy_infer, .cpu = copy_cpu,
    .vjp = pass_vjp, .sample = any_sample};

const ad_op ad_op_cast = {
    .name = "cast", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_STRIDED | AD_OP_STORAGE, .attribute_bytes = sizeof(ad_type),
    .infer = cast_infer, .cpu = copy_cpu, .vjp = cast_vjp, .jvp = cast_jvp, .sample = cast_sample};

const ad_op ad_op_identity = {
    .name = "identity", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_VIEW, .infer = view_infer, .vjp = pass_vjp,
    .sample = any_sample};

const ad_op ad_op_stop_gradient = {
    .name = "stop_gradient", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_VIEW, .infer = view_infer, .sample = any_sample};

const ad_op ad_op_assign = {
    .name = "assign", .inputs_min = 2, .inputs_max = 2,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL | AD_OP_STRIDED | AD_OP_STORAGE, .writes = 1,
    .infer = write_infer, .cpu = assign_cpu, .sample = write_sample};

const ad_op ad_op_accumulate = {
    .name = "accumulate", .inputs_min = 2, .inputs_max = 2,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL | AD_OP_STRIDED | AD_OP_STORAGE, .writes = 1,
    .infer = write_infer, .cpu = accumulate_cpu, .sample = write_sample};
