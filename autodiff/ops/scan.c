/* Scans along an axis: cumsum, cumprod, and the linear recurrence that cumprod's slope needs.
 *
 * A cumulative sum's derivative is one in the other direction. For a product
 *     y_i = x_0 ... x_i,   dx_k = (x_0 ... x_{k-1}) S_k,   S_k = dy_k + x_{k+1} S_{k+1},
 * which divides by nothing and is exact with any number of zeros. S is a linear recurrence
 *     h_i = b_i + a_i h_{i-1}    or, late,    h_i = b_i + a_{i-1} h_{i-1},
 * and the derivative of either is the other one, run backwards; so it is an operation of its own
 * and all orders of derivatives close.
 *
 * Sums of f32 run in f64. A long row is summed in chunks first, whose sums are then where each
 * chunk starts from, so that threads can share one row; chunks depend on the shape alone. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"

#include <string.h>

extern const ad_op ad_op_cumsum, ad_op_cumprod, ad_op_recurrence;

enum { TILE = 64, CHUNK = 16384 };

typedef enum kind {
    SUM, SUM_EXCLUSIVE, PRODUCT, PRODUCT_EXCLUSIVE, RECURRENCE, RECURRENCE_LATE
} kind;

typedef struct settings {
    int axis;
    uint32_t exclusive, reverse; // recurrence: exclusive means late
} settings;

/* ---- kernels */

#define ALWAYS static inline __attribute__((always_inline))

// SCAN does up to TILE columns, n steps, for a kind known at compile time; carry holds what comes
// before. RUN picks the kind. T: element, A: what accumulates.
#define DEFINE_SCAN(SCAN, RUN, T, A)                                                      \
    ALWAYS void SCAN(kind k, const T *a, const T *x, int64_t n, int64_t step,             \
                     int64_t columns, A *carry, T *y) {                                   \
        for (int64_t i = 0; i < n; i++)                                                   \
            for (int64_t j = 0; j < columns; j++) {                                       \
                A value = (A)x[i * step + j], before = carry[j];                          \
                A factor = k >= RECURRENCE ? (A)a[i * step + j] : 0;                      \
                A after = k <= SUM_EXCLUSIVE ? before + value                             \
                        : k <= PRODUCT_EXCLUSIVE ? before * value                         \
                        : k == RECURRENCE ? value + factor * before : value + before;     \
                bool exclusive = k == SUM_EXCLUSIVE || k == PRODUCT_EXCLUSIVE;            \
                y[i * step + j] = (T)(exclusive ? before : after);                        \
                carry[j] = k == RECURRENCE_LATE ? factor * after : after;                 \
            }                                                                             \
    }                                                                                     \
    static void RUN(kind k, const void *a, const void *x, int64_t n, int64_t step,        \
                    int64_t columns, double start, void *y) {                             \
        A carry[TILE];                                                                    \
        for (int64_t j = 0; j < columns; j++) carry[j] = (A)start;                        \
        if (columns == 1 && k == SUM) { /* the common one, its carry in a register */     \
            SCAN(SUM, a, x, n, step, 1, carry, y);                                        \
            return;                                                                       \
        }                                                                                 \
        switch (k) {                                                                      \
        case SUM: SCAN(SUM, a, x, n, step, columns, carry, y); break;                     \
        case SUM_EXCLUSIVE: SCAN(SUM_EXCLUSIVE, a, x, n, step, columns, carry, y); break; \
        case PRODUCT: SCAN(PRODUCT, a, x, n, step, columns, carry, y); break;             \
        case PRODUCT_EXCLUSIVE:                                                           \
            SCAN(PRODUCT_EXCLUSIVE, a, x, n, step, columns, carry, y);                    \
            break;                                                                        \
        case RECURRENCE: SCAN(RECURRENCE, a, x, n, step, columns, carry, y); break;       \
        default: SCAN(RECURRENCE_LATE, a, x, n, step, columns, carry, y);                 \
        }                                                                                 \
    }

DEFINE_SCAN(scan_f32, run_f32, float, double)
DEFINE_SCAN(scan_f64, run_f64, double, double)
DEFINE_SCAN(scan_u32, run_u32, uint32_t, uint32_t)

