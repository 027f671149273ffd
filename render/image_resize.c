/* Makes images smaller by a whole factor: the mean over blocks of factor x factor pixels, which is
 * what a sensor with larger pixels would have measured.
 *
 * The mean is taken over the stored sRGB values, not over linear light: the targets are
 * composited and compared as sRGB (the protocol of NeRF), so a mean of sRGB values is what the
 * field is asked for. Colours are weighted by alpha, so what lies under transparent pixels does
 * not bleed in. Blocks cut off by the right or lower edge are dropped: the camera then keeps its
 * centre, and its intrinsics are divided by the factor, exactly. A pixel of a mask survives only
 * if its whole block does, because a block with one forbidden pixel has its colour in it. */
#include "render/render.h"

#include <stdlib.h>
#include <string.h>

/* One RGBA block: sums of 255 * 255 * 65536 pixels fit 64 bits with room. */
static void average_block(uint8_t out[4], const uint8_t *in, size_t row_bytes, int factor) {
    uint64_t alpha = 0, sums[3] = {0}, count = (uint64_t)factor * (uint64_t)factor;
    for (int y = 0; y < factor; y++)
        for (int x = 0; x < factor; x++) {
            const uint8_t *p = in + (size_t)y * row_bytes + (size_t)x * 4;
            alpha += p[3];
            for (int c = 0; c < 3; c++) sums[c] += (uint64_t)p[c] * p[3];
        }
    for (int c = 0; c < 3; c++)
        out[c] = alpha ? (uint8_t)((sums[c] + alpha / 2) / alpha) : 0;
    out[3] = (uint8_t)((alpha + count / 2) / count);
}

static uint8_t block_kept(const uint8_t *in, size_t row_bytes, int factor) {
    for (int y = 0; y < factor; y++)
        for (int x = 0; x < factor; x++)
            if (!in[(size_t)y * row_bytes + (size_t)x]) return 0;
    return 255;
}

bool render_image_downscale(render_image *image, int factor, ad_message *error) {
    if (factor <= 1) return true;
    int width = image->width / factor, height = image->height / factor;
    if (width < 1 || height < 1)
        return ad_fail(error, "cannot divide an image of %d x %d pixels by %d", image->width,
                       image->height, factor);

    /* The new picture is written to its own memory, so that a failure leaves the old one. */
    size_t count = (size_t)width * (size_t)height, step = (size_t)factor;
    uint8_t *pixels = malloc(count * 4), *mask = image->mask ? malloc(count) : NULL;
    if (!pixels || (image->mask && !mask)) {
        free(pixels);
        free(mask);
        return ad_fail(error, "out of memory for %d x %d pixels", width, height);
    }
    size_t row = (size_t)image->width; /* pixels */
    for (size_t y = 0; y < (size_t)height; y++)
        for (size_t x = 0; x < (size_t)width; x++) {
            size_t to = y * (size_t)width + x, from = y * step * row + x * step;
            average_block(pixels + to * 4, image->pixels + from * 4, row * 4, factor);
            if (mask) mask[to] = block_kept(image->mask + from, row, factor);
        }
    free(image->pixels);
    free(image->mask);
    image->pixels = pixels, image->mask = mask;
    image->width = width, image->height = height;

    /* Nearly opaque blocks may have been rounded to opaque. */
    image->has_alpha = false;
    for (size_t i = 0; i < count && !image->has_alpha; i++)
        image->has_alpha = pixels[i * 4 + 3] != 255;
    return true;
}
