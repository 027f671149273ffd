// Views, joining and selection: values against index arithmetic, rules against differences,
// indices and offsets that lie, strided operands, and bits that do not depend on threads.

#include "rules.h"

#include <stdio.h>

/* ---- helpers */

static ad_tensor counting(ad_context *ctx, ad_type type, ad_shape shape) {
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    return ad_reshape(ctx, ad_range(ctx, type, count), shape);
}

// Reads u32, i32, f32 or f64 as doubles.
static int64_t values(ad_context *ctx, ad_tensor x, double *out) {
    int64_t count = ad_count(ctx, x);
    ad_tensor wide = ad_cast(ctx, x, AD_F64);
    cr_assert(ad_read(ctx, wide, out, (size_t)count * 8), "%s", ad_error_text(ctx));
    return count;
}

static void expect(ad_context *ctx, ad_tensor x, ad_shape shape, const double *want) {
    double got[RULES_ELEMENTS];
    ad_shape have = ad_shape_of(ctx, x);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_assert(have.rank == shape.rank, "rank %d, expected %d", have.rank, shape.rank);
    for (int i = 0; i < shape.rank; i++) cr_assert(have.size[i] == shape.size[i]);
    int64_t count = values(ctx, x, got);
    for (int64_t i = 0; i < count; i++)
        cr_assert(got[i] == want[i] || (isnan(got[i]) && isnan(want[i])), "element %d: %g, not %g",
                  (int)i, got[i], want[i]);
}

#define EXPECT(x, shape, ...) expect(ctx, x, shape, (double[]){__VA_ARGS__})

static void refused(ad_context *ctx, const char *words) {
    cr_assert(ad_failed(ctx) && strstr(ad_error_text(ctx), words), "\"%s\" lacks \"%s\"",
              ad_error_text(ctx), words);
    ad_error_clear(ctx);
}

/* ---- views */

Test(shape, views) {
    ad_context *ctx = ad_open(NULL);
    ad_tensor x = counting(ctx, AD_F32, AD_SHAPE(2, 3));
    uint64_t before = ad_memory_read(ctx).launches;
    ad_tensor t = ad_transpose(ctx, x), s = ad_slice(ctx, x, 1, 2, -1, -2);
    ad_tensor b = ad_broadcast(ctx, ad_slice(ctx, x, 0, 1, 2, 1), AD_SHAPE(2, 2, 3));
    ad_tensor kept = ad_reshape(ctx, ad_slice(ctx, x, 0, 1, 2, 1), AD_SHAPE(3, 1));
    cr_assert(ad_memory_read(ctx).launches == before, "a view ran a kernel");
    EXPECT(t, AD_SHAPE(3, 2), 0, 3, 1, 4, 2, 5);
    EXPECT(s, AD_SHAPE(2, 2), 2, 0, 5, 3);
    EXPECT(b, AD_SHAPE(2, 2, 3), 3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4, 5);
    EXPECT(kept, AD_SHAPE(3, 1), 3, 4, 5);
    EXPECT(ad_reshape(ctx, t, AD_SHAPE(6)), AD_SHAPE(6), 0, 3, 1, 4, 2, 5);
    EXPECT(ad_slice(ctx, s, 1, 1, -1, -1), AD_SHAPE(2, 2), 0, 2, 3, 5); // back again
    EXPECT(ad_slice(ctx, t, -2, 1, 3, 1), AD_SHAPE(2, 2), 1, 4, 2, 5);
    EXPECT(ad_slice(ctx, s, 0, 1, 1, 1), AD_SHAPE(0, 2), 0);
    ad_tensor p = ad_permute(ctx, counting(ctx, AD_I32, AD_SHAPE(2, 1, 3)), (int[]){2, 0, 1});
    EXPECT(p, AD_SHAPE(3, 2, 1), 0, 3, 1, 4, 2, 5);
    EXPECT(ad_reshape(ctx, ad_full(ctx, AD_F64, AD_SHAPE(0, 3), 0), AD_SHAPE(5, 0)), AD_SHAPE(5, 0),
           0);
    EXPECT(ad_reshape(ctx, ad_scalar(ctx, AD_F64, 4), AD_SHAPE(1, 1)), AD_SHAPE(1, 1), 4);
    ad_close(ctx);
}

