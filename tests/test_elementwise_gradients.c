/* Derivatives of every line of elementwise.def, in f64, on random points of its own domain: reverse
 * mode against central differences and against forward mode, then the second derivative. The test
 * harness asks more of all operations; this one is small enough to debug with. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { COUNT_MAX = 64, OPERANDS = 3 };

#define AD_UNARY(NAME, ...) extern const ad_op ad_op_##NAME;
#define AD_UNARY_WITH AD_UNARY
#define AD_BINARY_WRAPPING AD_UNARY
#define AD_BINARY_ORDERED AD_UNARY
#define AD_BINARY AD_UNARY
#include "autodiff/ops/elementwise.def"
#undef AD_UNARY
extern const ad_op ad_op_where, ad_op_dropout;

static const ad_op *const ops[] = {
#define AD_UNARY(NAME, ...) &ad_op_##NAME,
#include "autodiff/ops/elementwise.def"
    &ad_op_where, &ad_op_dropout};
#undef AD_UNARY

static double draw(uint64_t *state, double low, double high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 11) * 0x1p-53;
}

static double away(uint64_t *state, double low, double high, double kink) {
    for (;;) {
        double value = draw(state, low, high);
        if (!kink || fabs(value - kink * round(value / kink)) > 0.05) return value;
    }
}

typedef struct point {
    const ad_op *op;
    ad_sample sample;
    int64_t count[OPERANDS], outputs;
    double x[OPERANDS][COUNT_MAX], v[OPERANDS][COUNT_MAX], u[OPERANDS][COUNT_MAX];
    double w[COUNT_MAX];
} point;

static bool differentiable(const point *p, int i) { return p->sample.input[i].type == AD_F64; }

static bool point_make(point *p, const ad_op *op, ad_shape shape, int variant, uint64_t *state) {
    *p = (point){.op = op};
    p->sample.shape = shape, p->sample.type = AD_F64, p->sample.variant = variant;
    if (!op->sample(&p->sample)) return false;
    for (int i = 0; i < p->sample.inputs; i++) {
        ad_shape s = p->sample.input[i].shape;
        p->count[i] = 1;
        for (int axis = 0; axis < s.rank; axis++) p->count[i] *= s.size[axis];
        for (int64_t j = 0; j < p->count[i]; j++) {
            p->x[i][j] = away(state, p->sample.input[i].low, p->sample.input[i].high,
                              p->sample.input[i].kink);
            if (!differentiable(p, i)) p->x[i][j] = round(p->x[i][j]);
            p->v[i][j] = draw(state, -1, 1), p->u[i][j] = draw(state, -1, 1);
        }
    }
    for (int j = 0; j < COUNT_MAX; j++) p->w[j] = draw(state, -1, 1);
    return true;
}

// The operands at x + h v; integers as they are.
static void operands(ad_context *ctx, const point *p, double h, ad_tensor *x) {
    for (int i = 0; i < p->sample.inputs; i++) {
        double value[COUNT_MAX];
        for (int64_t j = 0; j < p->count[i]; j++)
            value[j] = p->x[i][j] + (differentiable(p, i) ? h * p->v[i][j] : 0);
        x[i] = ad_from(ctx, AD_F64, p->sample.input[i].shape, value);
        if (!differentiable(p, i)) x[i] = ad_cast(ctx, x[i], AD_U32);
    }
}

static ad_tensor apply(ad_context *ctx, const point *p, const ad_tensor *x) {
    return ad_apply1(ctx, p->op, p->sample.inputs, x, p->sample.attributes.bytes);
}

static ad_tensor weights(ad_context *ctx, const point *p, ad_tensor y) {
    return ad_from(ctx, AD_F64, ad_shape_of(ctx, y), p->w);
}

static ad_tensor dot(ad_context *ctx, ad_tensor a, ad_tensor b) {
    return ad_sum(ctx, ad_mul(ctx, a, b), AD_ALL_AXES, false);
}

// <w, f(x + h v)>
static double weighted(ad_context *ctx, const point *p, double h) {
    ad_scope_begin(ctx, "weighted");
    ad_tensor x[OPERANDS];
    operands(ctx, p, h, x);
    ad_tensor y = apply(ctx, p, x);
    double value = ad_item(ctx, dot(ctx, y, weights(ctx, p, y)));
    ad_scope_end(ctx);
    return value;
}

// The gradient g of <w, f> at x + h v, as <g, u>; with `second`, <H u, v>.
static double gradient_along(ad_context *ctx, const point *p, double h, bool second,
                             bool direction_v) {
    ad_scope_begin(ctx, "gradient");
    ad_tensor x[OPERANDS], leaf[OPERANDS], g[OPERANDS], hessian[OPERANDS], sum = {0}, all = {0};
    int n = 0, at[OPERANDS];
    operands(ctx, p, h, x);
    for (int i = 0; i < p->sample.inputs; i++)
        if (differentiable(p, i)) at[n] = i, leaf[n++] = x[i] = ad_watch(ctx, x[i]);
    ad_tensor y = apply(ctx, p, x);
    ad_grad(ctx, y, weights(ctx, p, y), n, leaf, g, second ? AD_GRAD_RECORD : 0);
    for (int k = 0; k < n; k++) {
        const double *to = direction_v ? p->v[at[k]] : p->u[at[k]];
        ad_tensor term = dot(ctx, g[k], ad_from(ctx, AD_F64, ad_shape_of(ctx, leaf[k]), to));
        sum = k ? ad_add(ctx, sum, term) : term;
    }
    // A leaf that is added once keeps the gradient on the tape where the rules are constant.
    for (int k = 0; k < n && second; k++)
        sum = ad_add(ctx, sum, ad_sum(ctx, leaf[k], AD_ALL_AXES, false));
    if (second) ad_grad(ctx, sum, (ad_tensor){0}, n, leaf, hessian, 0);
    for (int k = 0; k < n && second; k++) {
        ad_tensor direction = ad_from(ctx, AD_F64, ad_shape_of(ctx, leaf[k]), p->v[at[k]]);
        ad_tensor term = dot(ctx, ad_affine(ctx, hessian[k], 1, -1), direction);
        all = k ? ad_add(ctx, all, term) : term;
    }
    double value = ad_item(ctx, second ? all : sum);
    ad_scope_end(ctx);
    return value;
}

static double forward_mode(ad_context *ctx, const point *p) {
    ad_scope_begin(ctx, "forward");
    ad_tensor x[OPERANDS];
    operands(ctx, p, 0, x);
    for (int i = 0; i < p->sample.inputs; i++)
        if (differentiable(p, i))
            x[i] = ad_dual(ctx, x[i], ad_from(ctx, AD_F64, ad_shape_of(ctx, x[i]), p->v[i]));
    ad_tensor y = apply(ctx, p, x), dy = ad_tangent(ctx, y);
    double value = dy.slot ? ad_item(ctx, dot(ctx, dy, weights(ctx, p, y))) : 0;
    ad_scope_end(ctx);
    return value;
}

static void check(ad_context *ctx, const point *p, const char *shape) {
    const char *name = p->op->name;
    int variant = p->sample.variant;
    double h = 1e-5, scale = 1;
    double reverse = gradient_along(ctx, p, 0, false, true), tangent = forward_mode(ctx, p);
    double central = (weighted(ctx, p, h) - weighted(ctx, p, -h)) / (2 * h);
    scale += fabs(reverse);
    cr_expect(fabs(reverse - tangent) < 1e-11 * scale, "%s, %s, variant %d: reverse %.15g, forward "
              "%.15g", name, shape, variant, reverse, tangent);
    cr_expect(fabs(reverse - central) < 1e-7 * scale, "%s, %s, variant %d: reverse %.12g, central "
              "difference %.12g", name, shape, variant, reverse, central);
    double second = gradient_along(ctx, p, 0, true, false);
    double change = (gradient_along(ctx, p, h, false, false)
                     - gradient_along(ctx, p, -h, false, false)) / (2 * h);
    scale += fabs(second);
    cr_expect(fabs(second - change) < 1e-7 * scale, "%s, %s, variant %d: second derivative %.12g, "
              "central difference %.12g", name, shape, variant, second, change);
    cr_expect(!ad_failed(ctx), "%s, %s, variant %d: %s", name, shape, variant, ad_error_text(ctx));
    ad_error_clear(ctx);
}

Test(elementwise, derivatives) {
    static const struct {
        const char *name;
        ad_shape shape;
    } shapes[] = {{"()", {0, {0}}}, {"(5)", {1, {5}}}, {"(3, 4)", {2, {3, 4}}},
                  {"(2, 1, 3)", {3, {2, 1, 3}}}, {"(2, 0)", {2, {2, 0}}}};
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    uint64_t state = 5;
    int checked = 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int variant = 0; variant < 10; variant++) {
                point p;
                if (!point_make(&p, ops[i], shapes[s].shape, variant, &state)) break;
                check(ctx, &p, shapes[s].name);
                checked++;
            }
    cr_expect(checked > 350, "only %d points", checked);
    ad_close(ctx);
}

/* ---- rules that write over cotangents */

