// matmul and dense against plain f64 loops: transposes, views, broadcast batches, empty and size-1
// axes; their derivatives by differences, forward against reverse, gradients of gradients; errors.

#include "tests/rules.h"

static ad_context *ctx;
static uint64_t noise;

static void open_context(void) {
    ctx = ad_open(&(ad_options){.threads = 2, .poison = true});
    noise = 3;
}
static void close_context(void) { ad_close(ctx); }
TestSuite(products, .init = open_context, .fini = close_context);

// Values in f32 precision, so that both types see the same numbers.
static ad_tensor draw(ad_type type, ad_shape shape) {
    int64_t count = rules_count(shape);
    double value[RULES_ELEMENTS];
    for (int64_t i = 0; i < count; i++) value[i] = (float)rules_random(&noise);
    return ad_cast(ctx, ad_from(ctx, AD_F64, shape, value), type);
}

static void values(ad_tensor x, double *value) {
    ad_tensor wide = ad_cast(ctx, x, AD_F64);
    ad_read(ctx, wide, value, (size_t)ad_count(ctx, wide) * 8);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
}

// The element of x at a position of the product's leading axes, then row and column.
static double at(const double *x, ad_shape shape, const int64_t *batch, int rank, int64_t row,
                 int64_t column) {
    int64_t index = 0;
    for (int axis = 0; axis < shape.rank - 2; axis++) {
        int64_t i = batch[axis + rank - shape.rank];
        index = index * shape.size[axis] + (shape.size[axis] == 1 ? 0 : i);
    }
    index = index * shape.size[shape.rank - 2] + row;
    return x[index * shape.size[shape.rank - 1] + column];
}

static void compare(ad_tensor a, ad_tensor b, bool ta, bool tb, double tolerance, const char *how) {
    static double x[RULES_ELEMENTS], y[RULES_ELEMENTS], z[4096];
    ad_tensor c = ad_matmul(ctx, a, b, ta, tb);
    cr_assert(!ad_failed(ctx), "%s: %s", how, ad_error_text(ctx));
    ad_shape of_a = ad_shape_of(ctx, a), of_b = ad_shape_of(ctx, b), of_c = ad_shape_of(ctx, c);
    values(a, x), values(b, y), values(c, z);
    int rank = of_c.rank;
    int64_t m = of_c.size[rank - 2], n = of_c.size[rank - 1];
    int64_t k = of_a.size[of_a.rank - (ta ? 2 : 1)], count = ad_count(ctx, c);
    cr_assert_eq(m, of_a.size[of_a.rank - (ta ? 1 : 2)], "%s", how);
    cr_assert_eq(n, of_b.size[of_b.rank - (tb ? 2 : 1)], "%s", how);
    for (int64_t index = 0; index < count; index++) {
        int64_t batch[AD_RANK_MAX], rest = index / (m * n), i = index / n % m, j = index % n;
        for (int axis = rank - 3; axis >= 0; axis--) {
            batch[axis] = rest % of_c.size[axis];
            rest /= of_c.size[axis];
        }
        double sum = 0;
        for (int64_t l = 0; l < k; l++)
            sum += at(x, of_a, batch, rank, ta ? l : i, ta ? i : l)
                 * at(y, of_b, batch, rank, tb ? j : l, tb ? l : j);
        cr_assert(fabs(sum - z[index]) <= tolerance * (1 + (double)k),
                  "%s: element %d is %g, not %g", how, (int)index, z[index], sum);
    }
}

static ad_shape transposed(ad_shape shape, bool flag) {
    int64_t rows = shape.size[shape.rank - 2];
    if (!flag) return shape;
    shape.size[shape.rank - 2] = shape.size[shape.rank - 1];
    shape.size[shape.rank - 1] = rows;
    return shape;
}

typedef struct pair {
    ad_shape a, b;
} pair;

