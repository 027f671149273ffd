/* Optimisers against the textbook's formulas written out in doubles, and what surrounds them:
 * sparse steps, norm clipping, loss scaling, averages, schedules.
 *
 * The learning rate is an f32 state, so references use its rounded value. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static ad_context *ctx;

static void open_context(void) { ctx = ad_open(&(ad_options){.threads = 2, .seed = 1}); }
static void close_context(void) {
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}
TestSuite(optimizer, .init = open_context, .fini = close_context);

enum { N = 37, STEPS = 60 }; // not a multiple of any vector

static double slope_of(int step, int i) { return sin(.7 * step + i) * (i % 5 ? 1 : 1e-3); }

static ad_tensor parameter_of(ad_type type, const double *values, int64_t n) {
    return ad_parameter(ctx, "p", ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(n), values), type));
}

static void set_gradient(ad_tensor p, const double *g, int64_t n) {
    ad_tensor value = ad_from(ctx, AD_F64, AD_SHAPE(n), g);
    ad_assign(ctx, ad_gradient(ctx, p), value);
}

static void expect(ad_tensor x, const double *expected, int64_t n, double tolerance, int step) {
    double value[256];
    cr_assert(n <= 256 && ad_read(ctx, ad_cast(ctx, x, AD_F64), value, (size_t)n * 8), "%s",
              ad_error_text(ctx));
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabs(value[i] - expected[i]) <= tolerance, "step %d, %lld: %.12g, not %.12g",
                  step, (long long)i, value[i], expected[i]);
}

/* ---- trajectories */

typedef struct textbook {
    bool adam, decoupled;
    double rate, momentum, beta1, beta2, epsilon, decay;
} textbook;

// Kingma and Ba's algorithm 1; Loshchilov and Hutter's decay; heavy-ball momentum.
static void textbook_step(const textbook *t, int step, const double *g, double *p, double *m,
                          double *v) {
    for (int i = 0; i < N; i++) {
        double slope = g[i] + (t->decoupled ? 0 : t->decay * p[i]);
        if (t->decoupled) p[i] -= t->rate * t->decay * p[i];
        if (!t->adam) {
            m[i] = t->momentum * m[i] + slope;
            p[i] -= t->rate * m[i];
            continue;
        }
        m[i] = t->beta1 * m[i] + (1 - t->beta1) * slope;
        v[i] = t->beta2 * v[i] + (1 - t->beta2) * slope * slope;
        double mean = m[i] / (1 - pow(t->beta1, step)), square = v[i] / (1 - pow(t->beta2, step));
        p[i] -= t->rate * mean / (sqrt(square) + t->epsilon);
    }
}

Test(optimizer, trajectories_are_the_textbooks) {
    static const textbook forms[] = {
        {.rate = .1f}, {.rate = .05f, .momentum = .9, .decay = .02},
        {.adam = true, .rate = .01f, .beta1 = .9, .beta2 = .999, .epsilon = 1e-8},
        {.adam = true, .rate = .02f, .beta1 = .8, .beta2 = .99, .epsilon = 1e-3, .decay = .1},
        {.adam = true, .decoupled = true, .rate = .02f, .beta1 = .9, .beta2 = .99,
         .epsilon = 1e-15, .decay = .1}};
    for (int form = 0; form < 5; form++)
        for (int narrow = 0; narrow < 2; narrow++) {
            const textbook *t = &forms[form];
            double p[N], m[N] = {0}, v[N] = {0}, g[N];
            for (int i = 0; i < N; i++) p[i] = (float)cos(i);
            ad_tensor x = parameter_of(narrow ? AD_F32 : AD_F64, p, N);
            ad_optimizer *o = t->adam
                ? ad_adam(ctx, &x, 1, &(ad_adam_options){.learning_rate = t->rate,
                          .beta1 = t->beta1, .beta2 = t->beta2, .epsilon = t->epsilon,
                          .weight_decay = t->decay,
                          .decoupled = t->decoupled})
                : ad_sgd(ctx, &x, 1, &(ad_sgd_options){t->rate, t->momentum, t->decay});
            for (int step = 1; step <= STEPS; step++) {
                ad_scope_begin(ctx, "step");
                for (int i = 0; i < N; i++) g[i] = (float)slope_of(step, i);
                set_gradient(x, g, N);
                ad_optimizer_step(o);
                textbook_step(t, step, g, p, m, v);
                expect(x, p, N, narrow ? 2e-5 : 1e-12, step);
                expect(ad_gradient(ctx, x), (double[N]){0}, N, 0, step);
                ad_scope_end(ctx);
            }
            ad_optimizer_free(o);
        }
}

