/* The CPU device: memory is memory, and a launch runs at once.
 *
 * Fresh memory is not zeroed. Kernels share work among threads by OpenMP; the thread count comes
 * with the launch, and no kernel's result depends on it. */
#include "autodiff/core.h"
#include "autodiff/cpu/amx.h"
#include "autodiff/cpu/simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct cpu_state {
    char name[96];
} cpu_state;

// Large blocks ask for large pages: random access to a table of many megabytes otherwise spends
// its time looking up addresses.
static void *cpu_allocate(ad_device *device, size_t bytes) {
    enum { LARGE_PAGE = 1 << 21 };
    if (bytes < 2 * LARGE_PAGE || device->ctx->options.allocate)
        return ad_host_allocate(device->ctx, bytes);
    size_t rounded = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *memory = aligned_alloc(LARGE_PAGE, rounded);
#ifdef MADV_HUGEPAGE
    if (memory) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
    return memory;
}

static void cpu_release(ad_device *device, void *memory) {
    ad_host_release(device->ctx, memory);
}

static bool cpu_copy(ad_device *device, void *to, const void *from, size_t bytes) {
    (void)device;
    memcpy(to, from, bytes);
    return true;
}

static bool cpu_fill(ad_device *device, void *to, int byte, size_t bytes) {
    (void)device;
    memset(to, byte, bytes);
    return true;
}

static bool cpu_launch(ad_device *device, const ad_launch *launch) {
    (void)device;
    if (!launch->op->cpu) return false;
    launch->op->cpu(launch);
    return true;
}

static void cpu_close(ad_device *device) {
    ad_host_release(device->ctx, device->state);
    device->state = NULL;
}

bool ad_cpu_open(ad_device *device, ad_context *ctx, int threads) {
#ifdef _OPENMP
    if (threads <= 0) threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (threads < 1) threads = 1;
    if (threads > 256) threads = 256;
#else
    threads = 1;
#endif
    ctx->options.threads = threads;
    cpu_state *state = ad_host_allocate(ctx, sizeof *state);
    if (!state) return false;
    snprintf(state->name, sizeof state->name, "cpu (%d x f32 lanes%s, %d thread%s)", AD_LANES,
             ad_amx_ready() ? ", bf16 matrix unit" : "", threads, threads == 1 ? "" : "s");
    *device = (ad_device){.name = state->name, .state = state, .ctx = ctx,
                          .allocate = cpu_allocate, .release = cpu_release, .write = cpu_copy,
                          .read = cpu_copy, .fill = cpu_fill, .launch = cpu_launch,
                          .close = cpu_close};
    return true;
}

const char *ad_build_text(void) {
#ifdef _OPENMP
#define THREADS_TEXT "OpenMP"
#else
#define THREADS_TEXT "serial"
#endif
#if AD_AMX
#define SIMD_TEXT "AVX-512 with bf16, AMX"
#elif defined __AVX512BF16__
#define SIMD_TEXT "AVX-512 with bf16"
#elif defined __AVX512F__
#define SIMD_TEXT "AVX-512"
#elif defined __AVX2__
#define SIMD_TEXT "AVX2"
#else
#define SIMD_TEXT "baseline SIMD"
#endif
#ifdef __clang__ // its __clang_version__ may end in a space, and say where it was built
#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)
#define CLANG TEXT_OF(__clang_major__) "." TEXT_OF(__clang_minor__) \
    "." TEXT_OF(__clang_patchlevel__)
    return "clang " CLANG ", " SIMD_TEXT ", " THREADS_TEXT;
#else
    return "gcc " __VERSION__ ", " SIMD_TEXT ", " THREADS_TEXT;
#endif
}
