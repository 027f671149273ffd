// Reductions and scans: values against plain loops over every set of axes and every type, long
// sums against f64, derivative rules against differences, ties, zeros, empty axes, and bits that
// do not depend on the number of threads.

#include "rules.h"

/* ---- values */

typedef enum which { SUM, MEAN, NORM, PROD, MAX, MIN, ANY, ALL, LOGSUMEXP, WHICH } which;

static const char *const names[] = {"sum", "mean", "norm", "prod", "max", "min", "any", "all",
                                    "logsumexp"};

static ad_tensor reduced(ad_context *ctx, which w, ad_tensor x, unsigned axes, bool keep) {
    switch (w) {
    case SUM: return ad_sum(ctx, x, axes, keep);
    case MEAN: return ad_mean(ctx, x, axes, keep);
    case NORM: return ad_norm(ctx, x, axes, keep);
    case PROD: return ad_prod(ctx, x, axes, keep);
    case MAX: return ad_max(ctx, x, axes, keep);
    case MIN: return ad_min(ctx, x, axes, keep);
    case ANY: return ad_any(ctx, x, axes, keep);
    case ALL: return ad_all(ctx, x, axes, keep);
    default: return ad_logsumexp(ctx, x, axes, keep);
    }
}

// The plain definition: every element of x goes to the output its kept indices name.
static void plain(which w, ad_shape shape, unsigned axes, const double *x, double *y, double lowest,
                  double highest) {
    int64_t count = 1, outputs = 1, reduced_count = 1;
    for (int i = 0; i < shape.rank; i++) {
        count *= shape.size[i];
        *(axes >> i & 1 ? &reduced_count : &outputs) *= shape.size[i];
    }
    double start[] = {0, 0, 0, 1, lowest, highest, 0, 1, 0};
    for (int64_t i = 0; i < outputs; i++) y[i] = start[w];
    for (int64_t k = 0; k < count; k++) {
        int64_t rest = k, at = 0, stride = 1;
        for (int i = shape.rank; i-- > 0;) {
            int64_t index = rest % shape.size[i];
            rest /= shape.size[i];
            if (axes >> i & 1) continue;
            at += index * stride, stride *= shape.size[i];
        }
        double v = x[k];
        switch (w) {
        case SUM: case MEAN: y[at] += v; break;
        case NORM: y[at] += v * v; break;
        case PROD: y[at] *= v; break;
        case MAX: y[at] = fmax(y[at], v); break;
        case MIN: y[at] = fmin(y[at], v); break;
        case ANY: y[at] = y[at] != 0 || v != 0; break;
        case ALL: y[at] = y[at] != 0 && v != 0; break;
        default: y[at] += exp(v);
        }
    }
    for (int64_t i = 0; i < outputs; i++)
        y[i] = w == MEAN ? y[i] / (double)reduced_count : w == NORM ? sqrt(y[i])
             : w == LOGSUMEXP ? log(y[i]) : y[i];
}