Test(optimizer, the_first_step_of_adam_moves_by_the_rate) {
    double p[1] = {1}, g[1] = {.3};
    ad_tensor x = parameter_of(AD_F64, p, 1);
    ad_optimizer *o = ad_adam(ctx, &x, 1, &(ad_adam_options){.learning_rate = 1e-3});
    set_gradient(x, g, 1);
    ad_optimizer_step(o);
    expect(x, (double[]){1 - (double)1e-3f}, 1, 1e-10, 1); // with correction 1.0, without 3.16
    // The rate is a state: it changes without a new optimiser.
    ad_assign(ctx, ad_optimizer_rate(o), ad_scalar(ctx, AD_F32, 0));
    set_gradient(x, g, 1);
    ad_optimizer_step(o);
    expect(x, (double[]){1 - (double)1e-3f}, 1, 1e-10, 2);
    ad_tensor states[4];
    cr_assert_eq(ad_optimizer_states(o, 4, states), 3);
    cr_assert_str_eq(ad_name(ctx, states[0]), "p.adam_m");
}

Test(optimizer, a_step_in_operations_is_exact) {
    // The worked example's step with the rate .1 in f64.
    const double p[] = {.5, .1, .8, .2}, g[] = {-.672, -.336, -.462, -.42};
    ad_tensor x = ad_from(ctx, AD_F64, AD_SHAPE(4), p), d = ad_from(ctx, AD_F64, AD_SHAPE(4), g);
    const double after[] = {.5672, .1336, .8462, .242};
    expect(ad_sub(ctx, x, ad_affine(ctx, d, .1, 0)), after, 4, 1e-15, 1);
}

/* ---- sparse */

Test(optimizer, sparse_adam_is_adam_where_all_is_touched) {
    enum { MANY = 5000 };
    static float start[MANY], slopes[MANY], a[MANY], b[MANY];
    for (int i = 0; i < MANY; i++) start[i] = cosf((float)i);
    ad_tensor x[2];
    ad_optimizer *o[2];
    for (int k = 0; k < 2; k++) {
        x[k] = ad_parameter(ctx, "x", ad_from(ctx, AD_F32, AD_SHAPE(MANY), start));
        o[k] = ad_adam(ctx, &x[k], 1, &(ad_adam_options){.learning_rate = .01, .sparse = k == 1});
    }
    for (int step = 1; step <= 20; step++) {
        for (int i = 0; i < MANY; i++) slopes[i] = (float)slope_of(step, i) + 2;
        for (int k = 0; k < 2; k++) {
            ad_write(ctx, ad_gradient(ctx, x[k]), slopes, sizeof slopes);
            ad_optimizer_step(o[k]);
        }
    }
    ad_read(ctx, x[0], a, sizeof a), ad_read(ctx, x[1], b, sizeof b);
    for (int i = 0; i < MANY; i++)
        cr_assert_float_eq(a[i], b[i], 1e-6, "%d: %g, %g", i, a[i], b[i]);
}

Test(optimizer, untouched_entries_stay_and_count_their_own_steps) {
    float start[N], g[N], now[N], m[2][N];
    for (int i = 0; i < N; i++) start[i] = 1 + (float)i;
    ad_tensor x = ad_parameter(ctx, "x", ad_from(ctx, AD_F32, AD_SHAPE(N), start)), state[3];
    ad_optimizer *o = ad_adam(ctx, &x, 1, &(ad_adam_options){.learning_rate = .5, .sparse = true});
    ad_optimizer_states(o, 3, state);
    for (int step = 0; step < 12; step++) {
        // Entry 3 in each step but the last, entry 20 in the last only; -0 is zero.
        for (int i = 0; i < N; i++) g[i] = i % 2 ? -0.f : 0;
        g[step < 11 ? 3 : 20] = .25f;
        ad_write(ctx, ad_gradient(ctx, x), g, sizeof g);
        if (step == 11) ad_read(ctx, state[0], m[0], sizeof m[0]);
        ad_optimizer_step(o);
    }
    uint32_t steps[N];
    ad_read(ctx, x, now, sizeof now), ad_read(ctx, state[0], m[1], sizeof m[1]);
    ad_read(ctx, state[2], steps, sizeof steps);
    for (int i = 0; i < N; i++) {
        if (i != 3 && i != 20) cr_assert(!memcmp(&now[i], &start[i], 4) && m[1][i] == 0);
        cr_assert_eq(steps[i], i == 3 ? 11u : i == 20 ? 1u : 0u);
    }
    cr_assert_eq(m[0][3], m[1][3], "the moments of an untouched entry do not fade");
    cr_assert_float_eq(now[20], start[20] - .5f, 1e-5, "a first step is a whole one");
    cr_assert_float_eq(now[3], start[3] - 11 * .5f, 1e-4);
    cr_assert_null(ad_adam(ctx, (ad_tensor[]){ad_parameter(ctx, "d", ad_scalar(ctx, AD_F64, 1))}, 1,
                           &(ad_adam_options){.sparse = true}));
    cr_assert(ad_failed(ctx));
    ad_error_clear(ctx);
}

