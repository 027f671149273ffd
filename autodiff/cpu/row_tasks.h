// Rows shared out in tasks to the threads of one parallel loop.
//
// Every thread has a run of neighbouring tasks, the same one in all loops over as many rows in as
// many tasks, so that it finds near what it made before; when its run is done, it helps with the
// next one's. What is computed must not depend on who does it.

#ifndef AD_CPU_ROW_TASKS_H
#define AD_CPU_ROW_TASKS_H

#include <stdint.h>

enum { AD_ROW_TASKS_THREADS = 256 }; // at most

typedef struct ad_row_tasks {
    int64_t rows, high, count;          // of all, of a task, and tasks
    int threads;
    int64_t next[AD_ROW_TASKS_THREADS]; // the next row of a thread's run
} ad_row_tasks;

static inline void ad_row_tasks_begin(ad_row_tasks *tasks, int64_t rows, int64_t high,
                                      int threads) {
    tasks->rows = rows, tasks->high = high, tasks->threads = threads;
    tasks->count = (rows + high - 1) / high;
    for (int t = 0; t < threads; t++) tasks->next[t] = tasks->count * t / threads * high;
}

// The next task of thread t: its first row, and how many rows; 0 where no task is left.
static inline int64_t ad_row_tasks_take(ad_row_tasks *tasks, int t, int64_t *row) {
    for (int i = 0; i < tasks->threads; i++) {
        const int run = (t + i) % tasks->threads;
        const int64_t after = tasks->count * (run + 1) / tasks->threads * tasks->high;
        const int64_t end = after < tasks->rows ? after : tasks->rows;
        int64_t at;
#pragma omp atomic read
        at = tasks->next[run];
        if (at >= end) continue; // without a write that others would wait for
#pragma omp atomic capture
        {
            at = tasks->next[run];
            tasks->next[run] += tasks->high;
        }
        *row = at;
        if (at < end) return end - at < tasks->high ? end - at : tasks->high;
    }
    return 0;
}

#endif
