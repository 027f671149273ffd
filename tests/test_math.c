/* The functions of autodiff/ops/math.h against the double-precision libm.
 *
 * Every N-th of the 2^32 bit patterns of a float goes through every function; the largest error in
 * units in the last place is printed and held against a limit. N is 997, and 97 where the
 * environment variable ADJOINT_TEST_DENSE is set. Results below 1e-37 must be zeros with the sign
 * of the exact result. The special values of C's Annex F are listed and checked one by one. */
#include "autodiff/ops/math.h"

#include <criterion/criterion.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct function_case {
    const char *name;
    float (*f)(float);
    double (*exact)(double);
    double range;    // tested for |x| up to here
    double ulp_most; // largest error allowed
} function_case;

static const function_case functions[] = {
    {"exp", ad_math_exp, ad_math_exp_f64, INFINITY, 2},
    {"expm1", ad_math_expm1, ad_math_expm1_f64, INFINITY, 2},
    {"log", ad_math_log, ad_math_log_f64, INFINITY, 2},
    {"log1p", ad_math_log1p, ad_math_log1p_f64, INFINITY, 2},
    {"sin", ad_math_sin, ad_math_sin_f64, 1e4, 2},
    {"cos", ad_math_cos, ad_math_cos_f64, 1e4, 2},
    {"tanh", ad_math_tanh, ad_math_tanh_f64, INFINITY, 4},
    {"erf", ad_math_erf, ad_math_erf_f64, INFINITY, 4},
    {"sigmoid", ad_math_sigmoid, ad_math_sigmoid_f64, INFINITY, 4},
    {"softplus", ad_math_softplus, ad_math_softplus_f64, INFINITY, 4},
};
enum { function_count = sizeof functions / sizeof functions[0] };

/* Distance of y from the exact result in units in the last place of f32; 1e9 where it is of
 * another kind (NaN, infinity, a zero missing or of the wrong sign). */
static double ulp_error(float y, double exact) {
    if (isnan(exact) || isnan(y))
        return isnan(exact) && isnan(y) ? 0 : 1e9;
    if (fabs(exact) < 1e-37 * (1 - 1e-6)) // counts as zero
        return y == 0 && !signbit(y) == !signbit(exact) ? 0 : 1e9;
    if (fabs(exact) < 1e-37 * (1 + 1e-6) && y == 0)
        return 0;
    if (isinf(exact) || isinf(y)) {
        // Within a few units of the largest float either side of the overflow is right.
        bool near_limit = fabs(exact) > FLT_MAX * (1 - 1e-6) && (isinf(y) || fabsf(y) > 3.4e38f);
        return near_limit && (y > 0) == (exact > 0) ? 0 : 1e9;
    }
    int exponent;
    frexp(exact, &exponent);
    return fabs(y - exact) / ldexp(1, exponent - 24);
}

static uint32_t stride(void) { return getenv("ADJOINT_TEST_DENSE") ? 97 : 997; }

Test(math, every_function_is_accurate_over_all_exponents) {
    for (int i = 0; i < function_count; i++) {
        const function_case *c = &functions[i];
        double worst = 0;
        float worst_x = 0;
        for (uint64_t bits = 0; bits < (UINT64_C(1) << 32); bits += stride()) {
            float x = ad_math_from_bits((uint32_t)bits);
            if (!(fabsf(x) >= FLT_MIN && fabsf(x) <= c->range))
                continue;
            double error = ulp_error(c->f(x), c->exact(x));
            if (error > worst)
                worst = error, worst_x = x;
        }
        printf("math: %-8s largest error %.3f ulp at %.9g\n", c->name, worst, (double)worst_x);
        cr_expect(worst <= c->ulp_most, "%s(%.9g) = %.9g, expected %.17g: %.2f ulp, at most %.0f",
                  c->name, (double)worst_x, (double)c->f(worst_x), c->exact((double)worst_x), worst,
                  c->ulp_most);
    }
}

