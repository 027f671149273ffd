/* What the colour network reads, and the density, both from the density network's output.
 *
 * sigma = exp of the first column of h, as in density.c; rows = h beside its ray's numbers, as in
 * rows.c. Together they are one operation for the sake of the way back: both send a cotangent to
 * all of h, that of the density zero but in one column. Here d h is written once,
 *   d h = (d rows)[:, :a],  its first column + d sigma min(sigma, e^15),
 * where two operations would write it three times: a zero-filled one, a copy, and their sum. */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "render/ops/density.h"
#include "render/ops/rows.h"

#include <string.h>

enum { H, B, OFFSETS, INPUTS };
enum { SIGMA, ROWS, OUTPUTS };

static void beside_infer(ad_infer *call) {
    const ad_view *in = call->input;
    char h[160], b[160], offsets[160];
    ad_view_text(&in[H], h, sizeof h), ad_view_text(&in[B], b, sizeof b);
    ad_view_text(&in[OFFSETS], offsets, sizeof offsets);
    call->saved_outputs = 1u << SIGMA;
    if (in[H].rank != 2 || in[H].size[1] < 1 || in[B].rank != 2 || in[H].type != in[B].type
        || !ad_type_is_real(in[H].type))
        ad_infer_fail(call, "samples (n, a) with a > 0 and rays (r, c) are matrices of one "
                      "real type, not %s and %s", h, b);
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].type != AD_U32
             || in[OFFSETS].size[0] != in[B].size[0] + 1)
        ad_infer_fail(call, "offsets are u32 (%lld), one more than rays, not %s",
                      (long long)in[B].size[0] + 1, offsets);
    ad_type type = in[H].type;
    call->output[SIGMA] = (ad_view){.type = type, .rank = 1, .size = {in[H].size[0]}};
    call->output[ROWS] = (ad_view){.type = type, .rank = 2,
                                   .size = {in[H].size[0], in[H].size[1] + in[B].size[1]}};
}

// Rows [first, end): h's row, then the ray's (NULL: zeros).
static inline __attribute__((always_inline)) void beside_rows(
    int64_t first, int64_t end, int64_t a, int64_t c, const float *restrict h,
    const float *restrict b, float *restrict rows) {
    for (int64_t k = first; k < end; k++) {
        float *to = rows + k * (a + c);
        memcpy(to, h + k * a, (size_t)a * sizeof *to);
        if (b) memcpy(to + a, b, (size_t)c * sizeof *to);
        else memset(to + a, 0, (size_t)c * sizeof *to);
    }
}

static void beside_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *h = in[H].data, *b = in[B].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *sigma = launch->output[SIGMA].data, *rows = launch->output[ROWS].data;
    int64_t n = in[H].size[0], a = in[H].size[1], c = in[B].size[1], rays = in[B].size[0];
    int64_t blocks = (n + ROWS_BLOCK - 1) / ROWS_BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t row = block * ROWS_BLOCK, end = row + ROWS_BLOCK < n ? row + ROWS_BLOCK : n;
        int64_t ray = rows_find_ray(offsets, rays, row);
        density_rows(row, end, a, h, sigma);
        while (row < end) {
            row_stretch s = rows_stretch(offsets, rays, row, end, &ray);
            const float *beside = s.ray < 0 ? NULL : b + s.ray * c;
            // The radiance field's widths, known to the compiler: whole vectors.
            if (a == 16 && c == 16) beside_rows(row, s.end, 16, 16, h, beside, rows);
            else beside_rows(row, s.end, a, c, h, beside, rows);
            row = s.end;
        }
    }
}

/* ---- the derivative: sigma (n), d sigma (n), d rows (n, a + c), of which one may be absent */

typedef struct vjp_attributes {
    int64_t columns; // a
} vjp_attributes;

enum { OF_SIGMA, DSIGMA, DROWS, VJP_INPUTS };

static void beside_vjp_infer(ad_infer *call) {
    const vjp_attributes *attributes = call->attributes;
    call->output[0] = (ad_view){.type = AD_F32, .rank = 2,
                                .size = {call->input[OF_SIGMA].size[0], attributes->columns}};
}

static inline __attribute__((always_inline)) void slopes(
    int64_t first, int64_t end, int64_t a, int64_t width, float limit,
    const float *restrict sigma, const float *restrict dsigma, const float *restrict drows,
    float *restrict dh) {
    for (int64_t k = first; k < end; k++) {
        float slope = sigma[k] > limit ? limit : sigma[k];
        for (int64_t i = 0; i < a; i++) dh[k * a + i] = drows ? drows[k * width + i] : 0;
        if (dsigma) dh[k * a] += dsigma[k] == 0 ? 0 : dsigma[k] * slope;
    }
}

