/* An operation of one's own, defined as the library's own are: RMS normalisation of rows.
 *
 *   y = x / r,  r = sqrt(mean(x^2) + epsilon), along the last axis
 *   (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)
 *
 * With n elements a row, dy_i/dx_j = (delta_ij - y_i y_j / n) / r: a symmetric matrix. So a
 * cotangent goes back exactly as a tangent goes forward, and one function, in public operations,
 * is both rules; written so, it can be differentiated again. docs/operations.md walks through this
 * file: 1. the shape rule and the kernel, 2. the derivative, 3. the constant and a public function.
 * The rest is its test: against finite differences, reverse against forward mode, second order. */
#include "autodiff/autodiff.h"

#include <math.h>
#include <stdio.h>

/* ---- 1. shapes, and the kernel */

typedef struct rms_attributes { // plain data, copied onto the tape
    double epsilon;
} rms_attributes;

static void rms_infer(ad_infer *call) {
    const ad_view *x = &call->input[0];
    call->output[0] = *x; // type, rank and size; strides are not read
    if (x->rank > 0 && x->type != AD_I32 && x->type != AD_U32) return;
    char text[160];
    ad_view_text(x, text, sizeof text);
    ad_infer_fail(call, "expected rows of real numbers, found %s", text);
}

// Operands come contiguous, and f16 and bf16 widened to f32. Rows do not depend on one another, so
// any number of threads makes the same bits.
static void rms_cpu(const ad_launch *launch) {
    const rms_attributes *a = launch->attributes;
    const ad_view *x = &launch->input[0];
    int64_t n = x->size[x->rank - 1], rows = n ? ad_view_count(x) / n : 0;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (rows * n > 1 << 15)
    for (int64_t row = 0; row < rows; row++) {
        double squares = 0;
        if (x->type == AD_F32) {
            const float *in = (const float *)x->data + row * n;
            float *out = (float *)launch->output[0].data + row * n;
            for (int64_t i = 0; i < n; i++) squares += (double)in[i] * (double)in[i];
            double scale = 1 / sqrt(squares / (double)n + a->epsilon);
            for (int64_t i = 0; i < n; i++) out[i] = (float)(in[i] * scale);
        } else {
            const double *in = (const double *)x->data + row * n;
            double *out = (double *)launch->output[0].data + row * n;
            for (int64_t i = 0; i < n; i++) squares += in[i] * in[i];
            double scale = 1 / sqrt(squares / (double)n + a->epsilon);
            for (int64_t i = 0; i < n; i++) out[i] = in[i] * scale;
        }
    }
}

/* ---- 2. the derivative, in public operations: (t - y mean(t y)) / r */

static ad_tensor rms_slope(ad_context *ctx, const rms_attributes *a, ad_tensor x, ad_tensor y,
                           ad_tensor t) {
    unsigned last = AD_AXIS(ad_shape_of(ctx, x).rank - 1);
    ad_tensor square = ad_mean(ctx, ad_square(ctx, x), last, true);                // (..., 1)
    ad_tensor scale = ad_rsqrt(ctx, ad_affine(ctx, square, 1, a->epsilon));        // 1 / r
    ad_tensor along = ad_mean(ctx, ad_mul(ctx, t, y), last, true);                 // (..., 1)
    return ad_mul(ctx, ad_sub(ctx, t, ad_mul(ctx, y, along)), scale);
}

static void rms_vjp(ad_vjp *call) { // one input: it is only called when that is wanted
    call->dx[0] = rms_slope(call->ctx, call->attributes, call->input[0], call->output[0],
                            call->dy[0]);
}

static void rms_jvp(ad_jvp *call) {
    call->dy[0] = rms_slope(call->ctx, call->attributes, call->input[0], call->output[0],
                            call->dx[0]);
}

/* ---- 3. the operation, and what users call */

static void rms_cost(const ad_infer *call, double *flops, double *bytes) {
    double count = (double)ad_view_count(&call->input[0]);
    *flops = 3 * count, *bytes = 2 * count * (double)ad_type_bytes(call->input[0].type);
}

// What the test harness may feed it, where it stands in a list that the harness walks.
static bool rms_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank < 1 || s->type == AD_I32 || s->type == AD_U32) return false;
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
    *(rms_attributes *)(void *)s->attributes.bytes = (rms_attributes){0.5};
    return true;
}

