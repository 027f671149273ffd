/* Operations by segment: sum, max, cumulative sum, repeat.
 *
 * Segment s is the rows offsets[s] ... offsets[s + 1] of axis 0; rows before the first and behind
 * the last segment are dead: they contribute nothing, and outputs and cotangents are zero there.
 * Offsets are data, so no kernel trusts them: they are read as their running maximum, cut to the
 * number of rows. Segments are then always disjoint and inside, whatever the tensor holds, and a
 * segment belongs to one thread. sum and repeat are each other's derivative; a cumulative sum's
 * runs the other way. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"

#include <math.h>
#include <string.h>

extern const ad_op ad_op_segment_sum, ad_op_segment_max, ad_op_segment_cumsum,
    ad_op_segment_repeat;

enum { TILE = 64 };

typedef struct settings {
    int64_t rows;         // segment_repeat
    uint32_t exclusive, reverse; // segment_cumsum
} settings;

/* ---- kernels */

// One segment, at most TILE columns: down its rows, which are `step` elements apart.
typedef void (*fold)(const void *x, int64_t rows, int64_t step, int64_t columns, void *y);

// T: element, A: its sum.
#define DEFINE_SUM(SUM, CUMSUM, CUMSUM_EXCLUSIVE, T, A)                                   \
    static void SUM(const void *from, int64_t rows, int64_t step, int64_t columns,        \
                    void *to) {                                                           \
        const T *x = from;                                                                \
        T *y = to;                                                                        \
        A sum[TILE] = {0};                                                                \
        for (int64_t i = 0; i < rows; i++)                                                \
            for (int64_t k = 0; k < columns; k++) sum[k] += (A)x[i * step + k];           \
        for (int64_t k = 0; k < columns; k++) y[k] = (T)sum[k];                           \
    }                                                                                     \
    static void CUMSUM(const void *from, int64_t rows, int64_t step, int64_t columns,     \
                       void *to) {                                                        \
        const T *x = from;                                                                \
        T *y = to;                                                                        \
        A sum[TILE] = {0};                                                                \
        for (int64_t i = 0; i < rows; i++)                                                \
            for (int64_t k = 0; k < columns; k++)                                         \
                y[i * step + k] = (T)(sum[k] += (A)x[i * step + k]);                      \
    }                                                                                     \
    static void CUMSUM_EXCLUSIVE(const void *from, int64_t rows, int64_t step,            \
                                 int64_t columns, void *to) {                             \
        const T *x = from;                                                                \
        T *y = to;                                                                        \
        A sum[TILE] = {0};                                                                \
        for (int64_t i = 0; i < rows; i++)                                                \
            for (int64_t k = 0; k < columns; k++) {                                       \
                y[i * step + k] = (T)sum[k];                                              \
                sum[k] += (A)x[i * step + k];                                             \
            }                                                                             \
    }

#define DEFINE_MAX(MAX, T, LOWEST)                                                        \
    static void MAX(const void *from, int64_t rows, int64_t step, int64_t columns,        \
                    void *to) {                                                           \
        const T *x = from;                                                                \
        T *y = to;                                                                        \
        for (int64_t k = 0; k < columns; k++) y[k] = LOWEST;                              \
        for (int64_t i = 0; i < rows; i++)                                                \
            for (int64_t k = 0; k < columns; k++) {                                       \
                T a = y[k], b = x[i * step + k];                                          \
                y[k] = a > b || a != a ? a : b;                                           \
            }                                                                             \
    }

DEFINE_SUM(sum_f32, cumsum_f32, cumsum_exclusive_f32, float, double)
DEFINE_SUM(sum_f64, cumsum_f64, cumsum_exclusive_f64, double, double)
DEFINE_SUM(sum_u32, cumsum_u32, cumsum_exclusive_u32, uint32_t, uint32_t)
DEFINE_MAX(max_f32, float, -INFINITY)
DEFINE_MAX(max_f64, double, -INFINITY)
DEFINE_MAX(max_i32, int32_t, INT32_MIN)
DEFINE_MAX(max_u32, uint32_t, 0)

// Signed integers add like unsigned ones.
static fold fold_of(ad_type type, fold f32, fold f64, fold i32, fold u32) {
    return type == AD_F32 ? f32 : type == AD_F64 ? f64 : type == AD_I32 ? i32 : u32;
}

