/* The elementwise family: all that its operations have in common.
 *
 * Operands broadcast as in NumPy: shapes are aligned at the right, and an axis of size 1, or one
 * that is missing, is repeated. Three walks cover every layout. Small contiguous operands of one
 * shape, the most common call, go straight to the body. Rows that are long enough go through the
 * strided loop. Short rows, such as three colours plus an offset, are packed into blocks first.
 * Results beyond the last level cache bypass it on their way to memory.
 *
 * Both derivative modes use one rule per operand (see elementwise.h): a gradient is the rule on the
 * cotangent, summed over the axes along which the operand was repeated; a tangent is the sum of the
 * rules on the operands' tangents. */
#include "autodiff/ops/elementwise.h"
#include "autodiff/core.h"
#include "autodiff/cpu/stream.h"

#include <string.h>

enum {
    BLOCK = 1024,                // elements computed after their operands were packed
    STREAM_BLOCK = 64,           // elements computed before they are streamed: few enough that the
                                 // next block's reads overlap these writes
    STREAM_LONG = 512,           // where arithmetic is the limit: a call of the body costs, too
    STREAM_FLOPS = 6,            // of an element, from where that is so
    SHORT_ROW = 48,              // elements; shorter rows are packed
    STREAM_BYTES = 16 << 20,     // of the result: with its operands larger than most last caches
    SHARE_WORK = 1 << 17,        // elements times their work, about 20 microseconds on one core:
    MOVE_WORK = 1,               // the FLOP, and this to read and write,
    PACK_WORK = 4                // and this where short rows are packed first
};

// What small calls do not need stays out of their way: they are most of the tape's own cost.
#define RARE __attribute__((cold, noinline))

/* ---- shapes */

static bool same_sizes(const ad_view *a, const ad_view *b) {
    bool same = a->rank == b->rank;
    for (int axis = 0; axis < a->rank && same; axis++) same = a->size[axis] == b->size[axis];
    return same;
}

RARE static void mismatch(ad_infer *call, int i, const char *what) {
    char first[160], other[160];
    ad_view_text(&call->input[call->inputs - 1], first, sizeof first);
    ad_view_text(&call->input[i], other, sizeof other);
    ad_infer_fail(call, "operands of %s and %s: %s", other, first, what);
}

// Widens the shape of y by that of x, axes aligned at the right; false where they do not agree.
RARE static bool widen(ad_view *y, const ad_view *x) {
    int more = x->rank - y->rank;
    if (more > 0) {
        memmove(y->size + more, y->size, (size_t)y->rank * sizeof *y->size);
        for (int axis = 0; axis < more; axis++) y->size[axis] = 1;
        y->rank = x->rank;
    }
    int64_t *size = y->size + (y->rank - x->rank);
    for (int axis = 0; axis < x->rank; axis++) {
        if (size[axis] == 1) size[axis] = x->size[axis];
        else if (x->size[axis] != size[axis] && x->size[axis] != 1) return false;
    }
    return true;
}

void ad_elementwise_infer(ad_infer *call, const ad_elementwise *e) {
    ad_view *y = call->output;
    const ad_view *last = &call->input[call->inputs - 1]; // its type is that of the values
    y->type = last->type, y->rank = last->rank;
    for (int axis = 0; axis < last->rank; axis++) y->size[axis] = last->size[axis];
    bool narrow = y->type == AD_F16 || y->type == AD_BF16;
    if (!e->body[narrow ? AD_F32 : y->type]) {
        ad_infer_fail(call, "there is no such operation on %s", ad_type_name(y->type));
        return;
    }
    for (int i = 0; i + 1 < call->inputs; i++) {
        const ad_view *x = &call->input[i];
        bool mask = e->takes_mask && i == 0;
        if (x->type != (mask ? AD_U32 : last->type)) {
            mismatch(call, i, mask ? "the mask must be u32" : "the types must agree (ad_cast)");
            return;
        }
        if (!same_sizes(x, y) && !widen(y, x)) {
            mismatch(call, i, "aligned at the right, sizes must be equal or 1");
            return;
        }
    }
    if (e->makes_mask) y->type = AD_U32;
    call->saved_inputs = e->reads & 7u;
    call->saved_outputs = e->reads & AD_READS_Y ? 1 : 0;
}

static int64_t count_of(const ad_view *view) {
    int64_t count = 1;
    for (int axis = 0; axis < view->rank; axis++) count *= view->size[axis];
    return count;
}

/* ---- the walk */

