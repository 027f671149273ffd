/* Implicit differentiation against closed forms and against what it must agree with: the same
 * derivatives through an unrolled loop. f64 but for a few. */
#include "autodiff/core.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static ad_context *open_context(void) {
    return ad_open(&(ad_options){.threads = 2, .seed = 1, .poison = true});
}

static void good(ad_context *ctx) { cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx)); }

static void expect_error(ad_context *ctx, const char *part) {
    cr_assert(ad_failed(ctx), "no error where '%s' was expected", part);
    cr_assert(strstr(ad_error_text(ctx), part), "'%s' lacks '%s'", ad_error_text(ctx), part);
    ad_error_clear(ctx);
}

static void near(double found, double known, double tolerance) {
    cr_assert(fabs(found - known) <= tolerance, "found %.17g, known %.17g", found, known);
}

static ad_tensor scalar(ad_context *ctx, double value) { return ad_scalar(ctx, AD_F64, value); }

static ad_tensor total(ad_context *ctx, ad_tensor x) {
    return ad_sum(ctx, x, AD_ALL_AXES, false);
}

// Newton's step for the square root, which contracts at once, ...
static ad_tensor newton(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)user;
    return ad_affine(ctx, ad_add(ctx, y, ad_div(ctx, x[0], y)), 0.5, 0);
}

static ad_tensor cosine(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)user;
    return ad_mul(ctx, x[0], ad_cos(ctx, y));
}

// ... and one that contracts by steps: y = a cos y + b W y, W (n, n), all of it wanted.
static ad_tensor slow(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    const double *half = user;
    ad_tensor column = ad_reshape(ctx, y, AD_SHAPE(ad_count(ctx, y), 1));
    ad_tensor product = ad_reshape(ctx, ad_matmul(ctx, x[1], column, false, false),
                                   ad_shape_of(ctx, y));
    return ad_add(ctx, ad_mul(ctx, x[0], ad_cos(ctx, y)), ad_affine(ctx, product, *half, 0));
}

enum { N = 3 };
static const double a_values[N] = {0.5, -0.3, 0.4};
static const double w_values[N * N] = {0.3, -0.2, 0.1, 0.2, 0.1, -0.3, -0.1, 0.4, 0.2};
static double half = 0.5;

static ad_tensor solve(ad_context *ctx, ad_tensor a, ad_tensor w, bool implicit) {
    ad_tensor start = ad_full(ctx, AD_F64, AD_SHAPE(N), 0), x[2] = {a, w};
    if (implicit) return ad_fixed_point(ctx, slow, &half, start, 2, x, NULL);
    for (int i = 0; i < 120; i++) start = slow(ctx, start, x, &half);
    return start;
}

/* ---- orders */

Test(implicit, square_root_to_the_fourth_derivative) {
    // sqrt 2 and 1/2, -1/4, 3/8, -15/16 times 2^(1/2 - k)
    static const double known[] = {1.4142135623730951, 0.35355339059327379, -0.088388347648318447,
                                   0.066291260736238839, -0.082864075920298548};
    ad_context *ctx = open_context();
    ad_tensor x = ad_watch(ctx, scalar(ctx, 2));
    ad_tensor y = ad_fixed_point(ctx, newton, NULL, scalar(ctx, 1), 1, &x, NULL);
    for (int order = 0; order < 5; order++) {
        good(ctx);
        near(ad_item(ctx, y), known[order], order < 3 ? 1e-15 : 1e-14);
        ad_grad(ctx, y, (ad_tensor){0}, 1, &x, &y, AD_GRAD_RECORD);
    }
    ad_close(ctx);
}

Test(implicit, the_tape_does_not_grow_with_the_search) {
    size_t nodes[2], peak[2];
    for (int i = 0; i < 2; i++) {
        ad_context *ctx = open_context();
        // About 10 and about 60 steps.
        ad_tensor a = ad_watch(ctx, ad_full(ctx, AD_F64, AD_SHAPE(4096), i ? 0.9 : 0.1)), da;
        ad_tensor y = ad_fixed_point(ctx, cosine, NULL, a, 1, &a, NULL);
        nodes[i] = ad_memory_read(ctx).node_count;
        ad_grad(ctx, total(ctx, y), (ad_tensor){0}, 1, &a, &da, 0);
        good(ctx);
        peak[i] = ad_memory_read(ctx).peak_bytes;
        ad_close(ctx);
    }
    cr_assert_eq(nodes[0], 1);
    cr_assert_eq(nodes[1], 1);
    cr_assert_eq(peak[0], peak[1], "%zu and %zu bytes", peak[0], peak[1]);
}

