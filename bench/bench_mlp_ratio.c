// What a gradient costs through the tape: (forward + backward) / forward of a multilayer perceptron
// whose input is tracked, so that every layer has both of its products in the backward pass. The
// products alone count 3 exactly; the measured ratio should stay below 3.3. Forward alone is not
// recorded. The two take turns, and the ratio is the median over the turns: on a machine with
// neighbours the best of each would be found at other moments. The times are the medians as well.
//
//     bench_mlp_ratio [seconds per case, default 1]

#include <stdio.h>
#include <stdlib.h>

#include "autodiff/autodiff.h"
#include "bench/machine.h"

enum { LAYERS = 4, PASSES = 12, PASSES_MAX = 4096 };

typedef struct bench_case {
    const char *name;
    bool fused;           // ad_mlp, else a chain of ad_dense
    int64_t rows, width;
} bench_case;

// in: x, weights, biases.
static ad_tensor evaluate(ad_context *ctx, const bench_case *c, const ad_tensor *in) {
    if (c->fused)
        return ad_mlp(ctx, in[0], LAYERS, in + 1, in + 1 + LAYERS, (ad_tensor){0}, NULL);
    ad_tensor x = in[0];
    for (int l = 0; l < LAYERS; l++)
        x = ad_dense(ctx, x, in[1 + l], in[1 + LAYERS + l], l + 1 < LAYERS ? AD_RELU : AD_LINEAR);
    return x;
}

static double once(ad_context *ctx, const bench_case *c, const ad_tensor *given, ad_tensor dy,
                   bool gradient, double *flops) {
    ad_tensor in[2 * LAYERS + 1], dx[2 * LAYERS + 1];
    ad_scope_begin(ctx, "pass");
    for (int i = 0; i < 2 * LAYERS + 1; i++) in[i] = gradient ? ad_watch(ctx, given[i]) : given[i];
    const double before = ad_memory_read(ctx).flops, begin = bench_now();
    ad_tensor y = evaluate(ctx, c, in);
    if (gradient) ad_grad(ctx, y, dy, 2 * LAYERS + 1, in, dx, AD_GRAD_RELEASE);
    const double took = bench_now() - begin;
    *flops = ad_memory_read(ctx).flops - before;
    ad_scope_end(ctx);
    return took;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) { // sorts them
    qsort(x, (size_t)n, sizeof *x, compare);
    return x[n / 2];
}

static void run_case(const bench_case *c, int threads, double seconds, double peak) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    ad_tensor in[2 * LAYERS + 1];
    in[0] = ad_uniform(ctx, AD_F32, AD_SHAPE(c->rows, c->width), -1, 1);
    for (int l = 0; l < LAYERS; l++) {
        in[1 + l] = ad_he_normal(ctx, c->width, c->width);
        in[1 + LAYERS + l] = ad_zeros(ctx, c->width);
    }
    ad_tensor dy = ad_uniform(ctx, AD_F32, AD_SHAPE(c->rows, c->width), -1, 1);
    static double took[2][PASSES_MAX], ratio[PASSES_MAX];
    double flops[2], end = bench_now() + seconds;
    int passes = 0;
    while ((passes < PASSES || bench_now() < end) && passes < PASSES_MAX && !ad_failed(ctx)) {
        for (int gradient = 0; gradient < 2; gradient++)
            took[gradient][passes] = once(ctx, c, in, dy, gradient, &flops[gradient]);
        ratio[passes] = took[1][passes] / took[0][passes];
        passes++;
    }
    const bool failed = ad_failed(ctx);
    if (failed) fprintf(stderr, "%s: %s\n", c->name, ad_error_text(ctx));
    ad_close(ctx);
    if (failed) return;
    const double forward = median(took[0], passes), both = median(took[1], passes);
    printf("{\"bench\":\"mlp_ratio\",\"network\":\"%s\",\"layers\":%d,\"width\":%lld,\"rows\":%lld,"
           "\"threads\":%d,\"forward_us\":%.1f,\"forward_and_backward_us\":%.1f,\"ratio\":%.2f,"
           "\"limit\":3.3,\"flop_ratio\":%.3f,\"of_peak\":%.3f}\n", c->name, LAYERS,
           (long long)c->width, (long long)c->rows, threads, forward * 1e6, both * 1e6,
           median(ratio, passes), flops[1] / flops[0], flops[1] / both / 1e9 / peak);
    fflush(stdout);
}

int main(int count, char **arguments) {
    const double seconds = count > 1 ? atof(arguments[1]) : 1;
    static const bench_case cases[] = {
        {"fused", true, 1024, 64},   {"fused", true, 16384, 64},   {"dense", false, 1024, 64},
        {"dense", false, 1024, 256}, {"dense", false, 4096, 256}, {"dense", false, 1024, 512},
    };
    for (int threads = 1; threads <= 2; threads++) {
        const double peak = bench_peak(false, threads);
        bench_print_peak(false, threads, peak);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            run_case(&cases[i], threads, seconds, peak);
    }
    return 0;
}
