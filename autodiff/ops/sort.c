/* sort and compact: bringing elements into order, and the set ones of a mask to the front.
 *
 * sort works along the last axis; other axes are brought there by views. Every element becomes an
 * unsigned key that sorts as the numbers do, with -0 equal to 0 and every NaN at the very end
 * whichever the direction, and keys are sorted with their positions by digits, lowest first, which
 * is stable. The sorted values are a gather by the order, which is also the derivative.
 *
 * compact counts blocks of the mask first, so that each block knows where its positions go. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"

#include <string.h>

extern const ad_op ad_op_sort, ad_op_compact;

enum { SLOTS = 16, SHORT = 48, BLOCK = 16384 };

typedef struct item {
    uint64_t key;
    uint32_t index;
} item;

/* ---- sort: the kernel */

// Ascending keys in ascending order of the numbers; descending turns them round, but not NaN.
static uint64_t key_of(const ad_view *x, int64_t i, bool descending) {
    uint64_t key, top = x->type == AD_F64 ? (uint64_t)1 << 63 : (uint64_t)1 << 31;
    uint64_t all = top | (top - 1);
    if (x->type == AD_F32) {
        uint32_t bits;
        float value = ((const float *)x->data)[i];
        if (value != value) return all;
        value = value == 0 ? 0 : value;
        memcpy(&bits, &value, sizeof bits);
        key = bits;
        key = key & top ? ~key & all : key | top;
    } else if (x->type == AD_F64) {
        double value = ((const double *)x->data)[i];
        if (value != value) return all;
        value = value == 0 ? 0 : value;
        memcpy(&key, &value, sizeof key);
        key = key & top ? ~key : key | top;
    } else {
        key = ((const uint32_t *)x->data)[i];
        if (x->type == AD_I32) key ^= top;
    }
    return descending ? ~key & all : key;
}

static void insertion_sort(item *a, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        item moved = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1].key > moved.key; j--) a[j] = a[j - 1];
        a[j] = moved;
    }
}

// Sorts a by 8-bit digits, between a and b; returns where the result is.
static item *digit_sort(item *a, item *b, int64_t n, int digits) {
    for (int digit = 0; digit < digits; digit++) {
        uint32_t start[257] = {0};
        for (int64_t i = 0; i < n; i++) start[(a[i].key >> 8 * digit & 255) + 1]++;
        if (start[(a[0].key >> 8 * digit & 255) + 1] == n) continue; // all the same
        for (int i = 0; i < 256; i++) start[i + 1] += start[i];
        for (int64_t i = 0; i < n; i++) b[start[a[i].key >> 8 * digit & 255]++] = a[i];
        item *swap = a;
        a = b, b = swap;
    }
    return a;
}

// Tasks are slots of the workspace; a slot sorts every SLOTS-th row.
static void sort_slots(const void *user, int64_t first, int64_t last) {
    const ad_launch *l = user;
    const ad_view *x = &l->input[0];
    bool descending = *(const int *)l->attributes;
    int64_t n = x->size[x->rank - 1], rows = ad_view_count(x) / n;
    for (int64_t slot = first; slot < last; slot++) {
        item *a = (item *)l->workspace + slot * 2 * n;
        for (int64_t row = slot; row < rows; row += SLOTS) {
            int64_t at = row * n;
            item *sorted = a;
            for (int64_t i = 0; i < n; i++)
                a[i] = (item){key_of(x, at + i, descending), (uint32_t)i};
            if (n <= SHORT) insertion_sort(a, n);
            else sorted = digit_sort(a, a + n, n, x->type == AD_F64 ? 8 : 4);
            int32_t *order = (int32_t *)l->output[1].data + at;
            for (int64_t i = 0; i < n; i++) order[i] = (int32_t)sorted[i].index;
            if (x->type == AD_F64) {
                const double *from = (const double *)x->data + at;
                double *to = (double *)l->output[0].data + at;
                for (int64_t i = 0; i < n; i++) to[i] = from[order[i]];
            } else {
                const uint32_t *from = (const uint32_t *)x->data + at;
                uint32_t *to = (uint32_t *)l->output[0].data + at;
                for (int64_t i = 0; i < n; i++) to[i] = from[order[i]];
            }
        }
    }
}