// The bias correction of many steps, which beta2 = .9999 needs: a number, rows that share a piece
// and a row of several, between steps 4,000 and 6,000. f32 rounds 1 - beta2 by 3e-4.
Test(optimizer, sparse_adam_is_the_textbooks_after_thousands_of_steps) {
    static const int widths[] = {1, 4, 17};
    static const double beta2[] = {.999, .9999};
    for (int k = 0; k < 6; k++) {
        int width = widths[k % 3], count = 2 * width;
        const textbook t = {.adam = true, .rate = .125, .beta1 = .9, .beta2 = beta2[k / 3],
                            .epsilon = 1e-8};
        double p[N] = {0}, m[N] = {0}, v[N] = {0}, g[N] = {0}, before[N];
        float slopes[N], zeros[N] = {0}, now[N];
        ad_shape shape = width == 1 ? AD_SHAPE(2) : AD_SHAPE(2, width);
        ad_tensor x = ad_parameter(ctx, "x", ad_full(ctx, AD_F32, shape, 0));
        ad_optimizer *o = ad_adam(ctx, &x, 1, &(ad_adam_options){.learning_rate = t.rate,
                                  .beta1 = t.beta1, .beta2 = t.beta2, .epsilon = t.epsilon,
                                  .sparse = true});
        for (int step = 1; step <= 6000; step++) {
            if (step == 4001) {
                memcpy(before, p, sizeof p);
                ad_write(ctx, x, zeros, (size_t)count * 4);
            }
            for (int i = 0; i < count; i++) g[i] = slopes[i] = (float)slope_of(step, i) + 2;
            ad_write(ctx, ad_gradient(ctx, x), slopes, (size_t)count * 4);
            ad_optimizer_step(o);
            textbook_step(&t, step, g, p, m, v);
        }
        ad_read(ctx, x, now, (size_t)count * 4);
        for (int i = 0; i < count; i++)
            cr_assert(fabs(now[i] / (p[i] - before[i]) - 1) < 2e-3, "width %d, beta2 %g, %d: moved "
                      "by %g, not %g", width, t.beta2, i, now[i], p[i] - before[i]);
        ad_optimizer_free(o);
    }
}

// An entry is a row: its numbers move together, and it has one counter.
Test(optimizer, rows_of_any_width_are_entries) {
    enum { ROWS = 75, MOST = 40 };
    static const int widths[] = {1, 3, 4, 16, 17, MOST};
    static float start[ROWS * MOST], g[ROWS * MOST], now[ROWS * MOST];
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        int width = widths[w], count = ROWS * width;
        uint32_t steps[ROWS];
        for (int i = 0; i < count; i++) start[i] = 1 + (float)i;
        ad_tensor x = ad_parameter(ctx, "x", ad_from(ctx, AD_F32, AD_SHAPE(5, 15, width), start));
        ad_tensor state[3];
        ad_optimizer *o = ad_adam(ctx, &x, 1, &(ad_adam_options){.learning_rate = .5,
                                                                 .sparse = true});
        cr_assert_eq(ad_optimizer_states(o, 3, state), 3);
        cr_assert_eq(ad_count(ctx, state[2]), ROWS);
        for (int step = 0; step < 3; step++) { // row r takes part in steps 0 ... r % 4 - 1
            for (int i = 0; i < count; i++) g[i] = i / width % 4 > step ? .25f : -0.f;
            for (int row = 0; row < ROWS && width > 2; row++) g[row * width + 1] = 0;
            ad_write(ctx, ad_gradient(ctx, x), g, (size_t)count * 4);
            ad_optimizer_step(o);
        }
        ad_read(ctx, x, now, (size_t)count * 4), ad_read(ctx, state[2], steps, sizeof steps);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int i = 0; i < count; i++) {
            int row = i / width, taken = row % 4;
            cr_assert_eq(steps[row], (uint32_t)taken, "width %d, row %d", width, row);
            float moved = width > 2 && i % width == 1 ? 0 : .5f * (float)taken;
            cr_assert_float_eq(now[i], start[i] - moved, 1e-3, "width %d, number %d", width, i);
        }
        ad_read(ctx, ad_gradient(ctx, x), g, (size_t)count * 4);
        for (int i = 0; i < count; i++) cr_assert(g[i] == 0, "the gradient is used up");
    }
}

