/* Images from files: reads the bytes, tells the format by content (never by the name) and hands
 * them to the PNG or JPEG reader. Formats that cameras and phones write but that are not read
 * are named, with the command that converts them, because that is what the user needs next. */
#include "render/load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const size_t FILE_SIZE_MAX = (size_t)1 << 29; /* bytes; a 100-megapixel PNG fits */
static const int64_t PIXELS_MAX = (int64_t)1 << 27;

/* ---- Files and strings ---- */

char *render_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text;
}

bool render_file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Opens a regular file; anything else (a folder, a pipe that would block) is refused. */
static FILE *open_regular(const char *path, int64_t *size, ad_message *error) {
    struct stat status;
    FILE *file = NULL;
    if (stat(path, &status) != 0)
        ad_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        ad_fail(error, "%s: expected a file, found a folder or a device", path);
    else if (!(file = fopen(path, "rb")))
        ad_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    *size = file ? (int64_t)status.st_size : 0;
    return file;
}

bool render_file_read(uint8_t **bytes, size_t *size, const char *path, size_t size_max,
                      ad_message *error) {
    *bytes = NULL, *size = 0;
    int64_t length;
    FILE *file = open_regular(path, &length, error);
    if (!file) return false;
    bool done = false;
    if ((uint64_t)length > size_max) {
        ad_fail(error, "%s: expected at most %zu bytes, found %lld", path, size_max,
                (long long)length);
    } else if (!(*bytes = malloc((size_t)length + 1))) {
        ad_fail(error, "%s: out of memory for %lld bytes", path, (long long)length);
    } else if (fread(*bytes, 1, (size_t)length, file) != (size_t)length) {
        ad_fail(error, "%s: expected %lld bytes, the file ends earlier or cannot be read", path,
                (long long)length);
    } else {
        (*bytes)[length] = 0;
        *size = (size_t)length;
        done = true;
    }
    fclose(file);
    if (!done) free(*bytes), *bytes = NULL;
    return done;
}

int64_t render_file_head(uint8_t *bytes, size_t size, const char *path, ad_message *error) {
    int64_t length;
    FILE *file = open_regular(path, &length, error);
    if (!file) return -1;
    int64_t count = (int64_t)fread(bytes, 1, size, file);
    if (ferror(file)) {
        ad_fail(error, "%s: cannot be read: %s", path, strerror(errno));
        count = -1;
    }
    fclose(file);
    return count;
}

/* ---- Formats ---- */

typedef enum image_format { FORMAT_PNG, FORMAT_JPEG, FORMAT_OTHER } image_format;

/* Signatures of what is not read, and what to do about it. */
static const struct {
    size_t at, length;
    const char *signature, *name, *hint;
} others[] = {
    {4, 8, "ftypheic", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftypheix", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftyphevc", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftypheim", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftypmif1", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftypmsf1", "a HEIC image", "convert it: heif-convert IN.heic OUT.jpg"},
    {4, 8, "ftypavif", "an AVIF image", "convert it: avifdec IN.avif OUT.png"},
    {4, 4, "ftyp", "a video", "extract frames: ffmpeg -i IN -r 2 %04d.jpg"},
    {8, 4, "WEBP", "a WebP image", "convert it: dwebp IN.webp -o OUT.png"},
    {0, 3, "GIF", "a GIF image", "convert it: magick IN OUT.png"},
    {0, 2, "BM", "a BMP image", "convert it: magick IN OUT.png"},
    {0, 4, "II*\0", "a TIFF or raw image", "convert it: magick IN OUT.png"},
    {0, 4, "MM\0*", "a TIFF or raw image", "convert it: magick IN OUT.png"},
    {0, 4, "v/1\1", "an OpenEXR image", "convert it: magick IN OUT.png"},
};

/* PNG or JPEG; otherwise writes the sentence about what was found instead. */
static image_format format_of(const char *name, const uint8_t *bytes, size_t size,
                              ad_message *error) {
    if (size >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) return FORMAT_PNG;
    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0) return FORMAT_JPEG;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (size >= others[i].at + others[i].length &&
            memcmp(bytes + others[i].at, others[i].signature, others[i].length) == 0) {
            ad_fail(error, "%s: expected a PNG or JPEG image, found %s; %s", name, others[i].name,
                    others[i].hint);
            return FORMAT_OTHER;
        }
    ad_fail(error, "%s: expected a PNG or JPEG image, found %s", name,
            size == 0 ? "an empty file" : "something else");
    return FORMAT_OTHER;
}

