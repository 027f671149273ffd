/* Views: what comes out piece by piece is what the composite of whole rays says, and what a fog of
 * constant density looks like, thin, as training would begin with it, and thick. */
#include "render/model.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 20, HEIGHT = 12, PIXELS = WIDTH * HEIGHT };

typedef struct views {
    float colour[3 * PIXELS], opacity[PIXELS], depth[PIXELS], normal[3 * PIXELS];
} views;

static const float blue[3] = {0, 0, 1};
static const render_scene scene = {
    .box_min = {-1, -1, -1}, .box_max = {1, 1, 1}, .near_distance = 0.1};
// At (0, 0, 3), looking at the origin: the box covers the middle of the picture only.
static const render_camera camera = {
    .pose = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 3}}, .fx = 15, .fy = 15, .cx = WIDTH / 2.0,
    .cy = HEIGHT / 2.0, .width = WIDTH, .height = HEIGHT};

static render_model *open_model(ad_context **ctx, int threads) {
    ad_message error = {{0}};
    *ctx = ad_open(&(ad_options){.seed = 5, .threads = threads});
    render_settings settings = {.grid = {.log2_entries = 8, .levels = 4, .n_max = 64},
                                .width = 16, .march_steps = 256};
    render_model *model = render_model_open(*ctx, &settings, &scene, 1, &error);
    cr_assert_not_null(model, "%s", error.text);
    return model;
}

static void see(views *out, bool everything, int threads) {
    ad_message error = {{0}};
    ad_context *ctx;
    render_model *model = open_model(&ctx, threads);
    memset(out, 0, sizeof *out);
    render_view view = {.colour = out->colour};
    if (everything) view.opacity = out->opacity, view.depth = out->depth, view.normal = out->normal;
    cr_assert(render_model_view(model, &camera, blue, &view, &error), "%s", error.text);
    render_model_close(model);
    ad_close(ctx);
}

static views a, b;

// Entries near zero: the density is exp(0) = 1 everywhere, so a ray whose way through the box is
// `length` lets exp(-length) through: in units of the cube, half of the world's.
Test(view, a_uniform_fog_is_as_thick_as_the_formula_says) {
    double step = sqrt(3) / 256, half = 0.5;
    see(&a, true, 2);
    int inside = 0, outside = 0;
    for (int i = 0; i < PIXELS; i++) {
        double x = (i % WIDTH + 0.5 - WIDTH / 2.0) / 15, y = (i / WIDTH + 0.5 - HEIGHT / 2.0) / 15;
        double norm = sqrt(1 + x * x + y * y), side = fmax(fabs(x), fabs(y));
        if (side > 0.51) { // past the near face, at 2
            outside++;
            cr_expect(a.opacity[i] == 0 && a.depth[i] == 0 && a.colour[3 * i] == 0
                      && a.colour[3 * i + 2] == 1, "pixel %d", i);
        } else if (side < 0.24) { // through both faces, at 2 and 4
            double opacity = 1 - exp(-norm);
            inside++;
            cr_expect(fabs(a.opacity[i] - opacity) < 1.5 * step, "pixel %d: %g, not %g", i,
                      (double)a.opacity[i], opacity);
            // Mean distance of the weights exp(-s) in [0, norm], from the near face on.
            double mean = (1 - (1 + norm) * exp(-norm)) / opacity;
            double depth = 2 + mean / half / norm;
            cr_expect(opacity < 0.5 || fabs(a.depth[i] - depth) < 2 * step / half,
                      "pixel %d: %g, not %g", i, (double)a.depth[i], depth);
        }
    }
    cr_expect(inside > 20 && outside > 20, "%d, %d", inside, outside);
}

