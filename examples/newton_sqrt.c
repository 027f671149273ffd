/* Differentiating a loop: the square root by Newton's iteration y <- (y + x / y) / 2.
 *
 * The tape is made by running, so the loop is C's own. Ten steps from y = 1 give the root of 2, and
 * the slope that comes out of the loop converges with it: 0.5, 0.361111, 0.353566, ... to
 * 1 / (2 sqrt 2). The price is a tape as long as the loop.
 *
 * The other way is implicit (ad_fixed_point): the loop runs unrecorded until it stands still, and
 * what it found is differentiated from y = F(y, x) alone. The tape holds one node however many
 * steps there were, and every order of derivative is there. */
#include "autodiff/autodiff.h"

#include <math.h>
#include <stdio.h>

enum { STEPS = 10 };

static bool near(const char *what, double found, double known, double tolerance) {
    bool good = fabs(found - known) <= tolerance;
    printf("%-34s %.16g, known %.16g%s\n", what, found, known, good ? "" : "  WRONG");
    return good;
}

static ad_tensor step(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)user;
    return ad_affine(ctx, ad_add(ctx, y, ad_div(ctx, x[0], y)), 0.5, 0);
}

static ad_tensor newton(ad_context *ctx, ad_tensor x, ad_tensor y, int steps) {
    for (int i = 0; i < steps; i++) y = step(ctx, y, &x, NULL);
    return y;
}

// d sqrt / dx after each of the first steps, by reverse mode through the loop.
static bool unrolled(ad_context *ctx) {
    static const double known[] = {0.5, 0.361111111111111, 0.353565936178393, 0.353553390611716,
                                   0.353553390593274};
    bool good = true;
    for (int steps = 1; steps <= 5; steps++) {
        char what[64];
        ad_tensor x = ad_watch(ctx, ad_scalar(ctx, AD_F64, 2)), slope;
        ad_tensor y = newton(ctx, x, ad_scalar(ctx, AD_F64, 1), steps);
        ad_grad(ctx, y, (ad_tensor){0}, 1, &x, &slope, 0);
        snprintf(what, sizeof what, "slope through %d steps", steps);
        good &= near(what, ad_item(ctx, slope), known[steps - 1], 1e-15);
    }
    return good;
}

// Value, first and second derivative of y(x) at 2; the second by differentiating the gradient.
static bool derivatives(ad_context *ctx, const char *way, ad_tensor x, ad_tensor y) {
    char what[64];
    ad_tensor first, second;
    ad_grad(ctx, y, (ad_tensor){0}, 1, &x, &first, AD_GRAD_RECORD);
    ad_grad(ctx, first, (ad_tensor){0}, 1, &x, &second, 0);
    snprintf(what, sizeof what, "%s: root", way);
    bool good = near(what, ad_item(ctx, y), 1.4142135623730951, 1e-15);
    snprintf(what, sizeof what, "%s: slope", way);
    good &= near(what, ad_item(ctx, first), 0.353553390593274, 1e-15);
    snprintf(what, sizeof what, "%s: second derivative", way);
    return near(what, ad_item(ctx, second), -0.0883883476483185, 1e-15) && good;
}

// From a good start and from a bad one. Returns the nodes that the tape holds for y.
static size_t implicit(ad_context *ctx, double start, bool *good) {
    ad_scope_begin(ctx, "implicit");
    size_t before = ad_memory_read(ctx).node_count;
    ad_tensor x = ad_watch(ctx, ad_scalar(ctx, AD_F64, 2));
    ad_tensor y = ad_fixed_point(ctx, step, NULL, ad_scalar(ctx, AD_F64, start), 1, &x, NULL);
    size_t nodes = ad_memory_read(ctx).node_count - before;
    *good &= derivatives(ctx, "implicit", x, y);
    ad_scope_end(ctx);
    return nodes;
}

int main(void) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    bool good = unrolled(ctx);
    ad_tensor x = ad_watch(ctx, ad_scalar(ctx, AD_F64, 2));
    ad_tensor y = newton(ctx, x, ad_scalar(ctx, AD_F64, 1), STEPS);
    good &= derivatives(ctx, "unrolled", x, y);

    size_t few = implicit(ctx, 1, &good), many = implicit(ctx, 1e30, &good);
    printf("nodes on the tape for a short and for a long search: %zu and %zu\n", few, many);
    good &= few == 1 && many == 1;
    if (ad_failed(ctx)) fprintf(stderr, "newton_sqrt: %s\n", ad_error_text(ctx));
    good = good && !ad_failed(ctx);
    ad_close(ctx);
    return good ? 0 : 1;
}
