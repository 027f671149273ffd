/* PSNR and SSIM against scikit-image 0.26 on a pattern, and against what can be said by hand. The
   known answers are those of

       peak_signal_noise_ratio(a / 255, b / 255, data_range=1)
       structural_similarity(a / 255, b / 255, data_range=1, channel_axis=2, gaussian_weights=True,
                             sigma=1.5, use_sample_covariance=False)                              */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "render/render.h"

enum { WIDTH = 33, HEIGHT = 27 };

/* Two pictures (HEIGHT, WIDTH, channels) that differ by at most 8 levels. */
static void pattern(uint8_t *a, uint8_t *b, int channels) {
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < channels; c++) {
                int value = (x * 7 + y * 13 + c * 50 + x * y % 31) % 256;
                int other = value + (x * 5 + y * 3 + c) % 17 - 8;
                int at = (y * WIDTH + x) * channels + c;
                a[at] = (uint8_t)value;
                b[at] = (uint8_t)(other < 0 ? 0 : other > 255 ? 255 : other);
            }
}

Test(metrics, agree_with_scikit_image) {
    static const struct {
        int channels;
        double psnr, ssim;
    } known[] = {
        { 1, 34.405733561594, 0.987952804138 },
        { 3, 34.403046926915, 0.987165793333 },
        { 4, 34.415564266384, 0.987243585321 },
    };
    static uint8_t a[WIDTH * HEIGHT * 4], b[WIDTH * HEIGHT * 4];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int channels = known[i].channels;
        pattern(a, b, channels);
        double psnr = render_psnr(b, a, (size_t)(WIDTH * HEIGHT * channels));
        double ssim = render_ssim(b, a, WIDTH, HEIGHT, channels);
        cr_expect_float_eq(psnr, known[i].psnr, 1e-9, "%.12f, known %.12f", psnr, known[i].psnr);
        cr_expect_float_eq(ssim, known[i].ssim, 1e-9, "%.12f, known %.12f", ssim, known[i].ssim);
        double swapped = render_ssim(a, b, WIDTH, HEIGHT, channels);
        cr_expect_float_eq(ssim, swapped, 1e-12, "%.15f, swapped %.15f", ssim, swapped);
    }
}

Test(metrics, by_hand) {
    // One level of difference everywhere: 20 log10(255). Only one value in a hundred: 20 dB more.
    uint8_t a[100] = { 0 }, b[100];
    for (int i = 0; i < 100; i++) b[i] = 1;
    cr_expect_float_eq(render_psnr(a, b, 100), 20 * log10(255), 1e-12);
    for (int i = 1; i < 100; i++) b[i] = 0;
    cr_expect_float_eq(render_psnr(a, b, 100), 20 * log10(255) + 20, 1e-12);
    // The greatest error there is, both signs: 0 dB.
    uint8_t extreme_a[2] = { 0, 255 }, extreme_b[2] = { 255, 0 };
    cr_expect_float_eq(render_psnr(extreme_a, extreme_b, 2), 0, 1e-12);
    cr_expect(isinf(render_psnr(a, a, 100)) && render_psnr(a, a, 100) > 0);
    cr_expect(isnan(render_psnr(a, a, 0)));

    // Two flat pictures: no variance, only the factor of the means is left.
    static uint8_t dark[121], light[121];
    for (int i = 0; i < 121; i++) dark[i] = 51, light[i] = 102;
    double expected = (2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4);
    double found = render_ssim(dark, light, 11, 11, 1);
    cr_expect_float_eq(found, expected, 1e-9, "%.12f, by hand %.12f", found, expected);
    cr_expect_float_eq(render_ssim(dark, dark, 11, 11, 1), 1, 1e-12);
    cr_expect(isnan(render_ssim(dark, dark, 10, 11, 1)), "smaller than the window");
    cr_expect(isnan(render_ssim(dark, dark, 11, 10, 1)), "smaller than the window");
}

Test(metrics, rounding) {
    const float values[] = { 0, 1,   0.5f / 255 - 1e-5f, 0.5f / 255 + 1e-5f, 254.49f / 255, -1,
                             2, NAN, INFINITY,           -INFINITY };
    static const uint8_t expected[] = { 0, 255, 0, 1, 254, 0, 255, 0, 255, 0 };
    uint8_t bytes[10];
    render_round_u8(bytes, values, 10);
    for (int i = 0; i < 10; i++)
        cr_expect_eq(bytes[i], expected[i], "%g: %d, expected %d", (double)values[i], bytes[i],
                     expected[i]);
    // Every level comes back from its own float.
    for (int level = 0; level < 256; level++) {
        float value = (float)level / 255;
        render_round_u8(bytes, &value, 1);
        cr_expect_eq(bytes[0], level);
    }
}
