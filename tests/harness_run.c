/* Checks of what an operation computes: the same in f32 and f64, in narrow storage, from strided
 * operands, on any number of threads, in a replayed step. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void inputs(ad_context *ctx, const harness_case *c, ad_tensor *in) {
    for (int i = 0; i < c->sample.inputs; i++) {
        in[i] = harness_input(ctx, c, i);
        if (c->op->writes >> i & 1) in[i] = ad_state(ctx, "state", in[i]);
    }
}

// What the call left: its outputs, then the operands it wrote. Integers beside a composition are
// what a fused rule keeps for itself.
static int results(const harness_case *c, const ad_tensor *in, const ad_tensor *out,
                   ad_tensor *result) {
    int n = 0;
    for (int j = 0; j < c->op->outputs; j++)
        if (out[j].slot && !(c->op->compose && !harness_real(ad_type_of(out[j].context, out[j]))))
            result[n++] = out[j];
    for (int i = 0; i < c->sample.inputs; i++)
        if (c->op->writes >> i & 1) result[n++] = in[i];
    return n;
}

static int as_many(harness *h, const harness_case *c, int n, int m) {
    if (n != m) harness_fault(h, c, "%d outputs where %d were expected", n, m);
    return n < m ? n : m;
}

void harness_check_runs(harness *h, const harness_case *c) {
    ad_tensor in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], result[AD_INPUTS_MAX + AD_OUTPUTS_MAX], dx;
    inputs(h->ctx, c, in);
    harness_apply(h->ctx, c, in, out);
    if (!harness_sound(h, c)) return;
    int n = results(c, in, out, result);
    for (int j = 0; j < n; j++) {
        int64_t count;
        free(harness_values(h->ctx, result[j], &count));
    }
    bool real = false;
    for (int i = 0; i < c->sample.inputs; i++)
        real |= harness_real(c->sample.input[i].type) && !c->sample.input[i].constant;
    // An empty loss has an empty gradient, not an error.
    ad_tensor leaf[AD_INPUTS_MAX], loss;
    memcpy(leaf, in, sizeof leaf);
    for (int i = 0; i < c->sample.inputs && real && !c->op->writes; i++)
        if (harness_real(c->sample.input[i].type) && !c->sample.input[i].constant)
            leaf[i] = ad_watch(h->ctx, in[i]);
    if (real && !c->op->writes && harness_apply(h->ctx, c, leaf, out)) {
        loss = harness_loss(h->ctx, c, out);
        if (loss.slot && ad_is_tracked(h->ctx, loss))
            for (int i = 0; i < c->sample.inputs; i++)
                if (leaf[i].slot != in[i].slot)
                    ad_grad(h->ctx, loss, (ad_tensor){0}, 1, &leaf[i], &dx, 0);
    }
    if (harness_sound(h, c)) h->ran[h->category]++;
}

/* ---- integers against f64, which has their sums and products below 2^53 exactly */

static double wrapped(ad_type type, double value) {
    value = trunc(value), value -= 0x1p32 * floor(value / 0x1p32); // quotients are cut
    return type == AD_I32 && value >= 0x1p31 ? value - 0x1p32 : value;
}

// The same call in f64 on the same numbers; false where the operation has none. harness_close.
static bool in_f64(const harness_case *c, harness_case *wide) {
    bool same = !(c->op->flags & AD_OP_STATEFUL) && !c->op->compose // fused: for real numbers
             && harness_open(wide, c->op, AD_F64, c->sample.shape, c->sample.variant)
             && wide->sample.inputs == c->sample.inputs
             && !memcmp(&wide->sample.attributes, &c->sample.attributes,
                        sizeof c->sample.attributes);
    for (int i = 0; i < c->sample.inputs && same; i++) {
        ad_type type = c->sample.input[i].type;
        same = harness_same_shape(wide->sample.input[i].shape, c->sample.input[i].shape);
        for (int64_t k = 0; k < c->count[i] && same; k++)
            wide->value[i][k] = harness_real(type) ? c->value[i][k]
                                                   : wrapped(type, c->value[i][k]);
    }
    return same;
}

