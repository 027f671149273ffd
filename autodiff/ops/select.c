/* gather, scatter_add, one_hot: elements chosen by an index tensor.
 *
 * Indices are data, so no kernel trusts them: one outside the axis (negative ones too) selects a
 * row of zeros in gather and one_hot, and in scatter_add its row is left out. gather and
 * scatter_add are each other's derivative. Several rows may be added to one place; each place
 * belongs to one thread, which adds its rows in their order, so the bits depend on no thread
 * count. */
#include "autodiff/autodiff.h"
#include "autodiff/cpu/parallel.h"
#include "autodiff/ops/axes.h"

#include <string.h>

extern const ad_op ad_op_gather, ad_op_scatter_add, ad_op_one_hot;

typedef struct placing {
    int axis;
    int64_t size; // scatter_add: of the result's axis
} placing;

typedef struct classing {
    int64_t classes;
    ad_type type;
} classing;

/* ---- kernels */

// The index at i, or -1 where it is outside.
static inline int64_t index_at(const ad_view *index, int64_t i, int64_t size) {
    int64_t at = index->type == AD_U32 ? (int64_t)((const uint32_t *)index->data)[i]
                                       : (int64_t)((const int32_t *)index->data)[i];
    return at >= 0 && at < size ? at : -1;
}

typedef struct job {
    const ad_view *x, *index, *y;
    ad_along along;    // of the long side: (outer, size, inner), size as index counts
    int64_t n;         // indices
    size_t bytes;      // of an element
    int64_t owners;    // scatter_add: parts of the axis of the result
} job;

// Tasks are (outer, index).
static void gather_rows(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    size_t row = (size_t)j->along.inner * j->bytes;
    char *to = (char *)j->y->data + (size_t)first * row;
    int64_t i = first % j->n, outer = first / j->n;
    for (int64_t task = first; task < last; task++, to += row) {
        int64_t at = index_at(j->index, i, j->along.size);
        const char *from = (const char *)j->x->data + (size_t)(outer * j->along.size + at) * row;
        if (at < 0) memset(to, 0, row);
        else if (row == 4) memcpy(to, from, 4);
        else memcpy(to, from, row);
        if (++i == j->n) i = 0, outer++;
    }
}

static void gather_cpu(const ad_launch *l) {
    const placing *p = l->attributes;
    job j = {.x = &l->input[0], .index = &l->input[1], .y = &l->output[0],
             .along = ad_along_axis(&l->input[0], p->axis), .n = l->input[1].size[0],
             .bytes = ad_type_bytes(l->input[0].type)};
    if (j.n == 0 || j.along.inner == 0) return;
    ad_parallel(l->threads, ad_view_count(j.y), j.along.outer * j.n, gather_rows, &j);
}

static void add_row(ad_type type, void *to, const void *from, int64_t n) {
    if (type == AD_F32) {
        float *restrict sum = to;
        const float *restrict x = from;
        for (int64_t i = 0; i < n; i++) sum[i] += x[i];
    } else if (type == AD_F64) {
        double *restrict sum = to;
        const double *restrict x = from;
        for (int64_t i = 0; i < n; i++) sum[i] += x[i];
    } else { // integers wrap around
        uint32_t *restrict sum = to;
        const uint32_t *restrict x = from;
        for (int64_t i = 0; i < n; i++) sum[i] += x[i];
    }
}

// Tasks are (outer, owner): an owner reads all indices and adds those that fall to it.
static void scatter_rows(const void *user, int64_t first, int64_t last) {
    const job *j = user;
    int64_t inner = j->along.inner, size = j->along.size;
    size_t row = (size_t)inner * j->bytes;
    for (int64_t task = first; task < last; task++) {
        int64_t outer = task / j->owners, owner = task % j->owners;
        int64_t low = size * owner / j->owners, high = size * (owner + 1) / j->owners;
        char *y = (char *)j->y->data + (size_t)(outer * size) * row;
        const char *x = (const char *)j->x->data + (size_t)(outer * j->n) * row;
        memset(y + (size_t)low * row, 0, (size_t)(high - low) * row);
        for (int64_t i = 0; i < j->n; i++) {
            int64_t at = index_at(j->index, i, size);
            if (at >= low && at < high)
                add_row(j->x->type, y + (size_t)at * row, x + (size_t)i * row, inner);
        }
    }
}

