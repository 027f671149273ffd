/* How good a picture is. Both measures look at the 8-bit pictures that a user sees and keeps, not
   at the floats behind them, as the published protocols do; the background, the split and the size
   are the caller's to state beside every figure.

   PSNR: 10 log10(1 / mean squared error) with values in [0, 1]. A split's figure is the mean of its
   images' PSNR, not the PSNR of their mean error.

   SSIM: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", 2004. Window 11 x 11,
   Gaussian of sigma 1.5, K1 = 0.01, K2 = 0.03, weights summing to one (no sample correction), each
   channel on its own, averaged where the whole window lies inside the picture. This is what
   scikit-image gives with gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
   data_range=1. */
#include <math.h>
#include <stdlib.h>

#include "render/render.h"

enum { WINDOW = 11, MOMENTS = 5 };

void render_round_u8(uint8_t *bytes, const float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        // Written so that a NaN fails the first comparison and becomes 0.
        float value = values[i] > 0.0f ? values[i] : 0.0f;
        bytes[i] = (uint8_t)((value < 1.0f ? value : 1.0f) * 255.0f + 0.5f);
    }
}

double render_psnr(const uint8_t *image, const uint8_t *target, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int difference = image[i] - target[i];
        sum += (uint64_t)(difference * difference);
    }
    if (count == 0) return NAN;
    return sum == 0 ? INFINITY : 10.0 * log10(255.0 * 255.0 * (double)count / (double)sum);
}

/* The window's weights along one axis. */
static void window_make(double weights[WINDOW]) {
    const double sigma = 1.5;
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        double x = i - WINDOW / 2;
        sum += weights[i] = exp(-0.5 * x * x / (sigma * sigma));
    }
    for (int i = 0; i < WINDOW; i++) weights[i] /= sum;
}

/* For WINDOW rows of two pictures, the weighted sums down each column of a, b, aa, bb and ab:
   columns is (MOMENTS, row_count). */
static void columns_sum(double *columns, const uint8_t *a, const uint8_t *b, size_t row_count,
                        const double weights[WINDOW]) {
    for (size_t i = 0; i < MOMENTS * row_count; i++) columns[i] = 0;
    for (int k = 0; k < WINDOW; k++) {
        for (size_t i = 0; i < row_count; i++) {
            double p = a[(size_t)k * row_count + i] * (1.0 / 255.0);
            double q = b[(size_t)k * row_count + i] * (1.0 / 255.0);
            double wp = weights[k] * p, wq = weights[k] * q;
            columns[i] += wp;
            columns[row_count + i] += wq;
            columns[2 * row_count + i] += wp * p;
            columns[3 * row_count + i] += wq * q;
            columns[4 * row_count + i] += wp * q;
        }
    }
}

/* The index at one window, from its mean values. */
static double similarity(const double m[MOMENTS]) {
    const double c1 = 0.01 * 0.01, c2 = 0.03 * 0.03;
    double variance_a = m[2] - m[0] * m[0], variance_b = m[3] - m[1] * m[1];
    double covariance = m[4] - m[0] * m[1];
    return (2 * m[0] * m[1] + c1) * (2 * covariance + c2) /
           ((m[0] * m[0] + m[1] * m[1] + c1) * (variance_a + variance_b + c2));
}

double render_ssim(const uint8_t *image, const uint8_t *target, int width, int height,
                   int channels) {
    if (width < WINDOW || height < WINDOW || channels < 1) return NAN;
    size_t pixel = (size_t)channels, row_count = (size_t)width * pixel;
    size_t inside = row_count - (WINDOW - 1) * pixel; // left corners of windows in one row
    double weights[WINDOW], sum = 0;
    double *columns = malloc(MOMENTS * row_count * sizeof *columns);
    if (!columns) return NAN;
    window_make(weights);

    for (int y = 0; y + WINDOW <= height; y++) {
        size_t first = (size_t)y * row_count;
        columns_sum(columns, image + first, target + first, row_count, weights);
        double row_sum = 0;
        for (size_t i = 0; i < inside; i++) {
            double means[MOMENTS] = { 0 };
            for (int m = 0; m < MOMENTS; m++)
                for (size_t k = 0; k < WINDOW; k++)
                    means[m] += weights[k] * columns[(size_t)m * row_count + i + k * pixel];
            row_sum += similarity(means);
        }
        sum += row_sum;
    }
    free(columns);
    return sum / ((double)inside * (height - WINDOW + 1));
}