static void same_integers(harness *h, const harness_case *c, int output, ad_tensor got,
                          ad_tensor expected) {
    int64_t n, m;
    ad_type type = ad_type_of(h->ctx, got);
    double *a = harness_values(h->ctx, got, &n), *b = harness_values(h->ctx, expected, &m);
    bool good = harness_sound(h, c) && a && b && as_many(h, c, (int)n, (int)m) == n;
    for (int64_t k = 0; k < n && good; k++) {
        if (!(fabs(b[k]) < 0x1p53)) continue; // has lost digits, or is a quotient by 0
        double known = harness_real(type) ? b[k] : wrapped(type, b[k]);
        good = harness_near(h, c, output, k, a[k], known,
                            harness_real(type) ? 1e-5 * fabs(known) : 0);
    }
    free(a), free(b);
}

void harness_check_integer(harness *h, const harness_case *c) {
    harness_case wide = {0};
    harness_check_runs(h, c);
    if (in_f64(c, &wide)) {
        ad_tensor in[2][AD_INPUTS_MAX], out[2][AD_OUTPUTS_MAX], a[32], b[32];
        inputs(h->ctx, c, in[0]), inputs(h->ctx, &wide, in[1]);
        harness_apply(h->ctx, c, in[0], out[0]), harness_apply(h->ctx, &wide, in[1], out[1]);
        if (harness_sound(h, c)) {
            int n = results(c, in[0], out[0], a), m = results(&wide, in[1], out[1], b);
            n = as_many(h, c, n, m);
            for (int j = 0; j < n; j++) same_integers(h, c, j, a[j], b[j]);
        }
    }
    harness_close(&wide);
}

/* ---- f32 against f64 */

static void magnitudes(const harness_case *c, harness_case *absolute) {
    *absolute = *c;
    for (int i = 0; i < c->sample.inputs; i++) {
        absolute->value[i] = malloc(sizeof(double) * (size_t)(c->count[i] + 1));
        for (int64_t k = 0; k < c->count[i]; k++)
            absolute->value[i][k] = harness_differentiable(c, i) ? fabs(c->value[i][k])
                                                                 : c->value[i][k];
    }
}

void harness_check_agree(harness *h, const harness_case *c) {
    harness_case wide;
    if (!harness_open(&wide, c->op, AD_F64, c->sample.shape, c->sample.variant)) {
        if (h->category == HARNESS_LARGE) harness_check_runs(h, c);
        return;
    }
    ad_context *ctx = h->ctx;
    ad_tensor in[2][AD_INPUTS_MAX], out[3][AD_OUTPUTS_MAX], dx[2][AD_INPUTS_MAX];
    inputs(ctx, c, in[0]), inputs(ctx, &wide, in[1]);
    harness_apply(ctx, c, in[0], out[0]), harness_apply(ctx, &wide, in[1], out[1]);
    // A linear operation adds up terms of this size.
    memset(out[2], 0, sizeof out[2]);
    if (c->op->flags & AD_OP_LINEAR) {
        harness_case absolute;
        ad_tensor size[AD_INPUTS_MAX];
        magnitudes(&wide, &absolute);
        inputs(ctx, &absolute, size), harness_apply(ctx, &absolute, size, out[2]);
        harness_close(&absolute);
    }
    if (harness_sound(h, c)) {
        ad_tensor a[AD_INPUTS_MAX + AD_OUTPUTS_MAX], b[AD_INPUTS_MAX + AD_OUTPUTS_MAX];
        int n = results(c, in[0], out[0], a), m = results(&wide, in[1], out[1], b);
        n = as_many(h, c, n, m);
        for (int j = 0; j < n; j++) {
            int64_t count = 0;
            double *sizes = out[2][j].slot ? harness_values(ctx, out[2][j], &count) : NULL;
            if (count != ad_count(ctx, b[j])) free(sizes), sizes = NULL;
            bool long_sum = c->count[0] > 4096 && ad_count(ctx, a[j]) < c->count[0];
            harness_close_each(h, c, j, a[j], b[j], long_sum ? 1e-4 : 1e-5, sizes, 1e-11);
            free(sizes);
        }
        h->ran[h->category]++;
    }
    bool gradient = !(c->op->flags & (AD_OP_NO_GRADIENT | AD_OP_STATEFUL)) && c->count[0] < 100000;
    if (gradient && harness_gradient(h, c, in[0], dx[0], 0)
        && harness_gradient(h, &wide, in[1], dx[1], 0))
        for (int i = 0; i < c->sample.inputs; i++)
            if (dx[0][i].slot) { // an operand that was repeated adds up many terms of about 1
                double terms = (double)ad_count(ctx, out[0][0]) / (double)c->count[i];
                harness_close_each(h, c, i, dx[0][i], dx[1][i], 1e-4, NULL,
                                   terms > 1 ? 1e-6 * terms : 1e-10);
            }
    harness_close(&wide);
}

