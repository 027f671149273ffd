/* A step of the hash grid's table in one pass: bit for bit what scattering into the gradient and
 * sparse Adam do one after the other, whatever the thread count, and nothing else moves. And the
 * vector kernel that both share, rows of four, against the formulas in f64. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3001, STEPS = 6 };

static const render_grid_options fours = {.levels = 5, .features = 4, .log2_entries = 12,
                                          .n_min = 5, .n_max = 60};
static const render_grid_options pairs = {.levels = 3, .features = 2, .log2_entries = 9,
                                          .n_min = 4, .n_max = 40};

// A table after some steps, with its moments and counters one behind the other.
typedef struct outcome {
    size_t bytes;
    char *memory;
} outcome;

static void take(outcome *to, ad_context *ctx, ad_tensor x) {
    size_t bytes = (size_t)ad_count(ctx, x) * ad_type_bytes(ad_type_of(ctx, x));
    to->memory = realloc(to->memory, to->bytes + bytes);
    cr_assert(to->memory && ad_read(ctx, x, to->memory + to->bytes, bytes));
    to->bytes += bytes;
}

// live: the rows that count; the others hold nonsense.
static outcome run(const render_grid_options *options, double beta2, int threads, uint32_t live,
                   bool in_one) {
    ad_context *ctx = ad_open(&(ad_options){.seed = 3, .threads = threads});
    int width = options->levels * options->features;
    ad_tensor table = ad_parameter(ctx, "table", ad_uniform(ctx, AD_F32,
                                   AD_SHAPE(render_grid_entries(options), options->features),
                                   -1, 1));
    ad_optimizer *adam = ad_adam(ctx, &table, 1, &(ad_adam_options){
        .learning_rate = 0.01, .beta2 = beta2, .epsilon = 1e-9, .weight_decay = 1e-3,
        .sparse = true});
    for (int step = 0; step < STEPS; step++) {
        ad_scope_begin(ctx, "step");
        ad_tensor points = ad_uniform(ctx, AD_F32, AD_SHAPE(ROWS, 3), 0.3, 0.6);
        ad_tensor slopes = ad_normal(ctx, AD_F32, AD_SHAPE(ROWS, width), 0, 1);
        ad_tensor count = ad_scalar(ctx, AD_U32, live);
        if (in_one) {
            cr_assert(render_hash_grid_step(ctx, adam, points, table, count, slopes, options));
        } else {
            ad_tensor y = render_hash_grid(ctx, points, table, count, options);
            ad_grad_add(ctx, ad_sum(ctx, ad_mul(ctx, y, slopes), AD_ALL_AXES, false), 1, &table,
                        0);
            ad_optimizer_step(adam);
        }
        ad_step_advance(ctx);
        ad_scope_end(ctx);
    }
    cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
    outcome found = {0};
    ad_tensor states[3];
    cr_assert_eq(ad_optimizer_states(adam, 3, states), 3);
    take(&found, ctx, table);
    for (int i = 0; i < 3; i++) take(&found, ctx, states[i]);
    ad_optimizer_free(adam);
    ad_close(ctx);
    return found;
}

static void same_bits(const render_grid_options *options, double beta2, uint32_t live) {
    outcome expected = run(options, beta2, 1, live, false);
    static const int threads[] = {1, 2, 4, 7};
    for (int i = 0; i < 4; i++)
        for (int in_one = 0; in_one < 2; in_one++) {
            outcome found = run(options, beta2, threads[i], live, in_one);
            cr_assert_eq(found.bytes, expected.bytes);
            cr_expect_eq(memcmp(found.memory, expected.memory, found.bytes), 0,
                         "beta2 %g, %u rows, %d threads, %s: other bits", beta2, live, threads[i],
                         in_one ? "in one pass" : "in two");
            free(found.memory);
        }
    free(expected.memory);
}

Test(hash_grid_step, bits_of_scatter_and_adam) {
    same_bits(&fours, 0.99, ROWS);
    same_bits(&fours, 0.99, ROWS - 900);
    same_bits(&fours, 0.999, ROWS); // no table reaches to the last correction
    same_bits(&pairs, 0.99, ROWS);
    same_bits(&fours, 0.99, 0);
    same_bits(&fours, 0.99, ROWS + 900); // no more than there are
}

// Behind a loss scale the slopes are divided by it; behind an overflow nothing moves.
Test(hash_grid_step, the_gate_of_a_loss_scale_counts) {
    enum { WIDTH = 20 };
    const double scales[] = {1, 1024, INFINITY};
    float found[3][4];
    for (int i = 0; i < 3; i++) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 3, .threads = 2});
        int64_t entries = render_grid_entries(&fours);
        ad_tensor table = ad_parameter(ctx, "table", ad_ones(ctx, entries, 4)), states[3];
        ad_optimizer *adam = ad_adam(ctx, &table, 1, &(ad_adam_options){.sparse = true});
        bool open = isfinite(scales[i]);
        ad_tensor scale = ad_loss_scale_open(ctx, open ? scales[i] : 8);
        if (!open) { // an overflow closes the gate
            ad_tensor bad = ad_full(ctx, AD_F32, AD_SHAPE(entries, 4), INFINITY);
            ad_accumulate(ctx, ad_gradient(ctx, table), bad);
        }
        ad_loss_scale_step(adam, scale);
        ad_tensor slopes = ad_full(ctx, AD_F32, AD_SHAPE(9, WIDTH), scales[i]);
        render_hash_grid_step(ctx, adam, ad_full(ctx, AD_F32, AD_SHAPE(9, 3), 0.5), table,
                              (ad_tensor){0}, slopes, &fours);
        ad_optimizer_states(adam, 3, states);
        ad_tensor sums[] = {table, states[0], states[1]};
        for (int k = 0; k < 3; k++)
            found[i][k] = (float)ad_item(ctx, ad_sum(ctx, sums[k], AD_ALL_AXES, false));
        found[i][3] = (float)entries * 4;
        cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
        ad_close(ctx);
    }
    cr_expect(!memcmp(found[0], found[1], sizeof found[0]));
    cr_expect(found[0][0] != found[0][3] && found[0][1] != 0 && found[0][2] != 0);
    cr_expect(found[2][0] == found[2][3] && found[2][1] == 0 && found[2][2] == 0);
}

/* ---- rows of four, an entry at a time */