// Entries of 1, hidden numbers of 1: the density is 20 everywhere.
static void thicken(render_model *model) {
    enum { MOST = 1 << 14, GEOMETRY = 16, HIDDEN = 16 };
    static float numbers[MOST];
    ad_context *ctx = model->ctx;
    int64_t entries = ad_count(ctx, model->parameters[0]);
    int64_t weights = ad_count(ctx, model->parameters[1]);
    cr_assert(entries <= MOST && weights <= MOST);
    for (int64_t i = 0; i < entries; i++) numbers[i] = 1;
    ad_write(ctx, model->parameters[0], numbers, (size_t)entries * sizeof *numbers);
    for (int64_t i = 0; i < weights; i++) numbers[i] = (float)HIDDEN / (float)weights;
    ad_write(ctx, model->parameters[1], numbers, (size_t)weights * sizeof *numbers);
    for (int i = 0; i < GEOMETRY * HIDDEN; i++) numbers[i] = i < HIDDEN ? logf(20) / HIDDEN : 0;
    cr_assert(ad_write(ctx, model->parameters[2], numbers, GEOMETRY * HIDDEN * sizeof *numbers));
}

// A thousandth of the light may be left where a ray ends, and no more.
Test(view, a_wall_is_as_good_as_solid) {
    ad_context *ctx;
    ad_message error = {{0}};
    render_model *model = open_model(&ctx, 2);
    thicken(model);
    render_view view = {.opacity = a.opacity};
    cr_assert(render_model_view(model, &camera, blue, &view, &error), "%s", error.text);
    for (int i = 0; i < PIXELS; i++) {
        double x = (i % WIDTH + 0.5 - WIDTH / 2.0) / 15;
        double y = (i / WIDTH + 0.5 - HEIGHT / 2.0) / 15;
        if (fmax(fabs(x), fabs(y)) < 0.24) // through both faces
            cr_expect(a.opacity[i] >= 1 - 1e-3f && a.opacity[i] <= 1, "pixel %d: %g", i,
                      1 - (double)a.opacity[i]);
    }
    render_model_close(model);
    ad_close(ctx);
}

// All rays by the field's own way of tracing whole ones, with its culling.
static void trace(render_model *model, ad_tensor *origins, ad_tensor *directions,
                  render_traced *traced) {
    ad_context *ctx = model->ctx;
    float row[RENDER_CAMERA_NUMBERS];
    uint32_t ids[PIXELS][2];
    cr_assert(render_cameras_pack(&camera, 1, &model->domain, row));
    for (uint32_t i = 0; i < PIXELS; i++) ids[i][0] = 0, ids[i][1] = i;
    *traced = (render_traced){0};
    ad_no_grad_begin(ctx);
    render_camera_rays(ctx, ad_from(ctx, AD_F32, AD_SHAPE(1, RENDER_CAMERA_NUMBERS), row),
                       (ad_tensor){0}, ad_from(ctx, AD_U32, AD_SHAPE(PIXELS, 2), ids), origins,
                       directions);
    model->field->trace(model, *origins, *directions,
                        &(render_tracing){.capacity = 1 << 16}, traced);
    ad_no_grad_end(ctx);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
}

Test(view, pieces_add_up_to_whole_rays) {
    static float colour[PIXELS][3], opacity[PIXELS];
    ad_tensor origins, directions;
    render_traced traced;
    ad_context *ctx;
    see(&a, true, 2);
    render_model *model = open_model(&ctx, 2);
    trace(model, &origins, &directions, &traced);
    ad_read(ctx, traced.pixels.colour, colour, sizeof colour);
    ad_read(ctx, traced.pixels.opacity, opacity, sizeof opacity);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    int thick = 0;
    for (int i = 0; i < PIXELS; i++) {
        thick += opacity[i] > 0.5f;
        cr_expect(fabsf(opacity[i] - a.opacity[i]) < 1e-5f, "pixel %d: opacity %g, not %g", i,
                  (double)a.opacity[i], (double)opacity[i]);
        for (int k = 0; k < 3; k++) {
            float over = colour[i][k] + (1 - opacity[i]) * blue[k];
            cr_expect(fabsf(over - a.colour[3 * i + k]) < 1e-5f, "pixel %d: %g, not %g", i,
                      (double)a.colour[3 * i + k], (double)over);
        }
    }
    cr_expect(thick > 20);
    render_model_close(model);
    ad_close(ctx);
}

