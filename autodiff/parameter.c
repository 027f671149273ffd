/* Parameters and states: the only tensors that are ever written.
 *
 * Both live in the root scope under a name, so that optimisers, snapshots and error messages can
 * speak of them. A parameter is a leaf of the tape and has a gradient buffer, itself a state, made
 * when first asked for. */
#include "autodiff/core.h"

#include <string.h>

// Copies the bytes of `initial` into a record that the root scope owns, and names it.
static ad_tensor named(ad_context *ctx, const char *name, ad_tensor initial, bool parameter) {
    if (!ad_record_of(ctx, initial, parameter ? "ad_parameter" : "ad_state")) return (ad_tensor){0};
    if (!ad_host_grow(ctx, &ctx->names, &ctx->name_capacity, ctx->name_count + 1,
                      sizeof *ctx->names)
        || !ad_host_grow(ctx, &ctx->owned, &ctx->owned_capacity, ctx->owned_count + 2,
                         sizeof *ctx->owned))
        return (ad_tensor){0};
    if (ctx->capture) {
        ad_raise(ctx, "ad_parameter, ad_state: '%s' cannot be made while a step is captured", name);
        return (ad_tensor){0};
    }
    int no_grad = ctx->no_grad;
    uint32_t force = (uint32_t)ctx->force_record;
    ctx->no_grad = 1, ctx->force_record = 0;
    size_t mark = ctx->owned_count;
    ad_tensor copy = ad_apply1(ctx, &ad_op_copy, 1, &initial, NULL);
    ctx->no_grad = no_grad, ctx->force_record = (int)force;
    char *own = copy.slot ? ad_host_allocate(ctx, strlen(name) + 1) : NULL;
    if (!own) {
        ad_raise(ctx, "out of memory for the name of '%s'", name);
        return (ad_tensor){0};
    }
    strcpy(own, name);
    // Out of this scope's part of the list and into the root's: every scope starts one later.
    ctx->owned_count = mark;
    size_t root_end = ctx->scope_count > 1 ? ctx->scopes[1].owned : ctx->owned_count;
    memmove(ctx->owned + root_end + 1, ctx->owned + root_end,
            (ctx->owned_count - root_end) * sizeof *ctx->owned);
    ctx->owned[root_end] = (ad_owned){copy.slot, copy.generation};
    ctx->owned_count++;
    for (int i = 1; i < ctx->scope_count; i++) ctx->scopes[i].owned++;
    ctx->checkpoint_owned++;

    ad_record *record = ad_record_at(ctx, copy.slot);
    record->flags |= AD_REC_PARAMETER;
    if (parameter) {
        record->flags |= AD_REC_TRACKED | AD_REC_LEAF;
        record->node = ctx->scope_count > 1 ? (uint32_t)ctx->scopes[1].nodes
                                            : (uint32_t)ctx->node_count;
    }
    ctx->names[ctx->name_count++] = (ad_named){.name = own, .slot = copy.slot,
                                               .generation = copy.generation};
    record->name = (uint32_t)ctx->name_count;
    return copy;
}

ad_tensor ad_parameter(ad_context *ctx, const char *name, ad_tensor initial) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    ad_type type = ad_type_of(ctx, initial);
    if (type == AD_I32 || type == AD_U32) {
        ad_raise(ctx, "ad_parameter: '%s' has integer values, which have no gradient", name);
        return (ad_tensor){0};
    }
    return named(ctx, name ? name : "", initial, true);
}

ad_tensor ad_state(ad_context *ctx, const char *name, ad_tensor initial) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    return named(ctx, name ? name : "", initial, false);
}

const char *ad_name(ad_context *ctx, ad_tensor x) {
    if (!ctx || !x.slot || x.context != ctx || x.slot >= ctx->slots_used) return "";
    const ad_record *record = ad_record_at(ctx, x.slot);
    bool named = record->flags & AD_REC_PARAMETER && record->name;
    if (record->generation != x.generation || !named) return "";
    return ctx->names[record->name - 1].name;
}

ad_tensor ad_gradient(ad_context *ctx, ad_tensor parameter) {
    return ad_gradient_for(ctx, parameter, "ad_gradient");
}

ad_tensor ad_gradient_for(ad_context *ctx, ad_tensor parameter, const char *who) {
    ad_record *record = ad_record_of(ctx, parameter, who);
    if (!record) return (ad_tensor){0};
    if (!(record->flags & AD_REC_PARAMETER) || !(record->flags & AD_REC_TRACKED)) {
        ad_raise(ctx, "%s: the tensor is not a parameter", who);
        return (ad_tensor){0};
    }
    ad_named *entry = &ctx->names[record->name - 1];
    if (!entry->gradient) {
        char name[256];
        size_t length = strlen(entry->name);
        if (length > 240) length = 240;
        memcpy(name, entry->name, length);
        memcpy(name + length, ".gradient", 10);
        size_t index = record->name - 1;
        // Sums of gradients are kept in f32 even where the parameter is narrow.
        ad_type type = record->type == AD_F64 ? AD_F64 : AD_F32;
        ad_tensor zeros = ad_full(ctx, type, ad_shape_of(ctx, parameter), 0.0);
        ad_tensor buffer = ad_state(ctx, name, zeros);
        ad_free(ctx, zeros);
        if (!buffer.slot) return (ad_tensor){0};
        entry = &ctx->names[index];
        entry->gradient = buffer.slot, entry->gradient_generation = buffer.generation;
    }
    return (ad_tensor){entry->gradient, entry->gradient_generation, ctx};
}

void ad_assign(ad_context *ctx, ad_tensor state, ad_tensor value) {
    ad_tensor none[1];
    ad_apply(ctx, &ad_op_assign, 2, (ad_tensor[]){state, value}, NULL, none);
}

void ad_accumulate(ad_context *ctx, ad_tensor state, ad_tensor value) {
    ad_tensor none[1];
    ad_apply(ctx, &ad_op_accumulate, 2, (ad_tensor[]){state, value}, NULL, none);
}

ad_tensor ad_watch(ad_context *ctx, ad_tensor x) {
    ad_tensor leaf = ad_alias(ctx, x);
    if (!leaf.slot) return leaf;
    ad_record *record = ad_record_at(ctx, leaf.slot);
    record->flags |= AD_REC_TRACKED | AD_REC_LEAF;
    record->node = (uint32_t)ctx->node_count;
    return leaf; // with the tangent of x, if it has one: forward over reverse
}
