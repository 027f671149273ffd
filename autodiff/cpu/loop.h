/* loop.h: walking up to four strided operands of one shape together, in pieces for threads.
 *
 * Axes that lie behind one another in memory for every operand are merged first, so that plain
 * arrays become one long row. A body sees one piece of a row: n elements, a pointer and a step in
 * elements for each operand (0: broadcast). Pieces do not depend on the thread count. */
#ifndef ADJOINT_CPU_LOOP_H
#define ADJOINT_CPU_LOOP_H

#include "autodiff/autodiff.h"

enum { AD_LOOP_OPERANDS = 4, AD_LOOP_PIECE = 16384 };

typedef struct ad_loop {
    int operands, rank;
    int64_t size[AD_RANK_MAX];                     // the last axis is the row
    int64_t stride[AD_LOOP_OPERANDS][AD_RANK_MAX]; // elements
    char *data[AD_LOOP_OPERANDS];
    int64_t element[AD_LOOP_OPERANDS];             // bytes
    int64_t rows, row;                             // rows of `row` elements
} ad_loop;

typedef void (*ad_loop_body)(const void *user, int64_t n, char *const *data,
                             const int64_t *stride);

// shape: the common (broadcast) shape; each view's axes are aligned to its right end.
void ad_loop_plan(ad_loop *loop, const ad_view *shape, int operands, const ad_view *const *view);
void ad_loop_run(const ad_loop *loop, int threads, ad_loop_body body, const void *user);

#endif
