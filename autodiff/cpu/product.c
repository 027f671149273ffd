/* Finding where operands lie and which of their axes melt into one, for product.h. */
#include "autodiff/cpu/product.h"

#include "autodiff/cpu/gemm.h"

enum { BATCH_AXES = AD_RANK_MAX - 2 };

extern const ad_op ad_op_copy;

/* ---- operands where they lie */

typedef struct placement {
    bool turned;    // the columns are dense: it is stored transposed
    int64_t stride; // between dense rows (columns)
} placement;

// Where the last two axes of a view lie as a matrix with a row stride; false if they do not.
static bool place(const ad_view *x, placement *p) {
    int64_t rows = x->size[x->rank - 2], columns = x->size[x->rank - 1];
    int64_t down = x->stride[x->rank - 2], across = x->stride[x->rank - 1];
    if ((across == 1 || columns == 1) && (down >= columns || rows == 1)) {
        *p = (placement){false, rows == 1 ? columns : down};
        return true;
    }
    if ((down == 1 || rows == 1) && (across >= rows || columns == 1)) {
        *p = (placement){true, columns == 1 ? rows : across};
        return true;
    }
    return false;
}

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A vector (n) seen as (1, n); other views as they are.
static ad_view as_matrix(const ad_view *x) {
    ad_view y = *x;
    if (x->rank != 1) return y;
    y.rank = 2;
    y.size[0] = 1, y.size[1] = x->size[0];
    y.stride[0] = x->size[0], y.stride[1] = x->stride[0];
    return y;
}

static size_t packed_bytes(const ad_view *x) {
    ad_view matrix = as_matrix(x);
    placement p;
    if (place(&matrix, &p) && !(x->rank == 1 && p.turned)) return 0;
    return padded((size_t)ad_view_count(x) * ad_type_bytes(x->type));
}

// Packs the operand to *room, and moves that on, unless it can be read where it lies.
static ad_view settle(const ad_view *x, placement *p, char **room, int threads) {
    ad_view y = as_matrix(x);
    if (place(&y, p)) return y;
    int64_t stride = 1;
    ad_view from = y;
    for (int i = y.rank - 1; i >= 0; i--) y.stride[i] = stride, stride *= y.size[i];
    y.data = *room;
    *room += padded((size_t)stride * ad_type_bytes(y.type));
    ad_op_copy.cpu(&(ad_launch){.inputs = 1, .outputs = 1, .threads = threads, .input = &from,
                                .output = &y});
    place(&y, p);
    return y;
}

// The numbers of a vector one behind the other: the bias.
static const void *dense_vector(const ad_view *x, void *room, int threads) {
    ad_view y = *x;
    if (x->stride[0] == 1 || x->size[0] <= 1) return x->data;
    y.data = room, y.stride[0] = 1;
    ad_op_copy.cpu(&(ad_launch){.inputs = 1, .outputs = 1, .threads = threads, .input = x,
                                .output = &y});
    return room;
}

/* ---- the leading axes */

typedef struct batches {
    int rank;                      // the last one is for gemm, the others are looped over
    int64_t size[BATCH_AXES];
    int64_t stride[3][BATCH_AXES]; // of a, b, c; 0 where it is shared
} batches;

// Axes that continue each other in all of a, b and c become one.
static batches batches_of(const ad_view *const view[3]) {
    batches all = {.rank = 0};
    const ad_view *c = view[2];
    for (int axis = 0; axis < c->rank - 2; axis++) {
        if (c->size[axis] == 1) continue;
        int at = all.rank;
        bool merge = at > 0;
        all.size[at] = c->size[axis];
        for (int i = 0; i < 3; i++) {
            int own = axis - (c->rank - view[i]->rank);
            bool moves = own >= 0 && view[i]->size[own] != 1;
            all.stride[i][at] = moves ? view[i]->stride[own] : 0;
            merge = merge && all.stride[i][at - 1] == all.stride[i][at] * all.size[at];
        }
        if (!merge) {
            all.rank++;
            continue;
        }
        all.size[at - 1] *= all.size[at];
        for (int i = 0; i < 3; i++) all.stride[i][at - 1] = all.stride[i][at];
    }
    return all;
}

/* ---- the products */

static int64_t inner_size(const ad_product *p) {
    return p->a->size[p->a->rank - (p->transposed_a ? 2 : 1)];
}

// A sum over the rows of a, as a weight's gradient is, whichever way a lies.
static bool may_be_cut(const ad_product *p) { return p->transposed_a && p->c->type == AD_F32; }

static size_t gemm_bytes(const ad_product *p, int threads) {
    ad_view matrix = as_matrix(p->c);
    return padded(ad_cpu_gemm_workspace(matrix.size[matrix.rank - 2], matrix.size[matrix.rank - 1],
                                        inner_size(p), may_be_cut(p), threads));
}

size_t ad_product_workspace(const ad_product *p, int threads) {
    return gemm_bytes(p, threads) + packed_bytes(p->a) + packed_bytes(p->b)
         + (p->bias ? packed_bytes(p->bias) : 0);
}

void ad_product_run(const ad_product *p, int threads, void *workspace) {
    ad_view c = as_matrix(p->c), left, right;
    if (ad_view_count(&c) == 0) return;
    char *room = (char *)workspace + gemm_bytes(p, threads);
    placement place_a, place_b;
    left = settle(p->a, &place_a, &room, threads);
    right = settle(p->b, &place_b, &room, threads);
    ad_cpu_gemm job = {
        .transposed_a = p->transposed_a != place_a.turned,
        .transposed_b = p->transposed_b != place_b.turned,
        .m = c.size[c.rank - 2], .n = c.size[c.rank - 1], .k = inner_size(p),
        .lda = place_a.stride, .ldb = place_b.stride, .cut = may_be_cut(p),
        .activation = p->relu ? AD_CPU_RELU : AD_CPU_IDENTITY};
    if (p->bias) job.bias = dense_vector(p->bias, room, threads);

    batches all = batches_of((const ad_view *const[]){&left, &right, &c});
    int64_t outer = 1, bytes = (int64_t)ad_type_bytes(c.type);
    for (int axis = 0; axis < all.rank - 1; axis++) outer *= all.size[axis];
    if (all.rank > 0) {
        job.batch = all.size[all.rank - 1];
        job.a_batch_stride = all.stride[0][all.rank - 1];
        job.b_batch_stride = all.stride[1][all.rank - 1];
        job.c_batch_stride = all.stride[2][all.rank - 1];
    }
    for (int64_t item = 0; item < outer; item++) {
        int64_t offset[3] = {0, 0, 0}, rest = item;
        for (int axis = all.rank - 2; axis >= 0; axis--) {
            for (int i = 0; i < 3; i++) offset[i] += rest % all.size[axis] * all.stride[i][axis];
            rest /= all.size[axis];
        }
        job.a = (const char *)left.data + offset[0] * bytes;
        job.b = (const char *)right.data + offset[1] * bytes;
        job.c = (char *)c.data + offset[2] * bytes;
        if (c.type == AD_F64) ad_cpu_gemm_f64(&job, threads, workspace);
        else ad_cpu_gemm_f32(&job, threads, workspace);
    }
}
