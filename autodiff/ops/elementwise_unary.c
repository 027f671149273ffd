/* Elementwise operations of one operand: kernels, rules and constants from elementwise.def.
 *
 * The slopes that need more than a line stand here as functions of public operations, with the
 * formula beside them; everything else is the expansion of the lines. isfinite, which makes a mask,
 * is at the end. */
#include "autodiff/ops/elementwise.h"
#include "autodiff/ops/elementwise_math.h"

/* ---- slopes */

static ad_tensor zero_of(ad_context *ctx, ad_tensor t) {
    return ad_scalar(ctx, ad_type_of(ctx, t), 0);
}

static ad_tensor where_positive(ad_context *ctx, ad_tensor x, ad_tensor yes, ad_tensor no) {
    return ad_where(ctx, ad_greater(ctx, x, zero_of(ctx, x)), yes, no);
}

// x^(-1/2)' = -y^3 / 2
static ad_tensor rsqrt_slope(ad_context *ctx, ad_tensor y) {
    return ad_affine(ctx, ad_mul(ctx, y, ad_square(ctx, y)), -0.5, 0);
}

// erf' = 2 / sqrt(pi) exp(-x^2)
static ad_tensor erf_slope(ad_context *ctx, ad_tensor x) {
    ad_tensor bell = ad_exp(ctx, ad_neg(ctx, ad_square(ctx, x)));
    return ad_affine(ctx, bell, 1.12837916709551257390, 0);
}

// sigma' = sigma (1 - sigma)
static ad_tensor sigmoid_slope(ad_context *ctx, ad_tensor y) {
    return ad_mul(ctx, y, ad_affine(ctx, y, -1, 1));
}

// (x Phi(x))' = Phi(x) + x phi(x), phi the normal density
static ad_tensor gelu_slope(ad_context *ctx, ad_tensor x) {
    ad_tensor erf = ad_erf(ctx, ad_affine(ctx, x, 0.70710678118654752440, 0));
    ad_tensor bell = ad_exp(ctx, ad_affine(ctx, ad_square(ctx, x), -0.5, 0));
    ad_tensor density = ad_affine(ctx, bell, 0.39894228040143267794, 0);
    return ad_add(ctx, ad_affine(ctx, erf, 0.5, 0.5), ad_chain_mul(ctx, density, x));
}

// (x sigma(x))' = sigma + y (1 - sigma)
static ad_tensor silu_slope(ad_context *ctx, ad_tensor x, ad_tensor y) {
    ad_tensor s = ad_sigmoid(ctx, x);
    return ad_add(ctx, s, ad_mul(ctx, y, ad_affine(ctx, s, -1, 1)));
}

/* ---- kernels: p and q are the attributes, rounded to the operand's type */

#define NOTHING 0
#define A AD_READS_A
#define Y AD_READS_Y
#define ONCE AD_READS_T_ONCE
#define NONE ((void)t, (ad_tensor){0})
#define REAL(value) ((real)(value))
#define UNUSED __attribute__((unused))

// VECTORS: also where the result lies over the operand, which the compiler would not do by itself.
// Not in f64, whose functions are the C library's and have no vectors.
#define VECTORS _Pragma("omp simd")
#define OPERANDS(T, OUT)                                                                          \
    typedef T real UNUSED;                                                                        \
    const double *attributes = user;                                                              \
    const T p UNUSED = attributes ? (T)attributes[0] : 0;                                         \
    const T q UNUSED = attributes ? (T)attributes[1] : 0;                                         \
    OUT *out = (OUT *)data[0];                                                                    \
    const T *in = (const T *)data[1];                                                             \
    const int64_t step UNUSED = stride[1];

#define BODY(NAME, T, OUT, SIMD, VALUE)                                                           \
    static void NAME(const void *user, int64_t n, char *const *data, const int64_t *stride) {     \
        OPERANDS(T, OUT)                                                                          \
        if (step == 1) {                                                                          \
            SIMD for (int64_t i = 0; i < n; i++) {                                                \
                const T x = in[i];                                                                \
                out[i] = VALUE;                                                                   \
            }                                                                                     \
        } else {                                                                                  \
            for (int64_t i = 0; i < n; i++) {                                                     \
                const T x = in[i * step];                                                         \
                out[i] = VALUE;                                                                   \
            }                                                                                     \
        }                                                                                         \
    }