typedef struct job {
    kind kind;
    const char *a, *x;
    char *y;
    ad_type type;
    ad_along along;
    bool reverse;
    int64_t tiles, chunks;
    double *start;         // (outer, chunks): chunked rows only
} job;

static void run(const job *j, int64_t at, int64_t n, int64_t columns, double start) {
    int64_t step = j->reverse ? -j->along.inner : j->along.inner;
    int64_t offset = at * (j->type == AD_F64 ? 8 : 4);
    (j->type == AD_F32 ? run_f32 : j->type == AD_F64 ? run_f64 : run_u32)(
        j->kind, j->a + offset, j->x + offset, n, step, columns, start, j->y + offset);
}

// Tasks are (outer, tile of inner).
static void scan_tiles(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    int64_t inner = j->along.inner, n = j->along.size;
    for (int64_t task = first; task < last; task++) {
        int64_t column = task % j->tiles * TILE, outer = task / j->tiles;
        int64_t at = (outer * n + (j->reverse ? n - 1 : 0)) * inner + column;
        bool product = j->kind == PRODUCT || j->kind == PRODUCT_EXCLUSIVE;
        run(j, at, n, inner - column < TILE ? inner - column : TILE, product);
    }
}

// Sums of long rows. Tasks are (outer, chunk); chunks count from where the scan begins.
static int64_t chunk_of(const job *j, int64_t task, int64_t *low) {
    int64_t n = j->along.size, first = task % j->chunks * CHUNK;
    int64_t count = n - first < CHUNK ? n - first : CHUNK;
    *low = task / j->chunks * n + (j->reverse ? n - first - count : first);
    return count;
}

static void sum_chunks(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    for (int64_t task = first; task < last; task++) {
        int64_t low, n = chunk_of(j, task, &low), i = 0;
        double lane[8] = {0};
        if (j->type == AD_F32) {
            const float *x = (const float *)j->x + low;
            for (; i + 8 <= n; i += 8)
                for (int k = 0; k < 8; k++) lane[k] += (double)x[i + k];
            for (; i < n; i++) lane[0] += (double)x[i];
        } else {
            const double *x = (const double *)j->x + low;
            for (; i + 8 <= n; i += 8)
                for (int k = 0; k < 8; k++) lane[k] += x[i + k];
            for (; i < n; i++) lane[0] += x[i];
        }
        for (int k = 1; k < 8; k++) lane[0] += lane[k];
        j->start[task] = lane[0];
    }
}

static void scan_chunks(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    for (int64_t task = first; task < last; task++) {
        int64_t low, n = chunk_of(j, task, &low);
        run(j, j->reverse ? low + n - 1 : low, n, 1, j->start[task]);
    }
}

// How many chunks a row is cut into; 1: not at all.
static int64_t chunks_of(const ad_view *x, int axis, bool sum) {
    ad_along along = ad_along_axis(x, axis);
    if (!sum || along.inner != 1 || !ad_type_is_real(x->type)) return 1;
    return along.size > CHUNK ? (along.size + CHUNK - 1) / CHUNK : 1;
}

static void scan(const ad_launch *l, kind k, const ad_view *a, const ad_view *x) {
    const settings *set = l->attributes;
    job j = {.kind = k, .a = a->data, .x = x->data, .y = l->output[0].data, .type = x->type,
             .along = ad_along_axis(x, set->axis), .reverse = set->reverse,
             .chunks = chunks_of(x, set->axis, k <= SUM_EXCLUSIVE), .start = l->workspace};
    int64_t count = ad_view_count(x);
    j.tiles = (j.along.inner + TILE - 1) / TILE;
    if (count == 0) return;
    if (j.chunks == 1) {
        ad_parallel(l->threads, 4 * count, j.along.outer * j.tiles, scan_tiles, &j);
        return;
    }
    ad_parallel(l->threads, count, j.along.outer * j.chunks, sum_chunks, &j);
    for (int64_t row = 0; row < j.along.outer; row++) {
        double sum = 0;
        for (int64_t i = 0; i < j.chunks; i++) {
            double chunk = j.start[row * j.chunks + i];
            j.start[row * j.chunks + i] = sum;
            sum += chunk;
        }
    }
    ad_parallel(l->threads, 4 * count, j.along.outer * j.chunks, scan_chunks, &j);
}

static void cumsum_cpu(const ad_launch *l) {
    scan(l, SUM + ((const settings *)l->attributes)->exclusive, &l->input[0], &l->input[0]);
}

