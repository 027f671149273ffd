/* Reductions: any axes of a packed tensor, in fixed blocks.
 *
 * Axes of one element are dropped and neighbours of one kind, kept or reduced, are merged; what is
 * left alternates. If the last group is reduced, each output is a reduction of rows that lie packed
 * (rows); if it is kept, vectors are combined downwards (columns). Either way the work is cut into
 * units of some thousand elements whose shape depends on the tensor alone. Inside a unit many lanes
 * accumulate side by side, so that no chain of f32 additions is longer than about a hundred; units
 * are then merged in order, in f64 for f32. Hence a sum of 2^20 floats is right to 1e-6, and its
 * bits do not depend on the number of threads. */
#include "autodiff/cpu/reduce.h"

#include <math.h>
#include <string.h>

#include "autodiff/cpu/parallel.h"

enum {
    ROW_UNIT = 4096,    // elements of a unit of rows
    COLUMN_UNIT = 8192, // elements of a unit of columns, but no fewer rows than
    COLUMN_ROWS = 128,
    TILE = 512,         // columns done together
    LANES = 64,
    NARROW = 64         // columns below which several rows are taken as one
};

/* ---- the typed pieces */

typedef struct kernels {
    size_t element, partial; // bytes
    void (*row)(ad_reduction op, const void *x, int64_t n, void *sum);
    void (*rows)(ad_reduction op, const void *x, int64_t rows, int64_t n, double scale, void *y);
    void (*columns)(ad_reduction op, const void *x, int64_t rows, int64_t n, int64_t width,
                    void *sum);
    void (*start)(ad_reduction op, int64_t width, void *sum);
    void (*merge)(ad_reduction op, void *sum, const void *more, int64_t width);
    void (*finish)(ad_reduction op, const void *sum, int64_t width, double scale, void *y);
} kernels;

#define START(with, id, start, element, combination) case id: return start;
#define ELEMENT(with, id, start, element, combination) case id: return element;
#define COMBINE(with, id, start, element, combination) case id: return combination;
#define CALL(with, id, start, element, combination) \
    case id: { const ad_reduction OP = id; with; } break;
#define EACH(call) switch (op) { AD_REDUCTIONS(CALL, call, , , , ) default: break; }
#define ALWAYS static inline __attribute__((always_inline))

// What one line of reduce.def says, for one type.
#define DEFINE_STEPS(s, T, U, LOWEST, HIGHEST)                                              \
    ALWAYS T start_##s(ad_reduction op) {                                                   \
        switch (op) { AD_REDUCTIONS(START, , T, U, LOWEST, HIGHEST) default: return 0; }    \
    }                                                                                       \
    ALWAYS T element_##s(ad_reduction op, T x) {                                            \
        switch (op) { AD_REDUCTIONS(ELEMENT, , T, U, LOWEST, HIGHEST) default: return x; }  \
    }                                                                                       \
    ALWAYS T combine_##s(ad_reduction op, T a, T b) {                                       \
        switch (op) { AD_REDUCTIONS(COMBINE, , T, U, LOWEST, HIGHEST) default: return a; }  \
    }

// Lanes side by side, folded in halves, then the rest. `op` and `lanes` are constants.
#define DEFINE_ROWS(s, T)                                                                   \
    ALWAYS T lanes_##s(ad_reduction op, int lanes, const T *x, int64_t n) {                 \
        T sum[LANES];                                                                       \
        for (int j = 0; j < lanes; j++) sum[j] = element_##s(op, x[j]);                     \
        int64_t i = lanes;                                                                  \
        for (; i + lanes <= n; i += lanes)                                                  \
            for (int j = 0; j < lanes; j++)                                                 \
                sum[j] = combine_##s(op, sum[j], element_##s(op, x[i + j]));                \
        for (int half = lanes / 2; half > 0; half /= 2)                                     \
            for (int j = 0; j < half; j++)                                                  \
                sum[j] = combine_##s(op, sum[j], sum[j + half]);                            \
        for (; i < n; i++) sum[0] = combine_##s(op, sum[0], element_##s(op, x[i]));         \
        return sum[0];                                                                      \
    }                                                                                       \
    ALWAYS T packed_##s(ad_reduction op, const T *x, int64_t n) {                           \
        if (n >= 2 * LANES) return lanes_##s(op, LANES, x, n);                              \
        if (n >= 16) return lanes_##s(op, 8, x, n);                                         \
        return n ? lanes_##s(op, 1, x, n) : start_##s(op);                                  \
    }

