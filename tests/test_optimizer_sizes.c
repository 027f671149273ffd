/* The kernels of optimisers, which the harness of the operations leaves out: they have no gradient
 * and live on buffers that only an optimiser owns. What it would ask of them is asked here: every
 * size from none on (tails of the vectors, shares of the threads), the same bits on 1, 2 and 4
 * threads, f64, a NaN that stays where it came from, and no gradient left behind.
 * test_optimizer.c has the formulas' trajectories and what surrounds them. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 4, LARGE = 3 * 65536 + 77 }; // past the size from which threads share the work

static const int64_t sizes[] = {0, 1, 3, 15, 16, 17, 31, 33, 255, 4099, LARGE};
enum { SIZES = sizeof sizes / sizeof *sizes };

typedef enum kind { SGD, MOMENTUM, ADAM, ADAM_L2, ADAMW, SPARSE, KINDS } kind;
static const char *const names[KINDS] = {"sgd", "momentum", "adam", "adam with L2", "adamw",
                                         "sparse adam"};

static double initial(int64_t i) { return cos(0.1 * (double)(i % 1000)) + 1.5; }

// Gradients of all signs and sizes; each entry rests in some steps, some blocks of 16 always, and
// in some only one does not.
static double slope(int step, int64_t i) {
    int64_t block = i / 16 % 64;
    if (block >= 16 && block < 32) return i % 16 == block - 16 ? 0.5 : 0;
    if ((i + step) % 3 == 0 || block == 5) return 0;
    return sin(1.3 * step + 0.7 * (double)(i % 977)) * (i % 4 ? 1 : 1e-3);
}

/* ---- what is expected, an entry at a time */

static double entry_after(kind k, int64_t i) {
    const double rate = (float)0.05, b1 = 0.9, b2 = 0.99, eps = 1e-8;
    double p = initial(i), m = 0, v = 0, decay = k == ADAM_L2 || k == ADAMW ? 0.1 : 0;
    for (int step = 1, t = 0; step <= STEPS; step++) {
        double g = slope(step, i);
        if (k == SGD) p -= rate * g;
        if (k == MOMENTUM) m = 0.9 * m + g, p -= rate * m;
        if (k < ADAM || (k == SPARSE && g == 0)) continue;
        t++;
        if (k == ADAM_L2) g += decay * p;
        if (k == ADAMW) p -= rate * decay * p;
        m = b1 * m + (1 - b1) * g, v = b2 * v + (1 - b2) * g * g;
        p -= rate * (m / (1 - pow(b1, t))) / (sqrt(v / (1 - pow(b2, t))) + eps);
    }
    return p;
}

/* ---- what is found */

static ad_optimizer *open_optimizer(ad_context *ctx, kind k, ad_tensor *p) {
    const ad_adam_options adam = {.learning_rate = 0.05, .beta1 = 0.9, .beta2 = 0.99,
                                  .weight_decay = k == ADAM_L2 || k == ADAMW ? 0.1 : 0,
                                  .decoupled = k == ADAMW, .sparse = k == SPARSE};
    const ad_sgd_options sgd = {.learning_rate = 0.05, .momentum = k == MOMENTUM ? 0.9 : 0};
    return k < ADAM ? ad_sgd(ctx, p, 1, &sgd) : ad_adam(ctx, p, 1, &adam);
}

// The parameter after some steps: (n) f64; free(). From the second step on, entry nan_at (unless
// it is negative) has had a gradient that is not a number.
static double *train(kind k, ad_type type, int64_t n, int threads, int64_t nan_at) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    double *values = malloc((size_t)(n + 1) * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = initial(i);
    ad_tensor start = ad_from(ctx, AD_F64, AD_SHAPE(n), values);
    ad_tensor p = ad_parameter(ctx, "p", ad_cast(ctx, start, type)), g = ad_gradient(ctx, p);
    ad_optimizer *o = open_optimizer(ctx, k, &p);
    for (int step = 1; step <= STEPS; step++) {
        ad_scope_begin(ctx, "step");
        for (int64_t i = 0; i < n; i++) values[i] = slope(step, i);
        if (nan_at >= 0 && step >= 2) values[nan_at] = NAN;
        ad_assign(ctx, g, ad_from(ctx, AD_F64, AD_SHAPE(n), values));
        ad_optimizer_step(o);
        ad_scope_end(ctx);
    }
    cr_assert(ad_read(ctx, ad_cast(ctx, g, AD_F64), values, (size_t)n * 8), "%s, %lld entries: %s",
              names[k], (long long)n, ad_error_text(ctx));
    for (int64_t i = 0; i < n; i++)
        cr_assert(values[i] == 0, "%s: gradient %lld of %lld is left", names[k], (long long)i,
                  (long long)n);
    cr_assert(ad_read(ctx, ad_cast(ctx, p, AD_F64), values, (size_t)n * 8), "%s",
              ad_error_text(ctx));
    ad_close(ctx);
    return values;
}

