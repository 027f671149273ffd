// Fused multilayer perceptron, forward and backward, against the multiply-add peak of this machine
// measured in the same run. One JSON line a case; FLOP are two a multiply-add of the weights
// themselves (no padding counted), the backward pass twice the forward pass, less the first
// layer's input gradient where it is not asked for.
//
//     bench_mlp [seconds per case, default 0.5]

#include <stdio.h>
#include <stdlib.h>

#include "autodiff/cpu/amx.h"
#include "autodiff/cpu/mlp.h"
#include "bench/machine.h"

// ---------------------------------------------------------------- cases

typedef struct bench_case {
    ad_cpu_mlp mlp;
    int64_t rows;
    bool input_gradient;
} bench_case;

static void *filled(size_t bytes) {
    float *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    for (size_t i = 0; i < bytes / 4; i++)
        memory[i] = (float)((i * 2654435761u >> 7) & 1023u) / 1024.0f - 0.5f;
    return memory;
}

static void run_case(const bench_case *c, int threads, double seconds, double machine_peak) {
    const ad_cpu_mlp *mlp = &c->mlp;
    const int in = mlp->width[0], out = mlp->width[mlp->layers];
    float *x = filled((size_t)(c->rows * in) * 4), *dx = filled((size_t)(c->rows * in) * 4);
    float *y = filled((size_t)(c->rows * out) * 4), *dy = filled((size_t)(c->rows * out) * 4);
    float *w[AD_CPU_MLP_LAYERS_MAX], *b[AD_CPU_MLP_LAYERS_MAX];
    float *dw[AD_CPU_MLP_LAYERS_MAX], *db[AD_CPU_MLP_LAYERS_MAX];
    double products = 0;
    for (int l = 0; l < mlp->layers; l++) {
        size_t count = (size_t)mlp->width[l] * (size_t)mlp->width[l + 1];
        w[l] = filled(count * 4), dw[l] = filled(count * 4);
        b[l] = filled((size_t)mlp->width[l + 1] * 4), db[l] = filled((size_t)mlp->width[l + 1] * 4);
        products += (double)count;
    }
    void *saved = filled(ad_cpu_mlp_saved_bytes(mlp, c->rows));
    void *forward_space = filled(ad_cpu_mlp_workspace(mlp, c->rows, threads, false));
    void *backward_space = filled(ad_cpu_mlp_workspace(mlp, c->rows, threads, true));
    ad_cpu_mlp_forward_job forward = {
        .rows = c->rows, .x = x, .weights = (const float *const *)w,
        .biases = (const float *const *)b, .y = y, .saved = saved, .workspace = forward_space};
    ad_cpu_mlp_backward_job backward = {
        .rows = c->rows, .x = x, .weights = (const float *const *)w, .saved = saved, .dy = dy,
        .dx = c->input_gradient ? dx : NULL, .dweights = dw, .dbiases = db,
        .workspace = backward_space};

    double best_forward = 1e30, best_backward = 1e30;
    for (double end = bench_now() + seconds; bench_now() < end;) {
        const bench_moment begin = bench_look();
        ad_cpu_mlp_forward(mlp, threads, &forward);
        const bench_moment middle = bench_look();
        ad_cpu_mlp_backward(mlp, threads, &backward);
        const bench_moment after = bench_look();
        const double first_half = bench_seconds(begin, middle, threads);
        const double second_half = bench_seconds(middle, after, threads);
        if (first_half < best_forward) best_forward = first_half;
        if (second_half < best_backward) best_backward = second_half;
    }
    const double flop_forward = 2 * products * (double)c->rows;
    const double first = (double)mlp->width[0] * mlp->width[1];
    const double flop_backward =
        2 * flop_forward - (c->input_gradient ? 0 : 2 * first * (double)c->rows);
    const double rate = (flop_forward + flop_backward) / (best_forward + best_backward) / 1e9;
    printf("{\"bench\":\"mlp\",\"widths\":\"");
    for (int l = 0; l <= mlp->layers; l++) printf("%s%d", l ? "-" : "", mlp->width[l]);
    printf("\",\"rows\":%lld,\"precision\":\"%s\",\"threads\":%d,\"input_gradient\":%s,"
           "\"forward_us\":%.2f,\"backward_us\":%.2f,\"gflops_forward\":%.1f,"
           "\"gflops_backward\":%.1f,\"gflops\":%.1f,\"of_peak\":%.3f,\"total_to_forward\":%.2f}\n",
           (long long)c->rows, mlp->bf16 ? "bf16" : "f32", threads,
           c->input_gradient ? "true" : "false", best_forward * 1e6, best_backward * 1e6,
           flop_forward / best_forward / 1e9, flop_backward / best_backward / 1e9, rate,
           rate / machine_peak, (best_forward + best_backward) / best_forward);
    fflush(stdout);
    free(x), free(dx), free(y), free(dy), free(saved), free(forward_space), free(backward_space);
    for (int l = 0; l < mlp->layers; l++) free(w[l]), free(dw[l]), free(b[l]), free(db[l]);
}

int main(int count, char **arguments) {
    const double seconds = count > 1 ? atof(arguments[1]) : 0.5;
    static const bench_case cases[] = {
        {{.layers = 3, .width = {32, 64, 64, 16}}, 65536, false},
        {{.layers = 3, .width = {32, 64, 64, 16}}, 65536, true},
        {{.layers = 3, .width = {32, 64, 64, 16}}, 1024, true},
        {{.layers = 3, .width = {32, 64, 64, 16}}, 64, true},
        {{.layers = 3, .width = {32, 64, 64, 16}}, 1, true},
        {{.layers = 2, .width = {32, 64, 16}}, 65536, true},
        {{.layers = 3, .width = {32, 64, 64, 3}}, 65536, true},
        {{.layers = 3, .width = {64, 128, 128, 64}}, 65536, true},
    };
    for (int threads = 1; threads <= 2; threads++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            double rate = bf16 ? bench_peak(true, threads) : bench_peak(false, threads);
            bench_print_peak(bf16, threads, rate);
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
                bench_case c = cases[i];
                c.mlp.has_bias = true, c.mlp.bf16 = bf16;
                c.mlp.amx = bf16 && ad_amx_ready();
                c.mlp.hidden_activation = AD_CPU_RELU;
                run_case(&c, threads, seconds, rate);
            }
        }
    }
    return 0;
}