// Of the result's shape, and lying as it does: contiguous.
static bool dense(const ad_view *x, const ad_view *y) {
    if (x->rank != y->rank) return false;
    for (int axis = 0; axis < y->rank; axis++)
        if (x->size[axis] != y->size[axis]
            || (x->stride[axis] != y->stride[axis] && y->size[axis] != 1))
            return false;
    return true;
}

typedef struct work {
    ad_loop_body body, stream;         // stream: NULL where this type has none
    const void *attributes;
    const ad_loop *loop;
    int operands;
    int64_t element[AD_LOOP_OPERANDS]; // bytes
    int64_t count, block;              // block: elements that are streamed at a time
} work;

// A piece whose result goes to memory past the cache: straight from registers where the operation
// can, else a block at a time.
static void stream_piece(const void *user, int64_t n, char *const *data, const int64_t *stride) {
    const work *w = user;
    if ((uintptr_t)data[0] % AD_STREAM_ALIGN) {
        w->body(w->attributes, n, data, stride);
        return;
    }
    bool plain = w->stream != NULL, moves = false;
    for (int k = 1; k < w->operands; k++) {
        plain &= stride[k] == 0 || stride[k] == 1;
        moves |= stride[k] == 1;
    }
    if (plain && moves) {
        w->stream(w->attributes, n, data, stride);
        return;
    }
    _Alignas(AD_STREAM_ALIGN) char block[STREAM_LONG * sizeof(double)];
    char *at[AD_LOOP_OPERANDS] = {block};
    for (int64_t i = 0; i < n; i += w->block) {
        int64_t take = n - i < w->block ? n - i : w->block;
        for (int k = 1; k < w->operands; k++) at[k] = data[k] + i * stride[k] * w->element[k];
        w->body(w->attributes, take, at, stride);
        ad_stream_copy(data[0] + i * w->element[0], block, (size_t)(take * w->element[0]));
    }
    ad_stream_end();
}

// Rows of three, the usual short ones: a column's number for each of three colours (inner 0), or
// three numbers for each row. Returns how many were written.
static int64_t pack_threes(const uint32_t *from, int64_t rows, int64_t step, int64_t inner,
                           uint32_t *to) {
    if (inner == 0) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < 3; j++) to[3 * i + j] = from[i * step];
    } else {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < 3; j++) to[3 * i + j] = from[i * step + j * inner];
    }
    return 3 * rows;
}

// A layout of one axis, whatever its strides: a run of it for each thread, so that none waits for
// its writes before it has finished.
static void stream_row(const work *w, int threads) {
    const ad_loop *loop = w->loop;
    const int64_t pieces = (loop->row + AD_LOOP_PIECE - 1) / AD_LOOP_PIECE;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t t = 0; t < threads; t++) {
        const int64_t first = pieces * t / threads * AD_LOOP_PIECE;
        const int64_t end = pieces * (t + 1) / threads * AD_LOOP_PIECE;
        char *data[AD_LOOP_OPERANDS];
        int64_t stride[AD_LOOP_OPERANDS];
        for (int k = 0; k < w->operands; k++) {
            stride[k] = loop->stride[k][0];
            data[k] = loop->data[k] + first * stride[k] * w->element[k];
        }
        stream_piece(w, (end < loop->row ? end : loop->row) - first, data, stride);
    }
}

// Elements start ... start + n - 1 of a broadcast or strided operand, one behind another.
static void pack(const ad_loop *loop, int k, int64_t start, int64_t n, char *to) {
    int64_t index[AD_RANK_MAX], rest = start, at = 0;
    for (int axis = loop->rank - 1; axis >= 0; axis--) {
        index[axis] = rest % loop->size[axis], rest /= loop->size[axis];
        at += index[axis] * loop->stride[k][axis];
    }
    int last = loop->rank - 1;
    int64_t step = loop->stride[k][last], size = loop->size[last];
    for (int64_t i = 0; i < n;) {
        int64_t run = size - index[last];
        if (run > n - i) run = n - i;
        if (size == 3 && run == 3 && loop->element[k] == 4 && last > 0) { // all but the last row
            int64_t rows = loop->size[last - 1] - index[last - 1], next = loop->stride[k][last - 1];
            if (rows > (n - i) / 3) rows = (n - i) / 3;
            i += pack_threes((const uint32_t *)loop->data[k] + at, rows - 1, next, step,
                             (uint32_t *)to + i);
            at += (rows - 1) * next, index[last - 1] += rows - 1;
        }
        if (loop->element[k] == 4) {
            const uint32_t *from = (const uint32_t *)loop->data[k] + at;
            uint32_t *out = (uint32_t *)to + i;
            for (int64_t j = 0; j < run; j++) out[j] = from[j * step];
        } else {
            const uint64_t *from = (const uint64_t *)loop->data[k] + at;
            uint64_t *out = (uint64_t *)to + i;
            for (int64_t j = 0; j < run; j++) out[j] = from[j * step];
        }
        i += run, at += run * step, index[last] += run;
        // Carry into the axes before.
        for (int axis = last; axis > 0 && index[axis] == loop->size[axis]; axis--) {
            at += loop->stride[k][axis - 1] - loop->size[axis] * loop->stride[k][axis];
            index[axis] = 0, index[axis - 1]++;
        }
    }
}

