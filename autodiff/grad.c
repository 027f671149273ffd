/* ad_grad and ad_grad_add: what may be asked of a gradient, before gradient.c walks the tape. */
#include "autodiff/core.h"

// The cotangent of y: given, or 1 for a scalar.
static bool seed_of(ad_context *ctx, ad_tensor y, ad_tensor *dy, const char *who) {
    const ad_record *record = ad_record_of(ctx, y, who);
    if (!record) return false;
    if (!(record->flags & AD_REC_TRACKED)) {
        ad_raise(ctx, "%s: y derives from no parameter and no watched tensor", who);
        return false;
    }
    if (dy->slot) {
        const ad_record *given = ad_record_of(ctx, *dy, who);
        if (!given) return false;
        ad_view a, b;
        ad_record_view(record, &a), ad_record_view(given, &b);
        if (ad_view_same_shape(&a, &b) && a.type == b.type) return true;
        ad_raise(ctx, "%s: the cotangent has another shape or type than y", who);
        return false;
    }
    if (ad_record_count(record) != 1) {
        ad_raise(ctx, "%s: y has %lld elements: give a cotangent, or reduce it to a scalar", who,
                 (long long)ad_record_count(record));
        return false;
    }
    *dy = ad_full(ctx, (ad_type)record->type, ad_shape_of(ctx, y), 1.0);
    return dy->slot;
}

bool ad_grad(ad_context *ctx, ad_tensor y, ad_tensor dy, int n, const ad_tensor *xs,
             ad_tensor *dxs, unsigned flags) {
    for (int i = 0; i < n; i++) dxs[i] = (ad_tensor){0};
    if (!ad_ready(ctx) || !seed_of(ctx, y, &dy, "ad_grad")) return false;
    return ad_grad_many(ctx, 1, &y, &dy, n, xs, dxs, false, flags);
}

bool ad_grad_add(ad_context *ctx, ad_tensor y, int n, const ad_tensor *parameters,
                 unsigned flags) {
    ad_tensor dy = {0};
    if (!ad_ready(ctx) || !seed_of(ctx, y, &dy, "ad_grad_add")) return false;
    for (int i = 0; i < n; i++) // made before the sweep, which must find their slots in place
        if (!ad_gradient_for(ctx, parameters[i], "ad_grad_add").slot) return false;
    if (!(flags & AD_GRAD_KEEP)) flags |= AD_GRAD_RELEASE;
    return ad_grad_many(ctx, 1, &y, &dy, n, parameters, NULL, true,
                        flags & ~(unsigned)AD_GRAD_RECORD);
}