static int pairs(pair *p) {
    int n = 0;
    p[n++] = (pair){AD_SHAPE(5, 7), AD_SHAPE(7, 3)};
    p[n++] = (pair){AD_SHAPE(1, 20), AD_SHAPE(20, 17)};
    p[n++] = (pair){AD_SHAPE(17, 20), AD_SHAPE(20, 1)};
    p[n++] = (pair){AD_SHAPE(1, 1), AD_SHAPE(1, 1)};
    p[n++] = (pair){AD_SHAPE(4, 3, 5), AD_SHAPE(4, 5, 2)};       // a batch
    p[n++] = (pair){AD_SHAPE(4, 3, 5), AD_SHAPE(5, 2)};          // b shared
    p[n++] = (pair){AD_SHAPE(3, 5), AD_SHAPE(4, 5, 2)};          // a shared
    p[n++] = (pair){AD_SHAPE(2, 1, 3, 5), AD_SHAPE(3, 5, 2)};    // both repeated
    p[n++] = (pair){AD_SHAPE(2, 1, 3, 4), AD_SHAPE(1, 3, 4, 2)};
    p[n++] = (pair){AD_SHAPE(2, 3, 2, 2, 4), AD_SHAPE(3, 1, 4, 2)};
    p[n++] = (pair){AD_SHAPE(2, 1, 2, 1, 3, 2), AD_SHAPE(1, 3, 1, 2, 2, 3)};
    p[n++] = (pair){AD_SHAPE(3, 0), AD_SHAPE(0, 4)};             // sums of nothing
    p[n++] = (pair){AD_SHAPE(0, 3), AD_SHAPE(3, 4)};
    p[n++] = (pair){AD_SHAPE(3, 4), AD_SHAPE(4, 0)};
    p[n++] = (pair){AD_SHAPE(0, 3, 4), AD_SHAPE(4, 2)};
    p[n++] = (pair){AD_SHAPE(2, 3, 0), AD_SHAPE(2, 0, 2)};
    return n;
}

Test(products, matmul_agrees_with_loops_in_every_transpose_and_batch) {
    pair list[32];
    int n = pairs(list);
    for (int i = 0; i < n; i++)
        for (int flags = 0; flags < 4; flags++)
            for (int type = AD_F32; type <= AD_F64; type++) {
                bool ta = flags & 1, tb = flags & 2;
                ad_tensor a = draw((ad_type)type, transposed(list[i].a, ta));
                ad_tensor b = draw((ad_type)type, transposed(list[i].b, tb));
                compare(a, b, ta, tb, type == AD_F32 ? 1e-6 : 1e-14, "pair");
            }
}

Test(products, matmul_reads_views) {
    for (int type = AD_F32; type <= AD_F64; type++) {
        ad_type t = (ad_type)type;
        double e = t == AD_F32 ? 1e-6 : 1e-14;
        ad_tensor b = draw(t, AD_SHAPE(2, 6, 5)), wide = draw(t, AD_SHAPE(2, 9, 8));
        ad_tensor part = ad_slice(ctx, ad_slice(ctx, wide, 1, 2, 6, 1), 2, 1, 7, 1); // (2, 4, 6)
        compare(part, b, false, false, e, "part of a matrix");
        compare(ad_transpose(ctx, part), b, true, false, e, "transposed part");
        compare(b, ad_transpose(ctx, b), false, false, e, "b against itself, turned");
        compare(ad_slice(ctx, wide, 2, 0, 8, 2), part, false, false, e, "every second column");
        compare(ad_slice(ctx, wide, 1, 8, 0, -1), wide, false, true, e, "rows backwards");
        compare(ad_slice(ctx, part, 0, 1, -1, -1), b, false, false, e, "batch backwards");
        ad_tensor row = ad_broadcast(ctx, ad_slice(ctx, b, 1, 0, 1, 1), AD_SHAPE(2, 8, 5));
        compare(row, b, false, true, e, "a repeated row");
        int axes[] = {1, 0, 2};
        compare(ad_permute(ctx, part, axes), ad_slice(ctx, b, 0, 1, 2, 1), false, false, e, "rows");
        compare(ad_slice(ctx, part, 2, 3, 4, 1), ad_slice(ctx, b, 1, 2, 3, 1), false, false, e,
                "a column");
    }
}

// The transposed view is folded into the product: no kernel but that one.
Test(products, a_transposed_view_costs_nothing) {
    ad_tensor a = draw(AD_F32, AD_SHAPE(6, 5)), b = draw(AD_F32, AD_SHAPE(6, 4));
    size_t before = ad_memory_read(ctx).live_bytes;
    uint64_t launches = ad_memory_read(ctx).launches;
    ad_matmul(ctx, ad_transpose(ctx, a), b, false, false);
    cr_assert_eq(ad_memory_read(ctx).launches - launches, 1);
    cr_assert_leq(ad_memory_read(ctx).live_bytes - before, 5 * 4 * 4 + 64);
}