// Bits that must not depend on threads.
static void expect_same(const double *a, const double *b, int64_t n, const char *what) {
    cr_assert(n == 0 || memcmp(a, b, (size_t)n * sizeof *a) == 0, "%s: other bits, %lld entries",
              what, (long long)n);
}

Test(optimizer_sizes, every_entry_takes_its_step, .timeout = 120) {
    for (kind k = 0; k < KINDS; k++)
        for (int s = 0; s < SIZES; s++) {
            int64_t n = sizes[s];
            double *found = train(k, AD_F32, n, 1, -1);
            for (int64_t i = 0; i < n; i++) {
                double expected = entry_after(k, i);
                cr_assert(fabs(found[i] - expected) <= 2e-6, "%s: entry %lld of %lld: %.9g, "
                          "expected %.9g", names[k], (long long)i, (long long)n, found[i],
                          expected);
            }
            for (int threads = 2; threads <= 4; threads += 2) {
                double *again = train(k, AD_F32, n, threads, -1);
                expect_same(found, again, n, names[k]);
                free(again);
            }
            free(found);
        }
}

Test(optimizer_sizes, in_f64) {
    for (kind k = 0; k < SPARSE; k++) // which has no f64 form
        for (int s = 0; s < SIZES - 1; s++) {
            double *found = train(k, AD_F64, sizes[s], 2, -1);
            for (int64_t i = 0; i < sizes[s]; i++)
                cr_assert(fabs(found[i] - entry_after(k, i)) <= 1e-12, "%s: entry %lld of %lld",
                          names[k], (long long)i, (long long)sizes[s]);
            free(found);
        }
}

Test(optimizer_sizes, a_nan_stays_in_its_entry) {
    static const int64_t places[] = {0, 15, 16, 4098};
    const int64_t n = 4099;
    for (kind k = 0; k < KINDS; k++) {
        double *clean = train(k, AD_F32, n, 2, -1);
        for (int j = 0; j < 4; j++) {
            int64_t at = places[j];
            double *found = train(k, AD_F32, n, 2, at);
            cr_assert(isnan(found[at]), "%s: the NaN at %lld was lost", names[k], (long long)at);
            expect_same(found, clean, at, names[k]);
            expect_same(found + at + 1, clean + at + 1, n - at - 1, names[k]);
            free(found);
        }
        free(clean);
    }
}

/* ---- averages, clipping, the gate of loss scaling */

static double *average(int64_t n, int threads) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    double *values = malloc((size_t)(n + 1) * sizeof *values);
    ad_tensor state = ad_state(ctx, "average", ad_zeros(ctx, n));
    for (int step = 1; step <= STEPS; step++) {
        for (int64_t i = 0; i < n; i++) values[i] = initial(i) * step;
        ad_tensor value = ad_from(ctx, AD_F64, AD_SHAPE(n), values);
        ad_ema_update(ctx, state, ad_cast(ctx, value, AD_F32), 0.75);
    }
    cr_assert(ad_read(ctx, ad_cast(ctx, state, AD_F64), values, (size_t)n * 8), "%s",
              ad_error_text(ctx));
    ad_close(ctx);
    return values;
}