/* ---- narrow storage: f32 on the rounded values is the reference */

void harness_check_storage(harness *h, const harness_case *c) {
    ad_context *ctx = h->ctx;
    harness_case wide;
    if (!harness_open(&wide, c->op, AD_F32, c->sample.shape, c->sample.variant)) return;
    ad_tensor in[2][AD_INPUTS_MAX], out[2][AD_OUTPUTS_MAX], a[32], b[32];
    bool gradient = !(c->op->flags & (AD_OP_NO_GRADIENT | AD_OP_STATEFUL)) && !c->op->writes;
    inputs(ctx, c, in[0]);
    for (int i = 0; i < c->sample.inputs; i++) {
        in[1][i] = ad_cast(ctx, in[0][i], wide.sample.input[i].type);
        if (c->op->writes >> i & 1) in[1][i] = ad_state(ctx, "wide", in[1][i]);
        if (gradient && harness_differentiable(c, i))
            for (int s = 0; s < 2; s++) in[s][i] = ad_watch(ctx, in[s][i]);
    }
    harness_apply(ctx, c, in[0], out[0]), harness_apply(ctx, &wide, in[1], out[1]);
    double tolerance = c->sample.type == AD_BF16 ? 0x1p-7 : 0x1p-10;
    if (harness_sound(h, c)) {
        int n = results(c, in[0], out[0], a), m = results(&wide, in[1], out[1], b);
        n = as_many(h, c, n, m);
        for (int j = 0; j < n; j++) harness_close_to(h, c, j, a[j], b[j], tolerance, 1e-3);
        ad_tensor loss[2], dx[2];
        for (int s = 0; s < 2; s++) loss[s] = harness_loss(ctx, s ? &wide : c, out[s]);
        for (int i = 0; i < c->sample.inputs && gradient && loss[0].slot; i++) {
            if (!harness_differentiable(c, i) || !ad_is_tracked(ctx, loss[0])) continue;
            for (int s = 0; s < 2; s++)
                ad_grad(ctx, loss[s], (ad_tensor){0}, 1, &in[s][i], &dx[s], 0);
            if (harness_sound(h, c)) // every product of the chain rounds
                harness_close_to(h, c, i, dx[0], dx[1], 16 * tolerance, 1e-2);
        }
        h->ran[h->category]++;
    }
    harness_close(&wide);
}

/* ---- layouts */

enum { TRANSPOSED, OFFSET, REVERSED, REPEATED_ROW, REPEATED_COLUMN, LAYOUTS };

// The same values, once packed and once laid out otherwise. A repeated one has stride 0.
static bool laid_out(ad_context *ctx, ad_tensor x, int kind, ad_tensor *packed, ad_tensor *view) {
    ad_shape shape = ad_shape_of(ctx, x);
    int last = shape.rank - 1, repeated = kind == REPEATED_ROW ? 0 : last;
    int least = kind == TRANSPOSED || kind == REPEATED_COLUMN ? 2 : 1;
    if (shape.rank < least || ad_count(ctx, x) == 0) return false;
    *packed = x;
    if (kind == TRANSPOSED) {
        *view = ad_transpose(ctx, ad_contiguous(ctx, ad_transpose(ctx, x)));
    } else if (kind == OFFSET) {
        ad_tensor front = ad_contiguous(ctx, ad_slice(ctx, x, last, 0, 1, 1));
        ad_tensor longer = ad_concat(ctx, 2, (ad_tensor[]){front, x}, last);
        *view = ad_slice(ctx, longer, last, 1, shape.size[last] + 1, 1);
    } else if (kind == REVERSED) {
        int64_t size = shape.size[0];
        ad_tensor turned = ad_contiguous(ctx, ad_slice(ctx, x, 0, size - 1, -1, -1));
        *view = ad_slice(ctx, turned, 0, size - 1, -1, -1);
    } else {
        ad_tensor one = ad_contiguous(ctx, ad_slice(ctx, x, repeated, 0, 1, 1));
        *view = ad_broadcast(ctx, one, shape);
        *packed = ad_contiguous(ctx, *view);
    }
    return true;
}

