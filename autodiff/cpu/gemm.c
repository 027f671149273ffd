// Dense f32 products on the tile of tile.h, blocked in the way of Goto and van de Geijn (2008).
//
// k is cut into blocks of 256. Of each block, b is packed into panels as wide as a tile, so that
// the kernel reads it in one stream and every line that it touches it uses; a is read where it
// lies, or, if it is stored transposed and large, turned first. A b that fits the nearest cache is
// read where it lies, unless it is transposed; where the machine has no masked loads, its last
// panel is packed if its last vector is not full.
//
// Work is given out in blocks of rows, or in matrices if the batch has many. Which thread does
// what, which path is taken and how wide a tile is changes no bit: every number of c is summed
// over k in order, and leaves the registers for c only between blocks of k.

#include "autodiff/cpu/gemm.h"

#include "autodiff/cpu/gemm_tile.h"

enum {
    BLOCK_K = 256,
    BLOCK_N = 1024,       // columns of b that are packed at a time
    BLOCK_M = 96,         // rows of a task
    DIRECT = 32 * 1024, // a transposed a or a b of at most so many numbers is read where it lies
    TINY = 64              // sizes up to here take the shortest way
};

typedef struct gemm_pass {
    const ad_cpu_gemm *job; // with all strides set
    int threads;
    float *packed_b; // (BLOCK_K * padded columns), of every thread
    float *packed_a; // (BLOCK_M * BLOCK_K), of every thread
} gemm_pass;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t padded(int64_t n) { return (n + AD_LANES - 1) / AD_LANES * AD_LANES; }

static size_t packed_b_words(int64_t n, int64_t k) {
    return (size_t)(padded(least(n, BLOCK_N)) * least(k, BLOCK_K) + AD_LANES - 1) / 16 * 16 + 16;
}

static size_t packed_a_words(int64_t m, int64_t k) {
    return (size_t)(least(m, BLOCK_M) * padded(least(k, BLOCK_K))) / 16 * 16 + 16;
}

size_t ad_cpu_gemm_workspace(int64_t m, int64_t n, int64_t k, int threads) {
    // The f64 path packs the same counts of numbers of twice the size.
    size_t words = packed_b_words(n, k) + packed_a_words(m, k);
    return 8 * words * (size_t)(threads < 1 ? 1 : threads);
}

// ---------------------------------------------------------------- packing

// Columns first .. first + wide - 1 of b, rows k0 .. k0 + depth - 1, as one panel.
static void pack_panel(const ad_cpu_gemm *job, const float *b, int64_t k0, int64_t depth,
                       int64_t first, int64_t wide, float *panel) {
    const int64_t stride = padded(wide);
    if (job->transposed_b) {
        ad_u32_transpose((const uint32_t *)b + first * job->ldb + k0, job->ldb, wide, depth,
                         (uint32_t *)panel, stride);
        return;
    }
    const int last = (int)(wide - (stride - AD_LANES));
    for (int64_t k = 0; k < depth; k++) {
        const float *from = b + (k0 + k) * job->ldb + first;
        float *to = panel + k * stride;
        int64_t j = 0;
        for (; j < stride - AD_LANES; j += AD_LANES) ad_f32v_store(to + j, ad_f32v_load(from + j));
        if (last == AD_LANES) ad_f32v_store(to + j, ad_f32v_load(from + j));
        else ad_f32v_store(to + j, ad_f32v_load_partial(from + j, last));
    }
}

// ---------------------------------------------------------------- one block

typedef struct gemm_block {
    int64_t k0, depth;      // of k
    int64_t first, columns; // of n
    bool packed;            // all panels of b are in packed_b
    float *packed_b, *packed_a;
} gemm_block;

