/* One mathematics: the functions that C and GLSL must compute alike, in one header for both.
 *
 * Written in the common subset of C17 and GLSL 450 (no pointers, no tables, no branches), so that
 * the CPU and the GPU take the same steps on f32. Every function is a range reduction and a minimax
 * polynomial (coefficients from Sollya's fpminimax, rounded to f32). All choices are selects on
 * values that were both computed, so that a loop over an array vectorises.
 *
 * Conventions, the same on both sides:
 *   - A result below 1e-37 in magnitude is a zero (with its sign): GPUs flush subnormal numbers.
 *     For the same reason a subnormal argument counts as zero: log(1e-40) is -inf.
 *   - NaN gives NaN; zeros, infinities and negative arguments are as in C's Annex F. Special cases
 *     are recognised in the bits, as GLSL compilers may assume that no float is NaN.
 *   - No step depends on whether a*b+c is contracted to one rounding: products whose rounding error
 *     matters are exact, because the factors were made short. Steps that a compiler with relaxed
 *     algebra would cancel, such as x - ((1 + x) - 1), are AD_PRECISE.
 *
 * Largest errors, measured in tests/test_math.c over all exponents, in units in the last place:
 * exp, log and log1p 1, expm1, sin and cos 1.3 (for |x| <= 1e4), tanh 2.5, erf 2, sigmoid 2.3,
 * softplus 1.7, pow 2.6. A GPU adds what its division lacks (Vulkan allows 2.5 units).
 *
 * Beyond 1e4 sin and cos lose what the argument's own rounding has lost already: an absolute error
 * of about |x| 2^-24. Beyond 2^22 they are those of 2^22, and infinite arguments give NaN.
 *
 * The f64 twins at the end exist in C only and are libm's: f64 is for checking on the CPU. */
#ifndef AD_OPS_MATH_H
#define AD_OPS_MATH_H

#if defined(__STDC__) || defined(__cplusplus)
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#define AD_FLOAT float
#define AD_UINT uint32_t
#define AD_PRECISE
#define AD_STRUCT(name) typedef struct name name; struct name
#define AD_TO_INT(x) ((int32_t)(x))
#define AD_TO_UINT(x) ((uint32_t)(x))
#define AD_TO_FLOAT(x) ((float)(x))
#define AD_ABS(x) fabsf(x)
#define AD_SQRT(x) sqrtf(x)
/* Adding 1.5 * 2^23 pushes the fraction out: nearest, ties to even, for |x| < 2^22. */
#define AD_ROUND(x) (((x) + 12582912.0f) - 12582912.0f)
#if defined(__GNUC__)
#define AD_INLINE static inline __attribute__((always_inline))
#else
#define AD_INLINE static inline
#endif
AD_INLINE uint32_t ad_math_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
AD_INLINE float ad_math_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define AD_BITS(x) ad_math_bits(x)
#define AD_FROM_BITS(bits) ad_math_from_bits(bits)
#else
#define AD_FLOAT float
#define AD_UINT uint
#define AD_PRECISE precise
#define AD_STRUCT(name) struct name
#define AD_TO_INT(x) int(x)
#define AD_TO_UINT(x) uint(x)
#define AD_TO_FLOAT(x) float(x)
#define AD_ABS(x) abs(x)
#define AD_SQRT(x) sqrt(x)
#define AD_ROUND(x) roundEven(x)
#define AD_INLINE
#define AD_BITS(x) floatBitsToUint(x)
#define AD_FROM_BITS(bits) uintBitsToFloat(bits)
#endif

#define AD_SIGN_BIT 0x80000000u
#define AD_INFINITY_BITS 0x7f800000u
#define AD_NAN_BITS 0x7fc00000u
#define AD_TINY_BITS 0x02081ceau /* 1e-37 */

/* ln 2 in two parts; the high one has 16 bits, so its product with an exponent is exact. */
#define AD_LN2_HIGH 0.693145751953125f
#define AD_LN2_LOW 1.42860677e-06f

/* ---- Shared steps ---- */

AD_INLINE AD_UINT ad_math_magnitude(AD_FLOAT x) { return AD_BITS(x) & 0x7fffffffu; }

