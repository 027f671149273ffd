// The fused multilayer perceptron against plain f64 loops, over widths and row counts that hit
// every tail, with strides, without saved activations, with gradients left out; and the promise
// that the bits do not depend on the number of threads.
//
// In bf16 the reference rounds where the kernel rounds, so what is left are the differences of
// f32 sums, and now and then a hidden number that rounds to the other neighbour: 49 of 50 numbers
// are held to 2^-7 of their scale, all to 2^-4. Where a number so close to the kink of the
// activation does, the gradient takes another path: such rows are given no cotangent.

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "autodiff/autodiff.h"
#include "autodiff/cpu/amx.h"
#include "autodiff/cpu/mlp.h"

enum { STRIDE_EXTRA = 5, GUARD = 64 };
static const float guard_value = -12345.0f;

typedef struct network {
    ad_cpu_mlp mlp;
    int64_t rows;
    int64_t x_stride, y_stride;
    float *x, *y, *dy, *dx; // rows are `stride` apart
    float *weights[AD_CPU_MLP_LAYERS_MAX], *biases[AD_CPU_MLP_LAYERS_MAX];
    float *dweights[AD_CPU_MLP_LAYERS_MAX], *dbiases[AD_CPU_MLP_LAYERS_MAX];
    void *saved;
} network;

typedef struct reference {
    double *h[AD_CPU_MLP_LAYERS_MAX + 1]; // h[0] = x, h[layers] = y
    double *dx;
    bool *near_kink; // (rows) a hidden number is
    double *dweights[AD_CPU_MLP_LAYERS_MAX], *dbiases[AD_CPU_MLP_LAYERS_MAX];
} reference;

static uint64_t random_state = 1;

static float random_number(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (1 << 24) * 2 - 1);
}

static float *random_numbers(size_t count, float scale) {
    float *numbers = malloc((count + GUARD) * sizeof *numbers);
    for (size_t i = 0; i < count; i++) numbers[i] = scale * random_number();
    for (size_t i = count; i < count + GUARD; i++) numbers[i] = guard_value;
    return numbers;
}

static void check_guard(const float *numbers, size_t count, const char *name) {
    for (size_t i = count; i < count + GUARD; i++)
        cr_assert(numbers[i] == guard_value, "%s: wrote %zu past its end", name, i - count);
}

// Memory of not-a-numbers, so that what is read before it was written shows, and a guard behind.
static void *poisoned(size_t bytes) {
    char *memory = aligned_alloc(64, (bytes + GUARD + 127) / 64 * 64);
    memset(memory, 0xff, bytes + GUARD);
    return memory;
}

static void check_poison(const void *memory, size_t bytes, const char *name) {
    for (size_t i = bytes; i < bytes + GUARD; i++)
        cr_assert(((const uint8_t *)memory)[i] == 0xff, "%s: wrote %zu past its end", name,
                  i - bytes);
}

static network network_make(ad_cpu_mlp mlp, int64_t rows, int extra) {
    network net = {.mlp = mlp, .rows = rows};
    const int in = mlp.width[0], out = mlp.width[mlp.layers];
    net.x_stride = in + extra, net.y_stride = out + extra;
    net.x = random_numbers((size_t)(rows * net.x_stride), 1);
    net.dx = random_numbers((size_t)(rows * net.x_stride), 1);
    net.y = random_numbers((size_t)(rows * net.y_stride), 1);
    net.dy = random_numbers((size_t)(rows * net.y_stride), 1);
    for (int l = 0; l < mlp.layers; l++) {
        size_t k = (size_t)mlp.width[l], n = (size_t)mlp.width[l + 1];
        net.weights[l] = random_numbers(k * n, 2 / sqrtf((float)k));
        net.biases[l] = random_numbers(n, 0.3f);
        net.dweights[l] = random_numbers(k * n, 1);
        net.dbiases[l] = random_numbers(n, 1);
    }
    net.saved = poisoned(ad_cpu_mlp_saved_bytes(&net.mlp, rows));
    return net;
}

