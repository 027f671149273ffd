/* elementwise_math.h: the words of elementwise.def for C, one for all types (_Generic). GLSL has
 * only f32 and maps them to the same functions of math.h. */
#ifndef ADJOINT_OPS_ELEMENTWISE_MATH_H
#define ADJOINT_OPS_ELEMENTWISE_MATH_H

#include "autodiff/ops/math.h"

#define BOTH(x, f32, f64) _Generic((x), float: f32, double: f64)

#define EXP(x) BOTH(x, ad_math_exp, ad_math_exp_f64)(x)
#define EXPM1(x) BOTH(x, ad_math_expm1, ad_math_expm1_f64)(x)
#define LOG(x) BOTH(x, ad_math_log, ad_math_log_f64)(x)
#define LOG1P(x) BOTH(x, ad_math_log1p, ad_math_log1p_f64)(x)
#define SIN(x) BOTH(x, ad_math_sin, ad_math_sin_f64)(x)
#define COS(x) BOTH(x, ad_math_cos, ad_math_cos_f64)(x)
#define TANH(x) BOTH(x, ad_math_tanh, ad_math_tanh_f64)(x)
#define ERF(x) BOTH(x, ad_math_erf, ad_math_erf_f64)(x)
#define SIGMOID(x) BOTH(x, ad_math_sigmoid, ad_math_sigmoid_f64)(x)
#define SOFTPLUS(x) BOTH(x, ad_math_softplus, ad_math_softplus_f64)(x)
#define POW(x, y) BOTH(x, ad_math_pow, ad_math_pow_f64)(x, y)
#define SQRT(x) BOTH(x, sqrtf, sqrt)(x)
#define ABS(x) BOTH(x, fabsf, fabs)(x)
#define FLOOR(x) BOTH(x, floorf, floor)(x)
#define CEIL(x) BOTH(x, ceilf, ceil)(x)
#define ROUND(x) BOTH(x, rintf, rint)(x)
// x Phi(x), Phi the normal distribution: erf(x / sqrt 2) / 2 + 1/2.
#define GELU(x) (x * (REAL(0.5) + REAL(0.5) * ERF(x * REAL(0.70710678118654752440))))

AD_INLINE bool elementwise_nan_f32(float x) { return x != x; }
AD_INLINE bool elementwise_nan_f64(double x) { return x != x; }
AD_INLINE bool elementwise_nan_i32(int32_t x) { return x - x; }
AD_INLINE bool elementwise_nan_u32(uint32_t x) { return x - x; }
#define IS_NAN(x) _Generic((x), float: elementwise_nan_f32, double: elementwise_nan_f64,          \
                           int32_t: elementwise_nan_i32, uint32_t: elementwise_nan_u32)(x)

// A shift by 32 or more leaves nothing, of a negative i32 shifted right its sign.
AD_INLINE uint32_t elementwise_left(uint32_t a, uint32_t b) { return b < 32 ? a << b : 0; }
AD_INLINE int32_t elementwise_right_i32(int32_t a, int32_t b) {
    return a >> ((uint32_t)b < 31 ? b : 31);
}
AD_INLINE uint32_t elementwise_right_u32(uint32_t a, uint32_t b) { return b < 32 ? a >> b : 0; }
#define SHIFT_LEFT(a, b) elementwise_left((uint32_t)(a), (uint32_t)(b))
#define SHIFT_RIGHT(a, b) _Generic((a), int32_t: elementwise_right_i32,                           \
                                   uint32_t: elementwise_right_u32)(a, b)

#endif
