/* Views: reshape, permute, transpose, broadcast, slice. They move no bytes.
 *
 * Each rule of shapes (`infer`) computes the strides of its result from those of its operand and
 * where it starts, both in elements. Only reshape can fail to find strides: it then asks the core
 * to pack the operand first. All five are linear, so the forward mode is the operation itself; in
 * reverse, reshape undoes itself, permute applies the inverse permutation, broadcast sums, and a
 * slice pads with zeros, after setting zeros between its elements where its step is not 1.
 *
 * Attributes are kept small, because each recorded view has a copy of them. */
#include "autodiff/autodiff.h"
#include "autodiff/ops/axes.h"

#include <string.h>

extern const ad_op ad_op_reshape, ad_op_permute, ad_op_broadcast, ad_op_slice;

typedef struct sizes {          // of the result; NO_AXIS past its rank
    uint32_t size[AD_RANK_MAX];
} sizes;

typedef struct axes_list {
    int8_t axis[8];
} axes_list;

typedef struct slice_range {
    int32_t axis, start, stop, step;
} slice_range;

enum { NO_AXIS = 0xffffffffu };

static sizes sizes_of(ad_shape shape) {
    sizes list;
    for (int i = 0; i < AD_RANK_MAX; i++)
        list.size[i] = i < shape.rank ? (uint32_t)shape.size[i] : NO_AXIS;
    return list;
}

static void sizes_to_view(const sizes *list, ad_view *y) {
    y->rank = 0;
    while (y->rank < AD_RANK_MAX && list->size[y->rank] != NO_AXIS) {
        y->size[y->rank] = list->size[y->rank];
        y->rank++;
    }
}

// x seen in a shape that is not its own.
static ad_tensor shaped(ad_context *ctx, const ad_op *op, ad_tensor x, ad_shape shape) {
    if (ad_failed(ctx)) return (ad_tensor){0};
    if (shape.rank < 0 || shape.rank > AD_RANK_MAX) {
        ad_raise(ctx, "%s: the rank must be 0 to %d, not %d", op->name, AD_RANK_MAX, shape.rank);
        return (ad_tensor){0};
    }
    for (int i = 0; i < shape.rank; i++) {
        if (shape.size[i] >= 0 && shape.size[i] <= INT32_MAX) continue;
        ad_raise(ctx, "%s: axis %d of the result would have the size %lld", op->name, i,
                 (long long)shape.size[i]);
        return (ad_tensor){0};
    }
    if (!ad_is_null(x) && ad_shape_same(ad_shape_of(ctx, x), shape)) return x;
    sizes list = sizes_of(shape);
    return ad_apply1(ctx, op, 1, &x, &list);
}

/* ---- reshape */

// Strides of the new shape over the same elements; false where only a copy has them in order.
static bool reshape_strides(const ad_view *x, ad_view *y) {
    int i = 0, j = 0;
    while (i < x->rank || j < y->rank) {
        // Skip axes of one element, then take the shortest runs of axes with equal products.
        while (i < x->rank && x->size[i] == 1) i++;
        while (j < y->rank && y->size[j] == 1) y->stride[j++] = 0;
        if (i == x->rank || j == y->rank) break;
        int64_t a = x->size[i], b = y->size[j];
        int i_end = i + 1, j_end = j + 1;
        while (a != b) {
            if (a < b) a *= x->size[i_end++];
            else b *= y->size[j_end++];
        }
        // Within the run the operand's axes must follow one another in memory.
        int64_t run = x->stride[i_end - 1], packed = run;
        for (int k = i_end - 1; k >= i; k--) {
            if (x->size[k] != 1 && x->stride[k] != packed) return false;
            packed *= x->size[k];
        }
        for (int k = j_end - 1; k >= j; k--) y->stride[k] = run, run *= y->size[k];
        i = i_end, j = j_end;
    }
    return true;
}