// Asking for less, or with other threads, changes no bit of the colour.
Test(view, colours_are_the_same_alone) {
    see(&a, true, 2), see(&b, false, 1);
    cr_expect(memcmp(a.colour, b.colour, sizeof a.colour) == 0);
    for (int i = 0; i < PIXELS; i++) cr_expect(b.opacity[i] == 0 && b.depth[i] == 0);
}

// A normal is the mean of the unit vectors down the density's slope, each counting as its sample
// does in the picture: here summed over whole rays, from the definition.
Test(view, normals_are_weighted_means_of_slopes) {
    enum { CAPACITY = 1 << 16 };
    static float slope[CAPACITY][3], weight[CAPACITY];
    uint32_t offsets[PIXELS + 1];
    ad_tensor origins, directions, slopes = {0};
    render_traced traced;
    ad_context *ctx;
    see(&a, true, 2);
    render_model *model = open_model(&ctx, 2);
    trace(model, &origins, &directions, &traced);
    const render_samples *at = &traced.samples;
    ad_read(ctx, traced.pixels.weight, weight, sizeof weight);
    ad_read(ctx, at->offsets, offsets, sizeof offsets);
    ad_tensor points = ad_watch(ctx, render_points(ctx, origins, directions, at->t, at->offsets));
    ad_tensor sigma = model->field->density(model, points, at->count);
    ad_grad(ctx, ad_sum(ctx, sigma, AD_ALL_AXES, false), (ad_tensor){0}, 1, &points, &slopes, 0);
    ad_read(ctx, slopes, slope, sizeof slope);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    int compared = 0;
    for (int i = 0; i < PIXELS; i++) {
        double sum[3] = {0}, length = 0;
        for (uint32_t k = offsets[i]; k < offsets[i + 1]; k++) {
            double size = sqrt(pow(slope[k][0], 2) + pow(slope[k][1], 2) + pow(slope[k][2], 2));
            for (int axis = 0; axis < 3 && size > 0; axis++)
                sum[axis] -= weight[k] * slope[k][axis] / size;
        }
        for (int axis = 0; axis < 3; axis++) length += sum[axis] * sum[axis];
        length = sqrt(length);
        if (a.opacity[i] <= 0.5f || length < 0.02) continue; // a sum of nearly nothing
        compared++;
        for (int axis = 0; axis < 3; axis++)
            cr_expect(fabs(a.normal[3 * i + axis] - sum[axis] / length) < 1e-3,
                      "pixel %d, axis %d: %g, not %g", i, axis, (double)a.normal[3 * i + axis],
                      sum[axis] / length);
    }
    cr_expect(compared > 20, "%d", compared);
    render_model_close(model);
    ad_close(ctx);
}

// The reference field traces some 80 rays at once; a row of the picture is fewer than that.
Test(view, many_rays_are_traced_in_turns) {
    enum { SAMPLES = 192 };
    static float all[3 * PIXELS], row[3 * WIDTH];
    ad_message error = {{0}};
    ad_context *ctx = ad_open(&(ad_options){.seed = 5, .threads = 2});
    render_settings settings = {.field = "mlp", .width = 16, .march_steps = SAMPLES};
    render_model *model = render_model_open(ctx, &settings, &scene, 1, &error);
    cr_assert_not_null(model, "%s", error.text);
    cr_assert(render_model_view(model, &camera, blue, &(render_view){.colour = all}, &error), "%s",
              error.text);
    double apart = 0;
    for (int y = 0; y < HEIGHT; y++) {
        render_camera one = camera;
        one.height = 1, one.cy -= y;
        cr_assert(render_model_view(model, &one, blue, &(render_view){.colour = row}, &error),
                  "%s", error.text);
        for (int i = 0; i < 3 * WIDTH; i++) {
            float same = all[3 * WIDTH * y + i];
            cr_expect(fabsf(row[i] - same) < 1e-5f, "row %d: %g, not %g", y, (double)same,
                      (double)row[i]);
            apart = fmax(apart, fabsf(row[i] - all[i]));
        }
    }
    cr_expect(apart > 0.01, "all rows are alike");
    render_model_close(model);
    ad_close(ctx);
}
