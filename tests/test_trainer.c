/* The trainer's losses and phases. What a first step reports is worked out by hand for rays that
 * see nothing (the background stands against the picture over it) and for rays that end in a grey
 * wall; the weighted terms beside the pixels' must lower what they measure. How large and how
 * coarse steps are follows the share of the schedule. */
#include "render/train.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, PIXELS = SIDE * SIDE, WIDTH = 16, LEVELS = 2, FEATURES = 2 };
enum { TABLE, DENSITY_0, DENSITY_1, COLOUR_2 = 5 }; // the hash field's parameters

// At (0, 0, 3), looking at the origin: every pixel sees the box.
static render_camera camera_at(double z) {
    return (render_camera){.pose = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, z}}, .fx = 2 * SIDE,
                           .fy = 2 * SIDE, .cx = SIDE / 2.0, .cy = SIDE / 2.0, .width = SIDE,
                           .height = SIDE};
}

typedef struct training {
    ad_context *ctx;
    render_model *model;
    render_trainer *trainer;
} training;

static const render_settings small = {
    .grid = {.levels = LEVELS, .features = FEATURES, .log2_entries = 8, .n_max = 32},
    .width = WIDTH, .batch = 4096, .rays = 128, .march_steps = 64, .learning_rate = 1e-2,
    .steps = 100};

// One picture of one colour, seen from z, before this background.
static training start(const render_settings *settings, double z, const uint8_t rgba[4],
                      const float background[3]) {
    training t;
    ad_message error = {{0}};
    render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1}, .near_distance = 0.1};
    memcpy(scene.background, background, sizeof scene.background);
    render_image image = {.width = SIDE, .height = SIDE, .has_alpha = rgba[3] < 255};
    image.pixels = malloc(PIXELS * 4);
    for (int i = 0; i < PIXELS; i++) memcpy(image.pixels + 4 * i, rgba, 4);
    render_frame frame = {.camera = camera_at(z), .image = image, .split = RENDER_TRAIN};
    render_dataset dataset = {.frames = &frame, .count = 1, .train_count = 1,
                              .has_alpha = rgba[3] < 255};
    t.ctx = ad_open(&(ad_options){.seed = 3, .threads = 2});
    t.model = render_model_open(t.ctx, settings, &scene, 1, &error);
    cr_assert_not_null(t.model, "%s", error.text);
    t.trainer = render_trainer_open(t.model, &dataset, &error);
    cr_assert_not_null(t.trainer, "%s", error.text);
    return t;
}

// at: the share of the schedule that is over.
static render_progress train_at(training *t, double at, int steps) {
    ad_message error = {{0}};
    render_progress progress;
    for (int step = 0; step < steps; step++)
        cr_assert(render_trainer_step(t->trainer, at, &error), "%s", error.text);
    render_trainer_read(t->trainer, &progress);
    return progress;
}

static render_progress train(training *t, int steps) { return train_at(t, 0.1, steps); }

static void stop(training *t) {
    render_trainer_close(t->trainer);
    render_model_close(t->model);
    ad_close(t->ctx);
}

/* ---- the pixels' loss */

// Of three errors: the mean of their squares, or of Huber's function with delta 0.1, doubled.
static double mean_loss(const double error[3], bool squares) {
    double sum = 0;
    for (int k = 0; k < 3; k++) {
        double e = fabs(error[k]);
        sum += squares || e <= 0.1 ? e * e : 0.2 * e - 0.01;
    }
    return sum / 3;
}

static void expect_loss(training *t, const double error[3], double tolerance) {
    bool squares = t->model->settings.squared_loss;
    render_progress progress = train(t, 1);
    double loss = mean_loss(error, squares), psnr = -10 * log10(mean_loss(error, true));
    cr_expect(fabs(progress.loss - loss) < tolerance * loss, "loss %.7f, expected %.7f",
              progress.loss, loss);
    cr_expect(fabs(progress.psnr - psnr) < 5 * tolerance, "PSNR %.5f, expected %.5f",
              progress.psnr, psnr);
}

// The camera looks away from the box: the background itself is compared with the picture, which
// lets 40 % of it through.
Test(trainer, first_loss_before_an_empty_scene) {
    static const uint8_t rgba[4] = {51, 128, 51, 153};
    static const float background[3] = {0.25f, 0.5f, 1};
    for (int squares = 0; squares < 2; squares++) {
        render_settings settings = small;
        settings.squared_loss = squares;
        training t = start(&settings, -3, rgba, background);
        double error[3];
        for (int k = 0; k < 3; k++) error[k] = 0.6 * (background[k] - rgba[k] / 255.0);
        expect_loss(&t, error, 1e-5);
        stop(&t);
    }
}

