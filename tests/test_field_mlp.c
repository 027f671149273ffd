/* The reference field and the samplers it brings: known places of samples, and one view learned. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fixtures.h"

static const render_domain cube = {.centre = {0.5, 0.5, 0.5}, .scale = 1, .high = {1, 1, 1},
                                   .cascades = 1};

// Two rays through the cube and one past it.
enum { RAYS = 3, EACH = 8, MORE = 100 };
static const float origins[RAYS][3] = {{-1, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}, {-1, 2, 0.5f}};
static const float directions[RAYS][3] = {{1, 0, 0}, {0, 0, -1}, {1, 0, 0}};
static const float nears[RAYS] = {1, 0.1f, 0}, fars[RAYS] = {2, 0.5f, 0};

static render_samples spread(ad_context *ctx, bool jitter, int64_t rays) {
    render_samples at;
    render_stratified(ctx, ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), origins),
                      ad_from(ctx, AD_F32, AD_SHAPE(RAYS, 3), directions), &cube, 0.1, EACH, rays,
                      jitter, &at);
    return at;
}

Test(field_mlp, one_sample_in_each_part_of_the_way) {
    float t[RAYS][EACH], delta[RAYS][EACH], again[RAYS][EACH];
    uint32_t offsets[RAYS + 1];
    for (int jitter = 0; jitter < 2; jitter++) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 3, .threads = 1});
        render_samples at = spread(ctx, jitter, 0);
        ad_read(ctx, at.t, t, sizeof t), ad_read(ctx, at.delta, delta, sizeof delta);
        ad_read(ctx, at.offsets, offsets, sizeof offsets);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int ray = 0; ray < RAYS; ray++) {
            float part = (fars[ray] - nears[ray]) / EACH;
            cr_expect(offsets[ray + 1] == (uint32_t)(EACH * (ray + 1)));
            for (int k = 0; k < EACH; k++) {
                float place = t[ray][k] - (nears[ray] + part * (float)k), slack = 1e-6f;
                if (!jitter) cr_expect(fabsf(place - part / 2) < slack);
                cr_expect(place >= -slack && place <= part + slack, "ray %d part %d", ray, k);
                float next = k + 1 < EACH ? t[ray][k + 1] : fars[ray];
                cr_expect(fabsf(delta[ray][k] - (next - t[ray][k])) < slack);
            }
        }
        ad_step_advance(ctx);
        ad_read(ctx, spread(ctx, jitter, 0).t, again, sizeof again);
        cr_expect((memcmp(t, again, sizeof t) == 0) == !jitter, "steps draw alike");
        ad_close(ctx);
    }
}

// Rays that are not to be traced have no samples.
Test(field_mlp, only_the_first_rays_are_sampled) {
    uint32_t offsets[RAYS + 1];
    ad_context *ctx = ad_open(NULL);
    render_samples at = spread(ctx, false, 2);
    ad_read(ctx, at.offsets, offsets, sizeof offsets);
    cr_expect(ad_count(ctx, at.t) == 2 * EACH && ad_item(ctx, at.rays) == 2);
    cr_expect(offsets[2] == 2 * EACH && offsets[3] == 2 * EACH);
    cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(field_mlp, samples_are_added_where_the_weights_are) {
    enum { ALL = EACH + MORE };
    // Weight on the fourth sample of ray 0, on the second and the fifth of ray 1, one to three.
    static const float weight[RAYS][EACH] = {{0, 0, 0, 1}, {0, 0.25f, 0, 0, 0.75f}};
    static const int in_bin[2][EACH] = {{0, 0, 0, MORE}, {0, MORE / 4, 0, 0, 3 * MORE / 4}};
    float coarse[RAYS][EACH], t[RAYS][ALL], delta[RAYS][ALL];
    for (int jitter = 0; jitter < 2; jitter++) {
        ad_context *ctx = ad_open(&(ad_options){.seed = 3});
        render_samples from = spread(ctx, jitter, 0), at;
        render_importance(ctx, &from, ad_from(ctx, AD_F32, AD_SHAPE(RAYS * EACH), weight), EACH,
                          MORE, jitter, &at);
        ad_read(ctx, from.t, coarse, sizeof coarse), ad_read(ctx, at.t, t, sizeof t);
        ad_read(ctx, at.delta, delta, sizeof delta);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int ray = 0; ray < 2; ray++) {
            double length = 0;
            for (int k = 0; k < ALL; k++) {
                cr_expect(k == 0 || t[ray][k] >= t[ray][k - 1], "ray %d: near to far", ray);
                length += delta[ray][k];
            }
            cr_expect(fabs(length - (fars[ray] - t[ray][0])) < 1e-5);
            for (int b = 1; b < EACH - 1; b++) {
                float low = (coarse[ray][b - 1] + coarse[ray][b]) / 2, coarse_too = coarse[ray][b];
                float high = (coarse[ray][b] + coarse[ray][b + 1]) / 2;
                int found = 0;
                for (int k = 0; k < ALL; k++)
                    found += t[ray][k] >= low && t[ray][k] < high && t[ray][k] != coarse_too;
                cr_expect(abs(found - in_bin[ray][b]) <= 2, "ray %d, bin %d: %d of %d", ray, b,
                          found, in_bin[ray][b]);
            }
        }
        for (int k = 0; k < ALL; k++) cr_expect(t[2][k] == 0 && delta[2][k] == 0);
        ad_close(ctx);
    }
}

// No weight anywhere: everywhere alike, and nothing that is not a number.
Test(field_mlp, no_weight_means_everywhere) {
    float t[RAYS][EACH + MORE], zero[RAYS * EACH] = {0};
    ad_context *ctx = ad_open(NULL);
    render_samples from = spread(ctx, false, 0), at;
    render_importance(ctx, &from, ad_from(ctx, AD_F32, AD_SHAPE(RAYS * EACH), zero), EACH, MORE,
                      false, &at);
    cr_assert(ad_read(ctx, at.t, t, sizeof t), "%s", ad_error_text(ctx));
    // Ray 0: between the midpoints of the first and of the last pair, evenly.
    double low = 1 + 1.0 / EACH, high = 2 - 1.0 / EACH;
    for (int k = 0; k < MORE; k++) {
        double goal = low + (k + 0.5) / MORE * (high - low), nearest = 1;
        for (int i = 0; i < EACH + MORE; i++) nearest = fmin(nearest, fabs(t[0][i] - goal));
        cr_expect(nearest < 1e-5, "no sample at %g, the nearest is %g away", goal, nearest);
    }
    ad_close(ctx);
}

/* ---- one view */

