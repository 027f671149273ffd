/* Fits a picture: pixel position in, colour out, through a hash grid and a small network.
 *
 *     fit_image [PICTURE [OUT.png]]      default: a view of scenes/still_life
 *
 * It is the radiance field without the rays. The grid takes points of a cube, so the picture is put
 * into the slice z = 1/2. A step draws random pixels on the device; it is captured once and then
 * replayed. Prints the PSNR over the whole picture; exit status 0 where that is good enough. */
#include "render/render.h"

#include <stdio.h>
#include <stdlib.h>

enum { STEPS = 400, BATCH = 4096, LAYERS = 3, WIDTH = 32 };
static const double psnr_least = 38;
static const render_grid_options grid = {.levels = 6, .features = 4, .log2_entries = 15,
                                         .n_min = 8, .n_max = 160};
// p: table, three weights -> (n, 3)
static ad_tensor colours(ad_context *ctx, const ad_tensor *p, ad_tensor points) {
    ad_tensor features = render_hash_grid(ctx, points, p[0], (ad_tensor){0}, &grid); // (n, 24)
    return ad_sigmoid(ctx, ad_mlp(ctx, features, LAYERS, p + 1, NULL, (ad_tensor){0}, NULL));
}

int main(int count, char **arguments) {
    const char *path = count > 1 ? arguments[1] : "scenes/still_life/test/r_0.png";
    ad_message error = {{0}};
    render_image image = {0};
    if (!render_image_load(&image, path, NULL, &error))
        return fprintf(stderr, "fit_image: %s\n", error.text), 1;
    // Every pixel's place in the unit cube, and its colour over white.
    int64_t n = (int64_t)image.width * image.height;
    size_t numbers = (size_t)n * 3, size = numbers * sizeof(float);
    float *place = malloc(size), *goal = malloc(size);
    uint8_t *bytes = malloc(2 * numbers);
    if (!place || !goal || !bytes) return fprintf(stderr, "fit_image: out of memory\n"), 1;
    for (int64_t i = 0; i < n; i++) {
        place[3 * i] = ((float)(i % image.width) + 0.5f) / (float)image.width;
        place[3 * i + 1] = ((float)(i / image.width) + 0.5f) / (float)image.height;
        place[3 * i + 2] = 0.5f;
        float alpha = image.pixels[4 * i + 3] / 255.0f;
        for (int k = 0; k < 3; k++)
            goal[3 * i + k] = image.pixels[4 * i + k] / 255.0f * alpha + 1 - alpha;
    }

    ad_context *ctx = ad_open(&(ad_options){.seed = 1, .threads = 2});
    ad_tensor points = ad_from(ctx, AD_F32, AD_SHAPE(n, 3), place);
    ad_tensor target = ad_from(ctx, AD_F32, AD_SHAPE(n, 3), goal);
    ad_shape table = AD_SHAPE(render_grid_entries(&grid), grid.features);
    ad_tensor p[1 + LAYERS] = {
        ad_parameter(ctx, "table", ad_uniform(ctx, AD_F32, table, -1e-4, 1e-4)),
        ad_parameter(ctx, "w1", ad_he_normal(ctx, WIDTH, grid.levels * grid.features)),
        ad_parameter(ctx, "w2", ad_he_normal(ctx, WIDTH, WIDTH)),
        ad_parameter(ctx, "w3", ad_xavier_normal(ctx, 3, WIDTH))};
    ad_adam_options rate = {.learning_rate = 1e-2, .beta2 = 0.99, .epsilon = 1e-15};
    ad_optimizer *adam = ad_adam(ctx, p, 1 + LAYERS, &rate);

    ad_capture_begin(ctx);
    ad_scope_begin(ctx, "step");
    ad_tensor pick = ad_cast(ctx, ad_uniform(ctx, AD_F32, AD_SHAPE(BATCH), 0, (double)n), AD_U32);
    ad_tensor colour = colours(ctx, p, ad_gather(ctx, points, pick, 0));
    ad_grad_add(ctx, ad_mse(ctx, colour, ad_gather(ctx, target, pick, 0)), 1 + LAYERS, p, 0);
    ad_optimizer_step(adam);
    ad_step_advance(ctx); // so that the next step draws other pixels
    ad_scope_end(ctx);
    ad_program *step = ad_capture_end(ctx);
    for (int i = 1; i < STEPS; i++) ad_replay(step);

    ad_no_grad_begin(ctx);
    ad_read(ctx, colours(ctx, p, points), place, size);
    render_round_u8(bytes, place, numbers), render_round_u8(bytes + numbers, goal, numbers);
    double psnr = render_psnr(bytes, bytes + numbers, numbers);
    printf("%s: %.2f dB after %d steps, at least %g expected\n", path, psnr, STEPS, psnr_least);
    bool good = !ad_failed(ctx) && psnr >= psnr_least;
    if (ad_failed(ctx)) fprintf(stderr, "fit_image: %s\n", ad_error_text(ctx));
    if (count > 2 && !render_png_write(arguments[2], bytes, image.width, image.height, 3, &error))
        good = false, fprintf(stderr, "fit_image: %s\n", error.text);
    ad_program_free(step), ad_close(ctx), render_image_free(&image);
    return free(place), free(goal), free(bytes), good ? 0 : 1;
}
