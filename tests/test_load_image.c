/* PNG and JPEG readers: known pixels of every kind, damaged and hostile files, memory that ends. */
#include "fuzz/fuzz.h"
#include "render/load.h"
#include "tests/fixtures.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PNG_CORPUS "fuzz/corpus/png/"
#define JPEG_CORPUS "fuzz/corpus/jpeg/"

static void load(render_image *image, const char *path) {
    ad_message error = {{0}};
    cr_assert(render_image_load(image, path, NULL, &error), "%s", error.text);
}

/* Loading fails with a sentence that names the file and contains the words. */
static void refuse(const char *path, const char *words) {
    render_image image;
    ad_message error = {{0}};
    cr_assert_not(render_image_load(&image, path, NULL, &error), "%s was accepted", path);
    cr_assert(strstr(error.text, path) && strstr(error.text, words),
              "expected \"%s\" and \"%s\", found \"%s\"", path, words, error.text);
    cr_assert_null(image.pixels);
}

/* The sample the generator of the corpus put at (x, y, channel), in the file's own depth. */
static int sample(int x, int y, int channel, int depth) {
    return ((x * 37 + y * 91 + channel * 53) * (depth == 16 ? 257 : 1)) & ((1 << depth) - 1);
}

/* Of the corpus, every colour type and depth, plain and interlaced, has pixels given by a formula;
 * expected RGBA follows from the PNG specification: v * 255 / (2^depth - 1), rounded. */
static void check_png(int type, int depth, const char *layout) {
    char path[128];
    snprintf(path, sizeof path, PNG_CORPUS "type%d_depth%d_%s.png", type, depth, layout);
    render_image image;
    load(&image, path);
    cr_assert(image.width == 11 && image.height == 7, "%s: %d x %d", path, image.width,
              image.height);
    int limit = (1 << depth) - 1;
    for (int y = 0; y < 7; y++)
        for (int x = 0; x < 11; x++)
            for (int c = 0; c < 4; c++) {
                int channel = type == 4 ? (c == 3 ? 1 : 0) : type == 0 || type == 3 ? 0 : c;
                int value = sample(x, y, channel, depth);
                int expected = (int)((value * 255.0) / limit + 0.5);
                if (type == 3) expected = (value * (c == 0 ? 7 : c == 1 ? 13 : 29)) & 255;
                if (c == 3 && type != 4 && type != 6) expected = 255;
                int found = image.pixels[(y * 11 + x) * 4 + c];
                cr_assert_eq(found, expected, "%s: (%d, %d) channel %d: expected %d, found %d",
                             path, x, y, c, expected, found);
            }
    cr_assert_eq(image.has_alpha, type == 4 || type == 6);
    render_image_free(&image);
}

Test(load_png, every_colour_type_and_depth) {
    static const int kinds[][2] = {{0, 1}, {0, 2}, {0, 4}, {0, 8}, {0, 16}, {2, 8}, {2, 16}, {3, 1},
                                   {3, 2}, {3, 4}, {3, 8}, {4, 8}, {4, 16}, {6, 8}, {6, 16}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        check_png(kinds[i][0], kinds[i][1], "plain");
        check_png(kinds[i][0], kinds[i][1], "interlaced");
    }
}

Test(load_png, transparency_of_a_palette_and_of_one_colour) {
    render_image image;
    load(&image, PNG_CORPUS "palette_trns.png"); /* entries 0, 1 and 2 have alpha 0, 128 and 255 */
    cr_assert(image.has_alpha);
    for (int i = 0; i < 25; i++) {
        int entry = sample(i % 5, i / 5, 0, 4), expected = entry == 0 ? 0 : entry == 1 ? 128 : 255;
        cr_assert_eq(image.pixels[i * 4 + 3], expected);
    }
    render_image_free(&image);
    load(&image, PNG_CORPUS "grey_trns.png"); /* 37 is transparent */
    for (int i = 0; i < 25; i++)
        cr_assert_eq(image.pixels[i * 4 + 3], sample(i % 5, i / 5, 0, 8) == 37 ? 0 : 255);
    render_image_free(&image);
}

