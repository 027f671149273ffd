/* Elementwise operations of two operands, and where: kernels, rules and constants.
 *
 * A body has a loop for each layout that vectorises: both operands contiguous, or one of them a
 * single value; any other stride takes the last loop. The lines are in elementwise.def. */
#include "autodiff/ops/elementwise.h"
#include "autodiff/ops/elementwise_math.h"

/* ---- slopes */

static ad_tensor zero_of(ad_context *ctx, ad_tensor t) {
    return ad_scalar(ctx, ad_type_of(ctx, t), 0);
}

// t where low < high, half of it where they are equal: what the chosen one of two operands gets.
static ad_tensor share(ad_context *ctx, ad_tensor t, ad_tensor low, ad_tensor high) {
    ad_tensor half = ad_where(ctx, ad_equal(ctx, low, high), ad_affine(ctx, t, 0.5, 0),
                              zero_of(ctx, t));
    return ad_where(ctx, ad_less(ctx, low, high), t, half);
}

// b a^(b - 1); 0 where b is 0, even at a = 0
static ad_tensor pow_slope_a(ad_context *ctx, ad_tensor a, ad_tensor b) {
    return ad_chain_mul(ctx, b, ad_pow(ctx, a, ad_affine(ctx, b, 1, -1)));
}

// a^b log a; 0 where a is 0
static ad_tensor pow_slope_b(ad_context *ctx, ad_tensor a, ad_tensor y) {
    ad_tensor zero = zero_of(ctx, a), one = ad_scalar(ctx, ad_type_of(ctx, a), 1);
    ad_tensor base = ad_where(ctx, ad_equal(ctx, a, zero), one, a);
    return ad_chain_mul(ctx, ad_log(ctx, base), y);
}

/* ---- kernels */

#define NOTHING 0
#define A AD_READS_A
#define B AD_READS_B
#define Y AD_READS_Y
#define ONCE AD_READS_T_ONCE
#define NONE ((ad_tensor){0})
#define REAL(value) ((real)(value))
#define UNUSED __attribute__((unused))

#define LOOP(T, OUT, LEFT, RIGHT, VALUE)                                                          \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                         \
        const T a = LEFT, b = RIGHT;                                                              \
        out[i] = (OUT)(VALUE);                                                                    \
    }

#define BODY(NAME, T, OUT, VALUE)                                                                 \
    static void NAME(const void *user, int64_t n, char *const *data, const int64_t *stride) {     \
        typedef T real UNUSED;                                                                    \
        OUT *out = (OUT *)data[0];                                                                \
        const T *left = (const T *)data[1], *right = (const T *)data[2];                          \
        const int64_t step_left = stride[1], step_right = stride[2];                              \
        (void)user;                                                                               \
        if (step_left == 1 && step_right == 1) {                                                  \
            LOOP(T, OUT, left[i], right[i], VALUE)                                                \
        } else if (step_left == 1 && step_right == 0) {                                           \
            const T only = right[0];                                                              \
            LOOP(T, OUT, left[i], only, VALUE)                                                    \
        } else if (step_left == 0 && step_right == 1) {                                           \
            const T only = left[0];                                                               \
            LOOP(T, OUT, only, right[i], VALUE)                                                   \
        } else {                                                                                  \
            for (int64_t i = 0; i < n; i++) {                                                     \
                const T a = left[i * step_left], b = right[i * step_right];                       \
                out[i] = (OUT)(VALUE);                                                            \
            }                                                                                     \
        }                                                                                         \
    }

#define STREAM(NAME, VALUE)                                                                       \
    static void NAME(const void *user, int64_t n, char *const *data, const int64_t *stride) {     \
        typedef float real UNUSED;                                                                \
        float *out = (float *)data[0];                                                            \
        const float *left = (const float *)data[1], *right = (const float *)data[2];              \
        (void)user;                                                                               \
        if (stride[1] == 1 && stride[2] == 1) {                                                   \
            AD_STREAM_LOOP(ad_stream_ahead(left + at); ad_stream_ahead(right + at),               \
                           const float a = left[i]; const float b = right[i], VALUE)              \
        } else if (stride[1] == 1) {                                                              \
            const float b = right[0];                                                             \
            AD_STREAM_LOOP(ad_stream_ahead(left + at), const float a = left[i], VALUE)            \
        } else {                                                                                  \
            const float a = left[0];                                                              \
            AD_STREAM_LOOP(ad_stream_ahead(right + at), const float b = right[i], VALUE)          \
        }                                                                                         \
    }

#define PUBLIC(NAME)                                                                              \
    ad_tensor ad_##NAME(ad_context *ctx, ad_tensor a, ad_tensor b) {                              \
        return ad_apply1(ctx, &ad_op_##NAME, 2, (ad_tensor[]){a, b}, NULL);                       \
    }

