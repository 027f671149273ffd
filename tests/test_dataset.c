/* Folders: the three dialects, splits, missing and damaged images, masks, budget, downscaling. */
#include "render/render.h"
#include "tests/fixtures.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POSE "[[1,0,0,0],[0,1,0,0],[0,0,1,4],[0,0,0,1]]"

static fixture_folder folder;

static void make(void) { fixture_make(&folder); }
static void clean(void) { fixture_remove(&folder); }

TestSuite(dataset, .init = make, .fini = clean);

static const uint8_t orange[4] = {250, 130, 10, 255};

/* A transforms file of frames PREFIX00 ... with an ending, and `head` before "frames". */
static void write_transforms(const char *name, const char *head, const char *prefix,
                             const char *ending, int count) {
    char *text = malloc(4096 + (size_t)count * 256);
    int used = sprintf(text, "{%s\"frames\":[", head);
    for (int i = 0; i < count; i++)
        used += sprintf(text + used, "%s{\"file_path\":\"%s%02d%s\",\"transform_matrix\":" POSE "}",
                        i ? "," : "", prefix, i, ending);
    sprintf(text + used, "]}");
    fixture_text(&folder, name, text);
    free(text);
}

static void write_images(const char *prefix, int count, int width, int height) {
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%02d.png", prefix, i);
        fixture_flat(&folder, name, width, height, orange);
    }
}

static void load(render_dataset *dataset, const render_dataset_options *options) {
    ad_message error = {{0}};
    cr_assert(render_dataset_load(dataset, folder.path, options, &error), "%s", error.text);
}

static void refuse(const render_dataset_options *options, const char *words) {
    render_dataset dataset;
    ad_message error = {{0}};
    cr_assert_not(render_dataset_load(&dataset, folder.path, options, &error), "expected: %s",
                  words);
    cr_assert(strstr(error.text, words) && strstr(error.text, folder.path),
              "expected the folder and \"%s\", found \"%s\"", words, error.text);
    cr_assert(dataset.count == 0 && !dataset.frames && !dataset.warnings);
}

static bool warned(const render_dataset *dataset, const char *words) {
    for (int i = 0; i < dataset->warning_count; i++)
        if (strstr(dataset->warnings[i], words)) return true;
    return false;
}

#define ANGLE "\"camera_angle_x\":1.0,"
#define NGP "\"fl_x\":20,\"cx\":9,\"cy\":7,\"w\":20,\"h\":12,\"k1\":0.01,\"aabb_scale\":4,"

/* ---- Splits ---- */

Test(dataset, blender_holds_out_test_and_loads_val_on_demand) {
    write_transforms("transforms_train.json", ANGLE, "./train/r_", "", 4);
    write_transforms("transforms_val.json", ANGLE, "./val/r_", "", 2);
    write_transforms("transforms_test.json", ANGLE, "./test/r_", "", 3);
    write_images("train/r_", 4, 8, 6);
    write_images("val/r_", 2, 8, 6);
    write_images("test/r_", 3, 8, 6);
    render_dataset dataset;
    load(&dataset, NULL);
    cr_assert(dataset.train_count == 4 && dataset.val_count == 2 && dataset.test_count == 3);
    cr_assert(dataset.count == 7 && dataset.bytes == 7 * 8 * 6 * 4, "val was loaded");
    cr_assert(dataset.held_out == RENDER_TEST && dataset.held_out_count == 3);
    cr_assert(dataset.width == 8 && dataset.height == 6 && dataset.same_size);
    cr_assert(dataset.field_of_view_only && !dataset.has_alpha);
    cr_assert_str_eq(dataset.frames[0].name, "train/r_00.png");
    const render_camera *camera = &dataset.frames[0].camera;
    cr_assert_float_eq(camera->fx, 4 / tan(0.5), 1e-12);
    cr_assert(camera->fy == camera->fx && camera->cx == 4 && camera->cy == 3);
    cr_assert_arr_eq(dataset.frames[0].image.pixels, orange, 4);
    render_dataset_free(&dataset);
    render_dataset_free(&dataset);
    load(&dataset, &(render_dataset_options){.splits = RENDER_VAL});
    cr_assert(dataset.count == 2 && dataset.val_count == 2 && dataset.held_out == RENDER_TEST);
    cr_assert(dataset.train_count == 4 && dataset.test_count == 3);
    render_dataset_free(&dataset);
    /* What does not exist or cannot be decoded is in no split. */
    fixture_text(&folder, "train/r_01.png", "no picture");
    unlink(fixture_path(&folder, "val/r_01.png"));
    load(&dataset, &(render_dataset_options){.tolerate = 0.5});
    cr_assert(dataset.train_count == 3 && dataset.val_count == 1 && dataset.test_count == 3);
    render_dataset_free(&dataset);
}