Test(load_png, damaged_and_hostile_files_are_refused) {
    refuse(PNG_CORPUS "truncated.png", "past the end of the file");
    refuse(PNG_CORPUS "long_chunk.png", "past the end of the file"); /* it claims 1.6 GB */
    refuse(PNG_CORPUS "bad_checksum.png", "damaged");
    refuse(PNG_CORPUS "bomb.png", "50000 x 50000");
    refuse("fuzz/corpus/png", "found a folder");
    refuse("fuzz/corpus/png/none.png", "cannot be opened");

    /* A size within the limit that no file of this length can hold. */
    size_t size;
    uint8_t *bytes = fixture_read(PNG_CORPUS "bomb.png", &size);
    render_image image;
    ad_message error;
    const render_image_options roomy = {.pixels_max = INT64_MAX};
    cr_assert_not(render_image_decode(&image, "x", bytes, size, &roomy, &error));
    cr_assert(strstr(error.text, "cannot be in a file of"), "%s", error.text);
    free(bytes);
}

Test(load_png, bytes_after_the_end_are_ignored) {
    size_t size;
    uint8_t *bytes = fixture_read(PNG_CORPUS "type0_depth1_plain.png", &size);
    bytes = realloc(bytes, size + 64);
    memset(bytes + size, 0xff, 64);
    render_image image;
    ad_message error = {{0}};
    cr_assert(render_image_decode(&image, "x", bytes, size + 64, NULL, &error), "%s", error.text);
    render_image_free(&image);
    free(bytes);
}

/* Cutting a file anywhere must fail, also within its last chunk. */
Test(load_png, every_truncation_fails) {
    size_t size;
    uint8_t *bytes = fixture_read(PNG_CORPUS "type6_depth8_interlaced.png", &size);
    for (size_t length = 0; length < size; length++) {
        render_image image;
        ad_message error;
        cr_assert_not(render_image_decode(&image, "cut", bytes, length, NULL, &error),
                      "%zu of %zu bytes were accepted", length, size);
    }
    free(bytes);
}

/* Upper left, upper right, lower left, lower right as letters: red, green, blue, white. */
static void corners(char found[5], const render_image *image) {
    for (int i = 0; i < 4; i++) {
        int x = i & 1 ? image->width - 3 : 2, y = i & 2 ? image->height - 3 : 2;
        const uint8_t *p = image->pixels + (y * image->width + x) * 4;
        bool r = p[0] > 128, g = p[1] > 128, b = p[2] > 128;
        found[i] = r && g && b ? 'W' : r ? 'R' : g ? 'G' : b ? 'B' : '?';
        cr_assert_eq(p[3], 255);
    }
    found[4] = 0;
}

/* The EXIF standard's table: where row 0 and column 0 of the stored picture are seen. Stored is
 * red, green over blue, white, 32 x 16. */
static void check_orientation(const char *path, int orientation) {
    static const char *const upright[9] = {0,      "RGBW", "GRWB", "WBGR", "BWRG",
                                           "RBGW", "BRWG", "WGBR", "GWRB"};
    char found[5];
    render_image image;
    load(&image, path);
    int width = orientation >= 5 ? 16 : 32, probed_width, probed_height;
    cr_assert_eq(image.width, width, "%s", path);
    cr_assert_eq(image.height, 48 - width);
    corners(found, &image);
    cr_assert_str_eq(found, upright[orientation], "%s: orientation %d: expected %s, found %s",
                     path, orientation, upright[orientation], found);
    render_image_free(&image);

    bool turned;
    ad_message error;
    cr_assert(render_image_probe(&probed_width, &probed_height, &turned, path, &error));
    cr_assert(probed_width == width && turned == (orientation >= 5), "%s", path);
    const render_image_options stored = {.ignore_orientation = true};
    cr_assert(render_image_load(&image, path, &stored, &error));
    corners(found, &image);
    cr_assert_str_eq(found, "RGBW");
    render_image_free(&image);
}

Test(load_jpeg, orientation_is_applied) {
    for (int orientation = 1; orientation <= 8; orientation++) {
        char path[64];
        snprintf(path, sizeof path, JPEG_CORPUS "orientation_%d.jpg", orientation);
        check_orientation(path, orientation);
    }
}

/* A PNG of the four colours with an eXIf chunk before its pixels or after them; `filler` bytes of
 * a chunk that nobody knows move the end of the file. EXIF: a TIFF header, then one list of one
 * entry, tag 0x0112, type 3, one value; big-endian. */