static void check_values(ad_context *ctx, which w, ad_type type, ad_shape shape, unsigned axes) {
    int64_t count = 1, outputs = 1;
    for (int i = 0; i < shape.rank; i++) {
        count *= shape.size[i];
        if (!(axes >> i & 1)) outputs *= shape.size[i];
    }
    size_t bytes = ad_type_bytes(type);
    double *x = calloc((size_t)count + 1, 8), *y = calloc((size_t)outputs + 1, 8);
    void *typed = calloc((size_t)count + 1, 8), *result = calloc((size_t)outputs + 1, 8);
    uint64_t state = 5;
    for (int64_t i = 0; i < count; i++) {
        double v = rules_random(&state);
        if (type == AD_I32) ((int32_t *)typed)[i] = (int32_t)(x[i] = floor(4 * v));
        else if (type == AD_U32) ((uint32_t *)typed)[i] = (uint32_t)(x[i] = floor(2 + 2 * v));
        else if (type == AD_F32) x[i] = (double)(((float *)typed)[i] = (float)v);
        else x[i] = ((double *)typed)[i] = v;
    }
    double lowest = type == AD_I32 ? -2147483648.0 : type == AD_U32 ? 0 : -HUGE_VAL;
    double highest = type == AD_I32 ? 2147483647.0 : type == AD_U32 ? 4294967295.0 : HUGE_VAL;
    plain(w, shape, axes, x, y, lowest, highest);
    for (int keep = 0; keep < 2; keep++) {
        ad_scope_begin(ctx, "case");
        ad_tensor t = reduced(ctx, w, ad_from(ctx, type, shape, typed), axes, keep);
        ad_shape shaped = ad_shape_of(ctx, t);
        int rank = 0;
        for (int i = 0; i < shape.rank; i++) {
            if (axes >> i & 1 && !keep) continue;
            cr_assert(shaped.size[rank++] == (axes >> i & 1 ? 1 : shape.size[i]));
        }
        cr_assert(shaped.rank == rank, "%s", ad_error_text(ctx));
        ad_read(ctx, t, result, (size_t)outputs * bytes);
        cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
        for (int64_t i = 0; i < outputs; i++) {
            double got = type == AD_F32 ? (double)((float *)result)[i]
                       : type == AD_F64 ? ((double *)result)[i]
                       : type == AD_I32 ? (double)((int32_t *)result)[i]
                       : ((uint32_t *)result)[i];
            double tol = type == AD_F32 ? 1e-6 : 1e-12, terms = (double)(count / outputs);
            double wrapped = type == AD_U32 || type == AD_I32 ? fmod(y[i] - got, 4294967296.0) : 1;
            bool good = got == y[i] || (isnan(got) && isnan(y[i])) || wrapped == 0
                     || fabs(got - y[i]) <= tol * fmax(terms, fabs(y[i]));
            cr_assert(good, "%s %s axes 0x%x rank %d (%lld ...), output %lld: %.9g, expected %.9g",
                      names[w], ad_type_name(type), axes, shape.rank,
                      (long long)(shape.rank ? shape.size[0] : 0), (long long)i, got, y[i]);
        }
        ad_scope_end(ctx);
    }
    free(x), free(y), free(typed), free(result);
}

Test(reduce, values_over_every_set_of_axes) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_shape shapes[] = {AD_SCALAR, AD_SHAPE(1), AD_SHAPE(5), AD_SHAPE(200), AD_SHAPE(3, 4),
                         AD_SHAPE(7, 1, 9), AD_SHAPE(2, 3, 4, 5), AD_SHAPE(3, 1, 2, 1, 5, 70),
                         AD_SHAPE(0), AD_SHAPE(3, 0, 2), AD_SHAPE(150, 130), AD_SHAPE(9, 600)};
    ad_type types[] = {AD_F32, AD_F64, AD_I32, AD_U32};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (unsigned axes = 0; axes < 1u << shapes[s].rank; axes++)
            for (int t = 0; t < 4; t++)
                for (which w = 0; w < WHICH; w++) {
                    bool real = t < 2, mask = w == ANY || w == ALL;
                    if (mask ? types[t] != AD_U32 : !real && (w == MEAN || w == NORM)) continue;
                    if (w == LOGSUMEXP && !real) continue;
                    if (w == PROD && !real && shapes[s].rank > 4) continue; // beyond f64's integers
                    if (w == PROD && !real && s >= 10) continue;
                    check_values(ctx, w, types[t], shapes[s], axes);
                }
    ad_close(ctx);
}

Test(reduce, long_and_narrow_axes_in_every_type) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_shape shapes[] = {AD_SHAPE(20011), AD_SHAPE(9001, 3), AD_SHAPE(3, 9001), AD_SHAPE(1000, 63),
                         AD_SHAPE(700, 64), AD_SHAPE(5, 3000, 2), AD_SHAPE(40, 3, 500)};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (unsigned axes = 1; axes < 1u << shapes[s].rank; axes++)
            for (int t = 0; t < 4; t++) {
                ad_type types[] = {AD_F32, AD_F64, AD_I32, AD_U32};
                check_values(ctx, SUM, types[t], shapes[s], axes);
                check_values(ctx, MAX, types[t], shapes[s], axes);
            }
    ad_close(ctx);
}

