/* Known answers of small networks: the two-layer worked example, logistic regression, least
 * squares, the delta recursion by hand, batches, dynamic depth, trees, and what a gradient costs.
 *
 * A batch's weight gradient is D'A with D (batch, out) and A (batch, in): the weight's shape.
 * Gradients are checked against hand calculations and against central differences, in f64. */
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
TestSuite(networks, .init = open_context, .fini = close_context);

static void near(double value, double expected, double tolerance, const char *what) {
    cr_assert(!ad_failed(ctx), "%s: %s", what, ad_error_text(ctx));
    cr_assert(fabs(value - expected) <= tolerance, "%s: %.17g, expected %.17g within %g", what,
              value, expected, tolerance);
}

static void all_near(ad_tensor x, const double *expected, double tolerance, const char *what) {
    double value[512];
    int64_t count = ad_count(ctx, x);
    cr_assert(count <= 512 && ad_read(ctx, ad_cast(ctx, x, AD_F64), value, (size_t)count * 8),
              "%s: %s", what, ad_error_text(ctx));
    for (int64_t i = 0; i < count; i++) near(value[i], expected[i], tolerance, what);
}

static ad_tensor values(ad_type type, ad_shape shape, const double *data) {
    return ad_cast(ctx, ad_from(ctx, AD_F64, shape, data), type);
}

static ad_tensor random_leaf(ad_shape shape) {
    return ad_watch(ctx, ad_normal(ctx, AD_F64, shape, 0, .5));
}

static ad_tensor element(ad_tensor x, int64_t i) {
    return ad_reshape(ctx, ad_slice(ctx, x, 0, i, i + 1, 1), AD_SCALAR);
}

static ad_tensor total(ad_tensor x) { return ad_sum(ctx, x, AD_ALL_AXES, false); }

/* ---- the worked example: L = (yhat - y)^2 / 2, yhat = w2 relu(w1 x + b1) + b2 */

static ad_tensor worked(ad_context *c, ad_tensor p, void *user) { // p: w1, b1, w2, b2
    const ad_tensor *in = user;                                   // x, y
    ad_tensor a = ad_relu(c, ad_add(c, ad_mul(c, element(p, 0), in[0]), element(p, 1)));
    ad_tensor yhat = ad_add(c, ad_mul(c, element(p, 2), a), element(p, 3));
    return ad_affine(c, ad_square(c, ad_sub(c, yhat, in[1])), .5, 0);
}

// w1 = .5, b1 = .1, w2 = .8, b2 = .2, x = 2, y = 1.5: z1 = 1.1, yhat = 1.08
static const double at[] = {.5, .1, .8, .2}, slope[] = {-.672, -.336, -.462, -.42};

Test(networks, two_layer_example) {
    const ad_type types[] = {AD_F64, AD_F32};
    for (int i = 0; i < 2; i++) {
        double tolerance = i ? 1e-7 : 1e-15;
        ad_tensor p = ad_parameter(ctx, "p", values(types[i], AD_SHAPE(4), at)), d[3];
        ad_tensor in[] = {ad_watch(ctx, ad_scalar(ctx, types[i], 2)),
                          ad_watch(ctx, ad_scalar(ctx, types[i], 1.5))};
        ad_tensor loss = worked(ctx, p, in);
        near(ad_item(ctx, loss), .0882, tolerance, "loss");
        cr_assert(ad_grad(ctx, loss, (ad_tensor){0}, 3, (ad_tensor[]){p, in[0], in[1]}, d, 0));
        all_near(d[0], slope, i ? 1e-7 : 4e-16, "gradient");
        near(ad_item(ctx, d[1]), -.168, i ? 1e-7 : 1e-15, "dx");
        near(ad_item(ctx, d[2]), .42, tolerance, "dy");
        ad_optimizer *sgd = ad_sgd(ctx, &p, 1, &(ad_sgd_options){.learning_rate = .1});
        ad_grad_add(ctx, loss, 1, &p, 0);
        ad_optimizer_step(sgd);
        const double after[] = {.5672, .1336, .8462, .242};
        // The rate .1 is an f32 state.
        all_near(p, after, i ? 1e-7 : 2e-9, "after a step");
        near(ad_item(ctx, worked(ctx, p, in)), .0171159041692796, i ? 1e-7 : 2e-9, "loss after");
    }
}

