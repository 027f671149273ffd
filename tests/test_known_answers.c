/* Known answers of the mechanics of the backward pass: small functions whose values, gradients and
 * second derivatives were worked out by hand.
 *
 * f(x, y) = ln(x + exp(y / x)) at (1, 2) leads; then fan-out, branches, chains, Newton's iteration,
 * higher orders, and what a finite difference can tell at all. All in f64 unless it says f32. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static ad_context *ctx;

static void open_context(void) { ctx = ad_open(&(ad_options){.threads = 2, .seed = 1}); }
static void close_context(void) {
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}
TestSuite(known, .init = open_context, .fini = close_context);

static ad_tensor number(double value) { return ad_scalar(ctx, AD_F64, value); }
static ad_tensor leaf(double value) { return ad_watch(ctx, number(value)); }

static void near(ad_tensor x, double expected, double tolerance, const char *what) {
    double value = ad_item(ctx, x);
    cr_assert(!ad_failed(ctx), "%s: %s", what, ad_error_text(ctx));
    cr_assert(fabs(value - expected) <= tolerance, "%s: %.17g, expected %.17g within %g", what,
              value, expected, tolerance);
}

static ad_tensor gradient(ad_tensor y, ad_tensor x, unsigned flags) {
    ad_tensor dx = {0};
    ad_grad(ctx, y, (ad_tensor){0}, 1, &x, &dx, flags);
    return dx;
}

static ad_tensor element(ad_tensor x, int64_t i) {
    ad_tensor flat = ad_reshape(ctx, x, AD_SHAPE(ad_count(ctx, x)));
    return ad_reshape(ctx, ad_slice(ctx, flat, 0, i, i + 1, 1), AD_SCALAR);
}

/* ---- ln(x + exp(y / x)) */

static ad_tensor log_sum(ad_tensor x, ad_tensor y) {
    return ad_log(ctx, ad_add(ctx, x, ad_exp(ctx, ad_div(ctx, y, x))));
}

static const double log_sum_value = 2.126928011042972, log_sum_x = -1.642391233933647,
                    log_sum_y = 0.880797077977882, log_sum_xx = 4.348927658520971,
                    log_sum_xy = -1.195777834188402, log_sum_yy = 0.104993585403507;

Test(known, log_sum_reverse_over_reverse) {
    ad_tensor in[] = {leaf(1), leaf(2)}, d[2], dd[2];
    ad_tensor f = log_sum(in[0], in[1]);
    near(f, log_sum_value, 1e-14, "f");
    cr_assert(ad_grad(ctx, f, (ad_tensor){0}, 2, in, d, AD_GRAD_RECORD));
    near(d[0], log_sum_x, 1e-14, "f_x"), near(d[1], log_sum_y, 1e-14, "f_y");
    cr_assert(ad_grad(ctx, d[0], (ad_tensor){0}, 2, in, dd, 0));
    near(dd[0], log_sum_xx, 1e-13, "f_xx"), near(dd[1], log_sum_xy, 1e-13, "f_xy");
    cr_assert(ad_grad(ctx, d[1], (ad_tensor){0}, 2, in, dd, 0));
    near(dd[0], log_sum_xy, 1e-13, "f_yx"), near(dd[1], log_sum_yy, 1e-13, "f_yy");
}

Test(known, log_sum_forward_over_reverse) {
    for (int along = 0; along < 2; along++) {
        ad_tensor in[2], d[2];
        for (int i = 0; i < 2; i++)
            in[i] = ad_watch(ctx, ad_dual(ctx, number(1 + i), number(i == along)));
        ad_tensor f = log_sum(in[0], in[1]);
        near(ad_tangent(ctx, f), along ? log_sum_y : log_sum_x, 1e-14, "forward");
        ad_grad(ctx, f, (ad_tensor){0}, 2, in, d, 0);
        near(d[0], log_sum_x, 1e-14, "f_x"), near(d[1], log_sum_y, 1e-14, "f_y");
        near(ad_tangent(ctx, d[0]), along ? log_sum_xy : log_sum_xx, 1e-13, "column, x");
        near(ad_tangent(ctx, d[1]), along ? log_sum_yy : log_sum_xy, 1e-13, "column, y");
    }
}

