/* Cases: values from an operation's sample, tensors from values, losses from outputs, faults.
 *
 * Values are drawn in f32 precision, so that every path sees the same numbers; they keep away from
 * kinks by 0.05, are ascending or well apart where the sample says so. The loss is a sum of outputs
 * with random weights, so every cotangent is random and no rule can hide behind one of all ones. */
#include "tests/harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const harness_names[HARNESS_CATEGORIES] = {
    "agree", "integer", "storage", "dot", "taylor", "gradient", "second", "mixed", "fused", "zero",
    "same", "views", "empty", "large", "bits", "replay", "mutation"};

bool harness_real(ad_type type) { return type != AD_I32 && type != AD_U32; }

bool harness_same_shape(ad_shape a, ad_shape b) {
    bool same = a.rank == b.rank;
    for (int i = 0; i < a.rank && same; i++) same = a.size[i] == b.size[i];
    return same;
}

bool harness_differentiable(const harness_case *c, int i) {
    return harness_real(c->sample.input[i].type) && !c->sample.input[i].constant
        && c->count[i] > 0 && !(c->op->writes >> i & 1);
}

static uint64_t scramble(uint64_t z) { // splitmix64
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double harness_random(uint64_t *state) {
    *state += 1;
    return (double)(scramble(*state) >> 11) * 0x1p-52 - 1;
}

double harness_weight(const harness_case *c, int output, int64_t index) {
    uint64_t state = c->seed ^ ((uint64_t)(output + 1) << 56) ^ (uint64_t)index * 0x10001u;
    double w = (float)harness_random(&state);
    return w < 0 ? w - .25 : w + .25;
}

/* ---- values */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void draw(harness_case *c, int i, uint64_t *state) {
    double low = c->sample.input[i].low, high = c->sample.input[i].high;
    double kink = c->sample.input[i].kink, *value = c->value[i];
    int64_t count = c->count[i];
    bool real = harness_real(c->sample.input[i].type);
    for (int64_t k = 0; k < count; k++) {
        double u = harness_random(state) * .5 + .5;
        if (!real) {
            value[k] = fmin(floor(low + u * (high - low + 1)), high);
            continue;
        }
        if (c->sample.input[i].distinct) u = ((double)k + .5) / (double)count;
        value[k] = (float)(low + u * (high - low));
        double off = kink > 0 ? value[k] - kink * round(value[k] / kink) : 1;
        if (fabs(off) < .05) value[k] = (float)(value[k] + (off < 0 ? -.06 : .06));
    }
    if (c->sample.input[i].distinct) // evenly spaced, in random order
        for (int64_t k = count - 1; k > 0; k--) {
            int64_t j = (int64_t)((harness_random(state) * .5 + .5) * (double)(k + 1));
            double swap = value[k];
            value[k] = value[j], value[j] = swap;
        }
    if (!c->sample.input[i].sorted || !count) return;
    qsort(value, (size_t)count, sizeof *value, ascending);
    if (!real) value[0] = low, value[count - 1] = count > 1 ? high : low;
}

bool harness_open(harness_case *c, const ad_op *op, ad_type type, ad_shape shape, int variant) {
    *c = (harness_case){.op = op, .sample = {.shape = shape, .type = type, .variant = variant}};
    if (!op->sample || !op->sample(&c->sample)) return false;
    // The same seed for every type.
    c->seed = (uint64_t)variant + 17 * (uint64_t)shape.rank;
    for (int i = 0; i < shape.rank; i++) c->seed = scramble(c->seed + (uint64_t)shape.size[i]);
    uint64_t state = c->seed;
    for (int i = 0; i < c->sample.inputs; i++) {
        c->count[i] = 1;
        const ad_shape *s = &c->sample.input[i].shape;
        for (int j = 0; j < s->rank; j++) c->count[i] *= s->size[j];
        c->value[i] = malloc(sizeof(double) * (size_t)(c->count[i] + 1));
        draw(c, i, &state);
    }
    return true;
}

void harness_close(harness_case *c) {
    for (int i = 0; i < AD_INPUTS_MAX; i++) free(c->value[i]);
    memset(c->value, 0, sizeof c->value);
}

/* ---- tensors */

ad_tensor harness_input(ad_context *ctx, const harness_case *c, int i) {
    ad_type type = c->sample.input[i].type;
    ad_shape shape = c->sample.input[i].shape;
    if (type == AD_F64) return ad_from(ctx, AD_F64, shape, c->value[i]);
    // 32 bits each; narrow types are rounded from f32.
    union { float f; int32_t i; uint32_t u; } *word = malloc(4 * (size_t)(c->count[i] + 1));
    for (int64_t k = 0; k < c->count[i]; k++) {
        if (type == AD_I32) word[k].i = (int32_t)c->value[i][k];
        else if (type == AD_U32) word[k].u = (uint32_t)(int64_t)c->value[i][k];
        else word[k].f = (float)c->value[i][k];
    }
    ad_type wide = harness_real(type) ? AD_F32 : type;
    ad_tensor x = ad_cast(ctx, ad_from(ctx, wide, shape, word), type);
    free(word);
    return x;
}

bool harness_apply(ad_context *ctx, const harness_case *c, const ad_tensor *in, ad_tensor *out) {
    for (int i = 0; i < AD_OUTPUTS_MAX; i++) out[i] = (ad_tensor){0};
    return ad_apply(ctx, c->op, c->sample.inputs, in, c->sample.attributes.bytes, out);
}

ad_tensor harness_loss(ad_context *ctx, const harness_case *c, const ad_tensor *out) {
    ad_tensor loss = {0};
    for (int j = 0; j < c->op->outputs && !ad_failed(ctx); j++) {
        if (!out[j].slot || !harness_real(ad_type_of(ctx, out[j]))) continue;
        ad_type type = ad_type_of(ctx, out[j]) == AD_F64 ? AD_F64 : AD_F32;
        int64_t count = ad_count(ctx, out[j]);
        double *w = malloc(sizeof(double) * (size_t)(count + 1));
        for (int64_t k = 0; k < count; k++) w[k] = harness_weight(c, j, k);
        ad_tensor weight = ad_cast(ctx, ad_from(ctx, AD_F64, ad_shape_of(ctx, out[j]), w), type);
        free(w);
        ad_tensor y = ad_cast(ctx, out[j], type), product = ad_mul(ctx, y, weight);
        // The maximum of an empty segment is infinite, and no part of the loss.
        product = ad_where(ctx, ad_isfinite(ctx, y), product, ad_scalar(ctx, type, 0));
        ad_tensor term = ad_sum(ctx, product, AD_ALL_AXES, false);
        loss = loss.slot ? ad_add(ctx, loss, term) : term;
    }
    return loss;
}

double *harness_values(ad_context *ctx, ad_tensor x, int64_t *count) {
    *count = ad_count(ctx, x);
    double *value = malloc(sizeof(double) * (size_t)(*count + 1));
    ad_no_grad_begin(ctx);
    bool good = ad_read(ctx, ad_cast(ctx, x, AD_F64), value, sizeof(double) * (size_t)*count);
    ad_no_grad_end(ctx);
    if (good) return value;
    free(value);
    return NULL;
}

bool harness_forward(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *out,
                     ad_tensor *loss) {
    for (int i = 0; i < c->sample.inputs; i++) {
        in[i] = harness_input(h->ctx, c, i);
        if (harness_differentiable(c, i)) in[i] = ad_watch(h->ctx, in[i]);
    }
    harness_apply(h->ctx, c, in, out);
    *loss = harness_loss(h->ctx, c, out);
    return harness_sound(h, c) && loss->slot;
}

bool harness_gradient(harness *h, const harness_case *c, ad_tensor *in, ad_tensor *dx,
                      unsigned flags) {
    ad_tensor out[AD_OUTPUTS_MAX], loss, want[AD_INPUTS_MAX], got[AD_INPUTS_MAX];
    int n = 0;
    for (int i = 0; i < AD_INPUTS_MAX; i++) dx[i] = (ad_tensor){0};
    if (!harness_forward(h, c, in, out, &loss)) return false;
    for (int i = 0; i < c->sample.inputs; i++)
        if (harness_differentiable(c, i)) want[n++] = in[i];
    if (!n || !ad_is_tracked(h->ctx, loss)) return false;
    ad_grad(h->ctx, loss, (ad_tensor){0}, n, want, got, flags);
    if (!harness_sound(h, c)) return false;
    n = 0;
    for (int i = 0; i < c->sample.inputs; i++)
        if (harness_differentiable(c, i)) dx[i] = got[n++];
    return true;
}

/* ---- faults */

void harness_fault(harness *h, const harness_case *c, const char *format, ...) {
    h->faults++;
    if (h->quiet || h->shown[h->category]++ >= 3) return;
    char shape[64] = "";
    for (int i = 0, used = 0; i < c->sample.shape.rank && used < 60; i++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%lld", i ? ", " : "",
                         (long long)c->sample.shape.size[i]);
    fprintf(stderr, "FAULT %s: %s, wish %s (%s), variant %d: ", c->op->name,
            harness_names[h->category], ad_type_name(c->sample.type), shape, c->sample.variant);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
}

bool harness_sound(harness *h, const harness_case *c) {
    if (!ad_failed(h->ctx)) return true;
    harness_fault(h, c, "%s", ad_error_text(h->ctx));
    ad_error_clear(h->ctx);
    return false;
}

bool harness_near(harness *h, const harness_case *c, int operand, int64_t index, double got,
                  double expected, double tolerance) {
    h->checks++;
    if (got == expected || (isnan(got) && isnan(expected))) return true;
    if (fabs(got - expected) <= tolerance) return true;
    if (operand == HARNESS_PRODUCT)
        harness_fault(h, c, "<J v, w> is %.12g and <v, J' w> is %.12g (within %.2g)", got, expected,
                      tolerance);
    else
        harness_fault(h, c, "operand %d, element %lld: %.12g where %.12g was expected "
                      "(within %.2g)", operand, (long long)index, got, expected, tolerance);
    return false;
}

// Both as doubles, of one count; false after a fault. free().
static bool both(harness *h, const harness_case *c, int operand, ad_tensor got,
                 ad_tensor expected, double **a, double **b, int64_t *n) {
    int64_t m = 0;
    *a = harness_values(h->ctx, got, n);
    *b = *a ? harness_values(h->ctx, expected, &m) : NULL;
    if (!harness_sound(h, c) || !*a || !*b) return false;
    if (*n != m)
        harness_fault(h, c, "operand %d: %lld elements against %lld", operand, (long long)*n,
                      (long long)m);
    return *n == m;
}

static double largest(const double *value, int64_t n, double least) {
    for (int64_t k = 0; k < n; k++)
        if (isfinite(value[k])) least = fmax(least, fabs(value[k]));
    return least;
}

bool harness_close_to(harness *h, const harness_case *c, int operand, ad_tensor got,
                      ad_tensor expected, double tolerance, double scale) {
    int64_t n = 0;
    double *a, *b;
    bool good = both(h, c, operand, got, expected, &a, &b, &n);
    if (good) scale = largest(b, n, scale);
    for (int64_t k = 0; k < n && good; k++)
        good = harness_near(h, c, operand, k, a[k], b[k], tolerance * scale);
    free(a), free(b);
    return good;
}

bool harness_close_each(harness *h, const harness_case *c, int operand, ad_tensor got,
                        ad_tensor expected, double tolerance, const double *sizes,
                        double absolute) {
    int64_t n = 0;
    double *a, *b, scale = 0;
    bool good = both(h, c, operand, got, expected, &a, &b, &n);
    if (good) scale = sizes ? largest(sizes, n, largest(b, n, 0)) : largest(b, n, 0);
    for (int64_t k = 0; k < n && good; k++) {
        double size = sizes ? fmax(fabs(b[k]), fabs(sizes[k])) : fabs(b[k]);
        double within = tolerance * (size + HARNESS_FLOOR * scale) + absolute;
        good = harness_near(h, c, operand, k, a[k], b[k], within);
    }
    free(a), free(b);
    return good;
}
