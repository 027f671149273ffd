/* Values of the elementwise family: against libm in f64, over all layouts, at ties and kinks. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* ---- values against libm */

typedef ad_tensor (*unary)(ad_context *ctx, ad_tensor x);

static double expected_rsqrt(double x) { return 1 / sqrt(x); }
static double expected_square(double x) { return x * x; }
static double expected_reciprocal(double x) { return 1 / x; }
static double expected_negative(double x) { return -x; }
static double expected_sign(double x) { return (x > 0) - (x < 0); }
static double expected_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double expected_softplus(double x) { return log1p(exp(x)); }
static double expected_relu(double x) { return x > 0 ? x : 0; }
static double expected_gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2)); }
static double expected_silu(double x) { return x / (1 + exp(-x)); }
static ad_tensor leaky(ad_context *ctx, ad_tensor x) { return ad_leaky_relu(ctx, x, 0.01); }
static double expected_leaky(double x) { return x > 0 ? x : 0.01 * x; }
static ad_tensor elu(ad_context *ctx, ad_tensor x) { return ad_elu(ctx, x, 1.5); }
static double expected_elu(double x) { return x > 0 ? x : 1.5 * expm1(x); }
static ad_tensor clamp(ad_context *ctx, ad_tensor x) { return ad_clamp(ctx, x, -1, 2); }
static double expected_clamp(double x) { return fmin(fmax(x, -1), 2); }
static ad_tensor affine(ad_context *ctx, ad_tensor x) { return ad_affine(ctx, x, 3, -0.5); }
static double expected_affine(double x) { return 3 * x - 0.5; }

static const struct {
    const char *name;
    unary f;
    double (*expected)(double);
    double low, high;
} cases[] = {
    {"neg", ad_neg, expected_negative, -9, 9}, {"exp", ad_exp, exp, -9, 9},
    {"expm1", ad_expm1, expm1, -9, 9}, {"log", ad_log, log, 1e-3, 9},
    {"log1p", ad_log1p, log1p, -0.99, 9}, {"sqrt", ad_sqrt, sqrt, 0, 9},
    {"rsqrt", ad_rsqrt, expected_rsqrt, 0.1, 9}, {"square", ad_square, expected_square, -9, 9},
    {"reciprocal", ad_reciprocal, expected_reciprocal, 0.1, 9}, {"abs", ad_abs, fabs, -9, 9},
    {"sign", ad_sign, expected_sign, -9, 9}, {"sin", ad_sin, sin, -9, 9},
    {"cos", ad_cos, cos, -9, 9}, {"tanh", ad_tanh, tanh, -9, 9}, {"erf", ad_erf, erf, -4, 4},
    {"sigmoid", ad_sigmoid, expected_sigmoid, -9, 9},
    {"softplus", ad_softplus, expected_softplus, -9, 9}, {"relu", ad_relu, expected_relu, -9, 9},
    {"gelu", ad_gelu, expected_gelu, -9, 9}, {"silu", ad_silu, expected_silu, -9, 9},
    {"floor", ad_floor, floor, -9, 9}, {"ceil", ad_ceil, ceil, -9, 9},
    {"round", ad_round, rint, -9, 9}, {"leaky_relu", leaky, expected_leaky, -9, 9},
    {"elu", elu, expected_elu, -9, 9}, {"clamp", clamp, expected_clamp, -9, 9},
    {"affine", affine, expected_affine, -9, 9}};

enum { COUNT = 1021 };

static void check_unary(ad_context *ctx, size_t c, ad_type type, double tolerance) {
    double x[COUNT], y[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(cases[c].low + (cases[c].high - cases[c].low) * i / (COUNT - 1));
    ad_tensor operand = ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(COUNT), x), type);
    ad_read(ctx, ad_cast(ctx, operand, AD_F64), x, sizeof x); // as rounded
    ad_read(ctx, ad_cast(ctx, cases[c].f(ctx, operand), AD_F64), y, sizeof y);
    double worst = 0;
    for (int i = 0; i < COUNT; i++) {
        double good = cases[c].expected(x[i]);
        worst = fmax(worst, fabs(y[i] - good) / fmax(fabs(good), 1));
    }
    cr_expect(worst <= tolerance, "%s on %s: off by %g", cases[c].name, ad_type_name(type), worst);
    cr_expect(!ad_failed(ctx), "%s: %s", cases[c].name, ad_error_text(ctx));
}