static ad_tensor log_sum_of(ad_context *c, ad_tensor x, void *user) {
    (void)c, (void)user;
    return log_sum(element(x, 0), element(x, 1));
}

Test(known, log_sum_jacobian_hessian_hvp) {
    ad_tensor x = ad_from(ctx, AD_F64, AD_SHAPE(2), (double[]){1, 2});
    ad_tensor v = ad_from(ctx, AD_F64, AD_SHAPE(2), (double[]){.3, -.7});
    ad_tensor j = ad_jacobian(ctx, log_sum_of, NULL, x), h = ad_hessian(ctx, log_sum_of, NULL, x);
    ad_tensor hv = ad_hvp(ctx, log_sum_of, NULL, x, v);
    near(element(j, 0), log_sum_x, 1e-14, "J"), near(element(j, 1), log_sum_y, 1e-14, "J");
    const double expected[] = {log_sum_xx, log_sum_xy, log_sum_xy, log_sum_yy};
    for (int i = 0; i < 4; i++) near(element(h, i), expected[i], 1e-13, "H");
    near(element(hv, 0), .3 * log_sum_xx - .7 * log_sum_xy, 1e-13, "Hv");
    near(element(hv, 1), .3 * log_sum_xy - .7 * log_sum_yy, 1e-13, "Hv");
}

// The relative error of a central difference in x.
static double difference_error(ad_type type, double h) {
    ad_tensor y = ad_scalar(ctx, type, 2);
    double above = ad_item(ctx, log_sum(ad_scalar(ctx, type, 1 + h), y));
    double below = ad_item(ctx, log_sum(ad_scalar(ctx, type, 1 - h), y));
    return fabs((above - below) / (2 * h) / log_sum_x - 1);
}

Test(known, what_differences_can_tell) {
    cr_assert_lt(difference_error(AD_F64, 1e-5), 1.6e-10);
    cr_assert_lt(difference_error(AD_F64, 1e-6), 2e-10); // rounding: 2e-11 with libm's last bits
    double best = 1;
    for (double h = 1e-3; h <= 3e-3; h *= 1.1) best = fmin(best, difference_error(AD_F32, h));
    cr_assert_lt(best, 9e-5, "f32: %g", best);
    cr_assert_gt(difference_error(AD_F32, 1e-6), 1e-3, "f32 loses its digits at small steps");
}

/* ---- sums, products, fan-out, branches */

Test(known, plus_passes_and_times_swaps) {
    ad_tensor in[] = {leaf(3), leaf(5)}, d[2];
    ad_grad(ctx, ad_add(ctx, in[0], in[1]), (ad_tensor){0}, 2, in, d, 0);
    near(d[0], 1, 0, "+"), near(d[1], 1, 0, "+");
    ad_grad(ctx, ad_mul(ctx, in[0], in[1]), (ad_tensor){0}, 2, in, d, 0);
    near(d[0], 5, 0, "x"), near(d[1], 3, 0, "x");
}

Test(known, fan_out_sums) {
    ad_tensor x = leaf(3), sum = number(0), one = leaf(1);
    near(gradient(ad_mul(ctx, x, x), x, 0), 6, 0, "x x");
    for (int i = 0; i < 1000; i++) sum = ad_add(ctx, sum, one);
    near(gradient(sum, one, 0), 1000, 0, "1000 times x");
    // The same leaf asked for twice has the same gradient twice.
    ad_tensor twice[] = {x, x}, d[2];
    ad_grad(ctx, ad_mul(ctx, x, x), (ad_tensor){0}, 2, twice, d, 0);
    near(d[0], 6, 0, "first"), near(d[1], 6, 0, "second");
}