// Random chains of views against the same on index arrays.
Test(shape, random_chains_of_views) {
    ad_context *ctx = ad_open(NULL);
    uint64_t state = 77;
    for (int round = 0; round < 400; round++) {
        ad_scope_begin(ctx, "round");
        ad_tensor x = counting(ctx, AD_F32, AD_SHAPE(2, 3, 4));
        double now[24], next[24];
        int64_t n = values(ctx, x, now);
        ad_shape s = ad_shape_of(ctx, x);
        for (int step = 0; step < 5 && n; step++) {
            int a = (int)floor((rules_random(&state) + 1) * 0.4999 * s.rank), k = (a + 1) % s.rank;
            double pick = rules_random(&state);
            ad_shape old = s;
            int64_t outer = 1, inner = 1, size = s.size[a], m = 0;
            for (int i = 0; i < a; i++) outer *= s.size[i];
            for (int i = a + 1; i < s.rank; i++) inner *= s.size[i];
            if (pick < 0.3) { // backwards, or every second one
                bool back = pick < -0.3;
                x = back ? ad_slice(ctx, x, a, size - 1, -1, -1) : ad_slice(ctx, x, a, 0, size, 2);
                s.size[a] = back ? size : (size + 1) / 2;
                for (int64_t o = 0; o < outer; o++)
                    for (int64_t i = 0; i < s.size[a]; i++)
                        for (int64_t j = 0; j < inner; j++)
                            next[m++] = now[(o * size + (back ? size - 1 - i : 2 * i)) * inner + j];
            } else if ((pick < 0.7 && k != a) || s.rank > 4) { // two axes exchanged
                int order[AD_RANK_MAX] = {0, 1, 2, 3, 4, 5};
                order[a] = k, order[k] = a;
                x = ad_permute(ctx, x, order);
                s.size[a] = old.size[k], s.size[k] = old.size[a];
                for (m = 0; m < n; m++) {
                    int64_t rest = m, index[AD_RANK_MAX], from = 0;
                    for (int i = s.rank; i-- > 0;) index[i] = rest % s.size[i], rest /= s.size[i];
                    for (int i = 0; i < s.rank; i++) from = from * old.size[i] + index[order[i]];
                    next[m] = now[from];
                }
            } else { // two neighbours merged, or one split off
                if (a + 1 < s.rank) {
                    s.size[a] *= s.size[a + 1];
                    for (int i = a + 1; i + 1 < s.rank; i++) s.size[i] = s.size[i + 1];
                    s.rank--;
                } else {
                    s.size[s.rank] = s.size[a] % 2 ? 1 : 2;
                    s.size[a] /= s.size[s.rank++];
                }
                x = ad_reshape(ctx, x, s);
                memcpy(next, now, sizeof now), m = n;
            }
            n = m;
            memcpy(now, next, sizeof now);
        }
        expect(ctx, x, s, now);
        ad_scope_end(ctx);
    }
    ad_close(ctx);
}

Test(shape, refusals) {
    ad_context *ctx = ad_open(NULL);
    ad_tensor x = counting(ctx, AD_F32, AD_SHAPE(2, 3));
    ad_reshape(ctx, x, AD_SHAPE(4)), refused(ctx, "elements");
    ad_permute(ctx, x, (int[]){0, 0}), refused(ctx, "permutation");
    ad_broadcast(ctx, x, AD_SHAPE(2, 4)), refused(ctx, "stretch");
    ad_broadcast(ctx, x, AD_SHAPE(3)), refused(ctx, "stretch");
    ad_slice(ctx, x, 2, 0, 1, 1), refused(ctx, "axis 2");
    ad_slice(ctx, x, 1, 0, 4, 1), refused(ctx, "leaves");
    ad_slice(ctx, x, 1, 0, 2, 0), refused(ctx, "step");
    ad_pad(ctx, x, 0, -1, 0, 0), refused(ctx, "before");
    ad_concat(ctx, 2, (ad_tensor[]){x, ad_transpose(ctx, x)}, 0), refused(ctx, "differ");
    ad_concat(ctx, 0, NULL, 0), refused(ctx, "no operands");
    ad_gather(ctx, x, x, 0), refused(ctx, "index");
    ad_segment_sum(ctx, x, x), refused(ctx, "offsets");
    ad_pad(ctx, x, 0, INT32_MAX, INT32_MAX, 0), refused(ctx, "size");
    ad_close(ctx);
}

