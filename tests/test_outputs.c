/* Pictures, arrays, JSON lines and colours: what is written is read back, by libpng
   through our own reader or by hand, and what cannot be written ends in a sentence. */
#define _DEFAULT_SOURCE 1
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "autodiff/text.h"
#include "render/json_lines.h"
#include "render/render.h"
#include "tests/fixtures.h"

static fixture_folder folder;

static void folder_make(void) { fixture_make(&folder); }
static void folder_remove(void) { fixture_remove(&folder); }
static const char *in_folder(const char *name) { return fixture_path(&folder, name); }

TestSuite(outputs, .init = folder_make, .fini = folder_remove);

/* ---- pictures and arrays ---- */

Test(outputs, png_is_read_back) {
    // Smooth, flat, blocky and noisy parts, so that every filter is the best one somewhere.
    enum { WIDTH = 37, HEIGHT = 49 };
    static uint8_t pixels[WIDTH * HEIGHT * 4];
    static const int kinds[] = { 1, 3, 4 };
    uint32_t noise = 1;
    for (int i = 0; i < WIDTH * HEIGHT * 4; i++) {
        noise = noise * 1664525u + 1013904223u;
        int y = i / (WIDTH * 4), x = i / 4 % WIDTH, random = (int)(noise >> 24);
        int blocks = 40 * ((x / 5 + y / 7) % 5) + random % 3;
        pixels[i] = (uint8_t)(y < 10 ? i : y < 20 ? 7 * y + i % 4 : y < 40 ? blocks : random);
    }
    for (int k = 0; k < 3; k++) {
        ad_message error = { "" };
        render_image image = { 0 };
        int channels = kinds[k];
        const char *path = in_folder("a.png");
        cr_assert(render_png_write(path, pixels, WIDTH, HEIGHT, channels, &error), "%s",
                  error.text);
        cr_assert(render_image_load(&image, path, NULL, &error), "%s", error.text);
        cr_assert(image.width == WIDTH && image.height == HEIGHT);
        for (int i = 0; i < WIDTH * HEIGHT; i++) {
            const uint8_t *in = pixels + i * channels, *out = image.pixels + 4 * i;
            for (int c = 0; c < 3; c++)
                cr_assert_eq(out[c], in[channels == 1 ? 0 : c], "pixel %d, channel %d", i, c);
            cr_assert_eq(out[3], channels == 4 ? in[3] : 255, "pixel %d, alpha", i);
        }
        render_image_free(&image);
    }
}

Test(outputs, png_of_one_pixel_byte_by_byte) {
    // A known file: signature, IHDR, IDAT of one filtered row, IEND, checksums by zlib's crc32.
    const uint8_t red[3] = { 255, 0, 0 };
    uint8_t *png;
    size_t count;
    ad_message error;
    cr_assert(render_png_encode(&png, &count, red, 1, 1, 3, &error));
    static const uint8_t front[] = {
        0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I',  'H',  'D',  'R', 0,
        0,    0,   1,   0,   0,    0,    1,    8,    2, 0, 0, 0,  0x90, 0x77, 0x53, 0xde
    };
    static const uint8_t back[] = { 0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82 };
    cr_expect_arr_eq(png, front, sizeof front);
    cr_expect_arr_eq(png + count - sizeof back, back, sizeof back);
    free(png);
    cr_expect_not(render_png_encode(&png, &count, red, 0, 1, 3, &error));
    cr_expect_not(render_png_encode(&png, &count, red, 1, 1, 2, &error));
    cr_expect_not(render_png_encode(&png, &count, red, 1 << 20, 1 << 20, 3, &error));
    cr_expect_null(png);
}

