/* The whole pipeline of the hash field, differentiated: cameras, rays, points, hash grid, networks,
 * composite and loss, against central differences in f64.
 *
 * The samples of each ray (t, delta, offsets) are found by one march and frozen: sampling is a
 * stop-gradient, the points still move with their rays. Where a step changes the grid cell of a
 * point, the sign of a hidden unit or the end of a ray, the loss has a kink between the two ends of
 * the difference; such elements are left out and counted. The f32 kernels with their fused rules
 * must then agree with the f64 gradient. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE, DENSITY_0, DENSITY_1, COLOUR_0, COLOUR_1, COLOUR_2, POSE, KINDS };
enum { IMAGES = 2, RAYS = 10, SIDE = 20, CAPACITY = 512, WIDTH = 8, GEOMETRY = 16, CELLS = 16 };
enum { VALUES_MAX = 1024, CHECKED_MAX = 48 };

static const char *const names[KINDS] = {"the table", "density layer 0", "density layer 1",
                                         "colour layer 0", "colour layer 1", "colour layer 2",
                                         "the camera poses"};
static const render_grid_options grid = {.levels = 3, .features = 2, .log2_entries = 6,
                                         .n_min = 3, .n_max = 11};

typedef struct pipeline {
    ad_shape shape[KINDS];
    int count[KINDS];
    double value[KINDS][VALUES_MAX];
    float cameras[IMAGES][RENDER_CAMERA_NUMBERS];
    uint32_t ids[RAYS][2], offsets[RAYS + 1], samples;
    float t[CAPACITY], delta[CAPACITY], target[RAYS][3];
} pipeline;

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 40) / (1 << 24);
}

/* ---- the samples, once */

static void freeze_samples(pipeline *p) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    static uint32_t bits[CELLS * CELLS * CELLS]; // more words than are used
    int64_t words = render_occupancy_words(1, CELLS);
    for (int64_t i = 0; i < words; i++) bits[i] = 0xffffffffu;
    render_march_options options = {.resolution = CELLS, .steps = 24, .capacity = CAPACITY,
                                    .jitter = true};
    options.domain = (render_domain){.scale = 1, .low = {0.1, 0.1, 0.1}, .high = {0.9, 0.9, 0.9},
                                     .cascades = 1};
    ad_tensor origins, directions;
    render_samples at;
    render_camera_rays(ctx, ad_from(ctx, AD_F32, AD_SHAPE(IMAGES, RENDER_CAMERA_NUMBERS),
                                    p->cameras), (ad_tensor){0},
                       ad_from(ctx, AD_U32, AD_SHAPE(RAYS, 2), p->ids), &origins, &directions);
    render_march(ctx, origins, directions, ad_from(ctx, AD_U32, AD_SHAPE(words), bits),
                 (ad_tensor){0}, &options, &at);
    ad_read(ctx, at.t, p->t, sizeof p->t), ad_read(ctx, at.delta, p->delta, sizeof p->delta);
    ad_read(ctx, at.offsets, p->offsets, sizeof p->offsets);
    ad_read(ctx, at.count, &p->samples, sizeof p->samples);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_assert(p->samples > 80 && p->samples < CAPACITY, "%u samples", p->samples);
    ad_close(ctx);
}

static void make_pipeline(pipeline *p) {
    uint64_t state = 11;
    memset(p, 0, sizeof *p);
    int64_t entries = render_grid_entries(&grid);
    p->shape[TABLE] = AD_SHAPE(entries, grid.features);
    p->shape[DENSITY_0] = AD_SHAPE(WIDTH, grid.levels * grid.features);
    p->shape[DENSITY_1] = AD_SHAPE(GEOMETRY, WIDTH);
    p->shape[COLOUR_0] = AD_SHAPE(WIDTH, GEOMETRY + 16);
    p->shape[COLOUR_1] = AD_SHAPE(WIDTH, WIDTH);
    p->shape[COLOUR_2] = AD_SHAPE(3, WIDTH);
    p->shape[POSE] = AD_SHAPE(IMAGES, 6);
    for (int kind = 0; kind < KINDS; kind++) {
        p->count[kind] = (int)(p->shape[kind].size[0] * p->shape[kind].size[1]);
        cr_assert(p->count[kind] <= VALUES_MAX);
        double reach = kind == POSE ? 0.02 : kind == TABLE ? 1 : 0.7;
        for (int i = 0; i < p->count[kind]; i++) p->value[kind][i] = draw(&state, -reach, reach);
    }
    render_domain cube = {.centre = {0.5, 0.5, 0.5}, .scale = 1, .cascades = 1};
    // Two cameras outside the cube, one looking along -z, one along -x.
    render_camera cameras[IMAGES] = {
        {.pose = {{1, 0, 0, 0.45}, {0, 1, 0, 0.55}, {0, 0, 1, 1.7}}},
        {.pose = {{0, 0, 1, 1.8}, {0, 1, 0, 0.5}, {-1, 0, 0, 0.5}}, .k = {0.05}}};
    for (int i = 0; i < IMAGES; i++) {
        cameras[i].fx = cameras[i].fy = SIDE, cameras[i].cx = cameras[i].cy = SIDE / 2;
        cameras[i].width = cameras[i].height = SIDE;
    }
    cr_assert(render_cameras_pack(cameras, IMAGES, &cube, p->cameras[0]));
    for (int ray = 0; ray < RAYS; ray++) {
        int x = (int)draw(&state, 4, SIDE - 4), y = (int)draw(&state, 4, SIDE - 4);
        p->ids[ray][0] = (uint32_t)(ray % IMAGES), p->ids[ray][1] = (uint32_t)(y * SIDE + x);
        for (int k = 0; k < 3; k++) p->target[ray][k] = (float)draw(&state, 0, 1);
    }
    freeze_samples(p);
}