// All of one sign, so that errors do not cancel.
Test(reduce, long_f32_sums_agree_with_f64) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    int64_t n = 1 << 20;
    float *x = malloc((size_t)n * sizeof *x);
    uint64_t state = 3;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)(x[i] = (float)(1.5 + rules_random(&state)));
    ad_shape shapes[] = {AD_SHAPE(n), AD_SHAPE(n, 1), AD_SHAPE(n / 2, 2), AD_SHAPE(n / 512, 512)};
    for (int s = 0; s < 4; s++) {
        ad_tensor t = ad_from(ctx, AD_F32, shapes[s], x);
        double all = ad_item(ctx, ad_sum(ctx, t, AD_ALL_AXES, false));
        double first = ad_item(ctx, ad_sum(ctx, ad_sum(ctx, t, 1, false), AD_ALL_AXES, false));
        cr_assert(fabs(all - sum) < 1e-6 * sum, "%.9g, expected %.9g", all, sum);
        cr_assert(fabs(first - sum) < 1e-6 * sum, "%.9g, expected %.9g", first, sum);
    }
    double last = 0, total = 0;
    ad_tensor running = ad_cumsum(ctx, ad_from(ctx, AD_F32, AD_SHAPE(n), x), 0, false, false);
    float *y = malloc((size_t)n * sizeof *y);
    cr_assert(ad_read(ctx, running, y, (size_t)n * sizeof *y));
    for (int64_t i = 0; i < n; i++) {
        total += (double)x[i];
        last = fmax(last, fabs((double)y[i] - total) / total);
    }
    cr_assert(last < 1e-6, "cumsum is off by %g", last);
    free(x), free(y);
    ad_close(ctx);
}

Test(reduce, not_a_number_wins_and_ties_share) {
    ad_context *ctx = ad_open(NULL);
    float bad[] = {1, NAN, 3, 2};
    cr_assert(isnan(ad_item(ctx, ad_max(ctx, ad_from(ctx, AD_F32, AD_SHAPE(4), bad), 1, false))));
    cr_assert(isnan(ad_item(ctx, ad_min(ctx, ad_from(ctx, AD_F32, AD_SHAPE(4), bad), 1, false))));
    double v[] = {2, 5, 5, 1, 5}, dx[5];
    ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(5), v)), g;
    ad_grad(ctx, ad_max(ctx, x, 1, false), (ad_tensor){0}, 1, &x, &g, 0);
    ad_read(ctx, g, dx, sizeof dx);
    for (int i = 0; i < 5; i++) cr_assert(fabs(dx[i] - (v[i] == 5 ? 1.0 / 3 : 0)) < 1e-15);
    double zeros[3] = {0};
    x = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(3), zeros));
    ad_grad(ctx, ad_norm(ctx, x, 1, false), (ad_tensor){0}, 1, &x, &g, 0);
    ad_read(ctx, g, dx, 3 * sizeof *dx);
    for (int i = 0; i < 3; i++) cr_assert(dx[i] == 0, "the norm's slope at 0 is %g", dx[i]);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(reduce, argmax_takes_the_first_and_refuses_nothing) {
    ad_context *ctx = ad_open(NULL);
    float v[] = {1, 3, 3, 0, -1, -1, 7, NAN, 9};
    int32_t most[3], least[3];
    ad_tensor x = ad_from(ctx, AD_F32, AD_SHAPE(3, 3), v);
    ad_read(ctx, ad_argmax(ctx, x, 1), most, sizeof most);
    ad_read(ctx, ad_argmin(ctx, x, -1), least, sizeof least);
    cr_assert(most[0] == 1 && most[1] == 0 && most[2] == 1);
    cr_assert(least[0] == 0 && least[1] == 1 && least[2] == 1);
    ad_read(ctx, ad_argmin(ctx, x, 0), least, sizeof least); // columns
    cr_assert(least[0] == 1 && least[1] == 2 && least[2] == 1);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_argmax(ctx, ad_full(ctx, AD_F32, AD_SHAPE(2, 0), 0), 1);
    cr_assert(strstr(ad_error_text(ctx), "empty"), "%s", ad_error_text(ctx));
    ad_error_clear(ctx);
    ad_sum(ctx, x, AD_AXIS(2), false);
    cr_assert(ad_failed(ctx));
    ad_close(ctx);
}

