/* PNG to 8-bit RGBA with libpng: every colour type and bit depth, interlaced or not.
 *
 * libpng does the conversions: palettes and small bit depths are expanded, tRNS becomes alpha,
 * grey becomes three channels, 16 bits become 8 with rounding (v * 255 / 65535). Sample values
 * are taken as sRGB; gAMA and iCCP are not applied, as every radiance-field dataset expects. An
 * eXIf chunk turns the picture upright.
 *
 * Invariants: the size in the header is checked before any pixel is allocated, against the limit
 * and against what deflate could make of a file this long (1,032 to 1 at most), so a size bomb
 * costs nothing. libpng reports failures by longjmp: every call that may jump is made below the
 * one setjmp of this file, and what must survive the jump lives in `png_reader`, not in local
 * variables. Its messages are kept as text, never printed. */
#include "render/load.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIF_MAX = 1 << 16 };

typedef struct png_reader {
    png_structp png;
    png_infop info;
    const uint8_t *bytes;
    size_t size, position;
    char failure[160]; /* libpng's words */
} png_reader;

static void read_bytes(png_structp png, png_bytep out, size_t count) {
    png_reader *reader = png_get_io_ptr(png);
    if (count > reader->size - reader->position) png_error(png, "the file ends early");
    memcpy(out, reader->bytes + reader->position, count);
    reader->position += count;
}

static void on_error(png_structp png, const char *text) {
    png_reader *reader = png_get_error_ptr(png);
    snprintf(reader->failure, sizeof reader->failure, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, const char *text) {
    (void)png, (void)text; /* doubtful side information; the pixels are still whole */
}

static uint32_t read_u32(const uint8_t b[4]) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* libpng allocates what a chunk's length claims before it reads the chunk, up to 2 GB, and only
 * warns above png_set_chunk_malloc_max; so every length is held against the file's first. */
static bool check_chunks(const char *name, const uint8_t *bytes, size_t size, ad_message *error) {
    for (size_t at = 8; at + 8 <= size;) {
        size_t length = read_u32(bytes + at);
        if (length + 12 > size - at)
            return ad_fail(error, "%s: expected a PNG image, found damaged data: the chunk at byte "
                           "%zu reaches past the end of the file", name, at);
        if (memcmp(bytes + at + 4, "IEND", 4) == 0) break; /* what follows is nobody's business */
        at += length + 12;
    }
    return true;
}

/* ---- Orientation ---- */

static bool read_at(const uint8_t *bytes, FILE *file, size_t size, size_t at, uint8_t *out,
                    size_t count) {
    if (at > size || count > size - at) return false;
    if (bytes) return memcpy(out, bytes + at, count), true;
    return fseek(file, (long)at, SEEK_SET) == 0 && fread(out, 1, count, file) == count;
}

/* From chunk to chunk up to the first eXIf; pixels are passed over. */
int render_png_orientation(const uint8_t *bytes, FILE *file, size_t size) {
    uint8_t head[8];
    size_t length;
    for (size_t at = 8; read_at(bytes, file, size, at, head, 8); at += length + 12) {
        length = read_u32(head);
        if (memcmp(head + 4, "IEND", 4) == 0) break;
        if (memcmp(head + 4, "eXIf", 4) != 0) continue;
        if (length < 8 || length > EXIF_MAX) break;
        uint8_t *exif = malloc(6 + length); /* libexif expects what a JPEG has in front */
        if (!exif) return 0;
        memcpy(exif, "Exif\0\0", 6);
        int orientation = read_at(bytes, file, size, at + 8, exif + 6, length)
                        ? render_exif_orientation(exif, 6 + length) : 1;
        free(exif);
        return orientation;
    }
    return 1;
}

/* ---- Pixels ---- */

/* Opens the reader over the bytes. False when memory is out; does not jump. */
static bool reader_open(png_reader *reader, const uint8_t *bytes, size_t size) {
    reader->bytes = bytes, reader->size = size;
    reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, reader, on_error, on_warning);
    if (!reader->png) return false;
    reader->info = png_create_info_struct(reader->png);
    return reader->info != NULL;
}

static void reader_close(png_reader *reader) {
    if (reader->png) png_destroy_read_struct(&reader->png, &reader->info, NULL);
}