static void scatter_cpu(const ad_launch *l) {
    const placing *p = l->attributes;
    job j = {.x = &l->input[0], .index = &l->input[1], .y = &l->output[0],
             .along = ad_along_axis(&l->output[0], p->axis), .n = l->input[1].size[0],
             .bytes = ad_type_bytes(l->input[0].type)};
    if (ad_view_count(j.y) == 0) return;
    // As many owners as there are threads is best: each reads all indices.
    int64_t work = ad_view_count(j.x) + ad_view_count(j.y);
    j.owners = j.along.outer >= 2 * l->threads || work < AD_PARALLEL_LEAST ? 1 : l->threads;
    if (j.owners > j.along.size) j.owners = j.along.size;
    ad_parallel(l->threads, work, j.along.outer * j.owners, scatter_rows, &j);
}

typedef struct hot_job {
    const ad_view *index, *y;
    int64_t classes;
} hot_job;

static void hot_rows(const void *user, int64_t first, int64_t last) {
    const hot_job *j = user;
    size_t bytes = ad_type_bytes(j->y->type);
    static const float one_f = 1;
    static const double one_d = 1;
    static const uint32_t one_u = 1;
    const void *one = j->y->type == AD_F32 ? (const void *)&one_f
                    : j->y->type == AD_F64 ? (const void *)&one_d : (const void *)&one_u;
    char *y = j->y->data;
    memset(y + (size_t)(first * j->classes) * bytes, 0,
           (size_t)((last - first) * j->classes) * bytes);
    for (int64_t i = first; i < last; i++) {
        int64_t at = index_at(j->index, i, j->classes);
        if (at >= 0) memcpy(y + (size_t)(i * j->classes + at) * bytes, one, bytes);
    }
}

static void one_hot_cpu(const ad_launch *l) {
    hot_job j = {&l->input[0], &l->output[0], ((const classing *)l->attributes)->classes};
    ad_parallel(l->threads, ad_view_count(j.y), ad_view_count(j.index), hot_rows, &j);
}

/* ---- shapes */

static bool index_valid(ad_infer *call, const ad_view *index, int rank) {
    if ((index->type == AD_I32 || index->type == AD_U32) && (rank < 0 || index->rank == rank))
        return true;
    char text[160];
    ad_view_text(index, text, sizeof text);
    ad_infer_fail(call, "the index is %s, i32 or u32%s is needed", text, rank < 0 ? "" : " (n)");
    return false;
}

static void placing_infer(ad_infer *call, bool scatter) {
    const placing *p = call->attributes;
    const ad_view *x = &call->input[0], *index = &call->input[1];
    call->output[0] = *x;
    call->saved_inputs = 2, call->saved_outputs = 0; // the index
    if (!index_valid(call, index, 1)) return;
    if (p->axis < 0 || p->axis >= x->rank)
        ad_infer_fail(call, "there is no axis %d in a tensor of rank %d", p->axis, x->rank);
    else if (scatter && x->size[p->axis] != index->size[0])
        ad_infer_fail(call, "%lld rows along axis %d and %lld indices",
                      (long long)x->size[p->axis], p->axis, (long long)index->size[0]);
    else
        call->output[0].size[p->axis] = scatter ? p->size : index->size[0];
}

static void gather_infer(ad_infer *call) { placing_infer(call, false); }
static void scatter_infer(ad_infer *call) { placing_infer(call, true); }

static void one_hot_infer(ad_infer *call) {
    const classing *c = call->attributes;
    ad_view *y = &call->output[0];
    *y = call->input[0];
    call->saved_inputs = call->saved_outputs = 0;
    if (!index_valid(call, &call->input[0], -1)) return;
    if (y->rank == AD_RANK_MAX || (unsigned)c->type >= AD_TYPES) {
        ad_infer_fail(call, "the index has rank %d, the type is number %d", y->rank, (int)c->type);
        return;
    }
    y->type = c->type;
    y->size[y->rank++] = c->classes;
}

static void gather_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 2.0 * (double)ad_view_count(&call->output[0])
           * (double)ad_type_bytes(call->output[0].type);
}

static void scatter_cost(const ad_infer *call, double *flops, double *bytes) {
    double element = (double)ad_type_bytes(call->input[0].type);
    *flops = (double)ad_view_count(&call->input[0]);
    *bytes = element * (3 * *flops + (double)ad_view_count(&call->output[0]));
}

/* ---- derivatives */

static void gather_vjp(ad_vjp *call) {
    const placing *p = call->attributes;
    int64_t size = ad_shape_of(call->ctx, call->input[0]).size[p->axis];
    call->dx[0] = ad_scatter_add(call->ctx, call->dy[0], call->input[1], p->axis, size);
}