static void reshape_infer(ad_infer *call) {
    const ad_view *x = &call->input[0];
    ad_view *y = &call->output[0];
    y->type = x->type;
    sizes_to_view(call->attributes, y);
    call->saved_inputs = call->saved_outputs = 0;
    if (ad_view_count(x) != ad_view_count(y)) {
        char from[160], to[160];
        ad_view_text(x, from, sizeof from), ad_view_text(y, to, sizeof to);
        ad_infer_fail(call, "%s has %lld elements and %s would have %lld", from,
                      (long long)ad_view_count(x), to, (long long)ad_view_count(y));
        return;
    }
    memset(y->stride, 0, sizeof y->stride);
    if (ad_view_count(x) && !reshape_strides(x, y)) call->view_offset = -1;
}

static void reshape_vjp(ad_vjp *call) {
    call->dx[0] = ad_reshape(call->ctx, call->dy[0], ad_shape_of(call->ctx, call->input[0]));
}

ad_tensor ad_reshape(ad_context *ctx, ad_tensor x, ad_shape shape) {
    return shaped(ctx, &ad_op_reshape, x, shape);
}

/* ---- permute */

static void permute_infer(ad_infer *call) {
    const axes_list *list = call->attributes;
    const ad_view *x = &call->input[0];
    ad_view *y = &call->output[0];
    unsigned seen = 0;
    y->type = x->type, y->rank = x->rank;
    call->saved_inputs = call->saved_outputs = 0;
    for (int i = 0; i < x->rank; i++) {
        int axis = list->axis[i];
        if (axis < 0 || axis >= x->rank || seen >> axis & 1) {
            ad_infer_fail(call, "axis %d at place %d is not a permutation of rank %d", axis, i,
                          x->rank);
            return;
        }
        seen |= 1u << axis;
        y->size[i] = x->size[axis], y->stride[i] = x->stride[axis];
    }
}

static void permute_vjp(ad_vjp *call) {
    const axes_list *list = call->attributes;
    int back[AD_RANK_MAX] = {0}, rank = ad_shape_of(call->ctx, call->dy[0]).rank;
    for (int i = 0; i < rank; i++) back[list->axis[i]] = i;
    call->dx[0] = ad_permute(call->ctx, call->dy[0], back);
}

ad_tensor ad_permute(ad_context *ctx, ad_tensor x, const int *axes) {
    axes_list list = {{0}};
    int rank = ad_failed(ctx) || ad_is_null(x) ? 0 : ad_shape_of(ctx, x).rank;
    for (int i = 0; i < rank; i++)
        list.axis[i] = (int8_t)(axes[i] < -1 ? -1 : axes[i] > 127 ? 127 : axes[i]);
    return ad_apply1(ctx, &ad_op_permute, 1, &x, &list);
}

ad_tensor ad_transpose(ad_context *ctx, ad_tensor x) {
    int axes[AD_RANK_MAX] = {0, 1, 2, 3, 4, 5};
    int rank = ad_failed(ctx) || ad_is_null(x) ? 2 : ad_shape_of(ctx, x).rank;
    if (rank < 2) {
        ad_raise(ctx, "transpose: the tensor has rank %d, at least 2 is needed", rank);
        return (ad_tensor){0};
    }
    axes[rank - 2] = rank - 1, axes[rank - 1] = rank - 2;
    return ad_permute(ctx, x, axes);
}

/* ---- broadcast */

static void broadcast_infer(ad_infer *call) {
    const ad_view *x = &call->input[0];
    ad_view *y = &call->output[0];
    y->type = x->type;
    sizes_to_view(call->attributes, y);
    int added = y->rank - x->rank;
    call->saved_inputs = call->saved_outputs = 0;
    for (int i = 0; i < y->rank; i++) {
        int own = i - added;
        bool fixed = own >= 0 && x->size[own] == y->size[i];
        if (added < 0 || (own >= 0 && !fixed && x->size[own] != 1)) break;
        y->stride[i] = fixed ? x->stride[own] : 0;
        if (i + 1 == y->rank) return;
    }
    if (y->rank == 0 && x->rank == 0) return;
    char from[160], to[160];
    ad_view_text(x, from, sizeof from), ad_view_text(y, to, sizeof to);
    ad_infer_fail(call, "%s does not stretch to %s: only axes of size 1 and new ones in front do",
                  from, to);
}

