/* The strided walk of loop.h. */
#include "autodiff/cpu/loop.h"

#include "autodiff/cpu/parallel.h"

void ad_loop_plan(ad_loop *loop, const ad_view *shape, int operands, const ad_view *const *view) {
    loop->operands = operands;
    loop->rank = 0;
    for (int k = 0; k < operands; k++) {
        loop->data[k] = view[k]->data;
        loop->element[k] = (int64_t)ad_type_bytes(view[k]->type);
    }
    for (int axis = 0; axis < shape->rank; axis++) {
        if (shape->size[axis] == 1) continue;
        int at = loop->rank;
        loop->size[at] = shape->size[axis];
        bool merge = at > 0;
        for (int k = 0; k < operands; k++) {
            int own = axis - (shape->rank - view[k]->rank);
            bool moves = own >= 0 && view[k]->size[own] != 1;
            loop->stride[k][at] = moves ? view[k]->stride[own] : 0;
            // This axis continues the one before where a step there spans all of this one.
            merge = merge && loop->stride[k][at - 1] == loop->stride[k][at] * loop->size[at];
        }
        if (merge) {
            loop->size[at - 1] *= loop->size[at];
            for (int k = 0; k < operands; k++) loop->stride[k][at - 1] = loop->stride[k][at];
        } else {
            loop->rank++;
        }
    }
    if (loop->rank == 0) {
        loop->rank = 1, loop->size[0] = 1;
        for (int k = 0; k < operands; k++) loop->stride[k][0] = 0;
    }
    loop->row = loop->size[loop->rank - 1];
    loop->rows = 1;
    for (int axis = 0; axis + 1 < loop->rank; axis++) loop->rows *= loop->size[axis];
}

static void run_row(const ad_loop *loop, int64_t row, int64_t start, int64_t n, ad_loop_body body,
                    const void *user) {
    char *data[AD_LOOP_OPERANDS];
    int64_t stride[AD_LOOP_OPERANDS], offset[AD_LOOP_OPERANDS];
    int last = loop->rank - 1;
    for (int k = 0; k < loop->operands; k++) {
        stride[k] = loop->stride[k][last];
        offset[k] = start * stride[k];
    }
    for (int axis = last - 1; axis >= 0; axis--) {
        int64_t index = row % loop->size[axis];
        row /= loop->size[axis];
        for (int k = 0; k < loop->operands; k++) offset[k] += index * loop->stride[k][axis];
    }
    for (int k = 0; k < loop->operands; k++) data[k] = loop->data[k] + offset[k] * loop->element[k];
    body(user, n, data, stride);
}

typedef struct pieces_job {
    const ad_loop *loop;
    ad_loop_body body;
    const void *user;
    int64_t pieces, group;
} pieces_job;

static void run_pieces(const void *user, int64_t first, int64_t last) {
    const pieces_job *job = user;
    const ad_loop *loop = job->loop;
    for (int64_t task = first; task < last; task++) {
        int64_t start = task % job->pieces * AD_LOOP_PIECE, from = task / job->pieces * job->group;
        int64_t n = loop->row - start < AD_LOOP_PIECE ? loop->row - start : AD_LOOP_PIECE;
        for (int64_t row = from; row < from + job->group && row < loop->rows; row++)
            run_row(loop, row, start, n, job->body, job->user);
    }
}

void ad_loop_run(const ad_loop *loop, int threads, ad_loop_body body, const void *user) {
    if (loop->row == 0 || loop->rows == 0) return;
    // Long rows are cut into pieces, short ones are taken several at a time.
    int64_t pieces = (loop->row + AD_LOOP_PIECE - 1) / AD_LOOP_PIECE;
    int64_t group = loop->row >= AD_LOOP_PIECE ? 1 : AD_LOOP_PIECE / loop->row;
    int64_t groups = (loop->rows + group - 1) / group, tasks = groups * pieces;
    pieces_job job = {loop, body, user, pieces, group};
    ad_parallel(threads, tasks < 2 ? 0 : AD_PARALLEL_LEAST, tasks, run_pieces, &job);
}