Test(dataset, val_is_held_out_when_no_test_image_exists) {
    write_transforms("transforms_train.json", ANGLE, "train/", "", 4);
    write_transforms("transforms_val.json", ANGLE, "val/", "", 2);
    write_transforms("transforms_test.json", ANGLE, "test/", "", 3);
    write_images("train/", 4, 8, 6);
    write_images("val/", 2, 8, 6);
    render_dataset dataset;
    load(&dataset, NULL);
    cr_assert(dataset.held_out == RENDER_VAL && dataset.held_out_count == 2);
    cr_assert(warned(&dataset, "3 of 3 images do not exist"));
    render_dataset_free(&dataset);
}

/* 18 names whose numeric and byte-wise orders differ: every 8th by bytes. */
Test(dataset, every_nth_by_bytewise_name) {
    char text[4096] = "{" ANGLE "\"frames\":[", name[32];
    for (int i = 1; i <= 18; i++) {
        snprintf(name, sizeof name, "%d.png", i);
        fixture_flat(&folder, name, 4, 4, orange);
        snprintf(text + strlen(text), sizeof text - strlen(text),
                 "%s{\"file_path\":\"%d.png\",\"transform_matrix\":" POSE "}", i > 1 ? "," : "", i);
    }
    fixture_text(&folder, "transforms.json", strcat(text, "]}"));
    render_dataset dataset;
    load(&dataset, NULL); /* 1 10 11 12 13 14 15 16 | 17 18 2 3 4 5 6 7 | 8 9 */
    cr_assert(dataset.held_out_count == 3 && dataset.train_count == 15);
    cr_assert_str_eq(dataset.frames[15].name, "1.png");
    cr_assert_str_eq(dataset.frames[16].name, "17.png");
    cr_assert_str_eq(dataset.frames[17].name, "8.png");
    render_dataset_free(&dataset);
    load(&dataset, &(render_dataset_options){.hold_out = 5});
    cr_assert_eq(dataset.held_out_count, 4);
    render_dataset_free(&dataset);
    load(&dataset, &(render_dataset_options){.hold_out = -1});
    cr_assert(dataset.held_out_count == 0 && dataset.train_count == 18);
    render_dataset_free(&dataset);
    refuse(&(render_dataset_options){.hold_out = 1}, "to train on: all 18 are held out");
}

Test(dataset, lists_of_names_and_repeated_images) {
    write_transforms("transforms.json", ANGLE "\"train_filenames\":[\"./a00.png\",\"a01.png\","
                     "\"a02.png\",\"a03.png\"],\"test_filenames\":[\"x/../a04.png\"],",
                     "a", ".png", 6);
    write_images("a", 6, 8, 6);
    render_dataset dataset;
    load(&dataset, NULL);
    cr_assert(dataset.train_count == 4 && dataset.test_count == 1);
    cr_assert_str_eq(dataset.frames[4].name, "a04.png");
    cr_assert(warned(&dataset, "1 of 6 frames are in none of the lists"));
    render_dataset_free(&dataset);

    /* Trained on and measured: only measured. */
    write_transforms("transforms_train.json", ANGLE, "a", "", 6);
    write_transforms("transforms_val.json", ANGLE, "./a", ".png", 2);
    load(&dataset, NULL);
    cr_assert(dataset.train_count == 4 && dataset.val_count == 2);
    cr_assert(warned(&dataset, "2 images listed for training are held out"));
    render_dataset_free(&dataset);
}