/* y, or a zero with the sign of x where |y| is below 1e-37; NaN where x is NaN. */
AD_INLINE AD_FLOAT ad_math_finish(AD_FLOAT y, AD_FLOAT x) {
    AD_UINT sign = AD_BITS(x) & AD_SIGN_BIT;
    AD_UINT bits = ad_math_magnitude(y) < AD_TINY_BITS ? sign : AD_BITS(y);
    return AD_FROM_BITS(ad_math_magnitude(x) > AD_INFINITY_BITS ? AD_NAN_BITS : bits);
}

/* p 2^n for p in [0.7, 1.5] and n in [-125, 129], by adding to the exponent; saturates to inf. */
AD_INLINE AD_FLOAT ad_math_scale(AD_FLOAT p, AD_FLOAT n) {
    AD_UINT bits = AD_BITS(p) + (AD_TO_UINT(AD_TO_INT(n)) << 23);
    return AD_FROM_BITS(bits < AD_INFINITY_BITS ? bits : AD_INFINITY_BITS);
}

/* e^r = 1 + r + r^2 q(r) for |r| <= ln(2)/2: the q. */
AD_INLINE AD_FLOAT ad_math_exp_tail(AD_FLOAT r) {
    AD_FLOAT q = 1.97436457e-04f;
    q = q * r + 1.39337417e-03f;
    q = q * r + 8.33356660e-03f;
    q = q * r + 4.16664779e-02f;
    q = q * r + 1.66666657e-01f;
    return q * r + 0.5f;
}

/* ---- Exponential and logarithm ---- */

/* e^(x + low) / 2^n, where n is the whole number nearest to x / ln 2. */
AD_INLINE AD_FLOAT ad_math_exp_fraction(AD_FLOAT x, AD_FLOAT low, AD_FLOAT n) {
    AD_FLOAT r = ((x - n * AD_LN2_HIGH) - n * AD_LN2_LOW) + low;
    return 1.0f + (r + r * r * ad_math_exp_tail(r));
}

/* exp(high + low). Takes -86.5 for NaN. */
AD_INLINE AD_FLOAT ad_math_exp_sum(AD_FLOAT high, AD_FLOAT low) {
    AD_FLOAT x = high > -86.5f ? high : -86.5f;
    x = x < 89.0f ? x : 89.0f;
    AD_FLOAT n = AD_ROUND(x * 1.44269504f);
    AD_FLOAT y = ad_math_scale(ad_math_exp_fraction(x, low, n), n);
    return AD_BITS(y) < AD_TINY_BITS ? 0.0f : y;
}

/* exp(x) for x <= 0: nothing has to be done against overflow. Takes -86.5 for NaN. */
AD_INLINE AD_FLOAT ad_math_exp_negative(AD_FLOAT x) {
    x = x > -86.5f ? x : -86.5f;
    AD_FLOAT n = AD_ROUND(x * 1.44269504f);
    AD_UINT y = AD_BITS(ad_math_exp_fraction(x, -0.0f, n)) + (AD_TO_UINT(AD_TO_INT(n)) << 23);
    return y < AD_TINY_BITS ? 0.0f : AD_FROM_BITS(y);
}

AD_INLINE AD_FLOAT ad_math_exp(AD_FLOAT x) {
    AD_FLOAT y = ad_math_exp_sum(x, -0.0f);
    return ad_math_magnitude(x) > AD_INFINITY_BITS ? AD_FROM_BITS(AD_NAN_BITS) : y;
}

/* e^x - 1 = 2^n (r + r^2 q) + (2^n - 1). Halved, so that 2^128 needs no representation. */
AD_INLINE AD_FLOAT ad_math_expm1(AD_FLOAT x) {
    AD_FLOAT z = x > -20.0f ? x : -20.0f;
    z = z < 89.0f ? z : 89.0f;
    AD_FLOAT n = AD_ROUND(z * 1.44269504f);
    AD_FLOAT r = (z - n * AD_LN2_HIGH) - n * AD_LN2_LOW;
    AD_FLOAT half_power = ad_math_scale(1.0f, n - 1.0f);
    AD_FLOAT tail = half_power * (r * r * ad_math_exp_tail(r));
    AD_FLOAT y = 2.0f * ((half_power * r + (half_power - 0.5f)) + tail);
    return ad_math_finish(y, x);
}