Test(elementwise, unary_values) {
    ad_context *ctx = ad_open(NULL);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        check_unary(ctx, c, AD_F64, 1e-14);
        check_unary(ctx, c, AD_F32, 5e-7);
        check_unary(ctx, c, AD_F16, 0x1p-11);
        check_unary(ctx, c, AD_BF16, 0x1p-8);
    }
    ad_close(ctx);
}

static const struct {
    const char *name;
    ad_tensor (*f)(ad_context *ctx, ad_tensor a, ad_tensor b);
    double y[3]; // of (7.5, -2), (-7.5, 2), (2, 2)
} binary_cases[] = {
    {"add", ad_add, {5.5, -5.5, 4}}, {"sub", ad_sub, {9.5, -9.5, 0}},
    {"mul", ad_mul, {-15, -15, 4}}, {"div", ad_div, {-3.75, -3.75, 1}},
    {"mod", ad_mod, {-0.5, 0.5, 0}}, {"minimum", ad_minimum, {-2, -7.5, 2}},
    {"maximum", ad_maximum, {7.5, 2, 2}}, {"equal", ad_equal, {0, 0, 1}},
    {"less", ad_less, {0, 1, 0}}, {"less_equal", ad_less_equal, {0, 1, 1}},
    {"greater", ad_greater, {1, 0, 0}}, {"chain_mul", ad_chain_mul, {-15, -15, 4}},
    {"chain_div", ad_chain_div, {-3.75, -3.75, 1}}, {"gate", ad_gate, {0, -7.5, 2}}};

// Each public name does what it says, in both precisions.
Test(elementwise, binary_values) {
    const double a[3] = {7.5, -7.5, 2}, b[3] = {-2, 2, 2};
    const int32_t m[2] = {12, -1}, n[2] = {10, 4};
    double y[3];
    int32_t bits[2];
    ad_context *ctx = ad_open(NULL);
    for (int type = 0; type < 2; type++) {
        ad_type real = type ? AD_F32 : AD_F64;
        ad_tensor left = ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(3), a), real);
        ad_tensor right = ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(3), b), real);
        for (size_t c = 0; c < sizeof binary_cases / sizeof *binary_cases; c++) {
            ad_tensor found = ad_cast(ctx, binary_cases[c].f(ctx, left, right), AD_F64);
            cr_assert(ad_read(ctx, found, y, sizeof y), "%s", ad_error_text(ctx));
            for (int i = 0; i < 3; i++)
                cr_expect_eq(y[i], binary_cases[c].y[i], "%s of %g and %g: %g",
                             binary_cases[c].name, a[i], b[i], y[i]);
        }
    }
    const double none[1] = {0}, steep[1] = {INFINITY};
    ad_tensor zero = ad_from(ctx, AD_F64, AD_SHAPE(1), none);
    ad_tensor slope = ad_from(ctx, AD_F64, AD_SHAPE(1), steep);
    cr_assert(ad_read(ctx, ad_chain_mul(ctx, zero, slope), y, 8) && y[0] == 0);
    cr_assert(ad_read(ctx, ad_chain_div(ctx, zero, zero), y, 8) && y[0] == 0);
    ad_tensor left = ad_from(ctx, AD_I32, AD_SHAPE(2), m);
    ad_tensor right = ad_from(ctx, AD_I32, AD_SHAPE(2), n);
    cr_assert(ad_read(ctx, ad_bit_and(ctx, left, right), bits, sizeof bits));
    cr_expect(bits[0] == 8 && bits[1] == 4);
    cr_assert(ad_read(ctx, ad_bit_or(ctx, left, right), bits, sizeof bits));
    cr_expect(bits[0] == 14 && bits[1] == -1);
    cr_assert(ad_read(ctx, ad_bit_xor(ctx, left, right), bits, sizeof bits));
    cr_expect(bits[0] == 6 && bits[1] == -5);
    ad_close(ctx);
}

/* ---- layouts */

// The element of x that broadcasts to element i of a result of this shape.
static double broadcast_at(const double *x, ad_shape s, ad_shape result, int64_t i) {
    int64_t at = 0, stride = 1;
    for (int axis = result.rank - 1; axis >= 0; axis--) {
        int64_t index = i % result.size[axis];
        i /= result.size[axis];
        int own = axis - (result.rank - s.rank);
        if (own < 0) continue;
        if (s.size[own] != 1) at += index * stride;
        stride *= s.size[own];
    }
    return x[at];
}

