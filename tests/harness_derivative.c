/* Checks of derivatives, in f64 but for the fused ones.
 *
 * For a loss L(x) = <w, f(x)> with random w: the gradient against central differences, the gradient
 * of <u, gradient> against differences of gradients, tangents against cotangents, tangents through
 * gradients, and how fast Taylor's remainders fall. A difference that straddles a kink is told by
 * its two sides, counted and passed over. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COMPONENTS = 12, SECOND_COMPONENTS = 5, HALVINGS = 10 };

static double direction(const harness_case *c, int i, int64_t k) {
    uint64_t state = c->seed * 31 + (uint64_t)i * 1000003u + (uint64_t)k;
    double v = (float)harness_random(&state);
    return v < 0 ? v - .1 : v + .1;
}

static ad_tensor direction_tensor(ad_context *ctx, const harness_case *c, int i) {
    double *v = malloc(sizeof(double) * (size_t)(c->count[i] + 1));
    for (int64_t k = 0; k < c->count[i]; k++) v[k] = direction(c, i, k);
    ad_tensor x = ad_from(ctx, AD_F64, c->sample.input[i].shape, v);
    free(v);
    return ad_cast(ctx, x, c->sample.input[i].type);
}

// L at the case's values, by hand; scale: the sum of |w f|.
static bool loss_at(harness *h, const harness_case *c, double *loss, double *scale) {
    ad_tensor in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX];
    ad_scope_begin(h->ctx, "value");
    for (int i = 0; i < c->sample.inputs; i++) in[i] = harness_input(h->ctx, c, i);
    harness_apply(h->ctx, c, in, out);
    *loss = *scale = 0;
    for (int j = 0; j < c->op->outputs && !ad_failed(h->ctx); j++) {
        if (!out[j].slot || !harness_real(ad_type_of(h->ctx, out[j]))) continue;
        int64_t count;
        double *y = harness_values(h->ctx, out[j], &count);
        for (int64_t k = 0; k < count && y; k++) {
            double term = harness_weight(c, j, k) * y[k];
            if (isfinite(term)) *loss += term, *scale += fabs(term);
        }
        free(y);
    }
    ad_scope_end(h->ctx);
    return harness_sound(h, c);
}

static double largest(harness *h, ad_tensor x) {
    int64_t n;
    double *v = harness_values(h->ctx, x, &n), most = 0;
    for (int64_t k = 0; k < n && v; k++) most = fmax(most, fabs(v[k]));
    free(v);
    return most;
}

/* ---- first order */

static void differences(harness *h, const harness_case *c, int i, ad_tensor dx, double scale) {
    const double step = 1e-5;
    int64_t count;
    double *g = harness_values(h->ctx, dx, &count), middle, at, sum;
    if (!g || !harness_sound(h, c) || !loss_at(h, c, &middle, &sum)) {
        free(g);
        return;
    }
    int64_t stride = count > COMPONENTS ? count / COMPONENTS : 1;
    for (int64_t k = 0; k < count; k += stride) {
        double side[2];
        for (int s = 0; s < 2; s++) {
            double old = c->value[i][k];
            c->value[i][k] = old + (s ? -step : step);
            bool good = loss_at(h, c, &at, &sum);
            c->value[i][k] = old;
            side[s] = s ? (middle - at) / step : (at - middle) / step;
            if (!good) break;
        }
        double numeric = (side[0] + side[1]) / 2;
        double tolerance = 1e-6 * scale + 1e-8 * sum + 1e-9;
        if (fabs(numeric - g[k]) > tolerance
            && fabs(side[0] - side[1]) > 1e-3 * (fabs(side[0]) + fabs(side[1])) + 1e-4) {
            h->kinks++;
            continue;
        }
        harness_near(h, c, i, k, g[k], numeric, tolerance);
    }
    free(g);
}

void harness_check_gradient(harness *h, const harness_case *c) {
    ad_tensor in[AD_INPUTS_MAX], dx[AD_INPUTS_MAX];
    if (!harness_gradient(h, c, in, dx, 0)) return;
    double scale = 0;
    for (int i = 0; i < c->sample.inputs; i++)
        if (dx[i].slot) scale = fmax(scale, largest(h, dx[i]));
    for (int i = 0; i < c->sample.inputs; i++)
        if (dx[i].slot) differences(h, c, i, dx[i], scale);
    h->ran[h->category]++;
}