/* Everything that may jump after the struct exists: limits, then the chunks before the pixels. */
static void read_header(png_reader *reader) {
    png_set_read_fn(reader->png, reader, read_bytes);
    png_set_user_limits(reader->png, 1 << 20, 1 << 20); /* the product is checked by the caller */
    png_set_chunk_malloc_max(reader->png, 1 << 22);
    png_set_chunk_cache_max(reader->png, 64);
    png_set_keep_unknown_chunks(reader->png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(reader->png, reader->info);
}

/* Asks libpng for 8-bit RGBA whatever the file holds; returns the number of passes. */
static int request_rgba(png_reader *reader) {
    png_set_expand(reader->png);   /* palette, 1, 2, 4 bits, tRNS */
    png_set_scale_16(reader->png); /* rounded, not cut off */
    png_set_gray_to_rgb(reader->png);
    png_set_add_alpha(reader->png, 255, PNG_FILLER_AFTER);
    int passes = png_set_interlace_handling(reader->png);
    png_read_update_info(reader->png, reader->info);
    return passes;
}

static bool png_fail(const png_reader *reader, const char *name, ad_message *error) {
    return ad_fail(error, "%s: expected a PNG image, found damaged data: %s", name,
                   reader->failure[0] ? reader->failure : "out of memory");
}

bool render_png_probe(int *width, int *height, const char *name, const uint8_t *bytes, size_t size,
                      ad_message *error) {
    /* Signature (8), length and "IHDR" (8), then width and height, big-endian. */
    if (size < 24 || memcmp(bytes + 12, "IHDR", 4) != 0)
        return ad_fail(error, "%s: expected a PNG header, found %zu other bytes", name, size);
    uint32_t sizes[2];
    for (int i = 0; i < 2; i++) {
        sizes[i] = read_u32(bytes + 16 + 4 * i);
        if (sizes[i] == 0 || sizes[i] > INT32_MAX)
            return ad_fail(error, "%s: expected a PNG header, found a side of %u pixels", name,
                           sizes[i]);
    }
    *width = (int)sizes[0], *height = (int)sizes[1];
    return true;
}

bool render_png_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                       const render_image_options *options, ad_message *error) {
    memset(image, 0, sizeof *image);
    png_reader reader = {0};
    int header_width, header_height; // libpng would take chunks of no meaning before the header
    if (!render_png_probe(&header_width, &header_height, name, bytes, size, error)
        || !check_chunks(name, bytes, size, error))
        return false;
    if (!reader_open(&reader, bytes, size)) {
        ad_fail(error, "%s: out of memory for the PNG reader", name);
        goto fail;
    }
    if (setjmp(png_jmpbuf(reader.png))) {
        png_fail(&reader, name, error);
        goto fail;
    }

    /* The size is known and checked before memory for pixels is asked for. One byte of deflate
     * data can stand for 1,032 bytes, each of 8 pixels where a pixel is one bit. */
    read_header(&reader);
    int64_t width = png_get_image_width(reader.png, reader.info);
    int64_t height = png_get_image_height(reader.png, reader.info);
    if (!render_image_size_check(name, width, height, size, 1032 * 8, options->pixels_max, error))
        goto fail;
    image->pixels = malloc((size_t)width * (size_t)height * 4);
    if (!image->pixels) {
        ad_fail(error, "%s: out of memory for %lld x %lld pixels", name, (long long)width,
                (long long)height);
        goto fail;
    }
    image->width = (int)width, image->height = (int)height;

    /* Interlaced rows are visited once a pass; libpng fills in the pixels of that pass. */
    int passes = request_rgba(&reader);
    if (png_get_rowbytes(reader.png, reader.info) != (size_t)width * 4)
        png_error(reader.png, "the rows are not RGBA");
    for (int pass = 0; pass < passes; pass++)
        for (int64_t y = 0; y < height; y++)
            png_read_row(reader.png, image->pixels + y * width * 4, NULL);
    png_read_end(reader.png, NULL); /* the checksum of the last row */
    int orientation = options->ignore_orientation ? 1 : render_png_orientation(bytes, NULL, size);
    if (orientation == 0) {
        ad_fail(error, "%s: out of memory for its EXIF data", name);
        goto fail;
    }
    if (!render_image_orient(image, orientation, name, error)) goto fail;
    reader_close(&reader);
    return true;
fail:
    reader_close(&reader);
    render_image_free(image);
    return false;
}

const char *render_png_library(void) { return "libpng " PNG_LIBPNG_VER_STRING; }