static void broadcast_vjp(ad_vjp *call) {
    call->dx[0] = ad_sum_to(call->ctx, call->dy[0], ad_shape_of(call->ctx, call->input[0]));
}

ad_tensor ad_broadcast(ad_context *ctx, ad_tensor x, ad_shape shape) {
    return shaped(ctx, &ad_op_broadcast, x, shape);
}

/* ---- slice */

static int64_t slice_count(const slice_range *range) {
    int64_t span = (int64_t)range->stop - range->start, step = range->step;
    if (step < 0) span = -span, step = -step;
    return span > 0 ? (span - 1) / step + 1 : 0;
}

static void slice_infer(ad_infer *call) {
    const slice_range *range = call->attributes;
    const ad_view *x = &call->input[0];
    ad_view *y = &call->output[0];
    call->saved_inputs = call->saved_outputs = 0;
    if (range->axis < 0 || range->axis >= x->rank) {
        ad_infer_fail(call, "there is no axis %d in a tensor of rank %d", range->axis, x->rank);
        return;
    }
    // Forwards a range lies in 0 ... size, backwards in size-1 ... -1.
    int64_t size = x->size[range->axis], low = range->step > 0 ? 0 : -1, high = size + low;
    int64_t step = range->step;
    if (step == 0) {
        ad_infer_fail(call, "the step must not be 0");
        return;
    }
    if (range->start < low || range->start > high || range->stop < low || range->stop > high) {
        ad_infer_fail(call, "%d to %d leaves axis %d of size %lld", range->start, range->stop,
                      range->axis, (long long)size);
        return;
    }
    *y = *x;
    y->size[range->axis] = slice_count(range);
    y->stride[range->axis] *= step;
    // Where the operand itself runs backwards this is negative, and the core packs it first.
    call->view_offset = y->size[range->axis] ? range->start * x->stride[range->axis] : 0;
}

// Sets step - 1 zeros behind each element of an axis, through (outer, n, 1, inner).
static ad_tensor spread(ad_context *ctx, ad_tensor x, int axis, int64_t step) {
    ad_shape shape = ad_shape_of(ctx, x);
    int64_t n = shape.size[axis], outer = 1, inner = 1;
    for (int i = 0; i < axis; i++) outer *= shape.size[i];
    for (int i = axis + 1; i < shape.rank; i++) inner *= shape.size[i];
    x = ad_reshape(ctx, x, AD_SHAPE(outer, n, 1, inner));
    x = ad_pad(ctx, x, 2, 0, step - 1, 0);
    shape.size[axis] = n * step;
    return ad_reshape(ctx, x, shape);
}

static void slice_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    slice_range range = *(const slice_range *)call->attributes;
    int32_t n = (int32_t)slice_count(&range);
    int64_t size = ad_shape_of(ctx, call->input[0]).size[range.axis];
    if (n == 0) return;
    ad_tensor dx = call->dy[0];
    // Backwards ranges are turned round first; a single element needs no step.
    if (range.step < 0) {
        if (n > 1) dx = ad_slice(ctx, dx, range.axis, n - 1, -1, -1);
        range.start += (n - 1) * range.step, range.step = -range.step;
    }
    if (n == 1) range.step = 1;
    if (range.step > 1) {
        dx = spread(ctx, dx, range.axis, range.step);
        dx = ad_slice(ctx, dx, range.axis, 0, (int64_t)(n - 1) * range.step + 1, 1);
    }
    int64_t end = range.start + (int64_t)(n - 1) * range.step + 1;
    call->dx[0] = ad_pad(ctx, dx, range.axis, range.start, size - end, 0);
}

