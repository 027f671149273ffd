// The machine, on one line: processor, what the build uses of it, and the two limits that other
// figures are read against: the multiply-add peak and the memory bandwidth, with every thread.
//
//     bench_machine [threads, default 2]

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "autodiff/autodiff.h"
#include "bench/bandwidth.h"

enum { COUNT = 1 << 24, PASSES = 12 }; // numbers of an array: 64 MB

static void processor_name(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n\"\\")] = 0;
        snprintf(name, size, "%s", colon + 2);
        break;
    }
    if (file) fclose(file);
}

// Gigabytes a second of c = a + b, the best of some passes.
static double bandwidth(int threads) {
    bench_arrays arrays = bench_arrays_open(COUNT);
    double best = 1e30;
    for (int pass = 0; pass < PASSES; pass++) {
        const double seconds = bench_stream_once(BENCH_ADD, threads, &arrays);
        if (seconds < best) best = seconds;
    }
    const double bytes = bench_stream_bytes(BENCH_ADD, &arrays);
    bench_arrays_close(&arrays);
    return bytes / best / 1e9;
}

int main(int count, char **arguments) {
    const int threads = count > 1 ? atoi(arguments[1]) : 2;
    char name[256];
    processor_name(name, sizeof name);
    printf("{\"bench\":\"machine\",\"processor\":\"%s\",\"cores\":%ld,\"threads\":%d,"
           "\"build\":\"%s\",\"peak_f32_gflops\":%.1f,\"peak_bf16_gflops\":%.1f,"
           "\"bandwidth_gigabytes_per_second\":%.2f}\n", name, sysconf(_SC_NPROCESSORS_ONLN),
           threads, ad_build_text(), bench_peak(false, threads), bench_peak(true, threads),
           bandwidth(threads));
    return 0;
}