Test(known, only_the_taken_branch) {
    const double at[] = {3, -3}, slope[] = {6, -1};
    for (int i = 0; i < 2; i++) {
        ad_tensor x = leaf(at[i]), y = at[i] > 0 ? ad_mul(ctx, x, x) : ad_neg(ctx, x);
        near(gradient(y, x, 0), slope[i], 0, "if");
    }
    // where: the branch not taken is log(-1), and log(0) with an infinite slope.
    const double low[] = {-1, 0};
    for (int i = 0; i < 2; i++) {
        ad_tensor x = leaf(low[i]), positive = ad_greater(ctx, x, number(0));
        ad_tensor y = ad_where(ctx, positive, ad_log(ctx, x), ad_affine(ctx, x, 2, 0));
        near(gradient(y, x, 0), 2, 0, "where");
        ad_tensor dual = ad_dual(ctx, number(low[i]), number(1));
        positive = ad_greater(ctx, dual, number(0));
        y = ad_where(ctx, positive, ad_log(ctx, dual), ad_affine(ctx, dual, 2, 0));
        near(ad_tangent(ctx, y), 2, 0, "where, forward");
    }
    ad_tensor zero = leaf(0);
    ad_tensor root = ad_mul(ctx, number(0), ad_sqrt(ctx, zero));
    near(gradient(root, zero, 0), 0, 0, "0 x inf");
}

/* ---- chains */

Test(known, a_chain_of_a_million_nodes) {
    ad_tensor x = leaf(1), y = x;
    const int n = 1000000;
    for (int i = 0; i < n; i++) y = ad_affine(ctx, y, i % 2 ? 2 : 0.5, 0);
    cr_assert_eq(ad_memory_read(ctx).node_count, (size_t)n);
    near(gradient(y, x, 0), 1, 0, "slope");
}

Test(known, tape_grows_linearly_and_forward_mode_does_not) {
    // Bytes live and on the tape at n, 2n, 3n, 4n operations: equal differences.
    double bytes[4];
    size_t flat[4], quiet[4];
    for (int k = 0; k < 4; k++) {
        ad_tensor w = ad_watch(ctx, ad_full(ctx, AD_F64, AD_SHAPE(64), .1)), x = w;
        ad_scope_begin(ctx, "reverse");
        ad_memory before = ad_memory_read(ctx);
        for (int i = 0; i < 2000 * (k + 1); i++) x = ad_sin(ctx, x);
        ad_memory after = ad_memory_read(ctx);
        bytes[k] = (double)(after.live_bytes + after.tape_bytes)
                 - (double)(before.live_bytes + before.tape_bytes);
        ad_scope_end(ctx);
        for (int forward = 0; forward < 2; forward++) {
            ad_scope_begin(ctx, "flat");
            ad_tensor v = ad_full(ctx, AD_F64, AD_SHAPE(64), .1), t = v;
            ad_memory_peak_reset(ctx);
            for (int i = 0; i < 200 * (k + 1); i++) {
                ad_scope_begin(ctx, "step");
                ad_tensor y = ad_sin(ctx, forward ? ad_dual(ctx, v, t) : v);
                ad_tensor kept = ad_keep(ctx, y), rate = t;
                if (forward) rate = ad_keep(ctx, ad_tangent(ctx, y));
                ad_scope_end(ctx);
                if (i) ad_free(ctx, v);
                if (i && forward) ad_free(ctx, t);
                v = kept, t = rate;
            }
            (forward ? flat : quiet)[k] = ad_memory_read(ctx).peak_bytes;
            ad_scope_end(ctx);
        }
        ad_free(ctx, w);
        flat[k] -= ad_memory_read(ctx).live_bytes, quiet[k] -= ad_memory_read(ctx).live_bytes;
    }
    double slope = (bytes[3] - bytes[0]) / 3, worst = 0;
    for (int k = 0; k < 4; k++) worst = fmax(worst, fabs(bytes[k] - bytes[0] - k * slope));
    cr_assert_lt(worst, .01 * slope, "bytes = a N + b to R^2 > 0.999");
    for (int k = 1; k < 4; k++) {
        cr_assert_eq(flat[k], flat[0], "forward mode: %zu and %zu", flat[k], flat[0]);
        cr_assert_eq(quiet[k], quiet[0], "no gradient: %zu and %zu", quiet[k], quiet[0]);
    }
}

/* ---- forward against reverse, n = 2500 */

static ad_tensor bowl(ad_tensor x) { // sum of sin(x_i)^2 exp(-x_i / 2)
    ad_tensor s = ad_square(ctx, ad_sin(ctx, x)), e = ad_exp(ctx, ad_affine(ctx, x, -.5, 0));
    return ad_sum(ctx, ad_mul(ctx, s, e), AD_ALL_AXES, false);
}