// sum[0 ... width) = all rows combined, four at a time. Narrow rows: as many as fill the lanes are
// taken for one wide row, which is folded at the end.
#define DEFINE_COLUMNS(s, T)                                                                \
    ALWAYS void wide_##s(ad_reduction op, const T *restrict x, int64_t rows, int64_t n,     \
                         int64_t width, T *restrict sum) {                                  \
        for (int64_t j = 0; j < width; j++)                                                 \
            sum[j] = rows ? element_##s(op, x[j]) : start_##s(op);                          \
        int64_t i = 1;                                                                      \
        for (; i + 4 <= rows; i += 4) {                                                     \
            const T *a = x + i * n, *b = a + n, *c = b + n, *d = c + n;                     \
            for (int64_t j = 0; j < width; j++) {                                           \
                T ab = combine_##s(op, element_##s(op, a[j]), element_##s(op, b[j]));       \
                T cd = combine_##s(op, element_##s(op, c[j]), element_##s(op, d[j]));       \
                sum[j] = combine_##s(op, sum[j], combine_##s(op, ab, cd));                  \
            }                                                                               \
        }                                                                                   \
        for (; i < rows; i++)                                                               \
            for (int64_t j = 0; j < width; j++)                                             \
                sum[j] = combine_##s(op, sum[j], element_##s(op, x[i * n + j]));            \
    }                                                                                       \
    ALWAYS void narrow_##s(ad_reduction op, const T *restrict x, int64_t rows, int64_t n,   \
                           T *restrict sum) {                                               \
        int64_t group = 2 * NARROW / n, full = rows / group;                                \
        wide_##s(op, x, full, group * n, full ? group * n : n, sum);                        \
        for (int64_t i = 1; full && i < group; i++)                                         \
            for (int64_t j = 0; j < n; j++)                                                 \
                sum[j] = combine_##s(op, sum[j], sum[i * n + j]);                           \
        for (int64_t i = full * group; i < rows; i++)                                       \
            for (int64_t j = 0; j < n; j++)                                                 \
                sum[j] = combine_##s(op, sum[j], element_##s(op, x[i * n + j]));            \
    }