typedef ad_tensor (*unary)(ad_context *ctx, ad_tensor x);
typedef ad_tensor (*binary)(ad_context *ctx, ad_tensor a, ad_tensor b);

static ad_tensor leaky(ad_context *ctx, ad_tensor x) { return ad_leaky_relu(ctx, x, 0.1); }
static ad_tensor elu(ad_context *ctx, ad_tensor x) { return ad_elu(ctx, x, 1.3); }
static ad_tensor affine(ad_context *ctx, ad_tensor x) { return ad_affine(ctx, x, 1.5, 2); }
static ad_tensor clamped(ad_context *ctx, ad_tensor x) { return ad_clamp(ctx, x, 0.6, 1.1); }
static ad_tensor chosen(ad_context *ctx, ad_tensor a, ad_tensor b) {
    return ad_where(ctx, ad_less(ctx, a, b), a, b);
}

enum { SPENT_COUNT = 6 };

// The gradients of 3 f(a, b) twice: the cotangent of f is nobody else's, so the rule may write over
// it; and recorded, where nothing is written over. They must have the same bits.
static void check_spent(const char *name, unary f, binary g, bool twice, ad_shape second) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2, .poison = true});
    float results[2][2][SPENT_COUNT];
    const float values[2][SPENT_COUNT] = {{0.5f, 0.8f, 1.2f, 0.7f, 0.9f, 1.0f},
                                          {0.6f, 0.7f, 0.9f, 0.7f, 1.3f, 0.4f}};
    for (int pass = 0; pass < 2; pass++) {
        ad_tensor x[2], dx[2];
        x[0] = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(2, 3), values[0]));
        x[1] = twice ? x[0] : ad_watch(ctx, ad_from(ctx, AD_F32, second, values[1]));
        ad_tensor y = f ? ad_add(ctx, f(ctx, x[0]), ad_affine(ctx, f(ctx, x[1]), 0.5, 0))
                        : g(ctx, x[0], x[1]);
        ad_tensor z = ad_affine(ctx, y, 3, 0), dz = ad_ones(ctx, 2, 3);
        ad_grad(ctx, z, dz, 2, x, dx, pass ? AD_GRAD_RECORD : 0);
        for (int i = 0; i < 2; i++)
            ad_read(ctx, dx[i], results[pass][i], (size_t)ad_count(ctx, dx[i]) * sizeof(float));
        cr_assert_not(ad_failed(ctx), "%s: %s", name, ad_error_text(ctx));
        for (int i = 0; i < 2 && pass; i++)
            cr_assert_eq(memcmp(results[0][i], results[1][i],
                                (size_t)ad_count(ctx, dx[i]) * sizeof(float)), 0,
                         "%s: operand %d: %g, recorded %g", name, i, (double)results[0][i][0],
                         (double)results[1][i][0]);
    }
    ad_close(ctx);
}