/* ---- against the unrolled loop */

typedef struct found {
    double y[N], da[N], dw[N * N], tangent[N], hessian[2][N * N];
} found;

static ad_tensor loss_of_a(ad_context *ctx, ad_tensor a, void *user) {
    ad_tensor w = ad_from(ctx, AD_F64, AD_SHAPE(N, N), w_values);
    return total(ctx, ad_square(ctx, solve(ctx, a, w, *(bool *)user)));
}

static found derivatives(bool implicit) {
    ad_context *ctx = open_context();
    found f;
    ad_tensor a = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(N), a_values));
    ad_tensor w = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(N, N), w_values));
    const double cotangent[N] = {0.7, -1.1, 0.4};
    ad_tensor v = ad_from(ctx, AD_F64, AD_SHAPE(N), cotangent), d[2];
    ad_tensor y = solve(ctx, a, w, implicit);
    ad_grad(ctx, y, v, 2, (ad_tensor[]){a, w}, d, 0);
    ad_read(ctx, y, f.y, sizeof f.y);
    ad_read(ctx, d[0], f.da, sizeof f.da), ad_read(ctx, d[1], f.dw, sizeof f.dw);
    // Forward mode, in both operands at once.
    ad_tensor dual_w = ad_dual(ctx, w, ad_from(ctx, AD_F64, AD_SHAPE(N, N), w_values));
    y = solve(ctx, ad_dual(ctx, a, v), dual_w, implicit);
    ad_read(ctx, ad_tangent(ctx, y), f.tangent, sizeof f.tangent);
    // The Hessian forward over reverse and reverse over reverse.
    a = ad_from(ctx, AD_F64, AD_SHAPE(N), a_values);
    ad_read(ctx, ad_hessian(ctx, loss_of_a, &implicit, a), f.hessian[0], sizeof f.hessian[0]);
    a = ad_watch(ctx, a);
    ad_tensor da;
    ad_grad(ctx, loss_of_a(ctx, a, &implicit), (ad_tensor){0}, 1, &a, &da, AD_GRAD_RECORD);
    for (int i = 0; i < N; i++) {
        ad_tensor row;
        ad_grad(ctx, ad_slice(ctx, da, 0, i, i + 1, 1), (ad_tensor){0}, 1, &a, &row, 0);
        ad_read(ctx, row, &f.hessian[1][N * i], N * sizeof(double));
    }
    good(ctx);
    ad_close(ctx);
    return f;
}

Test(implicit, every_mode_agrees_with_the_loop) {
    found loop = derivatives(false), implicit = derivatives(true);
    const double *known = loop.y, *mine = implicit.y;
    for (size_t i = 0; i < sizeof loop / sizeof(double); i++) near(mine[i], known[i], 3e-13);
    for (int i = 0; i < N * N; i++) cr_assert(fabs(loop.hessian[0][i]) > 1e-4, "too easy a case");
}

Test(implicit, a_parameter_gets_its_gradient_in_a_step) {
    // y = sqrt w in f32, loss y^2 = w: slope 1; through ad_grad_add, and in a checkpoint scope.
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", ad_full(ctx, AD_F32, AD_SHAPE(5), 3));
    for (int round = 0; round < 2; round++) {
        ad_scope_begin(ctx, "step");
        if (round) ad_checkpoint_begin(ctx);
        ad_tensor y = ad_fixed_point(ctx, newton, NULL, ad_ones(ctx, 5), 1, &w, NULL);
        ad_tensor loss = total(ctx, ad_square(ctx, y));
        if (round) ad_keep(ctx, loss), ad_checkpoint_end(ctx);
        ad_grad_add(ctx, loss, 1, &w, 0);
        ad_scope_end(ctx);
        good(ctx);
        float slope[5];
        ad_read(ctx, ad_gradient(ctx, w), slope, sizeof slope);
        for (int i = 0; i < 5; i++) near(slope[i], round + 1, 3e-6);
    }
    ad_close(ctx);
}

