/* Evaluation: how near the views come to pictures that were not trained on.
 *
 * The protocol, as the literature states its figures: each picture is composed over one background
 * as sRGB values, rounded to 8 bits and compared with the target treated in the same way; the
 * figure is the mean of the pictures' PSNR and SSIM, not that of their mean error. Pixels that a
 * mask takes out are left out of the PSNR, and look like the target to the SSIM's windows. */
#include "render/render.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// RGBA over the background, rounded: (height, width, 3)
static void compose(const render_image *image, const float background[3], uint8_t *rgb) {
    size_t count = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < count; i++) {
        float alpha = (float)image->pixels[4 * i + 3] / 255.0f;
        for (size_t k = 0; k < 3; k++) {
            float value = (float)image->pixels[4 * i + k] * alpha
                        + 255.0f * background[k] * (1.0f - alpha);
            rgb[3 * i + k] = (uint8_t)(value + 0.5f);
        }
    }
}

// Both measures of one picture; masked pixels of `result` are overwritten.
static void measure(const render_image *image, uint8_t *result, const uint8_t *target,
                    uint8_t *scratch, double *psnr, double *ssim) {
    size_t count = (size_t)image->width * (size_t)image->height, kept = 0;
    if (!image->mask) {
        *psnr = render_psnr(result, target, count * 3);
    } else { // the pixels that count, side by side
        uint8_t *a = scratch, *b = scratch + 3 * count;
        for (size_t i = 0; i < count; i++) {
            if (image->mask[i]) {
                memcpy(a + 3 * kept, result + 3 * i, 3);
                memcpy(b + 3 * kept, target + 3 * i, 3);
                kept++;
            } else {
                memcpy(result + 3 * i, target + 3 * i, 3);
            }
        }
        *psnr = render_psnr(a, b, kept * 3);
    }
    *ssim = render_ssim(result, target, image->width, image->height, 3);
}

static bool evaluate_frame(render_model *model, const render_frame *frame,
                           const float background[3], render_evaluated each, void *user,
                           double *psnr, double *ssim, bool *go_on, ad_message *error) {
    const render_image *image = &frame->image;
    size_t count = (size_t)image->width * (size_t)image->height;
    if (!image->pixels)
        return ad_fail(error, "%s: its pixels are not loaded, nothing to compare with",
                       frame->name);
    float *colour = malloc(count * 3 * sizeof *colour);
    uint8_t *bytes = malloc(count * 12); // result, target, and twice as much for masks
    bool good = (colour && bytes) || ad_fail(error, "%s: out of memory", frame->name);
    if (good) {
        render_view view = {.colour = colour};
        good = render_model_view(model, &frame->camera, background, &view, error);
    }
    if (good) {
        uint8_t *result = bytes, *target = bytes + 3 * count;
        render_round_u8(result, colour, count * 3);
        compose(image, background, target);
        measure(image, result, target, bytes + 6 * count, psnr, ssim);
        if (each) *go_on = each(user, frame, result, target, *psnr, *ssim);
    }
    free(colour), free(bytes);
    return good;
}

bool render_evaluate(render_model *model, const render_dataset *dataset, render_split split,
                     int limit, const float background[3], render_evaluated each, void *user,
                     render_score *score, ad_message *error) {
    double start = now(), psnr_sum = 0, ssim_sum = 0;
    bool go_on = true;
    *score = (render_score){0};
    for (int i = 0; i < dataset->count && go_on; i++) {
        const render_frame *frame = &dataset->frames[i];
        double psnr = NAN, ssim = NAN;
        if (frame->split != split || (limit > 0 && score->images >= limit)) continue;
        if (!evaluate_frame(model, frame, background, each, user, &psnr, &ssim, &go_on, error))
            return false;
        psnr_sum += psnr, ssim_sum += ssim, score->images++;
        if (frame->image.width > score->width) score->width = frame->image.width;
        if (frame->image.height > score->height) score->height = frame->image.height;
    }
    score->psnr = score->images ? psnr_sum / score->images : NAN;
    score->ssim = score->images ? ssim_sum / score->images : NAN;
    score->seconds = now() - start;
    return true;
}
