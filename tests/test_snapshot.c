/* Snapshots and the JSON in them: what is written reads back, what is not ours is refused with a
 * sentence, and evaluation measures the pictures that the viewer makes. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/safetensors.h"
#include "render/json_fields.h"
#include "render/render.h"
#include "tests/fixtures.h"

/* ---- JSON */

Test(json_fields, members) {
    static const char line[] =
        " {\"a\":-1.5e2 , \"b\":true,\"deep\":{\"a\":[1,{\"c\":\"}\"}]},\"n\":[1, 2,3],"
        "\"s\":\"q\\\"\\u00e9\\ud83d\\ude00\\n\",\"null\":null,\"f\":false,\"a\":7}\n";
    double value = 0, three[3];
    bool truth = false;
    char text[32];
    cr_assert(render_json_is_object(line));
    cr_expect(render_json_get_number(line, "a", &value) && value == -150);
    cr_expect(render_json_get_boolean(line, "b", &truth) && truth);
    cr_expect(render_json_get_boolean(line, "f", &truth) && !truth);
    cr_expect(render_json_get_numbers(line, "n", three, 3) && three[2] == 3);
    cr_expect(render_json_get_string(line, "s", text, sizeof text));
    cr_expect_str_eq(text, "q\"\xc3\xa9\xf0\x9f\x98\x80\n");
    cr_expect(!render_json_get_numbers(line, "n", three, 2), "two of three numbers");
    cr_expect(!render_json_get_number(line, "c", &value), "a member of a member");
    cr_expect(!render_json_get_number(line, "null", &value));
    cr_expect(!render_json_get_boolean(line, "a", &truth));
    cr_expect(!render_json_get_string(line, "s", text, 4), "a text longer than its place");
}

Test(json_fields, what_is_no_json) {
    static const char *const bad[] = {
        "", "{", "}", "[1]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1}}", "{a:1}",
        "{\"a\":0x10}", "{\"a\":nan}", "{\"a\":1e999}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\ud800\"}x", "{\"a\":\"", "{\"a\":[1,]}", "{\"a\":[1", "{\"a\":+1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect(!render_json_is_object(bad[i]), "%s", bad[i]);
    // Nested without end: refused, no crash.
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP + 8);
    memset(deep, '[', DEEP + 8);
    memcpy(deep, "{\"a\":", 5), deep[DEEP] = 0;
    cr_expect(!render_json_is_object(deep));
    free(deep);
}

/* ---- snapshots */

static fixture_folder folder;

static void make(void) { fixture_make(&folder); }
static void drop(void) { fixture_remove(&folder); }

TestSuite(snapshot, .init = make, .fini = drop, .timeout = 120);

static const render_settings small = {.preset = "fast", .grid = {2, 2, 8, 4, 16}, .width = 16,
                                      .batch = 1024, .rays = 64, .march_steps = 64,
                                      .learning_rate = 0.1 + 0.2, .steps = 7};
static const render_scene scene = {.box_min = {-1, -2, -1.0 / 3}, .box_max = {1, 2, 1},
                                   .near_distance = 0.1, .background = {0.1f, 1, 0},
                                   .box_reason = "a \"test\"\n"};

static render_model *model_open(ad_context *ctx, int cascades) {
    ad_message error = {{0}};
    render_model *model = render_model_open(ctx, &small, &scene, cascades, &error);
    cr_assert_not_null(model, "%s", error.text);
    return model;
}

