// Dense f32 products on the tile of tile.h, blocked in the way of Goto and van de Geijn (2008).
//
// k is cut into blocks of 256. Of each block, b is packed into panels as wide as a tile, so that
// the kernel reads it in one stream and every line that it touches it uses; a is read where it
// lies, or, if it is stored transposed and large, packed too. A b that fits the nearest cache, or
// is a panel as it lies, is not packed, unless it is transposed; where the machine has no masked
// loads, its last panel is, if its last vector is not full. What is packed is read row by row as it
// lies: from memory far away, short pieces of rows cost several times as much.
//
// Work is given out in blocks of rows, or in matrices if the batch has many. A large product's
// threads meet after every block of k; those of a longer sum into a smaller c go through all of k
// by themselves, each with rows of its own. A weight's gradient, a long sum over the rows of a
// batch, may be cut along k: a thread sums what it has near, the rows that it made, and the parts
// are added in their order. Which thread does what and how wide a tile is changes no bit: every
// number of c is summed over k in order, in parts that depend on the sizes alone, and leaves the
// registers for c only between blocks of k.

#include "autodiff/cpu/gemm.h"

#include "autodiff/cpu/gemm_tile.h"
#include "autodiff/cpu/row_tasks.h"

enum {
    BLOCK_K = 256,
    BLOCK_N = 1024,        // columns of b that are packed at a time
    BLOCK_M = 264,         // rows of a task
    DIRECT = 32 * 1024,    // numbers of a transposed a or of a b that is read where it lies
    TINY = 64,             // sizes up to here take the shortest way
    ROWS = 6,              // what the rows of a task are a multiple of: those of the widest tile
    PART_K = 1024,         // a sum so long is cut into parts of about that, two at least, if c has
    PART_C = 64 * 1024,    // so many numbers at most: a larger one costs more to be added
    PARTS_MAX = 16,
    ALONE_ROWS = 32,       // rows of a thread that packs b for itself
    ALONE_PRODUCTS = 1 << 26 // of a block of k: about a millisecond of one core
};

typedef struct gemm_pass {
    const ad_cpu_gemm *job; // with all strides set
    int threads;
    float *packed_b; // (BLOCK_K * padded columns), of every thread
    float *packed_a; // (BLOCK_M * BLOCK_K), of every thread
    float *sums;     // of parts, (m, n) each
} gemm_pass;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t padded(int64_t n) { return (n + AD_LANES - 1) / AD_LANES * AD_LANES; }

// Whole vectors, and an odd number of them, so that lines one below another have places of their
// own in the cache.
static int64_t spread(int64_t n) { return padded(n) | AD_LANES; }

static size_t packed_b_words(int64_t n, int64_t k) {
    return (size_t)(padded(least(n, BLOCK_N)) * least(k, BLOCK_K) + AD_LANES - 1) / 16 * 16 + 16;
}

static size_t packed_a_words(int64_t m, int64_t k) {
    return (size_t)(spread(least(m, BLOCK_M)) * least(k, BLOCK_K) + 15) / 16 * 16;
}

// Parts of a sum over k into an (m, n) c.
static int parts_of(int64_t m, int64_t n, int64_t k) {
    if (k < PART_K || m * n > PART_C) return 1;
    return k < 2 * PART_K ? 2 : (int)least(k / PART_K, PARTS_MAX);
}

size_t ad_cpu_gemm_workspace(int64_t m, int64_t n, int64_t k, bool cut, int threads) {
    // The f64 path packs the same counts of numbers of twice the size.
    const size_t each = packed_b_words(n, k) + packed_a_words(m, k);
    const size_t parts = cut ? (size_t)parts_of(m, n, k) : 1;
    const size_t workers = threads < 1 ? 1 : (size_t)threads;
    const size_t sums = parts < 2 ? 0 : parts - 1 > workers ? parts - 1 : workers;
    return 8 * each * workers + 4 * sums * (size_t)(m * n);
}

// ---------------------------------------------------------------- packing

enum { PACK_AHEAD = 8 }; // rows further down, whose lines are asked for meanwhile

// `wide` numbers, padded to whole vectors; rows of `from` are `stride` apart.
AD_INLINE void pack_row(const float *from, int64_t stride, int64_t wide, float *to) {
    int64_t j = 0;
    for (; j + AD_LANES <= wide; j += AD_LANES) {
        __builtin_prefetch(from + PACK_AHEAD * stride + j);
        ad_f32v_store(to + j, ad_f32v_load(from + j));
    }
    if (j < wide) ad_f32v_store(to + j, ad_f32v_load_partial(from + j, (int)(wide - j)));
}