#define DEFINE(NAME, I32, U32, VALUE, SLOPE_A, SLOPE_B, READS, FLOPS, LOW_A, HIGH_A, LOW_B,       \
               HIGH_B, KINK)                                                                      \
    BODY(NAME##_f32, float, float, VALUE)                                                         \
    BODY(NAME##_f64, double, double, VALUE)                                                       \
    STREAM(NAME##_stream, VALUE)                                                                  \
    static ad_tensor NAME##_rule(ad_context *ctx, int operand, ad_tensor t, const ad_tensor *x,   \
                                 ad_tensor y, const double *attributes) {                         \
        const ad_tensor a UNUSED = x[0], b UNUSED = x[1];                                         \
        (void)ctx, (void)y, (void)attributes;                                                     \
        return operand == 0 ? SLOPE_A : SLOPE_B;                                                  \
    }                                                                                             \
    static const ad_elementwise NAME##_facts = {                                                  \
        .body = {[AD_F32] = NAME##_f32, [AD_F64] = NAME##_f64, [AD_I32] = I32, [AD_U32] = U32},   \
        .stream = NAME##_stream, .rule = NAME##_rule, .reads = READS, .flops = FLOPS,             \
        .low = {LOW_A, LOW_B}, .high = {HIGH_A, HIGH_B}, .kink = KINK};                            \
    AD_ELEMENTWISE_OP(NAME, 2, 0, 0, NULL)                                                        \
    PUBLIC(NAME)

// Arithmetic modulo 2^32 has the same bits for both kinds of integers.
#define AD_BINARY_WRAPPING(NAME, VALUE, ...)                                                      \
    BODY(NAME##_u32, uint32_t, uint32_t, VALUE)                                                   \
    DEFINE(NAME, NAME##_u32, NAME##_u32, VALUE, __VA_ARGS__)
#define AD_BINARY_ORDERED(NAME, VALUE, ...)                                                       \
    BODY(NAME##_i32, int32_t, int32_t, VALUE)                                                     \
    BODY(NAME##_u32, uint32_t, uint32_t, VALUE)                                                   \
    DEFINE(NAME, NAME##_i32, NAME##_u32, VALUE, __VA_ARGS__)
#define AD_BINARY(NAME, ...) DEFINE(NAME, NULL, NULL, __VA_ARGS__)

#define AD_COMPARE(NAME, VALUE)                                                                   \
    BODY(NAME##_f32, float, uint32_t, VALUE)                                                      \
    BODY(NAME##_f64, double, uint32_t, VALUE)                                                     \
    BODY(NAME##_i32, int32_t, uint32_t, VALUE)                                                    \
    BODY(NAME##_u32, uint32_t, uint32_t, VALUE)                                                   \
    static const ad_elementwise NAME##_facts = {                                                  \
        .body = {[AD_F32] = NAME##_f32, [AD_F64] = NAME##_f64, [AD_I32] = NAME##_i32,             \
                 [AD_U32] = NAME##_u32},                                                          \
        .makes_mask = true, .flops = 1, .low = {0, 0}, .high = {3, 3}};                           \
    AD_ELEMENTWISE_OP(NAME, 2, AD_OP_NO_GRADIENT, 0, NULL)                                        \
    PUBLIC(NAME)

#define AD_BITWISE(NAME, VALUE)                                                                   \
    BODY(NAME##_i32, int32_t, int32_t, VALUE)                                                     \
    BODY(NAME##_u32, uint32_t, uint32_t, VALUE)                                                   \
    static const ad_elementwise NAME##_facts = {                                                  \
        .body = {[AD_I32] = NAME##_i32, [AD_U32] = NAME##_u32}, .flops = 1, .low = {0, 0},        \
        .high = {40, 40}};                                                                        \
    AD_ELEMENTWISE_OP(NAME, 2, AD_OP_NO_GRADIENT, 0, NULL)                                        \
    PUBLIC(NAME)

#include "autodiff/ops/elementwise.def"

/* ---- where: bits of four or eight bytes are chosen, whatever they mean */

#define WHERE_BODY(NAME, T)                                                                       \
    static void NAME(const void *user, int64_t n, char *const *data, const int64_t *stride) {     \
        T *out = (T *)data[0];                                                                    \
        const uint32_t *mask = (const uint32_t *)data[1];                                         \
        const T *yes = (const T *)data[2], *no = (const T *)data[3];                              \
        const int64_t sm = stride[1], sy = stride[2], sn = stride[3];                             \
        (void)user;                                                                               \
        if (sm == 1 && sy == 1 && sn == 1) {                                                      \
            _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                 \
                const T a = yes[i], b = no[i];                                                    \
                out[i] = mask[i] ? a : b;                                                         \
            }                                                                                     \
        } else if (sm == 1 && sy == 1 && sn == 0) {                                               \
            const T b = no[0];                                                                    \
            _Pragma("omp simd") for (int64_t i = 0; i < n; i++) {                                 \
                const T a = yes[i];                                                               \
                out[i] = mask[i] ? a : b;                                                         \
            }                                                                                     \
        } else {                                                                                  \
            for (int64_t i = 0; i < n; i++)                                                       \
                out[i] = mask[i * sm] ? yes[i * sy] : no[i * sn];                                 \
        }                                                                                         \
    }
WHERE_BODY(where_4, uint32_t)
WHERE_BODY(where_8, uint64_t)

static ad_tensor where_rule(ad_context *ctx, int operand, ad_tensor t, const ad_tensor *x,
                            ad_tensor y, const double *attributes) {
    (void)y, (void)attributes;
    if (operand == 0) return (ad_tensor){0};
    ad_tensor zero = zero_of(ctx, t);
    return operand == 1 ? ad_where(ctx, x[0], t, zero) : ad_where(ctx, x[0], zero, t);
}

static const ad_elementwise where_facts = {
    .body = {[AD_F32] = where_4, [AD_F64] = where_8, [AD_I32] = where_4, [AD_U32] = where_4},
    .rule = where_rule, .reads = AD_READS_A, .takes_mask = true, .flops = 1, .low = {0, -2, -2},
    .high = {1, 2, 2}};
AD_ELEMENTWISE_OP(where, 3, 0, 0, NULL)

ad_tensor ad_where(ad_context *ctx, ad_tensor mask, ad_tensor a, ad_tensor b) {
    return ad_apply1(ctx, &ad_op_where, 3, (ad_tensor[]){mask, a, b}, NULL);
}