static void network_free(network *net) {
    free(net->x), free(net->y), free(net->dx), free(net->dy), free(net->saved);
    for (int l = 0; l < net->mlp.layers; l++) {
        free(net->weights[l]), free(net->biases[l]);
        free(net->dweights[l]), free(net->dbiases[l]);
    }
}

static void run_forward(network *net, int threads, bool save) {
    const size_t bytes = ad_cpu_mlp_workspace(&net->mlp, net->rows, threads, false);
    void *workspace = poisoned(bytes);
    ad_cpu_mlp_forward(&net->mlp, threads, &(ad_cpu_mlp_forward_job){
        .rows = net->rows, .x = net->x, .x_stride = net->x_stride,
        .weights = (const float *const *)net->weights,
        .biases = (const float *const *)net->biases, .y = net->y, .y_stride = net->y_stride,
        .saved = save ? net->saved : NULL, .workspace = workspace});
    check_poison(workspace, bytes, "workspace");
    check_poison(net->saved, ad_cpu_mlp_saved_bytes(&net->mlp, net->rows), "saved");
    free(workspace);
}

static void run_backward(network *net, int threads, bool input, bool accumulate) {
    const size_t bytes = ad_cpu_mlp_workspace(&net->mlp, net->rows, threads, true);
    void *workspace = poisoned(bytes);
    ad_cpu_mlp_backward(&net->mlp, threads, &(ad_cpu_mlp_backward_job){
        .rows = net->rows, .x = net->x, .x_stride = net->x_stride,
        .weights = (const float *const *)net->weights, .saved = net->saved, .dy = net->dy,
        .dy_stride = net->y_stride, .dx = input ? net->dx : NULL, .dx_stride = net->x_stride,
        .dweights = net->dweights, .dbiases = net->mlp.has_bias ? net->dbiases : NULL,
        .accumulate = accumulate, .workspace = workspace});
    check_poison(workspace, bytes, "workspace");
    free(workspace);
}

// ---------------------------------------------------------------- the reference

static double rounded(const ad_cpu_mlp *mlp, double value) {
    if (!mlp->bf16) return value;
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    memcpy(&single, &bits, sizeof bits);
    return (double)single;
}

static double activated(const ad_cpu_mlp *mlp, double z) {
    if (mlp->hidden_activation == AD_CPU_IDENTITY || z > 0) return z;
    return mlp->hidden_activation == AD_CPU_LEAKY_RELU ? z * (double)mlp->leak : 0;
}

static double slope(const ad_cpu_mlp *mlp, double h) {
    if (mlp->hidden_activation == AD_CPU_IDENTITY || h > 0) return 1;
    return mlp->hidden_activation == AD_CPU_LEAKY_RELU ? (double)mlp->leak : 0;
}

static void reference_forward(const network *net, reference *ref) {
    const ad_cpu_mlp *mlp = &net->mlp;
    ref->near_kink = calloc((size_t)net->rows + 1, sizeof *ref->near_kink);
    ref->h[0] = calloc((size_t)(net->rows * mlp->width[0] + 1), sizeof(double));
    for (int64_t r = 0; r < net->rows; r++)
        for (int k = 0; k < mlp->width[0]; k++)
            ref->h[0][r * mlp->width[0] + k] = rounded(mlp, (double)net->x[r * net->x_stride + k]);
    for (int l = 0; l < mlp->layers; l++) {
        const int in = mlp->width[l], out = mlp->width[l + 1];
        ref->h[l + 1] = calloc((size_t)(net->rows * out + 1), sizeof(double));
        for (int64_t r = 0; r < net->rows; r++)
            for (int o = 0; o < out; o++) {
                double z = mlp->has_bias ? (double)net->biases[l][o] : 0;
                for (int k = 0; k < in; k++)
                    z += ref->h[l][r * in + k] * rounded(mlp, (double)net->weights[l][o * in + k]);
                if (l + 1 < mlp->layers) {
                    bool kink = mlp->hidden_activation != AD_CPU_IDENTITY;
                    ref->near_kink[r] |= kink && fabs(z) < 0x1p-8;
                    z = rounded(mlp, activated(mlp, z));
                }
                ref->h[l + 1][r * out + o] = z;
            }
    }
}