Test(reduce, logsumexp_and_softmax_at_the_ends) {
    ad_context *ctx = ad_open(NULL);
    double v[] = {1000, 1000, -INFINITY, -INFINITY, 3, INFINITY}, y[3], p[6];
    ad_tensor x = ad_from(ctx, AD_F64, AD_SHAPE(3, 2), v);
    ad_read(ctx, ad_logsumexp(ctx, x, 2, false), y, sizeof y);
    cr_assert(fabs(y[0] - 1000 - log(2)) < 1e-12 && y[1] == -INFINITY && y[2] == INFINITY);
    ad_read(ctx, ad_softmax(ctx, x, 1), p, sizeof p);
    cr_assert(p[0] == 0.5 && p[1] == 0.5);
    ad_tensor row = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(2), v + 2)), g;
    double minus[] = {-INFINITY, -INFINITY};
    row = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(2), minus));
    ad_grad(ctx, ad_logsumexp(ctx, row, 1, false), (ad_tensor){0}, 1, &row, &g, 0);
    ad_read(ctx, g, p, 2 * sizeof *p);
    cr_assert(p[0] == 0 && p[1] == 0 && !ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

/* ---- scans */

static void scan_plain(bool product, const double *x, int64_t n, bool exclusive, bool reverse,
                       double *y) {
    double carry = product;
    for (int64_t k = 0; k < n; k++) {
        int64_t i = reverse ? n - 1 - k : k;
        if (exclusive) y[i] = carry;
        carry = product ? carry * x[i] : carry + x[i];
        if (!exclusive) y[i] = carry;
    }
}

Test(reduce, scans_along_every_axis) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2});
    ad_shape shapes[] = {AD_SHAPE(7), AD_SHAPE(4, 6), AD_SHAPE(3, 5, 70), AD_SHAPE(2, 1, 3),
                         AD_SHAPE(0, 3), AD_SHAPE(40000)};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int axis = 0; axis < shapes[s].rank; axis++)
            for (int flags = 0; flags < 8; flags++) {
                ad_shape shape = shapes[s];
                int64_t outer = 1, inner = 1, n = shape.size[axis];
                for (int i = 0; i < axis; i++) outer *= shape.size[i];
                for (int i = axis + 1; i < shape.rank; i++) inner *= shape.size[i];
                size_t count = (size_t)(outer * inner * n);
                double *x = calloc(count + 1, 8), *y = calloc(count + 1, 8);
                double *row = calloc((size_t)n + 1, 8), *want = calloc((size_t)n + 1, 8);
                uint64_t state = 9;
                bool product = flags & 4, exclusive = flags & 1, reverse = flags & 2;
                for (size_t i = 0; i < count; i++) x[i] = 1 + 0.01 * rules_random(&state);
                ad_scope_begin(ctx, "case");
                ad_tensor t = ad_from(ctx, AD_F64, shape, x);
                t = product ? ad_cumprod(ctx, t, axis, exclusive, reverse)
                            : ad_cumsum(ctx, t, axis - shape.rank, exclusive, reverse);
                cr_assert(ad_read(ctx, t, y, count * 8), "%s", ad_error_text(ctx));
                ad_scope_end(ctx);
                for (int64_t o = 0; o < outer * inner; o++) {
                    int64_t base = o / inner * n * inner + o % inner;
                    for (int64_t i = 0; i < n; i++) row[i] = x[base + i * inner];
                    scan_plain(product, row, n, exclusive, reverse, want);
                    for (int64_t i = 0; i < n; i++)
                        cr_assert(fabs(y[base + i * inner] - want[i]) <= 1e-10 * fabs(want[i]),
                                  "flags %d, axis %d, step %lld: %.15g, expected %.15g", flags,
                                  axis, (long long)i, y[base + i * inner], want[i]);
                }
                free(x), free(y), free(row), free(want);
            }
    ad_close(ctx);
}

/* ---- rules */

typedef struct setting {
    which which;
    unsigned axes;
    bool keep, product;
} setting;

static ad_tensor f_reduce(ad_context *ctx, const ad_tensor *x, const void *user) {
    const setting *s = user;
    return reduced(ctx, s->which, x[0], s->axes, s->keep);
}

Test(reduce, rules) {
    ad_shape shapes[] = {AD_SCALAR, AD_SHAPE(4), AD_SHAPE(3, 4), AD_SHAPE(2, 1, 3),
                         AD_SHAPE(2, 3, 2)};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (unsigned axes = 0; axes < 1u << shapes[s].rank; axes++)
            for (int w = 0; w < WHICH; w++) {
                if (w == ANY || w == ALL) continue;
                setting set = {(which)w, axes, axes & 1, false};
                rules r = {.f = f_reduce, .user = &set, .state = 11};
                rules_fill(&r, 0, shapes[s], 2);
                rules_check(&r, names[w]);
            }
}

static ad_tensor f_softmax(ad_context *ctx, const ad_tensor *x, const void *user) {
    return ad_softmax(ctx, x[0], *(const int *)user);
}

static ad_tensor f_scan(ad_context *ctx, const ad_tensor *x, const void *user) {
    int flags = *(const int *)user, axis = flags >> 3;
    return flags & 4 ? ad_cumprod(ctx, x[0], axis, flags & 1, flags & 2)
                     : ad_cumsum(ctx, x[0], axis, flags & 1, flags & 2);
}