/* ---- joining and selection */

Test(shape, pad_and_concat) {
    ad_context *ctx = ad_open(NULL);
    ad_type types[] = {AD_F32, AD_F64, AD_F16, AD_BF16, AD_I32, AD_U32};
    for (int t = 0; t < 6; t++) {
        ad_tensor x = ad_cast(ctx, counting(ctx, AD_F32, AD_SHAPE(2, 2)), types[t]), many[60];
        EXPECT(ad_pad(ctx, x, 1, 1, 2, 7), AD_SHAPE(2, 5), 7, 0, 1, 7, 7, 7, 2, 3, 7, 7);
        EXPECT(ad_pad(ctx, ad_transpose(ctx, x), 0, 1, 0, 9), AD_SHAPE(3, 2), 9, 9, 0, 2, 1, 3);
        ad_tensor y = ad_concat(ctx, 2, (ad_tensor[]){x, ad_transpose(ctx, x)}, -1);
        EXPECT(y, AD_SHAPE(2, 4), 0, 1, 0, 2, 2, 3, 1, 3);
        for (int i = 0; i < 60; i++) many[i] = ad_slice(ctx, x, 0, i % 2, i % 2 + 1, 1);
        double want[120];
        for (int i = 0; i < 120; i++) want[i] = i % 4;
        expect(ctx, ad_concat(ctx, 60, many, 0), AD_SHAPE(60, 2), want);
    }
    ad_close(ctx);
}

Test(shape, indices_that_lie) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 3});
    ad_tensor x = counting(ctx, AD_F32, AD_SHAPE(3, 2));
    int32_t at[] = {2, -1, 0, 3, INT32_MIN, 2, INT32_MAX};
    uint32_t hostile[] = {0xffffffffu, 1};
    ad_tensor index = ad_from(ctx, AD_I32, AD_SHAPE(7), at);
    EXPECT(ad_gather(ctx, x, index, 0), AD_SHAPE(7, 2), 4, 5, 0, 0, 0, 1, 0, 0, 0, 0, 4, 5, 0, 0);
    ad_tensor large = ad_from(ctx, AD_U32, AD_SHAPE(2), hostile);
    EXPECT(ad_gather(ctx, x, large, 1), AD_SHAPE(3, 2), 0, 1, 0, 3, 0, 5);
    ad_tensor y = ad_scatter_add(ctx, counting(ctx, AD_F32, AD_SHAPE(7, 1)), index, 0, 3);
    EXPECT(y, AD_SHAPE(3, 1), 2, 0, 5);
    EXPECT(ad_one_hot(ctx, index, 3, AD_F64), AD_SHAPE(7, 3), 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
           0, 0, 0, 0, 1, 0, 0, 0);
    ad_tensor none = ad_full(ctx, AD_U32, AD_SHAPE(0), 0);
    EXPECT(ad_gather(ctx, x, none, 0), AD_SHAPE(0, 2), 0);
    ad_tensor empty = ad_full(ctx, AD_F32, AD_SHAPE(0, 1), 0);
    EXPECT(ad_gather(ctx, empty, index, 0), AD_SHAPE(7, 1), 0, 0, 0, 0, 0, 0, 0);
    ad_close(ctx);
}