static int64_t count_of(ad_shape s) {
    int64_t count = 1;
    for (int axis = 0; axis < s.rank; axis++) count *= s.size[axis];
    return count;
}

Test(elementwise, broadcasting) {
    static const ad_shape pairs[][3] = { // left, right, result
        {{0, {0}}, {0, {0}}, {0, {0}}},
        {{1, {7}}, {0, {0}}, {1, {7}}},
        {{2, {100, 3}}, {1, {3}}, {2, {100, 3}}},
        {{2, {100, 1}}, {1, {3}}, {2, {100, 3}}},
        {{2, {30, 64}}, {1, {64}}, {2, {30, 64}}},
        {{2, {30, 64}}, {2, {30, 1}}, {2, {30, 64}}},
        {{3, {5, 1, 4}}, {3, {1, 6, 1}}, {3, {5, 6, 4}}},
        {{1, {1}}, {2, {0, 4}}, {2, {0, 4}}},
        {{6, {2, 1, 3, 1, 2, 1}}, {4, {3, 5, 1, 70}}, {6, {2, 1, 3, 5, 2, 70}}},
        {{2, {1900, 3}}, {1, {3}}, {2, {1900, 3}}}, // rows of three, block after block
        {{2, {1900, 3}}, {2, {1900, 1}}, {2, {1900, 3}}},
        {{3, {7, 1, 3}}, {3, {7, 190, 1}}, {3, {7, 190, 3}}},
        {{3, {1, 190, 3}}, {3, {9, 1, 3}}, {3, {9, 190, 3}}},
        {{2, {1000, 5}}, {2, {1000, 1}}, {2, {1000, 5}}}};
    ad_context *ctx = ad_open(NULL);
    double a[6000], b[6000], y[6000];
    for (int i = 0; i < 6000; i++) a[i] = i % 97 + 1, b[i] = i % 89 + 0.5;
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        for (int way = 0; way < 4; way++) {
            int swap = way % 2;
            ad_type type = way / 2 ? AD_F32 : AD_F64; // the numbers are exact in both
            ad_shape left = pairs[p][swap], right = pairs[p][1 - swap], result = pairs[p][2];
            int64_t count = count_of(result);
            ad_tensor sum = ad_sub(ctx, ad_cast(ctx, ad_from(ctx, AD_F64, left, a), type),
                                   ad_cast(ctx, ad_from(ctx, AD_F64, right, b), type));
            cr_assert(ad_read(ctx, ad_cast(ctx, sum, AD_F64), y, (size_t)count * 8), "%s",
                      ad_error_text(ctx));
            for (int64_t i = 0; i < count; i++) {
                double good = broadcast_at(a, left, result, i) - broadcast_at(b, right, result, i);
                cr_expect(y[i] == good, "pair %zu, element %lld: %g, not %g", p, (long long)i,
                          y[i], good);
            }
        }
    }
    ad_tensor bad = ad_add(ctx, ad_zeros(ctx, 2, 3), ad_zeros(ctx, 2));
    cr_expect(ad_is_null(bad) && strstr(ad_error_text(ctx), "f32 (2, 3)"), "%s",
              ad_error_text(ctx));
    ad_close(ctx);
}

Test(elementwise, views) {
    ad_context *ctx = ad_open(NULL);
    float x[60], y[60];
    for (int i = 0; i < 60; i++) x[i] = (float)i;
    ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(6, 10), x);
    ad_tensor turned = ad_transpose(ctx, t);                     // (10, 6)
    ad_tensor every = ad_slice(ctx, turned, 0, 1, 10, 3);        // (3, 6): columns 1, 4, 7
    ad_read(ctx, ad_add(ctx, every, ad_neg(ctx, ad_slice(ctx, turned, 0, 0, 3, 1))), y, 72);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 6; j++)
            cr_expect(y[6 * i + j] == x[10 * j + 3 * i + 1] - x[10 * j + i]);
    ad_tensor threes = ad_slice(ctx, t, 1, 1, 7, 2);             // (6, 3): columns 1, 3, 5
    ad_read(ctx, ad_add(ctx, threes, ad_slice(ctx, t, 1, 9, 10, 1)), y, 72);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 3; j++)
            cr_expect(y[3 * i + j] == x[10 * i + 2 * j + 1] + x[10 * i + 9]);
    cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(elementwise, same_bits_for_any_thread_count) {
    enum { ROWS = 1500, COLUMNS = 301 };
    static float x[ROWS * COLUMNS], first[ROWS * COLUMNS], again[ROWS * COLUMNS];
    for (int64_t i = 0; i < ROWS * COLUMNS; i++)
        x[i] = (float)(i * 7919 % 20011 - 10000) / 3000;
    for (int threads = 1; threads <= 4; threads *= 2) {
        ad_context *ctx = ad_open(&(ad_options){.threads = threads});
        ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(ROWS, COLUMNS), x);
        ad_tensor row = ad_slice(ctx, t, 0, 3, 4, 1), gate = ad_slice(ctx, t, 1, 0, 1, 1);
        ad_tensor y = ad_mul(ctx, ad_silu(ctx, ad_add(ctx, t, row)), ad_sin(ctx, gate));
        cr_assert(ad_read(ctx, y, threads == 1 ? first : again, sizeof first), "%s",
                  ad_error_text(ctx));
        cr_expect(threads == 1 || !memcmp(first, again, sizeof first), "%d threads", threads);
        ad_close(ctx);
    }
}