Test(networks, two_layer_hessian_and_gradient_of_gradients) {
    ad_tensor in[] = {ad_scalar(ctx, AD_F64, 2), ad_scalar(ctx, AD_F64, 1.5)};
    ad_tensor p = values(AD_F64, AD_SHAPE(4), at), leaf = ad_watch(ctx, p), d, dd;
    const double h[] = {2.56, 1.28, .92, 1.6, 1.28, .64, .46, .8,
                        .92,  .46,  1.21, 1.1, 1.6, .8, 1.1, 1};
    const double row_sums[] = {6.36, 3.18, 3.69, 4.5};
    all_near(ad_hessian(ctx, worked, in, p), h, 1e-14, "Hessian");
    ad_tensor one = ad_full(ctx, AD_F64, AD_SHAPE(4), 1);
    all_near(ad_hvp(ctx, worked, in, p, one), row_sums, 1e-14, "H 1");
    // The gradient of the sum of the gradients is H 1, not the Hessian.
    ad_grad(ctx, worked(ctx, leaf, in), (ad_tensor){0}, 1, &leaf, &d, AD_GRAD_RECORD);
    ad_grad(ctx, total(d), (ad_tensor){0}, 1, &leaf, &dd, 0);
    all_near(dd, row_sums, 1e-14, "gradient of gradients");
}

/* ---- regressions */

static ad_tensor least_squares(ad_context *c, ad_tensor x, void *user) {
    const ad_tensor *ab = user;
    return total(ad_square(c, ad_sub(c, ad_matmul(c, ab[0], x, false, false), ab[1])));
}

Test(networks, least_squares) {
    ad_tensor ab[] = {values(AD_F64, AD_SHAPE(3, 2), (double[]){1, 2, 3, 4, 5, 6}),
                      values(AD_F64, AD_SHAPE(3, 1), (double[]){1, 0, 2})};
    ad_tensor x = ad_watch(ctx, values(AD_F64, AD_SHAPE(2, 1), (double[]){1, -1})), d;
    ad_tensor f = least_squares(ctx, x, ab);
    near(ad_item(ctx, f), 14, 0, "f");
    ad_grad(ctx, f, (ad_tensor){0}, 1, &x, &d, 0);
    all_near(d, (double[]){-40, -52}, 0, "gradient");
    all_near(ad_hessian(ctx, least_squares, ab, x), (double[]){70, 88, 88, 112}, 0, "Hessian");
    // Gradient descent, then conjugate gradients (two products with the Hessian, no Hessian).
    double at_x[2] = {1, -1}, g[2], r[2], p[2], hp[2];
    for (int step = 0; step < 20000; step++) {
        ad_scope_begin(ctx, "step");
        ad_tensor w = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(2, 1), at_x));
        ad_grad(ctx, least_squares(ctx, w, ab), (ad_tensor){0}, 1, &w, &d, 0);
        ad_read(ctx, d, g, sizeof g);
        for (int i = 0; i < 2; i++) at_x[i] -= g[i] * .01;
        ad_scope_end(ctx);
    }
    near(at_x[0], 0, 1e-10, "descent"), near(at_x[1], .25, 1e-10, "descent");
    double y[2] = {1, -1}, rr = 40. * 40 + 52. * 52;
    r[0] = p[0] = 40, r[1] = p[1] = 52;
    for (int k = 0; k < 2; k++) {
        ad_tensor v = ad_from(ctx, AD_F64, AD_SHAPE(2, 1), p);
        ad_read(ctx, ad_hvp(ctx, least_squares, ab, x, v), hp, sizeof hp);
        double step = rr / (p[0] * hp[0] + p[1] * hp[1]), old = rr;
        for (int i = 0; i < 2; i++) y[i] += step * p[i], r[i] -= step * hp[i];
        rr = r[0] * r[0] + r[1] * r[1];
        for (int i = 0; i < 2; i++) p[i] = r[i] + rr / old * p[i];
    }
    near(y[0], 0, 1e-10, "conjugate gradients"), near(y[1], .25, 1e-10, "conjugate gradients");
}

