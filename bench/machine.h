// What this machine can do at most, measured: the clock and the multiply-add peak.

#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "autodiff/cpu/amx.h"

enum { BENCH_PEAK_CHAINS = 12, BENCH_PEAK_STEPS = 100000 };

static inline double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A moment on the wall and of this thread's own processor time.
typedef struct bench_moment {
    double wall, processor;
} bench_moment;

static inline bench_moment bench_look(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (bench_moment){bench_now(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec};
}

// Seconds between two moments: on the wall, but for long work on one thread its processor time, so
// that neighbours who take the core away meanwhile do not count. The processor clock is coarse.
static inline double bench_seconds(bench_moment begin, bench_moment end, int threads) {
    const double wall = end.wall - begin.wall;
    return threads == 1 && wall > 2e-3 ? end.processor - begin.processor : wall;
}

// Multiply-adds of one thread on operands in registers, or in the matrix unit on tiles from the
// nearest cache; returns how many were done.
static inline double bench_peak_work(const bool bf16, int thread, double *check) {
#if AD_AMX
    if (bf16 && ad_amx_ready()) {
        _Alignas(64) uint32_t operand[AD_AMX_SIZE * AD_AMX_SIZE] = {0};
        ad_amx unit;
        ad_amx_begin(&unit);
        for (int step = 0; step < BENCH_PEAK_STEPS; step++)
            ad_amx_multiply(4, AD_AMX_SIZE, operand, AD_AMX_SIZE, operand, 0);
        ad_amx_end();
        return 4.0 * 2 * AD_AMX_SIZE * AD_AMX_SIZE * AD_AMX_SIZE * BENCH_PEAK_STEPS;
    }
#endif
    ad_f32v sum[BENCH_PEAK_CHAINS];
    volatile float seed = 1e-3f;
    ad_f32v a = ad_f32v_set(0.999f + seed * (float)thread), b = ad_f32v_set(seed);
    AD_UNROLL
    for (int i = 0; i < BENCH_PEAK_CHAINS; i++) sum[i] = ad_f32v_set((float)i);
    for (int step = 0; step < BENCH_PEAK_STEPS; step++) {
        AD_UNROLL
        for (int i = 0; i < BENCH_PEAK_CHAINS; i++)
            sum[i] = bf16 ? ad_bf16v_dot((ad_u32v)a, (ad_u32v)b, sum[i])
                          : ad_f32v_fma(sum[i], a, b);
    }
    AD_UNROLL
    for (int i = 0; i < BENCH_PEAK_CHAINS; i++) *check += (double)sum[i][0];
    return (double)AD_LANES * BENCH_PEAK_CHAINS * (bf16 ? 2 : 1) * BENCH_PEAK_STEPS;
}

// GFLOP/s on every thread at once.
static inline double bench_peak_once(const bool bf16, int threads) {
    const bench_moment begin = bench_look();
    double check = 0, products = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : check, products)
    for (int t = 0; t < threads; t++)
        products += bf16 ? bench_peak_work(true, t, &check) : bench_peak_work(false, t, &check);
    const double seconds = bench_seconds(begin, bench_look(), threads);
    volatile double sink = check; // the sums must be worth computing
    (void)sink;
    return 2 * products / seconds / 1e9;
}

static inline double bench_peak(const bool bf16, int threads) {
    double best = 0;
    for (double end = bench_now() + 0.5; bench_now() < end;) {
        double rate = bf16 ? bench_peak_once(true, threads) : bench_peak_once(false, threads);
        if (rate > best) best = rate;
    }
    return best;
}

static inline void bench_print_peak(bool bf16, int threads, double rate) {
    printf("{\"bench\":\"peak\",\"precision\":\"%s\",\"threads\":%d,\"lanes\":%d,"
           "\"gflops\":%.1f}\n", bf16 ? "bf16" : "f32", threads, AD_LANES, rate);
}

#endif