static void reference_backward(const network *net, reference *ref) {
    const ad_cpu_mlp *mlp = &net->mlp;
    int out = mlp->width[mlp->layers];
    double *dz = calloc((size_t)(net->rows * out + 1), sizeof(double));
    for (int64_t r = 0; r < net->rows; r++)
        for (int o = 0; o < out; o++)
            dz[r * out + o] = rounded(mlp, (double)net->dy[r * net->y_stride + o]);
    for (int l = mlp->layers - 1; l >= 0; l--) {
        const int in = mlp->width[l];
        out = mlp->width[l + 1];
        ref->dweights[l] = calloc((size_t)(in * out), sizeof(double));
        ref->dbiases[l] = calloc((size_t)out, sizeof(double));
        double *below = calloc((size_t)(net->rows * in + 1), sizeof(double));
        for (int64_t r = 0; r < net->rows; r++) {
            for (int o = 0; o < out; o++) {
                const double d = dz[r * out + o];
                ref->dbiases[l][o] += d;
                for (int k = 0; k < in; k++) {
                    ref->dweights[l][o * in + k] += d * ref->h[l][r * in + k];
                    below[r * in + k] += d * rounded(mlp, (double)net->weights[l][o * in + k]);
                }
            }
            for (int k = 0; k < in && l > 0; k++)
                below[r * in + k] =
                    rounded(mlp, below[r * in + k] * slope(mlp, ref->h[l][r * in + k]));
        }
        free(dz);
        dz = below;
    }
    ref->dx = dz;
}

static void reference_free(const network *net, reference *ref) {
    for (int l = 0; l <= net->mlp.layers; l++) free(ref->h[l]);
    for (int l = 0; l < net->mlp.layers; l++) free(ref->dweights[l]), free(ref->dbiases[l]);
    free(ref->dx), free(ref->near_kink);
}

// No cotangent for the rows near a kink; false if none is left.
static bool keep_off_kinks(network *net, const reference *ref) {
    const int out = net->mlp.width[net->mlp.layers];
    int64_t left = 0;
    for (int64_t r = 0; r < net->rows; r++) {
        left += !ref->near_kink[r];
        for (int o = 0; o < out && ref->near_kink[r]; o++) net->dy[r * net->y_stride + o] = 0;
    }
    return left > 0;
}

static void check_close(const char *name, const network *net, const float *got, int64_t stride,
                        const double *expected, int64_t rows, int64_t columns) {
    const double tolerance = net->mlp.bf16 ? 1.0 / 128 : 1e-5;
    double scale = 1e-30, worst = 0;
    int64_t off = 0;
    for (int64_t i = 0; i < rows * columns; i++) scale = fmax(scale, fabs(expected[i]));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            double error = fabs((double)got[r * stride + c] - expected[r * columns + c]);
            if (isnan(error)) error = INFINITY;
            worst = fmax(worst, error);
            off += error > tolerance * scale;
        }
    const bool close = net->mlp.bf16 ? off <= rows * columns / 50 && worst <= scale / 16 : off == 0;
    cr_assert(close,
              "%s of %d layers %d-%d-..-%d, %s, activation %d, %lld rows: off by %g of %g", name,
              net->mlp.layers, net->mlp.width[0], net->mlp.width[1],
              net->mlp.width[net->mlp.layers],
              net->mlp.amx ? "bf16 by AMX" : net->mlp.bf16 ? "bf16" : "f32",
              (int)net->mlp.hidden_activation, (long long)net->rows, worst, scale);
}

