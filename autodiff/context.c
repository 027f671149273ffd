/* Contexts: opening and closing, the sticky first error, scopes.
 *
 * An error is kept as one sentence that says which operation failed, where in the step, inside
 * which named scopes, and why. While it stands every public function returns at once, so that a
 * long expression needs a single check. A scope is four table lengths: its end cuts the tables
 * back to them, which frees thousands of tensors with no bookkeeping of their own. */
#include "autodiff/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ad_context *ad_open(const ad_options *options) {
    ad_options given = options ? *options : (ad_options){0};
    ad_context *ctx = given.allocate ? given.allocate(given.user, sizeof *ctx)
                                     : calloc(1, sizeof *ctx);
    if (!ctx) return NULL;
    memset(ctx, 0, sizeof *ctx);
    ctx->options = given;
    ctx->scopes[0] = (ad_scope){.name = "root"};
    ctx->scope_count = 1;
    if (!ad_cpu_open(&ctx->device, ctx, given.threads)) {
        ad_close(ctx);
        return NULL;
    }
    if (given.device && strcmp(given.device, "auto") != 0 && strcmp(given.device, "cpu") != 0)
        ad_raise(ctx, "unknown device '%s': expected auto or cpu", given.device);
    return ctx;
}

void ad_close(ad_context *ctx) {
    if (!ctx) return;
    ad_optimizers_close(ctx);
    if (ctx->capture) ad_program_free(ctx->capture);
    ctx->capture = NULL;
    ad_memory_close(ctx);
    if (ctx->device.close) ctx->device.close(&ctx->device);
    if (ctx->options.release) ctx->options.release(ctx->options.user, ctx);
    else if (!ctx->options.allocate) free(ctx);
}

bool ad_failed(const ad_context *ctx) { return !ctx || ctx->failed || ctx->cancelled; }

const char *ad_error_text(const ad_context *ctx) {
    if (!ctx) return "no context: memory was lacking when it was opened";
    return ctx->failed ? ctx->error : ctx->cancelled ? "cancelled" : "";
}

void ad_error_clear(ad_context *ctx) {
    if (ctx) ctx->failed = false, ctx->cancelled = 0, ctx->error[0] = 0;
}

void ad_cancel(ad_context *ctx) {
    if (ctx) ctx->cancelled = 1;
}

int ad_threads(const ad_context *ctx) { return ctx ? ctx->options.threads : 1; }
uint64_t ad_seed(const ad_context *ctx) { return ctx ? ctx->options.seed : 0; }
const char *ad_device_name(const ad_context *ctx) { return ctx ? ctx->device.name : ""; }

// Keeps the first sentence only; appends the scopes that were open when it was said.
static void keep_error(ad_context *ctx, const char *start, const char *format,
                       va_list arguments) {
    if (!ctx || ctx->failed) return;
    ctx->failed = true;
    int at = snprintf(ctx->error, AD_ERROR_BYTES, "%s", start);
    if (at > (int)AD_ERROR_BYTES / 2) at = AD_ERROR_BYTES / 2;
    vsnprintf(ctx->error + at, (size_t)(AD_ERROR_BYTES - at), format, arguments);
    size_t used = strlen(ctx->error);
    for (int i = 1; i < ctx->scope_count && used + 8 < AD_ERROR_BYTES; i++)
        used += (size_t)snprintf(ctx->error + used, AD_ERROR_BYTES - used, "%s%s%s",
                                 i == 1 ? " [in " : " > ", ctx->scopes[i].name,
                                 i == ctx->scope_count - 1 ? "]" : "");
    if (ctx->options.on_error) ctx->options.on_error(ctx->options.user, ctx->error);
}

void ad_raise(ad_context *ctx, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    keep_error(ctx, "", format, arguments);
    va_end(arguments);
}

void ad_raise_op(ad_context *ctx, const ad_op *op, const char *format, ...) {
    char start[160];
    if (!ctx) return;
    snprintf(start, sizeof start, "%s (operation %u): ", op->name,
             ctx->scopes[ctx->scope_count - 1].ordinal);
    va_list arguments;
    va_start(arguments, format);
    keep_error(ctx, start, format, arguments);
    va_end(arguments);
}

void ad_infer_fail(ad_infer *call, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ad_raise_op(call->ctx, call->op, "%s", text);
}

void ad_scope_begin(ad_context *ctx, const char *name) {
    // Scopes are counted even in a failed context, so that begin and end stay paired.
    if (!ctx) return;
    if (ctx->scope_count == AD_SCOPES_MAX) {
        ad_raise(ctx, "more than %d scopes inside one another: is an ad_scope_end missing?",
                 AD_SCOPES_MAX);
        return;
    }
    ctx->scopes[ctx->scope_count++] = (ad_scope){
        .name = name ? name : "scope", .owned = ctx->owned_count, .nodes = ctx->node_count,
        .arena_chunk = ctx->arena.chunk, .arena_used = ctx->arena.used, .no_grad = ctx->no_grad};
}

void ad_scope_end(ad_context *ctx) {
    if (!ctx) return;
    if (ctx->scope_count <= 1) {
        ad_raise(ctx, "ad_scope_end without a scope");
        return;
    }
    ad_scope scope = ctx->scopes[ctx->scope_count - 1];
    if (ctx->checkpoint && ctx->checkpoint_scope == ctx->scope_count)
        ctx->checkpoint = 0, ctx->force_record = 0;
    ctx->node_count = scope.nodes;
    ad_owned_cut(ctx, scope.owned);
    ctx->arena.chunk = scope.arena_chunk, ctx->arena.used = scope.arena_used;
    memset(ctx->layouts, 0, sizeof ctx->layouts);
    ctx->no_grad = scope.no_grad;
    ctx->scope_count--;
    if (ctx->closed_count && ctx->node_count == 0) ad_closed_sweep(ctx);
}

void ad_no_grad_begin(ad_context *ctx) {
    if (ctx) ctx->no_grad++;
}

void ad_no_grad_end(ad_context *ctx) {
    if (!ctx) return;
    if (ctx->no_grad == 0) ad_raise(ctx, "ad_no_grad_end without ad_no_grad_begin");
    else ctx->no_grad--;
}
