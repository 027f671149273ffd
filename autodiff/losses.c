/* Losses and initialisers: compositions of operations, no kernels of their own.
 *
 * All losses are means over what they compare, scalars in the type of their first operand. Each is
 * written so that neither it nor its gradient overflows or cancels where the formula of the books
 * would: the cross entropy through log-sum-exp, the logistic loss through softplus. */
#include "autodiff/autodiff.h"

#include <math.h>

ad_tensor ad_mse(ad_context *ctx, ad_tensor y, ad_tensor target) {
    return ad_mean(ctx, ad_square(ctx, ad_sub(ctx, y, target)), AD_ALL_AXES, false);
}

// d^2 / 2 within delta, delta (|d| - delta / 2) beyond: c (d - c / 2) with c = clamp(d).
ad_tensor ad_huber(ad_context *ctx, ad_tensor y, ad_tensor target, double delta) {
    ad_tensor d = ad_sub(ctx, y, target), c = ad_clamp(ctx, d, -delta, delta);
    ad_tensor rest = ad_sub(ctx, d, ad_affine(ctx, c, 0.5, 0));
    return ad_mean(ctx, ad_mul(ctx, c, rest), AD_ALL_AXES, false);
}

// logits (n, c), labels (n): the mean of log sum exp(logits) - logits[label].
ad_tensor ad_cross_entropy(ad_context *ctx, ad_tensor logits, ad_tensor labels) {
    ad_shape shape = ad_shape_of(ctx, logits);
    if (ad_failed(ctx)) return (ad_tensor){0};
    if (shape.rank != 2) {
        ad_raise(ctx, "ad_cross_entropy: logits of shape (n, classes) expected, not of rank %d",
                 shape.rank);
        return (ad_tensor){0};
    }
    // Chosen by a mask: a logit of -inf elsewhere must not meet a factor 0.
    ad_tensor mask = ad_one_hot(ctx, labels, shape.size[1], AD_U32); // (n, c)
    ad_tensor zero = ad_scalar(ctx, ad_type_of(ctx, logits), 0);
    ad_tensor chosen = ad_sum(ctx, ad_where(ctx, mask, logits, zero), AD_AXIS(1), false); // (n)
    ad_tensor total = ad_logsumexp(ctx, logits, AD_AXIS(1), false);                       // (n)
    return ad_mean(ctx, ad_sub(ctx, total, chosen), AD_ALL_AXES, false);
}

// The mean of y softplus(-z) + (1 - y) softplus(z): finite for any z, exact for small losses.
ad_tensor ad_logistic_loss(ad_context *ctx, ad_tensor logits, ad_tensor labels) {
    ad_tensor y = ad_cast(ctx, labels, ad_type_of(ctx, logits));
    ad_tensor yes = ad_mul(ctx, y, ad_softplus(ctx, ad_neg(ctx, logits)));
    ad_tensor no = ad_mul(ctx, ad_affine(ctx, y, -1, 1), ad_softplus(ctx, logits));
    return ad_mean(ctx, ad_add(ctx, yes, no), AD_ALL_AXES, false);
}

// Weights are (out, in, ...): an output sums over everything past axis 0.
static double fan_in(ad_shape shape) {
    double product = 1;
    for (int axis = 1; axis < shape.rank; axis++) product *= (double)shape.size[axis];
    return product > 1 ? product : 1;
}

// He and others 2015: variance 2 / in keeps the scale through ReLU layers.
ad_tensor ad_he_normal_shape(ad_context *ctx, ad_shape shape) {
    return ad_normal(ctx, AD_F32, shape, 0, sqrt(2 / fan_in(shape)));
}

// Glorot and Bengio 2010: variance 2 / (in + out).
ad_tensor ad_xavier_normal_shape(ad_context *ctx, ad_shape shape) {
    double in = fan_in(shape), out = in;
    if (shape.rank > 0) out = (double)shape.size[0];
    for (int axis = 2; axis < shape.rank; axis++) out *= (double)shape.size[axis];
    return ad_normal(ctx, AD_F32, shape, 0, sqrt(2 / (in + out)));
}