static const ad_op op_rms_norm = {
    .name = "rms_norm", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .attribute_bytes = sizeof(rms_attributes), .infer = rms_infer, .cpu = rms_cpu,
    .vjp = rms_vjp, .jvp = rms_jvp, .cost = rms_cost, .sample = rms_sample,
    .exempt = "infinity: a row with one in it is not a number"};

static ad_tensor rms_norm(ad_context *ctx, ad_tensor x, double epsilon) {
    return ad_apply1(ctx, &op_rms_norm, 1, &x, &(rms_attributes){epsilon});
}

/* ---- its test, as a user of the library would write it */

enum { ROWS = 3, COLUMNS = 5, COUNT = ROWS * COLUMNS };

static double x0[COUNT], w0[COUNT], v0[COUNT]; // a point, weights of a loss, a direction

// loss(x) = sum(w y^2): not linear in y, so that its second derivative tells something.
static ad_tensor loss_of(ad_context *ctx, ad_tensor x, void *user) {
    ad_tensor y = rms_norm(ctx, x, 1e-3), w = ad_from(ctx, AD_F64, AD_SHAPE(ROWS, COLUMNS), w0);
    (void)user;
    return ad_sum(ctx, ad_mul(ctx, w, ad_square(ctx, y)), AD_ALL_AXES, false);
}

// The gradient at x0 + step v0, by reverse mode; also the loss there.
static double gradient_at(ad_context *ctx, double step, double gradient[COUNT]) {
    double at[COUNT];
    for (int i = 0; i < COUNT; i++) at[i] = x0[i] + step * v0[i];
    ad_scope_begin(ctx, "gradient");
    ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(ROWS, COLUMNS), at)), dx;
    ad_tensor loss = loss_of(ctx, x, NULL);
    ad_grad(ctx, loss, (ad_tensor){0}, 1, &x, &dx, 0);
    ad_read(ctx, dx, gradient, sizeof(double) * COUNT);
    double value = ad_item(ctx, loss);
    ad_scope_end(ctx);
    return value;
}

static bool near(const char *what, double found, double known, double tolerance) {
    bool good = fabs(found - known) <= tolerance * (1 + fabs(known));
    printf("%-36s %.12g, expected %.12g%s\n", what, found, known, good ? "" : "  WRONG");
    return good;
}

static double dot(const double *a, const double *b) {
    double sum = 0;
    for (int i = 0; i < COUNT; i++) sum += a[i] * b[i];
    return sum;
}

static bool test(ad_context *ctx) {
    const double h = 1e-5;
    double here[COUNT], after[COUNT], before[COUNT], slopes[COUNT], product[COUNT];
    for (int i = 0; i < COUNT; i++)
        x0[i] = sin(1.7 * i + 0.3), w0[i] = cos(2.3 * i), v0[i] = sin(0.9 * i * i + 1);

    // The slope along v, three ways: reverse mode, central differences, forward mode.
    gradient_at(ctx, 0, here);
    double difference = gradient_at(ctx, h, after) - gradient_at(ctx, -h, before);
    ad_shape shape = AD_SHAPE(ROWS, COLUMNS);
    ad_tensor x = ad_from(ctx, AD_F64, shape, x0), v = ad_from(ctx, AD_F64, shape, v0);
    ad_tensor tangent = ad_tangent(ctx, loss_of(ctx, ad_dual(ctx, x, v), NULL));
    bool good = near("slope, vjp against differences", dot(here, v0), difference / (2 * h), 1e-8);
    good &= near("slope, jvp against vjp", ad_item(ctx, tangent), dot(here, v0), 1e-12);

    // Second order: the Hessian times v against differences of gradients.
    ad_read(ctx, ad_hvp(ctx, loss_of, NULL, x, v), product, sizeof product);
    for (int i = 0; i < COUNT; i++) slopes[i] = (after[i] - before[i]) / (2 * h);
    good &= near("v'Hv, through both rules", dot(product, v0), dot(slopes, v0), 1e-8);

    // And the definition: a row's mean square is 1 where epsilon does not matter.
    ad_tensor y = rms_norm(ctx, ad_from(ctx, AD_F32, AD_SHAPE(1, 2), (float[]){3, 4}), 0);
    ad_tensor square = ad_mean(ctx, ad_square(ctx, y), AD_ALL_AXES, false);
    return near("mean square of a row (f32)", ad_item(ctx, square), 1, 1e-6) && good;
}

int main(void) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    bool good = test(ctx);
    if (ad_failed(ctx)) fprintf(stderr, "custom_operation: %s\n", ad_error_text(ctx));
    good = good && !ad_failed(ctx);
    ad_close(ctx);
    return good ? 0 : 1;
}