typedef struct job {
    const ad_view *x, *y;
    const uint32_t *bound;         // (segments + 1), ascending, at most rows
    int64_t segments, rows, width; // width: elements of a row
    size_t bytes;                  // of an element
    fold fold;
    bool reverse;
} job;

// The offsets as they are meant go to the workspace.
static job job_make(const ad_launch *l, int64_t rows) {
    const ad_view *offsets = &l->input[1];
    const uint32_t *given = offsets->data;
    uint32_t *bound = l->workspace, last = 0;
    for (int64_t i = 0; i < offsets->size[0]; i++) {
        if (given[i] > last) last = (int64_t)given[i] < rows ? given[i] : (uint32_t)rows;
        bound[i] = last;
    }
    job j = {.x = &l->input[0], .y = &l->output[0], .bound = bound,
             .segments = offsets->size[0] - 1, .rows = rows, .width = 1,
             .bytes = ad_type_bytes(l->input[0].type)};
    for (int i = 1; i < l->input[0].rank; i++) j.width *= l->input[0].size[i];
    return j;
}

// Tasks are segments.
static void fold_segments(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    for (int64_t s = first; s < last; s++)
        for (int64_t k = 0; k < j->width; k += TILE) {
            int64_t start = j->bound[s], rows = (int64_t)j->bound[s + 1] - start;
            const char *x = (const char *)j->x->data + (size_t)(start * j->width + k) * j->bytes;
            char *y = (char *)j->y->data + (size_t)(s * j->width + k) * j->bytes;
            j->fold(x, rows, j->width, j->width - k < TILE ? j->width - k : TILE, y);
        }
}

static void scan_segments(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    for (int64_t s = first; s < last; s++)
        for (int64_t k = 0; k < j->width; k += TILE) {
            int64_t start = j->bound[s], rows = (int64_t)j->bound[s + 1] - start;
            if (rows == 0) continue;
            size_t at = (size_t)((j->reverse ? start + rows - 1 : start) * j->width + k) * j->bytes;
            j->fold((const char *)j->x->data + at, rows, j->reverse ? -j->width : j->width,
                    j->width - k < TILE ? j->width - k : TILE, (char *)j->y->data + at);
        }
}

static void repeat_segments(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    size_t row = (size_t)j->width * j->bytes;
    for (int64_t s = first; s < last; s++) {
        const char *x = (const char *)j->x->data + (size_t)s * row;
        char *y = (char *)j->y->data;
        for (int64_t i = j->bound[s]; i < j->bound[s + 1]; i++)
            if (row == 4) memcpy(y + i * 4, x, 4);
            else memcpy(y + (size_t)i * row, x, row);
    }
}

// The rows outside every segment.
static void zero_dead(const job *j) {
    size_t row = (size_t)j->width * j->bytes;
    int64_t first = j->bound[0], last = j->bound[j->segments];
    memset(j->y->data, 0, (size_t)first * row);
    memset((char *)j->y->data + (size_t)last * row, 0, (size_t)(j->rows - last) * row);
}

static void sum_cpu(const ad_launch *l) {
    job j = job_make(l, l->input[0].size[0]);
    j.fold = fold_of(l->input[0].type, sum_f32, sum_f64, sum_u32, sum_u32);
    ad_parallel(l->threads, ad_view_count(j.x), j.segments, fold_segments, &j);
}

static void max_cpu(const ad_launch *l) {
    job j = job_make(l, l->input[0].size[0]);
    j.fold = fold_of(l->input[0].type, max_f32, max_f64, max_i32, max_u32);
    ad_parallel(l->threads, ad_view_count(j.x), j.segments, fold_segments, &j);
}

static void cumsum_cpu(const ad_launch *l) {
    const settings *set = l->attributes;
    job j = job_make(l, l->input[0].size[0]);
    j.reverse = set->reverse;
    j.fold = set->exclusive ? fold_of(l->input[0].type, cumsum_exclusive_f32, cumsum_exclusive_f64,
                                      cumsum_exclusive_u32, cumsum_exclusive_u32)
                            : fold_of(l->input[0].type, cumsum_f32, cumsum_f64, cumsum_u32,
                                      cumsum_u32);
    zero_dead(&j);
    ad_parallel(l->threads, ad_view_count(j.x), j.segments, scan_segments, &j);
}

