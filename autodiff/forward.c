/* Forward mode, and the derivatives that combine both modes.
 *
 * A dual is a tensor with a tangent beside it; every operation then computes its output's tangent
 * by its jvp rule as it runs, through backward passes too. So a Hessian-vector product is a
 * gradient taken while the point carries the direction as its tangent: forward over reverse. */
#include "autodiff/core.h"

ad_tensor ad_dual(ad_context *ctx, ad_tensor x, ad_tensor tangent) {
    const ad_record *a = ad_record_of(ctx, x, "ad_dual");
    const ad_record *b = a ? ad_record_of(ctx, tangent, "ad_dual") : NULL;
    if (!b) return (ad_tensor){0};
    ad_view primal, direction;
    ad_record_view(a, &primal), ad_record_view(b, &direction);
    if (!ad_view_same_shape(&primal, &direction) || primal.type != direction.type) {
        char have[160], given[160];
        ad_view_text(&primal, have, sizeof have), ad_view_text(&direction, given, sizeof given);
        ad_raise(ctx, "ad_dual: the tensor is %s, its tangent %s", have, given);
        return (ad_tensor){0};
    }
    // The dual stays on the tape where x is on it.
    ctx->quiet++;
    ad_tensor dual = ad_apply1(ctx, &ad_op_identity, 1, &x, NULL);
    ctx->quiet--;
    if (!dual.slot) return dual;
    ad_record_at(ctx, dual.slot)->tangent = tangent.slot;
    ad_record_at(ctx, tangent.slot)->flags |= AD_REC_TANGENT;
    ctx->dual_count++;
    return dual;
}

ad_tensor ad_tangent(ad_context *ctx, ad_tensor y) {
    const ad_record *record = ad_record_of(ctx, y, "ad_tangent");
    return record && record->tangent ? ad_handle(ctx, record->tangent) : (ad_tensor){0};
}

// Row i of the identity, in the shape of x.
static ad_tensor unit(ad_context *ctx, ad_tensor x, int64_t i) {
    ad_tensor index = ad_full(ctx, AD_I32, AD_SHAPE(1), (double)i);
    ad_tensor row = ad_one_hot(ctx, index, ad_count(ctx, x), ad_type_of(ctx, x));
    return ad_reshape(ctx, row, ad_shape_of(ctx, x));
}

ad_tensor ad_jacobian(ad_context *ctx, ad_function f, void *user, ad_tensor x) {
    // One reverse pass a row where y is the smaller, one forward pass a column otherwise.
    if (!ad_ready(ctx)) return (ad_tensor){0};
    ad_tensor leaf = ad_watch(ctx, x), y = f(ctx, leaf, user);
    int64_t rows = ad_count(ctx, y), columns = ad_count(ctx, x);
    ad_tensor jacobian = {0};
    bool reverse = rows <= columns;
    for (int64_t i = 0; i < (reverse ? rows : columns) && !ad_failed(ctx); i++) {
        ad_tensor line = {0};
        if (reverse) {
            ad_grad(ctx, y, unit(ctx, y, i), 1, &leaf, &line, 0);
        } else {
            line = ad_tangent(ctx, f(ctx, ad_dual(ctx, x, unit(ctx, x, i)), user));
            if (!line.slot) line = ad_zeros_like(ctx, y);
        }
        line = ad_reshape(ctx, line, reverse ? AD_SHAPE(1, columns) : AD_SHAPE(rows, 1));
        jacobian = i ? ad_concat(ctx, 2, (ad_tensor[]){jacobian, line}, reverse ? 0 : 1) : line;
    }
    if (!jacobian.slot) jacobian = ad_full(ctx, ad_type_of(ctx, x), AD_SHAPE(rows, columns), 0);
    return jacobian;
}

ad_tensor ad_hvp(ad_context *ctx, ad_function f, void *user, ad_tensor x, ad_tensor v) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    ad_tensor leaf = ad_watch(ctx, ad_dual(ctx, x, v)), dx = {0};
    ad_grad(ctx, f(ctx, leaf, user), (ad_tensor){0}, 1, &leaf, &dx, 0);
    if (ad_failed(ctx)) return (ad_tensor){0};
    ad_tensor product = ad_tangent(ctx, dx);
    return product.slot ? product : ad_zeros_like(ctx, x);
}

ad_tensor ad_hessian(ad_context *ctx, ad_function f, void *user, ad_tensor x) {
    int64_t n = ad_count(ctx, x);
    ad_tensor hessian = ad_full(ctx, ad_type_of(ctx, x), AD_SHAPE(0, n), 0);
    for (int64_t i = 0; i < n && !ad_failed(ctx); i++) {
        ad_tensor row = ad_reshape(ctx, ad_hvp(ctx, f, user, x, unit(ctx, x, i)), AD_SHAPE(1, n));
        hessian = ad_concat(ctx, 2, (ad_tensor[]){hessian, row}, 0);
    }
    return hessian;
}
