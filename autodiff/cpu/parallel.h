/* parallel.h: sharing tasks among threads, for kernels.
 *
 * A task is a fixed piece of work whose bits do not depend on who does it. Small jobs run at once,
 * without entering OpenMP at all: even a serial parallel region costs more than a tiny kernel. */
#ifndef ADJOINT_CPU_PARALLEL_H
#define ADJOINT_CPU_PARALLEL_H

#include <stdint.h>

// Elements that a plain kernel does in about 20 microseconds.
enum { AD_PARALLEL_LEAST = 1 << 16 };

typedef void (*ad_tasks)(const void *user, int64_t first, int64_t last);

// Runs tasks 0 ... count-1 in runs of neighbours. work: elements touched, decides whether to share.
static inline void ad_parallel(int threads, int64_t work, int64_t count, ad_tasks body,
                               const void *user) {
    if (threads <= 1 || work < AD_PARALLEL_LEAST || count <= 1) {
        if (count > 0) body(user, 0, count);
        return;
    }
    int64_t parts = count < threads ? count : threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++)
        body(user, count * part / parts, count * (part + 1) / parts);
}

#endif