static void fill(training *t, int parameter, float value) {
    ad_tensor p = t->model->parameters[parameter];
    int64_t count = ad_count(t->ctx, p);
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = value;
    cr_assert(ad_write(t->ctx, p, values, (size_t)count * sizeof *values), "%s",
              ad_error_text(t->ctx));
    free(values);
}

// All features are 1, so the hidden layer is, and the density is exp(10): a ray ends in its first
// sample. Without weights in the last layer every colour is sigmoid(0).
Test(trainer, first_loss_before_a_grey_wall) {
    static const uint8_t rgba[4] = {51, 128, 140, 255};
    static const float background[3] = {1, 0, 0};
    for (int squares = 0; squares < 2; squares++) {
        render_settings settings = small;
        settings.squared_loss = squares;
        training t = start(&settings, 3, rgba, background);
        fill(&t, TABLE, 1), fill(&t, DENSITY_0, 1.0f / (LEVELS * FEATURES));
        fill(&t, DENSITY_1, 10.0f / WIDTH), fill(&t, COLOUR_2, 0);
        double error[3];
        for (int k = 0; k < 3; k++) error[k] = 0.5 - rgba[k] / 255.0;
        expect_loss(&t, error, 1e-4);
        stop(&t);
    }
}

// The same random background lies behind both: where neither has anything, they agree; before a
// picture without holes its mean square from there is that of a uniform number.
Test(trainer, random_backgrounds) {
    static const float background[3] = {0, 0, 0};
    render_settings settings = small;
    settings.squared_loss = settings.random_background = true;
    training t = start(&settings, -3, (uint8_t[4]){255, 0, 51, 0}, background);
    cr_expect_eq(train(&t, 1).loss, 0);
    stop(&t);
    t = start(&settings, -3, (uint8_t[4]){255, 0, 51, 255}, background);
    double expected = (1.0 / 3 + 1.0 / 3 + 1.0 / 12 + 0.3 * 0.3) / 3, loss = train(&t, 30).loss;
    cr_expect(fabs(loss - expected) < 0.03, "%g, expected %g", loss, expected);
    stop(&t);
}

// A black picture over black leaves the field as it is; over random colours it must become solid.
Test(trainer, black_pictures_become_solid) {
    static const float black[3] = {0, 0, 0};
    double opacity[2];
    for (int random = 0; random < 2; random++) {
        float seen[PIXELS];
        render_settings settings = small;
        settings.random_background = random;
        training t = start(&settings, 3, (uint8_t[4]){0, 0, 0, 255}, black);
        train(&t, 60);
        ad_message error = {{0}};
        render_camera camera = camera_at(3);
        render_view view = {.opacity = seen};
        cr_assert(render_model_view(t.model, &camera, black, &view, &error), "%s", error.text);
        opacity[random] = 0;
        for (int i = 0; i < PIXELS; i++) opacity[random] += seen[i] / PIXELS;
        stop(&t);
    }
    cr_expect(opacity[1] > 0.97 && opacity[0] < 0.9, "over black %.3f, over random colours %.3f",
              opacity[0], opacity[1]);
}

/* ---- phases of the schedule */

// As many rays as fill the batch with their samples, but no more than the settings say; twice of
// both, and of the rate, late in the schedule.
static void expect_size(const render_settings *settings, bool few) {
    static const float grey[3] = {0.5f, 0.5f, 0.5f};
    enum { SETTLE = 20, STEPS = 10 };
    training t = start(settings, 3, (uint8_t[4]){140, 128, 110, 255}, grey);
    double rate = 0;
    for (int late = 0; late < 2; late++) {
        double at = late ? 0.6 : 0.6 - 1e-9, times = STEPS * (1 + late);
        render_progress before = train_at(&t, at, SETTLE), after = train_at(&t, at, STEPS);
        double samples = (double)(after.samples - before.samples) / times;
        double rays = (double)(after.rays - before.rays) / times, most = (double)settings->batch;
        uint32_t live = 0;
        cr_assert(ad_read(t.ctx, t.trainer->live, &live, sizeof live));
        if (few) cr_expect(rays == (double)settings->rays && live == settings->rays * (1 + late),
                           "%g rays, then %u", rays, live);
        else cr_expect(samples > 0.8 * most && samples <= most, "%g samples", samples);
        if (late) cr_expect_float_eq(after.learning_rate / rate, 2, 1e-6);
        rate = after.learning_rate;
    }
    stop(&t);
}

