/* axes.h: what the files of shape, reduction, scan and selection operations share.
 *
 * Public functions take an axis from the front (0 ...) or from the back (-1 ...); attributes always
 * hold the one from the front. A tensor seen along one axis is (outer, size, inner). */
#ifndef ADJOINT_OPS_AXES_H
#define ADJOINT_OPS_AXES_H

#include "autodiff/autodiff.h"

// The axis from the front, or -1 and an error.
static inline int ad_axis_from_front(ad_context *ctx, const char *who, ad_tensor x, int axis) {
    if (ad_is_null(x) || ad_failed(ctx)) return 0; // ad_apply reports it
    int rank = ad_shape_of(ctx, x).rank;
    if (axis >= -rank && axis < rank) return axis < 0 ? axis + rank : axis;
    ad_raise(ctx, "%s: there is no axis %d in a tensor of rank %d", who, axis, rank);
    return -1;
}

// For a mask of axes: false and an error where one reaches beyond the tensor.
static inline bool ad_axes_exist(ad_context *ctx, const char *who, unsigned axes, int rank) {
    int axis = rank;
    if (axes == AD_ALL_AXES || axes >> rank == 0) return true;
    while (!(axes >> axis & 1)) axis++;
    ad_raise(ctx, "%s: there is no axis %d in a tensor of rank %d (AD_AXIS counts from the front)",
             who, axis, rank);
    return false;
}

// The sizes before, at and behind an axis.
typedef struct ad_along {
    int64_t outer, size, inner;
} ad_along;

static inline ad_along ad_along_axis(const ad_view *x, int axis) {
    ad_along along = {1, x->size[axis], 1};
    for (int i = 0; i < axis; i++) along.outer *= x->size[i];
    for (int i = axis + 1; i < x->rank; i++) along.inner *= x->size[i];
    return along;
}

static inline bool ad_type_is_real(ad_type type) { return type != AD_I32 && type != AD_U32; }

static inline int64_t ad_shape_count(ad_shape shape) {
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    return count;
}

static inline bool ad_shape_same(ad_shape a, ad_shape b) {
    bool same = a.rank == b.rank;
    for (int i = 0; same && i < a.rank; i++) same = a.size[i] == b.size[i];
    return same;
}

#endif
