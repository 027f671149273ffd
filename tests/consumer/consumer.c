/* A program outside the tree, in C17: the installed headers, the archive, one gradient.
 * y = sum w^2 at w = (1, 2, 3): dy/dw = 2 w, and a folder that is not there is an error. */
#include <adjoint/render.h>

#include <adjoint/autodiff.h>
#include <adjoint/save.h>
#include <stdio.h>

int main(void)
{
    const float start[3] = {1.0f, 2.0f, 3.0f};
    ad_context *ctx = ad_open(&(ad_options){.seed = 1, .threads = 2});
    ad_tensor w = ad_parameter(ctx, "w", ad_from(ctx, AD_F32, AD_SHAPE(3), start)); // (3)
    ad_tensor y = ad_sum(ctx, ad_mul(ctx, w, w), AD_ALL_AXES, false);               // ()
    ad_tensor dw = {0};
    ad_grad(ctx, y, (ad_tensor){0}, 1, &w, &dw, 0);

    float slope[3] = {0};
    ad_read(ctx, dw, slope, sizeof slope);
    bool good = !ad_failed(ctx);
    if (!good) fprintf(stderr, "consumer.c: %s\n", ad_error_text(ctx));
    for (int i = 0; i < 3; i++) {
        if (slope[i] == 2.0f * start[i]) continue;
        fprintf(stderr, "consumer.c: expected %g, found %g\n", 2.0 * start[i], (double)slope[i]);
        good = false;
    }
    ad_close(ctx);

    ad_message error = {{0}};
    render_dataset dataset = {0};
    if (render_dataset_load(&dataset, "no such folder", NULL, &error) || error.text[0] == '\0') {
        fprintf(stderr, "consumer.c: a folder that is not there was read\n");
        good = false;
    }
    render_dataset_free(&dataset);
    return good ? 0 : 1;
}
