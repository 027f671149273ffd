/* PNG files, 8 bits a channel, grey, RGB or RGBA (PNG specification, third edition). A writer needs
   four chunks and deflate, which zlib has; so this is written on zlib alone, and libpng, with its
   setjmp, stays with the reader.

   Each row is predicted by the one of the five filters whose residuals, taken as signed bytes, have
   the least sum of magnitudes: the heuristic of the specification (section 12.7). It makes renders
   about a third smaller than no filter, and the same pixels always give the same bytes. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "autodiff/file.h"
#include "render/render.h"

enum { FILTERS = 5, SIZE_MAX_PNG = 1 << 24 };

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Length, type, data and checksum; returns where the next chunk goes. `data` may lie in place. */
static uint8_t *put_chunk(uint8_t *at, const char *type, const uint8_t *data, size_t count) {
    put_u32(at, (uint32_t)count);
    memcpy(at + 4, type, 4);
    if (count && data != at + 8) memcpy(at + 8, data, count);
    put_u32(at + 8 + count, (uint32_t)crc32_z(0, at + 4, count + 4));
    return at + 12 + count;
}

/* Of left a, above b and upper left c, the one nearest to a + b - c. */
static int paeth(int a, int b, int c) {
    int to_a = abs(b - c), to_b = abs(a - c), to_c = abs(a + b - 2 * c);
    return to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c;
}

/* The residuals of one row, `above` being the row before it (zeros for the first). Returns the sum
   of their magnitudes. */
static long filter_row(uint8_t *out, const uint8_t *row, const uint8_t *above, size_t count,
                       size_t pixel, int filter) {
    long sum = 0;
    out[0] = (uint8_t)filter;
    for (size_t i = 0; i < count; i++) {
        int left = i >= pixel ? row[i - pixel] : 0;
        int corner = i >= pixel ? above[i - pixel] : 0;
        int up = above[i];
        int guess = filter == 0 ? 0
                  : filter == 1 ? left
                  : filter == 2 ? up
                  : filter == 3 ? (left + up) / 2
                                : paeth(left, up, corner);
        uint8_t residual = (uint8_t)(row[i] - guess);
        out[i + 1] = residual;
        sum += residual < 128 ? residual : 256 - residual;
    }
    return sum;
}

/* All rows filtered: (height, 1 + row bytes). `trial` holds one row for each filter, after which
   lie the zeros above the first row. */
static void filter_rows(uint8_t *out, uint8_t *trial, const uint8_t *pixels, size_t row_bytes,
                        size_t height, size_t pixel) {
    const uint8_t *above = trial + FILTERS * (row_bytes + 1);
    for (size_t y = 0; y < height; y++) {
        const uint8_t *row = pixels + y * row_bytes;
        long least = LONG_MAX;
        int best = 0;
        for (int filter = 0; filter < FILTERS; filter++) {
            uint8_t *candidate = trial + (size_t)filter * (row_bytes + 1);
            long sum = filter_row(candidate, row, above, row_bytes, pixel, filter);
            if (sum < least) {
                least = sum;
                best = filter;
            }
        }
        memcpy(out + y * (row_bytes + 1), trial + (size_t)best * (row_bytes + 1), row_bytes + 1);
        above = row;
    }
}

bool render_png_encode(uint8_t **png, size_t *count, const uint8_t *pixels, int width, int height,
                       int channels, ad_message *error) {
    static const uint8_t signature[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    *png = NULL;
    *count = 0;
    if (width < 1 || height < 1 || width > SIZE_MAX_PNG || height > SIZE_MAX_PNG / width ||
        (channels != 1 && channels != 3 && channels != 4))
        return ad_fail(error, "a PNG of %d x %d pixels with %d channels cannot be written", width,
                       height, channels);
    size_t row_bytes = (size_t)width * (size_t)channels;
    size_t raw_bytes = (row_bytes + 1) * (size_t)height;
    uLongf packed_bytes = compressBound((uLong)raw_bytes);
    uint8_t *raw = malloc(raw_bytes);
    uint8_t *trial = calloc(FILTERS + 1, row_bytes + 1);
    uint8_t *out = malloc(8 + 25 + 12 + packed_bytes + 12);
    bool done = raw && trial && out;
    if (done) {
        filter_rows(raw, trial, pixels, row_bytes, (size_t)height, (size_t)channels);

        // The signature, the header: size, depth 8, colour type, and the defaults of the rest.
        uint8_t header[13] = { 0 };
        memcpy(out, signature, sizeof signature);
        put_u32(header, (uint32_t)width);
        put_u32(header + 4, (uint32_t)height);
        header[8] = 8;
        header[9] = channels == 1 ? 0 : channels == 3 ? 2 : 6;
        uint8_t *at = put_chunk(out + 8, "IHDR", header, sizeof header);

        // The rows, packed where they will lie in the file.
        done = compress2(at + 8, &packed_bytes, raw, (uLong)raw_bytes, 6) == Z_OK;
        at = put_chunk(at, "IDAT", at + 8, packed_bytes);
        at = put_chunk(at, "IEND", NULL, 0);
        *count = (size_t)(at - out);
    }
    free(raw);
    free(trial);
    if (!done) {
        free(out);
        *count = 0;
        return ad_fail(error, "a PNG of %d x %d pixels: out of memory", width, height);
    }
    *png = out;
    return true;
}

bool render_png_write(const char *path, const uint8_t *pixels, int width, int height, int channels,
                      ad_message *error) {
    uint8_t *png;
    size_t count;
    ad_message reason;
    if (!render_png_encode(&png, &count, pixels, width, height, channels, &reason))
        return ad_fail(error, "%s: %.500s", path, reason.text);
    bool done = ad_file_save(path, png, count, error);
    free(png);
    return done;
}