static void scatter_vjp(ad_vjp *call) {
    const placing *p = call->attributes;
    call->dx[0] = ad_gather(call->ctx, call->dy[0], call->input[1], p->axis);
}

/* ---- public */

ad_tensor ad_gather(ad_context *ctx, ad_tensor x, ad_tensor index, int axis) {
    placing p;
    memset(&p, 0, sizeof p);
    p.axis = ad_axis_from_front(ctx, "gather", x, axis);
    return ad_apply1(ctx, &ad_op_gather, 2, (ad_tensor[]){x, index}, &p);
}

ad_tensor ad_scatter_add(ad_context *ctx, ad_tensor x, ad_tensor index, int axis, int64_t size) {
    placing p;
    memset(&p, 0, sizeof p);
    p.axis = ad_axis_from_front(ctx, "scatter_add", x, axis), p.size = size;
    return ad_apply1(ctx, &ad_op_scatter_add, 2, (ad_tensor[]){x, index}, &p);
}

ad_tensor ad_one_hot(ad_context *ctx, ad_tensor index, int64_t classes, ad_type type) {
    classing c;
    memset(&c, 0, sizeof c);
    c.classes = classes, c.type = type;
    return ad_apply1(ctx, &ad_op_one_hot, 1, &index, &c);
}

/* ---- for the test harness */

static void wish(ad_sample *s) {
    s->inputs = 1;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
}

// An index with repeats, and with some outside on either side.
static void wish_index(ad_sample *s, int i, ad_type type, ad_shape shape, int64_t size) {
    s->input[i].type = type, s->input[i].shape = shape, s->input[i].constant = true;
    s->input[i].low = type == AD_I32 ? -1 : 0, s->input[i].high = (double)size;
    if (s->inputs <= i) s->inputs = i + 1;
}

// More indices than rows, of the first axis; fewer, of the last.
static bool gather_sample(ad_sample *s) {
    placing p;
    memset(&p, 0, sizeof p);
    wish(s);
    if (s->shape.rank == 0 || s->variant > 1) return false;
    p.axis = s->variant ? s->shape.rank - 1 : 0;
    int64_t size = s->shape.size[p.axis], n = s->variant ? size / 2 : size + 3;
    wish_index(s, 1, s->variant ? AD_U32 : AD_I32, AD_SHAPE(n), size);
    memcpy(s->attributes.bytes, &p, sizeof p);
    return true;
}

// Into fewer places, of the first axis; into more, of the last.
static bool scatter_sample(ad_sample *s) {
    placing p;
    memset(&p, 0, sizeof p);
    wish(s);
    if (s->shape.rank == 0 || s->variant > 1) return false;
    p.axis = s->variant ? s->shape.rank - 1 : 0;
    int64_t n = s->shape.size[p.axis];
    p.size = s->variant ? n + 3 : n / 2 + 1;
    wish_index(s, 1, s->variant ? AD_U32 : AD_I32, AD_SHAPE(n), p.size);
    memcpy(s->attributes.bytes, &p, sizeof p);
    return true;
}

static bool one_hot_sample(ad_sample *s) {
    classing c;
    memset(&c, 0, sizeof c);
    c.classes = 5, c.type = s->type;
    s->inputs = 0;
    if (s->shape.rank == AD_RANK_MAX || s->variant > 1) return false;
    wish_index(s, 0, s->variant ? AD_U32 : AD_I32, s->shape, c.classes);
    memcpy(s->attributes.bytes, &c, sizeof c);
    return true;
}

const ad_op ad_op_gather = {
    .name = "gather", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .flags = AD_OP_LINEAR,
    .attribute_bytes = sizeof(placing), .infer = gather_infer, .cpu = gather_cpu,
    .vulkan = "gather", .vjp = gather_vjp, .cost = gather_cost, .sample = gather_sample};

const ad_op ad_op_scatter_add = {
    .name = "scatter_add", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .flags = AD_OP_LINEAR,
    .attribute_bytes = sizeof(placing), .infer = scatter_infer, .cpu = scatter_cpu,
    .vulkan = "scatter_add", .vjp = scatter_vjp, .cost = scatter_cost, .sample = scatter_sample};

const ad_op ad_op_one_hot = {
    .name = "one_hot", .inputs_min = 1, .inputs_max = 1, .outputs = 1,
    .flags = AD_OP_NO_GRADIENT, .attribute_bytes = sizeof(classing), .infer = one_hot_infer,
    .cpu = one_hot_cpu, .vulkan = "one_hot", .cost = gather_cost, .sample = one_hot_sample};
