/* Fuzz target: any bytes through the JPEG reader and its EXIF orientation, upright and stored. */
#include "fuzz/fuzz.h"
#include "render/load.h"

int fuzz_jpeg(const uint8_t *data, size_t size) {
    render_image_options options = {.pixels_max = 1 << 18};
    render_image image, stored;
    ad_message error;
    int width, height;
    bool turned;
    bool done = render_jpeg_decode(&image, "fuzz.jpg", data, size, &options, &error);
    if (done) {
        if (!render_jpeg_probe(&width, &height, &turned, "fuzz.jpg", data, size, &error))
            __builtin_trap();
        if (width != image.width || height != image.height) __builtin_trap();
        options.ignore_orientation = true;
        if (!render_jpeg_decode(&stored, "fuzz.jpg", data, size, &options, &error))
            __builtin_trap();
        if (stored.width != (turned ? height : width)) __builtin_trap();
        render_image_free(&stored);
    }
    render_image_free(&image);
    return 0;
}