enum { SIDE = 12, STEPS = 300 };

// A disc of two colours before a transparent background.
static render_image disc(void) {
    render_image image = {.width = SIDE, .height = SIDE, .has_alpha = true};
    image.pixels = calloc(SIDE * SIDE, 4);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            double dx = x + 0.5 - SIDE / 2.0, dy = y + 0.5 - SIDE / 2.0;
            uint8_t *pixel = image.pixels + 4 * (y * SIDE + x);
            if (dx * dx + dy * dy > SIDE * SIDE / 9.0) continue;
            pixel[0] = dx < 0 ? 220 : 30, pixel[1] = dy < 0 ? 40 : 160, pixel[2] = 60;
            pixel[3] = 255;
        }
    return image;
}

static render_model *train(ad_context *ctx, int steps, const render_camera *camera,
                           render_progress *progress) {
    render_settings settings = {.field = "mlp", .width = 64, .rays = 48, .march_steps = 18,
                                .learning_rate = 2e-3};
    render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1},
                          .background = {1, 1, 1}};
    render_frame frame = {.camera = *camera, .image = disc(), .split = RENDER_TRAIN};
    render_dataset dataset = {.frames = &frame, .count = 1, .train_count = 1, .has_alpha = true};
    ad_message error = {{0}};
    render_model *model = render_model_open(ctx, &settings, &scene, 1, &error);
    cr_assert(model, "%s", error.text);
    render_trainer *trainer = render_trainer_open(model, &dataset, &error);
    cr_assert(trainer, "%s", error.text);
    for (int step = 0; step < steps; step++)
        cr_assert(render_trainer_step(trainer, (double)step / steps, &error), "%s", error.text);
    render_trainer_read(trainer, progress);
    render_trainer_close(trainer);
    render_image_free(&frame.image);
    return model;
}