// Columns first .. first + wide - 1 of b, rows k0 .. k0 + depth - 1, as one panel.
static void pack_panel(const ad_cpu_gemm *job, const float *b, int64_t k0, int64_t depth,
                       int64_t first, int64_t wide, float *panel) {
    const int64_t stride = padded(wide);
    if (job->transposed_b) {
        ad_u32_transpose((const uint32_t *)b + first * job->ldb + k0, job->ldb, wide, depth,
                         (uint32_t *)panel, stride);
        return;
    }
    for (int64_t k = 0; k < depth; k++)
        pack_row(b + (k0 + k) * job->ldb + first, job->ldb, wide, panel + k * stride);
}

// ---------------------------------------------------------------- one block

typedef struct gemm_block {
    int64_t k0, depth;      // of k
    int64_t first, columns; // of n
    bool packed;            // all panels of b are in packed_b
    float *packed_b, *packed_a;
    float *into; // the finished sums are added to what this holds, or NULL
    int64_t into_stride;
} gemm_block;

// Rows row .. row + rows - 1 of c against one block of k and n.
static void multiply_rows(const ad_cpu_gemm *job, const float *a, const float *b, float *c,
                          const gemm_block *block, int64_t row, int64_t rows) {
    const bool first = block->k0 == 0, last = block->k0 + block->depth == job->k;
    ad_gemm_panel panel = {
        .transposed = job->transposed_a, .rows = (int)rows, .depth = block->depth,
        .a = a + (job->transposed_a ? block->k0 * job->lda + row : row * job->lda + block->k0),
        .a_stride = job->lda, .c_stride = job->ldc, .start_stride = job->ldc,
        .activation = last ? job->activation : AD_CPU_IDENTITY, .leak = job->leak};
    // Of a transposed a whose lines would not stay in the nearest cache the rows' part is packed.
    if (job->transposed_a && block->depth * job->lda > DIRECT && block->columns > TINY) {
        const int64_t stride = spread(rows);
        for (int64_t k = 0; k < block->depth; k++)
            pack_row(panel.a + k * job->lda, job->lda, rows, block->packed_a + k * stride);
        panel.a = block->packed_a, panel.a_stride = stride;
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
        panel.start = job->accumulate || !first ? panel.c : NULL;
        if (last && block->into) {
            panel.c = block->into + row * block->into_stride + block->first + j;
            panel.c_stride = block->into_stride, panel.plus = true;
        }
        panel.bias = first && job->bias ? (const float *)job->bias + block->first + j : NULL;
        ad_gemm_multiply(&panel);
    }
}

// Packs what the block needs of b, or thread t's part of that: all panels, or only a last narrow
// one. Rows of b are read as they lie, one behind the other, and dealt out to the panels.
static void pack_block(const ad_cpu_gemm *job, const float *b, const gemm_block *block, int t,
                       int threads) {
    if (!block->packed && (AD_SIMD_MASKED || block->columns % AD_LANES == 0)) return;
    const bool rows = block->packed && !job->transposed_b;
    const int64_t k_end = rows ? block->depth * (t + 1) / threads : 1;
    for (int64_t k = rows ? block->depth * t / threads : 0; k < k_end; k++) {
        int vectors = 0, panel = 0;
        for (int64_t j = 0; j < block->columns; j += vectors * AD_LANES, panel++) {
            vectors = ad_tile_vectors((int)((block->columns - j + AD_LANES - 1) / AD_LANES));
            const int64_t wide = least(block->columns - j, vectors * AD_LANES);
            float *to = block->packed_b + (block->packed ? j * block->depth : 0);
            if (rows)
                pack_row(b + (block->k0 + k) * job->ldb + block->first + j, job->ldb, wide,
                         to + k * padded(wide));
            else if (block->packed ? panel % threads == t : wide % AD_LANES != 0)
                pack_panel(job, b, block->k0, block->depth, block->first + j, wide, to);
        }
    }
}

// ---------------------------------------------------------------- one matrix

// Whether b is read from panels. One that is a panel already, dense and as wide, needs no packing.
static bool needs_packing(const ad_cpu_gemm *job) {
    const bool panel = job->n % AD_LANES == 0 && job->ldb == job->n
                    && job->n <= AD_TILE_VECTORS_MAX * AD_LANES;
    return job->transposed_b || (!panel && job->m > 48 && job->k * job->n > DIRECT);
}

