/* The tape: one node for each recorded operation, in the order they ran.
 *
 * A node is the operation, copies of its attributes, and the slots of what went in and out. That
 * is enough to run its rules, and to run it again (checkpoints). Operands that are parameters or
 * states carry the version they had, so that a backward pass can tell when one was overwritten. */
#include "autodiff/core.h"

#include <string.h>

bool ad_tape_record(ad_context *ctx, const ad_infer *rule, const ad_tensor *input,
                    const uint32_t *output, bool tracked) {
    const ad_op *op = rule->op;
    int inputs = rule->inputs, outputs = rule->outputs;
    bool rerun = ctx->force_record > 0; // then everything is read again
    uint32_t saved_inputs = rule->saved_inputs, saved_outputs = rule->saved_outputs;
    if (op->compose) saved_inputs = ~0u;
    if (!ad_host_reserve(ctx, &ctx->nodes, &ctx->node_capacity, ctx->node_count + 1,
                         sizeof *ctx->nodes))
        return false;
    size_t bytes = ad_node_bytes(inputs, outputs) + op->attribute_bytes;
    ad_node *node = ad_arena_allocate(ctx, bytes);
    if (!node) return false;
    *node = (ad_node){.op = op, .inputs = (uint8_t)inputs, .outputs = (uint8_t)outputs,
                      .tracked = tracked, .saved_inputs = saved_inputs,
                      .saved_outputs = (uint16_t)saved_outputs,
                      .checkpoint = (uint16_t)ctx->checkpoint,
                      .ordinal = ctx->scopes[ctx->scope_count - 1].ordinal};
    uint32_t read_inputs = rerun ? ~0u : saved_inputs, read_outputs = rerun ? ~0u : saved_outputs;
    for (int i = 0; i < inputs; i++) {
        ad_operand *operand = &ad_node_inputs(node)[i];
        *operand = (ad_operand){input[i].slot, 0};
        if (!input[i].slot) continue;
        ad_record *record = ad_record_at(ctx, input[i].slot);
        operand->version = record->storage->version;
        record->flags |= AD_REC_ON_TAPE;
        if (read_inputs >> i & 1) record->flags |= AD_REC_SAVED;
    }
    for (int i = 0; i < outputs; i++) {
        ad_record *record = ad_record_at(ctx, output[i]);
        ad_node_outputs(node)[i] = output[i];
        record->node = (uint32_t)ctx->node_count;
        record->flags |= AD_REC_ON_TAPE;
        bool real = record->type != AD_I32 && record->type != AD_U32;
        if (tracked && real) record->flags |= AD_REC_TRACKED;
        if (read_outputs >> i & 1) record->flags |= AD_REC_SAVED;
    }
    if (op->attribute_bytes)
        memcpy(ad_node_attributes(node), rule->attributes, op->attribute_bytes);
    ctx->nodes[ctx->node_count++] = node;
    return true;
}
