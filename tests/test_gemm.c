// Dense products against plain f64 loops: all transposes, odd sizes around every tile, strides,
// batches with shared matrices, bias and activation, accumulation; and the promise that the bits
// depend neither on threads nor, but with `cut`, on how many rows there are.

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/cpu/gemm.h"
#include "autodiff/cpu/row_tasks.h"

static const double guard_value = -12345.0;
static uint64_t random_state = 7;

static double random_number(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(float)((double)(random_state >> 40) / (1 << 24) * 2 - 1);
}

// Numbers of f32 or f64, told apart by `size`.
static double get(const void *numbers, size_t size, int64_t at) {
    return size == 4 ? (double)((const float *)numbers)[at] : ((const double *)numbers)[at];
}

static void set(void *numbers, size_t size, int64_t at, double value) {
    if (size == 4) ((float *)numbers)[at] = (float)value;
    else ((double *)numbers)[at] = value;
}

static void *numbers_make(size_t size, int64_t count, bool guard) {
    void *numbers = aligned_alloc(64, ((size_t)count * size + 127) / 64 * 64);
    for (int64_t i = 0; i < count; i++)
        set(numbers, size, i, guard ? guard_value : random_number());
    return numbers;
}

static void multiply(const ad_cpu_gemm *job, size_t size, int threads) {
    size_t bytes = ad_cpu_gemm_workspace(job->m, job->n, job->k, job->cut, threads);
    uint8_t *workspace = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(workspace + bytes, 0xa5, 64);
    if (size == 4) ad_cpu_gemm_f32(job, threads, workspace);
    else ad_cpu_gemm_f64(job, threads, workspace);
    for (int i = 0; i < 64; i++) cr_assert_eq(workspace[bytes + (size_t)i], 0xa5, "workspace");
    free(workspace);
}

static double expected(const ad_cpu_gemm *job, size_t size, int64_t item, int64_t i, int64_t j,
                       double before) {
    double sum = job->accumulate ? before : 0;
    if (job->bias) sum += get(job->bias, size, j);
    for (int64_t k = 0; k < job->k; k++) {
        int64_t a = job->transposed_a ? k * job->lda + i : i * job->lda + k;
        int64_t b = job->transposed_b ? j * job->ldb + k : k * job->ldb + j;
        sum += get(job->a, size, item * job->a_batch_stride + a) *
               get(job->b, size, item * job->b_batch_stride + b);
    }
    if (job->activation == AD_CPU_RELU && sum < 0) sum = 0;
    if (job->activation == AD_CPU_LEAKY_RELU && sum < 0) sum *= (double)job->leak;
    return sum;
}

typedef struct product {
    int64_t m, n, k;
    int variant; // bits: transposed a, transposed b, accumulate, bias, activation (2), extra stride
    int64_t batch;
    bool shared_a, shared_b, cut;
} product;

static void check(product p, size_t size, int threads) {
    const int64_t extra = p.variant & 64 ? 3 : 0, batch = p.batch ? p.batch : 1;
    const bool ta = p.variant & 1, tb = p.variant & 2;
    ad_cpu_gemm job = {.transposed_a = ta, .transposed_b = tb, .m = p.m, .n = p.n, .k = p.k,
                       .accumulate = p.variant & 4, .batch = p.batch, .leak = 0.25f, .cut = p.cut,
                       .activation = (ad_cpu_activation)((p.variant >> 4) % 4 % 3)};
    job.lda = (ta ? p.m : p.k) + extra, job.ldb = (tb ? p.k : p.n) + extra, job.ldc = p.n + extra;
    const int64_t a_count = (ta ? p.k : p.m) * job.lda, b_count = (tb ? p.n : p.k) * job.ldb;
    const int64_t c_count = p.m * job.ldc;
    job.a_batch_stride = p.shared_a ? 0 : a_count, job.b_batch_stride = p.shared_b ? 0 : b_count;
    job.c_batch_stride = c_count;
    void *a = numbers_make(size, a_count * batch + 1, false);
    void *b = numbers_make(size, b_count * batch + 1, false);
    void *bias = numbers_make(size, p.n + 1, false);
    void *c = numbers_make(size, c_count * batch + 16, true);
    double *before = calloc((size_t)(c_count * batch + 1), sizeof *before);
    for (int64_t i = 0; i < p.m * batch; i++)
        for (int64_t j = 0; j < p.n; j++) {
            before[i * job.ldc + j] = random_number();
            set(c, size, i * job.ldc + j, before[i * job.ldc + j]);
        }
    job.a = a, job.b = b, job.c = c, job.bias = p.variant & 8 ? bias : NULL;
    multiply(&job, size, threads);

    const double tolerance = (size == 4 ? 1e-7 : 2e-16) * (double)(p.k + 8);
    for (int64_t i = 0; i < p.m * batch; i++) {
        for (int64_t j = 0; j < p.n; j++) {
            double right = expected(&job, size, i / p.m, i % p.m, j, before[i * job.ldc + j]);
            double error = fabs(get(c, size, i * job.ldc + j) - right);
            cr_assert(error <= tolerance, "%zu bytes, %d x %d x %d, variant %d, batch %d: "
                      "c[%d, %d] is %g, expected %g", size, (int)p.m, (int)p.n, (int)p.k,
                      p.variant, (int)p.batch, (int)i, (int)j,
                      get(c, size, i * job.ldc + j), right);
        }
        for (int64_t j = p.n; j < job.ldc; j++)
            cr_assert_eq(get(c, size, i * job.ldc + j), guard_value, "wrote between rows of c");
    }
    for (int64_t i = c_count * batch; i < c_count * batch + 16; i++)
        cr_assert_eq(get(c, size, i), guard_value, "wrote past c");
    free(a), free(b), free(bias), free(c), free(before);
}