Test(snapshot, reads_back_to_the_same_bits) {
    const render_text extra[] = {{"note", "a\tb"}, {"downscale", "2"}};
    ad_message error = {{0}};
    ad_context *ctx = ad_open(&(ad_options){.seed = 9, .threads = 1});
    render_model *model = model_open(ctx, 2);
    const char *path = fixture_path(&folder, "a.safetensors");
    cr_assert(render_snapshot_write(model, NULL, path, extra, 2, &error), "%s", error.text);
    render_model_close(model), ad_close(ctx);

    ctx = ad_open(&(ad_options){.seed = 9, .threads = 2});
    render_text *texts;
    int count;
    model = render_snapshot_open(ctx, path, &texts, &count, &error);
    cr_assert_not_null(model, "%s", error.text);
    cr_expect(count == 2 && strcmp(texts[0].name, "note") == 0
              && strcmp(texts[0].text, "a\tb") == 0);
    const render_settings *s = render_model_settings(model);
    const render_scene *found = render_model_scene(model);
    cr_expect(s->learning_rate == small.learning_rate && s->steps == 7 && s->width == 16);
    cr_expect(found->box_min[2] == scene.box_min[2] && found->background[0] == 0.1f);
    cr_expect_str_eq(found->box_reason, scene.box_reason);
    const char *again = fixture_path(&folder, "b.safetensors");
    cr_assert(render_snapshot_write(model, NULL, again, texts, count, &error), "%s", error.text);
    size_t a_size, b_size;
    uint8_t *a = fixture_read(path, &a_size), *b = fixture_read(again, &b_size);
    cr_expect(a_size == b_size && memcmp(a, b, a_size) == 0, "written again it differs");
    free(a), free(b);
    render_texts_free(texts, count);
    render_model_close(model), ad_close(ctx);
}

// The snapshot with one piece of its header replaced by another of the same length.
static void tampered(const char *from, const char *to, const char *word) {
    ad_message error = {{0}};
    ad_context *ctx = ad_open(&(ad_options){.seed = 9, .threads = 1});
    render_model *model = model_open(ctx, 1);
    const char *path = fixture_path(&folder, "a.safetensors");
    cr_assert(render_snapshot_write(model, NULL, path, NULL, 0, &error), "%s", error.text);
    size_t size, length = strlen(from);
    uint8_t *bytes = fixture_read(path, &size);
    bool replaced = false;
    for (size_t i = 8; i + length < size && i < 8192 && !replaced; i++)
        if (memcmp(bytes + i, from, length) == 0) {
            memcpy(bytes + i, to, length);
            replaced = true;
        }
    cr_assert(replaced && strlen(to) == length, "nothing like %s in the header", from);
    fixture_write(&folder, "a.safetensors", bytes, size);
    free(bytes);
    render_model *other = render_snapshot_open(ctx, path, NULL, NULL, &error);
    cr_expect_null(other, "%s -> %s was let pass", from, to);
    cr_expect_not_null(strstr(error.text, word), "%s: %s", to, error.text);
    render_model_close(other), render_model_close(model), ad_close(ctx);
}

Test(snapshot, refuses_what_is_out_of_range) {
    tampered("adjoint snapshot 1", "adjoint snapshot 2", "format");
    tampered("\\\"width\\\":16", "\\\"width\\\":99", "density.0.weight");
    tampered("\\\"levels\\\":2", "\\\"levels\\\":0", "levels");
    tampered("\\\"log2_entries\\\":8", "\\\"log2_entries\\\":9", "grid.table");
    tampered("\\\"batch\\\":1024", "\\\"batch\\\":10.4", "batch");
    tampered("\\\"bf16\\\":false", "\\\"bf16\\\":faLse", "JSON");
    tampered("\\\"field\\\":\\\"hash", "\\\"field\\\":\\\"hush", "field");
    tampered("\\\"near\\\":0.1", "\\\"near\\\":-.1", "JSON");
    tampered("\\\"cascades\\\":1", "\\\"cascades\\\":9", "cascades");
    tampered("\"seed\":\"9\"", "\"seed\":\"x\"", "seed");
    tampered("\"grid.table\":", "\"grid.tabel\":", "grid.table");
}

/* ---- evaluation */

enum { EVALUATED = 12 }; // pixels a side
static const float sky[3] = {0.25f, 0.5f, 1};

typedef struct seen {
    render_model *model;
    int count;
    double psnr_sum;
    bool right;
} seen;

