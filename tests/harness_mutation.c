/* Mutation: wrong copies of an operation's rules, which the checks must catch.
 *
 * Operations are values: a mutant is a copy whose rule is a wrapper that runs the right one and
 * then spoils its result, or spoils the cotangent before. One mutant exists at a time, in a static
 * that the wrappers read; the right rule sees the original operation. A mutant whose gradients have
 * the same values as the original's in every case has no effect, and needs a named exemption: its
 * kind and the reason. One that found nothing to spoil (no repeated operand, no matrix) is none. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind {
    NEGATED, ZEROED, SCALED, DROPPED, SWAPPED, MEAN, NO_BROADCAST_SUM, TRANSPOSED, KINDS
} kind;

static const char *const kind_names[KINDS] = {
    "negated", "zeroed", "scaled by 1.01", "one operand's part dropped", "two swapped",
    "cotangent replaced by its mean", "broadcast sum dropped", "transpose dropped"};

static struct mutant {
    const ad_op *original;
    ad_op op;
    kind kind;
    int operand;        // for DROPPED, SWAPPED (with the next one that fits), NO_BROADCAST_SUM
    bool applied;       // something was there to spoil
} mutant;

/* ---- what is spoilt */

static ad_tensor mean_everywhere(ad_context *ctx, ad_tensor x) {
    if (!x.slot || ad_count(ctx, x) == 0) return x;
    mutant.applied = true;
    return ad_broadcast(ctx, ad_mean(ctx, x, AD_ALL_AXES, false), ad_shape_of(ctx, x));
}

// What the transposed matrix would be, in the old shape.
static ad_tensor transposed(ad_context *ctx, ad_tensor x) {
    ad_shape shape = ad_shape_of(ctx, x);
    if (shape.rank < 2) return x;
    mutant.applied = true;
    return ad_reshape(ctx, ad_transpose(ctx, x), shape);
}

// Zero but for index 0 of the axes along which `operand` was repeated.
static ad_tensor first_of_repeated(ad_context *ctx, ad_tensor dy, ad_tensor operand) {
    ad_shape y = ad_shape_of(ctx, dy), x = ad_shape_of(ctx, operand);
    if (x.rank > y.rank) return dy;
    for (int axis = 0; axis < y.rank; axis++) {
        int own = axis - (y.rank - x.rank);
        int64_t size = own < 0 ? 1 : x.size[own];
        if (size == y.size[axis] || y.size[axis] == 0) continue;
        if (size != 1) return dy;
        mutant.applied = true;
        ad_tensor first = ad_slice(ctx, dy, axis, 0, 1, 1);
        dy = ad_pad(ctx, first, axis, 0, y.size[axis] - 1, 0);
    }
    return dy;
}

static ad_tensor spoilt(ad_context *ctx, ad_tensor dx, int operand) {
    if (!dx.slot) return dx;
    mutant.applied |= mutant.kind <= SCALED
                   || (mutant.kind == DROPPED && operand == mutant.operand);
    switch (mutant.kind) {
    case NEGATED: return ad_neg(ctx, dx);
    case ZEROED: return (ad_tensor){0};
    case SCALED: return ad_affine(ctx, dx, 1.01, 0);
    case DROPPED: return operand == mutant.operand ? (ad_tensor){0} : dx;
    case TRANSPOSED: return transposed(ctx, dx);
    default: return dx;
    }
}

static void swap_two(ad_context *ctx, int n, const ad_tensor *input, ad_tensor *dx) {
    int i = mutant.operand;
    for (int j = i + 1; j < n; j++) {
        if (!dx[i].slot || !dx[j].slot) continue;
        if (!harness_same_shape(ad_shape_of(ctx, input[i]), ad_shape_of(ctx, input[j]))) continue;
        mutant.applied = true;
        ad_tensor old = dx[i];
        dx[i] = dx[j], dx[j] = old;
        return;
    }
}

/* ---- the wrappers */