static void cumprod_cpu(const ad_launch *l) {
    scan(l, PRODUCT + ((const settings *)l->attributes)->exclusive, &l->input[0], &l->input[0]);
}

static void recurrence_cpu(const ad_launch *l) {
    scan(l, RECURRENCE + ((const settings *)l->attributes)->exclusive, &l->input[0], &l->input[1]);
}

/* ---- shapes */

static bool axis_valid(ad_infer *call) {
    const settings *set = call->attributes;
    call->output[0] = call->input[0];
    if (set->axis >= 0 && set->axis < call->input[0].rank) return true;
    ad_infer_fail(call, "there is no axis %d in a tensor of rank %d", set->axis,
                  call->input[0].rank);
    return false;
}

static void cumsum_infer(ad_infer *call) {
    call->saved_inputs = call->saved_outputs = 0;
    if (!axis_valid(call)) return;
    const settings *set = call->attributes;
    const ad_view *x = &call->input[0];
    int64_t chunks = chunks_of(x, set->axis, true);
    if (chunks > 1)
        call->workspace = (size_t)(ad_view_count(x) / x->size[set->axis] * chunks) * sizeof(double);
}

static void cumprod_infer(ad_infer *call) {
    call->saved_inputs = 1, call->saved_outputs = 0;
    axis_valid(call);
}

static void recurrence_infer(ad_infer *call) {
    call->saved_inputs = 1, call->saved_outputs = 1;
    if (!axis_valid(call)) return;
    if (ad_view_same_shape(&call->input[0], &call->input[1])
        && call->input[0].type == call->input[1].type)
        return;
    char a[160], b[160];
    ad_view_text(&call->input[0], a, sizeof a), ad_view_text(&call->input[1], b, sizeof b);
    ad_infer_fail(call, "the factors are %s, the terms %s: they must agree", a, b);
}

static void scan_cost(const ad_infer *call, double *flops, double *bytes) {
    double count = (double)ad_view_count(&call->input[0]);
    *flops = count * call->inputs;
    *bytes = count * (call->inputs + 1) * (double)ad_type_bytes(call->input[0].type);
}

/* ---- derivatives */

// h_i = b_i + a_i h_{i-1}; late: a_{i-1}.
static ad_tensor recurrence(ad_context *ctx, ad_tensor a, ad_tensor b, int axis, bool late,
                            bool reverse) {
    settings set = {axis, late, reverse};
    return ad_apply1(ctx, &ad_op_recurrence, 2, (ad_tensor[]){a, b}, &set);
}

// x moved one step along the scan: y_i = x_{i-1}, y_0 = first. reverse: the other way.
static ad_tensor shifted(ad_context *ctx, ad_tensor x, int axis, bool reverse, double first) {
    int64_t n = ad_shape_of(ctx, x).size[axis];
    if (n == 0) return x;
    x = ad_slice(ctx, x, axis, reverse ? 1 : 0, reverse ? n : n - 1, 1);
    return ad_pad(ctx, x, axis, reverse ? 0 : 1, reverse ? 1 : 0, first);
}

static void cumsum_vjp(ad_vjp *call) {
    const settings *set = call->attributes;
    call->dx[0] = ad_cumsum(call->ctx, call->dy[0], set->axis, set->exclusive, !set->reverse);
}

// With an exclusive product, y_{i+1} takes the place of y_i.
static void cumprod_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    const settings *set = call->attributes;
    ad_tensor x = call->input[0], dy = call->dy[0];
    if (set->exclusive) dy = shifted(ctx, dy, set->axis, !set->reverse, 0);
    ad_tensor before = ad_cumprod(ctx, x, set->axis, true, set->reverse);
    ad_tensor behind = recurrence(ctx, x, dy, set->axis, true, !set->reverse);
    call->dx[0] = ad_mul(ctx, before, behind);
}

// y_i = x_i y_{i-1}: its tangent is dx_i y_{i-1} + x_i dy_{i-1}.
static void cumprod_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    const settings *set = call->attributes;
    ad_tensor x = call->input[0];
    ad_tensor before = ad_cumprod(ctx, x, set->axis, true, set->reverse);
    ad_tensor terms = ad_mul(ctx, call->dx[0], before);
    ad_tensor dy = recurrence(ctx, x, terms, set->axis, false, set->reverse);
    call->dy[0] = set->exclusive ? shifted(ctx, dy, set->axis, set->reverse, 0) : dy;
}

