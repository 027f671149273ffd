/* From rays to the points on them.
 *
 * points[k] = origin + t[k] direction, of the ray that sample k lies on. Rows of no ray are zero.
 * Sampling is a stop-gradient, but where a sample lies still depends on its ray, which is how
 * gradients reach the cameras: d origin is the sum of d point over the ray's samples, d direction
 * the same sum weighted with t. */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "render/ops/rows.h"

#include <math.h>
#include <string.h>

enum { ORIGINS, DIRECTIONS, T, OFFSETS, INPUTS };

static void points_infer(ad_infer *call) {
    const ad_view *in = call->input;
    bool ranks = in[ORIGINS].rank == 2 && in[DIRECTIONS].rank == 2 && in[T].rank == 1
              && in[OFFSETS].rank == 1 && in[OFFSETS].type == AD_U32 && in[OFFSETS].size[0] > 0;
    int64_t rays = ranks ? in[OFFSETS].size[0] - 1 : 0;
    char origins[160], directions[160];
    ad_view_text(&in[ORIGINS], origins, sizeof origins);
    ad_view_text(&in[DIRECTIONS], directions, sizeof directions);
    if (!ranks)
        ad_infer_fail(call, "origins and directions are (rays, 3), t is (samples), offsets are "
                      "u32 (rays + 1)");
    else if (in[ORIGINS].size[0] != rays || in[ORIGINS].size[1] != 3
             || !ad_view_same_shape(&in[ORIGINS], &in[DIRECTIONS]))
        ad_infer_fail(call, "origins and directions are (%lld, 3) as the offsets have it, not %s "
                      "and %s", (long long)rays, origins, directions);
    else if (in[ORIGINS].type != in[T].type || in[DIRECTIONS].type != in[T].type
             || !ad_type_is_real(in[T].type))
        ad_infer_fail(call, "origins, directions and t have one real type");
    else
        call->output[0] = (ad_view){.type = in[T].type, .rank = 2, .size = {in[T].size[0], 3}};
    call->saved_outputs = 0;
}

static void points_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const float *origins = in[ORIGINS].data, *directions = in[DIRECTIONS].data;
    const float *t = in[T].data;
    const uint32_t *offsets = in[OFFSETS].data;
    float *points = launch->output[0].data; // (samples, 3)
    int64_t n = in[T].size[0], rays = in[OFFSETS].size[0] - 1;
    int64_t blocks = (n + ROWS_BLOCK - 1) / ROWS_BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static, 1) if (blocks > 8)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t row = block * ROWS_BLOCK, end = row + ROWS_BLOCK < n ? row + ROWS_BLOCK : n;
        int64_t ray = rows_find_ray(offsets, rays, row);
        while (row < end) {
            row_stretch s = rows_stretch(offsets, rays, row, end, &ray);
            row = s.end;
            if (s.ray < 0) {
                memset(points + 3 * s.first, 0, (size_t)(s.end - s.first) * 12);
                continue;
            }
            const float *o = origins + 3 * s.ray, *d = directions + 3 * s.ray;
            const float ox = o[0], oy = o[1], oz = o[2], dx = d[0], dy = d[1], dz = d[2];
            // Rounded once, wherever the sample stands: pieces of a ray have the points of the ray.
            for (int64_t k = s.first; k < s.end; k++) {
                points[3 * k] = fmaf(t[k], dx, ox);
                points[3 * k + 1] = fmaf(t[k], dy, oy);
                points[3 * k + 2] = fmaf(t[k], dz, oz);
            }
        }
    }
}

static ad_tensor column(ad_context *ctx, ad_tensor t) {
    return ad_reshape(ctx, t, AD_SHAPE(ad_count(ctx, t), 1));
}

static void points_vjp_fused(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    const ad_tensor *in = call->input;
    ad_tensor dy = call->dy[0]; // (samples, 3)
    if (call->wanted >> ORIGINS & 1) call->dx[ORIGINS] = ad_segment_sum(ctx, dy, in[OFFSETS]);
    if (call->wanted >> DIRECTIONS & 1)
        call->dx[DIRECTIONS] = ad_segment_sum(ctx, ad_mul(ctx, dy, column(ctx, in[T])),
                                              in[OFFSETS]);
    if (call->wanted >> T & 1) {
        ad_tensor d = ad_segment_repeat(ctx, in[DIRECTIONS], in[OFFSETS], ad_count(ctx, in[T]));
        call->dx[T] = ad_sum(ctx, ad_mul(ctx, dy, d), AD_AXIS(1), false);
    }
}

static void points_compose(ad_context *ctx, const ad_vjp *call, ad_tensor *output) {
    const ad_tensor *in = call->input;
    int64_t n = ad_count(ctx, in[T]);
    ad_tensor o = ad_segment_repeat(ctx, in[ORIGINS], in[OFFSETS], n);    // (samples, 3)
    ad_tensor d = ad_segment_repeat(ctx, in[DIRECTIONS], in[OFFSETS], n); // (samples, 3)
    output[0] = ad_add(ctx, o, ad_mul(ctx, column(ctx, in[T]), d));
}

ad_tensor render_points(ad_context *ctx, ad_tensor origins, ad_tensor directions, ad_tensor t,
                        ad_tensor offsets) {
    return ad_apply1(ctx, &render_op_points, INPUTS, (ad_tensor[]){origins, directions, t, offsets},
                     NULL);
}

static void points_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 6.0 * (double)call->input[T].size[0];
    *bytes = 16.0 * (double)call->input[T].size[0];
}

static bool points_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 1 || !ad_type_is_real(s->type)) return false;
    int64_t n = s->shape.size[0], rays = n / 4 + 1;
    s->inputs = INPUTS;
    for (int i = 0; i < OFFSETS; i++) {
        s->input[i].type = s->type, s->input[i].shape = AD_SHAPE(rays, 3);
        s->input[i].low = -1, s->input[i].high = 1;
    }
    s->input[T].shape = s->shape;
    s->input[OFFSETS].type = AD_U32, s->input[OFFSETS].shape = AD_SHAPE(rays + 1);
    s->input[OFFSETS].low = 0, s->input[OFFSETS].high = (double)n, s->input[OFFSETS].sorted = true;
    return true;
}

const ad_op render_op_points = {
    .name = "points", .inputs_min = INPUTS, .inputs_max = INPUTS, .outputs = 1,
    .infer = points_infer, .cpu = points_cpu, .compose = points_compose,
    .vjp_fused = points_vjp_fused, .cost = points_cost, .sample = points_sample};