#define STREAM(NAME, VALUE)                                                                       \
    static void NAME(const void *user, int64_t n, char *const *data, const int64_t *stride) {     \
        OPERANDS(float, float)                                                                    \
        AD_STREAM_LOOP(ad_stream_ahead(in + at), const float x = in[i], VALUE)                    \
    }

#define DEFINE(NAME, ATTRIBUTES, P, Q, VALUE, SLOPE, READS, FLOPS, LOW, HIGH, KINK, EXEMPT)       \
    BODY(NAME##_f32, float, float, VECTORS, VALUE)                                                \
    BODY(NAME##_f64, double, double, , VALUE)                                                     \
    STREAM(NAME##_stream, VALUE)                                                                  \
    static ad_tensor NAME##_rule(ad_context *ctx, int operand, ad_tensor t,                       \
                                 const ad_tensor *inputs, ad_tensor y,                            \
                                 const double *attributes) {                                      \
        const ad_tensor x UNUSED = inputs[0];                                                     \
        const double p UNUSED = attributes ? attributes[0] : 0;                                   \
        (void)ctx, (void)operand, (void)y;                                                        \
        return SLOPE;                                                                             \
    }                                                                                             \
    static const ad_elementwise NAME##_facts = {                                                  \
        .body = {[AD_F32] = NAME##_f32, [AD_F64] = NAME##_f64}, .stream = NAME##_stream,          \
        .rule = NAME##_rule, .reads = READS, .flops = FLOPS, .low = {LOW}, .high = {HIGH},        \
        .kink = KINK, .attributes = {P, Q}};                                                      \
    AD_ELEMENTWISE_OP(NAME, 1, 0, ATTRIBUTES, EXEMPT)

#define AD_UNARY(NAME, VALUE, SLOPE, READS, FLOPS, LOW, HIGH, KINK)                               \
    DEFINE(NAME, 0, 0, 0, VALUE, SLOPE, READS, FLOPS, LOW, HIGH, KINK, NULL)                      \
    ad_tensor ad_##NAME(ad_context *ctx, ad_tensor x) {                                           \
        return ad_apply1(ctx, &ad_op_##NAME, 1, &x, NULL);                                        \
    }
#define AD_UNARY_WITH(NAME, P, Q, VALUE, SLOPE, READS, FLOPS, LOW, HIGH, KINK)                    \
    DEFINE(NAME, 2, P, Q, VALUE, SLOPE, READS, FLOPS, LOW, HIGH, KINK, NULL)
#include "autodiff/ops/elementwise.def"

/* ---- public, with attributes */

ad_tensor ad_affine(ad_context *ctx, ad_tensor x, double scale, double offset) {
    return ad_apply1(ctx, &ad_op_affine, 1, &x, (double[]){scale, offset});
}

ad_tensor ad_leaky_relu(ad_context *ctx, ad_tensor x, double slope) {
    return ad_apply1(ctx, &ad_op_leaky_relu, 1, &x, (double[]){slope, 0});
}

ad_tensor ad_elu(ad_context *ctx, ad_tensor x, double alpha) {
    return ad_apply1(ctx, &ad_op_elu, 1, &x, (double[]){alpha, 0});
}

ad_tensor ad_clamp(ad_context *ctx, ad_tensor x, double low, double high) {
    return ad_apply1(ctx, &ad_op_clamp, 1, &x, (double[]){low, high});
}

/* ---- isfinite: x - x is 0 but for infinities and NaN */

BODY(isfinite_f32, float, uint32_t, VECTORS, x - x == 0)
BODY(isfinite_f64, double, uint32_t, , x - x == 0)
static const ad_elementwise isfinite_facts = {
    .body = {[AD_F32] = isfinite_f32, [AD_F64] = isfinite_f64}, .makes_mask = true, .flops = 1,
    .low = {-2}, .high = {2}};
AD_ELEMENTWISE_OP(isfinite, 1, AD_OP_NO_GRADIENT, 0, NULL)

ad_tensor ad_isfinite(ad_context *ctx, ad_tensor x) {
    return ad_apply1(ctx, &ad_op_isfinite, 1, &x, NULL);
}