typedef struct gemm_matrix {
    const ad_cpu_gemm *job;
    const float *a, *b;
    float *c, *packed_b, *packed_a; // the packed ones: of one thread
    float *sums;                    // of parts
    float *into;                    // as in gemm_block
    int64_t into_stride;
    bool packed;
} gemm_matrix;

// Rows row .. end - 1 of c by one thread alone, over all blocks of n and k.
static void multiply_alone(const gemm_matrix *x, int64_t row, int64_t end) {
    const ad_cpu_gemm *job = x->job;
    gemm_block block = {.packed = x->packed, .packed_b = x->packed_b, .packed_a = x->packed_a,
                        .into = x->into, .into_stride = x->into_stride};
    for (block.first = 0; block.first < job->n; block.first += BLOCK_N) {
        block.columns = least(job->n - block.first, BLOCK_N);
        for (block.k0 = 0; block.k0 < job->k || block.k0 == 0; block.k0 += BLOCK_K) {
            block.depth = least(job->k - block.k0, BLOCK_K);
            pack_block(job, x->b, &block, 0, 1);
            for (int64_t at = row; at < end; at += BLOCK_M)
                multiply_rows(job, x->a, x->b, x->c, &block, at, least(end - at, BLOCK_M));
        }
    }
}

// Rows row .. end - 1 of part p of the sum over k: the first part in c, another in `sums` and, with
// `add`, from there to c.
static void multiply_part(const gemm_matrix *x, int p, int parts, float *sums, bool add,
                          int64_t row, int64_t end) {
    const int64_t k = x->job->k, blocks = (k + BLOCK_K - 1) / BLOCK_K;
    const int64_t begin = blocks * p / parts * BLOCK_K;
    ad_cpu_gemm part = *x->job;
    gemm_matrix own = *x;
    own.job = &part;
    part.k = least(blocks * (p + 1) / parts * BLOCK_K, k) - begin;
    own.a += part.transposed_a ? begin * part.lda : begin;
    own.b += part.transposed_b ? begin : begin * part.ldb;
    if (p > 0) {
        if (add) own.into = own.c, own.into_stride = part.ldc;
        own.c = sums, part.ldc = part.n, part.bias = NULL, part.accumulate = false;
        // Far away since the last product: asked for now, to be written to soon.
        for (int64_t i = row * part.n; i < end * part.n; i += 16)
            __builtin_prefetch(sums + i, 1, 2);
    }
    multiply_alone(&own, row, end);
}

// Rows row .. end - 1 of c += those of the parts' sums, part by part.
static void add_parts(const gemm_matrix *x, const float *sums, int count, int64_t row,
                      int64_t end) {
    const int64_t n = x->job->n, size = x->job->m * n;
    for (int64_t i = row; i < end; i++) {
        float *to = x->c + i * x->job->ldc;
        for (int p = 0; p < count; p++) {
            const float *from = sums + p * size + i * n;
            int64_t j = 0;
            for (; j + AD_LANES <= n; j += AD_LANES)
                ad_f32v_store(to + j, ad_f32v_load(from + j) + ad_f32v_load(to + j));
            for (; j < n; j++) to[j] = from[j] + to[j];
        }
    }
}

