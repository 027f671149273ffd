/* Tensors out of nothing: one value everywhere, or 0, 1, 2, ...
 *
 * Operations without operands, so that a captured step fills its constants again on replay. */
#include "autodiff/autodiff.h"

#include <string.h>

typedef struct fill {
    double value;
    ad_shape shape;
    ad_type type;
} fill;

enum { PIECE = 16384, SHARE_COUNT = 1 << 18 }; // fewer elements than that are one thread's

// Element i is value + step i; integers keep their low 32 bits.
static void write_piece(void *data, ad_type type, int64_t start, int64_t stop, double value,
                        double step) {
    if (type == AD_F32) {
        float *out = data;
        if (step == 0)
            for (int64_t i = start; i < stop; i++) out[i] = (float)value;
        else
            for (int64_t i = start; i < stop; i++) out[i] = (float)(value + step * (double)i);
    } else if (type == AD_F64) {
        double *out = data;
        for (int64_t i = start; i < stop; i++) out[i] = value + step * (double)i;
    } else {
        uint32_t *out = data, first = (uint32_t)(int64_t)value, each = (uint32_t)step;
        for (int64_t i = start; i < stop; i++) out[i] = first + each * (uint32_t)i;
    }
}

static void write_all(const ad_launch *launch, double value, double step) {
    const ad_view *y = launch->output;
    int64_t count = ad_view_count(y), pieces = (count + PIECE - 1) / PIECE;
    int threads = count < SHARE_COUNT ? 1 : launch->threads;
    (void)threads;
    if (count <= PIECE) {
        write_piece(y->data, y->type, 0, count, value, step);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t start = piece * PIECE, stop = start + PIECE < count ? start + PIECE : count;
        write_piece(y->data, y->type, start, stop, value, step);
    }
}

static void full_cpu(const ad_launch *launch) {
    write_all(launch, ((const fill *)launch->attributes)->value, 0);
}

static void range_cpu(const ad_launch *launch) { write_all(launch, 0, 1); }

static void fill_infer(ad_infer *call) {
    const fill *f = call->attributes;
    if ((unsigned)f->type >= AD_TYPES) {
        ad_infer_fail(call, "no such type: %d", (int)f->type);
    } else if (f->shape.rank < 0 || f->shape.rank > AD_RANK_MAX) {
        ad_infer_fail(call, "the rank must be 0 to %d, not %d", AD_RANK_MAX, f->shape.rank);
    } else {
        call->output->type = f->type, call->output->rank = f->shape.rank;
        memcpy(call->output->size, f->shape.size, sizeof f->shape.size);
    }
}

static void fill_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = (double)ad_view_count(call->output) * (double)ad_type_bytes(call->output->type);
}

static bool fill_sample(ad_sample *s) {
    fill f = {.value = 1.5, .shape = s->shape, .type = s->type};
    s->inputs = 0;
    memcpy(s->attributes.bytes, &f, sizeof f);
    return s->variant == 0;
}

static bool range_sample(ad_sample *s) { return s->shape.rank == 1 && fill_sample(s); }

const ad_op ad_op_full = {
    .name = "full", .outputs = 1, .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(fill),
    .infer = fill_infer, .cpu = full_cpu, .cost = fill_cost, .sample = fill_sample};

const ad_op ad_op_range = {
    .name = "range", .outputs = 1, .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(fill),
    .infer = fill_infer, .cpu = range_cpu, .cost = fill_cost, .sample = range_sample};

ad_tensor ad_full(ad_context *ctx, ad_type type, ad_shape shape, double value) {
    fill f = {.value = value, .shape = shape, .type = type};
    return ad_apply1(ctx, &ad_op_full, 0, NULL, &f);
}

ad_tensor ad_range(ad_context *ctx, ad_type type, int64_t count) {
    fill f = {.shape = AD_SHAPE(count), .type = type};
    return ad_apply1(ctx, &ad_op_range, 0, NULL, &f);
}