enum { TABLE_ROWS = 37, LONG = 2000 };

static double row_slope(int step, int row, int column) {
    if ((row + step) % (row % 5 + 1)) return 0;              // rows rest, each in its own rhythm
    if (row % 7 == 3 && column != step % 4) return 0;        // but one zero is not a rest
    return sin(0.7 * row + 1.9 * column + 0.01 * step) * (row % 2 ? 1 : 1e-4);
}

Test(hash_grid_step, rows_of_four_follow_the_formulas) {
    const double rate = (float)0.003, b1 = (float)0.9, b2 = (float)0.99, eps = (float)1e-8;
    ad_context *ctx = ad_open(&(ad_options){.seed = 3, .threads = 2});
    ad_tensor table = ad_parameter(ctx, "table", ad_ones(ctx, TABLE_ROWS, 4));
    ad_optimizer *adam = ad_adam(ctx, &table, 1, &(ad_adam_options){
        .learning_rate = 0.003, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .sparse = true});
    double p[TABLE_ROWS][4], m[TABLE_ROWS][4] = {{0}}, v[TABLE_ROWS][4] = {{0}};
    int t[TABLE_ROWS] = {0};
    for (int i = 0; i < TABLE_ROWS * 4; i++) p[i / 4][i % 4] = 1;
    for (int step = 1; step <= LONG; step++) { // the corrections are 1 from step 1,724 on
        float slopes[TABLE_ROWS][4];
        for (int row = 0; row < TABLE_ROWS; row++) {
            bool touched = false;
            for (int i = 0; i < 4; i++)
                slopes[row][i] = (float)row_slope(step, row, i), touched |= slopes[row][i] != 0;
            t[row] += touched;
            for (int i = 0; i < 4 && touched; i++) {
                double g = slopes[row][i];
                m[row][i] = b1 * m[row][i] + (1 - b1) * g;
                v[row][i] = b2 * v[row][i] + (1 - b2) * g * g;
                p[row][i] -= rate * (m[row][i] / (1 - pow(b1, t[row])))
                           / (sqrt(v[row][i] / (1 - pow(b2, t[row]))) + eps);
            }
        }
        cr_assert(ad_write(ctx, ad_gradient(ctx, table), slopes, sizeof slopes));
        ad_optimizer_step(adam);
    }
    float found[TABLE_ROWS][4];
    uint32_t steps[TABLE_ROWS];
    ad_tensor states[3];
    ad_optimizer_states(adam, 3, states);
    cr_assert(ad_read(ctx, table, found, sizeof found), "%s", ad_error_text(ctx));
    cr_assert(ad_read(ctx, states[2], steps, sizeof steps), "%s", ad_error_text(ctx));
    for (int row = 0; row < TABLE_ROWS; row++) {
        cr_expect_eq(steps[row], (uint32_t)t[row], "row %d: %u steps", row, steps[row]);
        for (int i = 0; i < 4; i++)
            cr_expect_lt(fabs(found[row][i] - p[row][i]), 2e-3 * fmax(1, fabs(p[row][i])),
                         "row %d, %d: %.6f, expected %.6f", row, i, found[row][i], p[row][i]);
    }
    ad_optimizer_free(adam);
    ad_close(ctx);
}

/* ---- what is refused */

static void refuses(bool sparse, bool other, int64_t rows, int64_t width, const char *expected) {
    ad_context *ctx = ad_open(&(ad_options){.seed = 3, .threads = 1});
    ad_tensor table = ad_parameter(ctx, "table",
                                   ad_zeros(ctx, render_grid_entries(&fours), 4));
    ad_tensor second = ad_parameter(ctx, "second", ad_zeros(ctx, 3));
    ad_optimizer *adam = ad_adam(ctx, other ? &second : &table, 1,
                                 &(ad_adam_options){.sparse = sparse});
    cr_expect_not(render_hash_grid_step(ctx, adam, ad_zeros(ctx, 9, 3), table, (ad_tensor){0},
                                        ad_zeros(ctx, rows, width), &fours));
    cr_expect(strstr(ad_error_text(ctx), expected), "\"%s\" lacks \"%s\"", ad_error_text(ctx),
              expected);
    ad_optimizer_free(adam);
    ad_close(ctx);
}

Test(hash_grid_step, refuses_what_does_not_fit) {
    refuses(false, false, 9, 20, "sparse");
    refuses(true, true, 9, 20, "has the parameter");
    refuses(true, false, 8, 20, "cotangents are f32 (9, 20)");
    refuses(true, false, 9, 16, "cotangents are f32 (9, 20)");
}