/* ---- from parameters to loss */

typedef struct kinks {
    ad_tensor points, weight, hidden[3]; // before the rectifiers
} kinks;

static ad_tensor constant(ad_context *ctx, ad_type type, ad_shape shape, const float *data) {
    return ad_cast(ctx, ad_from(ctx, AD_F32, shape, data), type);
}

static ad_tensor run(ad_context *ctx, const pipeline *p, ad_type type, const ad_tensor *x,
                     kinks *seen) {
    ad_tensor origins, directions;
    render_pixels pixels;
    ad_tensor cameras = constant(ctx, type, AD_SHAPE(IMAGES, RENDER_CAMERA_NUMBERS), p->cameras[0]);
    ad_tensor ids = ad_from(ctx, AD_U32, AD_SHAPE(RAYS, 2), p->ids);
    ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(RAYS + 1), p->offsets);
    ad_tensor count = ad_from(ctx, AD_U32, AD_SCALAR, &p->samples);
    ad_tensor t = constant(ctx, type, AD_SHAPE(CAPACITY), p->t);
    ad_tensor delta = constant(ctx, type, AD_SHAPE(CAPACITY), p->delta);
    ad_tensor target = constant(ctx, type, AD_SHAPE(RAYS, 3), p->target[0]);
    ad_mlp_options options = {0};
    render_camera_rays(ctx, cameras, x[POSE], ids, &origins, &directions);
    ad_tensor points = render_points(ctx, origins, directions, t, offsets);
    ad_tensor features = render_hash_grid(ctx, points, x[TABLE], count, &grid);
    ad_tensor h = ad_mlp(ctx, features, 2, &x[DENSITY_0], NULL, count, &options);
    ad_tensor sigma = render_density(ctx, h);
    ad_tensor harmonics = render_spherical_harmonics(ctx, directions, 4);
    ad_tensor input = render_beside_ray(ctx, h, harmonics, offsets);
    ad_tensor raw = ad_mlp(ctx, input, 3, &x[COLOUR_0], NULL, count, &options);
    render_composite(ctx, sigma, ad_sigmoid(ctx, raw), t, delta, offsets, 1e-4, &pixels);
    if (seen) {
        seen->points = points, seen->weight = pixels.weight;
        seen->hidden[0] = ad_mlp(ctx, features, 1, &x[DENSITY_0], NULL, count, &options);
        seen->hidden[1] = ad_mlp(ctx, input, 1, &x[COLOUR_0], NULL, count, &options);
        seen->hidden[2] = ad_mlp(ctx, input, 2, &x[COLOUR_0], NULL, count, &options);
    }
    // Over a grey background; squares, and how far the weights are spread.
    ad_tensor open = ad_affine(ctx, ad_reshape(ctx, pixels.opacity, AD_SHAPE(RAYS, 1)), -0.5, 0.5);
    ad_tensor loss = ad_mse(ctx, ad_add(ctx, pixels.colour, open), target);
    ad_tensor spread = render_distortion(ctx, pixels.weight, t, delta, offsets);
    return ad_add(ctx, loss, ad_affine(ctx, ad_mean(ctx, spread, AD_ALL_AXES, false), 0.1, 0));
}

static double gradients(const pipeline *p, ad_type type, double (*gradient)[VALUES_MAX]) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2, .poison = true});
    ad_tensor x[KINDS], dx[KINDS];
    for (int kind = 0; kind < KINDS; kind++)
        x[kind] = ad_watch(ctx, ad_cast(ctx, ad_from(ctx, AD_F64, p->shape[kind], p->value[kind]),
                                        type));
    ad_tensor loss = run(ctx, p, type, x, NULL);
    double value = ad_item(ctx, loss);
    ad_grad(ctx, loss, (ad_tensor){0}, KINDS, x, dx, 0);
    for (int kind = 0; kind < KINDS; kind++)
        ad_read(ctx, ad_cast(ctx, dx[kind], AD_F64), gradient[kind],
                (size_t)p->count[kind] * sizeof(double));
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
    return value;
}

