/* Fills, random tensors, dropout and losses. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

Test(fill, full_and_range) {
    ad_context *ctx = ad_open(NULL);
    static float many[40000];
    ad_read(ctx, ad_full(ctx, AD_F32, AD_SHAPE(200, 200), 1.5), many, sizeof many);
    for (int i = 0; i < 40000; i++) cr_assert(many[i] == 1.5f);
    ad_read(ctx, ad_range(ctx, AD_F32, 40000), many, sizeof many);
    for (int i = 0; i < 40000; i++) cr_assert(many[i] == (float)i);
    cr_expect(ad_item(ctx, ad_scalar(ctx, AD_I32, -3)) == -3);
    cr_expect(ad_item(ctx, ad_scalar(ctx, AD_U32, 4294967295.0)) == 4294967295.0);
    cr_expect(ad_item(ctx, ad_scalar(ctx, AD_BF16, 0.5)) == 0.5);
    cr_expect(ad_count(ctx, ad_zeros(ctx, 3, 0)) == 0 && !ad_failed(ctx));
    cr_expect(ad_is_null(ad_full(ctx, AD_F32, (ad_shape){.rank = 7}, 0)) && ad_failed(ctx));
    ad_close(ctx);
}

enum { DRAWS = 100003 };

static void draw_all(int threads, uint64_t seed, int steps, float *uniform, float *normal) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads, .seed = seed});
    for (int i = 0; i < steps; i++) ad_step_advance(ctx);
    ad_tensor u = ad_uniform(ctx, AD_F32, AD_SHAPE(DRAWS), -1, 3);
    ad_tensor n = ad_normal(ctx, AD_F32, AD_SHAPE(DRAWS), 2, 0.5);
    cr_assert(ad_read(ctx, u, uniform, DRAWS * 4) && ad_read(ctx, n, normal, DRAWS * 4), "%s",
              ad_error_text(ctx));
    ad_close(ctx);
}

Test(random_ops, moments_seeds_steps_threads) {
    static float u[DRAWS], n[DRAWS], u2[DRAWS], n2[DRAWS];
    draw_all(1, 9, 0, u, n);
    double mean = 0, square = 0, normal_mean = 0, normal_square = 0;
    for (int i = 0; i < DRAWS; i++) {
        cr_assert(u[i] >= -1 && u[i] < 3);
        mean += u[i], square += u[i] * u[i], normal_mean += n[i], normal_square += n[i] * n[i];
    }
    mean /= DRAWS, square /= DRAWS, normal_mean /= DRAWS, normal_square /= DRAWS;
    cr_expect(fabs(mean - 1) < 0.01 && fabs(square - mean * mean - 16.0 / 12) < 0.01);
    cr_expect(fabs(normal_mean - 2) < 0.005);
    cr_expect(fabs(normal_square - normal_mean * normal_mean - 0.25) < 0.005);
    for (int threads = 2; threads <= 4; threads *= 2) {
        draw_all(threads, 9, 0, u2, n2);
        cr_expect(!memcmp(u, u2, sizeof u) && !memcmp(n, n2, sizeof n), "%d threads", threads);
    }
    for (int other = 0; other < 2; other++) { // another seed, another step: unrelated numbers
        draw_all(1, other ? 9 : 10, other, u2, n2);
        double product = 0;
        for (int i = 0; i < DRAWS; i++) product += (u[i] - 1) * (u2[i] - 1);
        cr_expect(fabs(product / DRAWS) < 0.02, "correlation %g", product / DRAWS);
    }
}

Test(random_ops, types_and_ordinals) {
    ad_context *ctx = ad_open(&(ad_options){.seed = 3});
    double wide[1000], again[1000];
    float narrow[1000];
    int32_t whole[1000], seen[3] = {0};
    ad_read(ctx, ad_normal(ctx, AD_F64, AD_SHAPE(1000), 0, 1), wide, sizeof wide);
    ad_read(ctx, ad_normal(ctx, AD_F64, AD_SHAPE(1000), 0, 1), again, sizeof again);
    cr_expect(memcmp(wide, again, sizeof wide), "two operations of one step draw the same");
    ad_step_advance(ctx); // ordinals begin again, the step differs
    ad_read(ctx, ad_normal(ctx, AD_F64, AD_SHAPE(1000), 0, 1), again, sizeof again);
    cr_expect(memcmp(wide, again, sizeof wide), "two steps draw the same");
    ad_write(ctx, ad_step_tensor(ctx), &(uint32_t){0}, 4);
    ad_step_advance(ctx);
    ad_write(ctx, ad_step_tensor(ctx), &(uint32_t){0}, 4);
    ad_read(ctx, ad_normal(ctx, AD_F32, AD_SHAPE(1000), 0, 1), narrow, sizeof narrow);
    for (int i = 0; i < 1000; i++) cr_assert(narrow[i] == (float)wide[i], "f32 differs from f64");
    ad_read(ctx, ad_uniform(ctx, AD_I32, AD_SHAPE(1000), -1, 2), whole, sizeof whole);
    for (int i = 0; i < 1000; i++) {
        cr_assert(whole[i] >= -1 && whole[i] <= 1);
        seen[whole[i] + 1]++;
    }
    cr_expect(seen[0] > 250 && seen[1] > 250 && seen[2] > 250);
    cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_expect(ad_is_null(ad_normal(ctx, AD_U32, AD_SHAPE(2), 0, 1)) && ad_failed(ctx));
    ad_close(ctx);
}

Test(random_ops, dropout) {
    enum { N = 5000 };
    ad_context *ctx = ad_open(&(ad_options){.seed = 3});
    float x[N], y[N], dy[N], dx[N];
    for (int i = 0; i < N; i++) x[i] = (float)(i + 1), dy[i] = (float)(i % 7) - 3;
    ad_tensor leaf = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(N), x)), gradient;
    ad_tensor dropped = ad_dropout(ctx, leaf, 0.25);
    ad_grad(ctx, dropped, ad_from(ctx, AD_F32, AD_SHAPE(N), dy), 1, &leaf, &gradient, 0);
    ad_read(ctx, dropped, y, sizeof y), ad_read(ctx, gradient, dx, sizeof dx);
    int zeros = 0;
    float scale = (float)(1 / 0.75);
    for (int i = 0; i < N; i++) {
        cr_assert(y[i] == 0 || y[i] == x[i] * scale);
        cr_assert(dx[i] == (y[i] == 0 ? 0 : dy[i] * scale), "the gradient drops others");
        zeros += y[i] == 0;
    }
    cr_expect(abs(zeros - N / 4) < 150, "%d of %d dropped", zeros, N);
    cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_expect(ad_is_null(ad_dropout(ctx, leaf, 1)) && ad_failed(ctx));
    ad_close(ctx);
}

Test(random_ops, replay_draws_the_next_step) {
    enum { N = 64 };
    float eager[3][N], y[N];
    for (int captured = 0; captured < 2; captured++) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 3});
        ad_program *program = NULL;
        ad_tensor out = {0};
        for (int step = 0; step < 3; step++) {
            if (captured && step) {
                cr_assert(ad_replay(program), "%s", ad_error_text(ctx));
            } else {
                if (captured) ad_capture_begin(ctx);
                out = ad_dropout(ctx, ad_normal(ctx, AD_F32, AD_SHAPE(N), 0, 1), 0.5);
                ad_step_advance(ctx);
                if (captured) program = ad_capture_end(ctx);
            }
            cr_assert(ad_read(ctx, out, captured ? y : eager[step], sizeof y), "%s",
                      ad_error_text(ctx));
            cr_expect(!captured || !memcmp(y, eager[step], sizeof y), "step %d", step);
        }
        ad_program_free(program);
        ad_close(ctx);
    }
    cr_expect(memcmp(eager[0], eager[1], sizeof eager[0]));
}

/* ---- losses */