static int64_t slots_of(const ad_view *x) {
    int64_t n = x->size[x->rank - 1], rows = n ? ad_view_count(x) / n : 0;
    return rows < SLOTS ? rows : SLOTS;
}

static void sort_cpu(const ad_launch *l) {
    const ad_view *x = &l->input[0];
    ad_parallel(l->threads, 16 * ad_view_count(x), slots_of(x), sort_slots, l);
}

static void sort_infer(ad_infer *call) {
    const ad_view *x = &call->input[0];
    call->output[0] = call->output[1] = *x;
    call->output[1].type = AD_I32;
    call->saved_inputs = 0, call->saved_outputs = 2;
    if (x->rank == 0) {
        ad_infer_fail(call, "there is no axis in a scalar");
        return;
    }
    call->workspace = (size_t)(slots_of(x) * x->size[x->rank - 1]) * 2 * sizeof(item);
}

static void sort_cost(const ad_infer *call, double *flops, double *bytes) {
    double count = (double)ad_view_count(&call->input[0]);
    *flops = 0;
    *bytes = count * (2 * (double)ad_type_bytes(call->input[0].type) + 4 + 8 * sizeof(item));
}

/* ---- sort: derivatives */

// The order of all rows as one index into the flat tensor.
static ad_tensor flat_order(ad_context *ctx, ad_tensor order) {
    ad_shape shape = ad_shape_of(ctx, order);
    int64_t count = ad_shape_count(shape), n = shape.size[shape.rank - 1];
    order = ad_reshape(ctx, order, AD_SHAPE(count));
    if (count == n) return order;
    order = ad_reshape(ctx, order, AD_SHAPE(count / n, n));
    ad_tensor row = ad_reshape(ctx, ad_range(ctx, AD_I32, count / n), AD_SHAPE(count / n, 1));
    row = ad_mul(ctx, row, ad_scalar(ctx, AD_I32, (double)n));
    return ad_reshape(ctx, ad_add(ctx, order, row), AD_SHAPE(count));
}

static void sort_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    if (!call->dy[0].slot) return;
    ad_shape shape = ad_shape_of(ctx, call->input[0]);
    int64_t count = ad_shape_count(shape);
    if (count == 0) return;
    ad_tensor dy = ad_reshape(ctx, call->dy[0], AD_SHAPE(count));
    ad_tensor dx = ad_scatter_add(ctx, dy, flat_order(ctx, call->output[1]), 0, count);
    call->dx[0] = ad_reshape(ctx, dx, shape);
}

static void sort_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    ad_shape shape = ad_shape_of(ctx, call->input[0]);
    int64_t count = ad_shape_count(shape);
    if (count == 0 || !call->dx[0].slot) return;
    ad_tensor dx = ad_reshape(ctx, call->dx[0], AD_SHAPE(count));
    ad_tensor dy = ad_gather(ctx, dx, flat_order(ctx, call->output[1]), 0);
    call->dy[0] = ad_reshape(ctx, dy, shape);
}

void ad_sort(ad_context *ctx, ad_tensor x, int axis, bool descending, ad_tensor *values,
             ad_tensor *order) {
    ad_tensor output[2] = {{0}};
    int order_of_axes[AD_RANK_MAX] = {0, 1, 2, 3, 4, 5}, direction = descending, last = 0;
    axis = ad_axis_from_front(ctx, "sort", x, axis);
    if (!ad_failed(ctx) && !ad_is_null(x)) last = ad_shape_of(ctx, x).rank - 1;
    // Exchanging two axes is its own inverse.
    if (axis >= 0 && last >= 0) order_of_axes[axis] = last, order_of_axes[last] = axis;
    if (axis != last) x = ad_permute(ctx, x, order_of_axes);
    ad_apply(ctx, &ad_op_sort, 1, &x, &direction, output);
    for (int i = 0; i < 2 && axis != last; i++)
        output[i] = ad_permute(ctx, output[i], order_of_axes);
    if (values) *values = output[0];
    if (order) *order = output[1];
}