// Short rows: blocks of the flat result, their operands packed unless they lie as the result does.
static void run_packed(const work *w, int threads) {
    const ad_loop *loop = w->loop;
    bool flat[AD_LOOP_OPERANDS];
    for (int k = 0; k < w->operands; k++) {
        flat[k] = true;
        for (int axis = 0; axis < loop->rank; axis++)
            flat[k] &= loop->stride[k][axis] == loop->stride[0][axis];
    }
    int64_t blocks = (w->count + BLOCK - 1) / BLOCK;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t b = 0; b < blocks; b++) {
        char packed[AD_LOOP_OPERANDS - 1][BLOCK * sizeof(double)];
        char *data[AD_LOOP_OPERANDS];
        const int64_t stride[AD_LOOP_OPERANDS] = {1, 1, 1, 1};
        int64_t start = b * BLOCK, n = w->count - start < BLOCK ? w->count - start : BLOCK;
        for (int k = 0; k < w->operands; k++) {
            data[k] = loop->data[k] + start * w->element[k];
            if (flat[k]) continue;
            data[k] = packed[k - 1];
            pack(loop, k, start, n, data[k]);
        }
        w->body(w->attributes, n, data, stride);
    }
}

// Any layout.
__attribute__((noinline)) static void run_strided(const ad_launch *launch,
                                                  const ad_elementwise *e, ad_loop_body body,
                                                  int64_t count) {
    const ad_view *views[AD_LOOP_OPERANDS] = {launch->output};
    for (int i = 0; i < launch->inputs; i++) views[i + 1] = &launch->input[i];
    ad_loop loop;
    ad_loop_plan(&loop, launch->output, launch->inputs + 1, views);
    const bool f32 = launch->input[launch->inputs - 1].type == AD_F32;
    work w = {.body = body, .stream = f32 ? e->stream : NULL, .attributes = launch->attributes,
              .loop = &loop, .operands = launch->inputs + 1, .count = count,
              .block = e->flops < STREAM_FLOPS ? STREAM_BLOCK : STREAM_LONG};
    for (int k = 0; k < w.operands; k++) w.element[k] = loop.element[k];
    bool packed = loop.row < SHORT_ROW && loop.rank > 1;
    double work = (double)count * (e->flops + (packed ? PACK_WORK : MOVE_WORK));
    int threads = work < SHARE_WORK ? 1 : launch->threads;
    if (packed && count) run_packed(&w, threads);
    else if (count * w.element[0] >= STREAM_BYTES && loop.rank == 1) stream_row(&w, threads);
    else if (count * w.element[0] >= STREAM_BYTES) ad_loop_run(&loop, threads, stream_piece, &w);
    else ad_loop_run(&loop, threads, body, launch->attributes);
}

void ad_elementwise_run(const ad_launch *launch, const ad_elementwise *e) {
    static const int64_t ones[AD_LOOP_OPERANDS] = {1, 1, 1, 1};
    const ad_view *y = launch->output, *x = launch->input;
    ad_loop_body body = e->body[x[launch->inputs - 1].type];
    int64_t count = count_of(y);
    char *data[AD_LOOP_OPERANDS] = {y->data};
    bool all_dense = count <= AD_LOOP_PIECE;
    for (int i = 0; i < launch->inputs && all_dense; i++) {
        data[i + 1] = x[i].data;
        all_dense = dense(&x[i], y);
    }
    if (!all_dense) run_strided(launch, e, body, count);
    else if (count) body(launch->attributes, count, data, ones);
}

/* ---- derivatives */

