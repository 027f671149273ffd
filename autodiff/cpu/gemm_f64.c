// Dense f64 products, for checking and for the solvers: the blocking of gemm.c, kept simple.
//
// Each thread takes a run of rows and packs b for itself, a panel of at most four vectors by 256
// rows at a time, padded with zeros; a is read where it lies. The order of the sums over k is the
// same for every thread count.

#include "autodiff/cpu/gemm.h"
#include "autodiff/cpu/simd.h"

enum { F64_BLOCK_K = 256, F64_ROWS = 4, F64_VECTORS = AD_VECTOR_REGISTERS >= 32 ? 4 : 2 };

typedef struct f64_panel {
    const double *a; // of the first row and step
    int64_t a_row, a_step;
    const double *b; // (depth, vectors)
    double *c;
    int64_t c_stride;
    int64_t depth, columns;
    bool add;
    const double *bias; // (columns), or NULL
    ad_cpu_activation activation;
    double leak;
} f64_panel;

// One row of a tile leaves the registers.
AD_INLINE void f64_finish(const f64_panel *p, double *to, ad_f64v sum, int64_t first) {
    for (int lane = 0; lane < AD_F64_LANES && first + lane < p->columns; lane++) {
        double z = sum[lane];
        if (p->activation == AD_CPU_RELU && z <= 0) z = 0;
        if (p->activation == AD_CPU_LEAKY_RELU && z <= 0) z *= p->leak;
        to[lane] = z;
    }
}

AD_INLINE void f64_tile(const int rows, const int vectors, const f64_panel *p, int64_t row) {
    ad_f64v sum[F64_ROWS][F64_VECTORS];
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        AD_UNROLL
        for (int v = 0; v < vectors; v++) {
            const double *from = p->c + (row + r) * p->c_stride + v * AD_F64_LANES;
            const int64_t left = p->columns - v * AD_F64_LANES;
            const int count = left < AD_F64_LANES ? (int)left : AD_F64_LANES;
            sum[r][v] = (ad_f64v){0};
            if (p->add) sum[r][v] = ad_f64v_load_partial(from, count);
            if (p->bias) sum[r][v] += ad_f64v_load_partial(p->bias + v * AD_F64_LANES, count);
        }
    }
    const double *b = p->b;
    for (int64_t k = 0; k < p->depth; k++) {
        AD_UNROLL
        for (int r = 0; r < rows; r++) {
            const ad_f64v left = ad_f64v_set(p->a[(row + r) * p->a_row + k * p->a_step]);
            AD_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[r][v] = ad_f64v_fma(left, ad_f64v_load(b + v * AD_F64_LANES), sum[r][v]);
        }
        b += vectors * AD_F64_LANES;
    }
    AD_UNROLL
    for (int r = 0; r < rows; r++) {
        double *to = p->c + (row + r) * p->c_stride;
        AD_UNROLL
        for (int v = 0; v < vectors; v++)
            f64_finish(p, to + v * AD_F64_LANES, sum[r][v], v * AD_F64_LANES);
    }
}

AD_INLINE void f64_rows(const int vectors, const f64_panel *p, int64_t row, int64_t end) {
    for (; row + F64_ROWS <= end; row += F64_ROWS) f64_tile(F64_ROWS, vectors, p, row);
    for (; row < end; row++) f64_tile(1, vectors, p, row);
}

static void f64_pack(const ad_cpu_gemm *job, const double *b, int64_t k0, int64_t depth,
                     int64_t first, int64_t columns, int64_t stride, double *packed) {
    for (int64_t k = 0; k < depth; k++) {
        for (int64_t j = 0; j < stride; j++) {
            double value = 0;
            if (j < columns)
                value = job->transposed_b ? b[(first + j) * job->ldb + k0 + k]
                                          : b[(k0 + k) * job->ldb + first + j];
            packed[k * stride + j] = value;
        }
    }
}

// Rows row .. end - 1 of one matrix of the batch.
static void f64_multiply(const ad_cpu_gemm *job, int64_t item, int64_t row, int64_t end,
                         double *packed) {
    const double *a = (const double *)job->a + item * job->a_batch_stride;
    const double *b = (const double *)job->b + item * job->b_batch_stride;
    double *c = (double *)job->c + item * job->c_batch_stride;
    const int64_t a_row = job->transposed_a ? 1 : job->lda;
    const int64_t a_step = job->transposed_a ? job->lda : 1;
    for (int64_t j = 0; j < job->n; j += F64_VECTORS * AD_F64_LANES) {
        int64_t columns = job->n - j;
        if (columns > F64_VECTORS * AD_F64_LANES) columns = F64_VECTORS * AD_F64_LANES;
        const int vectors = (int)((columns + AD_F64_LANES - 1) / AD_F64_LANES);
        for (int64_t k0 = 0; k0 < job->k || k0 == 0; k0 += F64_BLOCK_K) {
            const int64_t depth = job->k - k0 < F64_BLOCK_K ? job->k - k0 : F64_BLOCK_K;
            f64_pack(job, b, k0, depth, j, columns, vectors * AD_F64_LANES, packed);
            f64_panel panel = {
                .a = a + k0 * a_step, .a_row = a_row, .a_step = a_step, .b = packed, .c = c + j,
                .c_stride = job->ldc, .depth = depth, .columns = columns,
                .add = job->accumulate || k0 > 0,
                .bias = k0 == 0 && job->bias ? (const double *)job->bias + j : NULL,
                .activation = k0 + depth >= job->k ? job->activation : AD_CPU_IDENTITY,
                .leak = (double)job->leak};
            if (vectors == 1) f64_rows(1, &panel, row, end);
            else if (vectors == 2) f64_rows(2, &panel, row, end);
#if AD_VECTOR_REGISTERS >= 32
            else if (vectors == 3) f64_rows(3, &panel, row, end);
            else f64_rows(4, &panel, row, end);
#endif
        }
    }
}

void ad_cpu_gemm_f64(const ad_cpu_gemm *job, int threads, void *workspace) {
    ad_cpu_gemm full = *job;
    if (full.batch == 0) full.batch = 1;
    if (full.m <= 0 || full.n <= 0 || full.batch <= 0) return;
    if (full.lda == 0) full.lda = full.transposed_a ? full.m : full.k;
    if (full.ldb == 0) full.ldb = full.transposed_b ? full.k : full.n;
    if (full.ldc == 0) full.ldc = full.n;

    const double products = (double)full.m * (double)full.n * (double)full.k * (double)full.batch;
    const double useful = products / 5e5 + 1;
    if (threads > useful) threads = (int)useful;
    if (threads < 1) threads = 1;
    const size_t slot = ad_cpu_gemm_workspace(full.m, full.n, full.k, false, 1) / sizeof(double);
    const int64_t rows = full.m * full.batch; // of all matrices, shared out evenly
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        double *packed = (double *)workspace + (size_t)t * slot;
        for (int64_t at = rows * t / threads, end = rows * (t + 1) / threads; at < end;) {
            const int64_t item = at / full.m, row = at % full.m;
            const int64_t last = end - at < full.m - row ? row + end - at : full.m;
            f64_multiply(&full, item, row, last, packed);
            at += last - row;
        }
    }
}