Test(known, forward_against_reverse) {
    enum { N = 2500 };
    static double at[N], reverse[N], one[N], worst, scale;
    for (int i = 0; i < N; i++) at[i] = sin(i);
    ad_tensor x0 = ad_from(ctx, AD_F64, AD_SHAPE(N), at), x = ad_watch(ctx, x0);
    double start = ad_memory_read(ctx).flops;
    bowl(x0);
    double primal = ad_memory_read(ctx).flops - start;
    start = ad_memory_read(ctx).flops;
    ad_tensor dx = gradient(bowl(x), x, 0);
    double cost_reverse = ad_memory_read(ctx).flops - start;
    ad_read(ctx, dx, reverse, sizeof reverse);
    start = ad_memory_read(ctx).flops;
    for (int i = 0; i < N; i++) {
        ad_scope_begin(ctx, "column");
        memset(one, 0, sizeof one), one[i] = 1;
        ad_tensor y = bowl(ad_dual(ctx, x0, ad_from(ctx, AD_F64, AD_SHAPE(N), one)));
        worst = fmax(worst, fabs(ad_item(ctx, ad_tangent(ctx, y)) - reverse[i]));
        scale = fmax(scale, fabs(reverse[i]));
        ad_scope_end(ctx);
    }
    double cost_forward = ad_memory_read(ctx).flops - start;
    fprintf(stderr, "n = %d: a gradient costs %.2f primals, %d tangents %.0f: %.0f times\n", N,
            cost_reverse / primal, N, cost_forward / primal, cost_forward / cost_reverse);
    cr_assert_lt(worst, 1e-12 * scale);
    cr_assert_leq(cost_reverse, 4 * primal);
    cr_assert_geq(cost_forward, 1000 * cost_reverse);
}

/* ---- Newton's square root, higher orders */

Test(known, newton_square_root) {
    const double slopes[] = {.5, .361111111111111, .353565936, .353553390612, .353553390593274};
    const double tolerance[] = {1e-15, 1e-14, 1e-9, 1e-12, 1e-15};
    ad_tensor x = leaf(2), y = number(1), d = {0};
    for (int i = 0; i < 10; i++) {
        y = ad_affine(ctx, ad_add(ctx, y, ad_div(ctx, x, y)), .5, 0);
        d = gradient(y, x, AD_GRAD_RECORD);
        near(d, slopes[i < 5 ? i : 4], i < 5 ? fmax(tolerance[i], 5e-16) : 5e-16, "slope");
    }
    near(y, sqrt(2), 4e-16, "root");
    near(gradient(d, x, 0), -.0883883476483185, 1e-15, "second derivative");
    // Implicitly: y^2 = x, so dy/dx = 1 / (2 y) at the fixed point, from one recorded step.
    double root = ad_item(ctx, y);
    size_t nodes = ad_memory_read(ctx).node_count;
    ad_tensor fixed = leaf(root), residual = ad_sub(ctx, ad_square(ctx, fixed), x), r[2];
    ad_grad(ctx, residual, (ad_tensor){0}, 2, (ad_tensor[]){fixed, x}, r, 0);
    near(ad_neg(ctx, ad_div(ctx, r[1], r[0])), .353553390593274, 1e-15, "implicit");
    cr_assert_leq(ad_memory_read(ctx).node_count - nodes, 2, "memory does not grow with the steps");
}

Test(known, third_derivative_of_a_power) {
    ad_tensor x = leaf(2), y = ad_pow(ctx, x, number(5)), d = y;
    const double expected[] = {80, 160, 240, 240, 120, 0};
    for (int order = 0; order < 6; order++) {
        d = gradient(d, x, AD_GRAD_RECORD);
        near(d, expected[order], 1e-11, "derivative of x^5 at 2");
    }
    // By multiplications, forward over reverse over reverse.
    x = ad_watch(ctx, ad_dual(ctx, number(2), number(1)));
    ad_tensor square = ad_square(ctx, x);
    d = gradient(ad_mul(ctx, x, ad_square(ctx, square)), x, AD_GRAD_RECORD);
    d = gradient(d, x, AD_GRAD_RECORD);
    near(ad_tangent(ctx, d), 240, 1e-12, "third derivative");
}