ad_tensor ad_sum_to(ad_context *ctx, ad_tensor x, ad_shape shape) {
    ad_shape have = ad_shape_of(ctx, x);
    if (ad_failed(ctx)) return (ad_tensor){0};
    int more = have.rank - shape.rank;
    unsigned axes = 0;
    bool good = more >= 0;
    for (int axis = 0; axis < have.rank && good; axis++) {
        int64_t want = axis < more ? 1 : shape.size[axis - more];
        if (have.size[axis] != want || axis < more) axes |= AD_AXIS(axis);
        good = have.size[axis] == want || want == 1;
    }
    if (!good) {
        ad_raise(ctx, "ad_sum_to: the tensor is no broadcast of the shape asked for");
        return (ad_tensor){0};
    }
    if (!axes) return x;
    ad_tensor sum = ad_sum(ctx, x, axes, true);
    return more ? ad_reshape(ctx, sum, shape) : sum;
}

static bool same_shape(const ad_context *ctx, ad_tensor a, ad_tensor b) {
    return ad_record_same_shape(ad_record_at(ctx, a.slot), ad_record_at(ctx, b.slot));
}

void ad_elementwise_vjp(ad_vjp *call, const ad_elementwise *e) {
    for (int i = 0; i < call->inputs; i++) {
        if (!(call->wanted >> i & 1)) continue;
        // The last slope may write over the cotangent, unless that is already somebody's gradient.
        bool last = call->wanted >> i == 1 && !(i > 0 && call->dx[0].slot == call->dy[0].slot);
        if (last && e->reads & AD_READS_T_ONCE) ad_spend(call->ctx, call->dy[0]);
        ad_tensor dx = e->rule(call->ctx, i, call->dy[0], call->input, call->output[0],
                               call->attributes);
        if (dx.slot && !same_shape(call->ctx, dx, call->input[i]))
            dx = ad_sum_to(call->ctx, dx, ad_shape_of(call->ctx, call->input[i]));
        call->dx[i] = dx;
    }
}

void ad_elementwise_jvp(ad_jvp *call, const ad_elementwise *e) {
    ad_context *ctx = call->ctx;
    ad_tensor dy = {0};
    for (int i = 0; i < call->inputs; i++) {
        if (!call->dx[i].slot) continue;
        ad_tensor term = e->rule(ctx, i, call->dx[i], call->input, call->output[0],
                                 call->attributes);
        if (term.slot) dy = dy.slot ? ad_add(ctx, dy, term) : term;
    }
    if (!dy.slot || ad_failed(ctx)) return;
    // An operand that was repeated has a smaller tangent.
    ad_shape shape = ad_shape_of(ctx, call->output[0]), have = ad_shape_of(ctx, dy);
    bool same = shape.rank == have.rank;
    for (int axis = 0; axis < shape.rank && same; axis++)
        same = shape.size[axis] == have.size[axis];
    call->dy[0] = same ? dy : ad_broadcast(ctx, dy, shape);
}

/* ---- samples */

bool ad_elementwise_sample(ad_sample *s, const ad_op *op, const ad_elementwise *e) {
    int operands = op->inputs_min;
    bool narrow = s->type == AD_F16 || s->type == AD_BF16;
    // Domains that lie apart (minimum, maximum) are tried the other way round, too.
    bool apart = operands == 2 && e->high[0] < e->low[1], swap = apart && s->variant > 4;
    int layout = swap ? s->variant - 5 : s->variant;
    if (layout > (operands > 1 ? 4 : 0)) return false;
    if (!e->body[narrow ? AD_F32 : s->type]) return false;
    s->inputs = operands;
    for (int i = 0; i < operands; i++) {
        s->input[i].type = s->type, s->input[i].shape = s->shape;
        int domain = swap ? 1 - i : i;
        s->input[i].low = e->low[domain], s->input[i].high = e->high[domain];
        s->input[i].kink = e->kink;
    }
    if (e->takes_mask) {
        s->input[0].type = AD_U32, s->input[0].low = 0, s->input[0].high = 1;
        s->input[0].kink = 0, s->input[0].constant = true;
    }
    memcpy(s->attributes.bytes, e->attributes, sizeof e->attributes);
    ad_shape *left = &s->input[0].shape, *right = &s->input[operands - 1].shape;
    int rank = s->shape.rank;
    if (layout == 1) right->rank = 0;
    if (layout == 2 && rank) right->rank = 1, right->size[0] = s->shape.size[rank - 1];
    if (layout == 3 && rank) left->size[0] = 1, right->size[rank - 1] = 1;
    if (layout == 4) left->rank = 0;
    return true;
}
