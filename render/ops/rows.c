/* Operations on rows of samples: a ray's numbers beside each of its samples, and dead rows to zero.
 *
 * Both only move bytes, so one kernel serves f32 and f64, and both are linear, so each is its own
 * forward-mode rule. beside_ray copies a's row as it is, live or not, and puts zeros beside the
 * rows of no ray; a is what a network made, whose dead rows are zero already. */
#include "render/render.h"

#include "autodiff/ops/axes.h"
#include "render/ops/rows.h"

#include <string.h>

/* ---- beside_ray */

enum { A, B, OFFSETS, BESIDE_INPUTS };

static void beside_infer(ad_infer *call) {
    const ad_view *in = call->input;
    char a[160], b[160], offsets[160];
    ad_view_text(&in[A], a, sizeof a), ad_view_text(&in[B], b, sizeof b);
    ad_view_text(&in[OFFSETS], offsets, sizeof offsets);
    call->saved_inputs = 1u << OFFSETS, call->saved_outputs = 0;
    if (in[A].rank != 2 || in[B].rank != 2 || in[A].type != in[B].type)
        ad_infer_fail(call, "samples (n, a) and rays (r, c) are matrices of one type, not %s and "
                      "%s", a, b);
    else if (in[OFFSETS].rank != 1 || in[OFFSETS].type != AD_U32
             || in[OFFSETS].size[0] != in[B].size[0] + 1)
        ad_infer_fail(call, "offsets are u32 (%lld), one more than rays, not %s",
                      (long long)in[B].size[0] + 1, offsets);
    else
        call->output[0] = (ad_view){.type = in[A].type, .rank = 2,
                                    .size = {in[A].size[0], in[A].size[1] + in[B].size[1]}};
}

// Rows [first, end): a's row, then the ray's (NULL: zeros). Widths in words of four bytes.
static inline __attribute__((always_inline)) void beside_rows(
    int64_t first, int64_t end, int64_t a_width, int64_t b_width, const uint32_t *restrict a,
    const uint32_t *restrict b, uint32_t *restrict y) {
    for (int64_t k = first; k < end; k++) {
        uint32_t *to = y + k * (a_width + b_width);
        const uint32_t *from = a + k * a_width;
        for (int64_t i = 0; i < a_width; i++) to[i] = from[i];
        for (int64_t i = 0; b && i < b_width; i++) to[a_width + i] = b[i];
        if (!b) memset(to + a_width, 0, (size_t)b_width * 4);
    }
}

static void beside_cpu(const ad_launch *launch) {
    const ad_view *in = launch->input;
    const uint32_t *a = in[A].data, *b = in[B].data, *offsets = in[OFFSETS].data;
    uint32_t *y = launch->output[0].data;
    int64_t words = in[A].type == AD_F64 ? 2 : 1, n = in[A].size[0], rays = in[B].size[0];
    int64_t a_width = in[A].size[1] * words, b_width = in[B].size[1] * words;
    int64_t blocks = (n + ROWS_BLOCK - 1) / ROWS_BLOCK;
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (n > 4096)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t row = block * ROWS_BLOCK, end = row + ROWS_BLOCK < n ? row + ROWS_BLOCK : n;
        int64_t ray = rows_find_ray(offsets, rays, row);
        while (row < end) {
            row_stretch s = rows_stretch(offsets, rays, row, end, &ray);
            const uint32_t *beside = s.ray < 0 ? NULL : b + s.ray * b_width;
            // The radiance field's widths, known to the compiler: whole vectors.
            if (a_width == 16 && b_width == 16) beside_rows(row, s.end, 16, 16, a, beside, y);
            else beside_rows(row, s.end, a_width, b_width, a, beside, y);
            row = s.end;
        }
    }
}

static void beside_vjp(ad_vjp *call) {
    ad_context *ctx = call->ctx;
    ad_tensor dy = call->dy[0]; // (n, a + c)
    int64_t a_width = ad_shape_of(ctx, call->input[A]).size[1];
    int64_t width = ad_shape_of(ctx, dy).size[1];
    if (call->wanted >> A & 1) call->dx[A] = ad_slice(ctx, dy, 1, 0, a_width, 1);
    if (call->wanted >> B & 1)
        call->dx[B] = ad_segment_sum(ctx, ad_slice(ctx, dy, 1, a_width, width, 1),
                                     call->input[OFFSETS]);
}