/* ---- Intrinsics and sizes ---- */

Test(dataset, intrinsics_follow_the_size_and_the_downscaling) {
    write_transforms("transforms.json", NGP, "images\\\\", ".png", 4);
    write_images("images/", 4, 41, 25); /* about twice the size of the calibration */
    render_dataset dataset;
    load(&dataset, &(render_dataset_options){.downscale = 4, .threads = 2});
    const render_camera *camera = &dataset.frames[0].camera;
    cr_assert(camera->width == 10 && camera->height == 6);
    cr_assert(dataset.frames[0].image.width == 10 && dataset.frames[0].image.height == 6);
    cr_assert_float_eq(camera->fx, 20 * (41.0 / 20) / 4, 1e-12);
    cr_assert_float_eq(camera->fy, 20 * (25.0 / 12) / 4, 1e-12);
    cr_assert_float_eq(camera->cx, 9 * (41.0 / 20) / 4, 1e-12);
    cr_assert(camera->k[0] == 0.01 && dataset.aabb_scale == 4 && !dataset.field_of_view_only);
    cr_assert_eq(dataset.bytes, 4 * 10 * 6 * 4);
    render_dataset_free(&dataset);
    refuse(&(render_dataset_options){.downscale = 30}, "--downscale 30");
    write_images("images/", 1, 30, 30);
    refuse(NULL, "frame 0: expected images/00.png to have the shape of 20 x 12 pixels");
}

Test(dataset, sizes_must_agree_where_pixels_are_shared) {
    write_transforms("transforms.json", "\"fl_x\":20,", "i", ".png", 4);
    write_images("i", 4, 8, 6);
    fixture_flat(&folder, "i02.png", 16, 12, orange);
    refuse(NULL, "frame 2: expected i02.png to be 8 x 6 pixels");
    write_transforms("transforms.json", ANGLE, "i", ".png", 4);
    render_dataset dataset;
    load(&dataset, NULL);
    cr_assert(!dataset.same_size && dataset.width == 16 && dataset.height == 12);
    render_dataset_free(&dataset);
}

/* EXIF turns the picture; a calibration of the picture as stored (w and h) keeps it as stored. */
Test(dataset, orientation_follows_the_calibration) {
    size_t size;
    uint8_t *bytes = fixture_read("fuzz/corpus/jpeg/orientation_6.jpg", &size); /* 32 x 16 stored */
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "p%02d.jpg", i);
        fixture_write(&folder, name, bytes, size);
    }
    free(bytes);
    render_dataset dataset;
    write_transforms("transforms.json", ANGLE, "p", ".jpg", 4);
    load(&dataset, NULL);
    cr_assert(dataset.width == 16 && dataset.height == 32);
    render_dataset_free(&dataset);
    write_transforms("transforms.json", "\"w\":32,\"h\":16," ANGLE, "p", ".jpg", 4);
    load(&dataset, NULL);
    cr_assert(dataset.width == 32 && dataset.height == 16);
    const uint8_t *p = dataset.frames[0].image.pixels + (2 * 32 + 2) * 4;
    cr_assert(p[0] > 200 && p[1] < 60 && p[2] < 60, "expected red as stored");
    render_dataset_free(&dataset);
}

/* ---- What is missing, damaged or too large ---- */