/* ---- compact */

typedef struct compaction {
    const uint32_t *mask;
    uint32_t *positions, *start; // start: of each block, then of the end
    int64_t n;
} compaction;

static void count_blocks(const void *user, int64_t first, int64_t last) {
    const compaction *c = user;
    for (int64_t block = first; block < last; block++) {
        int64_t end = (block + 1) * BLOCK < c->n ? (block + 1) * BLOCK : c->n;
        uint32_t count = 0;
        for (int64_t i = block * BLOCK; i < end; i++) count += c->mask[i] != 0;
        c->start[block] = count;
    }
}

static void write_blocks(const void *user, int64_t first, int64_t last) {
    const compaction *c = user;
    for (int64_t block = first; block < last; block++) {
        int64_t end = (block + 1) * BLOCK < c->n ? (block + 1) * BLOCK : c->n;
        uint32_t at = c->start[block], stop = c->start[block + 1];
        for (int64_t i = block * BLOCK; i < end && at < stop; i++) {
            c->positions[at] = (uint32_t)i; // overwritten unless it is set
            at += c->mask[i] != 0;
        }
    }
}

static void compact_cpu(const ad_launch *l) {
    int64_t n = l->input[0].size[0], blocks = (n + BLOCK - 1) / BLOCK;
    compaction c = {l->input[0].data, l->output[0].data, l->workspace, n};
    ad_parallel(l->threads, n, blocks, count_blocks, &c);
    uint32_t total = 0;
    for (int64_t i = 0; i < blocks; i++) {
        uint32_t count = c.start[i];
        c.start[i] = total;
        total += count;
    }
    c.start[blocks] = total;
    ad_parallel(l->threads, n, blocks, write_blocks, &c);
    for (int64_t i = total; i < n; i++) c.positions[i] = (uint32_t)n;
    *(uint32_t *)l->output[1].data = total;
}

static void compact_infer(ad_infer *call) {
    const ad_view *mask = &call->input[0];
    call->output[0] = call->output[1] = *mask;
    call->output[1].rank = 0;
    call->saved_inputs = call->saved_outputs = 0;
    if (mask->type != AD_U32 || mask->rank != 1) {
        char text[160];
        ad_view_text(mask, text, sizeof text);
        ad_infer_fail(call, "the mask is %s, u32 (n) is needed", text);
        return;
    }
    call->workspace = (size_t)((mask->size[0] + BLOCK - 1) / BLOCK + 1) * sizeof(uint32_t);
}

static void compact_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 8 * (double)ad_view_count(&call->input[0]);
}

void ad_compact(ad_context *ctx, ad_tensor mask, ad_tensor *positions, ad_tensor *count) {
    ad_tensor output[2] = {{0}};
    ad_apply(ctx, &ad_op_compact, 1, &mask, NULL, output);
    if (positions) *positions = output[0];
    if (count) *count = output[1];
}

/* ---- for the test harness */

static bool sort_sample(ad_sample *s) {
    int direction = s->variant;
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2, s->input[0].distinct = true;
    memcpy(s->attributes.bytes, &direction, sizeof direction);
    return s->variant < 2 && s->shape.rank > 0;
}

static bool compact_sample(ad_sample *s) {
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = 0, s->input[0].high = 1;
    return s->variant == 0 && s->shape.rank == 1 && s->type == AD_U32;
}

const ad_op ad_op_sort = {
    .name = "sort", .inputs_min = 1, .inputs_max = 1, .outputs = 2,
    .attribute_bytes = sizeof(int), .infer = sort_infer, .cpu = sort_cpu, .vulkan = "sort",
    .vjp = sort_vjp, .jvp = sort_jvp, .cost = sort_cost, .sample = sort_sample};

const ad_op ad_op_compact = {
    .name = "compact", .inputs_min = 1, .inputs_max = 1, .outputs = 2,
    .flags = AD_OP_NO_GRADIENT, .infer = compact_infer, .cpu = compact_cpu,
    .vulkan = "compact", .cost = compact_cost, .sample = compact_sample};
