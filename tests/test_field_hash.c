/* The hash field's trace of training rays, with its pieces, culling and features found once,
 * against the same pipeline in its plainest form: one march, every candidate through both networks,
 * and a composite that ends rays by itself. Colours, opacities and all gradients must agree. */
#include "render/model.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RAYS = 150, CAPACITY = 1 << 17, PARAMETERS = 6, TABLE_MAX = 8 * 512 * 4 };
enum { CELLS = 128 * 128 * 128 };

typedef struct outcome {
    float colour[3 * RAYS], opacity[RAYS], weight[CAPACITY], t[CAPACITY], delta[CAPACITY];
    float slope[PARAMETERS][TABLE_MAX];
    int64_t count[PARAMETERS];
    uint32_t offsets[RAYS + 1], whole;
} outcome;

static outcome found, expected;
static float origin[RAYS][3], way[RAYS][3], table[TABLE_MAX], shade[4 * RAYS], value[CELLS];

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (double)(1 << 24);
}

// Rays through the cube from all sides, and densities from thin air to walls.
static void make_inputs(void) {
    uint64_t state = 12;
    for (int i = 0; i < RAYS; i++) {
        double length = 0;
        for (int axis = 0; axis < 3; axis++) {
            origin[i][axis] = (float)draw(&state, -1, 2);
            way[i][axis] = (float)draw(&state, 0.2, 0.8) - origin[i][axis];
            length += way[i][axis] * way[i][axis];
        }
        for (int axis = 0; axis < 3; axis++) way[i][axis] /= (float)sqrt(length);
    }
    for (int i = 0; i < TABLE_MAX; i++) table[i] = (float)draw(&state, -10, 10);
    for (int i = 0; i < 4 * RAYS; i++) shade[i] = (float)draw(&state, -1, 1);
    // The occupancy grid expects light to end sooner or later than it does, so that rays take one,
    // two or three pieces.
    for (int i = 0; i < CELLS; i++) value[i] = i % 128 < 64 ? 4 : 0.5f;
}

// The plain form: what hash_trace would be without its shortcuts.
static void plain_trace(render_model *model, ad_tensor o, ad_tensor d, int stretch,
                        render_traced *traced) {
    ad_context *ctx = model->ctx;
    const ad_tensor *p = model->parameters;
    render_march_options march = {
        .domain = model->domain, .resolution = 128, .capacity = CAPACITY,
        .steps = model->settings.march_steps / stretch,
        .cone_angle = model->cone_angle * stretch,
        .near_distance = model->near_distance, .jitter = true};
    render_samples at;
    render_march(ctx, o, d, model->states[1], (ad_tensor){0}, &march, &at);
    ad_tensor points = render_points(ctx, o, d, at.t, at.offsets);
    ad_tensor features = render_hash_grid(ctx, points, p[0], at.count, &model->settings.grid);
    ad_tensor h = ad_mlp(ctx, features, 2, &p[1], NULL, at.count, NULL);
    ad_tensor input = render_beside_ray(ctx, h, render_spherical_harmonics(ctx, d, 4), at.offsets);
    ad_tensor raw = ad_mlp(ctx, input, 3, &p[3], NULL, at.count, NULL);
    render_composite(ctx, render_density(ctx, h), ad_sigmoid(ctx, raw), at.t, at.delta,
                     at.offsets, 3e-3, &traced->pixels);
    traced->rays = at.rays, traced->samples = at;
}