Test(elementwise, results_beyond_the_cache) {
    enum { MANY = (36 << 20) / 4 }; // streamed past the caches, with an odd end
    ad_context *ctx = ad_open(NULL);
    ad_tensor i = ad_range(ctx, AD_U32, MANY + 5);
    ad_tensor end = ad_slice(ctx, ad_add(ctx, i, i), 0, MANY - 20000, MANY + 5, 1);
    static uint32_t y[20005];
    cr_assert(ad_read(ctx, end, y, sizeof y), "%s", ad_error_text(ctx));
    for (uint32_t k = 0; k < 20005; k++)
        cr_assert(y[k] == 2 * (MANY - 20000 + k), "element %u of the end: %u", k, y[k]);
    ad_close(ctx);
}

// The first and the last of many elements, computed among the many and by themselves.
static void check_streamed(ad_context *ctx, const char *name, ad_tensor many, ad_tensor first,
                           ad_tensor last) {
    enum { SOME = 4099 };
    static uint32_t y[2][SOME];
    const int64_t count = ad_shape_of(ctx, many).size[0];
    const ad_tensor alone[] = {first, last};
    for (int part = 0; part < 2; part++) {
        const int64_t from = part ? count - SOME : 0;
        ad_read(ctx, ad_slice(ctx, many, 0, from, from + SOME, 1), y[0], sizeof y[0]);
        cr_assert(ad_read(ctx, alone[part], y[1], sizeof y[1]), "%s", ad_error_text(ctx));
        for (int i = 0; i < SOME; i++)
            cr_assert(y[0][i] == y[1][i], "%s, part %d, element %d: bits %x streamed, %x alone",
                      name, part, i, y[0][i], y[1][i]);
    }
}

Test(elementwise, streamed_bits_are_those_of_small_calls) {
    enum { MANY = (17 << 20) / 4 + 5, SOME = 4099 };
    static const struct {
        const char *name;
        ad_tensor (*f)(ad_context *ctx, ad_tensor a, ad_tensor b);
    } pairs[] = {{"add", ad_add}, {"sub", ad_sub}, {"mul", ad_mul}, {"div", ad_div},
                 {"pow", ad_pow}, {"minimum", ad_minimum}, {"maximum", ad_maximum}};
    ad_context *ctx = ad_open(&(ad_options){.threads = 2, .seed = 5});
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        ad_scope_begin(ctx, cases[c].name);
        ad_tensor x = ad_uniform(ctx, AD_F32, AD_SHAPE(MANY), cases[c].low, cases[c].high);
        ad_tensor first = ad_slice(ctx, x, 0, 0, SOME, 1);
        ad_tensor last = ad_slice(ctx, x, 0, MANY - SOME, MANY, 1);
        check_streamed(ctx, cases[c].name, cases[c].f(ctx, x), cases[c].f(ctx, first),
                       cases[c].f(ctx, last));
        ad_scope_end(ctx);
    }
    for (size_t c = 0; c < sizeof pairs / sizeof *pairs; c++) {
        ad_scope_begin(ctx, pairs[c].name);
        ad_tensor x[2][3]; // all, the first, the last
        for (int k = 0; k < 2; k++) {
            x[k][0] = ad_uniform(ctx, AD_F32, AD_SHAPE(MANY), 0.5, 3);
            x[k][1] = ad_slice(ctx, x[k][0], 0, 0, SOME, 1);
            x[k][2] = ad_slice(ctx, x[k][0], 0, MANY - SOME, MANY, 1);
        }
        ad_tensor one = ad_scalar(ctx, AD_F32, 1.7);
        for (int layout = 0; layout < 3; layout++) { // arrays, a scalar on the right, on the left
            ad_tensor y[3];
            for (int part = 0; part < 3; part++)
                y[part] = pairs[c].f(ctx, layout == 2 ? one : x[0][part],
                                     layout == 1 ? one : x[1][part]);
            check_streamed(ctx, pairs[c].name, y[0], y[1], y[2]);
        }
        ad_scope_end(ctx);
    }
    // One number in the place of all operands.
    ad_tensor one = ad_scalar(ctx, AD_F32, 1.7);
    ad_tensor all = ad_broadcast(ctx, one, AD_SHAPE(MANY));
    ad_tensor some = ad_broadcast(ctx, one, AD_SHAPE(SOME));
    check_streamed(ctx, "exp of one", ad_exp(ctx, all), ad_exp(ctx, some), ad_exp(ctx, some));
    ad_tensor sum = ad_add(ctx, some, some);
    check_streamed(ctx, "add of one", ad_add(ctx, all, all), sum, sum);
    ad_close(ctx);
}