static bool same_bits(harness *h, const harness_case *c, ad_tensor a, ad_tensor b,
                      const char *how) {
    size_t bytes = (size_t)ad_count(h->ctx, a) * ad_type_bytes(ad_type_of(h->ctx, a));
    if (!harness_sound(h, c)) return false;
    char *x = malloc(bytes + 1), *y = malloc(bytes + 1);
    bool read = ad_read(h->ctx, a, x, bytes) && ad_read(h->ctx, b, y, bytes);
    bool same = read && memcmp(x, y, bytes) == 0;
    free(x), free(y);
    h->checks++;
    if (harness_sound(h, c) && !same) harness_fault(h, c, "other bits: %s", how);
    return same;
}

// The gradient of one operand, watched as it lies; null without a loss or after an error.
static ad_tensor slope_of(harness *h, const harness_case *c, const ad_tensor *operands, int i) {
    ad_tensor in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], slope = {0};
    memcpy(in, operands, sizeof in);
    in[i] = ad_watch(h->ctx, in[i]);
    if (!harness_apply(h->ctx, c, in, out)) return slope;
    ad_tensor loss = harness_loss(h->ctx, c, out);
    if (!loss.slot || !ad_is_tracked(h->ctx, loss)) return slope;
    ad_grad(h->ctx, loss, (ad_tensor){0}, 1, &in[i], &slope, 0);
    return slope;
}

// One operand otherwise laid out: the same bits, and the same gradient of the strided leaf.
static bool view_agrees(harness *h, const harness_case *c, int i, int kind) {
    static const char *const how[] = {"transposed operand", "offset operand", "reversed operand",
                                      "repeated row", "repeated column"};
    ad_context *ctx = h->ctx;
    ad_tensor in[2][AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], result[2][32], slope[2];
    int n = 0;
    for (int s = 0; s < 2; s++) {
        ad_tensor layout[2];
        inputs(ctx, c, in[s]);
        if (!laid_out(ctx, in[s][i], kind, &layout[0], &layout[1])) return true;
        in[s][i] = layout[s];
        harness_apply(ctx, c, in[s], out);
        n = results(c, in[s], out, result[s]);
    }
    if (!harness_sound(h, c)) return false;
    for (int j = 0; j < n; j++)
        if (!same_bits(h, c, result[1][j], result[0][j], how[kind])) return false;
    h->ran[h->category]++;
    if (!harness_differentiable(c, i) || c->op->flags & AD_OP_NO_GRADIENT) return true;
    for (int s = 0; s < 2; s++) slope[s] = slope_of(h, c, in[s], i);
    if (!harness_sound(h, c)) return false;
    if (slope[0].slot) harness_close_to(h, c, i, slope[1], slope[0], 1e-6, 1e-6);
    return true;
}

void harness_check_views(harness *h, const harness_case *c) {
    for (int i = 0; i < c->sample.inputs; i++)
        for (int kind = 0; kind < LAYOUTS; kind++) {
            bool ordered = kind >= REPEATED_ROW && c->sample.input[i].sorted;
            if (c->op->writes >> i & 1 || ordered) continue;
            if (!view_agrees(h, c, i, kind)) return;
        }
    harness_sound(h, c);
}

/* ---- bits: of every output and gradient, on any number of threads, run after run */