Test(gemm, all_variants_of_small_products) {
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {1, 17, 5}, {2, 3, 1}, {3, 16, 16}, {5, 33, 7}, {6, 64, 3}, {7, 65, 20},
        {12, 15, 31}, {13, 48, 9}, {16, 80, 16}, {23, 100, 2}, {31, 31, 31}, {4, 5, 0}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int variant = 0; variant < 128; variant++) {
            product p = {sizes[s][0], sizes[s][1], sizes[s][2], variant, 0, false, false, false};
            check(p, 4, 1);
            check(p, 8, 1);
        }
}

Test(gemm, large_products_with_blocks_and_threads) {
    static const int64_t sizes[][3] = {{97, 129, 257}, {200, 70, 300}, {49, 1100, 65},
                                       {130, 250, 520}, {100, 330, 600}, {64, 64, 1024},
                                       {12, 2100, 300}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int v = 0; v < 4; v++) {
            product p = {sizes[s][0], sizes[s][1], sizes[s][2], v | 8 | 64, 0, false, false, false};
            check(p, 4, 2 + v);
            check(p, 8, 2);
        }
}

Test(gemm, batches_may_share_a_matrix) {
    for (int shared = 0; shared < 4; shared++)
        for (int variant = 0; variant < 8; variant++) {
            check((product){5, 7, 9, variant, 11, shared & 1, shared & 2, false}, 4, 2);
            check((product){64, 48, 40, variant, 13, shared & 1, shared & 2, false}, 4, 3);
            check((product){120, 100, 110, variant, 3, shared & 1, shared & 2, false}, 4, 2);
            check((product){9, 33, 1300, variant, 7, shared & 1, shared & 2, true}, 4, 3);
            check((product){90, 100, 1300, variant, 2, shared & 1, shared & 2, true}, 4, 3);
            check((product){5, 7, 9, variant, 11, shared & 1, shared & 2, false}, 8, 2);
        }
}

Test(gemm, empty_products_touch_nothing) {
    float c = 3;
    ad_cpu_gemm job = {.m = 0, .n = 4, .k = 4, .c = &c};
    multiply(&job, 4, 1);
    job.m = 4, job.n = 0;
    multiply(&job, 4, 2);
    cr_assert_eq(c, 3);
}

// more: added to what c holds, with a bias.
static void check_threads(ad_cpu_gemm job, size_t size, bool more) {
    const int64_t count = job.m * job.n;
    void *bias = numbers_make(size, job.n, false), *before = numbers_make(size, count, false);
    void *once = numbers_make(size, count, true), *again = numbers_make(size, count, true);
    job.accumulate = more, job.bias = more ? bias : NULL;
    for (int threads = 1; threads <= 7; threads++) {
        job.c = threads == 1 ? once : again;
        memcpy(job.c, before, (size_t)count * size);
        multiply(&job, size, threads);
        cr_assert_eq(memcmp(once, job.c, (size_t)count * size), 0, "%d x %d x %d: %d threads",
                     (int)job.m, (int)job.n, (int)job.k, threads);
    }
    free(bias), free(before), free(once), free(again);
}