// g, the cotangent of the terms, runs backwards; that of a_i is g_i h_{i-1}, late g_{i+1} h_i.
static void recurrence_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    const settings *set = call->attributes;
    bool late = set->exclusive, back = !set->reverse;
    ad_tensor h = call->output[0];
    ad_tensor g = recurrence(ctx, call->input[0], call->dy[0], set->axis, !late, back);
    if (call->wanted & 2) call->dx[1] = g;
    if (!(call->wanted & 1)) return;
    if (late) g = shifted(ctx, g, set->axis, back, 0);
    else h = shifted(ctx, h, set->axis, set->reverse, 0);
    call->dx[0] = ad_mul(ctx, g, h);
}

static void recurrence_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    const settings *set = call->attributes;
    ad_tensor terms = call->dx[1];
    if (call->dx[0].slot) {
        // da_i h_{i-1}, late da_{i-1} h_{i-1}, joins the terms' tangent.
        ad_tensor h = call->output[0], more;
        if (set->exclusive)
            more = shifted(ctx, ad_mul(ctx, call->dx[0], h), set->axis, set->reverse, 0);
        else
            more = ad_mul(ctx, call->dx[0], shifted(ctx, h, set->axis, set->reverse, 0));
        terms = terms.slot ? ad_add(ctx, terms, more) : more;
    }
    if (terms.slot)
        call->dy[0] = recurrence(ctx, call->input[0], terms, set->axis, set->exclusive,
                                 set->reverse);
}

/* ---- public */

ad_tensor ad_cumsum(ad_context *ctx, ad_tensor x, int axis, bool exclusive, bool reverse) {
    settings set = {ad_axis_from_front(ctx, "cumsum", x, axis), exclusive, reverse};
    return ad_apply1(ctx, &ad_op_cumsum, 1, &x, &set);
}

ad_tensor ad_cumprod(ad_context *ctx, ad_tensor x, int axis, bool exclusive, bool reverse) {
    settings set = {ad_axis_from_front(ctx, "cumprod", x, axis), exclusive, reverse};
    return ad_apply1(ctx, &ad_op_cumprod, 1, &x, &set);
}

/* ---- for the test harness */

// All four flags, on the first and the last axis in turn.
static bool scan_sample(ad_sample *s) {
    int v = s->variant;
    settings set = {v & 1 ? s->shape.rank - 1 : 0, v & 1, v >> 1 & 1};
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -1.5, s->input[0].high = 1.5;
    memcpy(s->attributes.bytes, &set, sizeof set);
    return v < 4 && s->shape.rank > 0;
}

static bool recurrence_sample(ad_sample *s) {
    bool has = scan_sample(s);
    s->inputs = 2, s->input[1] = s->input[0];
    s->input[0].low = -1, s->input[0].high = 1;
    return has;
}

const ad_op ad_op_cumsum = {
    .name = "cumsum", .inputs_min = 1, .inputs_max = 1, .outputs = 1, .flags = AD_OP_LINEAR,
    .attribute_bytes = sizeof(settings), .infer = cumsum_infer, .cpu = cumsum_cpu,
    .vulkan = "scan", .vjp = cumsum_vjp, .cost = scan_cost, .sample = scan_sample};

const ad_op ad_op_cumprod = {
    .name = "cumprod", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .attribute_bytes = sizeof(settings), .infer = cumprod_infer, .cpu = cumprod_cpu,
    .vulkan = "scan", .vjp = cumprod_vjp, .jvp = cumprod_jvp, .cost = scan_cost,
    .sample = scan_sample,
    .exempt = "infinity: the kernel multiplies a zero by every operand it passes"};

const ad_op ad_op_recurrence = {
    .name = "recurrence", .inputs_min = 2, .inputs_max = 2, .outputs = 1,
    .attribute_bytes = sizeof(settings), .infer = recurrence_infer, .cpu = recurrence_cpu,
    .vulkan = "scan", .vjp = recurrence_vjp, .jvp = recurrence_jvp, .cost = scan_cost,
    .sample = recurrence_sample,
    .exempt = "infinity: the kernel multiplies a zero by every operand it passes"};
