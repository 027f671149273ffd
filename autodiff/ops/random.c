/* Random numbers: uniform, normal, dropout, and the step that they depend on.
 *
 * A number is a function of the context's seed, the operation's ordinal in the step, the step
 * tensor and the element's index (Philox, see random.h). So the same numbers come out for any
 * thread count, when a checkpoint scope runs again, and when a captured step is replayed: the
 * ordinal is an attribute, written down once, and the step is an operand, advanced on the device.
 *
 * Four elements share one block of four words. f64 results are the f32 ones, scaled in f64, so that
 * a computation checked in f64 sees the same numbers. Dropout keeps no mask: its gradient draws the
 * same numbers again, which is dropout itself on the cotangent. */
#include "autodiff/core.h"
#include "autodiff/ops/random.h"

#include <string.h>

typedef struct draw {
    double a, b;          // low and high; mean and deviation; dropout: the rate
    uint64_t seed;
    ad_shape shape;
    ad_type type;
    uint32_t ordinal;
} draw;

enum { GROUP = 256, PIECE = 4096, SHARE_COUNT = 16384 }; // elements; multiples of 4

/* ---- kernels */

// The words of elements start ... start + GROUP - 1; start is a multiple of 4.
static void words_of(const draw *d, uint32_t step, int64_t start, uint32_t *word) {
    uint64_t block = (uint64_t)start / 4;
    uint32_t key0 = (uint32_t)d->seed, key1 = (uint32_t)(d->seed >> 32);
    for (uint32_t j = 0; j < GROUP / 4; j++) {
        ad_random_words w = ad_random_philox((uint32_t)(block + j), (uint32_t)((block + j) >> 32),
                                             step, d->ordinal, key0, key1);
        word[4 * j] = w.x, word[4 * j + 1] = w.y;
        word[4 * j + 2] = w.z, word[4 * j + 3] = w.w;
    }
}

typedef void (*group_body)(const draw *d, const uint32_t *word, const void *x, void *y, int n);

// x, where there is one, and y: contiguous, of one type.
static void each_group(const ad_launch *launch, const uint32_t *step, const void *x,
                       group_body body) {
    const draw *d = launch->attributes;
    const ad_view *y = launch->output;
    size_t element = ad_type_bytes(y->type);
    int64_t count = ad_view_count(y), pieces = (count + PIECE - 1) / PIECE;
    int threads = count < SHARE_COUNT ? 1 : launch->threads;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t stop = (piece + 1) * PIECE < count ? (piece + 1) * PIECE : count;
        for (int64_t start = piece * PIECE; start < stop; start += GROUP) {
            uint32_t word[GROUP];
            words_of(d, *step, start, word);
            const char *from = x ? (const char *)x + (size_t)start * element : NULL;
            int n = stop - start < GROUP ? (int)(stop - start) : GROUP;
            body(d, word, from, (char *)y->data + (size_t)start * element, n);
        }
    }
}

static void uniform_f32(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    float *out = y, low = (float)d->a, span = (float)(d->b - d->a), high = (float)d->b;
    float most = high > low ? nextafterf(high, low) : low; // rounding must not reach the end
    (void)x;
    for (int i = 0; i < n; i++) {
        float value = low + span * ad_random_uniform(word[i]);
        out[i] = value < most ? value : most;
    }
}

static void uniform_f64(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    double *out = y;
    (void)x;
    for (int i = 0; i < n; i++) out[i] = d->a + (d->b - d->a) * (double)ad_random_uniform(word[i]);
}

static void uniform_integer(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    uint32_t *out = y;
    (void)x;
    for (int i = 0; i < n; i++) // 32-bit fractions: every value of a small range is as likely
        out[i] = (uint32_t)(int64_t)floor(d->a + (d->b - d->a) * (word[i] * 0x1p-32));
}

static void uniform_cpu(const ad_launch *launch) {
    ad_type type = launch->output->type;
    each_group(launch, launch->input[0].data, NULL,
               type == AD_F32 ? uniform_f32 : type == AD_F64 ? uniform_f64 : uniform_integer);
}