// Duals in all differentiable slots; each output's tangent, null for zero.
static bool tangents(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *out,
                     ad_tensor *tangent) {
    for (int i = 0; i < c->sample.inputs; i++) {
        in[i] = harness_input(h->ctx, c, i);
        if (harness_differentiable(c, i))
            in[i] = ad_dual(h->ctx, in[i], direction_tensor(h->ctx, c, i));
    }
    harness_apply(h->ctx, c, in, out);
    for (int j = 0; j < c->op->outputs && !ad_failed(h->ctx); j++)
        tangent[j] = out[j].slot ? ad_tangent(h->ctx, out[j]) : (ad_tensor){0};
    return harness_sound(h, c);
}

void harness_check_dot(harness *h, const harness_case *c) {
    ad_tensor in[AD_INPUTS_MAX], dx[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], t[AD_OUTPUTS_MAX];
    if (!harness_gradient(h, c, in, dx, 0)) return;
    double reverse = 0, forward = 0, scale = 1e-6;
    for (int i = 0; i < c->sample.inputs; i++) {
        int64_t count = 0;
        double *g = dx[i].slot ? harness_values(h->ctx, dx[i], &count) : NULL;
        for (int64_t k = 0; k < count && g; k++) {
            double term = g[k] * direction(c, i, k);
            reverse += term, scale += fabs(term);
        }
        free(g);
    }
    if (!tangents(h, c, in, out, t)) return;
    for (int j = 0; j < c->op->outputs; j++) {
        int64_t count = 0;
        double *y = t[j].slot ? harness_values(h->ctx, t[j], &count) : NULL;
        for (int64_t k = 0; k < count && y; k++) {
            double term = y[k] * harness_weight(c, j, k);
            forward += term, scale += fabs(term);
        }
        free(y);
    }
    if (!harness_sound(h, c)) return;
    harness_near(h, c, HARNESS_PRODUCT, 0, forward, reverse, 1e-11 * scale);
    h->ran[h->category]++;
}

/* ---- second order */

// <u, gradient> and, by reverse over reverse, its gradient; u is the direction.
static bool inner_product(harness *h, const harness_case *c, unsigned flags, ad_tensor *in,
                          ad_tensor *dx, ad_tensor *product) {
    if (!harness_gradient(h, c, in, dx, flags)) return false;
    *product = (ad_tensor){0};
    for (int i = 0; i < c->sample.inputs; i++) {
        if (!dx[i].slot) continue;
        ad_tensor term = ad_mul(h->ctx, dx[i], direction_tensor(h->ctx, c, i));
        term = ad_sum(h->ctx, term, AD_ALL_AXES, false);
        *product = product->slot ? ad_add(h->ctx, *product, term) : term;
    }
    return harness_sound(h, c);
}

static bool product_at(harness *h, const harness_case *c, double *value) {
    ad_tensor in[AD_INPUTS_MAX], dx[AD_INPUTS_MAX], product;
    ad_scope_begin(h->ctx, "gradient");
    bool good = inner_product(h, c, 0, in, dx, &product);
    if (good) *value = ad_item(h->ctx, product);
    ad_scope_end(h->ctx);
    return good && harness_sound(h, c);
}

// H u of the loss; null handles stand for zero.
static bool hessian_product(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *hu) {
    ad_tensor dx[AD_INPUTS_MAX], product, want[AD_INPUTS_MAX], got[AD_INPUTS_MAX];
    for (int i = 0; i < AD_INPUTS_MAX; i++) hu[i] = (ad_tensor){0};
    if (!inner_product(h, c, AD_GRAD_RECORD, in, dx, &product)) return false;
    if (!ad_is_tracked(h->ctx, product)) return true; // the gradient is constant
    int n = 0;
    for (int i = 0; i < c->sample.inputs; i++)
        if (dx[i].slot) want[n++] = in[i];
    ad_grad(h->ctx, product, (ad_tensor){0}, n, want, got, 0);
    if (!harness_sound(h, c)) return false;
    n = 0;
    for (int i = 0; i < c->sample.inputs; i++)
        if (dx[i].slot) hu[i] = got[n++];
    return true;
}

void harness_check_second(harness *h, const harness_case *c) {
    const double step = 1e-5;
    ad_tensor in[AD_INPUTS_MAX], hu[AD_INPUTS_MAX];
    double middle;
    if (!hessian_product(h, c, in, hu) || !product_at(h, c, &middle)) return;
    for (int i = 0; i < c->sample.inputs; i++) {
        if (!harness_differentiable(c, i)) continue;
        int64_t count = c->count[i], n = 0;
        int64_t stride = count > SECOND_COMPONENTS ? count / SECOND_COMPONENTS : 1;
        double *g = hu[i].slot ? harness_values(h->ctx, hu[i], &n) : NULL;
        double scale = hu[i].slot ? largest(h, hu[i]) : 0;
        for (int64_t k = 0; k < count; k += stride) {
            double old = c->value[i][k], at[2] = {0};
            for (int s = 0; s < 2; s++) {
                c->value[i][k] = old + (s ? -step : step);
                product_at(h, c, &at[s]);
            }
            c->value[i][k] = old;
            double numeric = (at[0] - at[1]) / (2 * step);
            double jump = fabs(at[0] - 2 * middle + at[1]) / step, got = g ? g[k] : 0;
            double tolerance = 2e-6 * fmax(scale, fabs(numeric)) + 1e-8 * fabs(middle) + 1e-8;
            if (fabs(numeric - got) > tolerance && jump > 1e-2 * fabs(numeric) + 1e-3) {
                h->kinks++;
                continue;
            }
            harness_near(h, c, i, k, got, numeric, tolerance);
        }
        free(g);
    }
    h->ran[h->category]++;
}