Test(networks, logistic_regression) {
    ad_tensor w = ad_watch(ctx, values(AD_F64, AD_SHAPE(2), (double[]){.5, -.25}));
    ad_tensor x = values(AD_F64, AD_SHAPE(2), (double[]){1, 2}), d[2];
    ad_tensor b = ad_watch(ctx, ad_scalar(ctx, AD_F64, .1)), one = ad_scalar(ctx, AD_F64, 1);
    ad_tensor z = ad_add(ctx, total(ad_mul(ctx, w, x)), b), p = ad_sigmoid(ctx, z);
    near(ad_item(ctx, p), .52497918747894, 1e-14, "p");
    ad_tensor losses[] = {ad_neg(ctx, ad_log(ctx, p)), ad_logistic_loss(ctx, z, one)};
    for (int i = 0; i < 2; i++) {
        near(ad_item(ctx, losses[i]), .644396660073571, 1e-14, "loss");
        ad_grad(ctx, losses[i], (ad_tensor){0}, 2, (ad_tensor[]){w, b}, d, 0);
        near(ad_item(ctx, d[1]), -.475020812521060, 1e-14, "db");
        all_near(d[0], (double[]){-.475020812521060, -.950041625042120}, 1e-14, "dw");
    }
    for (int sign = -1; sign <= 1; sign += 2) { // finite far out, with the right slope
        z = ad_watch(ctx, ad_scalar(ctx, AD_F64, sign * 1000));
        ad_tensor loss = ad_logistic_loss(ctx, z, one);
        near(ad_item(ctx, loss), sign < 0 ? 1000 : 0, 1e-12, "softplus form");
        ad_grad(ctx, loss, (ad_tensor){0}, 1, &z, d, 0);
        near(ad_item(ctx, d[0]), sign < 0 ? -1 : 0, 1e-14, "slope");
    }
}

/* ---- layers: forward and hand recursion over (batch, width) */

static ad_tensor network(ad_tensor x, int layers, const ad_tensor *w, const ad_tensor *b) {
    for (int l = 0; l < layers; l++) x = ad_tanh(ctx, ad_linear(ctx, x, w[l], b[l]));
    return x;
}

Test(networks, delta_recursion_by_hand) {
    // D_L = (a_L - y) * f'(z_L); D_l = (D_{l+1} W_{l+1}) * f'(z_l); dW_l = D_l' A_{l-1}.
    const int width[] = {4, 7, 5, 6, 3, 2};
    enum { LAYERS = 5, BATCH = 8 };
    ad_tensor w[2 * LAYERS], a[LAYERS + 1], d[2 * LAYERS + 1];
    for (int l = 0; l < LAYERS; l++) {
        w[l] = random_leaf(AD_SHAPE(width[l + 1], width[l]));
        w[LAYERS + l] = random_leaf(AD_SHAPE(width[l + 1]));
    }
    ad_tensor x = random_leaf(AD_SHAPE(BATCH, 4)), y = random_leaf(AD_SHAPE(BATCH, 2)), in[11];
    memcpy(in, w, sizeof w), in[10] = x;
    ad_tensor error = ad_sub(ctx, network(x, LAYERS, w, w + LAYERS), ad_stop_gradient(ctx, y));
    ad_grad(ctx, ad_affine(ctx, total(ad_square(ctx, error)), .5, 0), (ad_tensor){0}, 11, in, d, 0);
    ad_no_grad_begin(ctx);
    a[0] = x;
    for (int l = 0; l < LAYERS; l++)
        a[l + 1] = ad_tanh(ctx, ad_linear(ctx, a[l], w[l], w[LAYERS + l]));
    ad_tensor delta = ad_sub(ctx, a[LAYERS], y);
    for (int l = LAYERS - 1; l >= 0; l--) {
        delta = ad_mul(ctx, delta, ad_affine(ctx, ad_square(ctx, a[l + 1]), -1, 1));
        double hand[64], bias[8];
        ad_tensor dw = ad_matmul(ctx, delta, a[l], true, false);
        ad_read(ctx, dw, hand, (size_t)ad_count(ctx, dw) * 8);
        ad_read(ctx, ad_sum(ctx, delta, 1, false), bias, (size_t)width[l + 1] * 8);
        all_near(d[l], hand, 1e-12, "weights"), all_near(d[LAYERS + l], bias, 1e-12, "biases");
        cr_assert_eq(ad_shape_of(ctx, d[l]).size[0], width[l + 1]);
        cr_assert_eq(ad_shape_of(ctx, d[l]).size[1], width[l]);
        delta = ad_matmul(ctx, delta, w[l], false, false);
    }
    double hand[BATCH * 4];
    ad_read(ctx, delta, hand, sizeof hand);
    all_near(d[10], hand, 1e-12, "inputs: W' D ... W' D");
    // The batch's gradient is the sum of its samples' gradients.
    ad_tensor sum[LAYERS] = {{0}}, one[LAYERS];
    ad_no_grad_end(ctx);
    for (int i = 0; i < BATCH; i++) {
        ad_tensor row = ad_slice(ctx, x, 0, i, i + 1, 1), target = ad_slice(ctx, y, 0, i, i + 1, 1);
        error = ad_sub(ctx, network(row, LAYERS, w, w + LAYERS), ad_stop_gradient(ctx, target));
        ad_tensor loss = ad_affine(ctx, total(ad_square(ctx, error)), .5, 0);
        ad_grad(ctx, loss, (ad_tensor){0}, LAYERS, w, one, 0);
        for (int l = 0; l < LAYERS; l++) sum[l] = i ? ad_add(ctx, sum[l], one[l]) : one[l];
    }
    for (int l = 0; l < LAYERS; l++) {
        double whole[64];
        ad_read(ctx, d[l], whole, (size_t)ad_count(ctx, d[l]) * 8);
        all_near(sum[l], whole, 1e-12, "sum over samples");
    }
}

