// Elementwise operations on large arrays against the memory bandwidth of this machine, measured in
// the same run with hand-written copy, add and triad. An operation's bytes are those that must
// move: each large operand and the result once; its limit is the loop that moves the same arrays.
// The two take turns. of_bandwidth is the median of the ratios of neighbouring passes, because
// other programs on the machine take bandwidth from both, and never evenly; of_best is the ratio of
// the best passes.
//
//     bench_elementwise [seconds per case, default 1]

#include <stdio.h>
#include <stdlib.h>

#include "autodiff/autodiff.h"
#include "bench/bandwidth.h"

enum { COUNT = 1 << 24, PASSES = 12, PASSES_MOST = 4096 }; // numbers of an array: 64 MB

typedef struct bench_case {
    const char *name;
    int arrays;           // operands that are large
    ad_tensor (*run)(ad_context *ctx, const ad_tensor *x); // x: two arrays and a scalar
} bench_case;

static ad_tensor neg(ad_context *ctx, const ad_tensor *x) { return ad_neg(ctx, x[0]); }
static ad_tensor relu(ad_context *ctx, const ad_tensor *x) { return ad_relu(ctx, x[0]); }
static ad_tensor affine(ad_context *ctx, const ad_tensor *x) { return ad_affine(ctx, x[0], 2, 1); }
static ad_tensor exp_of(ad_context *ctx, const ad_tensor *x) { return ad_exp(ctx, x[0]); }
static ad_tensor sigmoid(ad_context *ctx, const ad_tensor *x) { return ad_sigmoid(ctx, x[0]); }
static ad_tensor scaled(ad_context *ctx, const ad_tensor *x) { return ad_mul(ctx, x[0], x[2]); }
static ad_tensor add(ad_context *ctx, const ad_tensor *x) { return ad_add(ctx, x[0], x[1]); }
static ad_tensor mul(ad_context *ctx, const ad_tensor *x) { return ad_mul(ctx, x[0], x[1]); }
static ad_tensor maximum(ad_context *ctx, const ad_tensor *x) {
    return ad_maximum(ctx, x[0], x[1]);
}

static double least(double a, double b) { return a < b ? a : b; }

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run_case(const bench_case *c, int threads, double seconds, const bench_arrays *arrays) {
    const bench_stream kind = c->arrays == 1 ? BENCH_COPY : BENCH_ADD;
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    ad_tensor x[3] = {ad_uniform(ctx, AD_F32, AD_SHAPE(COUNT), -1, 1),
                      ad_uniform(ctx, AD_F32, AD_SHAPE(COUNT), -1, 1), ad_scalar(ctx, AD_F32, 3)};
    static double ratios[PASSES_MOST];
    double best = 1e30, best_loop = 1e30, end = bench_now() + seconds;
    int passes = 0;
    while ((passes < PASSES || bench_now() < end) && passes < PASSES_MOST && !ad_failed(ctx)) {
        const double loop = bench_stream_once(kind, threads, arrays);
        ad_scope_begin(ctx, "pass");
        const double begin = bench_now();
        c->run(ctx, x);
        const double took = bench_now() - begin;
        ad_scope_end(ctx);
        best = least(best, took), best_loop = least(best_loop, loop);
        ratios[passes++] = loop / took;
    }
    qsort(ratios, (size_t)passes, sizeof *ratios, by_size);
    if (ad_failed(ctx)) fprintf(stderr, "%s: %s\n", c->name, ad_error_text(ctx));
    ad_close(ctx);
    const double bytes = bench_stream_bytes(kind, arrays), rate = bytes / best / 1e9;
    const double limit = bytes / best_loop / 1e9;
    printf("{\"bench\":\"elementwise\",\"operation\":\"%s\",\"numbers\":%d,\"threads\":%d,"
           "\"milliseconds\":%.3f,\"gigabytes_per_second\":%.2f,\"limit\":%.2f,"
           "\"of_bandwidth\":%.3f,\"of_best\":%.3f,\"passes\":%d}\n", c->name, COUNT, threads,
           best * 1e3, rate, limit, ratios[passes / 2], rate / limit, passes);
    fflush(stdout);
}

int main(int count, char **arguments) {
    const double seconds = count > 1 ? atof(arguments[1]) : 1;
    static const bench_case cases[] = {
        {"neg", 1, neg}, {"relu", 1, relu}, {"affine", 1, affine}, {"mul by a scalar", 1, scaled},
        {"exp", 1, exp_of}, {"sigmoid", 1, sigmoid}, {"add", 2, add}, {"mul", 2, mul},
        {"maximum", 2, maximum},
    };
    bench_arrays arrays = bench_arrays_open(COUNT);
    for (int threads = 1; threads <= 2; threads++) {
        for (int kind = BENCH_COPY; kind <= BENCH_TRIAD; kind++) {
            double best = 1e30, end = bench_now() + seconds;
            for (int pass = 0; pass < PASSES || bench_now() < end; pass++)
                best = least(best, bench_stream_once((bench_stream)kind, threads, &arrays));
            printf("{\"bench\":\"bandwidth\",\"loop\":\"%s\",\"threads\":%d,"
                   "\"gigabytes_per_second\":%.2f}\n", bench_stream_names[kind], threads,
                   bench_stream_bytes((bench_stream)kind, &arrays) / best / 1e9);
        }
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            run_case(&cases[i], threads, seconds, &arrays);
    }
    bench_arrays_close(&arrays);
    return 0;
}