// Where there are more threads than parts, several share a part in strips of rows.
static void multiply_parts(const gemm_matrix *x, int parts, int threads, size_t a_words,
                           size_t b_words) {
    const int64_t m = x->job->m, size = m * x->job->n;
    if (threads == 1) {
        for (int p = 0; p < parts; p++) multiply_part(x, p, parts, x->sums, true, 0, m);
        return;
    }
    const int64_t strips = (threads + parts - 1) / parts;
    const int64_t high = (m + ROWS * strips - 1) / (ROWS * strips) * ROWS;
    ad_row_tasks tasks; // of a strip each
    ad_row_tasks_begin(&tasks, parts * strips, 1, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        gemm_matrix own = *x;
        own.packed_a += (size_t)t * a_words, own.packed_b += (size_t)t * b_words;
        for (int64_t task; ad_row_tasks_take(&tasks, t, &task) > 0;) {
            const int64_t p = task / strips, row = task % strips * high;
            if (row < m)
                multiply_part(&own, (int)p, parts, p ? x->sums + (p - 1) * size : NULL, false, row,
                              least(row + high, m));
        }
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        add_parts(x, x->sums, parts - 1, m * t / threads, m * (t + 1) / threads);
}

// Rows of a task: all tasks alike and several for every thread, so that one that is done can help.
static int64_t task_rows(int64_t m, int threads) {
    const int64_t most = (m + BLOCK_M - 1) / BLOCK_M, each = 2 * (int64_t)threads;
    const int64_t tasks = (most + each - 1) / each * each, rows = (m + tasks - 1) / tasks;
    return (rows + ROWS - 1) / ROWS * ROWS;
}

// Threads meet after every block of k: the way of a large product, whose b they pack together.
static void multiply_together(const gemm_matrix *x, size_t a_words, int threads) {
    const ad_cpu_gemm *job = x->job;
    const int64_t high = task_rows(job->m, threads);
    gemm_block block = {.packed = x->packed, .packed_b = x->packed_b};
    for (block.first = 0; block.first < job->n; block.first += BLOCK_N) {
        block.columns = least(job->n - block.first, BLOCK_N);
        for (block.k0 = 0; block.k0 < job->k || block.k0 == 0; block.k0 += BLOCK_K) {
            block.depth = least(job->k - block.k0, BLOCK_K);
            const bool share = x->packed && block.depth * block.columns > DIRECT / 2;
            const int packers = share ? threads : 1;
            ad_row_tasks tasks;
            ad_row_tasks_begin(&tasks, job->m, high, threads);
#pragma omp parallel for num_threads(packers) schedule(static) if (packers > 1)
            for (int t = 0; t < packers; t++) pack_block(job, x->b, &block, t, packers);
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int t = 0; t < threads; t++) {
                gemm_block own = block;
                own.packed_a = x->packed_a + (size_t)t * a_words;
                for (int64_t row, rows; (rows = ad_row_tasks_take(&tasks, t, &row)) > 0;)
                    multiply_rows(job, x->a, x->b, x->c, &own, row, rows);
            }
        }
    }
}

static void multiply_matrix(const gemm_pass *pass, int64_t item, int slot, int threads) {
    const ad_cpu_gemm *job = pass->job;
    const size_t a_words = packed_a_words(job->m, job->k), b_words = packed_b_words(job->n, job->k);
    const gemm_matrix x = {
        .job = job, .packed = needs_packing(job),
        .a = (const float *)job->a + item * job->a_batch_stride,
        .b = (const float *)job->b + item * job->b_batch_stride,
        .c = (float *)job->c + item * job->c_batch_stride,
        .packed_b = pass->packed_b + (size_t)slot * b_words,
        .packed_a = pass->packed_a + (size_t)slot * a_words,
        .sums = pass->sums + (size_t)slot * (size_t)(job->m * job->n)};
    const bool cut = job->cut && job->activation == AD_CPU_IDENTITY;
    const int parts = cut ? parts_of(job->m, job->n, job->k) : 1;
    if (parts > 1) {
        multiply_parts(&x, parts, threads, a_words, b_words);
        return;
    }
    const bool narrow = !AD_SIMD_MASKED && job->n % AD_LANES; // its last panel is packed anyway
    if (threads == 1) {
        multiply_alone(&x, 0, job->m);
        return;
    }
    // A long sum into a small c: to meet after every block would cost more than packing b for every
    // thread, where each has rows enough for that.
    const int64_t high = task_rows(job->m, threads);
    const double block_products = (double)job->m * (double)least(job->n, BLOCK_N) * BLOCK_K;
    const bool long_sum = job->k > BLOCK_K && block_products < ALONE_PRODUCTS;
    if (!long_sum || ((x.packed || narrow) && job->m < ALONE_ROWS * threads)) {
        multiply_together(&x, a_words, threads);
        return;
    }
    ad_row_tasks tasks;
    const int64_t fair = (job->m / threads + ROWS) / ROWS * ROWS;
    ad_row_tasks_begin(&tasks, job->m, x.packed || narrow ? fair : high, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        gemm_matrix own = x;
        own.packed_a += (size_t)t * a_words, own.packed_b += (size_t)t * b_words;
        for (int64_t row, rows; (rows = ad_row_tasks_take(&tasks, t, &row)) > 0;)
            multiply_alone(&own, row, row + rows);
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
        .c_stride = job->ldc ? job->ldc : job->n, .start = job->accumulate ? job->c : NULL,
        .start_stride = job->ldc ? job->ldc : job->n, .bias = job->bias,
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
    if (threads > AD_ROW_TASKS_THREADS) threads = AD_ROW_TASKS_THREADS;
    if (threads < 1) threads = 1;

    gemm_pass pass = {.job = &full, .threads = threads, .packed_b = workspace};
    pass.packed_a = pass.packed_b + (size_t)threads * packed_b_words(job->n, job->k);
    pass.sums = pass.packed_a + (size_t)threads * packed_a_words(job->m, job->k);
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