/* ---- gradient check of whole functions: ||a - n|| / (||a|| + ||n|| + 1e-8), eps = 1e-5 */

typedef struct problem {
    int depth;
    ad_tensor x;
    uint32_t tree;
} problem;

static double check_gradient(ad_function f, void *user, ad_tensor x) {
    double point[512], analytic[512], difference = 0, size = 1e-8;
    int64_t n = ad_count(ctx, x);
    ad_shape shape = ad_shape_of(ctx, x);
    ad_tensor leaf = ad_watch(ctx, x), d;
    ad_grad(ctx, f(ctx, leaf, user), (ad_tensor){0}, 1, &leaf, &d, 0);
    cr_assert(ad_read(ctx, d, analytic, (size_t)n * 8), "%s", ad_error_text(ctx));
    ad_read(ctx, x, point, (size_t)n * 8);
    for (int64_t i = 0; i < n; i++) {
        ad_scope_begin(ctx, "difference");
        double old = point[i], value[2];
        for (int side = 0; side < 2; side++) {
            point[i] = old + (side ? -1e-5 : 1e-5);
            value[side] = ad_item(ctx, f(ctx, ad_from(ctx, AD_F64, shape, point), user));
        }
        point[i] = old;
        double numeric = (value[0] - value[1]) / 2e-5;
        difference += (numeric - analytic[i]) * (numeric - analytic[i]);
        size += fabs(numeric) + fabs(analytic[i]);
        ad_scope_end(ctx);
    }
    return sqrt(difference) / size;
}

static ad_tensor of_depth(ad_context *c, ad_tensor w, void *user) { // w (5, 5), shared by layers
    const problem *p = user;
    ad_tensor x = p->x;
    for (int l = 0; l < p->depth; l++) x = ad_sigmoid(c, ad_linear(c, x, w, (ad_tensor){0}));
    return ad_add(c, total(ad_square(c, x)), ad_affine(c, total(w), p->depth ? 0 : 1, 0));
}

static ad_tensor mlp(ad_context *c, ad_tensor p, void *user) { // 4 -> 8 -> 1, batch 32
    const problem *q = user;
    ad_tensor w1 = ad_reshape(c, ad_slice(c, p, 0, 0, 32, 1), AD_SHAPE(8, 4));
    ad_tensor b1 = ad_slice(c, p, 0, 32, 40, 1), b2 = ad_slice(c, p, 0, 48, 49, 1);
    ad_tensor w2 = ad_reshape(c, ad_slice(c, p, 0, 40, 48, 1), AD_SHAPE(1, 8));
    ad_tensor h = ad_tanh(c, ad_linear(c, q->x, w1, b1));
    return ad_mean(c, ad_square(c, ad_linear(c, h, w2, b2)), AD_ALL_AXES, false);
}

