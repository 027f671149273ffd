// The tape's own cost: recording one operation, running its rule backward, and the bytes of a node
// with its output's record. Tensors of four numbers, chains of a thousand operations, so that what
// is left is bookkeeping. Each figure is the best of many chains; the limit of the bookkeeping is
// 100 ns each and 128 bytes (aim: 50 ns).
//
//     bench_record [seconds per case, default 1]

#include <stdio.h>
#include <stdlib.h>

#include "autodiff/core.h"
#include "bench/machine.h"

enum { CHAIN = 1000, LIMIT_NS = 100, LIMIT_BYTES = 128 };

typedef struct bench_case {
    const char *name;
    ad_tensor (*link)(ad_context *ctx, ad_tensor x, ad_tensor constant);
} bench_case;

static ad_tensor neg(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    (void)constant;
    return ad_neg(ctx, x);
}
static ad_tensor exp_of(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    (void)constant;
    return ad_exp(ctx, x);
}
static ad_tensor add(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    return ad_add(ctx, x, constant);
}
static ad_tensor mul(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    return ad_mul(ctx, x, constant);
}
static ad_tensor affine(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    (void)constant;
    return ad_affine(ctx, x, 0.5, 0.25);
}
static ad_tensor reshape(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    ad_shape shape = ad_shape_of(ctx, x).rank == 1 ? AD_SHAPE(2, 2) : AD_SHAPE(4);
    (void)constant;
    return ad_reshape(ctx, x, shape);
}
static ad_tensor transpose(ad_context *ctx, ad_tensor x, ad_tensor constant) {
    (void)constant;
    if (ad_shape_of(ctx, x).rank == 1) x = ad_reshape(ctx, x, AD_SHAPE(2, 2));
    return ad_transpose(ctx, x);
}

static void run_case(const bench_case *c, double seconds) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1});
    const float values[4] = {0.5f, -0.25f, 0.125f, -1}, ones[4] = {1, 1, 1, 1};
    ad_tensor constant = ad_from(ctx, AD_F32, AD_SHAPE(4), values);
    double best_plain = 1e30, best_record = 1e30, best_backward = 1e30, bytes = 0;
    for (double end = bench_now() + seconds; bench_now() < end && !ad_failed(ctx);) {
        ad_scope_begin(ctx, "chain");
        ad_tensor x = ad_from(ctx, AD_F32, AD_SHAPE(4), values), y = x, dx;
        double moment[4];
        moment[0] = bench_now();
        for (int i = 0; i < CHAIN; i++) y = c->link(ctx, y, constant);
        y = x = ad_watch(ctx, x);
        size_t before = ad_memory_read(ctx).tape_bytes;
        moment[1] = bench_now();
        for (int i = 0; i < CHAIN; i++) y = c->link(ctx, y, constant);
        moment[2] = bench_now();
        bytes = (double)(ad_memory_read(ctx).tape_bytes - before) / CHAIN
              + (double)sizeof(ad_record);
        ad_tensor dy = ad_from(ctx, AD_F32, ad_shape_of(ctx, y), ones);
        moment[3] = bench_now();
        ad_grad(ctx, y, dy, 1, &x, &dx, 0);
        const double backward = bench_now() - moment[3];
        ad_scope_end(ctx);
        if (moment[1] - moment[0] < best_plain) best_plain = moment[1] - moment[0];
        if (moment[2] - moment[1] < best_record) best_record = moment[2] - moment[1];
        if (backward < best_backward) best_backward = backward;
    }
    if (ad_failed(ctx)) fprintf(stderr, "%s: %s\n", c->name, ad_error_text(ctx));
    const double record = best_record / CHAIN * 1e9, backward = best_backward / CHAIN * 1e9;
    printf("{\"bench\":\"record\",\"operation\":\"%s\",\"elements\":4,\"unrecorded_ns\":%.1f,"
           "\"record_ns\":%.1f,\"backward_ns\":%.1f,\"limit_ns\":%d,\"record_ratio\":%.2f,"
           "\"backward_ratio\":%.2f,\"node_and_record_bytes\":%.0f,\"limit_bytes\":%d}\n", c->name,
           best_plain / CHAIN * 1e9, record, backward, LIMIT_NS, record / LIMIT_NS,
           backward / LIMIT_NS, bytes, LIMIT_BYTES);
    fflush(stdout);
    ad_close(ctx);
}

int main(int count, char **arguments) {
    const double seconds = count > 1 ? atof(arguments[1]) : 1;
    static const bench_case cases[] = {
        {"neg", neg}, {"add", add}, {"mul", mul}, {"affine", affine}, {"exp", exp_of},
        {"reshape", reshape}, {"transpose", transpose},
    };
    bench_print_peak(false, 1, bench_peak(false, 1));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&cases[i], seconds);
    return 0;
}