static void run_vjp(ad_vjp *call, void (*rule)(ad_vjp *call)) {
    ad_context *ctx = call->ctx;
    ad_tensor dy[AD_OUTPUTS_MAX], only[AD_INPUTS_MAX] = {{0}};
    ad_vjp right = *call;
    right.op = mutant.original;
    for (int j = 0; j < call->outputs; j++)
        dy[j] = mutant.kind == MEAN ? mean_everywhere(ctx, call->dy[j]) : call->dy[j];
    right.dy = dy;
    rule(&right);
    int i = mutant.operand;
    if (mutant.kind == NO_BROADCAST_SUM && call->wanted >> i & 1 && call->dx[i].slot) {
        // That operand's part again, from a cotangent of which the repeated part is missing.
        for (int j = 0; j < call->outputs; j++)
            if (dy[j].slot) dy[j] = first_of_repeated(ctx, dy[j], call->input[i]);
        right.wanted = 1u << i, right.dx = only;
        rule(&right);
        call->dx[i] = only[i];
    }
    if (mutant.kind == SWAPPED) swap_two(ctx, call->inputs, call->input, call->dx);
    for (int k = 0; k < call->inputs; k++) call->dx[k] = spoilt(ctx, call->dx[k], k);
}

static void wrong_vjp(ad_vjp *call) { run_vjp(call, mutant.original->vjp); }
static void wrong_vjp_fused(ad_vjp *call) { run_vjp(call, mutant.original->vjp_fused); }

static void wrong_jvp(ad_jvp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor dx[AD_INPUTS_MAX];
    ad_jvp right = *call;
    right.op = mutant.original, right.dx = dx;
    for (int k = 0; k < call->inputs; k++) {
        dx[k] = mutant.kind == MEAN ? mean_everywhere(ctx, call->dx[k]) : call->dx[k];
        if (mutant.kind != DROPPED || k != mutant.operand || !dx[k].slot) continue;
        dx[k] = (ad_tensor){0};
        mutant.applied = true;
    }
    if (mutant.kind == SWAPPED) swap_two(ctx, call->inputs, call->input, dx);
    mutant.original->jvp(&right);
    for (int j = 0; j < call->outputs && mutant.kind != DROPPED; j++)
        call->dy[j] = spoilt(ctx, call->dy[j], -1);
}

/* ---- does it change anything, and is it caught */

typedef enum rule { VJP, VJP_FUSED, JVP } rule;
static const char *const rule_names[] = {"vjp", "vjp_fused", "jvp"};

static double *numbers_of(harness *h, const harness_case *c, rule which, int64_t *n) {
    ad_tensor in[AD_INPUTS_MAX], t[AD_INPUTS_MAX] = {{0}}, out[AD_OUTPUTS_MAX];
    *n = 0;
    double *all = NULL;
    if (which != JVP) {
        harness_gradient(h, c, in, t, 0);
    } else {
        for (int i = 0; i < c->sample.inputs; i++) {
            in[i] = harness_input(h->ctx, c, i);
            if (!harness_differentiable(c, i)) continue;
            uint64_t state = c->seed + (uint64_t)i * 77;
            double *v = malloc(sizeof(double) * (size_t)(c->count[i] + 1));
            for (int64_t k = 0; k < c->count[i]; k++) v[k] = harness_random(&state);
            in[i] = ad_dual(h->ctx, in[i], ad_from(h->ctx, AD_F64, c->sample.input[i].shape, v));
            free(v);
        }
        harness_apply(h->ctx, c, in, out);
        for (int j = 0; j < c->op->outputs && !ad_failed(h->ctx); j++)
            if (out[j].slot) t[j] = ad_tangent(h->ctx, out[j]);
    }
    ad_error_clear(h->ctx);
    for (int i = 0; i < AD_INPUTS_MAX; i++) {
        int64_t count;
        double *v = t[i].slot ? harness_values(h->ctx, t[i], &count) : NULL;
        if (!v) continue;
        all = realloc(all, sizeof(double) * (size_t)(*n + count + 1));
        memcpy(all + *n, v, sizeof(double) * (size_t)count);
        *n += count;
        free(v);
    }
    return all;
}