ad_tensor render_beside_ray(ad_context *ctx, ad_tensor a, ad_tensor b, ad_tensor offsets) {
    return ad_apply1(ctx, &render_op_beside_ray, BESIDE_INPUTS, (ad_tensor[]){a, b, offsets}, NULL);
}

static void beside_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 8.0 * (double)call->input[A].size[0]
           * (double)(call->input[A].size[1] + call->input[B].size[1]);
}

static bool beside_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank != 2) return false;
    int64_t n = s->shape.size[0], rays = n / 4 + 1;
    s->inputs = BESIDE_INPUTS;
    s->input[A].type = s->input[B].type = s->type;
    s->input[A].shape = s->shape, s->input[B].shape = AD_SHAPE(rays, 5);
    s->input[A].low = s->input[B].low = -2, s->input[A].high = s->input[B].high = 2;
    s->input[OFFSETS].type = AD_U32, s->input[OFFSETS].shape = AD_SHAPE(rays + 1);
    s->input[OFFSETS].low = 0, s->input[OFFSETS].high = (double)n, s->input[OFFSETS].sorted = true;
    return true;
}

const ad_op render_op_beside_ray = {
    .name = "beside_ray", .inputs_min = BESIDE_INPUTS, .inputs_max = BESIDE_INPUTS, .outputs = 1,
    .flags = AD_OP_LINEAR, .infer = beside_infer, .cpu = beside_cpu, .vjp = beside_vjp,
    .cost = beside_cost, .sample = beside_sample};

/* ---- mask_rows */

static void mask_infer(ad_infer *call) {
    const ad_view *x = &call->input[0], *count = &call->input[1];
    call->saved_inputs = 2, call->saved_outputs = 0;
    if (x->rank < 1 || !ad_type_is_real(x->type))
        ad_infer_fail(call, "there are no rows of numbers to mask");
    else if (count->type != AD_U32 || ad_view_count(count) != 1)
        ad_infer_fail(call, "the count is one u32 number");
    else
        call->output[0] = *x;
}

static void mask_cpu(const ad_launch *launch) {
    const ad_view *x = &launch->input[0];
    int64_t rows = x->size[0], total = ad_view_count(x), live = *(uint32_t *)launch->input[1].data;
    if (live > rows) live = rows;
    size_t element = ad_type_bytes(x->type);
    size_t all = (size_t)total * element, kept = rows ? all / (size_t)rows * (size_t)live : 0;
    char *y = launch->output[0].data;
    const char *from = x->data;
    enum { PIECE = 1 << 16 };
    int64_t pieces = (int64_t)((all + PIECE - 1) / PIECE);
#pragma omp parallel for num_threads(launch->threads) schedule(static) if (pieces > 4)
    for (int64_t piece = 0; piece < pieces; piece++) {
        size_t at = (size_t)piece * PIECE, end = at + PIECE < all ? at + PIECE : all;
        size_t edge = kept < at ? at : kept > end ? end : kept;
        memcpy(y + at, from + at, edge - at);
        memset(y + edge, 0, end - edge);
    }
}

static void mask_vjp(ad_vjp *call) {
    call->dx[0] = render_mask_rows(call->ctx, call->dy[0], call->input[1]);
}

ad_tensor render_mask_rows(ad_context *ctx, ad_tensor x, ad_tensor count) {
    if (ad_is_null(count)) return x;
    return ad_apply1(ctx, &render_op_mask_rows, 2, (ad_tensor[]){x, count}, NULL);
}

static void mask_cost(const ad_infer *call, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 2.0 * (double)ad_view_count(&call->input[0])
           * (double)ad_type_bytes(call->input[0].type);
}

static bool mask_sample(ad_sample *s) {
    if (s->variant > 0 || s->shape.rank < 1 || !ad_type_is_real(s->type)) return false;
    s->inputs = 2;
    s->input[0].type = s->type, s->input[0].shape = s->shape;
    s->input[0].low = -2, s->input[0].high = 2;
    s->input[1].type = AD_U32, s->input[1].shape = AD_SCALAR;
    s->input[1].low = (double)(s->shape.size[0] / 2), s->input[1].high = (double)s->shape.size[0];
    return true;
}

const ad_op render_op_mask_rows = {
    .name = "mask_rows", .inputs_min = 2, .inputs_max = 2, .outputs = 1, .flags = AD_OP_LINEAR,
    .infer = mask_infer, .cpu = mask_cpu, .vjp = mask_vjp, .cost = mask_cost,
    .sample = mask_sample};