Test(trainer, late_steps_are_doubled) {
    render_settings settings = small;
    settings.rays = 4096;
    expect_size(&settings, false);
    settings.rays = 4;
    expect_size(&settings, true);
}

// While nothing is known to be empty the samples of a ray say how long its steps are.
Test(trainer, early_steps_are_longer) {
    static const float grey[3] = {0.5f, 0.5f, 0.5f};
    static const double just = 1e-9, at[][2] = { // share of the schedule, length
        {0.15 - just, 4}, {0.15, 2}, {0.5 - just, 2}, {0.5, 1.5}, {0.6 - just, 1.5}, {0.6, 1}};
    enum { CASES = sizeof at / sizeof *at };
    double each[CASES];
    for (int i = 0; i < CASES; i++) {
        training t = start(&small, 3, (uint8_t[4]){140, 128, 110, 255}, grey);
        render_progress progress = train_at(&t, at[i][0], 10);
        each[i] = (double)progress.samples / (double)progress.rays;
        stop(&t);
    }
    for (int i = 0; i < CASES; i++)
        cr_expect_float_eq(each[CASES - 1] / each[i], at[i][1], 0.05 * at[i][1],
                           "%g of the schedule: %g samples a ray, %g at last", at[i][0], each[i],
                           each[CASES - 1]);
}

/* ---- the terms beside it */

// Mean of -o log o of a view, what the opacity loss counts; 0 where all is clear or solid.
static double entropy_of(training *t) {
    float opacity[PIXELS], black[3] = {0};
    double sum = 0;
    ad_message error = {{0}};
    render_camera camera = camera_at(3);
    render_view view = {.opacity = opacity};
    cr_assert(render_model_view(t->model, &camera, black, &view, &error), "%s", error.text);
    for (int i = 0; i < PIXELS; i++) {
        double o = fmin(fmax(opacity[i], 1e-5), 1 - 1e-5);
        sum -= o * log(o);
    }
    return sum / PIXELS;
}

// Mean distortion of a view's rays, what the distortion loss counts.
static double distortion_of(training *t) {
    render_model *model = t->model;
    float row[RENDER_CAMERA_NUMBERS];
    uint32_t ids[PIXELS][2];
    render_camera camera = camera_at(3);
    ad_tensor origins, directions;
    render_traced traced = {0};
    cr_assert(render_cameras_pack(&camera, 1, &model->domain, row));
    for (uint32_t i = 0; i < PIXELS; i++) ids[i][0] = 0, ids[i][1] = i;
    ad_no_grad_begin(t->ctx);
    render_camera_rays(t->ctx, ad_from(t->ctx, AD_F32, AD_SHAPE(1, RENDER_CAMERA_NUMBERS), row),
                       (ad_tensor){0}, ad_from(t->ctx, AD_U32, AD_SHAPE(PIXELS, 2), ids),
                       &origins, &directions);
    model->field->trace(model, origins, directions,
                        &(render_tracing){.capacity = 1 << 14}, &traced);
    const render_samples *at = &traced.samples;
    ad_tensor each = render_distortion(t->ctx, traced.pixels.weight, at->t, at->delta,
                                       at->offsets);
    double sum = ad_item(t->ctx, ad_sum(t->ctx, each, AD_ALL_AXES, false));
    ad_no_grad_end(t->ctx);
    cr_assert(!ad_failed(t->ctx), "%s", ad_error_text(t->ctx));
    return sum / PIXELS;
}

static void train_beside(const render_settings *settings, double *entropy, double *distortion) {
    static const float grey[3] = {0.5f, 0.5f, 0.5f};
    training t = start(settings, 3, (uint8_t[4]){140, 128, 110, 255}, grey);
    render_progress progress = train(&t, 30);
    cr_expect(isfinite(progress.loss));
    *entropy = entropy_of(&t), *distortion = distortion_of(&t);
    stop(&t);
}

Test(trainer, weighted_terms_lower_what_they_measure) {
    double entropy[3], distortion[3];
    render_settings settings = small;
    train_beside(&settings, &entropy[0], &distortion[0]);
    settings.opacity_loss = 1;
    train_beside(&settings, &entropy[1], &distortion[1]);
    settings.opacity_loss = 0, settings.distortion_loss = 1;
    train_beside(&settings, &entropy[2], &distortion[2]);
    cr_expect(entropy[1] < 0.5 * entropy[0], "entropy %g, %g without its loss", entropy[1],
              entropy[0]);
    cr_expect(distortion[2] < 0.5 * distortion[0], "distortion %g, %g without its loss",
              distortion[2], distortion[0]);
}