static double loss_and_slope(ad_context *ctx, ad_tensor leaf, ad_tensor loss, double *slope,
                             size_t bytes) {
    ad_tensor dx;
    cr_assert(ad_grad(ctx, loss, (ad_tensor){0}, 1, &leaf, &dx, 0), "%s", ad_error_text(ctx));
    ad_read(ctx, dx, slope, bytes);
    return ad_item(ctx, loss);
}

Test(losses, known_values) {
    ad_context *ctx = ad_open(NULL);
    double y[3] = {1, -2, 5}, target[3] = {0.5, 0, 0}, slope[6];
    ad_tensor leaf = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(3), y));
    ad_tensor aim = ad_from(ctx, AD_F64, AD_SHAPE(3), target);
    double loss = loss_and_slope(ctx, leaf, ad_mse(ctx, leaf, aim), slope, 24);
    cr_expect(fabs(loss - (0.25 + 4 + 25) / 3) < 1e-14 && fabs(slope[1] + 4.0 / 3) < 1e-15);
    // Huber at 2: within, at the bound, beyond.
    loss = loss_and_slope(ctx, leaf, ad_huber(ctx, leaf, aim, 2), slope, 24);
    cr_expect(fabs(loss - (0.125 + 2 + 8) / 3) < 1e-14, "%.17g", loss);
    cr_expect(fabs(slope[0] - 0.5 / 3) < 1e-15 && fabs(slope[1] + 2.0 / 3) < 1e-15
              && fabs(slope[2] - 2.0 / 3) < 1e-15);

    double z[4] = {0.1, 1000, -1000, 20}, label[4] = {1, 1, 0, 1};
    leaf = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(4), z));
    aim = ad_from(ctx, AD_F64, AD_SHAPE(4), label);
    loss = loss_and_slope(ctx, leaf, ad_logistic_loss(ctx, leaf, aim), slope, 32);
    cr_expect(fabs(4 * loss - 0.644396660073571 - log1p(exp(-20))) < 1e-14, "%.17g", loss);
    cr_expect(fabs(4 * slope[0] + 0.475020812521060) < 1e-14 && slope[1] == 0 && slope[2] == 0);
    double wrong[4] = {0, 0, 1, 0};
    aim = ad_from(ctx, AD_F64, AD_SHAPE(4), wrong);
    loss = loss_and_slope(ctx, leaf, ad_logistic_loss(ctx, leaf, aim), slope, 32);
    cr_expect(fabs(4 * loss - 2000 - log1p(exp(0.1)) - 20 - log1p(exp(-20))) < 1e-11, "%g", loss);
    cr_expect(4 * slope[1] == 1 && 4 * slope[2] == -1);

    double logits[6] = {1, 2, 3, 1000, -INFINITY, 0};
    int32_t classes[2] = {2, 0};
    leaf = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(2, 3), logits));
    aim = ad_from(ctx, AD_I32, AD_SHAPE(2), classes);
    loss = loss_and_slope(ctx, leaf, ad_cross_entropy(ctx, leaf, aim), slope, 48);
    double total = exp(1) + exp(2) + exp(3);
    cr_expect(fabs(2 * loss - (log(total) - 3)) < 1e-14, "%.17g: %s", loss, ad_error_text(ctx));
    cr_expect(fabs(2 * slope[0] - exp(1) / total) < 1e-15
              && fabs(2 * slope[2] - exp(3) / total + 1) < 1e-15 && slope[3] == 0);
    ad_close(ctx);
}

Test(losses, initial_scales) {
    ad_context *ctx = ad_open(&(ad_options){.seed = 1});
    ad_tensor w[2] = {ad_he_normal(ctx, 300, 200), ad_xavier_normal(ctx, 300, 200)};
    for (int i = 0; i < 2; i++) {
        double variance = ad_item(ctx, ad_mean(ctx, ad_square(ctx, w[i]), AD_ALL_AXES, false));
        double good = i ? 2.0 / 500 : 2.0 / 200;
        cr_expect(fabs(variance / good - 1) < 0.03, "%g, not %g", variance, good);
    }
    ad_close(ctx);
}