Test(shape, offsets_that_lie) {
    ad_context *ctx = ad_open(NULL);
    ad_tensor x = ad_affine(ctx, counting(ctx, AD_F32, AD_SHAPE(5)), 1, 1); // 1 2 3 4 5
    // As their running maximum, cut to 5: 1 3 3 5 5.
    uint32_t lies[] = {1, 3, 2, 0xffffffffu, 0};
    ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(5), lies);
    EXPECT(ad_segment_sum(ctx, x, offsets), AD_SHAPE(4), 5, 0, 9, 0);
    EXPECT(ad_segment_max(ctx, x, offsets), AD_SHAPE(4), 3, -INFINITY, 5, -INFINITY);
    EXPECT(ad_segment_cumsum(ctx, x, offsets, false, false), AD_SHAPE(5), 0, 2, 5, 4, 9);
    EXPECT(ad_segment_cumsum(ctx, x, offsets, true, true), AD_SHAPE(5), 0, 3, 0, 5, 0);
    ad_tensor four = ad_slice(ctx, x, 0, 0, 4, 1);
    EXPECT(ad_segment_repeat(ctx, four, offsets, 6), AD_SHAPE(6), 0, 1, 1, 3, 3, 3);
    EXPECT(ad_segment_repeat(ctx, four, offsets, 0), AD_SHAPE(0), 0);
    // Dead rows take no cotangent, even where they equal the maximum of nothing.
    ad_tensor w = ad_watch(ctx, x), g;
    ad_tensor sum = ad_sum(ctx, ad_segment_sum(ctx, ad_square(ctx, w), offsets), 1, false);
    ad_grad(ctx, sum, (ad_tensor){0}, 1, &w, &g, 0);
    EXPECT(g, AD_SHAPE(5), 0, 4, 6, 8, 10);
    ad_close(ctx);
}

Test(shape, segments_of_every_type) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_type types[] = {AD_F32, AD_F64, AD_I32, AD_U32};
    uint32_t at[] = {0, 2, 2, 3};
    ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(4), at);
    for (int t = 0; t < 4; t++) {
        double least = types[t] == AD_U32 ? 0 : types[t] == AD_I32 ? -2147483648.0 : -HUGE_VAL;
        ad_tensor x = counting(ctx, types[t], AD_SHAPE(4, 2));
        EXPECT(ad_segment_sum(ctx, x, offsets), AD_SHAPE(3, 2), 2, 4, 0, 0, 4, 5);
        EXPECT(ad_segment_max(ctx, x, offsets), AD_SHAPE(3, 2), 2, 3, least, least, 4, 5);
        EXPECT(ad_segment_cumsum(ctx, x, offsets, true, false), AD_SHAPE(4, 2), 0, 0, 0, 1, 0, 0, 0,
               0);
        EXPECT(ad_segment_cumsum(ctx, x, offsets, false, true), AD_SHAPE(4, 2), 2, 4, 2, 3, 4, 5, 0,
               0);
        ad_tensor wide = counting(ctx, types[t], AD_SHAPE(3, 100)); // more than one tile
        double want[300], got[300];
        values(ctx, wide, want), values(ctx, ad_segment_sum(ctx, wide, offsets), got);
        for (int i = 0; i < 100; i++) cr_assert(got[i] == want[i] + want[100 + i]);
        for (int i = 0; i < 100; i++) cr_assert(got[200 + i] == want[200 + i]);
    }
    ad_close(ctx);
}

Test(shape, compact) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    uint32_t m[] = {0, 7, 0, 1, 1};
    ad_tensor positions, count;
    ad_compact(ctx, ad_from(ctx, AD_U32, AD_SHAPE(5), m), &positions, &count);
    EXPECT(positions, AD_SHAPE(5), 1, 3, 4, 5, 5);
    EXPECT(count, AD_SCALAR, 3);
    int64_t n = 200003, set = 0;
    uint32_t *mask = malloc((size_t)n * 4), *got = malloc((size_t)n * 4);
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i++) mask[i] = rules_random(&state) > 0.3;
    ad_compact(ctx, ad_from(ctx, AD_U32, AD_SHAPE(n), mask), &positions, &count);
    cr_assert(ad_read(ctx, positions, got, (size_t)n * 4));
    for (int64_t i = 0; i < n; i++)
        if (mask[i]) cr_assert(got[set++] == i);
    cr_assert(ad_item(ctx, count) == (double)set);
    for (int64_t i = set; i < n; i++) cr_assert(got[i] == n);
    ad_compact(ctx, ad_full(ctx, AD_U32, AD_SHAPE(0), 0), &positions, &count);
    cr_assert(ad_item(ctx, count) == 0 && !ad_failed(ctx));
    free(mask), free(got);
    ad_close(ctx);
}