Test(dataset, missing_images_are_left_out_with_one_warning) {
    write_transforms("transforms.json", ANGLE, "m", ".png", 12);
    write_images("m", 7, 8, 6);
    render_dataset dataset;
    load(&dataset, NULL);
    cr_assert(dataset.count == 7 && dataset.missing == 5 && dataset.warning_count == 1);
    cr_assert(warned(&dataset, "5 of 12 images do not exist and are left out: m07.png, m08.png, "
                               "m09.png, ..."), "%s", dataset.warnings[0]);
    render_dataset_free(&dataset);
    for (int i = 2; i < 7; i++) {
        char name[32];
        snprintf(name, sizeof name, "m%02d.png", i);
        remove(fixture_path(&folder, name));
    }
    refuse(NULL, "expected at least 3 images, found 2 of the 12 listed");
}

Test(dataset, damaged_images_are_tolerated_up_to_a_share) {
    write_transforms("transforms.json", ANGLE, "d", ".png", 20);
    write_images("d", 20, 8, 6);
    size_t size;
    uint8_t *bytes = fixture_read(fixture_path(&folder, "d03.png"), &size);
    fixture_write(&folder, "d03.png", bytes, size - 20); /* header whole, pixels not */
    fixture_text(&folder, "d08.png", "not an image");
    free(bytes);
    render_dataset dataset;
    load(&dataset, &(render_dataset_options){.threads = 2});
    cr_assert(dataset.undecoded == 2 && dataset.count == 18);
    cr_assert(dataset.held_out_count == 2, "d00, d08 (damaged) and d16 were held out");
    cr_assert(warned(&dataset, "2 of 20 images cannot be used and are skipped"));
    render_dataset_free(&dataset);
    refuse(&(render_dataset_options){.tolerate = 0.05}, "d03.png: expected a PNG image, found "
                                                        "damaged data");
    refuse(&(render_dataset_options){.tolerate = -1}, "2 of 20 images cannot be used");
    fixture_text(&folder, "d04.png", "");
    refuse(NULL, "3 of 20 images cannot be used");
}

Test(dataset, the_memory_budget_is_kept_and_what_fits_is_named) {
    write_transforms("transforms.json", ANGLE, "b", ".png", 4);
    write_images("b", 4, 100, 100);
    refuse(&(render_dataset_options){.memory_budget = 140000}, "--downscale 2 fits");
    refuse(&(render_dataset_options){.memory_budget = 200000},
           "4 images need 0.26 MB, more than the budget of 0.2 MB"); /* one in flight */
    render_dataset dataset;
    load(&dataset, &(render_dataset_options){.memory_budget = 140000, .downscale = 2});
    cr_assert_eq(dataset.bytes, 40000);
    render_dataset_free(&dataset);
    load(&dataset, &(render_dataset_options){.memory_budget = 1, .cameras_only = true});
    cr_assert(dataset.count == 4 && dataset.bytes == 0 && !dataset.frames[0].image.pixels);
    render_dataset_free(&dataset);
}

/* ---- Masks ---- */

Test(dataset, masks_by_name_and_by_path) {
    write_transforms("transforms.json", ANGLE, "k", ".png", 4);
    write_images("k", 4, 4, 4);
    uint8_t grey[16];
    memset(grey, 255, 16);
    grey[5] = 0; /* (1, 1) */
    fixture_png(&folder, "k01.mask.png", grey, 4, 4, 1);
    render_dataset dataset;
    load(&dataset, &(render_dataset_options){.hold_out = -1});
    cr_assert(dataset.has_mask && !dataset.frames[0].image.mask);
    cr_assert_arr_eq(dataset.frames[1].image.mask, grey, 16);
    cr_assert_float_eq(dataset.masked_share, 1.0 / 64, 1e-12);
    render_dataset_free(&dataset);
    load(&dataset, &(render_dataset_options){.hold_out = -1, .downscale = 2});
    const uint8_t half[4] = {0, 255, 255, 255};
    cr_assert_arr_eq(dataset.frames[1].image.mask, half, 4);
    render_dataset_free(&dataset);

    fixture_png(&folder, "k01.mask.png", grey, 2, 8, 1);
    refuse(&(render_dataset_options){.tolerate = -1}, "expected a mask of 4 x 4 pixels");
    remove(fixture_path(&folder, "k01.mask.png"));
    write_transforms("transforms.json", ANGLE, "k", ".png\",\"mask_path\":\"masks/all.png", 4);
    refuse(NULL, "frame 0: expected the mask masks/all.png");
    memset(grey, 1, 16); /* labels 0 and 1: all used */
    fixture_png(&folder, "masks/all.png", grey, 4, 4, 1);
    load(&dataset, NULL);
    cr_assert(dataset.masked_share == 0 && warned(&dataset, "the masks take out no pixel"));
    render_dataset_free(&dataset);
}