static void check_network(ad_cpu_mlp mlp, int64_t rows, int extra) {
    network net = network_make(mlp, rows, extra);
    reference ref = {0};
    const int in = mlp.width[0], out = mlp.width[mlp.layers];
    reference_forward(&net, &ref);
    if (mlp.bf16 && !keep_off_kinks(&net, &ref)) cr_assert(rows < 64, "nothing is left to compare");
    run_forward(&net, 2, true);
    run_backward(&net, 2, true, false);
    reference_backward(&net, &ref);
    check_close("y", &net, net.y, net.y_stride, ref.h[mlp.layers], rows, out);
    check_close("dx", &net, net.dx, net.x_stride, ref.dx, rows, in);
    check_guard(net.y, (size_t)(rows * net.y_stride), "y");
    check_guard(net.dx, (size_t)(rows * net.x_stride), "dx");
    for (int l = 0; l < mlp.layers; l++) {
        const int k = mlp.width[l], n = mlp.width[l + 1];
        check_close("dW", &net, net.dweights[l], k, ref.dweights[l], n, k);
        check_guard(net.dweights[l], (size_t)(k * n), "dW");
        if (!mlp.has_bias) continue;
        check_close("db", &net, net.dbiases[l], n, ref.dbiases[l], 1, n);
        check_guard(net.dbiases[l], (size_t)n, "db");
    }
    reference_free(&net, &ref);
    network_free(&net);
}

// ---------------------------------------------------------------- tests

static const ad_cpu_mlp shapes[] = {
    {.layers = 1, .width = {1, 1}},
    {.layers = 1, .width = {3, 5}, .has_bias = true},
    {.layers = 2, .width = {7, 1, 3}, .has_bias = true},
    {.layers = 2, .width = {32, 64, 16}, .has_bias = true},
    {.layers = 3, .width = {32, 64, 64, 16}, .has_bias = true},
    {.layers = 3, .width = {48, 64, 64, 3}},
    {.layers = 3, .width = {17, 33, 31, 2}, .has_bias = true},
    {.layers = 2, .width = {63, 100, 65}, .has_bias = true},
    {.layers = 2, .width = {128, 128, 1}, .has_bias = true},
    {.layers = 2, .width = {19, 256, 255}, .has_bias = true},
    {.layers = 5, .width = {15, 16, 80, 112, 47, 20}, .has_bias = true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

// The kernels that this machine has: f32, bf16 by vectors, bf16 in the matrix unit.
enum { F32, BF16, BF16_AMX };
static int kernels(void) { return ad_amx_ready() ? 3 : 2; }

static void set_kernel(ad_cpu_mlp *mlp, int kernel) {
    mlp->bf16 = kernel != F32, mlp->amx = kernel == BF16_AMX;
}

static void check_shapes(int kernel) {
    static const int64_t rows[] = {1, 2, 3, 5, 64, 95, 97, 131, 1001};
    for (int s = 0; s < SHAPES; s++)
        for (int r = 0; r < 9; r++) {
            if (rows[r] > 500 && s > 6) continue;
            ad_cpu_mlp mlp = shapes[s];
            set_kernel(&mlp, kernel);
            mlp.hidden_activation = (ad_cpu_activation)((s + r) % 3);
            mlp.leak = 0.25f;
            check_network(mlp, rows[r], (s + r) % 2 ? STRIDE_EXTRA : 0);
        }
}

Test(mlp_kernel, f32_agrees_with_plain_loops) { check_shapes(F32); }

Test(mlp_kernel, bf16_agrees_with_plain_loops) { check_shapes(BF16); }

Test(mlp_kernel, bf16_in_the_matrix_unit_agrees_with_plain_loops) {
    if (kernels() <= BF16_AMX) cr_skip("this build or this process has no matrix unit");
    check_shapes(BF16_AMX);
}

// Where there is a unit to be used, it is: by the kernels when told, by the operation on its own.
// Its order of summation tells.
Test(mlp_kernel, the_matrix_unit_is_used_where_there_is_one) {
    char line[4096] = "";
    FILE *processor = fopen("/proc/cpuinfo", "r");
    while (processor && fgets(line, sizeof line, processor) && strncmp(line, "flags", 5) != 0) {}
    if (processor) fclose(processor);
    const bool known = AD_AMX && strstr(line, " amx_bf16") != NULL;
    if (known && !ad_amx_ready()) cr_skip("the matrix unit is not lent to this process");
    cr_expect_eq(ad_amx_ready(), known);
    if (!known) cr_skip("this build or this processor has no matrix unit");

    ad_cpu_mlp mlp = {.layers = 2, .width = {32, 64, 16}, .bf16 = true, .amx = true,
                      .hidden_activation = AD_CPU_RELU};
    enum { ROWS = 200, Y = ROWS * 16, X = ROWS * 32 };
    network net = network_make(mlp, ROWS, 0);
    run_forward(&net, 1, true), run_backward(&net, 1, true, false);

    ad_context *ctx = ad_open(NULL);
    ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F32, AD_SHAPE(ROWS, 32), net.x));
    ad_tensor w[] = {ad_from(ctx, AD_F32, AD_SHAPE(64, 32), net.weights[0]),
                     ad_from(ctx, AD_F32, AD_SHAPE(16, 64), net.weights[1])};
    ad_tensor dy = ad_from(ctx, AD_F32, AD_SHAPE(ROWS, 16), net.dy), dx = {0};
    ad_tensor y = ad_mlp(ctx, x, 2, w, NULL, (ad_tensor){0}, &(ad_mlp_options){.bf16 = true});
    ad_grad(ctx, y, dy, 1, &x, &dx, 0);
    static float of_y[Y], of_dx[X], of_dw[64 * 32];
    memcpy(of_dw, net.dweights[0], sizeof of_dw);
    cr_assert(ad_read(ctx, y, of_y, sizeof of_y) && ad_read(ctx, dx, of_dx, sizeof of_dx), "%s",
              ad_error_text(ctx));
    cr_expect_eq(memcmp(of_y, net.y, sizeof of_y), 0);
    cr_expect_eq(memcmp(of_dx, net.dx, sizeof of_dx), 0);

    net.mlp.amx = false;
    run_forward(&net, 1, true), run_backward(&net, 1, true, false);
    cr_expect_neq(memcmp(of_y, net.y, sizeof of_y), 0);
    cr_expect_neq(memcmp(of_dx, net.dx, sizeof of_dx), 0);
    cr_expect_neq(memcmp(of_dw, net.dweights[0], sizeof of_dw), 0);
    ad_close(ctx);
    network_free(&net);
}

