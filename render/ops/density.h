/* density.h: densities of rows, sigma = exp of the first column, for the operations that find them.
 * The slope is taken at min(x, DENSITY_SLOPE_LIMIT), so that a large step cannot blow up. */
#ifndef ADJOINT_RENDER_DENSITY_H
#define ADJOINT_RENDER_DENSITY_H

#include "autodiff/ops/math.h"

#include <stdint.h>

enum { DENSITY_LANES = 16, DENSITY_SLOPE_LIMIT = 15 };

// Densities of rows [first, end), gathered first, so that the exponentials are whole vectors.
static inline __attribute__((always_inline)) void density_rows(
    int64_t first, int64_t end, int64_t c, const float *restrict h, float *restrict sigma) {
    float x[DENSITY_LANES] = {0};
    for (; first + DENSITY_LANES <= end; first += DENSITY_LANES) {
        for (int64_t i = 0; i < DENSITY_LANES; i++) x[i] = h[(first + i) * c];
        for (int i = 0; i < DENSITY_LANES; i++) sigma[first + i] = ad_math_exp(x[i]);
    }
    for (int64_t i = 0; first + i < end; i++) x[i] = h[(first + i) * c];
    for (int i = 0; i < DENSITY_LANES; i++) x[i] = ad_math_exp(x[i]);
    for (int64_t i = 0; first + i < end; i++) sigma[first + i] = x[i];
}

#endif