Test(field_mlp, learns_one_view) {
    render_camera camera = {.pose = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 3}}, .fx = SIDE * 1.2,
                            .fy = SIDE * 1.2, .cx = SIDE / 2.0, .cy = SIDE / 2.0, .width = SIDE,
                            .height = SIDE};
    static float colour[SIDE * SIDE * 3], opacity[SIDE * SIDE], depth[SIDE * SIDE];
    static float normal[SIDE * SIDE * 3];
    static const float white[3] = {1, 1, 1};
    uint8_t bytes[SIDE * SIDE * 3], target[SIDE * SIDE * 3];
    ad_context *ctx = ad_open(&(ad_options){.seed = 1, .threads = 2});
    render_progress progress;
    const int steps = fixture_reduced() ? STEPS / 10 : STEPS; // enough to see that it learns
    render_model *model = train(ctx, steps, &camera, &progress);
    cr_expect(progress.rays == (uint64_t)steps * 48 && progress.samples > 0
              && isfinite(progress.loss));
    render_view view = {.colour = colour, .depth = depth, .normal = normal, .opacity = opacity};
    ad_message error = {{0}};
    cr_assert(render_model_view(model, &camera, white, &view, &error), "%s", error.text);
    render_image image = disc();
    for (int i = 0; i < SIDE * SIDE; i++)
        for (int k = 0; k < 3; k++)
            target[3 * i + k] = image.pixels[4 * i + 3] ? image.pixels[4 * i + k] : 255;
    render_image_free(&image);
    render_round_u8(bytes, colour, sizeof bytes);
    double psnr = render_psnr(bytes, target, sizeof bytes);
    cr_expect(psnr > (steps < STEPS ? 15 : 25), "%.2f dB after %d steps", psnr, steps);
    int middle = SIDE / 2 * SIDE + SIDE / 2;
    cr_expect(steps < STEPS
              || (opacity[middle] > 0.8f && depth[middle] > 1.9f && depth[middle] < 4.1f));
    double length = 0;
    for (int k = 0; k < 3; k++) length += pow(normal[3 * middle + k], 2);
    cr_expect(fabs(length - 1) < 1e-3, "normal of length %g", sqrt(length));
    render_model_close(model);
    ad_close(ctx);
}

/* ---- pieces */

// A few steps of many rays; the loss of the last one and the most memory.
static double loss_of(int64_t batch, bool bf16, size_t *peak) {
    enum { MANY = 160, FEW_STEPS = 4 };
    render_settings settings = {.field = "mlp", .width = 16, .rays = MANY, .march_steps = 48,
                                .learning_rate = 1e-2, .batch = batch, .bf16 = bf16};
    render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1},
                          .background = {1, 1, 1}};
    render_frame frame = {.camera = {.pose = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 3}},
                                     .fx = SIDE, .fy = SIDE, .cx = SIDE / 2.0, .cy = SIDE / 2.0,
                                     .width = SIDE, .height = SIDE},
                          .image = disc(), .split = RENDER_TRAIN};
    render_dataset dataset = {.frames = &frame, .count = 1, .train_count = 1, .has_alpha = true};
    ad_message error = {{0}};
    render_progress progress;
    ad_context *ctx = ad_open(&(ad_options){.seed = 5, .threads = 2});
    render_model *model = render_model_open(ctx, &settings, &scene, 1, &error);
    render_trainer *trainer = model ? render_trainer_open(model, &dataset, &error) : NULL;
    cr_assert(trainer, "%s", error.text);
    for (int step = 0; step < FEW_STEPS; step++) {
        cr_assert(render_trainer_step(trainer, 0.5, &error), "%s", error.text);
        render_trainer_read(trainer, &progress);
    }
    *peak = ad_memory_read(ctx).peak_bytes;
    render_trainer_close(trainer);
    render_model_close(model);
    ad_close(ctx);
    render_image_free(&frame.image);
    return progress.loss;
}

// What a step learns does not depend on the size of the pieces; how much memory it takes does.
// 160 rays of 48 samples: eight pieces of 21 rays, the last of them smaller, or one.
Test(field_mlp, pieces_learn_as_the_whole) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        size_t whole_bytes, piece_bytes;
        double whole = loss_of(1 << 20, bf16, &whole_bytes);
        double pieces = loss_of(1024, bf16, &piece_bytes);
        cr_expect(fabs(pieces - whole) < 2e-5 * whole, "loss %.7f in pieces, %.7f as a whole",
                  pieces, whole);
        cr_expect(piece_bytes < whole_bytes, "%zu bytes in pieces, %zu as a whole", piece_bytes,
                  whole_bytes);
    }
}