Test(products, dense_agrees_with_loops) {
    for (int type = AD_F32; type <= AD_F64; type++)
        for (int with = 0; with < 4; with++)
            for (int rank = 1; rank <= 4; rank++) {
                ad_shape shape[] = {AD_SHAPE(5), AD_SHAPE(3, 5), AD_SHAPE(2, 0, 5),
                                    AD_SHAPE(2, 3, 2, 5)};
                ad_tensor x = draw((ad_type)type, shape[rank - 1]), b = {0};
                ad_tensor w = draw((ad_type)type, AD_SHAPE(4, 5));
                double of_x[RULES_ELEMENTS], of_w[20], of_b[8] = {0}, y[RULES_ELEMENTS];
                // A bias of which every second number counts.
                if (with & 1) b = ad_slice(ctx, draw((ad_type)type, AD_SHAPE(8)), 0, 1, 8, 2);
                ad_activation act = with & 2 ? AD_RELU : AD_LINEAR;
                ad_tensor result = ad_dense(ctx, x, w, b, act);
                values(x, of_x), values(w, of_w), values(result, y);
                if (with & 1) values(b, of_b);
                cr_assert_eq(ad_shape_of(ctx, result).rank, rank);
                cr_assert_eq(ad_count(ctx, result), ad_count(ctx, x) / 5 * 4);
                for (int64_t i = 0; i < ad_count(ctx, result); i++) {
                    double sum = of_b[i % 4];
                    for (int k = 0; k < 5; k++) sum += of_x[i / 4 * 5 + k] * of_w[i % 4 * 5 + k];
                    if (act == AD_RELU && sum < 0) sum = 0;
                    cr_assert(fabs(sum - y[i]) <= (type == AD_F32 ? 1e-5 : 1e-13));
                }
            }
}

Test(products, an_empty_sum_leaves_the_bias) {
    ad_tensor w = ad_zeros(ctx, 2, 0), x = ad_zeros(ctx, 3, 0);
    float bias[] = {1, -2}, y[6];
    ad_tensor b = ad_from(ctx, AD_F32, AD_SHAPE(2), bias);
    ad_read(ctx, ad_linear(ctx, x, w, b), y, sizeof y);
    for (int i = 0; i < 6; i++) cr_assert_eq(y[i], bias[i % 2]);
    ad_read(ctx, ad_dense(ctx, x, w, b, AD_RELU), y, sizeof y);
    for (int i = 0; i < 6; i++) cr_assert_eq(y[i], i % 2 ? 0 : 1);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
}

/* ---- derivatives */

static ad_tensor matmul_rule(ad_context *c, const ad_tensor *x, const void *user) {
    const int *flags = user;
    return ad_matmul(c, x[0], x[1], *flags & 1, *flags & 2);
}

static ad_tensor dense_rule(ad_context *c, const ad_tensor *x, const void *user) {
    const int *with = user;
    return ad_dense(c, x[0], x[1], *with & 1 ? x[2] : (ad_tensor){0},
                    *with & 2 ? AD_RELU : AD_LINEAR);
}

Test(products, matmul_rules) {
    pair list[32];
    static rules r;
    int n = pairs(list);
    for (int i = 0; i < n; i++)
        for (int flags = 0; flags < 4; flags++) {
            r = (rules){.f = matmul_rule, .user = &flags, .state = 5};
            rules_fill(&r, 0, transposed(list[i].a, flags & 1), 1);
            rules_fill(&r, 1, transposed(list[i].b, flags & 2), 1);
            rules_check(&r, "matmul");
        }
}

Test(products, dense_rules) {
    static rules r;
    for (int with = 0; with < 4; with++)
        for (int rank = 1; rank <= 3; rank++) {
            ad_shape shape[] = {AD_SHAPE(5), AD_SHAPE(3, 5), AD_SHAPE(2, 3, 5)};
            r = (rules){.f = dense_rule, .user = &with, .state = 11};
            rules_fill(&r, 0, shape[rank - 1], 1), rules_fill(&r, 1, AD_SHAPE(4, 5), 1);
            if (with & 1) rules_fill(&r, 2, AD_SHAPE(4), 1);
            rules_check(&r, "dense");
        }
}