static void bits_of(harness *h, const harness_case *c, int threads, char **bytes, size_t *size) {
    harness one = *h;
    ad_tensor in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX], dx[AD_INPUTS_MAX] = {{0}}, all[64];
    one.ctx = ad_open(&(ad_options){.threads = threads, .poison = true});
    inputs(one.ctx, c, in);
    harness_apply(one.ctx, c, in, out);
    int n = results(c, in, out, all);
    if (!(c->op->flags & AD_OP_NO_GRADIENT) && harness_gradient(&one, c, in, dx, 0))
        for (int i = 0; i < c->sample.inputs; i++)
            if (dx[i].slot) all[n++] = dx[i];
    *size = 0, *bytes = NULL;
    for (int j = 0; j < n && harness_sound(&one, c); j++) {
        size_t element = ad_type_bytes(ad_type_of(one.ctx, all[j]));
        size_t more = (size_t)ad_count(one.ctx, all[j]) * element;
        *bytes = realloc(*bytes, *size + more + 1);
        ad_read(one.ctx, all[j], *bytes + *size, more);
        *size += more;
    }
    ad_close(one.ctx);
    h->faults = one.faults;
    memcpy(h->shown, one.shown, sizeof h->shown);
}

void harness_check_bits(harness *h, const harness_case *c) {
    static const int threads[] = {1, 1, 1, 2, 4};
    char *first, *other;
    size_t size, same;
    bits_of(h, c, threads[0], &first, &size);
    for (int run = 1; run < 5; run++) {
        bits_of(h, c, threads[run], &other, &same);
        h->checks++;
        if (same != size || (size && memcmp(first, other, size)))
            harness_fault(h, c, "other bits in run %d, %d threads", run, threads[run]);
        free(other);
    }
    free(first);
    h->ran[h->category]++;
}

/* ---- replay: values written between, gradient inside */

static void step(harness *h, const harness_case *c, const ad_tensor *in, ad_tensor *all, int *n) {
    ad_context *ctx = h->ctx;
    ad_tensor out[AD_OUTPUTS_MAX], want[AD_INPUTS_MAX], dx[AD_INPUTS_MAX], leaf[AD_INPUTS_MAX];
    int wanted = 0;
    memcpy(leaf, in, sizeof leaf);
    for (int i = 0; i < c->sample.inputs; i++)
        if (harness_differentiable(c, i)) want[wanted++] = leaf[i] = ad_watch(ctx, in[i]);
    harness_apply(ctx, c, leaf, out);
    *n = results(c, in, out, all);
    ad_tensor loss = harness_loss(ctx, c, out);
    if (!loss.slot || !ad_is_tracked(ctx, loss) || !wanted) return;
    ad_grad(ctx, loss, (ad_tensor){0}, wanted, want, dx, 0);
    for (int k = 0; k < wanted; k++) all[(*n)++] = dx[k];
}

void harness_check_replay(harness *h, const harness_case *c) {
    ad_context *ctx = h->ctx;
    ad_tensor in[AD_INPUTS_MAX], fresh[AD_INPUTS_MAX], all[64], eager[64];
    int n = 0, m = 0;
    // Captured on the values in reverse order, replayed on them as they are.
    for (int i = 0; i < c->sample.inputs; i++) {
        ad_tensor x = harness_input(ctx, c, i);
        bool ordered = c->sample.input[i].sorted || ad_shape_of(ctx, x).rank == 0 || !c->count[i];
        int64_t size = ordered ? 0 : ad_shape_of(ctx, x).size[0];
        in[i] = ad_state(ctx, "in", ordered ? x : ad_slice(ctx, x, 0, size - 1, -1, -1));
        fresh[i] = ad_state(ctx, "fresh", x);
    }
    if (!harness_sound(h, c)) return;
    ad_capture_begin(ctx);
    step(h, c, in, all, &n);
    ad_program *program = ad_capture_end(ctx);
    if (!program || !harness_sound(h, c)) {
        harness_sound(h, c);
        return;
    }
    for (int i = 0; i < c->sample.inputs; i++) ad_assign(ctx, in[i], fresh[i]);
    ad_replay(program);
    step(h, c, fresh, eager, &m);
    if (harness_sound(h, c) && as_many(h, c, n, m) == m)
        for (int j = 0; j < n; j++)
            if (!same_bits(h, c, all[j], eager[j], "replayed")) break;
    ad_program_free(program);
    h->ran[h->category]++;
}