static void beside_vjp_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *sigma = in[OF_SIGMA].data, *dsigma = in[DSIGMA].data, *drows = in[DROWS].data;
    float *dh = launch->output[0].data;
    int64_t n = in[OF_SIGMA].size[0], a = launch->output[0].size[1];
    int64_t width = drows ? in[DROWS].size[1] : 0;
    int64_t blocks = (n + ROWS_BLOCK - 1) / ROWS_BLOCK;
    float limit = ad_math_exp(DENSITY_SLOPE_LIMIT);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (blocks > 4)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * ROWS_BLOCK;
        int64_t end = first + ROWS_BLOCK < n ? first + ROWS_BLOCK : n;
        if (a == 16 && width == 32 && dsigma)
            slopes(first, end, 16, 32, limit, sigma, dsigma, drows, dh);
        else
            slopes(first, end, a, width, limit, sigma, dsigma, drows, dh);
    }
}

static const ad_op op_density_beside_vjp = {
    .name = "density_beside_vjp", .inputs_min = VJP_INPUTS, .inputs_max = VJP_INPUTS, .outputs = 1,
    .optional = 1u << DSIGMA | 1u << DROWS, .flags = AD_OP_NO_GRADIENT,
    .attribute_bytes = sizeof(vjp_attributes), .infer = beside_vjp_infer, .cpu = beside_vjp_cpu};

static void beside_vjp_fused(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor drows = call->dy[ROWS];
    vjp_attributes attributes = {ad_shape_of(ctx, call->input[H]).size[1]};
    if (call->wanted >> H & 1)
        call->dx[H] = ad_apply1(ctx, &op_density_beside_vjp, VJP_INPUTS,
                                (ad_tensor[]){call->output[SIGMA], call->dy[SIGMA], drows},
                                &attributes);
    if (!(call->wanted >> B & 1) || ad_is_null(drows)) return;
    int64_t width = ad_shape_of(ctx, drows).size[1];
    call->dx[B] = ad_segment_sum(ctx, ad_slice(ctx, drows, 1, attributes.columns, width, 1),
                                 call->input[OFFSETS]);
}

static void beside_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const ad_tensor *in = call->input;
    output[SIGMA] = render_density(ctx, in[H]);
    output[ROWS] = render_beside_ray(ctx, in[H], in[B], in[OFFSETS]);
}

/* ---- public */

bool render_density_beside(ad_context *ctx, ad_tensor h, ad_tensor b, ad_tensor offsets,
                           ad_tensor *sigma, ad_tensor *rows) {
    ad_tensor out[OUTPUTS];
    bool good = ad_apply(ctx, &render_op_density_beside, INPUTS, (ad_tensor[]){h, b, offsets},
                         NULL, out);
    *sigma = out[SIGMA], *rows = out[ROWS];
    return good;
}

static void beside_cost(const ad_infer *call, double *flops, double *bytes) {
    const ad_view *h = &call->input[H], *b = &call->input[B];
    *flops = 20.0 * (double)h->size[0];
    *bytes = 4.0 * (double)h->size[0] * (double)(2 * h->size[1] + b->size[1] + 1);
}

static bool beside_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 2 || s->shape.size[1] < 1
        || !ad_type_is_real(s->type))
        return false;
    int64_t n = s->shape.size[0], rays = n / 4 + 1;
    s->inputs = INPUTS;
    s->input[H].type = s->input[B].type = s->type;
    s->input[H].shape = s->shape, s->input[B].shape = AD_SHAPE(rays, 5);
    s->input[H].low = s->input[B].low = -2, s->input[H].high = s->input[B].high = 2;
    s->input[OFFSETS].type = AD_U32, s->input[OFFSETS].shape = AD_SHAPE(rays + 1);
    s->input[OFFSETS].low = 0, s->input[OFFSETS].high = (double)n, s->input[OFFSETS].sorted = true;
    return true;
}

const ad_op render_op_density_beside = {
    .name = "density_beside", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = OUTPUTS,
    .infer = beside_infer, .cpu = beside_cpu, .compose = beside_compose,
    .vjp_fused = beside_vjp_fused, .cost = beside_cost, .sample = beside_sample};