/* ---- clipping */

Test(optimizer, clipping_leaves_small_gradients_alone) {
    ad_tensor p[2];
    for (int k = 0; k < 2; k++) p[k] = ad_parameter(ctx, "p", ad_zeros(ctx, 3));
    const float g[2][3] = {{3, 0, 0}, {0, .1f, -4}};
    for (int bound = 1; bound <= 10; bound += 9) {
        for (int k = 0; k < 2; k++) ad_write(ctx, ad_gradient(ctx, p[k]), g[k], sizeof g[k]);
        double norm = ad_item(ctx, ad_clip_norm(ctx, 2, p, bound));
        cr_assert_float_eq(norm, sqrt(25.01), 1e-6);
        double factor = bound / (norm + 1e-6);
        for (int k = 0; k < 2; k++) {
            float now[3];
            ad_read(ctx, ad_gradient(ctx, p[k]), now, sizeof now);
            if (bound == 10) cr_assert_arr_eq(now, g[k], sizeof now);
            for (int i = 0; bound == 1 && i < 3; i++)
                cr_assert_float_eq(now[i], g[k][i] * factor, 1e-7);
        }
    }
    ad_write(ctx, ad_gradient(ctx, p[0]), (float[]){3, 4, 0}, 12);
    ad_clip_norm(ctx, 1, p, 1);
    float now[3];
    ad_read(ctx, ad_gradient(ctx, p[0]), now, sizeof now);
    cr_assert_float_eq(now[0] / 3, .19999996, 2e-8);
}

/* ---- loss scale */

Test(optimizer, an_overflow_skips_the_step_and_halves_the_scale) {
    double start[N], g[N];
    for (int i = 0; i < N; i++) start[i] = (float)cos(i), g[i] = (float)slope_of(1, i);
    ad_tensor x[2], scale = ad_loss_scale_open(ctx, 1024);
    ad_optimizer *o[2];
    for (int k = 0; k < 2; k++) {
        x[k] = parameter_of(AD_F32, start, N);
        o[k] = ad_adam(ctx, &x[k], 1, NULL);
    }
    // Scaled by a power of two and back: the same bits as without.
    for (int step = 0; step < 5; step++) {
        double scaled[N];
        for (int i = 0; i < N; i++) scaled[i] = 1024 * g[i];
        set_gradient(x[0], g, N), set_gradient(x[1], scaled, N);
        ad_optimizer_step(o[0]), ad_loss_scale_step(o[1], scale);
    }
    float a[N], b[N];
    ad_read(ctx, x[0], a, sizeof a), ad_read(ctx, x[1], b, sizeof b);
    cr_assert_arr_eq(a, b, sizeof a);
    cr_assert_eq(ad_item(ctx, ad_loss_scale(ctx, scale)), 1024);
    const double bad[] = {INFINITY, NAN, -INFINITY};
    for (int k = 0; k < 3; k++) {
        g[20] = bad[k];
        set_gradient(x[1], g, N);
        ad_loss_scale_step(o[1], scale);
        ad_read(ctx, x[1], a, sizeof a);
        cr_assert_arr_eq(a, b, sizeof a);
        expect(ad_gradient(ctx, x[1]), (double[N]){0}, N, 0, k);
        cr_assert_eq(ad_item(ctx, ad_loss_scale(ctx, scale)), 1024. / (2 << k));
    }
    for (int step = 0; step < 2000; step++) ad_loss_scale_step(o[1], scale);
    cr_assert_eq(ad_item(ctx, ad_loss_scale(ctx, scale)), 256, "2,000 good steps double it");
}