Test(optimizer_sizes, averages) {
    double factor = 0; // of an average of 1 x, 2 x, 3 x, ...
    for (int step = 1; step <= STEPS; step++) factor += 0.25 * (step - factor);
    for (int s = 0; s < SIZES; s++) {
        double *one = average(sizes[s], 1), *four = average(sizes[s], 4);
        expect_same(one, four, sizes[s], "average");
        for (int64_t i = 0; i < sizes[s]; i++)
            cr_assert_float_eq(one[i], initial(i) * factor, 1e-5, "%lld", (long long)i);
        free(one), free(four);
    }
}

// The clipped gradient of a parameter of n entries beside one of 5; *norm as it is told.
static double *clip(int64_t n, int threads, double most, int64_t nan_at, double *norm) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    double *values = malloc((size_t)(n + 5) * sizeof *values);
    ad_tensor p[] = {ad_parameter(ctx, "p", ad_zeros(ctx, n)),
                     ad_parameter(ctx, "q", ad_zeros(ctx, 5))};
    for (int64_t i = 0; i < n; i++) values[i] = i == nan_at ? NAN : slope(1, i);
    ad_assign(ctx, ad_gradient(ctx, p[0]), ad_from(ctx, AD_F64, AD_SHAPE(n), values));
    ad_assign(ctx, ad_gradient(ctx, p[1]), ad_full(ctx, AD_F64, AD_SHAPE(5), 2));
    ad_tensor length = ad_cast(ctx, ad_clip_norm(ctx, 2, p, most), AD_F64);
    ad_tensor g = ad_cast(ctx, ad_gradient(ctx, p[0]), AD_F64);
    cr_assert(ad_read(ctx, length, norm, 8) && ad_read(ctx, g, values, (size_t)n * 8), "%s",
              ad_error_text(ctx));
    ad_close(ctx);
    return values;
}

Test(optimizer_sizes, clipping) {
    for (int s = 0; s < SIZES; s++) {
        int64_t n = sizes[s];
        double squares = 5 * 4, norm, other;
        for (int64_t i = 0; i < n; i++) squares += slope(1, i) * slope(1, i);
        double most = 0.5 * sqrt(squares);
        double *one = clip(n, 1, most, -1, &norm), *four = clip(n, 4, most, -1, &other);
        cr_assert(fabs(norm / sqrt(squares) - 1) < 1e-5 && norm == other, "%lld: %.9g, expected "
                  "%.9g", (long long)n, norm, sqrt(squares));
        expect_same(one, four, n, "clipping");
        for (int64_t i = 0; i < n; i++)
            cr_assert_float_eq(one[i], 0.5 * slope(1, i), 1e-5, "%lld", (long long)i);
        free(one), free(four);
    }
    // Not a number: said by the norm, and the rest of the gradient is as it was.
    double norm, *found = clip(17, 2, 1, 16, &norm);
    cr_assert(isnan(norm) && isnan(found[16]));
    for (int64_t i = 0; i < 16; i++) cr_assert_eq(found[i], (float)slope(1, i));
    free(found);
}

Test(optimizer_sizes, one_bad_entry_anywhere_closes_the_gate) {
    for (int s = 1; s < SIZES; s++)
        for (int place = 0; place < 3; place++) {
            int64_t n = sizes[s], at = place == 0 ? 0 : place == 1 ? n / 2 : n - 1;
            ad_context *ctx = ad_open(&(ad_options){.threads = 2, .poison = true});
            float *values = calloc((size_t)n, sizeof *values), scale[2];
            ad_tensor p = ad_parameter(ctx, "p", ad_zeros(ctx, n));
            ad_tensor state = ad_loss_scale_open(ctx, 1024);
            ad_optimizer *o = open_optimizer(ctx, ADAM, &p);
            for (int64_t i = 0; i < n; i++) values[i] = 1;
            values[at] = place == 1 ? INFINITY : NAN;
            ad_write(ctx, ad_gradient(ctx, p), values, (size_t)n * 4);
            ad_loss_scale_step(o, state);
            cr_assert(ad_read(ctx, p, values, (size_t)n * 4) && ad_read(ctx, state, scale, 8),
                      "%s", ad_error_text(ctx));
            for (int64_t i = 0; i < n; i++)
                cr_assert(values[i] == 0, "entry %lld of %lld moved", (long long)i, (long long)n);
            cr_assert_eq(scale[0], 512);
            free(values);
            ad_close(ctx);
        }
}
