/* Derivatives of derivatives, by every way there is.
 *
 * A gradient asked for with AD_GRAD_RECORD is itself made of recorded operations, so it can be
 * differentiated again, as often as one likes: reverse over reverse. A tangent that travels through
 * a backward pass gives a Hessian times a vector for the price of about two gradients: forward over
 * reverse, which is what ad_hvp and ad_hessian do. Both are checked here on
 *
 *   f(x, y) = ln(x + exp(y / x)) at (1, 2), whose Hessian is known in closed form,
 *   x^5 at 2, whose third derivative is 60 x^2 = 240,
 *   the two-layer example's loss, where the gradient of the gradient's sum is the Hessian's row
 *   sums: the product with a vector of ones, not the Hessian. */
#include "autodiff/autodiff.h"

#include <math.h>
#include <stdio.h>

static bool near(const char *what, double found, double known, double tolerance) {
    bool good = fabs(found - known) <= tolerance;
    printf("%-30s %.15g, known %.15g%s\n", what, found, known, good ? "" : "  WRONG");
    return good;
}

static ad_tensor element(ad_context *ctx, ad_tensor v, int i) {
    return ad_reshape(ctx, ad_slice(ctx, v, 0, i, i + 1, 1), AD_SCALAR);
}

// f(x, y) of a vector (2)
static ad_tensor logarithm(ad_context *ctx, ad_tensor v, void *user) {
    ad_tensor x = element(ctx, v, 0), y = element(ctx, v, 1);
    (void)user;
    return ad_log(ctx, ad_add(ctx, x, ad_exp(ctx, ad_div(ctx, y, x))));
}

// The loss of (w1, b1, w2, b2): see two_layer.c.
static ad_tensor network(ad_context *ctx, ad_tensor w, void *user) {
    (void)user;
    ad_tensor z = ad_add(ctx, ad_affine(ctx, element(ctx, w, 0), 2, 0), element(ctx, w, 1));
    ad_tensor y = ad_add(ctx, ad_mul(ctx, element(ctx, w, 2), ad_relu(ctx, z)),
                         element(ctx, w, 3));
    return ad_affine(ctx, ad_square(ctx, ad_affine(ctx, y, 1, -1.5)), 0.5, 0);
}

static bool hessian_both_ways(ad_context *ctx) {
    static const double known[2][2] = {{4.348927658520971, -1.195777834188402},
                                       {-1.195777834188402, 0.104993585403507}};
    static const double slope[2] = {-1.642391233933647, 0.880797077977882};
    ad_tensor at = ad_from(ctx, AD_F64, AD_SHAPE(2), (double[]){1, 2});
    // Reverse over reverse: one more backward pass for each element of the gradient.
    ad_tensor x = ad_watch(ctx, at), first, row;
    ad_grad(ctx, logarithm(ctx, x, NULL), (ad_tensor){0}, 1, &x, &first, AD_GRAD_RECORD);
    double gradient[2] = {0}, reverse[2][2] = {{0}}, forward[2][2] = {{0}};
    ad_read(ctx, first, gradient, sizeof gradient);
    for (int i = 0; i < 2; i++) {
        ad_grad(ctx, element(ctx, first, i), (ad_tensor){0}, 1, &x, &row, 0);
        ad_read(ctx, row, reverse[i], sizeof reverse[i]);
    }
    // Forward over reverse.
    ad_read(ctx, ad_hessian(ctx, logarithm, NULL, at), forward, sizeof forward);
    bool good = near("f_x", gradient[0], slope[0], 1e-14);
    good &= near("f_y", gradient[1], slope[1], 1e-14);
    for (int i = 0; i < 2; i++)
        for (int j = i; j < 2; j++) {
            char what[64];
            snprintf(what, sizeof what, "f_%c%c, reverse over reverse", "xy"[i], "xy"[j]);
            good &= near(what, reverse[i][j], known[i][j], 1e-13);
            snprintf(what, sizeof what, "f_%c%c, forward over reverse", "xy"[i], "xy"[j]);
            good &= near(what, forward[i][j], known[i][j], 1e-13);
        }
    return good;
}

static bool third_derivative(ad_context *ctx) {
    ad_tensor x = ad_watch(ctx, ad_scalar(ctx, AD_F64, 2));
    ad_tensor y = ad_pow(ctx, x, ad_scalar(ctx, AD_F64, 5));
    for (int order = 1; order <= 3; order++)
        ad_grad(ctx, y, (ad_tensor){0}, 1, &x, &y, order < 3 ? AD_GRAD_RECORD : 0);
    return near("third derivative of x^5 at 2", ad_item(ctx, y), 240, 1e-12);
}

static bool row_sums(ad_context *ctx) {
    static const double known[] = {6.36, 3.18, 3.69, 4.5};
    double twice[4] = {0}, product[4] = {0};
    ad_tensor at = ad_from(ctx, AD_F64, AD_SHAPE(4), (double[]){0.5, 0.1, 0.8, 0.2});
    ad_tensor w = ad_watch(ctx, at), first, second;
    ad_grad(ctx, network(ctx, w, NULL), (ad_tensor){0}, 1, &w, &first, AD_GRAD_RECORD);
    ad_grad(ctx, ad_sum(ctx, first, AD_ALL_AXES, false), (ad_tensor){0}, 1, &w, &second, 0);
    ad_read(ctx, second, twice, sizeof twice);
    ad_tensor ones = ad_full(ctx, AD_F64, AD_SHAPE(4), 1);
    ad_read(ctx, ad_hvp(ctx, network, NULL, at, ones), product, sizeof product);
    bool good = true;
    for (int i = 0; i < 4; i++) {
        good &= near("gradient of the gradient's sum", twice[i], known[i], 1e-14);
        good &= near("Hessian times ones (ad_hvp)", product[i], known[i], 1e-14);
    }
    return good;
}

int main(void) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    bool good = hessian_both_ways(ctx);
    good &= third_derivative(ctx);
    good &= row_sums(ctx);
    if (ad_failed(ctx)) fprintf(stderr, "gradient_of_gradients: %s\n", ad_error_text(ctx));
    good = good && !ad_failed(ctx);
    ad_close(ctx);
    return good ? 0 : 1;
}