Test(outputs, npy_layout) {
    const float values[6] = { 0, 1.5f, -2, 3, 4, NAN };
    static const struct {
        int width, channels;
        const char *shape;
    } cases[] = {
        { 3, 0, "(2, 3)" },
        { 1, 3, "(2, 1, 3)" },
    };
    for (int i = 0; i < 2; i++) {
        size_t count;
        char expected[118];
        ad_message error = { "" };
        const char *path = in_folder("a.npy");
        cr_assert(render_npy_write(path, values, 2, cases[i].width, cases[i].channels, &error),
                  "%s", error.text);
        char *bytes = (char *)fixture_read(path, &count);
        cr_assert_eq(count, 128 + sizeof values);
        cr_expect_eq(memcmp(bytes, "\x93NUMPY\1\0\x76\0", 10), 0, "magic, version, length 118");
        snprintf(expected, sizeof expected,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", cases[i].shape);
        cr_expect_eq(memcmp(bytes + 10, expected, strlen(expected)), 0, "%.118s", bytes + 10);
        cr_expect_eq(bytes[127], '\n');
        cr_expect_eq(memcmp(bytes + 128, values, sizeof values), 0);
        free(bytes);
    }
}

Test(outputs, nothing_half_written) {
    static uint8_t noise[300 * 300];
    ad_message error = { "" };
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof noise; i++) {
        random = random * 1664525u + 1013904223u;
        noise[i] = (uint8_t)(random >> 24);
    }
    fixture_text(&folder, "no", "a file where a folder is wanted");
    cr_expect_not(render_png_write(in_folder("no/a.png"), noise, 300, 300, 1, &error));
    cr_expect(strstr(error.text, "cannot be created"), "%s", error.text);
    if (access("/dev/full", W_OK) == 0) {
        cr_expect_not(render_png_write("/dev/full", noise, 300, 300, 1, &error));
        cr_expect(strstr(error.text, "/dev/full: cannot be written, the disk is full"), "%s",
                  error.text);
        cr_expect_not(render_npy_write("/dev/full", (float[1]){ 0 }, 1, 1, 0, &error));
        cr_expect(strstr(error.text, "the disk is full"), "%s", error.text);
    }

    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit, narrow;
    getrlimit(RLIMIT_FSIZE, &limit);
    narrow = limit;
    narrow.rlim_cur = 10000;
    setrlimit(RLIMIT_FSIZE, &narrow);
    bool written = render_png_write(in_folder("a.png"), noise, 300, 300, 1, &error);
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_expect_not(written);
    cr_expect(strstr(error.text, "a.png: cannot be written"), "%s", error.text);
    cr_expect_neq(access(in_folder("a.png"), F_OK), 0);
    cr_expect_neq(access(in_folder("a.png.part"), F_OK), 0);
}

/* ---- colours ---- */

Test(outputs, colours) {
    uint8_t rgb[3 * 4];
    const float depth[4] = { 1, 3, NAN, 2 }, range[2] = { 1, 3 };
    render_colour_depth(rgb, depth, (float[]){ 1, 1, 1, 0 }, 4, range);
    cr_expect(rgb[0] == 122 && rgb[1] == 4 && rgb[2] == 2, "near is the red end");
    cr_expect(rgb[3] == 48 && rgb[4] == 18 && rgb[5] == 59, "far is the blue end");
    for (int i = 6; i < 12; i++) cr_expect_eq(rgb[i], 255, "not finite, not there: white");

    render_colour_normal(rgb, (float[]){ 2, 0, 0, 0, -1, 0, 0, 0, 0, 0, NAN, 1 }, NULL, 4);
    cr_expect(rgb[0] == 255 && rgb[1] == 128 && rgb[2] == 128, "+x is red, of any length");
    cr_expect(rgb[3] == 128 && rgb[4] == 0 && rgb[5] == 128);
    for (int i = 6; i < 12; i++) cr_expect_eq(rgb[i], 255, "no direction: white");

    // 0.2 of the range is the brightest; the error may have either sign.
    const uint8_t image[6] = { 10, 10, 10, 61, 61, 61 }, target[6] = { 10, 10, 10, 10, 10, 10 };
    render_colour_error(rgb, image, target, 2, 3, 0);
    cr_expect(rgb[0] == 0 && rgb[1] == 0 && rgb[2] == 3, "no error is black");
    cr_expect(rgb[3] == 252 && rgb[4] == 254 && rgb[5] == 164, "51 levels are the bright end");
    render_colour_error(rgb + 3, target, image, 2, 3, 0);
    cr_expect(rgb[6] == 252 && rgb[7] == 254 && rgb[8] == 164);
}