// Rows row .. row + rows - 1 of c against one block of k and n.
static void multiply_rows(const ad_cpu_gemm *job, const float *a, const float *b, float *c,
                          const gemm_block *block, int64_t row, int64_t rows) {
    const bool first = block->k0 == 0, last = block->k0 + block->depth == job->k;
    ad_gemm_panel panel = {
        .transposed = job->transposed_a, .rows = (int)rows, .depth = block->depth,
        .a = a + (job->transposed_a ? block->k0 * job->lda + row : row * job->lda + block->k0),
        .a_stride = job->lda, .c_stride = job->ldc, .add = job->accumulate || !first,
        .activation = last ? job->activation : AD_CPU_IDENTITY, .leak = job->leak};
    // A transposed a whose lines would not stay in the nearest cache is turned.
    if (job->transposed_a && block->depth * job->lda > DIRECT && block->columns > TINY) {
        ad_u32_transpose((const uint32_t *)panel.a, job->lda, block->depth, rows,
                         (uint32_t *)block->packed_a, padded(block->depth));
        panel.transposed = false;
        panel.a = block->packed_a, panel.a_stride = padded(block->depth);
    }
    int vectors = 0;
    for (int64_t j = 0; j < block->columns; j += vectors * AD_LANES) {
        vectors = ad_tile_vectors((int)((block->columns - j + AD_LANES - 1) / AD_LANES));
        panel.columns = (int)least(block->columns - j, vectors * AD_LANES);
        if (block->packed) {
            panel.b = block->packed_b + j * block->depth;
            panel.b_stride = vectors * AD_LANES;
        } else if (!AD_SIMD_MASKED && panel.columns % AD_LANES) {
            panel.b = block->packed_b;
            panel.b_stride = vectors * AD_LANES;
        } else {
            panel.b = b + block->k0 * job->ldb + block->first + j;
            panel.b_stride = job->ldb;
        }
        panel.vectors = vectors;
        panel.c = c + row * job->ldc + block->first + j;
        panel.bias = first && job->bias ? (const float *)job->bias + block->first + j : NULL;
        ad_gemm_multiply(&panel);
    }
}

// Packs what the block needs of b: panels t, t + threads, ... of all, or only a last narrow one.
static void pack_block(const ad_cpu_gemm *job, const float *b, const gemm_block *block, int t,
                       int threads) {
    if (!block->packed && (AD_SIMD_MASKED || block->columns % AD_LANES == 0)) return;
    int vectors = 0, panel = 0;
    for (int64_t j = 0; j < block->columns; j += vectors * AD_LANES, panel++) {
        vectors = ad_tile_vectors((int)((block->columns - j + AD_LANES - 1) / AD_LANES));
        const int64_t wide = least(block->columns - j, vectors * AD_LANES);
        if (block->packed ? panel % threads != t : wide % AD_LANES == 0) continue;
        pack_panel(job, b, block->k0, block->depth, block->first + j, wide,
                   block->packed_b + (block->packed ? j * block->depth : 0));
    }
}

// ---------------------------------------------------------------- one matrix

