/* Memory that ends while a file is written: whichever allocation fails, the call says so in a
 * sentence that names the file, or the file is whole. What was there before stays; no half is left
 * beside it. Readers have the same test beside their own ones. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "render/render.h"
#include "tests/fixtures.h"

enum { WIDTH = 23, HEIGHT = 17 };

static fixture_folder folder;
static uint8_t pixels[HEIGHT][WIDTH][3];
static float depth[HEIGHT][WIDTH];

static void make(void) {
    fixture_make(&folder);
    for (int i = 0; i < HEIGHT * WIDTH * 3; i++) (&pixels[0][0][0])[i] = (uint8_t)(i * i);
    for (int i = 0; i < HEIGHT * WIDTH; i++) (&depth[0][0])[i] = (float)i;
}

static void clear(void) { fixture_remove(&folder); }

TestSuite(no_memory, .init = make, .fini = clear, .timeout = 120);

typedef bool (*writer)(const char *path, void *user, ad_message *error);

static void expect_bytes(const char *path, const uint8_t *bytes, size_t size, long k) {
    size_t found_size;
    uint8_t *found = fixture_read(path, &found_size);
    cr_assert(found_size == size && memcmp(found, bytes, size) == 0,
              "%s: other bytes after allocation %ld failed", path, k);
    free(found);
}

// Every allocation of the writer fails once, over a file that is there and over none.
static void starve(const char *name, writer write, void *user, long refused_least) {
    char path[512], part[600];
    size_t size;
    struct stat status;
    ad_message error = {{0}};
    if (!failing_memory_available()) cr_skip("AddressSanitizer has its own malloc");
    snprintf(path, sizeof path, "%s", fixture_path(&folder, name));
    snprintf(part, sizeof part, "%s.part", path);
    cr_assert(write(path, user, &error), "%s", error.text);
    uint8_t *whole = fixture_read(path, &size);
    long k = 0, refused = 0;
    for (bool failed = true; failed; k++) {
        bool old = k % 2;
        if (old) fixture_text(&folder, name, "old");
        else unlink(path);
        error.text[0] = 0;
        failing_memory_begin(k);
        bool done = write(path, user, &error);
        failed = failing_memory_end();
        refused += !done;
        cr_assert(done || failed, "%s", error.text);
        cr_assert(stat(part, &status) != 0, "%s is left", part);
        if (done) expect_bytes(path, whole, size, k);
        else {
            cr_assert(strstr(error.text, path) && strstr(error.text, "emory"),
                      "allocation %ld: expected the path and the reason, found \"%s\"", k,
                      error.text);
            if (old) expect_bytes(path, (const uint8_t *)"old", 3, k);
            else cr_assert(stat(path, &status) != 0, "allocation %ld: %s is half there", k, path);
        }
    }
    cr_assert_geq(refused, refused_least, "%s: %ld of %ld failures noticed", name, refused, k);
    free(whole);
}

/* ---- pictures, arrays, reports */

static bool write_png(const char *path, void *user, ad_message *error) {
    (void)user;
    return render_png_write(path, &pixels[0][0][0], WIDTH, HEIGHT, 3, error);
}

static bool write_npy(const char *path, void *user, ad_message *error) {
    (void)user;
    return render_npy_write(path, &depth[0][0], HEIGHT, WIDTH, 0, error);
}

static bool write_report(const char *path, void *user, ad_message *error) {
    static const double x[] = {1, 2, 3, 4}, y[] = {4, 2, 1, 0.5};
    static const render_row rows[] = {{"name", "value"}, {"other", "<value>"}};
    const render_report_view view = {.name = "view", .width = WIDTH, .height = HEIGHT,
                                     .target = &pixels[0][0][0], .result = &pixels[0][0][0],
                                     .depth = &pixels[0][0][0], .psnr = 30, .ssim = 0.9};
    const render_report report = {
        .title = "run", .summary = "4 steps", .loss = {x, y, 4}, .psnr = {x, y, 4},
        .views = &view, .view_count = 1, .settings = rows, .setting_count = 2,
        .picture = &pixels[0][0][0], .picture_width = WIDTH, .picture_height = HEIGHT,
        .command = "adjoint"};
    (void)user;
    return render_report_write(&report, path, error);
}

Test(no_memory, png) { starve("a.png", write_png, NULL, 6); }

Test(no_memory, npy) { starve("a.npy", write_npy, NULL, 3); }

Test(no_memory, report) { starve("a.html", write_report, NULL, 10); }

/* ---- snapshots */

typedef struct run {
    ad_context *ctx;
    render_model *model;
} run;

static bool write_snapshot(const char *path, void *user, ad_message *error) {
    const render_text extra[] = {{"downscale", "2"}};
    run *r = user;
    bool done = render_snapshot_write(r->model, NULL, path, extra, 1, error);
    ad_error_clear(r->ctx);
    return done;
}

static const render_settings settings = {.preset = "fast", .grid = {2, 2, 8, 4, 16}, .width = 16,
                                         .batch = 1024, .rays = 64, .march_steps = 64, .steps = 7};
static const render_scene scene = {.box_min = {-1, -1, -1}, .box_max = {1, 1, 1},
                                   .near_distance = 0.1};

Test(no_memory, snapshot) {
    ad_message error = {{0}};
    run r = {.ctx = ad_open(&(ad_options){.threads = 1, .seed = 1})};
    r.model = render_model_open(r.ctx, &settings, &scene, 1, &error);
    cr_assert_not_null(r.model, "%s", error.text);
    starve("a.safetensors", write_snapshot, &r, 10);
    render_model_close(r.model);
    ad_close(r.ctx);
}