ad_tensor ad_slice(ad_context *ctx, ad_tensor x, int axis, int64_t start, int64_t stop,
                   int64_t step) {
    const int64_t given[3] = {start, stop, step};
    for (int i = 0; i < 3; i++) {
        if (given[i] >= -INT32_MAX && given[i] <= INT32_MAX) continue;
        ad_raise(ctx, "slice: no axis has the place %lld", (long long)given[i]);
        return (ad_tensor){0};
    }
    slice_range range = {ad_axis_from_front(ctx, "slice", x, axis), (int32_t)start,
                         (int32_t)stop, (int32_t)step};
    return ad_apply1(ctx, &ad_op_slice, 1, &x, &range);
}

/* ---- for the test harness */

static void wish(ad_sample *s) {
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
}

// To one axis; to the axes in reverse order; with axes of size 1 around.
static bool reshape_sample(ad_sample *s) {
    ad_shape shape = s->shape;
    wish(s);
    if (s->variant == 0) {
        shape = AD_SHAPE(ad_shape_count(s->shape));
    } else if (s->variant == 1) {
        for (int i = 0; i < shape.rank; i++) shape.size[i] = s->shape.size[shape.rank - 1 - i];
    } else {
        if (s->variant > 2 || shape.rank > AD_RANK_MAX - 2) return false;
        shape.rank += 2;
        shape.size[0] = 1, shape.size[shape.rank - 1] = 1;
        for (int i = 0; i < s->shape.rank; i++) shape.size[i + 1] = s->shape.size[i];
    }
    sizes list = sizes_of(shape);
    memcpy(s->attributes.bytes, &list, sizeof list);
    return true;
}

// Rotated to the left; reversed.
static bool permute_sample(ad_sample *s) {
    axes_list list = {{0}};
    int rank = s->shape.rank;
    wish(s);
    for (int i = 0; i < rank; i++)
        list.axis[i] = (int8_t)(s->variant ? rank - 1 - i : (i + 1) % rank);
    memcpy(s->attributes.bytes, &list, sizeof list);
    return s->variant < 2;
}

// The wish is the result: from its last axes, from size-1 axes, from a scalar.
static bool broadcast_sample(ad_sample *s) {
    wish(s);
    ad_shape *from = &s->input[0].shape;
    if (s->variant == 0) {
        for (int i = 0; i < from->rank; i += 2) from->size[i] = 1;
    } else if (s->variant == 1) {
        if (from->rank == 0) return false;
        from->rank--;
        for (int i = 0; i < from->rank; i++) from->size[i] = s->shape.size[i + 1];
    } else {
        from->rank = 0;
    }
    sizes list = sizes_of(s->shape);
    memcpy(s->attributes.bytes, &list, sizeof list);
    return s->variant < 3;
}

// Inner part; every second one; backwards, whole and with a step.
static bool slice_sample(ad_sample *s) {
    wish(s);
    if (s->shape.rank == 0 || s->variant > 3) return false;
    int axis = s->variant % s->shape.rank;
    int32_t n = (int32_t)s->shape.size[axis];
    int32_t start[] = {n / 3, 0, n - 1, n - 1}, stop[] = {n - n / 4, n, -1, n / 3 - 1};
    int32_t step[] = {1, 2, -1, -3};
    slice_range range = {axis, start[s->variant], stop[s->variant], step[s->variant]};
    memcpy(s->attributes.bytes, &range, sizeof range);
    return true;
}

const ad_op ad_op_reshape = {
    .name = "reshape", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_VIEW, .attribute_bytes = sizeof(sizes),
    .infer = reshape_infer, .vjp = reshape_vjp, .sample = reshape_sample};

const ad_op ad_op_permute = {
    .name = "permute", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_VIEW, .attribute_bytes = sizeof(axes_list),
    .infer = permute_infer, .vjp = permute_vjp, .sample = permute_sample};

const ad_op ad_op_broadcast = {
    .name = "broadcast", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_VIEW, .attribute_bytes = sizeof(sizes),
    .infer = broadcast_infer, .vjp = broadcast_vjp, .sample = broadcast_sample};

const ad_op ad_op_slice = {
    .name = "slice", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_LINEAR | AD_OP_VIEW, .attribute_bytes = sizeof(slice_range),
    .infer = slice_infer, .vjp = slice_vjp, .sample = slice_sample};