Test(optimizer, small_gradients_in_f16_need_the_scale) {
    // Each element's gradient is 1e-8: nothing in f16, 6.55e-4 with a scale of 2^16.
    for (int scaled = 0; scaled < 2; scaled++) {
        ad_tensor w = ad_parameter(ctx, "w", ad_zeros(ctx, 4));
        ad_tensor scale = ad_loss_scale_open(ctx, 65536);
        ad_adam_options options = {.learning_rate = .1, .epsilon = 1e-30};
        ad_optimizer *o = ad_adam(ctx, &w, 1, &options);
        ad_tensor loss = ad_sum(ctx, ad_affine(ctx, w, 1e-8, 0), AD_ALL_AXES, false);
        loss = ad_add(ctx, loss, ad_scalar(ctx, AD_F32, 0));
        if (scaled) loss = ad_mul(ctx, loss, ad_loss_scale(ctx, scale));
        ad_tensor dw;
        ad_grad(ctx, loss, (ad_tensor){0}, 1, &w, &dw, 0);
        ad_tensor narrow = ad_cast(ctx, ad_cast(ctx, dw, AD_F16), AD_F32);
        double value = ad_item(ctx, ad_max(ctx, narrow, AD_ALL_AXES, false));
        if (scaled) cr_assert_float_eq(value, 6.55e-4, 1e-6, "%g", value);
        else cr_assert_eq(value, 0);
        ad_assign(ctx, ad_gradient(ctx, w), narrow);
        if (scaled) ad_loss_scale_step(o, scale);
        else ad_optimizer_step(o);
        double moved = ad_item(ctx, ad_min(ctx, w, AD_ALL_AXES, false));
        if (scaled) cr_assert_float_eq(moved, -.1, 1e-4, "%g", moved);
        else cr_assert_eq(moved, 0, "it trains only with the scale");
    }
}

/* ---- averages, schedules, replay */

Test(optimizer, averages_and_schedules) {
    ad_tensor average = ad_state(ctx, "average", ad_zeros(ctx, 2));
    for (int k = 0; k < 3; k++)
        ad_ema_update(ctx, average, ad_full(ctx, AD_F32, AD_SHAPE(2), 8), .5);
    expect(average, (double[]){7, 7}, 2, 1e-6, 0);
    ad_schedule s = {.kind = AD_COSINE, .rate = 1, .rate_end = .2, .warmup = .1};
    const double progress[] = {0, .05, .1, .55, 1, 2, -1}, rates[] = {0, .5, 1, .6, .2, .2, 0};
    for (int k = 0; k < 7; k++)
        cr_assert_float_eq(ad_schedule_rate(&s, progress[k]), rates[k], 1e-12, "%g", progress[k]);
    s = (ad_schedule){.kind = AD_EXPONENTIAL, .rate = 1, .rate_end = .01};
    cr_assert_float_eq(ad_schedule_rate(&s, .5), .1, 1e-12);
    s = (ad_schedule){.kind = AD_STEPS, .rate = 1, .step_at = {.5, .75}, .step_factor = .1};
    cr_assert_float_eq(ad_schedule_rate(&s, .49), 1, 1e-12);
    cr_assert_float_eq(ad_schedule_rate(&s, .5), .1, 1e-12);
    cr_assert_float_eq(ad_schedule_rate(&s, .8), .01, 1e-12);
    s = (ad_schedule){.rate = 3};
    cr_assert_eq(ad_schedule_rate(&s, .3), 3);
}

Test(optimizer, a_replayed_step_sees_the_rate_of_the_day) {
    ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 4));
    ad_optimizer *o = ad_sgd(ctx, &w, 1, &(ad_sgd_options){.learning_rate = .25});
    ad_capture_begin(ctx);
    ad_scope_begin(ctx, "step");
    ad_grad_add(ctx, ad_sum(ctx, w, AD_ALL_AXES, false), 1, &w, 0);
    ad_optimizer_step(o);
    ad_scope_end(ctx);
    ad_program *program = ad_capture_end(ctx);
    cr_assert(program, "%s", ad_error_text(ctx));
    expect(w, (double[]){.75, .75, .75, .75}, 4, 0, 0);
    ad_write(ctx, ad_optimizer_rate(o), (float[]){.5}, 4);
    cr_assert(ad_replay(program));
    expect(w, (double[]){.25, .25, .25, .25}, 4, 0, 1);
    ad_program_free(program);
}
