// Checking the derivative rules of a function of tensors, in f64: the gradient for a random
// cotangent against central differences, the forward mode against the reverse one, and the
// gradient of a gradient against central differences of the gradient.

#ifndef ADJOINT_TESTS_RULES_H
#define ADJOINT_TESTS_RULES_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/autodiff.h"

enum { RULES_ELEMENTS = 512, RULES_INPUTS = 4 };

typedef struct rules_input {
    ad_shape shape;
    double value[RULES_ELEMENTS];
} rules_input;

typedef struct rules {
    ad_tensor (*f)(ad_context *ctx, const ad_tensor *x, const void *user);
    const void *user;
    int inputs;
    rules_input input[RULES_INPUTS];
    uint64_t state;
    bool kinked;            // leave the gradient of the gradient out
} rules;

static inline double rules_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 9007199254740992.0 * 2 - 1;
}

static inline int64_t rules_count(ad_shape shape) {
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    cr_assert(count <= RULES_ELEMENTS);
    return count;
}

static inline void rules_fill(rules *r, int i, ad_shape shape, double scale) {
    r->input[i].shape = shape;
    if (r->inputs <= i) r->inputs = i + 1;
    for (int64_t k = 0; k < rules_count(shape); k++)
        r->input[i].value[k] = scale * rules_random(&r->state);
}

static inline ad_tensor rules_noise(ad_context *ctx, ad_shape shape, uint64_t seed) {
    double value[RULES_ELEMENTS];
    for (int64_t k = 0; k < rules_count(shape); k++) value[k] = rules_random(&seed);
    return ad_from(ctx, AD_F64, shape, value);
}

static inline double rules_dot(ad_context *ctx, ad_tensor a, ad_tensor b) {
    if (ad_is_null(a) || ad_is_null(b)) return 0;
    return ad_item(ctx, ad_sum(ctx, ad_mul(ctx, a, b), AD_ALL_AXES, false));
}

// <w, f(x)>, and where gradient is not NULL <u, d<w, f>/dx> instead.
static inline double rules_value(ad_context *ctx, const rules *r, bool gradient) {
    ad_tensor x[RULES_INPUTS], dx[RULES_INPUTS];
    double value = 0;
    ad_scope_begin(ctx, "value");
    for (int i = 0; i < r->inputs; i++)
        x[i] = ad_watch(ctx, ad_from(ctx, AD_F64, r->input[i].shape, r->input[i].value));
    ad_tensor y = r->f(ctx, x, r->user), w = rules_noise(ctx, ad_shape_of(ctx, y), 7);
    if (gradient) {
        ad_grad(ctx, y, w, r->inputs, x, dx, 0);
        for (int i = 0; i < r->inputs; i++)
            value += rules_dot(ctx, dx[i], rules_noise(ctx, r->input[i].shape, 100 + (uint64_t)i));
    } else {
        value = rules_dot(ctx, y, w);
    }
    ad_scope_end(ctx);
    return value;
}

static inline void rules_differences(ad_context *ctx, rules *r, bool gradient,
                                     double (*given)[RULES_ELEMENTS], const char *name) {
    for (int i = 0; i < r->inputs; i++) {
        double scale = 1;
        for (int64_t k = 0; k < rules_count(r->input[i].shape); k++)
            scale = fmax(scale, fabs(given[i][k]));
        for (int64_t k = 0; k < rules_count(r->input[i].shape); k++) {
            double *x = &r->input[i].value[k], middle = *x, h = 1e-5;
            *x = middle + h;
            double above = rules_value(ctx, r, gradient);
            *x = middle - h;
            double below = rules_value(ctx, r, gradient), slope = (above - below) / (2 * h);
            *x = middle;
            cr_assert(fabs(slope - given[i][k]) <= 2e-7 * scale,
                      "%s: %s of input %d, element %d: rule %.12g, differences %.12g", name,
                      gradient ? "second derivative" : "derivative", i, (int)k, given[i][k], slope);
        }
    }
}

static inline void rules_check(rules *r, const char *name) {
    static double given[RULES_INPUTS][RULES_ELEMENTS];
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_tensor x[RULES_INPUTS], dx[RULES_INPUTS], ddx[RULES_INPUTS], dual[RULES_INPUTS];
    for (int i = 0; i < r->inputs; i++)
        x[i] = ad_watch(ctx, ad_from(ctx, AD_F64, r->input[i].shape, r->input[i].value));
    ad_tensor y = r->f(ctx, x, r->user), w = rules_noise(ctx, ad_shape_of(ctx, y), 7);
    ad_grad(ctx, y, w, r->inputs, x, dx, AD_GRAD_RECORD);
    cr_assert(!ad_failed(ctx), "%s: %s", name, ad_error_text(ctx));
    for (int i = 0; i < r->inputs; i++)
        ad_read(ctx, dx[i], given[i], (size_t)rules_count(r->input[i].shape) * sizeof(double));
    rules_differences(ctx, r, false, given, name);
    // Forward against reverse.
    double reverse = 0;
    for (int i = 0; i < r->inputs; i++) {
        ad_tensor v = rules_noise(ctx, r->input[i].shape, 40 + (uint64_t)i);
        reverse += rules_dot(ctx, v, dx[i]);
        dual[i] = ad_dual(ctx, ad_from(ctx, AD_F64, r->input[i].shape, r->input[i].value), v);
    }
    double forward = rules_dot(ctx, ad_tangent(ctx, r->f(ctx, dual, r->user)), w);
    cr_assert(!ad_failed(ctx), "%s: %s", name, ad_error_text(ctx));
    cr_assert(fabs(forward - reverse) <= 1e-11 * (1 + fabs(reverse)),
              "%s: forward mode %.15g, reverse mode %.15g", name, forward, reverse);
    // The gradient of <u, gradient>.
    if (!r->kinked) {
        ad_tensor total = {0};
        for (int i = 0; i < r->inputs; i++) {
            ad_tensor u = rules_noise(ctx, r->input[i].shape, 100 + (uint64_t)i);
            ad_tensor term = ad_sum(ctx, ad_mul(ctx, dx[i], u), AD_ALL_AXES, false);
            total = i ? ad_add(ctx, total, term) : term;
        }
        ad_grad(ctx, total, (ad_tensor){0}, r->inputs, x, ddx, 0);
        // A function that is linear has a gradient that depends on nothing.
        if (ad_failed(ctx)) {
            cr_assert(strstr(ad_error_text(ctx), "derives from no parameter"), "%s: %s", name,
                      ad_error_text(ctx));
            ad_error_clear(ctx);
        } else {
            for (int i = 0; i < r->inputs; i++)
                ad_read(ctx, ddx[i], given[i],
                        (size_t)rules_count(r->input[i].shape) * sizeof(double));
            rules_differences(ctx, r, true, given, name);
        }
    }
    cr_assert(!ad_failed(ctx), "%s: %s", name, ad_error_text(ctx));
    ad_close(ctx);
}

#endif