Test(outputs, depth_range_leaves_outliers_out) {
    static float depth[10000], opacity[10000];
    float range[2];
    for (int i = 0; i < 10000; i++) depth[i] = 2 + (float)i / 10000, opacity[i] = 1;
    depth[17] = 5, depth[18] = NAN, depth[19] = 1000, opacity[19] = 0.1f;
    render_depth_range(range, depth, opacity, 10000);
    cr_expect_float_eq(range[0], 2.01, 0.005, "%g", (double)range[0]);
    cr_expect_float_eq(range[1], 2.99, 0.005, "%g", (double)range[1]);
    render_depth_range(range, depth, opacity, 0);
    cr_expect(range[0] == 0 && range[1] == 1);
    render_depth_range(range, (float[]){ 4, 4 }, NULL, 2);
    cr_expect(range[0] == 4 && range[1] == 4);
    uint8_t rgb[3];
    render_colour_depth(rgb, (float[]){ 4 }, NULL, 1, range); // an empty range divides by nothing
}

/* ---- JSON lines ---- */

Test(outputs, json_line) {
    render_json line = { 0 };
    for (int pass = 0; pass < 2; pass++) { // the memory is used again
        render_json_begin(&line);
        render_json_string(&line, "event", "a\"b\\c\n\t\x01\x7f\xff\xc3\xa4\xed\xa0\x80");
        render_json_string(&line, "none", NULL);
        render_json_integer(&line, "big", INT64_MIN);
        render_json_number(&line, "nan", NAN);
        render_json_number(&line, "inf", -INFINITY);
        render_json_boolean(&line, "yes", true);
        render_json_numbers(&line, "box", (double[]){ 0.1, -2, 1e300 }, 3);
        render_json_numbers(&line, "empty", NULL, 0);
        render_json_object_begin(&line, "in");
        render_json_boolean(&line, "no", false);
        render_json_object_end(&line);
        render_json_integer(&line, "last", 0);
        const char *text = render_json_end(&line);
        cr_expect_str_eq(text, "{\"event\":\"a\\\"b\\\\c\\n\\t\\u0001\\u007f\xef\xbf\xbd\xc3\xa4"
                               "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\",\"none\":null,"
                               "\"big\":-9223372036854775808,\"nan\":null,\"inf\":null,"
                               "\"yes\":true,\"box\":[0.1,-2,1e+300],\"empty\":[],"
                               "\"in\":{\"no\":false},\"last\":0}\n");
    }
    render_json_begin(&line);
    cr_expect_str_eq(render_json_end(&line), "{}\n");
    render_json_free(&line);
    render_json_free(&line);
}

Test(outputs, numbers_read_back_and_are_short) {
    static const double numbers[] = { 0,
                                      1,
                                      -1,
                                      0.1,
                                      1.0 / 3,
                                      1e15,
                                      123456789,
                                      5e-324,
                                      1e-7,
                                      0.3,
                                      2.2250738585072014e-308,
                                      1.7976931348623157e308,
                                      1e22,
                                      0.1 + 0.2,
                                      100,
                                      1234.5678 };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ad_text text = { 0 };
        ad_text_json_number(&text, numbers[i]);
        cr_assert_not(text.failed);
        cr_expect_eq(strtod(text.bytes, NULL), numbers[i], "%s for %.17g", text.bytes, numbers[i]);
        // No shorter number of digits would have done.
        char shorter[40];
        int digits = 0;
        while (strtod((snprintf(shorter, sizeof shorter, "%.*e", digits, numbers[i]), shorter),
                      NULL) != numbers[i])
            digits++;
        size_t significant = 0;
        for (const char *c = text.bytes; *c && *c != 'e'; c++)
            significant += *c >= '0' && *c <= '9' && (significant || *c != '0');
        if (numbers[i] != floor(numbers[i]))
            cr_expect_leq(significant, (size_t)digits + 1, "%s", text.bytes);
        ad_text_free(&text);
    }
}
