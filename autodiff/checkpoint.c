/* Checkpoint scopes: keep the nodes, drop the bytes, make them again when a rule asks.
 *
 * Inside such a scope every operation is recorded, tracked or not. At its end the bytes of all it
 * made are dropped, except what was kept. When the backward pass meets a node whose operands are
 * gone, the nodes of its scope run again in order, up to the node being differentiated: the same
 * kernels on the same operands, random numbers included, hence the same bits. */
#include "autodiff/core.h"

void ad_checkpoint_begin(ad_context *ctx) {
    if (!ad_ready(ctx)) return;
    if (ctx->checkpoint) {
        ad_raise(ctx, "ad_checkpoint_begin: checkpoint scopes do not nest");
        return;
    }
    if (ctx->checkpoint_count == UINT16_MAX - 1) ctx->checkpoint_count = 0;
    ctx->checkpoint = ++ctx->checkpoint_count;
    ctx->checkpoint_node = ctx->node_count;
    ctx->checkpoint_owned = ctx->owned_count;
    ctx->checkpoint_scope = ctx->scope_count;
    ctx->force_record++;
}

void ad_checkpoint_end(ad_context *ctx) {
    if (!ctx || (!ctx->checkpoint && ctx->failed)) return;
    if (!ctx->checkpoint) {
        ad_raise(ctx, "ad_checkpoint_end without ad_checkpoint_begin");
        return;
    }
    for (size_t i = ctx->checkpoint_owned; i < ctx->owned_count; i++) {
        ad_record *record = ad_record_at(ctx, ctx->owned[i].slot);
        if (record->generation != ctx->owned[i].generation) continue;
        bool made_here = record->node != AD_NO_NODE && record->node >= ctx->checkpoint_node
                      && !(record->flags & (AD_REC_LEAF | AD_REC_PARAMETER));
        if (made_here && !(record->flags & AD_REC_KEPT) && record->storage)
            ad_drop_bytes(ctx, record);
        record->flags &= (uint16_t)~AD_REC_KEPT;
    }
    for (size_t i = ctx->checkpoint_node; i < ctx->node_count; i++)
        if (ctx->nodes[i]->op->flags & AD_OP_STATEFUL)
            ad_raise_op(ctx, ctx->nodes[i]->op, "it writes a state, so it cannot run twice inside "
                        "a checkpoint scope");
    ctx->checkpoint = 0;
    ctx->force_record--;
}

bool ad_checkpoint_restore(ad_context *ctx, uint32_t checkpoint, size_t last) {
    for (size_t i = 0; i < last && !ctx->failed; i++) {
        ad_node *node = ctx->nodes[i];
        if (node->checkpoint != checkpoint) continue;
        bool missing = false;
        for (int j = 0; j < node->outputs; j++)
            missing |= !ad_record_at(ctx, ad_node_outputs(node)[j])->storage;
        if (missing && !ad_node_rerun(ctx, node)) return false;
    }
    return !ctx->failed;
}