Test(mlp_kernel, strided_rows_leave_their_neighbours_alone) {
    for (int kernel = F32; kernel < kernels(); kernel++) {
        ad_cpu_mlp mlp = shapes[6];
        set_kernel(&mlp, kernel);
        network net = network_make(mlp, 101, STRIDE_EXTRA);
        const int in = mlp.width[0], out = mlp.width[mlp.layers];
        for (int64_t i = 0; i < 101 * net.x_stride; i++) net.dx[i] = guard_value;
        for (int64_t i = 0; i < 101 * net.y_stride; i++) net.y[i] = guard_value;
        run_forward(&net, 1, true);
        run_backward(&net, 1, true, false);
        for (int64_t r = 0; r < 101; r++)
            for (int e = 0; e < STRIDE_EXTRA; e++) {
                cr_assert_eq(net.dx[r * net.x_stride + in + e], guard_value);
                cr_assert_eq(net.y[r * net.y_stride + out + e], guard_value);
            }
        network_free(&net);
    }
}

Test(mlp_kernel, bits_do_not_depend_on_threads_or_neighbours) {
    for (int kernel = F32; kernel < kernels(); kernel++) {
        ad_cpu_mlp mlp = shapes[4];
        set_kernel(&mlp, kernel);
        mlp.hidden_activation = AD_CPU_RELU;
        const int64_t rows = 7001;
        network net = network_make(mlp, rows, 0);
        float *y = NULL, *dx = NULL, *dw = NULL, *db = NULL;
        for (int threads = 1; threads <= 5; threads++) {
            run_forward(&net, threads, true);
            run_backward(&net, threads, true, false);
            if (threads == 1) {
                y = net.y, dx = net.dx, dw = net.dweights[1], db = net.dbiases[0];
                net.y = random_numbers((size_t)rows * 16, 1);
                net.dx = random_numbers((size_t)rows * 32, 1);
                net.dweights[1] = random_numbers(64 * 64, 1);
                net.dbiases[0] = random_numbers(64, 1);
                continue;
            }
            cr_assert_eq(memcmp(y, net.y, (size_t)rows * 16 * 4), 0, "y, %d threads", threads);
            cr_assert_eq(memcmp(dx, net.dx, (size_t)rows * 32 * 4), 0, "dx, %d threads", threads);
            cr_assert_eq(memcmp(dw, net.dweights[1], 64 * 64 * 4), 0, "dW, %d threads", threads);
            cr_assert_eq(memcmp(db, net.dbiases[0], 64 * 4), 0, "db, %d threads", threads);
        }
        // One row alone, from anywhere in the block, has the bits it had among the others.
        for (int64_t row = 0; row < rows; row += 347) {
            network one = net;
            one.rows = 1, one.x = net.x + row * 32, one.dy = net.dy + row * 16;
            one.saved = poisoned(ad_cpu_mlp_saved_bytes(&one.mlp, 1));
            run_forward(&one, 1, true);
            run_backward(&one, 1, true, false);
            cr_assert_eq(memcmp(y + row * 16, one.y, 16 * 4), 0, "y of row %d", (int)row);
            cr_assert_eq(memcmp(dx + row * 32, one.dx, 32 * 4), 0, "dx of row %d", (int)row);
            free(one.saved);
        }
        free(y), free(dx), free(dw), free(db);
        network_free(&net);
    }
}

