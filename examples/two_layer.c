/* The two-layer network that one can follow with pencil and paper, in f64, against its numbers.
 *
 *   z = w1 x + b1,  a = relu(z),  y = w2 a + b2,  loss = (y - target)^2 / 2
 *   x = 2, target = 1.5, (w1, b1, w2, b2) = (0.5, 0.1, 0.8, 0.2)
 *
 * Forward z = a = 1.1, y = 1.08, loss = 0.0882. Backward, from the last line to the first:
 * dy = y - target = -0.42, dw2 = dy a, db2 = dy, da = dy w2 = -0.336, dz = da (z > 0), dw1 = dz x,
 * db1 = dz, dx = dz w1; and the target's own slope is -dy. The Hessian comes from ad_hessian, which
 * takes the gradient while a direction travels along as a tangent. One step of gradient descent
 * with rate 0.1, in f32 through an optimiser, ends the example. */
#include "autodiff/autodiff.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { W1, B1, W2, B2, WEIGHTS };
static const double start[WEIGHTS] = {0.5, 0.1, 0.8, 0.2}, input = 2, target = 1.5;

// The loss of the four weights, the input and the target; each a scalar of one type.
static ad_tensor loss_of(ad_context *ctx, const ad_tensor *w, ad_tensor x, ad_tensor goal) {
    ad_tensor a = ad_relu(ctx, ad_add(ctx, ad_mul(ctx, w[W1], x), w[B1]));
    ad_tensor y = ad_add(ctx, ad_mul(ctx, w[W2], a), w[B2]);
    return ad_affine(ctx, ad_square(ctx, ad_sub(ctx, y, goal)), 0.5, 0);
}

// The same as a function of one vector (4), for the Hessian.
static ad_tensor loss_of_vector(ad_context *ctx, ad_tensor weights, void *user) {
    ad_tensor w[WEIGHTS];
    (void)user;
    for (int i = 0; i < WEIGHTS; i++)
        w[i] = ad_reshape(ctx, ad_slice(ctx, weights, 0, i, i + 1, 1), AD_SCALAR);
    return loss_of(ctx, w, ad_scalar(ctx, AD_F64, input), ad_scalar(ctx, AD_F64, target));
}

static bool check(const char *what, const double *found, const double *known, int count,
                  double tolerance) {
    double worst = 0;
    for (int i = 0; i < count; i++) {
        double error = fabs(found[i] - known[i]);
        if (!(error <= worst)) worst = error; // a NaN stays
    }
    bool good = worst <= tolerance;
    printf("%-24s error %.1e, allowed %.0e%s\n", what, worst, tolerance, good ? "" : "  WRONG");
    for (int i = 0; i < count && !good; i++)
        printf("    %d: found %.17g, known %.17g\n", i, found[i], known[i]);
    return good;
}

static bool first_order(ad_context *ctx) {
    static const double known[] = {-0.672, -0.336, -0.462, -0.42, -0.168, 0.42};
    enum { LEAVES = WEIGHTS + 2 };
    double loss, found[LEAVES];
    ad_tensor leaf[LEAVES], slope[LEAVES];
    for (int i = 0; i < LEAVES; i++) { // watched: on the tape, but no parameter
        double value = i < WEIGHTS ? start[i] : i == WEIGHTS ? input : target;
        leaf[i] = ad_watch(ctx, ad_scalar(ctx, AD_F64, value));
    }
    ad_tensor y = loss_of(ctx, leaf, leaf[WEIGHTS], leaf[WEIGHTS + 1]);
    ad_grad(ctx, y, (ad_tensor){0}, LEAVES, leaf, slope, 0);
    loss = ad_item(ctx, y);
    for (int i = 0; i < LEAVES; i++) found[i] = ad_item(ctx, slope[i]);
    bool good = check("loss", &loss, (double[]){0.0882}, 1, 1e-15);
    return check("gradient", found, known, LEAVES, 1e-15) && good;
}

static bool second_order(ad_context *ctx) {
    static const double known[WEIGHTS * WEIGHTS] = {2.56, 1.28, 0.92, 1.6, 1.28, 0.64, 0.46, 0.8,
                                                    0.92, 0.46, 1.21, 1.1, 1.6,  0.8,  1.1,  1};
    double found[WEIGHTS * WEIGHTS] = {0};
    ad_tensor at = ad_from(ctx, AD_F64, AD_SHAPE(WEIGHTS), start); // (4)
    ad_tensor hessian = ad_hessian(ctx, loss_of_vector, NULL, at); // (4, 4)
    ad_read(ctx, hessian, found, sizeof found);
    return check("Hessian", found, known, WEIGHTS * WEIGHTS, 1e-15);
}

static bool one_step(ad_context *ctx) {
    static const char *const names[WEIGHTS] = {"w1", "b1", "w2", "b2"};
    static const double known[] = {0.5672, 0.1336, 0.8462, 0.242, 0.0171159041692796};
    double found[WEIGHTS + 1];
    ad_tensor w[WEIGHTS], x = ad_scalar(ctx, AD_F32, input), goal = ad_scalar(ctx, AD_F32, target);
    for (int i = 0; i < WEIGHTS; i++)
        w[i] = ad_parameter(ctx, names[i], ad_scalar(ctx, AD_F32, start[i]));
    ad_optimizer *descent = ad_sgd(ctx, w, WEIGHTS, &(ad_sgd_options){.learning_rate = 0.1});
    ad_scope_begin(ctx, "step"); // what a step makes ends with it
    ad_grad_add(ctx, loss_of(ctx, w, x, goal), WEIGHTS, w, 0);
    ad_optimizer_step(descent);
    ad_scope_end(ctx);
    for (int i = 0; i < WEIGHTS; i++) found[i] = ad_item(ctx, w[i]);
    found[WEIGHTS] = ad_item(ctx, loss_of(ctx, w, x, goal));
    return check("after one step (f32)", found, known, WEIGHTS + 1, 1e-7);
}

int main(void) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    bool good = first_order(ctx);
    good &= second_order(ctx);
    good &= one_step(ctx);
    if (ad_failed(ctx)) fprintf(stderr, "two_layer: %s\n", ad_error_text(ctx));
    good = good && !ad_failed(ctx);
    ad_close(ctx);
    return good ? 0 : 1;
}