void harness_check_mixed(harness *h, const harness_case *c) {
    ad_tensor in[AD_INPUTS_MAX], hu[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], want[AD_INPUTS_MAX];
    ad_tensor dx[AD_INPUTS_MAX];
    if (!hessian_product(h, c, in, hu)) return;
    int n = 0, slot[AD_INPUTS_MAX];
    for (int i = 0; i < c->sample.inputs; i++) {
        in[i] = harness_input(h->ctx, c, i);
        if (!harness_differentiable(c, i)) continue;
        in[i] = ad_watch(h->ctx, ad_dual(h->ctx, in[i], direction_tensor(h->ctx, c, i)));
        want[n] = in[i], slot[n++] = i;
    }
    harness_apply(h->ctx, c, in, out);
    ad_tensor loss = harness_loss(h->ctx, c, out);
    if (!harness_sound(h, c) || !loss.slot || !ad_is_tracked(h->ctx, loss)) return;
    ad_grad(h->ctx, loss, (ad_tensor){0}, n, want, dx, 0);
    if (!harness_sound(h, c)) return;
    for (int j = 0; j < n; j++) {
        ad_tensor forward = ad_tangent(h->ctx, dx[j]), zero = ad_zeros_like(h->ctx, in[slot[j]]);
        ad_tensor reverse = hu[slot[j]].slot ? hu[slot[j]] : zero;
        if (!forward.slot) forward = zero;
        harness_close_to(h, c, slot[j], forward, reverse, 1e-10, largest(h, dx[j]) + 1e-6);
    }
    h->ran[h->category]++;
}

/* ---- Taylor: L(x + s v) = L + s <g, v> + s^2 / 2 <v, H v> + ... */

static bool loss_along(harness *h, const harness_case *c, double s, double *loss, double *scale) {
    double *old[AD_INPUTS_MAX] = {0};
    for (int i = 0; i < c->sample.inputs; i++) {
        if (!harness_differentiable(c, i)) continue;
        size_t bytes = sizeof(double) * (size_t)c->count[i];
        old[i] = malloc(bytes);
        memcpy(old[i], c->value[i], bytes);
        for (int64_t k = 0; k < c->count[i]; k++) c->value[i][k] += s * direction(c, i, k);
    }
    bool good = loss_at(h, c, loss, scale);
    for (int i = 0; i < c->sample.inputs; i++) {
        if (old[i]) memcpy(c->value[i], old[i], sizeof(double) * (size_t)c->count[i]);
        free(old[i]);
    }
    return good;
}

// The remainder must fall by 2^order at one halving at least, or be rounding. A kink close by
// spoils the wide steps only.
static void falls(harness *h, const harness_case *c, const double *remainder, int order,
                  double noise) {
    double best = 0, nearest = 1e9;
    for (int k = 0; k + 1 < HALVINGS; k++) {
        if (fabs(remainder[k + 1]) < noise) return;
        double slope = log2(fabs(remainder[k] / remainder[k + 1]));
        if (fabs(slope - order) < nearest) nearest = fabs(slope - order), best = slope;
        if (slope > order) nearest = 0; // the term of this order is absent
    }
    h->checks++;
    if (nearest > .1)
        harness_fault(h, c, "the remainder falls as step^%.3g where step^%d was expected "
                      "(the order of convergence)", best, order);
}