Test(mlp_kernel, accumulates_and_leaves_out_what_is_not_wanted) {
    for (int kernel = F32; kernel < kernels(); kernel++) {
        ad_cpu_mlp mlp = shapes[4];
        set_kernel(&mlp, kernel);
        mlp.hidden_activation = AD_CPU_RELU;
        network net = network_make(mlp, 300, 0);
        run_forward(&net, 1, true);
        run_backward(&net, 1, true, false);
        float once = net.dweights[0][77], bias_once = net.dbiases[2][3], dx_once = net.dx[40];
        run_backward(&net, 1, true, true);
        cr_assert_eq(net.dweights[0][77], once + once);
        cr_assert_eq(net.dbiases[2][3], bias_once + bias_once);
        cr_assert_eq(net.dx[40], dx_once);

        // The outputs are the same when nothing is saved, and when dx is not asked for.
        float *y = net.y;
        net.y = random_numbers(300 * 16, 1);
        run_forward(&net, 1, false);
        cr_assert_eq(memcmp(y, net.y, 300 * 16 * 4), 0);
        run_backward(&net, 1, false, false);
        cr_assert_eq(net.dweights[0][77], once);

        // Only the last bias: everything else keeps what it held.
        network some = net;
        for (int l = 0; l < 3; l++) some.dweights[l] = NULL;
        some.dbiases[0] = some.dbiases[1] = NULL;
        net.dweights[0][77] = guard_value, net.dbiases[0][0] = guard_value;
        net.dbiases[2][3] = 0;
        run_backward(&some, 1, false, false);
        cr_assert_eq(net.dbiases[2][3], bias_once);
        cr_assert_eq(net.dweights[0][77], guard_value);
        cr_assert_eq(net.dbiases[0][0], guard_value);
        free(y);
        network_free(&net);
    }
}

Test(mlp_kernel, no_rows_mean_zero_gradients) {
    network net = network_make(shapes[4], 0, 0);
    run_forward(&net, 2, true);
    run_backward(&net, 2, true, true);
    cr_assert_neq(net.dweights[0][5], 0);
    run_backward(&net, 2, true, false);
    cr_assert_eq(net.dweights[0][5], 0);
    cr_assert_eq(net.dbiases[2][5], 0);
    network_free(&net);
}

Test(mlp_kernel, not_a_number_is_not_hidden) {
    for (int kernel = F32; kernel < kernels(); kernel++) {
        ad_cpu_mlp mlp = shapes[4];
        set_kernel(&mlp, kernel);
        mlp.hidden_activation = AD_CPU_RELU;
        network net = network_make(mlp, 9, 0);
        net.x[3 * 32 + 2] = NAN;
        run_forward(&net, 1, true);
        cr_assert(isnan(net.y[3 * 16]));
        cr_assert(!isnan(net.y[2 * 16]) && !isnan(net.y[4 * 16]));
        network_free(&net);
    }
}