static void repeat_cpu(const ad_launch *l) {
    job j = job_make(l, l->output[0].size[0]);
    zero_dead(&j);
    ad_parallel(l->threads, ad_view_count(j.y), j.segments, repeat_segments, &j);
}

/* ---- shapes */

static bool offsets_valid(ad_infer *call) {
    const ad_view *x = &call->input[0], *offsets = &call->input[1];
    call->output[0] = *x;
    call->saved_inputs = 2, call->saved_outputs = 0;
    if (x->rank > 0 && offsets->type == AD_U32 && offsets->rank == 1 && offsets->size[0] > 0) {
        call->workspace = (size_t)offsets->size[0] * sizeof(uint32_t);
        return true;
    }
    char a[160], b[160];
    ad_view_text(x, a, sizeof a), ad_view_text(offsets, b, sizeof b);
    ad_infer_fail(call, "the rows are %s, the offsets %s: (rows, ...) and u32 (segments + 1) are "
                  "needed", a, b);
    return false;
}

static void sum_infer(ad_infer *call) {
    if (offsets_valid(call)) call->output[0].size[0] = call->input[1].size[0] - 1;
}

static void max_infer(ad_infer *call) {
    sum_infer(call);
    call->saved_inputs = 3, call->saved_outputs = 1;
}

static void cumsum_infer(ad_infer *call) { offsets_valid(call); }

static void repeat_infer(ad_infer *call) {
    const settings *set = call->attributes;
    if (!offsets_valid(call)) return;
    if (call->input[0].size[0] != call->input[1].size[0] - 1) {
        ad_infer_fail(call, "%lld rows for %lld segments", (long long)call->input[0].size[0],
                      (long long)call->input[1].size[0] - 1);
        return;
    }
    call->output[0].size[0] = set->rows;
}

static void segment_cost(const ad_infer *call, double *flops, double *bytes) {
    double in = (double)ad_view_count(&call->input[0]);
    double out = (double)ad_view_count(&call->output[0]);
    *flops = call->op->attribute_bytes && ((const settings *)call->attributes)->rows ? 0 : in;
    *bytes = (in + out) * (double)ad_type_bytes(call->input[0].type);
}

/* ---- derivatives */

static void sum_vjp(ad_vjp *call) {
    int64_t rows = ad_shape_of(call->ctx, call->input[0]).size[0];
    call->dx[0] = ad_segment_repeat(call->ctx, call->dy[0], call->input[1], rows);
}

static void repeat_vjp(ad_vjp *call) {
    call->dx[0] = ad_segment_sum(call->ctx, call->dy[0], call->input[1]);
}

static void cumsum_vjp(ad_vjp *call) {
    const settings *set = call->attributes;
    call->dx[0] = ad_segment_cumsum(call->ctx, call->dy[0], call->input[1], set->exclusive,
                                    !set->reverse);
}

// Which rows hold their segment's maximum, and how many do (at least 1).
static ad_tensor ties(ad_context *ctx, const ad_tensor *input, ad_tensor y, ad_tensor *count) {
    ad_type type = ad_type_of(ctx, y);
    int64_t rows = ad_shape_of(ctx, input[0]).size[0];
    ad_tensor mask = ad_equal(ctx, input[0], ad_segment_repeat(ctx, y, input[1], rows));
    *count = ad_segment_sum(ctx, ad_cast(ctx, mask, type), input[1]);
    *count = ad_maximum(ctx, *count, ad_scalar(ctx, type, 1));
    return mask;
}

static void max_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    int64_t rows = ad_shape_of(ctx, call->input[0]).size[0];
    ad_tensor count, mask = ties(ctx, call->input, call->output[0], &count);
    ad_tensor share = ad_div(ctx, call->dy[0], count);
    share = ad_segment_repeat(ctx, share, call->input[1], rows);
    call->dx[0] = ad_where(ctx, mask, share, ad_scalar(ctx, ad_type_of(ctx, share), 0));
}

static void max_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor count, mask = ties(ctx, call->input, call->output[0], &count);
    ad_tensor zero = ad_scalar(ctx, ad_type_of(ctx, call->dx[0]), 0);
    ad_tensor sum = ad_segment_sum(ctx, ad_where(ctx, mask, call->dx[0], zero), call->input[1]);
    call->dy[0] = ad_div(ctx, sum, count);
}