void harness_check_taylor(harness *h, const harness_case *c) {
    ad_tensor in[AD_INPUTS_MAX], dx[AD_INPUTS_MAX], hu[AD_INPUTS_MAX], product;
    double middle, scale, slope, curvature = 0, first[HALVINGS], second[HALVINGS];
    if (!inner_product(h, c, 0, in, dx, &product)) return;
    slope = ad_item(h->ctx, product);
    if (!hessian_product(h, c, in, hu) || !loss_at(h, c, &middle, &scale)) return;
    for (int i = 0; i < c->sample.inputs; i++) {
        int64_t count = 0;
        double *v = hu[i].slot ? harness_values(h->ctx, hu[i], &count) : NULL;
        for (int64_t k = 0; k < count && v; k++) curvature += v[k] * direction(c, i, k);
        free(v);
    }
    double noise = 1e-12 * (scale + fabs(slope) + fabs(curvature)) + 1e-15;
    for (int k = 0; k < HALVINGS; k++) {
        double s = .02 / (1 << k), at, sum;
        if (!loss_along(h, c, s, &at, &sum)) return;
        first[k] = at - middle - s * slope;
        second[k] = first[k] - s * s / 2 * curvature;
    }
    falls(h, c, first, 2, noise), falls(h, c, second, 3, noise);
    h->ran[h->category]++;
}

/* ---- fused rules */

void harness_check_fused(harness *h, const harness_case *c) {
    // The same operation without its fused rule takes the composition, or the plain rule.
    ad_op plain = *c->op;
    plain.vjp_fused = NULL;
    harness_case composed = *c;
    composed.op = &plain;
    ad_tensor in[AD_INPUTS_MAX], dx[2][AD_INPUTS_MAX], hu[2][AD_INPUTS_MAX];
    if (!harness_gradient(h, c, in, dx[0], 0)) return;
    if (!harness_gradient(h, &composed, in, dx[1], 0)) return;
    bool second = c->count[0] < 1000;
    if (second && !hessian_product(h, c, in, hu[0])) return;
    if (second && !hessian_product(h, &composed, in, hu[1])) return;
    for (int i = 0; i < c->sample.inputs; i++) {
        if (!dx[0][i].slot) continue;
        harness_close_to(h, c, i, dx[0][i], dx[1][i], 2e-5, 1e-6);
        if (second && hu[0][i].slot && hu[1][i].slot)
            harness_close_to(h, c, i, hu[0][i], hu[1][i],
                             c->sample.type == AD_F64 ? 1e-10 : 1e-5, 1e-6);
    }
    h->ran[h->category]++;
}

/* ---- zero cotangents, shared operands */

void harness_check_zero(harness *h, const harness_case *c) {
    static const double points[] = {0, -1, INFINITY};
    int count = harness_exempt(c->op, "infinity") ? 2 : 3;
    for (int p = 0; p < count; p++) {
        ad_tensor in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], want[AD_INPUTS_MAX], dx[AD_INPUTS_MAX];
        int n = 0;
        for (int i = 0; i < c->sample.inputs; i++) {
            in[i] = harness_input(h->ctx, c, i);
            if (!harness_differentiable(c, i)) continue;
            in[i] = ad_full(h->ctx, AD_F64, c->sample.input[i].shape, points[p]);
            want[n++] = in[i] = ad_watch(h->ctx, in[i]);
        }
        harness_apply(h->ctx, c, in, out);
        for (int j = 0; j < c->op->outputs && !ad_failed(h->ctx); j++) {
            if (!out[j].slot || !ad_is_tracked(h->ctx, out[j])) continue;
            ad_grad(h->ctx, out[j], ad_zeros_like(h->ctx, out[j]), n, want, dx, 0);
            if (!harness_sound(h, c)) return;
            for (int k = 0; k < n; k++)
                harness_close_to(h, c, k, dx[k], ad_zeros_like(h->ctx, dx[k]), 0, 0);
        }
        if (!harness_sound(h, c)) return;
    }
    h->ran[h->category]++;
}

void harness_check_same(harness *h, const harness_case *c) {
    for (int i = 0; i < c->sample.inputs; i++)
        for (int j = i + 1; j < c->sample.inputs; j++) {
            if (!harness_differentiable(c, i) || !harness_differentiable(c, j)) continue;
            if (!harness_same_shape(c->sample.input[i].shape, c->sample.input[j].shape)) continue;
            // Slot i holds the values of slot j: as another leaf, then as the same one.
            harness_case twin = *c;
            ad_tensor in[AD_INPUTS_MAX], dx[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], loss, shared;
            twin.value[i] = twin.value[j];
            if (!harness_gradient(h, &twin, in, dx, 0)) return;
            ad_tensor sum = ad_add(h->ctx, dx[i], dx[j]);
            in[i] = in[j];
            harness_apply(h->ctx, &twin, in, out);
            loss = harness_loss(h->ctx, &twin, out);
            ad_grad(h->ctx, loss, (ad_tensor){0}, 1, &in[j], &shared, 0);
            if (!harness_sound(h, c)) return;
            harness_close_to(h, c, j, shared, sum, 1e-13, largest(h, dx[i]) + largest(h, dx[j]));
            h->ran[h->category]++;
            return;
        }
}