static void check_bits(int64_t m, int64_t n, int64_t k, int transposed, bool cut, size_t size) {
    ad_cpu_gemm job = {.transposed_a = transposed & 1, .transposed_b = transposed & 2, .m = m,
                       .n = n, .k = k, .lda = transposed & 1 ? m : k, .cut = cut};
    job.a = numbers_make(size, m * k, false), job.b = numbers_make(size, k * n, false);
    check_threads(job, size, false), check_threads(job, size, true);
    if (!cut) { // the same rows in pieces of 1, 2, 3, ... rows
        void *whole = numbers_make(size, m * n, true), *parts = numbers_make(size, m * n, true);
        job.c = whole;
        multiply(&job, size, 1);
        ad_cpu_gemm piece = job;
        for (int64_t row = 0, rows = 1; row < m; row += rows, rows++) {
            piece.m = row + rows < m ? rows : m - row;
            piece.a = (const char *)job.a + (size_t)(transposed & 1 ? row : row * k) * size;
            piece.c = (char *)parts + (size_t)(row * n) * size;
            multiply(&piece, size, 1);
        }
        cr_assert_eq(memcmp(whole, parts, (size_t)(m * n) * size), 0, "rows in pieces");
        free(whole), free(parts);
    }
    free((void *)(uintptr_t)job.a), free((void *)(uintptr_t)job.b);
}

// Weight gradients: k cut into 2, 2, 4, 2, 16 and 1 parts, of different lengths some; by threads
// that go through k by themselves; b as a panel where it lies, or packed.
Test(gemm, long_sums_into_a_small_result) {
    static const int64_t sizes[][3] = {{64, 64, 1024}, {64, 64, 1030}, {48, 81, 4111},
                                       {127, 128, 2300}, {3, 5, 16500}, {530, 100, 600},
                                       {270, 48, 900}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int v = 0; v < 4; v++) {
            const int64_t *size = sizes[s];
            check_bits(size[0], size[1], size[2], v, true, 4);
            check_bits(size[0], size[1], size[2], v, false, 4);
            for (int threads = 1; threads <= 3; threads += 2) {
                product p = {size[0], size[1], size[2], v | 4 | 8, 0, false, false, true};
                check(p, 4, threads);
                p.variant = v | 64, check(p, 4, threads), check(p, 8, threads);
                p.variant = v | 16, check(p, 4, threads);
            }
        }
    // At the limits of k and of c, and with more to keep than is packed.
    static const int64_t limits[][3] = {{30, 40, 1023}, {30, 40, 2047}, {30, 40, 2048},
                                        {256, 256, 8200}, {257, 256, 8200}};
    for (size_t s = 0; s < sizeof limits / sizeof *limits; s++)
        check_bits(limits[s][0], limits[s][1], limits[s][2], 1, true, 4);
}

// The same product however a lies, and the parts are really there: other bits than in one piece.
Test(gemm, a_cut_sum_is_the_same_for_both_layouts) {
    enum { M = 40, N = 48, K = 1500 };
    ad_cpu_gemm job = {.transposed_a = true, .m = M, .n = N, .k = K, .cut = true};
    float *a = numbers_make(4, M * K, false), *turned = numbers_make(4, M * K, false);
    for (int i = 0; i < M; i++)
        for (int k = 0; k < K; k++) turned[i * K + k] = a[k * M + i];
    float *b = numbers_make(4, K * N, false), *one = numbers_make(4, M * N, true);
    float *other = numbers_make(4, M * N, true), *whole = numbers_make(4, M * N, true);
    job.a = a, job.b = b, job.c = one;
    multiply(&job, 4, 2);
    job.transposed_a = false, job.a = turned, job.c = other;
    multiply(&job, 4, 3);
    cr_expect_eq(memcmp(one, other, M * N * 4), 0);
    job.cut = false, job.c = whole;
    multiply(&job, 4, 2);
    cr_expect_neq(memcmp(one, whole, M * N * 4), 0);
    free(a), free(turned), free(b), free(one), free(other), free(whole);
}

// Every row once, whatever the order in which threads come, and helpers find what is left.
Test(gemm, rows_are_shared_out_once) {
    static const int64_t cases[][3] = {{100, 7, 3}, {5, 2, 8}, {1, 1, 1}, {96, 96, 4},
                                       {1000, 6, 5}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int only = -1; only < cases[c][2]; only++) { // one thread alone, or all in turn
            int seen[1000] = {0};
            ad_row_tasks tasks;
            ad_row_tasks_begin(&tasks, cases[c][0], cases[c][1], (int)cases[c][2]);
            int64_t row, rows, idle = 0;
            for (int t = 0; idle < cases[c][2]; t++) {
                rows = ad_row_tasks_take(&tasks, only < 0 ? t % (int)cases[c][2] : only, &row);
                idle = rows ? 0 : idle + 1;
                for (int64_t i = row; i < row + rows; i++) seen[i]++;
            }
            for (int64_t i = 0; i < cases[c][0]; i++)
                cr_assert_eq(seen[i], 1, "case %zu, row %d: %d times", c, (int)i, seen[i]);
        }
}

Test(gemm, bits_do_not_depend_on_threads_or_cuts) {
    for (int transposed = 0; transposed < 4; transposed++) {
        check_bits(251, 137, 301, transposed, false, 4);
        check_bits(251, 137, 301, transposed, false, 8);
        check_bits(100, 1040, 70, transposed, false, 4);
    }
}