bool render_image_size_check(const char *name, int64_t width, int64_t height, size_t file_size,
                             int64_t pixels_per_byte, int64_t pixels_max, ad_message *error) {
    if (pixels_max <= 0) pixels_max = PIXELS_MAX;
    if (width < 1 || height < 1)
        return ad_fail(error, "%s: expected an image, found %lld x %lld pixels", name,
                       (long long)width, (long long)height);
    if (width > pixels_max / height)
        return ad_fail(error, "%s: expected at most %lld pixels, found %lld x %lld", name,
                       (long long)pixels_max, (long long)width, (long long)height);
    if (width * height / pixels_per_byte > (int64_t)file_size)
        return ad_fail(error, "%s: %lld x %lld pixels cannot be in a file of %zu bytes", name,
                       (long long)width, (long long)height, file_size);
    return true;
}

bool render_image_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                         const render_image_options *options, ad_message *error) {
    static const render_image_options defaults;
    if (!options) options = &defaults;
    memset(image, 0, sizeof *image);
    bool done = false;
    switch (format_of(name, bytes, size, error)) {
    case FORMAT_PNG: done = render_png_decode(image, name, bytes, size, options, error); break;
    case FORMAT_JPEG: done = render_jpeg_decode(image, name, bytes, size, options, error); break;
    case FORMAT_OTHER: break;
    }
    int64_t pixels = done ? (int64_t)image->width * image->height : 0;
    for (int64_t i = 0; i < pixels && !image->has_alpha; i++)
        image->has_alpha = image->pixels[i * 4 + 3] != 255;
    return done;
}

bool render_image_load(render_image *image, const char *path, const render_image_options *options,
                       ad_message *error) {
    memset(image, 0, sizeof *image);
    uint8_t *bytes;
    size_t size;
    if (!render_file_read(&bytes, &size, path, FILE_SIZE_MAX, error)) return false;
    bool done = render_image_decode(image, path, bytes, size, options, error);
    free(bytes);
    return done;
}

/* Looks for the orientation of a PNG, whose head was read; its chunk may lie at the file's end. */
static bool probe_turned(bool *turned, const char *path, const uint8_t *head, size_t count,
                         bool whole, ad_message *error) {
    int64_t size;
    FILE *file = whole ? NULL : open_regular(path, &size, error);
    if (!whole && !file) return false;
    int orientation = whole ? render_png_orientation(head, NULL, count)
                            : render_png_orientation(NULL, file, (size_t)size);
    if (file) fclose(file);
    *turned = orientation >= 5;
    return orientation || ad_fail(error, "%s: out of memory for its EXIF data", path);
}

bool render_image_probe(int *width, int *height, bool *turned, const char *path,
                        ad_message *error) {
    /* A PNG says its size in the first 24 bytes; a JPEG after its EXIF and colour profile, which
     * seldom fill the first 256 KiB. If they do, the whole file is read. */
    const size_t head_size = (size_t)1 << 18;
    uint8_t *bytes = malloc(head_size);
    if (!bytes) return ad_fail(error, "%s: out of memory", path);
    *turned = false;
    bool done = false;
    int64_t count = render_file_head(bytes, head_size, path, error);
    if (count >= 0) switch (format_of(path, bytes, (size_t)count, error)) {
    case FORMAT_PNG:
        done = render_png_probe(width, height, path, bytes, (size_t)count, error)
            && probe_turned(turned, path, bytes, (size_t)count, (size_t)count < head_size, error);
        if (done && *turned) {
            int stored = *width;
            *width = *height, *height = stored;
        }
        break;
    case FORMAT_JPEG:
        done = render_jpeg_probe(width, height, turned, path, bytes, (size_t)count, error);
        if (!done && (size_t)count == head_size) {
            uint8_t *all;
            size_t size;
            if (render_file_read(&all, &size, path, FILE_SIZE_MAX, error))
                done = render_jpeg_probe(width, height, turned, path, all, size, error);
            free(all);
        }
        break;
    case FORMAT_OTHER: break;
    }
    free(bytes);
    return done;
}

void render_image_free(render_image *image) {
    free(image->pixels);
    free(image->mask);
    memset(image, 0, sizeof *image);
}