/* ---- which side of every kink the parameters are on, as one number */

static void mix(uint64_t *hash, uint64_t value) { *hash = (*hash ^ value) * 1099511628211u; }

static uint64_t sides(ad_context *ctx, const pipeline *p, const kinks *seen) {
    static double points[CAPACITY][3], weight[CAPACITY], hidden[CAPACITY][WIDTH];
    uint64_t hash = 14695981039346656037u;
    double cells[3]; // along the unit cube, in each level
    for (int l = 0; l < grid.levels; l++)
        cells[l] = (float)(grid.n_min * pow(grid.n_max / grid.n_min, l / (grid.levels - 1.0)) - 1);
    ad_read(ctx, seen->points, points, sizeof points);
    ad_read(ctx, seen->weight, weight, sizeof weight);
    for (uint32_t k = 0; k < p->samples; k++) {
        mix(&hash, weight[k] > 0);
        for (int axis = 0; axis < 3; axis++)
            for (int l = 0; l < grid.levels; l++) {
                double at = points[k][axis] * cells[l] + 0.5;
                mix(&hash, (uint64_t)(int64_t)floor(at));
            }
    }
    for (int layer = 0; layer < 3; layer++) {
        ad_read(ctx, seen->hidden[layer], hidden, sizeof hidden);
        for (uint32_t k = 0; k < p->samples; k++)
            for (int i = 0; i < WIDTH; i++) mix(&hash, hidden[k][i] > 0);
    }
    return hash;
}

static double loss_at(ad_context *ctx, const pipeline *p, uint64_t *side) {
    ad_tensor x[KINDS];
    kinks seen;
    ad_scope_begin(ctx, "loss");
    for (int kind = 0; kind < KINDS; kind++)
        x[kind] = ad_from(ctx, AD_F64, p->shape[kind], p->value[kind]);
    double loss = ad_item(ctx, run(ctx, p, AD_F64, x, &seen));
    *side = sides(ctx, p, &seen);
    ad_scope_end(ctx);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    return loss;
}

static double largest(const double *values, int count) {
    double most = 0;
    for (int i = 0; i < count; i++) most = fmax(most, fabs(values[i]));
    return most;
}

Test(pipeline_gradient, agrees_with_differences_in_f64) {
    static pipeline p;
    static double gradient[KINDS][VALUES_MAX];
    const double h = 1e-6;
    int checked = 0, left_out = 0;
    make_pipeline(&p);
    gradients(&p, AD_F64, gradient);
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    for (int kind = 0; kind < KINDS; kind++) {
        double scale = largest(gradient[kind], p.count[kind]);
        cr_assert(scale > 1e-5, "no gradient reaches %s", names[kind]);
        int stride = (p.count[kind] + CHECKED_MAX - 1) / CHECKED_MAX, good = 0;
        for (int i = 0; i < p.count[kind]; i += stride) {
            uint64_t above_side, below_side;
            double *x = &p.value[kind][i], middle = *x;
            *x = middle + h;
            double above = loss_at(ctx, &p, &above_side);
            *x = middle - h;
            double below = loss_at(ctx, &p, &below_side);
            *x = middle, checked++;
            if (above_side != below_side) {
                left_out++;
                continue;
            }
            double slope = (above - below) / (2 * h), rule = gradient[kind][i];
            good++;
            cr_expect(fabs(slope - rule) <= 1e-6 * scale,
                      "%s, element %d: gradient %.12g, differences %.12g", names[kind], i, rule,
                      slope);
        }
        cr_expect(good > 0, "every element of %s lies beside a kink", names[kind]);
    }
    cr_expect(left_out * 20 <= checked, "%d of %d elements beside a kink", left_out, checked);
    ad_close(ctx);
}

Test(pipeline_gradient, fused_kernels_agree_with_f64) {
    static pipeline p;
    static double exact[KINDS][VALUES_MAX], fused[KINDS][VALUES_MAX];
    make_pipeline(&p);
    double loss = gradients(&p, AD_F64, exact), rounded = gradients(&p, AD_F32, fused);
    cr_expect(fabs(loss - rounded) < 1e-5 * loss, "loss %g in f64, %g in f32", loss, rounded);
    for (int kind = 0; kind < KINDS; kind++) {
        double scale = largest(exact[kind], p.count[kind]);
        for (int i = 0; i < p.count[kind]; i++)
            cr_expect(fabs(exact[kind][i] - fused[kind][i]) <= 2e-4 * scale,
                      "%s, element %d: %g in f64, %g in f32", names[kind], i, exact[kind][i],
                      fused[kind][i]);
    }
}
