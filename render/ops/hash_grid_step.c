/* A step of the hash grid's table: scatter and sparse Adam in one pass.
 *
 * The table's gradient has as many numbers as the table. Scattering into a buffer of that size and
 * stepping afterwards moves all of it through memory three times more. Here each level's sums are
 * formed in a buffer that the caches hold, and spent at once. The entries' sums are formed in the
 * order of the points and the step is the optimiser's own, so the bits are those of the two. */
#include "render/ops/hash_grid.h"

#include <string.h>

enum { TABLE, FIRST, SECOND, STEPS, RATE, GATE, POINTS, SLOPES, COUNT, INPUTS };

typedef struct step_attributes {
    hash_grid_attributes grid;
    ad_adam_options adam;
} step_attributes;

static void step_infer(ad_infer *call) {
    const step_attributes *a = call->attributes;
    const ad_view *in = call->input;
    const hash_grid_attributes *grid = &a->grid;
    if (in[TABLE].rank != 2 || in[TABLE].size[0] != grid->entries
        || in[TABLE].size[1] != grid->features || in[TABLE].type != AD_F32)
        ad_infer_fail(call, "the table is f32 (%u, %d)", grid->entries, grid->features);
    else if (in[POINTS].rank != 2 || in[POINTS].size[1] != 3 || in[POINTS].type != AD_F32)
        ad_infer_fail(call, "points are f32 (n, 3)");
    else if (in[SLOPES].rank != 2 || in[SLOPES].size[0] != in[POINTS].size[0]
             || in[SLOPES].size[1] != (int64_t)grid->levels * grid->features
             || in[SLOPES].type != AD_F32)
        ad_infer_fail(call, "the cotangents are f32 (%lld, %lld)", (long long)in[POINTS].size[0],
                      (long long)grid->levels * grid->features);
    else if (ad_view_present(&in[COUNT])
             && (in[COUNT].type != AD_U32 || ad_view_count(&in[COUNT]) != 1))
        ad_infer_fail(call, "the number of live rows is one u32");
    int64_t rows = in[POINTS].rank > 0 ? in[POINTS].size[0] : 0;
    call->workspace = render_grid_step_workspace(grid, ad_threads(call->ctx), rows);
    call->saved_inputs = 0;
}

static void step_cpu(const ad_launch *launch) {
    const step_attributes *a = launch->attributes;
    const ad_view *in = launch->input;
    int64_t rows = in[POINTS].size[0], live = rows;
    if (ad_view_present(&in[COUNT])) live = *(const uint32_t *)in[COUNT].data;
    if (live > rows) live = rows;
    float factor, *workspace = launch->workspace;
    if (!ad_gate_open(&in[GATE], &factor)) return;
    float *tables = workspace;
    workspace += ad_adam_workspace() / sizeof *workspace;
    hash_grid_step step = {
        .rule = ad_adam_rule_of(&a->adam, *(const float *)in[RATE].data, factor, tables),
        .table = in[TABLE].data, .first = in[FIRST].data, .second = in[SECOND].data,
        .steps = in[STEPS].data};
    render_grid_step(&a->grid, launch->threads, live, in[POINTS].data, in[SLOPES].data, &step,
                     workspace);
}

static const ad_op op_step = {
    .name = "hash_grid_step", .inputs_min = INPUTS, .inputs_max = INPUTS,
    .optional = 1u << GATE | 1u << COUNT, .writes = 1u << TABLE | 1u << FIRST | 1u << SECOND
    | 1u << STEPS, .flags = AD_OP_NO_GRADIENT | AD_OP_STATEFUL,
    .attribute_bytes = sizeof(step_attributes), .infer = step_infer, .cpu = step_cpu};

bool render_hash_grid_step(ad_context *ctx, ad_optimizer *adam, ad_tensor points, ad_tensor table,
                           ad_tensor count, ad_tensor slopes,
                           const render_grid_options *options) {
    step_attributes a;
    ad_adam_parts parts;
    ad_tensor none[1];
    memset(&a, 0, sizeof a); // attributes are compared and copied as bytes
    if (!render_grid_levels(ctx, options, &a.grid)) return false;
    if (!ad_adam_sparse_parts(adam, table, &parts)) return false;
    memcpy(&a.adam, &parts.options, sizeof a.adam);
    return ad_apply(ctx, &op_step, INPUTS,
                    (ad_tensor[]){table, parts.first, parts.second, parts.steps, parts.rate,
                                  parts.gate, points, slopes, count}, &a, none);
}
