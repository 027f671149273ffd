/* A small picture of the first held-out view while training: target on the left, result on the
 * right, in RUN/preview. Its PSNR at that size goes to metrics.jsonl, for the report's curve.
 *
 * It is as large as the share of the time that pictures may take allows: by the cost of a pixel of
 * the last one, or for the first by the rays that training traces (a step costs some three times
 * the tracing of its rays). The last one's cost ages: a field is slowest while it is a fog, and
 * gets faster with the cells that are found empty and the walls that form. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/training.h"

enum { PIXELS_MOST = 20000, PIXELS_FIRST = 1024 };

static const double HALF_SECONDS = 20; // of training make a pixel twice as fast, to be tried

double cli_training_pixel_cost(const cli_training *t) {
    double emptied = t->progress.occupied / t->preview_occupied;
    double halvings = (cli_clock() - t->preview_at) / fmax(2 * t->preview_interval, HALF_SECONDS);
    return t->pixel_seconds * fmin(1, emptied > 0 ? emptied : 1) * exp2(-halvings);
}

static int pixels_allowed(const cli_training *t) {
    double each = t->preview_at > 0 ? cli_training_pixel_cost(t) : 0;
    double least = each > 0 ? CLI_PREVIEW_PIXELS : PIXELS_FIRST;
    if (each <= 0 && t->rays_per_second > 0) each = 1 / (3 * t->rays_per_second);
    double pixels = each > 0 ? t->preview_interval * CLI_PREVIEW_SHARE / each : least;
    return (int)fmin(fmax(pixels, least), PIXELS_MOST);
}

// The first held-out frame; without one, a training view, whose pixels are gone.
static const render_frame *frame_of(const render_dataset *dataset) {
    for (int i = 0; i < dataset->count; i++)
        if (dataset->frames[i].split == dataset->held_out) return &dataset->frames[i];
    return dataset->count ? &dataset->frames[0] : NULL;
}

// The frame's pixels, smaller by the factor, over the background; false where there are none.
static bool target_of(const render_frame *frame, int factor, const float background[3],
                      uint8_t *target, size_t pixels) {
    render_image small = frame->image;
    size_t count = (size_t)small.width * (size_t)small.height;
    if (!small.pixels) return false;
    small.mask = NULL;
    small.pixels = malloc(count * 4);
    if (small.pixels) memcpy(small.pixels, frame->image.pixels, count * 4);
    bool good = small.pixels && render_image_downscale(&small, factor, NULL)
             && (size_t)small.width * (size_t)small.height == pixels;
    for (size_t i = 0; good && i < pixels; i++)
        for (size_t k = 0; k < 3; k++) {
            float alpha = (float)small.pixels[4 * i + 3] / 255.0f;
            float value = (float)small.pixels[4 * i + k] * alpha
                        + 255.0f * background[k] * (1.0f - alpha);
            target[3 * i + k] = (uint8_t)(value + 0.5f);
        }
    render_image_free(&small);
    return good;
}

static bool write_pair(cli_training *t, const uint8_t *target, const uint8_t *result, int width,
                       int height, ad_message *error) {
    char folder[CLI_PATH_BYTES], path[CLI_PATH_BYTES], name[48];
    snprintf(name, sizeof name, "step_%07" PRId64 ".png", t->step);
    if (!cli_path(folder, t->run.path, "preview", error) || !cli_path(path, folder, name, error))
        return false;
    if (!target) return render_png_write(path, result, width, height, 3, error);
    size_t row = (size_t)width * 3;
    uint8_t *pair = malloc(row * 2 * (size_t)height);
    if (!pair) return ad_fail(error, "out of memory for a preview");
    for (size_t y = 0; y < (size_t)height; y++) {
        memcpy(pair + 2 * y * row, target + y * row, row);
        memcpy(pair + 2 * y * row + row, result + y * row, row);
    }
    bool good = render_png_write(path, pair, width * 2, height, 3, error);
    free(pair);
    return good;
}

bool cli_training_preview(cli_training *t, ad_message *error) {
    const render_frame *frame = frame_of(&t->dataset);
    double start = cli_clock(), psnr = NAN;
    if (!frame) return true;
    render_camera camera = frame->camera;
    int factor = 1, most = pixels_allowed(t);
    while (camera.width / factor * (camera.height / factor) > most) factor++;
    render_camera_scale(&camera, 1.0 / factor, 1.0 / factor);
    camera.width /= factor, camera.height /= factor;
    size_t pixels = (size_t)camera.width * (size_t)camera.height;
    float *colour = malloc(pixels * 3 * sizeof *colour);
    uint8_t *bytes = malloc(pixels * 6), *target = bytes ? bytes + 3 * pixels : NULL;
    bool good = (colour && bytes) || ad_fail(error, "out of memory for a preview");
    render_view view = {.colour = colour};
    good = good && render_model_view(t->model, &camera, t->scene.background, &view, error);
    if (good) {
        render_round_u8(bytes, colour, pixels * 3);
        if (!target_of(frame, factor, t->scene.background, target, pixels)) target = NULL;
        if (target) psnr = render_psnr(bytes, target, pixels * 3);
        good = write_pair(t, target, bytes, camera.width, camera.height, error);
    }
    free(colour), free(bytes);
    t->preview_seconds += cli_clock() - start;
    t->preview_at = cli_clock(), t->preview_pixels = (double)pixels;
    t->pixel_seconds = (t->preview_at - start) / (double)(pixels ? pixels : 1);
    t->preview_occupied = t->progress.occupied;
    if (!good) return false;
    if (t->first_preview_seconds == 0) t->first_preview_seconds = cli_clock() - t->opened;
    cli_event_begin(&t->out, "preview");
    render_json_integer(&t->out.line, "step", t->step);
    render_json_number(&t->out.line, "seconds", t->seconds);
    render_json_integer(&t->out.line, "width", camera.width);
    render_json_integer(&t->out.line, "height", camera.height);
    render_json_number(&t->out.line, "psnr", psnr);
    return cli_event_keep(&t->out, error);
}
