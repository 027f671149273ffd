// Dense f32 products against OpenBLAS, if it is installed, on the kernel that it chooses for this
// machine, and against the multiply-add peak measured in the same run. One JSON line a case, both
// in turn so that the neighbours' load hits both alike; the best of many.
//
// OpenBLAS is opened at run time. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE must not be set, or the
// peer is not at its best; they are taken out of the environment here.
//
//     bench_gemm [seconds per case, default 0.2]

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "autodiff/cpu/gemm.h"
#include "bench/machine.h"

typedef void (*sgemm_function)(int order, int transposed_a, int transposed_b, int m, int n, int k,
                               float alpha, const float *a, int lda, const float *b, int ldb,
                               float beta, float *c, int ldc);

typedef struct peer {
    sgemm_function multiply;
    void (*set_threads)(int threads);
    const char *core;
} peer;

static peer peer_open(void) {
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so"};
    peer blas = {.core = "none"};
    unsetenv("OPENBLAS_CORETYPE");
    unsetenv("OPENBLAS_L2_SIZE");
    void *library = NULL;
    for (int i = 0; i < 2 && !library; i++) library = dlopen(names[i], RTLD_NOW);
    if (!library) return blas;
    char *(*core)(void) = (char *(*)(void))dlsym(library, "openblas_get_corename");
    blas.set_threads = (void (*)(int))dlsym(library, "openblas_set_num_threads");
    blas.multiply = (sgemm_function)dlsym(library, "cblas_sgemm");
    if (core) blas.core = core();
    return blas;
}

static float *filled(int64_t count) {
    float *numbers = aligned_alloc(64, ((size_t)count * 4 + 127) / 64 * 64);
    for (int64_t i = 0; i < count; i++) numbers[i] = (float)(i % 97) / 97.0f - 0.5f;
    return numbers;
}

static void run_case(const peer *blas, int64_t m, int64_t n, int64_t k, int variant, int threads,
                     double seconds, double machine_peak) {
    float *a = filled(m * k), *b = filled(k * n), *c = filled(m * n);
    size_t bytes = ad_cpu_gemm_workspace(m, n, k, false, threads);
    void *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    ad_cpu_gemm job = {.transposed_a = variant & 1, .transposed_b = variant & 2,
                       .m = m, .n = n, .k = k, .a = a, .b = b, .c = c};
    // So many calls between two looks at the clock that a look costs nothing.
    const double flop = 2.0 * (double)m * (double)n * (double)k;
    const int calls = 1 + (int)(1e7 / flop);
    enum { NO_TRANS = 111, TRANS = 112, ROW_MAJOR = 101 };
    const int lda = (int)(variant & 1 ? m : k), ldb = (int)(variant & 2 ? k : n);
    double ours = 1e30, theirs = 1e30;
    if (blas->multiply && blas->set_threads) blas->set_threads(threads);
    for (double end = bench_now() + seconds; bench_now() < end;) {
        bench_moment begin = bench_look();
        for (int i = 0; i < calls; i++) ad_cpu_gemm_f32(&job, threads, workspace);
        double took = bench_seconds(begin, bench_look(), threads);
        if (took < ours) ours = took;
        if (!blas->multiply) continue;
        begin = bench_look();
        for (int i = 0; i < calls; i++)
            blas->multiply(ROW_MAJOR, variant & 1 ? TRANS : NO_TRANS,
                           variant & 2 ? TRANS : NO_TRANS, (int)m, (int)n, (int)k, 1, a, lda, b,
                           ldb, 0, c, (int)n);
        took = bench_seconds(begin, bench_look(), threads);
        if (took < theirs) theirs = took;
    }
    ours /= calls, theirs /= calls;
    printf("{\"bench\":\"gemm\",\"m\":%d,\"n\":%d,\"k\":%d,\"transposed\":\"%s%s\",\"threads\":%d,"
           "\"us\":%.3f,\"gflops\":%.1f,\"of_peak\":%.3f", (int)m, (int)n, (int)k,
           variant & 1 ? "a" : "", variant & 2 ? "b" : "", threads, ours * 1e6, flop / ours / 1e9,
           flop / ours / 1e9 / machine_peak);
    if (blas->multiply)
        printf(",\"openblas_us\":%.3f,\"openblas_gflops\":%.1f,\"of_openblas\":%.3f", theirs * 1e6,
               flop / theirs / 1e9, theirs / ours);
    printf(",\"openblas_core\":\"%s\"}\n", blas->core);
    fflush(stdout);
    free(a), free(b), free(c), free(workspace);
}

int main(int count, char **arguments) {
    static const int64_t sizes[] = {16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
    const double seconds = count > 1 ? atof(arguments[1]) : 0.2;
    peer blas = peer_open();
    for (int threads = 1; threads <= 2; threads++) {
        const double rate = bench_peak(false, threads);
        bench_print_peak(false, threads, rate);
        for (int variant = 0; variant < 3; variant++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                const int64_t n = sizes[i];
                if (threads == 2 && (n < 128 || variant)) continue;
                run_case(&blas, n, n, n, variant, threads, seconds, rate);
            }
        // A layer on a batch: tall and narrow.
        run_case(&blas, 16384, 64, 64, 2, threads, seconds, rate);
        run_case(&blas, 16384, 256, 256, 2, threads, seconds, rate);
    }
    return 0;
}