Test(reduce, rules_of_softmax_and_scans) {
    for (int axis = 0; axis < 2; axis++) {
        rules r = {.f = f_softmax, .user = &axis, .state = 12};
        rules_fill(&r, 0, AD_SHAPE(3, 4), 2);
        rules_check(&r, "softmax");
    }
    for (int flags = 0; flags < 16; flags++)
        for (int zeros = 0; zeros < 4; zeros++) {
            rules r = {.f = f_scan, .user = &flags, .state = 13};
            rules_fill(&r, 0, AD_SHAPE(4, 3), 2);
            for (int i = 0; i < zeros; i++) r.input[0].value[3 * i + 1] = 0;
            rules_check(&r, flags & 4 ? "cumprod" : "cumsum");
        }
}

Test(reduce, product_with_zeros) {
    double cases[3][4] = {{2, 0, 3, 4}, {0, 0, 3, 4}, {2, 5, 3, 4}};
    double want[3][4] = {{0, 24, 0, 0}, {0, 0, 0, 0}, {60, 24, 40, 30}}, dx[4];
    ad_context *ctx = ad_open(NULL);
    for (int i = 0; i < 3; i++) {
        ad_tensor x = ad_watch(ctx, ad_from(ctx, AD_F64, AD_SHAPE(4), cases[i])), g;
        ad_grad(ctx, ad_prod(ctx, x, 1, false), (ad_tensor){0}, 1, &x, &g, 0);
        ad_read(ctx, g, dx, sizeof dx);
        for (int k = 0; k < 4; k++) cr_assert(dx[k] == want[i][k], "%g, %g", dx[k], want[i][k]);
    }
    ad_close(ctx);
    setting set = {PROD, 1, false, true};
    for (int zeros = 0; zeros < 4; zeros++) {
        rules r = {.f = f_reduce, .user = &set, .state = 14};
        rules_fill(&r, 0, AD_SHAPE(4, 2), 2);
        for (int i = 0; i < zeros; i++) r.input[0].value[2 * i] = 0;
        rules_check(&r, "prod with zeros");
    }
}

/* ---- threads */

static void everything(int threads, float *out, int64_t *used) {
    int64_t n = 300007;
    ad_context *ctx = ad_open(&(ad_options){.threads = threads});
    float *x = malloc((size_t)n * 4);
    uint64_t state = 21;
    for (int64_t i = 0; i < n; i++) x[i] = (float)rules_random(&state);
    ad_tensor flat = ad_from(ctx, AD_F32, AD_SHAPE(n), x), wide, narrow, y[16];
    wide = ad_from(ctx, AD_F32, AD_SHAPE(300, 1000), x);
    narrow = ad_from(ctx, AD_F32, AD_SHAPE(100000, 3), x);
    int count = 0;
    y[count++] = ad_sum(ctx, flat, AD_ALL_AXES, false);
    y[count++] = ad_norm(ctx, flat, AD_ALL_AXES, false);
    y[count++] = ad_sum(ctx, wide, 1, false);
    y[count++] = ad_sum(ctx, wide, 2, false);
    y[count++] = ad_sum(ctx, narrow, 1, false);
    y[count++] = ad_mean(ctx, narrow, 3, false);
    y[count++] = ad_prod(ctx, ad_affine(ctx, wide, 0.01, 1), 1, false);
    y[count++] = ad_logsumexp(ctx, wide, 2, false);
    y[count++] = ad_sum(ctx, ad_softmax(ctx, wide, 1), 1, false);
    y[count++] = ad_cumsum(ctx, flat, 0, false, true);
    *used = 0;
    for (int i = 0; i < count; i++) {
        cr_assert(ad_read(ctx, y[i], out + *used, (size_t)ad_count(ctx, y[i]) * 4), "%s",
                  ad_error_text(ctx));
        *used += ad_count(ctx, y[i]);
    }
    free(x);
    ad_close(ctx);
}

Test(reduce, bits_do_not_depend_on_threads) {
    float *one = malloc(400000 * 4), *more = malloc(400000 * 4);
    int64_t used, again;
    everything(1, one, &used);
    for (int threads = 2; threads <= 4; threads++) {
        everything(threads, more, &again);
        cr_assert(used == again && !memcmp(one, more, (size_t)used * 4), "%d threads", threads);
    }
    free(one), free(more);
}
