// The memory bandwidth of this machine, measured: copy, add and triad over arrays far beyond its
// caches, results written past them. Bytes are those that must move: each operand and the result
// once.

#ifndef BENCH_BANDWIDTH_H
#define BENCH_BANDWIDTH_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "autodiff/cpu/stream.h"
#include "bench/machine.h"

enum { BENCH_STREAM_BLOCK = 256 }; // numbers

typedef enum bench_stream { BENCH_COPY, BENCH_ADD, BENCH_TRIAD } bench_stream;

static const char *const bench_stream_names[] = {"copy", "add", "triad"};

// c = a, a + b or a + 3 b for `count` numbers from `first` on.
static inline void bench_stream_part(bench_stream kind, const float *a, const float *b, float *c,
                                     int64_t first, int64_t end) {
    for (int64_t at = first; at < end; at += BENCH_STREAM_BLOCK) {
        for (int64_t i = at; i < at + BENCH_STREAM_BLOCK; i += AD_LANES) {
            ad_f32v x = ad_f32v_load(a + i);
            ad_stream_ahead(a + i);
            if (kind != BENCH_COPY) ad_stream_ahead(b + i);
            if (kind == BENCH_ADD) x += ad_f32v_load(b + i);
            if (kind == BENCH_TRIAD) x = ad_f32v_fma(ad_f32v_set(3), ad_f32v_load(b + i), x);
            ad_stream_copy(c + i, &x, sizeof x);
        }
    }
    ad_stream_end();
}

typedef struct bench_arrays {
    int64_t count; // numbers, a multiple of the block
    float *a, *b, *c;
} bench_arrays;

static inline float *bench_array(int64_t count) {
    float *x = aligned_alloc(1 << 21, (size_t)count * sizeof *x);
#ifdef MADV_HUGEPAGE
    madvise(x, (size_t)count * sizeof *x, MADV_HUGEPAGE); // as the library does
#endif
    for (int64_t i = 0; i < count; i++) x[i] = (float)(i & 7);
    return x;
}

static inline bench_arrays bench_arrays_open(int64_t count) {
    return (bench_arrays){count, bench_array(count), bench_array(count), bench_array(count)};
}

static inline void bench_arrays_close(bench_arrays *arrays) {
    free(arrays->a), free(arrays->b), free(arrays->c);
}

// Seconds of one pass.
static inline double bench_stream_once(bench_stream kind, int threads, const bench_arrays *x) {
    const int64_t blocks = x->count / BENCH_STREAM_BLOCK;
    const double begin = bench_now();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        bench_stream_part(kind, x->a, x->b, x->c, blocks * t / threads * BENCH_STREAM_BLOCK,
                          blocks * (t + 1) / threads * BENCH_STREAM_BLOCK);
    return bench_now() - begin;
}

static inline double bench_stream_bytes(bench_stream kind, const bench_arrays *x) {
    return (double)x->count * sizeof(float) * (kind == BENCH_COPY ? 2 : 3);
}

#endif