static void multiply_matrix(const gemm_pass *pass, int64_t item, int slot, int threads) {
    const ad_cpu_gemm *job = pass->job;
    const float *a = (const float *)job->a + item * job->a_batch_stride;
    const float *b = (const float *)job->b + item * job->b_batch_stride;
    float *c = (float *)job->c + item * job->c_batch_stride;
    const size_t a_words = packed_a_words(job->m, job->k);
    gemm_block block = {
        .packed = job->transposed_b || (job->m > 48 && job->k * job->n > DIRECT),
        .packed_b = pass->packed_b + (size_t)slot * packed_b_words(job->n, job->k)};
    float *packed_a = pass->packed_a + (size_t)slot * a_words;

    for (block.first = 0; block.first < job->n; block.first += BLOCK_N) {
        block.columns = least(job->n - block.first, BLOCK_N);
        for (block.k0 = 0; block.k0 < job->k || block.k0 == 0; block.k0 += BLOCK_K) {
            block.depth = least(job->k - block.k0, BLOCK_K);
            if (threads == 1) {
                block.packed_a = packed_a;
                pack_block(job, b, &block, 0, 1);
                for (int64_t row = 0; row < job->m; row += BLOCK_M)
                    multiply_rows(job, a, b, c, &block, row, least(job->m - row, BLOCK_M));
                continue;
            }
            // Rows go to whichever thread is free; tasks shrink until every thread has some.
            int64_t high = BLOCK_M, next = 0;
            while (high > 24 && high * threads * 2 > job->m) high /= 2;
            const int packers = block.packed ? threads : 1;
#pragma omp parallel for num_threads(packers) schedule(static) if (packers > 1)
            for (int t = 0; t < packers; t++) pack_block(job, b, &block, t, packers);
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int t = 0; t < threads; t++) {
                gemm_block own = block;
                own.packed_a = packed_a + (size_t)t * a_words;
                for (;;) {
                    int64_t row;
#pragma omp atomic capture
                    {
                        row = next;
                        next += high;
                    }
                    if (row >= job->m) break;
                    multiply_rows(job, a, b, c, &own, row, least(job->m - row, high));
                }
            }
        }
    }
}

// One panel and no packing: all that a small product needs.
static bool multiply_tiny(const ad_cpu_gemm *job) {
    if (job->transposed_b || job->batch > 1 || job->m > TINY || job->k > TINY ||
        job->n > AD_TILE_VECTORS_MAX * AD_LANES || job->m <= 0 || job->n <= 0)
        return false;
    if (!AD_SIMD_MASKED && job->n % AD_LANES) return false;
    const ad_gemm_panel panel = {
        .transposed = job->transposed_a, .rows = (int)job->m, .columns = (int)job->n,
        .vectors = (int)(job->n + AD_LANES - 1) / AD_LANES, .depth = job->k, .a = job->a,
        .a_stride = job->lda ? job->lda : job->transposed_a ? job->m : job->k, .b = job->b,
        .b_stride = job->ldb ? job->ldb : job->n, .c = job->c,
        .c_stride = job->ldc ? job->ldc : job->n, .add = job->accumulate, .bias = job->bias,
        .activation = job->activation, .leak = job->leak};
    ad_gemm_multiply(&panel);
    return true;
}

void ad_cpu_gemm_f32(const ad_cpu_gemm *job, int threads, void *workspace) {
    if (multiply_tiny(job)) return;
    ad_cpu_gemm full = *job;
    if (full.batch == 0) full.batch = 1;
    if (full.m <= 0 || full.n <= 0 || full.batch <= 0) return;
    if (full.lda == 0) full.lda = full.transposed_a ? full.m : full.k;
    if (full.ldb == 0) full.ldb = full.transposed_b ? full.k : full.n;
    if (full.ldc == 0) full.ldc = full.n;

    // Many products with the same b are one taller product.
    if (full.batch > 1 && full.b_batch_stride == 0 && !full.transposed_a &&
        full.a_batch_stride == full.m * full.lda && full.c_batch_stride == full.m * full.ldc) {
        full.m *= full.batch;
        full.batch = 1;
    }
    // About 20 microseconds of work before another thread is worth its start.
    const double products = (double)full.m * (double)full.n * (double)full.k;
    const double useful = products * (double)full.batch / 1e6 + 1;
    if (threads > useful) threads = (int)useful;
    if (threads < 1) threads = 1;

    gemm_pass pass = {.job = &full, .threads = threads, .packed_b = workspace};
    pass.packed_a = pass.packed_b + (size_t)threads * packed_b_words(job->n, job->k);
    if (full.batch < threads || products > 1e7 || threads == 1) {
        for (int64_t item = 0; item < full.batch; item++)
            multiply_matrix(&pass, item, 0, products > 1e6 ? threads : 1);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        const int64_t end = (t + 1) * full.batch / threads;
        for (int64_t item = t * full.batch / threads; item < end; item++)
            multiply_matrix(&pass, item, t, 1);
    }
}
