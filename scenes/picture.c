// Files of the still life: PNG pictures, NumPy arrays, text. libpng appears only here.
//
// The pictures are committed, so they should be small: every row filter is tried at zlib's highest
// level and the shortest stream is the one written. No time stamp or text goes into a file, so the
// same pixels give the same bytes.
#include "scene.h"

#include <png.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    unsigned char *data;
    size_t length, capacity;
} bytes;

static bool complain(const char *path, const char *what) {
    fprintf(stderr, "still_life: %s: %s\n", path, what);
    return false;
}

static bool write_file(const char *path, const void *head, size_t head_length, const void *body,
                       size_t body_length) {
    FILE *file = fopen(path, "wb");
    if (!file)
        return complain(path, "cannot be created");
    bool ok = fwrite(head, 1, head_length, file) == head_length &&
              fwrite(body, 1, body_length, file) == body_length;
    if (fclose(file) != 0)
        ok = false;
    return ok || complain(path, "could not be written in full");
}

// libpng asks for its output through a callback; ours grows a buffer.
static void append(png_structp png, png_bytep data, png_size_t length) {
    bytes *out = png_get_io_ptr(png);
    if (out->length + length > out->capacity) {
        size_t capacity = 2 * out->capacity + length;
        unsigned char *grown = realloc(out->data, capacity);
        if (!grown)
            png_error(png, "out of memory");
        out->data = grown;
        out->capacity = capacity;
    }
    memcpy(out->data + out->length, data, length);
    out->length += length;
}

static void flush(png_structp png) { (void)png; }

static bool encode_png(bytes *out, const unsigned char *rgba, int size, int filters) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    out->length = 0;
    png_set_write_fn(png, out, append, flush);
    png_set_IHDR(png, info, (png_uint_32)size, (png_uint_32)size, 8, PNG_COLOR_TYPE_RGBA,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, filters);
    png_set_compression_level(png, 9);
    png_set_compression_mem_level(png, 9);
    png_write_info(png, info);
    for (int y = 0; y < size; y++)
        png_write_row(png, rgba + (size_t)y * (size_t)size * 4);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return true;
}

bool scene_write_png(const char *path, const unsigned char *rgba, int size) {
    static const int filters[] = { PNG_FILTER_NONE, PNG_FILTER_SUB,   PNG_FILTER_UP,
                                   PNG_FILTER_AVG,  PNG_FILTER_PAETH, PNG_ALL_FILTERS };
    bytes best = { 0 }, trial = { 0 };
    bool ok = true;
    for (size_t k = 0; k < sizeof filters / sizeof filters[0] && ok; k++) {
        ok = encode_png(&trial, rgba, size, filters[k]);
        if (ok && (k == 0 || trial.length < best.length)) {
            bytes swap = best;
            best = trial;
            trial = swap;
        }
    }
    ok = ok ? write_file(path, best.data, best.length, "", 0)
            : complain(path, "the PNG encoder failed");
    free(best.data);
    free(trial.data);
    return ok;
}

bool scene_read_png(const char *path, unsigned char **rgba, int *size) {
    png_image image = { .version = PNG_IMAGE_VERSION };
    if (!png_image_begin_read_from_file(&image, path))
        return complain(path, image.message);
    image.format = PNG_FORMAT_RGBA;
    *size = (int)image.width;
    *rgba = NULL;
    if (image.width != image.height || image.width > 4096) {
        png_image_free(&image);
        return complain(path, "expected a square picture of at most 4096 pixels a side");
    }
    *rgba = malloc(PNG_IMAGE_SIZE(image));
    if (*rgba && png_image_finish_read(&image, NULL, *rgba, 0, NULL))
        return true;
    png_image_free(&image);
    free(*rgba);
    *rgba = NULL;
    return complain(path, image.message);
}

// NumPy's format 1.0: magic, header length, a Python dictionary padded to 64 bytes, the values.
bool scene_write_npy(const char *path, const float *values, int size, int channels) {
    char head[128];
    char shape[48];
    if (channels == 1)
        snprintf(shape, sizeof shape, "(%d, %d)", size, size);
    else
        snprintf(shape, sizeof shape, "(%d, %d, %d)", size, size, channels);
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    int n = snprintf(head + 10, sizeof head - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shape);
    head[10 + n] = ' ';
    head[sizeof head - 1] = '\n';
    size_t count = (size_t)size * (size_t)size * (size_t)channels;
    return write_file(path, head, sizeof head, values, count * sizeof(float));
}

bool scene_write_text(const char *path, const char *text) {
    return write_file(path, text, strlen(text), "", 0);
}

bool scene_read_file(const char *path, unsigned char **data, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return complain(path, "cannot be opened");
    *data = NULL;
    bool ok = fseek(file, 0, SEEK_END) == 0;
    long end = ok ? ftell(file) : -1;
    ok = end >= 0 && fseek(file, 0, SEEK_SET) == 0 && (*data = malloc((size_t)end + 1)) != NULL;
    if (ok) {
        *length = fread(*data, 1, (size_t)end, file);
        (*data)[*length] = 0;
        ok = *length == (size_t)end;
    }
    fclose(file);
    if (ok)
        return true;
    free(*data);
    *data = NULL;
    return complain(path, "could not be read");
}