// Target and result as the protocol says: over the background, rounded; and their measure.
static bool check(void *user, const render_frame *frame, const uint8_t *result,
                  const uint8_t *target, double psnr, double ssim) {
    seen *s = user;
    static float colour[3 * EVALUATED * EVALUATED], black[3 * EVALUATED * EVALUATED];
    const int count = EVALUATED * EVALUATED;
    ad_message error;
    cr_assert(render_model_view(s->model, &frame->camera, sky, &(render_view){.colour = colour},
                                &error)
              && render_model_view(s->model, &frame->camera, (float[3]){0}, &(render_view){
                                   .colour = black}, &error), "%s", error.text);
    double squares = 0, through = 0;
    for (int i = 0; i < 3 * count; i++) {
        const uint8_t *pixel = frame->image.pixels + 4 * (i / 3);
        double behind = 255 * sky[i % 3];
        double value = (pixel[3] * pixel[i % 3] + (255 - pixel[3]) * behind) / 255;
        cr_assert(fabs(target[i] - value) <= 0.51, "target %d: %d, not %g", i, target[i], value);
        cr_assert(fabs(result[i] - 255.0 * colour[i]) <= 0.51, "result %d: %d, not %g", i,
                  result[i], 255.0 * colour[i]);
        squares += pow(target[i] - result[i], 2), through += colour[i] - black[i];
    }
    cr_expect(through / (3 * count) > 0.1, "no background shines through");
    double mine = 10 * log10(255.0 * 255 * 3 * count / squares);
    s->right = s->right && fabs(mine - psnr) < 1e-9 && ssim <= 1;
    s->psnr_sum += mine, s->count++;
    return s->count < 3;
}

Test(snapshot, evaluation_is_the_mean_over_images) {
    enum { SIDE = EVALUATED, COUNT = 4 };
    const float *background = sky;
    uint8_t pixels[COUNT][SIDE * SIDE * 4];
    render_frame frames[COUNT];
    ad_message error = {{0}};
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < SIDE * SIDE * 4; j++) pixels[i][j] = (uint8_t)(j * 37 + i * 11);
        frames[i] = (render_frame){
            .name = "x", .split = i == 1 ? RENDER_TRAIN : RENDER_TEST,
            .image = {SIDE, SIDE, pixels[i], NULL, true},
            .camera = {.pose = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 3}}, .fx = SIDE, .fy = SIDE,
                       .cx = SIDE / 2.0, .cy = SIDE / 2.0, .width = SIDE, .height = SIDE}};
    }
    render_dataset dataset = {.frames = frames, .count = COUNT};
    ad_context *ctx = ad_open(&(ad_options){.seed = 1, .threads = 1});
    render_model *model = model_open(ctx, 1);
    render_score score;
    seen s = {.right = true, .model = model};
    cr_assert(render_evaluate(model, &dataset, RENDER_TEST, 2, background, check, &s, &score,
                              &error), "%s", error.text);
    cr_expect(s.right && s.count == 2 && score.images == 2 && score.width == SIDE);
    cr_expect(fabs(score.psnr - s.psnr_sum / 2) < 1e-9, "%.6f", score.psnr);
    cr_assert(render_evaluate(model, &dataset, RENDER_TEST, 0, background, NULL, NULL, &score,
                              &error), "%s", error.text);
    cr_expect_eq(score.images, 3, "the training image does not count");
    cr_assert(render_evaluate(model, &dataset, RENDER_VAL, 0, background, NULL, NULL, &score,
                              &error));
    cr_expect(score.images == 0 && isnan(score.psnr));
    // Pixels that a mask takes out have no say.
    uint8_t mask[SIDE * SIDE] = {0};
    double before = score.psnr, after;
    mask[0] = 255, frames[0].image.mask = mask;
    cr_assert(render_evaluate(model, &dataset, RENDER_TEST, 1, background, NULL, NULL, &score,
                              &error));
    after = score.psnr;
    for (int j = 4; j < SIDE * SIDE * 4; j++) pixels[0][j] ^= 255;
    cr_assert(render_evaluate(model, &dataset, RENDER_TEST, 1, background, NULL, NULL, &score,
                              &error));
    cr_expect(isnan(before) && score.psnr == after, "%.6f, was %.6f", score.psnr, after);
    render_model_close(model), ad_close(ctx);
}