/* ---- public */

ad_tensor ad_segment_sum(ad_context *ctx, ad_tensor x, ad_tensor offsets) {
    return ad_apply1(ctx, &ad_op_segment_sum, 2, (ad_tensor[]){x, offsets}, NULL);
}

ad_tensor ad_segment_max(ad_context *ctx, ad_tensor x, ad_tensor offsets) {
    return ad_apply1(ctx, &ad_op_segment_max, 2, (ad_tensor[]){x, offsets}, NULL);
}

ad_tensor ad_segment_cumsum(ad_context *ctx, ad_tensor x, ad_tensor offsets, bool exclusive,
                            bool reverse) {
    settings set = {0, exclusive, reverse};
    return ad_apply1(ctx, &ad_op_segment_cumsum, 2, (ad_tensor[]){x, offsets}, &set);
}

ad_tensor ad_segment_repeat(ad_context *ctx, ad_tensor x, ad_tensor offsets, int64_t rows) {
    settings set = {rows, 0, 0};
    return ad_apply1(ctx, &ad_op_segment_repeat, 2, (ad_tensor[]){x, offsets}, &set);
}

/* ---- for the test harness */

// The wish is the rows; their number divided by 2, plus 1, offsets.
static bool segment_sample(ad_sample *s) {
    s->inputs = 2;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
    if (s->shape.rank == 0) return false;
    int64_t rows = s->shape.size[0];
    s->input[1].type = AD_U32, s->input[1].shape = AD_SHAPE(rows / 2 + 1);
    s->input[1].low = 0, s->input[1].high = (double)rows;
    s->input[1].constant = s->input[1].sorted = true;
    return s->variant == 0;
}

static bool max_sample(ad_sample *s) {
    bool has = segment_sample(s);
    s->input[0].distinct = true;
    return has;
}

static bool cumsum_sample(ad_sample *s) {
    settings set = {0, s->variant & 1, s->variant >> 1 & 1};
    bool more = s->variant < 4;
    int variant = s->variant;
    s->variant = 0;
    bool has = segment_sample(s);
    s->variant = variant;
    memcpy(s->attributes.bytes, &set, sizeof set);
    return has && more;
}

// The wish is the segments' values; two rows each, and offsets that leave some dead.
static bool repeat_sample(ad_sample *s) {
    bool has = segment_sample(s);
    if (!has) return false;
    settings set = {2 * s->shape.size[0] + 1, 0, 0};
    s->input[1].shape = AD_SHAPE(s->shape.size[0] + 1);
    s->input[1].high = (double)set.rows;
    memcpy(s->attributes.bytes, &set, sizeof set);
    return true;
}

const ad_op ad_op_segment_sum = {
    .name = "segment_sum", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .flags = AD_OP_LINEAR,
    .infer = sum_infer, .cpu = sum_cpu, .vulkan = "segment_fold", .vjp = sum_vjp,
    .cost = segment_cost, .sample = segment_sample};

const ad_op ad_op_segment_max = {
    .name = "segment_max", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .infer = max_infer,
    .cpu = max_cpu, .vulkan = "segment_fold", .vjp = max_vjp, .jvp = max_jvp,
    .cost = segment_cost, .sample = max_sample};

const ad_op ad_op_segment_cumsum = {
    .name = "segment_cumsum", .inputs_min = 2, .inputs_max = 2, .outputs = 1,
    .flags = AD_OP_LINEAR, .attribute_bytes = sizeof(settings), .infer = cumsum_infer,
    .cpu = cumsum_cpu, .vulkan = "segment_scan", .vjp = cumsum_vjp, .cost = segment_cost,
    .sample = cumsum_sample};

const ad_op ad_op_segment_repeat = {
    .name = "segment_repeat", .inputs_min = 2, .inputs_max = 2, .outputs = 1,
    .flags = AD_OP_LINEAR, .attribute_bytes = sizeof(settings), .infer = repeat_infer,
    .cpu = repeat_cpu, .vulkan = "segment_repeat", .vjp = repeat_vjp, .cost = segment_cost,
    .sample = repeat_sample};