/* Special arguments have the same kind of result as libm's. Subnormal numbers count as zero. */
Test(math, special_arguments) {
    static const float special[] = {0.0f,      -0.0f,   INFINITY, -INFINITY, NAN,    -1.0f,  1.0f,
                                    1e-38f,    -1e-38f, 2e-38f,   -2e-38f,   1e-37f, -2.0f,  88.8f,
                                    88.72284f, -90.0f,  -104.0f,  -1.5f,     1e30f,  -1e30f,
                                    FLT_MAX};
    for (int i = 0; i < function_count; i++) {
        const function_case *c = &functions[i];
        for (size_t j = 0; j < sizeof special / sizeof special[0]; j++) {
            float x = special[j], y = c->f(x);
            if (isfinite(x) && fabsf(x) > c->range) { // no accuracy, but a bound
                cr_expect(fabsf(y) <= 1, "%s(%g) = %g", c->name, (double)x, (double)y);
                continue;
            }
            double counted = fabsf(x) < FLT_MIN ? copysign(0.0, (double)x) : (double)x;
            double exact = c->exact(counted);
            cr_expect(ulp_error(y, exact) <= c->ulp_most, "%s(%g) = %g, expected %g", c->name,
                      (double)x, (double)y, exact);
        }
    }
}

/* Arguments beyond 1e4 lose no more than about their own rounding. */
Test(math, sine_degrades_gracefully) {
    for (float x = 1e4f; x < 4e6f; x *= 1.0001f) {
        double error = fabs(ad_math_sin(x) - sin((double)x));
        cr_assert(error <= 1e-6 + (double)x * 0x1p-23, "sin(%.9g) is off by %g", (double)x, error);
    }
}

/* A small generator for test arguments, independent of the one under test. */
static uint32_t next_word(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static float absolute_from(uint32_t word) { return ad_math_from_bits(word & 0x7fffffffu); }

Test(math, powers_are_accurate) {
    uint64_t state = 1;
    double worst = 0;
    float worst_x = 1, worst_y = 1;
    for (int i = 0; i < 3000000; i++) {
        // Half of the bases lie near 1, where the logarithm is hardest; exponents aim at the range.
        float x = absolute_from(next_word(&state));
        if (i % 2)
            x = ldexpf((float)(next_word(&state) >> 8) + 0x1p24f, -24 - (i / 2) % 2);
        if (!(x >= FLT_MIN && x < INFINITY) || x == 1)
            continue;
        double reach = 90.0 * ((double)(int32_t)next_word(&state) / 2147483648.0);
        float y = (float)(reach / log((double)x));
        if (!(fabsf(y) >= FLT_MIN && fabsf(y) < INFINITY))
            continue;
        double error = ulp_error(ad_math_pow(x, y), pow((double)x, (double)y));
        if (error > worst)
            worst = error, worst_x = x, worst_y = y;
    }
    printf("math: %-8s largest error %.3f ulp at (%.9g, %.9g)\n", "pow", worst, (double)worst_x,
           (double)worst_y);
    cr_expect(worst <= 4, "pow(%.9g, %.9g) = %.9g, expected %.9g: %.2f ulp", (double)worst_x,
              (double)worst_y, (double)ad_math_pow(worst_x, worst_y),
              pow((double)worst_x, (double)worst_y), worst);
}

/* All pairs of awkward numbers behave as C's pow. */
Test(math, powers_of_special_arguments) {
    static const float special[] = {
        0.0f,    -0.0f,  1.0f,    -1.0f,   2.0f,        -2.0f,       0.5f,      -0.5f,
        3.0f,    -3.0f,  1.5f,    -1.5f,   INFINITY,    -INFINITY,   NAN,       16777215.0f,
        1e30f,   -1e30f, 1e-30f,  -1e-30f, -16777215.0f, 16777216.0f, 4.3e9f,   0.99999994f,
        FLT_MAX, 100.5f, FLT_MIN, -FLT_MAX, 1.0000001f, -0.99999994f,
    };
    enum { count = sizeof special / sizeof special[0] };
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) {
            float x = special[i], y = special[j], z = ad_math_pow(x, y);
            double exact = pow((double)x, (double)y);
            cr_expect(ulp_error(z, exact) <= 4, "pow(%.9g, %.9g) = %.9g, expected %.9g", (double)x,
                      (double)y, (double)z, exact);
        }
    cr_expect(ad_math_pow(1e-40f, -1.0f) == INFINITY, "a subnormal base counts as zero");
    cr_expect(ad_math_pow(0.0f, 1e-40f) == 1.0f, "a subnormal exponent counts as zero");
}