// Derivatives of size * total y, reverse, forward and reverse over reverse, by size.
static void of_size(ad_type type, double size, double slope[3]) {
    ad_context *ctx = open_context();
    ad_tensor a = ad_watch(ctx, ad_full(ctx, type, AD_SHAPE(3), 0.9)), da, dda;
    ad_tensor y = ad_fixed_point(ctx, cosine, NULL, a, 1, &a, NULL);
    ad_tensor loss = ad_affine(ctx, total(ctx, y), size, 0);
    ad_grad(ctx, loss, (ad_tensor){0}, 1, &a, &da, AD_GRAD_RECORD);
    ad_grad(ctx, total(ctx, da), (ad_tensor){0}, 1, &a, &dda, 0);
    ad_tensor dual = ad_dual(ctx, a, ad_full(ctx, type, AD_SHAPE(3), size));
    y = ad_fixed_point(ctx, cosine, NULL, a, 1, &dual, NULL);
    slope[0] = ad_item(ctx, total(ctx, da)), slope[1] = ad_item(ctx, total(ctx, dda));
    slope[2] = ad_item(ctx, total(ctx, ad_tangent(ctx, y)));
    for (int i = 0; i < 3 && size != 0; i++) slope[i] /= size;
    good(ctx);
    ad_close(ctx);
}

Test(implicit, derivatives_are_as_exact_of_any_size) {
    static const double sizes[] = {1e-9, 1e-30, 1e9};
    for (int narrow = 0; narrow < 2; narrow++) {
        double one[3], other[3];
        ad_type type = narrow ? AD_F32 : AD_F64;
        of_size(type, 1, one);
        for (int k = 0; k < 3; k++) {
            of_size(type, sizes[k], other);
            for (int i = 0; i < 3; i++)
                near(other[i], one[i], (narrow ? 2e-5 : 1e-12) * fabs(one[i]));
        }
        of_size(type, 0, other);
        for (int i = 0; i < 3; i++) near(other[i], 0, 0);
    }
}

/* ---- refusals */

static ad_tensor hidden(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)x;
    return ad_affine(ctx, ad_mul(ctx, y, *(ad_tensor *)user), 0.5, 1);
}

static ad_tensor growing(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)x, (void)user;
    return ad_affine(ctx, y, 2, 1);
}

static ad_tensor wider(ad_context *ctx, ad_tensor y, const ad_tensor *x, void *user) {
    (void)x, (void)user;
    return ad_broadcast(ctx, y, AD_SHAPE(2, 1));
}

Test(implicit, what_it_refuses) {
    ad_context *ctx = open_context();
    ad_tensor x = ad_watch(ctx, scalar(ctx, 0.5)), start = scalar(ctx, 1);
    int scopes = ctx->scope_count;
    ad_fixed_point(ctx, hidden, &x, start, 0, NULL, NULL);
    expect_error(ctx, "not among x");
    ad_fixed_point(ctx, growing, NULL, start, 1, &x, NULL);
    expect_error(ctx, "after 1000 steps y still changed");
    ad_fixed_point(ctx, newton, NULL, start, 1, &x, &(ad_fixed_point_options){.steps = 2});
    expect_error(ctx, "after 2 steps");
    ad_fixed_point(ctx, newton, NULL, scalar(ctx, NAN), 1, &x, NULL);
    expect_error(ctx, "after 1 steps");
    ad_fixed_point(ctx, wider, NULL, ad_full(ctx, AD_F64, AD_SHAPE(1), 1), 1, &x, NULL);
    expect_error(ctx, "another shape");
    ad_fixed_point(ctx, newton, NULL, start, 24, &x, NULL);
    expect_error(ctx, "at most 23");
    // Nothing is left open behind an error.
    cr_assert_eq(ctx->scope_count, scopes);
    cr_assert_eq(ctx->no_grad, 0);
    cr_assert_eq(ctx->quiet, 0);
    ad_tensor y = ad_fixed_point(ctx, newton, NULL, start, 1, &x, NULL);
    good(ctx);
    near(ad_item(ctx, y), sqrt(0.5), 1e-15);
    ad_close(ctx);
}