// A random binary tree: a node joins its children by tanh(w . (left, right)).
static ad_tensor grow(ad_context *c, ad_tensor w, problem *p, int depth) {
    p->tree = p->tree * 1664525u + 1013904223u;
    if (depth == 0 || p->tree >> 29 == 0) return element(w, 2 + p->tree % 5);
    ad_tensor left = grow(c, w, p, depth - 1), right = grow(c, w, p, depth - 1);
    return ad_tanh(c, ad_add(c, ad_mul(c, element(w, 0), left), ad_mul(c, element(w, 1), right)));
}

static ad_tensor tree(ad_context *c, ad_tensor w, void *user) {
    problem p = *(problem *)user;
    return grow(c, w, &p, 5);
}

static ad_tensor leaves(const ad_tensor *x, int n) {
    return n == 1 ? x[0] : ad_add(ctx, leaves(x, n / 2), leaves(x + n / 2, n - n / 2));
}

Test(networks, gradient_checks_of_dynamic_graphs) {
    problem p = {.x = ad_normal(ctx, AD_F64, AD_SHAPE(3, 5), 0, 1)};
    ad_tensor w = ad_normal(ctx, AD_F64, AD_SHAPE(5, 5), 0, .5);
    for (p.depth = 0; p.depth <= 5; p.depth++)
        near(check_gradient(of_depth, &p, w), 0, 1e-7, "dynamic depth");
    p.x = ad_normal(ctx, AD_F64, AD_SHAPE(32, 4), 0, 1);
    near(check_gradient(mlp, &p, ad_normal(ctx, AD_F64, AD_SHAPE(49), 0, .5)), 0, 1e-7, "4-8-1");
    for (p.tree = 1; p.tree < 9; p.tree++)
        near(check_gradient(tree, &p, ad_normal(ctx, AD_F64, AD_SHAPE(7), 0, .7)), 0, 1e-7, "tree");
    ad_tensor x[37], d[37];
    for (int i = 0; i < 37; i++) x[i] = ad_watch(ctx, ad_scalar(ctx, AD_F64, i));
    ad_grad(ctx, leaves(x, 37), (ad_tensor){0}, 37, x, d, 0);
    for (int i = 0; i < 37; i++) near(ad_item(ctx, d[i]), 1, 0, "sum over leaves");
}

/* ---- cost */

Test(networks, a_gradient_costs_three_forward_passes) {
    // Products of a network whose input is tracked: 2 b m n forward, 4 b m n backward.
    ad_tensor x = ad_watch(ctx, ad_ones(ctx, 64, 24)), h = x, p[4] = {x}, d[4];
    const int width[] = {24, 40, 16, 8};
    double start = ad_memory_read(ctx).flops, expected = 0;
    for (int l = 0; l < 3; l++) {
        p[l + 1] = ad_watch(ctx, ad_full(ctx, AD_F32, AD_SHAPE(width[l + 1], width[l]), .01));
        h = ad_linear(ctx, h, p[l + 1], (ad_tensor){0});
        expected += 2. * 64 * width[l] * width[l + 1];
    }
    double forward = ad_memory_read(ctx).flops - start;
    ad_grad(ctx, h, ad_ones(ctx, 64, 8), 4, p, d, 0);
    double all = ad_memory_read(ctx).flops - start;
    near(forward, expected, 0, "forward");
    near(all / forward, 3, 0, "ratio");
    // The fused network counts the same.
    ad_tensor w[] = {p[1], p[2], p[3]};
    start = ad_memory_read(ctx).flops;
    h = ad_mlp(ctx, x, 3, w, NULL, (ad_tensor){0}, NULL);
    near(ad_memory_read(ctx).flops - start, expected, 0, "fused forward");
    ad_grad(ctx, h, ad_ones(ctx, 64, 8), 4, p, d, 0);
    near((ad_memory_read(ctx).flops - start) / expected, 3, 0, "fused ratio");
}
