/* Fuzz target: any bytes through the PNG reader. Pixels are limited so that inputs stay quick. */
#include "fuzz/fuzz.h"
#include "render/load.h"

int fuzz_png(const uint8_t *data, size_t size) {
    const render_image_options options = {.pixels_max = 1 << 18};
    render_image image;
    ad_message error;
    int width, height;
    if (render_png_decode(&image, "fuzz.png", data, size, &options, &error)) {
        if (!render_png_probe(&width, &height, "fuzz.png", data, size, &error)) __builtin_trap();
        bool turned = render_png_orientation(data, NULL, size) >= 5;
        if (width != (turned ? image.height : image.width)) __builtin_trap();
        if (height != (turned ? image.width : image.height)) __builtin_trap();
        if (!render_image_downscale(&image, 2, &error) && width > 1 && height > 1)
            __builtin_trap();
    }
    render_image_free(&image);
    return 0;
}