// The table of one type: T is the type of the elements, P that of sums of units (steps _p).
#define DEFINE_TABLE(s, T, P, p)                                                            \
    static void row_##s(ad_reduction op, const void *x, int64_t n, void *to) {              \
        P *sum = to;                                                                        \
        EACH(*sum = combine_##p(OP, *sum, (P)packed_##s(OP, x, n)))                         \
    }                                                                                       \
    ALWAYS T done_##s(ad_reduction op, P sum, double scale) {                               \
        return op == AD_REDUCE_MEAN ? (T)((double)sum * scale)                              \
             : op == AD_REDUCE_NORM ? (T)sqrt((double)sum) : (T)sum;                        \
    }                                                                                       \
    static void rows_##s(ad_reduction op, const void *from, int64_t rows, int64_t n,        \
                         double scale, void *to) {                                          \
        const T *x = from;                                                                  \
        T *y = to;                                                                          \
        EACH(for (int64_t i = 0; i < rows; i++)                                             \
                 y[i] = done_##s(OP, (P)packed_##s(OP, x + i * n, n), scale))               \
    }                                                                                       \
    static void start_all_##s(ad_reduction op, int64_t width, void *to) {                   \
        P *sum = to;                                                                        \
        for (int64_t j = 0; j < width; j++) sum[j] = start_##p(op);                         \
    }                                                                                       \
    static void merge_##s(ad_reduction op, void *to, const void *from, int64_t width) {     \
        P *restrict sum = to;                                                               \
        const P *restrict more = from;                                                      \
        EACH(for (int64_t j = 0; j < width; j++) sum[j] = combine_##p(OP, sum[j], more[j])) \
    }                                                                                       \
    static void columns_##s(ad_reduction op, const void *x, int64_t rows, int64_t n,        \
                            int64_t width, void *sum) {                                     \
        T part[TILE];                                                                       \
        P more[TILE];                                                                       \
        if (n < NARROW) { EACH(narrow_##s(OP, x, rows, n, part)) }                          \
        else { EACH(wide_##s(OP, x, rows, n, width, part)) }                                \
        for (int64_t j = 0; j < width; j++) more[j] = (P)part[j];                           \
        merge_##s(op, sum, more, width);                                                    \
    }                                                                                       \
    static void finish_##s(ad_reduction op, const void *from, int64_t width, double scale,  \
                           void *to) {                                                      \
        const P *sum = from;                                                                \
        T *y = to;                                                                          \
        for (int64_t j = 0; j < width; j++) y[j] = done_##s(op, sum[j], scale);             \
    }                                                                                       \
    static const kernels table_##s = {sizeof(T), sizeof(P), row_##s, rows_##s, columns_##s, \
                                      start_all_##s, merge_##s, finish_##s};

DEFINE_STEPS(f32, float, float, -INFINITY, INFINITY)
DEFINE_ROWS(f32, float)
DEFINE_COLUMNS(f32, float)
DEFINE_STEPS(f64, double, double, -INFINITY, INFINITY)
DEFINE_ROWS(f64, double)
DEFINE_COLUMNS(f64, double)
DEFINE_STEPS(i32, int32_t, uint32_t, INT32_MIN, INT32_MAX)
DEFINE_ROWS(i32, int32_t)
DEFINE_COLUMNS(i32, int32_t)
DEFINE_STEPS(u32, uint32_t, uint32_t, 0, UINT32_MAX)
DEFINE_ROWS(u32, uint32_t)
DEFINE_COLUMNS(u32, uint32_t)
DEFINE_TABLE(f32, float, double, f64)
DEFINE_TABLE(f64, double, double, f64)
DEFINE_TABLE(i32, int32_t, int32_t, i32)
DEFINE_TABLE(u32, uint32_t, uint32_t, u32)

static const kernels *kernels_of(ad_type type) {
    return type == AD_F32 ? &table_f32 : type == AD_F64 ? &table_f64
         : type == AD_I32 ? &table_i32 : &table_u32;
}

/* ---- the plan: how a tensor is cut into units */

typedef struct axes {
    int rank;
    int64_t size[AD_RANK_MAX], stride[AD_RANK_MAX], count;
} axes;

typedef struct plan {
    const kernels *kernel;
    ad_reduction op;
    axes kept, reduced;     // but the innermost group
    bool rows;              // the innermost group is reduced
    int64_t inner;          // its size
    // A unit is `span` of `length` steps (elements of a row, or rows) of `height` runs.
    int64_t length, span, height, units_along, units; // units: of one output row
    int64_t tiles;          // columns: pieces of the inner group
    double scale;           // of a mean
    const char *x;
    char *y, *partials;     // (kept, units, outputs of one unit)
} plan;

static void axes_add(axes *a, int64_t size, int64_t stride) {
    a->size[a->rank] = size, a->stride[a->rank] = stride;
    a->rank++;
    a->count *= size;
}

static int64_t axes_offset(const axes *a, int64_t index) {
    int64_t offset = 0;
    for (int i = a->rank - 1; i > 0; i--) {
        offset += index % a->size[i] * a->stride[i];
        index /= a->size[i];
    }
    return a->rank ? offset + index * a->stride[0] : 0;
}

static plan plan_make(const ad_view *x, unsigned which) {
    // Groups of neighbouring axes, outermost first.
    int64_t size[AD_RANK_MAX + 1], stride[AD_RANK_MAX + 1], step = 1;
    bool reduced[AD_RANK_MAX + 1];
    int groups = 0;
    for (int i = 0; i < x->rank; i++) {
        bool now = which >> i & 1;
        if (x->size[i] == 1) continue;
        if (groups && reduced[groups - 1] == now) size[groups - 1] *= x->size[i];
        else size[groups] = x->size[i], reduced[groups++] = now;
    }
    if (groups == 0) size[0] = 1, reduced[groups++] = true;
    for (int i = groups; i-- > 0;) stride[i] = step, step *= size[i];
    plan p = {.kernel = kernels_of(x->type), .kept = {.count = 1}, .reduced = {.count = 1}};
    int last = groups - 1;
    p.rows = reduced[last], p.inner = size[last];
    for (int i = 0; i < last; i++)
        if (!reduced[i]) axes_add(&p.kept, size[i], stride[i]);
    // Columns: the innermost reduced group is the one whose rows lie packed.
    p.length = p.rows ? p.inner : last > 0 ? size[last - 1] : 1;
    for (int i = 0; i < last - !p.rows; i++)
        if (reduced[i]) axes_add(&p.reduced, size[i], stride[i]);
    int64_t least = p.inner ? COLUMN_UNIT / p.inner : 1;
    p.span = p.rows ? ROW_UNIT : least > COLUMN_ROWS ? least : COLUMN_ROWS;
    p.height = p.length && p.span / p.length > 1 ? p.span / p.length : 1;
    p.units_along = p.length > p.span ? (p.length + p.span - 1) / p.span : 1;
    p.units = (p.reduced.count + p.height - 1) / p.height * p.units_along;
    if (p.units == 0) p.units = 1; // nothing to reduce: the start
    p.tiles = p.rows ? 1 : (p.inner + TILE - 1) / TILE;
    p.scale = 1.0 / ((double)p.length * (double)p.reduced.count);
    return p;
}

// One unit of one output row: its sum goes to `sum`.
static void run_unit(const plan *p, int64_t row, int64_t unit, int64_t tile, void *sum) {
    const kernels *k = p->kernel;
    int64_t start = unit % p->units_along * p->span, first = unit / p->units_along * p->height;
    int64_t n = p->length - start < p->span ? p->length - start : p->span;
    int64_t column = tile * TILE, width = 1;
    if (!p->rows) width = p->inner - column < TILE ? p->inner - column : TILE;
    int64_t base = axes_offset(&p->kept, row) + column + start * (p->rows ? 1 : p->inner);
    k->start(p->op, width, sum);
    for (int64_t i = first; i < first + p->height && i < p->reduced.count; i++) {
        const char *x = p->x + (base + axes_offset(&p->reduced, i)) * (int64_t)k->element;
        if (p->rows) k->row(p->op, x, n, sum);
        else k->columns(p->op, x, n, p->inner, width, sum);
    }
}

// Packed rows of one unit each. Tasks are rows.
static void run_rows(const void *user, int64_t first, int64_t last) {
    const plan *p = user;
    const kernels *k = p->kernel;
    k->rows(p->op, p->x + first * p->inner * (int64_t)k->element, last - first, p->inner, p->scale,
            p->y + first * (int64_t)k->element);
}

// Tasks are (row, unit, tile). A row of one unit is finished at once.
static void run_units(const void *user, int64_t first, int64_t last) {
    const plan *p = user;
    const kernels *k = p->kernel;
    double local[TILE];
    int64_t outputs = p->rows ? 1 : p->inner;
    for (int64_t task = first; task < last; task++) {
        int64_t tile = task % p->tiles, unit = task / p->tiles % p->units;
        int64_t row = task / p->tiles / p->units, column = tile * TILE;
        int64_t width = outputs - column < TILE ? outputs - column : TILE;
        bool one = p->units == 1;
        void *sum = one ? (void *)local
                        : p->partials + ((row * p->units + unit) * outputs + column)
                                            * (int64_t)k->partial;
        run_unit(p, row, unit, tile, sum);
        if (one) k->finish(p->op, sum, width, p->scale,
                           p->y + (row * outputs + column) * (int64_t)k->element);
    }
}

// Tasks are (row, tile): the units' sums, in order.
static void merge_units(const void *user, int64_t first, int64_t last) {
    const plan *p = user;
    const kernels *k = p->kernel;
    double sum[TILE];
    int64_t outputs = p->rows ? 1 : p->inner;
    for (int64_t task = first; task < last; task++) {
        int64_t row = task / p->tiles, column = task % p->tiles * TILE;
        int64_t width = outputs - column < TILE ? outputs - column : TILE;
        k->start(p->op, width, sum);
        for (int64_t unit = 0; unit < p->units; unit++)
            k->merge(p->op, sum, p->partials + ((row * p->units + unit) * outputs + column)
                                                   * (int64_t)k->partial, width);
        k->finish(p->op, sum, width, p->scale,
                  p->y + (row * outputs + column) * (int64_t)k->element);
    }
}

size_t ad_cpu_reduce_workspace(const ad_view *x, unsigned axes) {
    plan p = plan_make(x, axes);
    int64_t outputs = p.kept.count * (p.rows ? 1 : p.inner);
    return p.units > 1 ? (size_t)(outputs * p.units) * p.kernel->partial : 0;
}

void ad_cpu_reduce(ad_reduction op, const ad_view *x, unsigned axes, void *y, void *workspace,
                   int threads) {
    plan p = plan_make(x, axes);
    p.op = op, p.x = x->data, p.y = y, p.partials = workspace;
    int64_t tasks = p.kept.count * p.tiles, outputs = p.kept.count * (p.rows ? 1 : p.inner);
    bool plain = p.rows && p.units == 1 && p.reduced.rank == 0;
    ad_parallel(threads, ad_view_count(x), tasks * p.units, plain ? run_rows : run_units, &p);
    if (p.units > 1) ad_parallel(threads, outputs * p.units, tasks, merge_units, &p);
}