// Only what is wanted is computed, and the tangent of the bias alone is stretched.
Test(products, gradients_that_are_not_wanted_cost_nothing) {
    ad_tensor x = ad_ones(ctx, 8, 6), w = ad_watch(ctx, ad_ones(ctx, 4, 6)), dw;
    ad_tensor y = ad_linear(ctx, x, w, (ad_tensor){0}), one = ad_ones(ctx, 8, 4);
    double start = ad_memory_read(ctx).flops;
    ad_grad(ctx, y, one, 1, &w, &dw, 0);
    cr_assert_eq(ad_memory_read(ctx).flops - start, 2. * 8 * 6 * 4);
    ad_tensor b = ad_dual(ctx, ad_zeros(ctx, 4), ad_ones(ctx, 4));
    ad_tensor dy = ad_tangent(ctx, ad_linear(ctx, x, ad_stop_gradient(ctx, w), b));
    cr_assert_eq(ad_count(ctx, dy), 32);
    cr_assert_eq(ad_item(ctx, ad_sum(ctx, dy, AD_ALL_AXES, false)), 32);
}

/* ---- bits */

static void bits_of(int threads, ad_type type, char *bytes, size_t *used) {
    ad_context *own = ad_open(&(ad_options){.threads = threads, .poison = true, .seed = 4});
    ad_tensor x = ad_watch(own, ad_uniform(own, type, AD_SHAPE(3, 129, 70), -1, 1)), d[3];
    ad_tensor w = ad_watch(own, ad_uniform(own, type, AD_SHAPE(131, 70), -1, 1));
    ad_tensor b = ad_watch(own, ad_uniform(own, type, AD_SHAPE(131), -1, 1)), in[] = {x, w, b};
    ad_tensor y = ad_dense(own, x, w, b, AD_RELU);
    ad_tensor z = ad_matmul(own, y, y, true, false); // (3, 131, 131)
    ad_grad(own, ad_sum(own, z, AD_ALL_AXES, false), (ad_tensor){0}, 3, in, d, AD_GRAD_KEEP);
    ad_tensor all[] = {y, z, d[0], d[1], d[2]};
    *used = 0;
    for (int i = 0; i < 5; i++) {
        size_t size = (size_t)ad_count(own, all[i]) * ad_type_bytes(type);
        ad_read(own, all[i], bytes + *used, size);
        *used += size;
    }
    cr_assert(!ad_failed(own), "%s", ad_error_text(own));
    ad_close(own);
}

Test(products, bits_do_not_depend_on_threads) {
    static char one[4 << 20], other[4 << 20];
    size_t used, same;
    for (int type = AD_F32; type <= AD_F64; type++) {
        bits_of(1, (ad_type)type, one, &used);
        for (int threads = 2; threads <= 5; threads++) {
            bits_of(threads, (ad_type)type, other, &same);
            cr_assert(same == used && memcmp(one, other, used) == 0, "%d threads", threads);
        }
    }
}

/* ---- sentences */

static void says(const char *part, const char *other) {
    const char *text = ad_error_text(ctx);
    cr_assert(strstr(text, part) && strstr(text, other), "'%s' lacks '%s' or '%s'", text, part,
              other);
    ad_error_clear(ctx);
}

Test(products, shapes_that_do_not_fit_are_named_with_a_hint) {
    ad_tensor a = ad_zeros(ctx, 64, 4), b = ad_zeros(ctx, 3, 4), v = ad_zeros(ctx, 4), none = {0};
    ad_matmul(ctx, a, b, false, false), says("f32 (64, 4)", "f32 (3, 4)");
    ad_matmul(ctx, a, b, false, false), says("4 and 3", "transpose_b");
    ad_matmul(ctx, a, ad_zeros(ctx, 64, 3), false, false), says("4 and 64", "transpose_a");
    ad_matmul(ctx, a, b, true, false), says("f32 (64, 4) transposed", "64 and 3");
    ad_matmul(ctx, a, v, false, false), says("f32 (4)", "reshape a vector");
    ad_matmul(ctx, ad_zeros(ctx, 2, 5, 4), ad_zeros(ctx, 3, 4, 5), false, false);
    says("leading sizes 2 and 3", "f32 (3, 4, 5)");
    ad_matmul(ctx, a, ad_full(ctx, AD_F64, AD_SHAPE(4, 2), 0), false, false);
    says("f64 (4, 2)", "ad_cast");
    ad_linear(ctx, a, ad_zeros(ctx, 4, 3), none), says("f32 (4, 3)", "transposed?");
    ad_linear(ctx, a, b, ad_zeros(ctx, 4)), says("bias f32 (4)", "bias (out)");
    ad_linear(ctx, ad_scalar(ctx, AD_F32, 1), b, none), says("x is f32 ()", "weight f32 (3, 4)");
    ad_linear(ctx, a, ad_full(ctx, AD_F64, AD_SHAPE(3, 4), 0), none), says("f64", "ad_cast");
}