static void normal_f32(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    float value[GROUP], *out = y, mean = (float)d->a, deviation = (float)d->b;
    (void)x;
    for (int i = 0; i < GROUP / 2; i++) {
        ad_random_pair pair = ad_random_normal(word[2 * i], word[2 * i + 1]);
        value[2 * i] = pair.first, value[2 * i + 1] = pair.second;
    }
    for (int i = 0; i < n; i++) out[i] = mean + deviation * value[i];
}

static void normal_f64(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    double *out = y;
    (void)x;
    for (int i = 0; i < n; i++) {
        ad_random_pair pair = ad_random_normal(word[i & ~1], word[i | 1]);
        out[i] = d->a + d->b * (double)(i & 1 ? pair.second : pair.first);
    }
}

static void normal_cpu(const ad_launch *launch) {
    each_group(launch, launch->input[0].data, NULL,
               launch->output->type == AD_F32 ? normal_f32 : normal_f64);
}

static void dropout_f32(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    const float *in = x;
    float *out = y, rate = (float)d->a, scale = (float)(1 / (1 - d->a));
    for (int i = 0; i < n; i++) {
        float kept = in[i] * scale;
        out[i] = ad_random_uniform(word[i]) < rate ? 0.0f : kept;
    }
}

static void dropout_f64(const draw *d, const uint32_t *word, const void *x, void *y, int n) {
    const double *in = x;
    double *out = y, scale = 1 / (1 - d->a);
    float rate = (float)d->a;
    for (int i = 0; i < n; i++) {
        double kept = in[i] * scale;
        out[i] = ad_random_uniform(word[i]) < rate ? 0.0 : kept;
    }
}

static void dropout_cpu(const ad_launch *launch) {
    each_group(launch, launch->input[1].data, launch->input[0].data,
               launch->output->type == AD_F32 ? dropout_f32 : dropout_f64);
}

static void advance_cpu(const ad_launch *launch) { *(uint32_t *)launch->input[0].data += 1; }

/* ---- shapes and rules */

static bool step_good(ad_infer *call, int i) {
    const ad_view *step = &call->input[i];
    if (step->type == AD_U32 && step->rank == 0) return true;
    ad_infer_fail(call, "operand %d is the step tensor (ad_step_tensor), a u32 scalar", i);
    return false;
}

static void uniform_infer(ad_infer *call) {
    const draw *d = call->attributes;
    if (!step_good(call, 0)) return;
    if ((unsigned)d->type >= AD_TYPES || d->shape.rank < 0 || d->shape.rank > AD_RANK_MAX) {
        ad_infer_fail(call, "no such type, or a rank outside 0 to %d", AD_RANK_MAX);
        return;
    }
    call->output->type = d->type, call->output->rank = d->shape.rank;
    memcpy(call->output->size, d->shape.size, sizeof d->shape.size);
}

static void normal_infer(ad_infer *call) {
    ad_type type = ((const draw *)call->attributes)->type;
    if (type == AD_I32 || type == AD_U32)
        ad_infer_fail(call, "normal numbers are not integers: %s", ad_type_name(type));
    else uniform_infer(call);
}

static void dropout_infer(ad_infer *call) {
    double rate = ((const draw *)call->attributes)->a;
    if (!step_good(call, 1)) return;
    if (!(rate >= 0 && rate < 1)) {
        ad_infer_fail(call, "the rate must be from 0 to less than 1, not %g", rate);
        return;
    }
    if (call->input[0].type == AD_I32 || call->input[0].type == AD_U32) {
        ad_infer_fail(call, "there is no such operation on %s", ad_type_name(call->input[0].type));
        return;
    }
    call->output[0] = call->input[0];
    call->saved_inputs = 2, call->saved_outputs = 0; // the step: it must not have advanced
}

static void advance_infer(ad_infer *call) {
    if (step_good(call, 0)) call->saved_inputs = 0;
}

static void dropout_vjp(ad_vjp *call) {
    if (call->wanted & 1)
        call->dx[0] = ad_apply1(call->ctx, call->op, 2, (ad_tensor[]){call->dy[0], call->input[1]},
                                call->attributes);
}

static void draw_cost(const ad_infer *call, double *flops, double *bytes) {
    double count = (double)ad_view_count(call->output);
    *flops = 20 * count;
    *bytes = count * (double)ad_type_bytes(call->output->type) * (call->inputs == 2 ? 2 : 1);
}

/* ---- for the test harness */