static bool has_effect(harness *h, const harness_case *c, rule which) {
    harness_case right = *c;
    int64_t n[2];
    right.op = mutant.original;
    double *a = numbers_of(h, c, which, &n[0]), *b = numbers_of(h, &right, which, &n[1]), sum = 0;
    double differ = 0;
    for (int64_t k = 0; k < n[1]; k++) sum += fabs(b[k]);
    if (n[0] != n[1]) differ = sum; // null for zero
    for (int64_t k = 0; k < n[0] && n[0] == n[1]; k++) differ = fmax(differ, fabs(a[k] - b[k]));
    free(a), free(b);
    return differ > 1e-5 * sum;
}

static void run_mutant(harness *h, const ad_shape *shapes, int shape_count, rule which,
                       harness_count *count) {
    bool planted = false, caught = false;
    harness quiet = *h;
    quiet.quiet = true;
    ad_type type = which == VJP_FUSED ? AD_F32 : AD_F64;
    for (int s = 0; s < shape_count && !caught; s++)
        for (int variant = 0; variant < 16 && !caught; variant++) {
            harness_case c;
            if (!harness_open(&c, &mutant.op, type, shapes[s], variant)) break;
            ad_scope_begin(h->ctx, "mutant");
            if (has_effect(&quiet, &c, which)) {
                planted = true;
                quiet.faults = 0;
                if (which == VJP_FUSED) {
                    harness_check_agree(&quiet, &c);
                } else {
                    harness_check_dot(&quiet, &c);
                    if (!quiet.faults && which == VJP) harness_check_gradient(&quiet, &c);
                }
                caught = quiet.faults > 0;
            }
            ad_error_clear(h->ctx);
            ad_scope_end(h->ctx);
            harness_close(&c);
            if (planted && !caught && variant > 3) break;
        }
    count->planted += planted, count->caught += caught;
    if (!planted && mutant.applied) {
        harness_case c = {.op = mutant.original};
        count->without_effect++;
        if (!harness_exempt(mutant.original, kind_names[mutant.kind]))
            harness_fault(h, &c, "a wrong %s has no effect: %s (operand %d)", rule_names[which],
                          kind_names[mutant.kind], mutant.operand);
    }
    if (planted && !caught) {
        harness_case c = {.op = mutant.original};
        harness_fault(h, &c, "a wrong %s was not caught: %s (operand %d)", rule_names[which],
                      kind_names[mutant.kind], mutant.operand);
    }
}

// Kinds that are about one operand are planted for each differentiable one.
static bool fits(const harness_case *c, kind k, int operand) {
    if (k != DROPPED && k != SWAPPED && k != NO_BROADCAST_SUM) return operand == 0;
    if (!harness_differentiable(c, operand)) return false;
    if (k == NO_BROADCAST_SUM) return true;
    for (int j = 0; j < c->sample.inputs; j++)
        if (harness_differentiable(c, j) && (k == DROPPED ? j != operand : j > operand))
            return true;
    return false;
}

void harness_mutate(harness *h, const ad_op *op, const ad_shape *shapes, int shape_count,
                    harness_count *count) {
    harness_case c;
    bool found = false;
    for (int s = 0; s < shape_count && !found; s++)
        found = harness_open(&c, op, AD_F64, shapes[s], 0);
    if (!found) return;
    for (rule which = VJP; which <= JVP; which++) {
        if (which == VJP && (!op->vjp || op->compose)) continue;
        if (which == VJP_FUSED && !op->vjp_fused) continue;
        if (which == JVP && (!op->jvp || op->compose)) continue;
        for (kind k = NEGATED; k < KINDS; k++)
            for (int operand = 0; operand < c.sample.inputs; operand++) {
                if (!fits(&c, k, operand) || (which == JVP && k == NO_BROADCAST_SUM)) continue;
                mutant = (struct mutant){.original = op, .op = *op, .kind = k, .operand = operand};
                if (which == VJP) mutant.op.vjp = wrong_vjp;
                if (which == VJP_FUSED) mutant.op.vjp_fused = wrong_vjp_fused;
                if (which == JVP) mutant.op.jvp = wrong_jvp;
                run_mutant(h, shapes, shape_count, which, count);
            }
    }
    harness_close(&c);
    h->ran[HARNESS_MUTATION]++;
}