/* ---- integers and masks */

Test(elementwise, integers) {
    ad_context *ctx = ad_open(NULL);
    int32_t a[4] = {INT32_MAX, -7, -9, 5}, b[4] = {1, 2, 33, 31}, y[4];
    ad_tensor x = ad_from(ctx, AD_I32, AD_SHAPE(4), a), z = ad_from(ctx, AD_I32, AD_SHAPE(4), b);
    ad_read(ctx, ad_add(ctx, x, z), y, 16);
    cr_expect(y[0] == INT32_MIN && y[1] == -5 && y[2] == 24 && y[3] == 36);
    ad_read(ctx, ad_shift_right(ctx, x, z), y, 16);
    cr_expect(y[0] == INT32_MAX / 2 && y[1] == -2 && y[2] == -1 && y[3] == 0);
    ad_read(ctx, ad_shift_left(ctx, x, z), y, 16);
    cr_expect(y[0] == -2 && y[1] == -28 && y[2] == 0 && y[3] == INT32_MIN);
    ad_read(ctx, ad_minimum(ctx, x, z), y, 16);
    cr_expect(y[0] == 1 && y[1] == -7 && y[2] == -9 && y[3] == 5);
    ad_read(ctx, ad_bit_xor(ctx, x, z), y, 16);
    cr_expect(y[0] == (INT32_MAX ^ 1) && y[1] == (-7 ^ 2) && y[2] == (-9 ^ 33) && y[3] == (5 ^ 31));
    uint32_t wide[3] = {0x80000001u, 0x80000001u, 7}, by[3] = {31, 33, 0x80000000u};
    ad_tensor u = ad_from(ctx, AD_U32, AD_SHAPE(3), wide);
    ad_tensor v = ad_from(ctx, AD_U32, AD_SHAPE(3), by);
    ad_read(ctx, ad_shift_right(ctx, u, v), wide, 12);
    cr_expect(wide[0] == 1 && wide[1] == 0 && wide[2] == 0);
    ad_read(ctx, ad_shift_left(ctx, u, v), wide, 12);
    cr_expect(wide[0] == 0x80000000u && wide[1] == 0 && wide[2] == 0);
    uint32_t mask[4];
    ad_read(ctx, ad_less(ctx, x, z), mask, 16);
    cr_expect(mask[0] == 0 && mask[1] == 1 && mask[2] == 1 && mask[3] == 1);
    ad_read(ctx, ad_where(ctx, ad_less(ctx, x, z), x, z), y, 16);
    cr_expect(y[0] == 1 && y[1] == -7 && y[2] == -9 && y[3] == 5);
    cr_expect(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_expect(ad_is_null(ad_exp(ctx, x)) && strstr(ad_error_text(ctx), "i32"));
    ad_error_clear(ctx);
    cr_expect(ad_is_null(ad_add(ctx, x, ad_zeros(ctx, 4))) && strstr(ad_error_text(ctx), "cast"));
    ad_close(ctx);
}

Test(elementwise, not_a_number) {
    ad_context *ctx = ad_open(NULL);
    float x[3] = {NAN, INFINITY, 1}, y[3];
    uint32_t finite[3];
    ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(3), x), one = ad_ones(ctx, 3);
    ad_read(ctx, ad_isfinite(ctx, t), finite, 12);
    cr_expect(!finite[0] && !finite[1] && finite[2]);
    ad_tensor through[] = {ad_relu(ctx, t), ad_minimum(ctx, t, one), ad_maximum(ctx, one, t),
                           ad_minimum(ctx, one, t), ad_clamp(ctx, t, 0, 1), ad_sign(ctx, t)};
    for (size_t i = 0; i < sizeof through / sizeof *through; i++) {
        ad_read(ctx, through[i], y, 12);
        cr_expect(isnan(y[0]) && !isnan(y[1]), "case %zu: %g %g", i, y[0], y[1]);
    }
    ad_close(ctx);
}