static const char *png_with_exif(const fixture_folder *folder, int orientation, bool late,
                                 size_t filler) {
    uint8_t pixels[16][32][3] = {{{0}}}, exif[26] = "MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1";
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 32; x++)
            for (int c = 0; c < 3; c++)
                pixels[y][x][c] = (y < 8 ? (x < 16) == (c == 0) && c < 2 : x >= 16 || c == 2) * 255;
    exif[19] = (uint8_t)orientation;
    fixture_png(folder, "plain.png", &pixels[0][0][0], 32, 16, 3);
    size_t size, header = 8 + 25, end = 12;
    uint8_t *plain = fixture_read(fixture_path(folder, "plain.png"), &size);
    uint8_t *png = malloc(size + filler + 100), *unknown = calloc(filler + 1, 1);
    size_t before = late ? size - end : header;
    memcpy(png, plain, before);
    uint8_t *at = fixture_png_chunk(png + before, "juNk", unknown, filler);
    at = fixture_png_chunk(at, "eXIf", exif, sizeof exif);
    memcpy(at, plain + before, size - before);
    fixture_write(folder, "turned.png", png, (size_t)(at - png) + size - before);
    free(plain), free(png), free(unknown);
    return fixture_path(folder, "turned.png");
}

Test(load_png, orientation_is_applied) {
    fixture_folder folder;
    fixture_make(&folder);
    check_orientation(PNG_CORPUS "orientation_6.png", 6);
    check_orientation(PNG_CORPUS "orientation_6_late.png", 6);
    for (int orientation = 1; orientation <= 8; orientation++)
        for (int late = 0; late < 2; late++) {
            check_orientation(png_with_exif(&folder, orientation, late, 3), orientation);
            // So far behind that it is not in the part that is looked at first.
            check_orientation(png_with_exif(&folder, orientation, late, 300000), orientation);
        }
    fixture_remove(&folder);
}

Test(load_jpeg, every_encoding) {
    static const struct {
        const char *name;
        int width, height;
    } files[] = {{"colour_444", 32, 16}, {"colour_420", 33, 17}, {"colour_422", 24, 16},
                 {"progressive", 32, 16}, {"arithmetic", 32, 16}, {"restart", 32, 32}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[64], found[5];
        snprintf(path, sizeof path, JPEG_CORPUS "%s.jpg", files[i].name);
        render_image image;
        load(&image, path);
        cr_assert(image.width == files[i].width && image.height == files[i].height);
        corners(found, &image);
        cr_assert_str_eq(found, "RGBW", "%s: found %s", path, found);
        render_image_free(&image);
    }
    render_image grey;
    load(&grey, JPEG_CORPUS "grey.jpg"); /* 255, 0 over 0, 255 */
    for (int c = 0; c < 3; c++) {
        cr_assert_geq(grey.pixels[c], 250);
        cr_assert_leq(grey.pixels[12 * 4 + c], 5);
    }
    render_image_free(&grey);
}

Test(load_jpeg, damaged_files_are_refused) {
    refuse(JPEG_CORPUS "truncated.jpg", "damaged");
    refuse(JPEG_CORPUS "truncated_late.jpg", "damaged"); /* libjpeg alone fills in grey */
    refuse(JPEG_CORPUS "early_end.jpg", "damaged"); /* the end marker comes too soon */
    refuse(JPEG_CORPUS "cmyk.jpg", "CMYK");
}

Test(load_image, other_formats_are_named_with_the_conversion) {
    static const struct {
        const char *bytes;
        size_t size;
        const char *words;
    } files[] = {{"\0\0\0\x18""ftypheic\0\0\0\0mif1", 20, "heif-convert"},
                 {"\0\0\0\x18""ftypavif", 12, "avifdec"},
                 {"RIFF\0\0\0\0WEBPVP8 ", 16, "dwebp"},
                 {"GIF89a", 6, "GIF"},
                 {"hello", 5, "something else"},
                 {"", 0, "an empty file"}};
    fixture_folder folder;
    fixture_make(&folder);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        fixture_write(&folder, "picture.jpg", files[i].bytes, files[i].size);
        refuse(fixture_path(&folder, "picture.jpg"), files[i].words);
    }
    fixture_remove(&folder);
}