Test(shape, sort_is_stable_and_puts_nan_last) {
    ad_context *ctx = ad_open(NULL);
    float v[] = {3, NAN, -0.0f, 0, -1, INFINITY, -INFINITY, 3};
    ad_tensor x = ad_from(ctx, AD_F32, AD_SHAPE(8), v), y, order;
    ad_sort(ctx, x, 0, false, &y, &order);
    EXPECT(y, AD_SHAPE(8), -INFINITY, -1, 0, 0, 3, 3, INFINITY, NAN);
    EXPECT(order, AD_SHAPE(8), 6, 4, 2, 3, 0, 7, 5, 1);
    ad_sort(ctx, x, 0, true, &y, &order);
    EXPECT(order, AD_SHAPE(8), 5, 0, 7, 2, 3, 4, 6, 1);
    x = ad_from(ctx, AD_I32, AD_SHAPE(2, 2), (int32_t[]){5, INT32_MIN, -3, 2});
    ad_sort(ctx, x, 0, false, &y, &order);
    EXPECT(y, AD_SHAPE(2, 2), -3, -2147483648.0, 5, 2);
    EXPECT(order, AD_SHAPE(2, 2), 1, 0, 0, 1);
    // Long rows, every type: ascending, and equal ones in their order.
    ad_type types[] = {AD_F32, AD_F64, AD_I32, AD_U32};
    int n = 3000;
    double *values_of = malloc((size_t)n * 8), *sorted = malloc((size_t)n * 8);
    double *place = malloc((size_t)n * 8);
    for (int t = 0; t < 8; t++) {
        bool descending = t / 4;
        uint64_t state = 4;
        for (int i = 0; i < n; i++)
            values_of[i] = floor(300 * (rules_random(&state) + (types[t % 4] == AD_U32)));
        x = ad_cast(ctx, ad_from(ctx, AD_F64, AD_SHAPE(n), values_of), types[t % 4]);
        ad_sort(ctx, x, 0, descending, &y, &order);
        values(ctx, y, sorted), values(ctx, order, place);
        for (int i = 0; i < n; i++) {
            cr_assert(sorted[i] == values_of[(int)place[i]]);
            if (i == 0) continue;
            double step = descending ? sorted[i - 1] - sorted[i] : sorted[i] - sorted[i - 1];
            cr_assert(step > 0 || (step == 0 && place[i - 1] < place[i]), "%g", step);
        }
    }
    free(values_of), free(sorted), free(place);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

/* ---- rules */

static const int32_t chosen[] = {2, 0, -1, 2, 5};
static const uint32_t some_offsets[] = {1, 3, 3, 4};

static ad_tensor indices(ad_context *ctx) { return ad_from(ctx, AD_I32, AD_SHAPE(5), chosen); }
static ad_tensor segments(ad_context *ctx) {
    return ad_from(ctx, AD_U32, AD_SHAPE(4), some_offsets);
}

static ad_tensor f_shape(ad_context *ctx, const ad_tensor *x, const void *user) {
    ad_tensor y;
    switch (*(const int *)user) {
    case 0: return ad_reshape(ctx, ad_transpose(ctx, x[0]), AD_SHAPE(3, 4));
    case 1: return ad_permute(ctx, ad_reshape(ctx, x[0], AD_SHAPE(2, 2, 3)), (int[]){2, 0, 1});
    case 2: y = ad_reshape(ctx, x[0], AD_SHAPE(4, 1, 3));
        return ad_broadcast(ctx, y, AD_SHAPE(2, 4, 2, 3));
    case 3: return ad_slice(ctx, x[0], 0, 1, 3, 1);
    case 4: return ad_slice(ctx, x[0], 0, 0, 4, 2);
    case 5: return ad_slice(ctx, x[0], 0, 3, -1, -2);
    case 6: return ad_slice(ctx, x[0], 1, 2, 0, -1);
    case 7: return ad_slice(ctx, x[0], 1, 1, 2, 5);
    case 8: return ad_pad(ctx, x[0], 1, 2, 1, 3);
    case 9: return ad_concat(ctx, 3, (ad_tensor[]){x[0], x[1], x[0]}, 1);
    case 10: return ad_gather(ctx, x[0], indices(ctx), 0);
    case 11: return ad_gather(ctx, x[0], indices(ctx), 1);
    case 12: return ad_scatter_add(ctx, ad_concat(ctx, 2, (ad_tensor[]){x[0], ad_slice(ctx, x[1], 0,
                                   0, 1, 1)}, 0), indices(ctx), 0, 3);
    case 13: return ad_segment_sum(ctx, x[0], segments(ctx));
    case 14: y = ad_segment_max(ctx, x[0], segments(ctx));
        return ad_where(ctx, ad_isfinite(ctx, y), y, ad_scalar(ctx, AD_F64, 0));
    case 15: return ad_segment_cumsum(ctx, x[0], segments(ctx), true, false);
    case 16: return ad_segment_cumsum(ctx, x[0], segments(ctx), false, true);
    case 17: return ad_segment_repeat(ctx, ad_slice(ctx, x[0], 0, 0, 3, 1), segments(ctx), 6);
    case 18: ad_sort(ctx, x[0], 1, false, &y, NULL); return y;
    case 19: ad_sort(ctx, x[0], 0, true, &y, NULL); return y;
    case 20: return ad_slice(ctx, ad_slice(ctx, x[0], 0, 3, -1, -1), 0, 2, -1, -1);
    default: return ad_pad(ctx, ad_slice(ctx, x[0], 0, 2, 2, 1), 0, 1, 1, 1); // nothing left of x
    }
}

// Squared, so that the second derivative is there.
static ad_tensor f_squared(ad_context *ctx, const ad_tensor *x, const void *user) {
    ad_tensor square[] = {ad_square(ctx, x[0]), ad_square(ctx, x[1])};
    return ad_square(ctx, f_shape(ctx, square, user));
}

Test(shape, rules) {
    for (int which = 0; which < 22; which++) {
        char name[32];
        snprintf(name, sizeof name, "case %d", which);
        rules r = {.f = f_squared, .user = &which, .state = 31};
        rules_fill(&r, 0, AD_SHAPE(4, 3), 1.5);
        rules_fill(&r, 1, AD_SHAPE(4, 3), 1.5);
        rules_check(&r, name);
    }
}

/* ---- threads */

static void everything(int threads, double *out, int64_t *used) {
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    int64_t n = 100000;
    float *x = malloc((size_t)n * 12);
    int32_t *at = malloc((size_t)n * 4);
    uint32_t *bounds = malloc(1001 * 4);
    uint64_t state = 55;
    for (int64_t i = 0; i < 3 * n; i++) x[i] = (float)rules_random(&state);
    for (int64_t i = 0; i < n; i++) at[i] = (int32_t)floor(300 * (rules_random(&state) + 1)) - 2;
    for (int i = 0; i < 1001; i++)
        bounds[i] = (uint32_t)(i * 97 + (int)(50 * rules_random(&state)));
    ad_tensor t = ad_from(ctx, AD_F32, AD_SHAPE(n, 3), x);
    ad_tensor index = ad_from(ctx, AD_I32, AD_SHAPE(n), at);
    ad_tensor offsets = ad_from(ctx, AD_U32, AD_SHAPE(1001), bounds), y[8];
    y[0] = ad_scatter_add(ctx, t, index, 0, 500);
    y[1] = ad_gather(ctx, t, index, 0);
    y[2] = ad_segment_sum(ctx, t, offsets);
    y[3] = ad_segment_cumsum(ctx, t, offsets, false, true);
    ad_sort(ctx, ad_reshape(ctx, t, AD_SHAPE(300, 1000)), 1, false, &y[4], &y[5]);
    y[6] = ad_scatter_add(ctx, ad_reshape(ctx, t, AD_SHAPE(3, n)), index, 1, 700);
    y[7] = ad_concat(ctx, 2, (ad_tensor[]){t, t}, 1);
    *used = 0;
    for (int i = 0; i < 8; i++) *used += values(ctx, y[i], out + *used);
    free(x), free(at), free(bounds);
    ad_close(ctx);
}

Test(shape, bits_do_not_depend_on_threads) {
    double *one = malloc(3000000 * 8), *more = malloc(3000000 * 8);
    int64_t used, again;
    everything(1, one, &used);
    for (int threads = 2; threads <= 4; threads++) {
        everything(threads, more, &again);
        cr_assert(used == again && !memcmp(one, more, (size_t)used * 8), "%d threads", threads);
    }
    free(one), free(more);
}