/* k1 = -0.4 folds at 0.6086 focal lengths from the centre: the corners of this image. */
Test(dataset, pixels_without_a_ray_are_masked) {
    write_transforms("transforms.json", "\"fl_x\":8,\"k1\":-0.4,", "c", ".png", 3);
    write_images("c", 3, 8, 8);
    render_dataset dataset;
    load(&dataset, &(render_dataset_options){.hold_out = -1});
    for (int i = 0; i < 64; i++) {
        double r = hypot(i % 8 - 3.5, i / 8 - 3.5) / 8;
        cr_assert_eq(dataset.frames[2].image.mask[i], r < 0.6086 ? 255 : 0, "pixel %d", i);
    }
    cr_assert_float_eq(dataset.masked_share, 4.0 / 64, 1e-12);
    cr_assert_eq(dataset.bytes, 3 * 64 * 5);
    render_dataset_free(&dataset);
    write_transforms("transforms.json", "\"fl_x\":8,\"k1\":-0.4,\"cx\":40,", "c", ".png", 3);
    refuse(&(render_dataset_options){.hold_out = -1}, "frame 0: expected distortion that can be");
}

/* ---- Folders that are none ---- */

Test(dataset, folders_without_transforms_are_explained) {
    refuse(NULL, "found an empty folder");
    fixture_text(&folder, "readme.txt", "hello");
    refuse(NULL, "expected transforms.json or transforms_train.json, found neither");
    fixture_text(&folder, "IMG_1.HEIC", "x");
    refuse(NULL, "found 1 image without camera poses");
    refuse(NULL, "heif-convert");
    ad_message error;
    render_dataset dataset;
    cr_assert_not(render_dataset_load(&dataset, "/nonexistent/place", NULL, &error));
    cr_assert(strstr(error.text, "/nonexistent/place"), "%s", error.text);
}

Test(dataset, any_allocation_may_fail) {
    if (!failing_memory_available()) cr_skip("AddressSanitizer has its own malloc");
    write_transforms("transforms.json", ANGLE "\"test_filenames\":[\"f01.png\"],"
                     "\"train_filenames\":[\"f00.png\",\"f02.png\",\"f03.png\"],", "f", ".png", 5);
    write_images("f", 4, 4, 4);
    uint8_t grey[16] = {255};
    fixture_png(&folder, "f02.mask.png", grey, 4, 4, 1);
    long k = 0, refused = 0;
    for (bool failed = true; failed; k++) {
        render_dataset dataset;
        ad_message error = {{0}};
        failing_memory_begin(k);
        bool done = render_dataset_load(&dataset, folder.path,
                                        &(render_dataset_options){.downscale = 2, .tolerate = 0.9},
                                        &error);
        failed = failing_memory_end();
        if (done) { /* only the buffer of a stream may be missed: nothing is lost without it */
            cr_assert(dataset.count == 4 && dataset.undecoded == 0 && dataset.has_mask &&
                      dataset.warning_count == 1, "allocation %ld: not noticed", k);
            cr_assert_eq(dataset.frames[1].image.pixels[0], 250);
        } else {
            refused++;
            cr_assert(strstr(error.text, "memory"), "allocation %ld: %s", k, error.text);
        }
        cr_assert(done || failed);
        render_dataset_free(&dataset);
    }
    cr_assert(refused > 100 && k - refused < 20, "%ld of %ld noticed", refused, k);
}