static bool draw_sample(ad_sample *s) {
    draw d = {.a = -1, .b = 2, .seed = 7, .shape = s->shape, .type = s->type, .ordinal = 3};
    s->inputs = 1;
    s->input[0].type = AD_U32, s->input[0].shape = AD_SCALAR, s->input[0].constant = true;
    s->input[0].low = 0, s->input[0].high = 9;
    memcpy(s->attributes.bytes, &d, sizeof d);
    return s->variant == 0;
}

static bool normal_sample(ad_sample *s) {
    return s->type != AD_I32 && s->type != AD_U32 && draw_sample(s);
}

static bool dropout_sample(ad_sample *s) {
    draw d = {.a = 0.4, .seed = 7, .ordinal = 3};
    bool good = normal_sample(s);
    s->inputs = 2, s->input[1] = s->input[0];
    s->input[0].type = s->type, s->input[0].shape = s->shape, s->input[0].constant = false;
    s->input[0].low = -2, s->input[0].high = 2;
    memcpy(s->attributes.bytes, &d, sizeof d);
    return good;
}

static bool advance_sample(ad_sample *s) { return s->shape.rank == 0 && draw_sample(s); }

const ad_op ad_op_uniform = {
    .name = "uniform", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM, .attribute_bytes = sizeof(draw),
    .infer = uniform_infer, .cpu = uniform_cpu, .cost = draw_cost, .sample = draw_sample};

const ad_op ad_op_normal = {
    .name = "normal", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_RANDOM, .attribute_bytes = sizeof(draw),
    .infer = normal_infer, .cpu = normal_cpu, .cost = draw_cost, .sample = normal_sample};

const ad_op ad_op_dropout = {
    .name = "dropout", .inputs_min = 2, .inputs_max = 2, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_RANDOM, .attribute_bytes = sizeof(draw),
    .infer = dropout_infer, .cpu = dropout_cpu, .vjp = dropout_vjp, .cost = draw_cost,
    .sample = dropout_sample};

const ad_op ad_op_step_advance = {
    .name = "step_advance", .inputs_min = 1, .inputs_max = 1, .writes = 1,
    .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL, .infer = advance_infer, .cpu = advance_cpu,
    .sample = advance_sample};

/* ---- public */

ad_tensor ad_step_tensor(ad_context *ctx) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    if (!ctx->step.slot) {
        ad_tensor zero = ad_full(ctx, AD_U32, AD_SCALAR, 0);
        ctx->step = ad_state(ctx, "step", zero);
        ad_free(ctx, zero);
    }
    return ctx->step;
}

void ad_step_advance(ad_context *ctx) {
    ad_tensor step = ad_step_tensor(ctx), none[1];
    if (!step.slot) return;
    ad_apply(ctx, &ad_op_step_advance, 1, &step, NULL, none);
    ctx->random_ordinal = 0;
}

uint32_t ad_random_ordinal(ad_context *ctx) { return ctx ? ctx->random_ordinal++ : 0; }

static ad_tensor drawn(ad_context *ctx, const ad_op *op, ad_type type, ad_shape shape, double a,
                       double b) {
    ad_tensor step = ad_step_tensor(ctx);
    if (!step.slot) return step;
    draw d = {.a = a, .b = b, .seed = ad_seed(ctx), .shape = shape, .type = type,
              .ordinal = ad_random_ordinal(ctx)};
    return ad_apply1(ctx, op, 1, &step, &d);
}

ad_tensor ad_uniform(ad_context *ctx, ad_type type, ad_shape shape, double low, double high) {
    return drawn(ctx, &ad_op_uniform, type, shape, low, high);
}

ad_tensor ad_normal(ad_context *ctx, ad_type type, ad_shape shape, double mean, double deviation) {
    return drawn(ctx, &ad_op_normal, type, shape, mean, deviation);
}

ad_tensor ad_dropout(ad_context *ctx, ad_tensor x, double rate) {
    ad_tensor step = ad_step_tensor(ctx);
    if (!step.slot) return step;
    draw d = {.a = rate, .seed = ad_seed(ctx), .ordinal = ad_random_ordinal(ctx)};
    return ad_apply1(ctx, &ad_op_dropout, 2, (ad_tensor[]){x, step}, &d);
}