/* ---- ties, kinks, and the cotangent of zero */

static void gradient_at(ad_context *ctx, unary f, double x, double dy, double expected,
                        const char *what) {
    ad_tensor leaf = ad_watch(ctx, ad_scalar(ctx, AD_F64, x)), dx;
    ad_grad(ctx, f(ctx, leaf), ad_scalar(ctx, AD_F64, dy), 1, &leaf, &dx, 0);
    double found = ad_item(ctx, dx);
    cr_expect(found == expected, "%s at %g: slope %g, not %g (%s)", what, x, found, expected,
              ad_error_text(ctx));
}

static ad_tensor masked_sqrt(ad_context *ctx, ad_tensor x) { // sqrt(x) where x > 1, else x
    ad_tensor large = ad_greater(ctx, x, ad_scalar(ctx, AD_F64, 1));
    return ad_where(ctx, large, ad_sqrt(ctx, x), x);
}
static ad_tensor masked_log(ad_context *ctx, ad_tensor x) {
    return ad_where(ctx, ad_isfinite(ctx, ad_log(ctx, x)), ad_log(ctx, x), x);
}

Test(elementwise, kinks_and_zero_cotangents) {
    ad_context *ctx = ad_open(NULL);
    gradient_at(ctx, ad_relu, 0, 1, 0, "relu");
    gradient_at(ctx, ad_abs, 0, 1, 0, "abs");
    gradient_at(ctx, leaky, 0, 1, 0.01, "leaky_relu");
    gradient_at(ctx, clamp, -1, 1, 1, "clamp");
    gradient_at(ctx, clamp, 2, 1, 1, "clamp");
    gradient_at(ctx, clamp, 2.001, 1, 0, "clamp");
    gradient_at(ctx, ad_floor, 1.5, 1, 0, "floor");
    gradient_at(ctx, ad_sqrt, 0, 0, 0, "sqrt, cotangent 0");
    gradient_at(ctx, ad_log, 0, 0, 0, "log, cotangent 0");
    gradient_at(ctx, ad_reciprocal, 0, 0, 0, "reciprocal, cotangent 0");
    gradient_at(ctx, ad_exp, 1000, 0, 0, "exp, cotangent 0");
    gradient_at(ctx, masked_sqrt, 0, 1, 1, "masked sqrt");
    gradient_at(ctx, masked_sqrt, -1, 1, 1, "masked sqrt");
    gradient_at(ctx, masked_log, 0, 1, 1, "masked log");
    gradient_at(ctx, masked_log, -1, 1, 1, "masked log");

    double zero = 0, ones[2] = {2, 2}, half[2];
    ad_tensor a = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(1), ones));
    ad_tensor b = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(1), ones)), d[2];
    ad_grad(ctx, ad_maximum(ctx, a, b), (ad_tensor){0}, 2, (ad_tensor[]){a, b}, d, 0);
    ad_read(ctx, d[0], half, 8), ad_read(ctx, d[1], half + 1, 8);
    cr_expect(half[0] == 0.5 && half[1] == 0.5, "tie: %g and %g", half[0], half[1]);

    ad_tensor base = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(1), &zero));
    ad_tensor exponent = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(1), &zero));
    ad_tensor power = ad_pow(ctx, base, exponent);
    ad_grad(ctx, power, (ad_tensor){0}, 2, (ad_tensor[]){base, exponent}, d, 0);
    cr_expect(ad_item(ctx, power) == 1 && ad_item(ctx, d[0]) == 0 && ad_item(ctx, d[1]) == 0);
    ad_close(ctx);
}
