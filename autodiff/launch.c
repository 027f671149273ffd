/* Running a kernel on what it can read.
 *
 * A kernel sees contiguous f32, f64, i32 or u32 operands unless its operation asks for more:
 * strided operands are packed and f16 and bf16 ones widened first, and narrow outputs rounded
 * after, by launches of their own, so that a captured step contains them too. */
#include "autodiff/core.h"

#include <stdio.h>

/* ---- views */

int64_t ad_view_count(const ad_view *view) {
    int64_t count = 1;
    for (int i = 0; i < view->rank; i++) count *= view->size[i];
    return count;
}

bool ad_view_present(const ad_view *view) { return view->rank >= 0; }

bool ad_view_same_shape(const ad_view *a, const ad_view *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->size[i] != b->size[i]) return false;
    return true;
}

void ad_view_text(const ad_view *view, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "%s (", ad_type_name(view->type));
    for (int i = 0; i < view->rank && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", i ? ", " : "",
                                 (long long)view->size[i]);
    if (used < bytes) snprintf(text + used, bytes - used, ")");
}

/* ---- launches */

bool ad_run_plain(ad_context *ctx, ad_launch *launch, size_t workspace,
                  ad_storage *const *input_storage, ad_storage *const *output_storage) {
    ad_storage *scratch = NULL;
    launch->threads = ctx->options.threads, launch->workspace = NULL;
    if (workspace) {
        scratch = ad_storage_allocate(ctx, workspace);
        if (!scratch) return false;
        launch->workspace = scratch->data;
    }
    bool good = ctx->device.launch(&ctx->device, launch);
    ctx->launches++;
    if (good && ctx->capture) {
        ad_storage *storages[AD_OUTPUTS_MAX + 1];
        for (int i = 0; i < launch->outputs; i++) storages[i] = output_storage[i];
        storages[launch->outputs] = scratch;
        good = ad_capture_launch(ctx, launch, input_storage, storages);
    }
    if (scratch) ad_storage_release(ctx, scratch);
    return good;
}

// Packs, widens or rounds one view into another.
static bool run_cast(ad_context *ctx, const ad_view *from, ad_storage *const *from_storage,
                     const ad_view *to, ad_storage *const *to_storage) {
    ad_launch cast = {.op = &ad_op_cast, .attributes = &to->type, .inputs = 1, .outputs = 1,
                      .input = from, .output = to};
    return ad_run_plain(ctx, &cast, 0, from_storage, to_storage);
}

bool ad_run(ad_context *ctx, ad_launch *launch, size_t workspace,
            ad_storage *const *input_storage, ad_storage *const *output_storage) {
    const ad_op *op = launch->op;
    int inputs = launch->inputs, outputs = launch->outputs;
    const ad_view *input = launch->input, *output = launch->output;
    bool storage_ok = op->flags & AD_OP_STORAGE, strided_ok = op->flags & AD_OP_STRIDED;
    bool plain = true;
    for (int i = 0; i < inputs; i++)
        if (input[i].rank >= 0)
            plain &= (storage_ok || !ad_type_is_narrow(input[i].type))
                  && (strided_ok || ad_view_contiguous(&input[i]));
    for (int i = 0; i < outputs; i++) plain &= storage_ok || !ad_type_is_narrow(output[i].type);
    if (plain) return ad_run_plain(ctx, launch, workspace, input_storage, output_storage);

    // Stand-ins for what the kernel cannot read or write as it is.
    ad_view in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX];
    ad_storage *in_storage[AD_INPUTS_MAX], *out_storage[AD_OUTPUTS_MAX];
    ad_storage *made[AD_INPUTS_MAX + AD_OUTPUTS_MAX];
    int made_count = 0;
    bool good = true;
    for (int i = 0; i < inputs && good; i++) {
        in[i] = input[i], in_storage[i] = input_storage[i];
        if (in[i].rank < 0) continue;
        bool widen = !storage_ok && ad_type_is_narrow(in[i].type);
        if (!widen && (strided_ok || ad_view_contiguous(&in[i]))) continue;
        if (widen) in[i].type = AD_F32;
        ad_view_make_contiguous(&in[i]);
        size_t bytes = (size_t)ad_view_count(&in[i]) * ad_type_bytes(in[i].type);
        in_storage[i] = ad_storage_allocate(ctx, bytes);
        if (!in_storage[i]) { good = false; break; }
        made[made_count++] = in_storage[i];
        in[i].data = in_storage[i]->data;
        good = run_cast(ctx, &input[i], &input_storage[i], &in[i], &in_storage[i]);
    }
    for (int i = 0; i < outputs && good; i++) {
        out[i] = output[i], out_storage[i] = output_storage[i];
        if (storage_ok || !ad_type_is_narrow(out[i].type)) continue;
        out[i].type = AD_F32;
        out_storage[i] = ad_storage_allocate(ctx, (size_t)ad_view_count(&out[i]) * 4);
        if (!out_storage[i]) { good = false; break; }
        made[made_count++] = out_storage[i];
        out[i].data = out_storage[i]->data;
    }
    ad_launch stand_in = *launch;
    stand_in.input = in, stand_in.output = out;
    good = good && ad_run_plain(ctx, &stand_in, workspace, in_storage, out_storage);
    // Round narrow outputs, and narrow states that the kernel wrote.
    for (int i = 0; i < outputs && good; i++)
        if (out[i].data != output[i].data)
            good = run_cast(ctx, &out[i], &out_storage[i], &output[i], &output_storage[i]);
    for (int i = 0; i < inputs && good; i++)
        if (op->writes >> i & 1 && in[i].data != input[i].data)
            good = run_cast(ctx, &in[i], &in_storage[i], &input[i], &input_storage[i]);
    while (made_count) ad_storage_release(ctx, made[--made_count]);
    return good;
}