/* k ln 2 + log(1 + f) + low for f in [sqrt(1/2) - 1, sqrt(2) - 1]. */
AD_INLINE AD_FLOAT ad_math_log_sum(AD_FLOAT k, AD_FLOAT f, AD_FLOAT low) {
    AD_FLOAT p = -7.30031803e-02f;
    p = p * f + 1.25847965e-01f;
    p = p * f - 1.32164538e-01f;
    p = p * f + 1.42368317e-01f;
    p = p * f - 1.66205809e-01f;
    p = p * f + 1.99990422e-01f;
    p = p * f - 2.50008583e-01f;
    p = p * f + 3.33333731e-01f;
    AD_FLOAT z = f * f;
    return k * AD_LN2_HIGH + (f + ((k * AD_LN2_LOW + low) + (f * z * p - 0.5f * z)));
}

/* Splits x = 2^k (1 + f): adding the distance from sqrt(1/2) to 1 moves the cut between exponents
 * to sqrt(2). */
AD_STRUCT(ad_math_parts) { AD_FLOAT k; AD_FLOAT f; };
AD_INLINE ad_math_parts ad_math_split(AD_FLOAT x) {
    AD_UINT bits = AD_BITS(x) + (0x3f800000u - 0x3f3504f3u);
    ad_math_parts parts;
    parts.k = AD_TO_FLOAT(AD_TO_INT(bits >> 23) - 127);
    parts.f = AD_FROM_BITS((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    return parts;
}

/* The special values of a logarithm of x: y where x is positive and finite. */
AD_INLINE AD_FLOAT ad_math_log_finish(AD_FLOAT y, AD_FLOAT x) {
    AD_UINT bits = AD_BITS(x);
    AD_UINT special = bits > AD_INFINITY_BITS ? AD_NAN_BITS : AD_INFINITY_BITS;
    AD_UINT result = bits >= AD_INFINITY_BITS ? special : AD_BITS(y);
    bool zero = ad_math_magnitude(x) < 0x00800000u;
    return AD_FROM_BITS(zero ? AD_INFINITY_BITS | AD_SIGN_BIT : result);
}

AD_INLINE AD_FLOAT ad_math_log(AD_FLOAT x) {
    ad_math_parts parts = ad_math_split(x);
    return ad_math_log_finish(ad_math_log_sum(parts.k, parts.f, 0.0f), x);
}

/* log(u) + c / u, where u = 1 + x was rounded and c is what the rounding lost. */
AD_INLINE AD_FLOAT ad_math_log1p(AD_FLOAT x) {
    AD_PRECISE AD_FLOAT u = 1.0f + x;
    AD_PRECISE AD_FLOAT lost_one = 1.0f - (u - x);
    AD_PRECISE AD_FLOAT lost_x = x - (u - 1.0f);
    AD_FLOAT c = x > 1.0f ? lost_one : lost_x;
    ad_math_parts parts = ad_math_split(u);
    AD_FLOAT y = ad_math_log_finish(ad_math_log_sum(parts.k, parts.f, c / u), u);
    return ad_math_finish(y, x);
}

/* ---- Circular functions ---- */

/* x = n pi/2 + high + low, |high| <= pi/4. Cody and Waite's reduction with pi/2 in four parts: the
 * first three have at most 11 bits, so that their products with n < 2^13 are exact. */
AD_STRUCT(ad_math_angle) { AD_UINT quadrant; AD_FLOAT high; AD_FLOAT low; };
AD_INLINE ad_math_angle ad_math_reduce(AD_FLOAT x) {
    AD_FLOAT z = x > -4194304.0f ? x : -4194304.0f;
    z = z < 4194304.0f ? z : 4194304.0f;
    AD_FLOAT n = AD_ROUND(z * 0.636619772f);
    AD_PRECISE AD_FLOAT a = (z - n * 1.5703125f) - n * 4.837512969970703e-04f;
    AD_PRECISE AD_FLOAT t = n * 7.549533620476723e-08f;
    AD_PRECISE AD_FLOAT high = a - t;
    AD_PRECISE AD_FLOAT low = ((a - high) - t) - n * 2.56334407e-12f;
    ad_math_angle angle;
    angle.quadrant = AD_TO_UINT(AD_TO_INT(n));
    angle.high = high;
    angle.low = low;
    return angle;
}

/* sin(n pi/2 + r): sine or cosine of r by the quadrant's low bit, negated by the next one. */
AD_INLINE AD_FLOAT ad_math_sin_angle(ad_math_angle angle) {
    AD_FLOAT r = angle.high;
    AD_FLOAT z = r * r;
    AD_FLOAT s = (-1.95105880e-04f * z + 8.33211932e-03f) * z - 1.66666538e-01f;
    AD_FLOAT c = (2.44321091e-05f * z - 1.38873083e-03f) * z + 4.16666456e-02f;
    AD_FLOAT sine = r + (r * z * s + angle.low * (1.0f - 0.5f * z));
    AD_FLOAT cosine = (1.0f - 0.5f * z) + (z * z * c - r * angle.low);
    AD_FLOAT y = (angle.quadrant & 1u) != 0u ? cosine : sine;
    y = y < 1.0f ? y : 1.0f;
    y = y > -1.0f ? y : -1.0f;
    return AD_FROM_BITS(AD_BITS(y) ^ ((angle.quadrant & 2u) << 30));
}

AD_INLINE AD_FLOAT ad_math_sin(AD_FLOAT x) {
    AD_FLOAT y = ad_math_finish(ad_math_sin_angle(ad_math_reduce(x)), x);
    return ad_math_magnitude(x) >= AD_INFINITY_BITS ? AD_FROM_BITS(AD_NAN_BITS) : y;
}

AD_INLINE AD_FLOAT ad_math_cos(AD_FLOAT x) {
    ad_math_angle angle = ad_math_reduce(x);
    angle.quadrant += 1u;
    AD_FLOAT y = ad_math_sin_angle(angle);
    return ad_math_magnitude(x) >= AD_INFINITY_BITS ? AD_FROM_BITS(AD_NAN_BITS) : y;
}

/* ---- Saturating functions ---- */

/* tanh|x| = t / (t + 2) with t = e^(2|x|) - 1; it is 1 in f32 from 9.02 on. */
AD_INLINE AD_FLOAT ad_math_tanh(AD_FLOAT x) {
    AD_FLOAT magnitude = AD_ABS(x);
    magnitude = magnitude < 10.0f ? magnitude : 10.0f;
    AD_FLOAT t = ad_math_expm1(2.0f * magnitude);
    AD_FLOAT y = t / (t + 2.0f);
    return ad_math_finish(AD_FROM_BITS(AD_BITS(y) | (AD_BITS(x) & AD_SIGN_BIT)), x);
}

/* Near zero erf(x) = x + x P(x^2); elsewhere erf(t) = 1 - exp(-t - t Q(t)), a form in which the
 * exponential carries the fast decay and Q is smooth. */
AD_INLINE AD_FLOAT ad_math_erf(AD_FLOAT x) {
    AD_FLOAT t = AD_ABS(x);
    t = t < 4.0f ? t : 4.0f;
    AD_FLOAT z = t * t;
    AD_FLOAT p = 8.40123903e-05f;
    p = p * z - 8.14704166e-04f;
    p = p * z + 5.20099327e-03f;
    p = p * z - 2.68591121e-02f;
    p = p * z + 1.12836823e-01f;
    p = p * z - 3.76126319e-01f;
    p = p * z + 1.28379166e-01f;
    AD_FLOAT q = -8.06402454e-07f;
    q = q * t + 3.00795273e-05f;
    q = q * t - 4.66546549e-04f;
    q = q * t + 4.17358056e-03f;
    q = q * t - 2.48351172e-02f;
    q = q * t + 1.07444555e-01f;
    q = q * t + 6.34443998e-01f;
    q = q * t + 1.28815591e-01f;
    AD_FLOAT near = t + t * p;
    AD_FLOAT far = 1.0f - ad_math_exp_negative(-t - t * q);
    AD_FLOAT y = t < 0.927f ? near : far;
    return ad_math_finish(AD_FROM_BITS(AD_BITS(y) | (AD_BITS(x) & AD_SIGN_BIT)), x);
}

/* 1 / (1 + e^-x), with the exponential of a negative number only: zero, or 1e-37 at least, and
 * then so is the quotient, whose divisor is 1. */
AD_INLINE AD_FLOAT ad_math_sigmoid(AD_FLOAT x) {
    AD_FLOAT e = ad_math_exp_negative(-AD_ABS(x));
    AD_FLOAT y = (x < 0.0f ? e : 1.0f) / (1.0f + e);
    return ad_math_magnitude(x) > AD_INFINITY_BITS ? AD_FROM_BITS(AD_NAN_BITS) : y;
}

/* log(1 + e^x) = max(x, 0) + log1p(e^-|x|). */
AD_INLINE AD_FLOAT ad_math_softplus(AD_FLOAT x) {
    AD_FLOAT tail = ad_math_log1p(ad_math_exp_negative(-AD_ABS(x)));
    AD_FLOAT y = (x > 0.0f ? x : 0.0f) + tail;
    return ad_math_magnitude(x) > AD_INFINITY_BITS ? AD_FROM_BITS(AD_NAN_BITS) : y;
}

/* ---- Power ---- */

/* The upper 12 bits of x: products of two such numbers are exact. */
AD_INLINE AD_FLOAT ad_math_head(AD_FLOAT x) { return AD_FROM_BITS(AD_BITS(x) & 0xfffff000u); }

/* log(x) for positive normal x as head + tail, good to about 2^-34: the head has 12 bits.
 * x = 2^k m, and m is multiplied by c, one of 1, 3/4, 5/8 and 1/2, so that f = c m - 1 is below
 * 1/7 in magnitude; c m - 1 = (m/2 - 1) + (c - 1/2) m is exact. */
AD_STRUCT(ad_math_pair) { AD_FLOAT head; AD_FLOAT tail; };
AD_INLINE ad_math_pair ad_math_log_pair(AD_FLOAT x) {
    AD_UINT bits = AD_BITS(x);
    AD_FLOAT k = AD_TO_FLOAT(AD_TO_INT(bits >> 23) - 127);
    AD_FLOAT m = AD_FROM_BITS((bits & 0x007fffffu) | 0x3f800000u);
    bool over1 = m >= 1.14285714f;
    bool over2 = m >= 1.45454545f;
    bool over3 = m >= 1.77777777f;
    // -log(c) in two parts; the high parts are multiples of 2^-16, as AD_LN2_HIGH is.
    AD_FLOAT c = over3 ? 0.0f : (over2 ? 0.125f : (over1 ? 0.25f : 0.5f));
    AD_FLOAT shift = over3 ? AD_LN2_HIGH
                           : (over2 ? 0.4700012207031f : (over1 ? 0.2876892089844f : 0.0f));
    AD_FLOAT shift_low = over3 ? AD_LN2_LOW
                               : (over2 ? 2.40854571e-06f : (over1 ? -7.13653253e-06f : 0.0f));
    AD_PRECISE AD_FLOAT f = (0.5f * m - 1.0f) + c * m;
    AD_FLOAT p = -1.29523516e-01f * f + 1.47436321e-01f;
    p = p * f - 1.66603595e-01f;
    p = p * f + 1.99944317e-01f;
    p = p * f - 2.50000268e-01f;
    p = p * f + 3.33333522e-01f;
    // base + f - f^2/2, each sum with the error that it leaves.
    AD_FLOAT f_head = ad_math_head(f);
    AD_PRECISE AD_FLOAT base = k * AD_LN2_HIGH + shift;
    AD_PRECISE AD_FLOAT sum = base + f;
    AD_PRECISE AD_FLOAT sum_error = (base - sum) + f;
    AD_PRECISE AD_FLOAT square = 0.5f * f_head * f_head;
    AD_PRECISE AD_FLOAT total = sum - square;
    AD_PRECISE AD_FLOAT total_error = (sum - total) - square;
    AD_FLOAT low = f * f * f * p - 0.5f * (f - f_head) * (f + f_head);
    low = ((k * AD_LN2_LOW + shift_low) + low) + (sum_error + total_error);
    ad_math_pair pair;
    pair.head = ad_math_head(total);
    AD_PRECISE AD_FLOAT rest = total - pair.head;
    pair.tail = rest + low;
    return pair;
}

/* x^y = e^(y log x) with the logarithm and the product in two parts, and C's special cases:
 * x^0 = 1^y = 1 for any x, y; a negative x has a power for whole y only. */
AD_INLINE AD_FLOAT ad_math_pow(AD_FLOAT x, AD_FLOAT y) {
    // Past 2^32 any y takes any x but 1 to 0 or inf; the bound keeps the product finite.
    AD_FLOAT z = y > -4294967296.0f ? y : -4294967296.0f;
    z = z < 4294967296.0f ? z : 4294967296.0f;
    ad_math_pair logarithm = ad_math_log_pair(AD_ABS(x));
    AD_FLOAT z_head = ad_math_head(z);
    AD_PRECISE AD_FLOAT product = z_head * logarithm.head;
    AD_PRECISE AD_FLOAT rest = z * logarithm.tail + (z - z_head) * logarithm.head;
    AD_PRECISE AD_FLOAT high = product + rest;
    AD_PRECISE AD_FLOAT low = (product - high) + rest;
    AD_FLOAT bounded_low = AD_ABS(high) < 100.0f ? low : 0.0f;
    AD_UINT result = AD_BITS(ad_math_exp_sum(high, bounded_low));
    // Zero and infinite bases.
    AD_UINT x_size = ad_math_magnitude(x);
    AD_UINT y_size = ad_math_magnitude(y);
    bool x_zero = x_size < 0x00800000u;
    bool y_negative = AD_BITS(y) >= AD_SIGN_BIT;
    result = x_size == AD_INFINITY_BITS ? (y_negative ? 0u : AD_INFINITY_BITS) : result;
    result = x_zero ? (y_negative ? AD_INFINITY_BITS : 0u) : result;
    // Negative bases: every float from 2^24 on is even.
    AD_FLOAT y_bounded = AD_ABS(z) < 16777216.0f ? AD_ABS(z) : 16777216.0f;
    AD_UINT whole = AD_TO_UINT(AD_TO_INT(y_bounded));
    bool fraction = AD_TO_FLOAT(AD_TO_INT(whole)) != y_bounded;
    AD_UINT sign = (whole & 1u) != 0u && !fraction ? AD_BITS(x) & AD_SIGN_BIT : 0u;
    bool finite_negative = AD_BITS(x) > AD_SIGN_BIT && x_size < AD_INFINITY_BITS && !x_zero;
    result = finite_negative && fraction ? AD_NAN_BITS : result | sign;
    result = x_size > AD_INFINITY_BITS || y_size > AD_INFINITY_BITS ? AD_NAN_BITS : result;
    return AD_FROM_BITS(AD_BITS(x) == 0x3f800000u || y_size < 0x00800000u ? 0x3f800000u : result);
}

#if defined(__STDC__) || defined(__cplusplus)
/* ---- f64, C only ---- */
AD_INLINE double ad_math_exp_f64(double x) { return exp(x); }
AD_INLINE double ad_math_expm1_f64(double x) { return expm1(x); }
AD_INLINE double ad_math_log_f64(double x) { return log(x); }
AD_INLINE double ad_math_log1p_f64(double x) { return log1p(x); }
AD_INLINE double ad_math_sin_f64(double x) { return sin(x); }
AD_INLINE double ad_math_cos_f64(double x) { return cos(x); }
AD_INLINE double ad_math_tanh_f64(double x) { return tanh(x); }
AD_INLINE double ad_math_erf_f64(double x) { return erf(x); }
AD_INLINE double ad_math_pow_f64(double x, double y) { return pow(x, y); }
AD_INLINE double ad_math_sigmoid_f64(double x) {
    double e = exp(-fabs(x));
    return (x < 0 ? e : 1.0) / (1.0 + e);
}
AD_INLINE double ad_math_softplus_f64(double x) {
    return (x > 0 ? x : 0.0) + log1p(exp(-fabs(x)));
}
#endif

#endif