Test(elementwise, a_rule_that_writes_over_its_cotangent_has_the_same_bits) {
#define U(NAME) {#NAME, ad_##NAME, NULL}
#define B(NAME) {#NAME, NULL, ad_##NAME}
    static const struct {
        const char *name;
        unary f;
        binary g;
    } cases[] = {
        U(neg), U(exp), U(expm1), U(log), U(log1p), U(sqrt), U(rsqrt), U(square), U(reciprocal),
        U(abs), U(sin), U(cos), U(tanh), U(erf), U(sigmoid), U(softplus), U(relu), U(gelu),
        U(silu), {"leaky_relu", leaky, NULL}, {"elu", elu, NULL}, {"affine", affine, NULL},
        {"clamp", clamped, NULL}, B(add), B(sub), B(mul), B(minimum), B(maximum), B(div), B(pow),
        B(mod), B(chain_mul), B(chain_div), B(gate), {"where", NULL, chosen}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        check_spent(cases[c].name, cases[c].f, cases[c].g, false, AD_SHAPE(2, 3));
        check_spent(cases[c].name, cases[c].f, cases[c].g, true, AD_SHAPE(2, 3));
        check_spent(cases[c].name, cases[c].f, cases[c].g, false, AD_SHAPE(3));
    }
}

Test(elementwise, a_chain_of_rules_needs_one_cotangent) {
    enum { COUNT = 1 << 16, LINKS = 8 };
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    ad_tensor x = ad_watch(ctx, ad_uniform(ctx, AD_F32, AD_SHAPE(COUNT), -1, 1)), y = x, dx;
    for (int i = 0; i < LINKS; i++) y = ad_sin(ctx, ad_affine(ctx, y, 0.5, 1));
    ad_tensor dy = ad_ones(ctx, COUNT);
    ad_tensor kept = ad_affine(ctx, dy, 1, 0); // a caller's cotangent is never written over
    const size_t before = ad_memory_read(ctx).live_bytes;
    ad_memory_peak_reset(ctx);
    ad_grad(ctx, y, dy, 1, &x, &dx, 0);
    const size_t more = ad_memory_read(ctx).peak_bytes - before;
    cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
    // The first rule's own, and the cosine beside it.
    cr_assert_leq(more, 2 * COUNT * sizeof(float) + 4096, "%zu bytes", more);
    cr_assert_eq(ad_item(ctx, ad_sum(ctx, ad_sub(ctx, dy, kept), AD_ALL_AXES, false)), 0);
    ad_close(ctx);
}