/* Mean weighted by alpha; incomplete blocks dropped; a mask keeps whole blocks only. */
Test(image_resize, area_mean_in_premultiplied_alpha) {
    /* Two blocks of 2 x 2 and a column that is dropped. */
    static const uint8_t pixels[2][5][4] = {
        {{10, 20, 30, 255}, {20, 20, 30, 255}, {200, 0, 0, 255}, {0, 255, 0, 0}, {9, 9, 9, 9}},
        {{30, 20, 31, 255}, {41, 20, 30, 255}, {0, 255, 0, 0}, {100, 0, 50, 85}, {9, 9, 9, 9}}};
    static const uint8_t mask[2][5] = {{255, 255, 255, 0, 255}, {255, 255, 255, 255, 0}};
    render_image image = {.width = 5, .height = 2, .has_alpha = true};
    image.pixels = malloc(sizeof pixels), image.mask = malloc(sizeof mask);
    memcpy(image.pixels, pixels, sizeof pixels);
    memcpy(image.mask, mask, sizeof mask);
    ad_message error;
    cr_assert(render_image_downscale(&image, 2, &error), "%s", error.text);
    cr_assert(image.width == 2 && image.height == 1);
    /* (200 * 255 + 100 * 85) / 340 = 175; 50 * 85 / 340 = 12.5 -> 13; alpha 340 / 4 = 85. */
    static const uint8_t expected[8] = {25, 20, 30, 255, 175, 0, 13, 85};
    for (int i = 0; i < 8; i++)
        cr_assert_eq(image.pixels[i], expected[i], "%d: expected %d, found %d", i, expected[i],
                     image.pixels[i]);
    cr_assert(image.mask[0] == 255 && image.mask[1] == 0);
    cr_assert(image.has_alpha);
    cr_assert_not(render_image_downscale(&image, 2, &error));
    render_image_free(&image);
    render_image_free(&image);
}

/* Whichever allocation fails: an error or the whole picture, never a part, and no crash. */
Test(load_image, any_allocation_may_fail) {
    static const char *const paths[] = {PNG_CORPUS "rgb16_trns_interlaced.png",
                                        PNG_CORPUS "type3_depth4_plain.png",
                                        PNG_CORPUS "orientation_6.png",
                                        JPEG_CORPUS "orientation_6.jpg",
                                        JPEG_CORPUS "progressive.jpg"};
    if (!failing_memory_available()) cr_skip("AddressSanitizer has its own malloc");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        render_image whole, image;
        ad_message error;
        load(&whole, paths[i]);
        long k = 0, refused = 0;
        for (bool failed = true; failed; k++) {
            error.text[0] = 0;
            failing_memory_begin(k);
            bool done = render_image_load(&image, paths[i], NULL, &error);
            failed = failing_memory_end();
            refused += !done;
            if (!done) cr_assert(strstr(error.text, paths[i]), "%s", error.text);
            else cr_assert_arr_eq(image.pixels, whole.pixels, whole.width * whole.height * 4);
            if (!failed) cr_assert(done);
            render_image_free(&image);
        }
        cr_assert_gt(refused, 3, "%s: only %ld of %ld failures were noticed", paths[i], refused, k);
        render_image_free(&whole);
    }
}

/* ---- The corpora of the fuzz targets, once more ---- */

static int replay(const char *folder, int (*target)(const uint8_t *, size_t)) {
    int count = 0;
    DIR *listing = opendir(folder);
    cr_assert(listing, "%s is missing; tests run from the root of the repository", folder);
    for (const struct dirent *entry; (entry = readdir(listing));) {
        if (entry->d_name[0] == '.') continue;
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        size_t size;
        uint8_t *bytes = fixture_read(path, &size);
        cr_assert_eq(target(bytes, size), 0);
        free(bytes);
        count++;
    }
    closedir(listing);
    return count;
}

Test(fuzz, the_corpora_pass) {
    cr_assert_geq(replay("fuzz/corpus/png", fuzz_png), 30);
    cr_assert_geq(replay("fuzz/corpus/jpeg", fuzz_jpeg), 15);
    cr_assert_geq(replay("fuzz/corpus/transforms", fuzz_transforms), 8);
}