static void run(bool plain, int steps, double cone, int stretch, outcome *out) {
    ad_message error = {{0}};
    ad_context *ctx = ad_open(&(ad_options){.seed = 5, .threads = 2});
    render_settings settings = {.grid = {.log2_entries = 9, .levels = 4, .n_min = 4, .n_max = 32},
                                .width = 16, .march_steps = steps};
    render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1}, .near_distance = 0.1};
    render_model *model = render_model_open(ctx, &settings, &scene, 1, &error);
    cr_assert_not_null(model, "%s", error.text);
    cr_assert_eq(model->parameter_count, PARAMETERS);
    model->cone_angle = cone;
    size_t entries = (size_t)ad_count(ctx, model->parameters[0]);
    cr_assert_leq(entries, TABLE_MAX);
    ad_write(ctx, model->parameters[0], table, entries * sizeof *table);
    ad_write(ctx, model->states[0], value, sizeof value);
    ad_tensor o = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origin), slope[PARAMETERS];
    ad_tensor d = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), way);
    ad_tensor dy = ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 4), shade);
    render_traced traced = {0};
    if (plain) plain_trace(model, o, d, stretch, &traced);
    else model->field->trace(model, o, d, &(render_tracing){.capacity = CAPACITY, .training = true,
                                                            .stretch = stretch}, &traced);
    ad_tensor opacity = ad_reshape(ctx, traced.pixels.opacity, AD_SHAPE(RAYS, 1));
    ad_tensor y = ad_concat(ctx, 2, (ad_tensor[]){traced.pixels.colour, opacity}, 1);
    ad_grad(ctx, y, dy, PARAMETERS, model->parameters, slope, 0);
    ad_read(ctx, traced.pixels.colour, out->colour, sizeof out->colour);
    ad_read(ctx, traced.pixels.opacity, out->opacity, sizeof out->opacity);
    ad_read(ctx, traced.pixels.weight, out->weight, sizeof out->weight);
    ad_read(ctx, traced.samples.offsets, out->offsets, sizeof out->offsets);
    ad_read(ctx, traced.samples.t, out->t, sizeof out->t);
    ad_read(ctx, traced.samples.delta, out->delta, sizeof out->delta);
    ad_read(ctx, traced.rays, &out->whole, sizeof out->whole);
    for (int i = 0; i < PARAMETERS; i++) {
        out->count[i] = ad_count(ctx, slope[i]);
        ad_read(ctx, slope[i], out->slope[i], (size_t)out->count[i] * sizeof(float));
    }
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    render_model_close(model);
    ad_close(ctx);
}

static void compare(int steps, double cone, int stretch) {
    run(true, steps, cone, stretch, &expected), run(false, steps, cone, stretch, &found);
    cr_assert(found.whole == RAYS && expected.whole == RAYS);
    // All three kinds of rays: dark within the first ten candidates, dark later, never dark.
    int early = 0, late = 0, lit = 0;
    for (int i = 0; i < RAYS; i++) {
        uint32_t kept = found.offsets[i + 1] - found.offsets[i];
        uint32_t all = expected.offsets[i + 1] - expected.offsets[i];
        int seen = 0; // candidates that light reaches
        for (uint32_t k = 0; k < all; k++) seen += expected.weight[expected.offsets[i] + k] > 0;
        cr_assert(abs((int)kept - seen) <= 1, "ray %d: %u kept, %d are seen", i, kept, seen);
        cr_assert(!memcmp(found.t + found.offsets[i], expected.t + expected.offsets[i], kept * 4)
                  && !memcmp(found.delta + found.offsets[i],
                             expected.delta + expected.offsets[i], kept * 4), "ray %d", i);
        early += kept < all && kept <= 10, late += kept < all && kept > 10, lit += kept == all;
    }
    cr_assert(late > 5 && (cone > 0 || (early > 5 && lit > 5)), "%d, %d and %d rays", early, late,
              lit);
    for (int i = 0; i < 3 * RAYS; i++)
        cr_assert_float_eq(found.colour[i], expected.colour[i], 1e-5, "ray %d", i / 3);
    for (int i = 0; i < RAYS; i++)
        cr_assert_float_eq(found.opacity[i], expected.opacity[i], 1e-5, "ray %d", i);
    for (int i = 0; i < PARAMETERS; i++) {
        double most = 0;
        for (int64_t k = 0; k < expected.count[i]; k++)
            most = fmax(most, fabs((double)expected.slope[i][k]));
        cr_assert(most > 1e-3, "parameter %d has no gradient", i);
        for (int64_t k = 0; k < expected.count[i]; k++)
            cr_assert_float_eq(found.slope[i][k], expected.slope[i][k], 1e-5 * most,
                               "parameter %d, number %d", i, (int)k);
    }
}

// Of the first step's length, the longest; two samples of a ray are a step apart, more or less.
static double growth(void) {
    float least = INFINITY, most = 0;
    for (uint32_t i = 0; i < expected.offsets[RAYS]; i++) {
        least = fminf(least, expected.delta[i]);
        most = fmaxf(most, expected.delta[i]);
    }
    return most / least;
}

Test(field_hash, shortcuts_change_nothing) {
    make_inputs();
    compare(64, 0, 1);
    compare(512, 0.02, 1); // steps that grow with distance
    cr_assert_gt(growth(), 3);
}

Test(field_hash, early_steps_are_longer) {
    make_inputs();
    compare(64, 0, 2);
    compare(512, 0.02, 2);
    cr_assert_gt(growth(), 1.5);
}
