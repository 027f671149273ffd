/* Applying an operation: check, infer, allocate, launch, record, push tangents forward.
 *
 * Every operation, the core's and the user's, goes through ad_apply. What a step costs besides its
 * kernel is most of the time of a small one, so the usual path calls little and clears nothing
 * that it will not use. */
#include "autodiff/core.h"

#include <math.h>
#include <string.h>

// The first number that is not finite, or -1. Reads through the device.
static int64_t first_bad_number(ad_context *ctx, const ad_view *view) {
    int64_t count = ad_view_count(view);
    if (view->type != AD_F32 && view->type != AD_F64) return -1;
    size_t element = ad_type_bytes(view->type);
    char block[4096];
    for (int64_t at = 0; at < count;) {
        int64_t take = (int64_t)(sizeof block / element);
        if (take > count - at) take = count - at;
        ctx->device.read(&ctx->device, block, (char *)view->data + at * (int64_t)element,
                         (size_t)take * element);
        for (int64_t i = 0; i < take; i++) {
            double value = element == 4 ? ((float *)block)[i] : ((double *)block)[i];
            if (!isfinite(value)) return at + i;
        }
        at += take;
    }
    return -1;
}

typedef struct call {
    const ad_op *op;
    int inputs, outputs;
    const ad_tensor *input;
    const void *attributes;
    unsigned flags, types;  // of all operands: AD_REC_..., 1 << type
    bool tangent, strided;  // an operand has a tangent, a layout
    ad_view in[AD_INPUTS_MAX], out[AD_OUTPUTS_MAX];
    ad_storage *in_storage[AD_INPUTS_MAX], *out_storage[AD_OUTPUTS_MAX];
    uint32_t slot[AD_OUTPUTS_MAX];
    bool in_place;          // the result takes operand 0's record
} call;

enum { NARROW_TYPES = 1 << AD_F16 | 1 << AD_BF16 };

// Step 1: every operand is alive, ours, and there where it must be.
static bool check_operands(ad_context *ctx, call *c) {
    const ad_op *op = c->op;
    if (c->inputs < op->inputs_min || c->inputs > op->inputs_max || c->inputs > AD_INPUTS_MAX) {
        ad_raise_op(ctx, op, "%d operands given, %d to %d expected", c->inputs, op->inputs_min,
                    op->inputs_max);
        return false;
    }
    unsigned flags = 0, types = 0;
    bool tangent = false, strided = false;
    for (int i = 0; i < c->inputs; i++) {
        if (!c->input[i].slot && op->optional >> i & 1) {
            c->in[i].data = NULL, c->in[i].rank = -1, c->in[i].type = AD_F32;
            c->in_storage[i] = NULL;
            continue;
        }
        const ad_record *record = ad_record_of(ctx, c->input[i], op->name);
        if (!record) return false;
        ad_record_view(record, &c->in[i]);
        c->in_storage[i] = record->storage;
        flags |= record->flags, types |= 1u << record->type;
        tangent |= record->tangent != 0, strided |= record->layout != NULL;
        if (op->writes >> i & 1 && !(record->flags & AD_REC_PARAMETER)) {
            ad_raise_op(ctx, op, "operand %d is written but is neither a parameter nor a state", i);
            return false;
        }
    }
    c->flags = flags, c->types = types, c->tangent = tangent, c->strided = strided;
    return true;
}

// Step 2: shapes and types of the outputs, as the operation's own rule has it.
__attribute__((always_inline)) static inline bool infer(ad_context *ctx, call *c, ad_infer *rule) {
    *rule = (ad_infer){.ctx = ctx, .op = c->op, .attributes = c->attributes, .inputs = c->inputs,
                       .outputs = c->op->outputs, .input = c->in, .output = c->out,
                       .saved_inputs = ~0u, .saved_outputs = ~0u};
    c->op->infer(rule);
    if (ctx->failed) return false;
    c->outputs = rule->outputs;
    bool view = c->op->flags & AD_OP_VIEW;
    for (int i = 0; i < c->outputs; i++) {
        ad_view *y = &c->out[i];
        int64_t count = 1;
        for (int j = y->rank - 1; j >= 0; j--) {
            int64_t size = y->size[j];
            if (!view) y->stride[j] = count;
            if (size < 0 || size > INT32_MAX || __builtin_mul_overflow(count, size, &count)
                || count > INT64_MAX / 16) {
                ad_raise_op(ctx, c->op, "axis %d of the result would have the size %lld", j,
                            (long long)size);
                return false;
            }
        }
        c->types |= 1u << y->type;
        if (i == 0) rule->count = count;
    }
    return true;
}

// Where a view begins in its storage, in elements; -1 where a record cannot say so.
static int64_t view_start(ad_context *ctx, const call *c, const ad_infer *rule) {
    const ad_record *base = ad_record_at(ctx, c->input[0].slot);
    int64_t start = (base->layout ? base->offset : 0) + rule->view_offset;
    return rule->view_offset < 0 || start > UINT32_MAX ? -1 : start;
}

// Shares the first operand's bytes. One that is contiguous from the start needs no layout.
static bool share_bytes(ad_context *ctx, call *c, const ad_infer *rule, ad_record *record) {
    ad_view *y = &c->out[0];
    int64_t start = view_start(ctx, c, rule);
    record->storage = c->in_storage[0];
    record->storage->references++;
    if (start == 0 && ad_view_contiguous(y)) return true;
    for (int i = y->rank; i < AD_RANK_MAX; i++) y->stride[i] = 0;
    record->layout = ad_layout_share(ctx, y->stride), record->offset = (uint32_t)start;
    return record->layout;
}

// Whether the result may go where operand 0 lies: a spent cotangent of the result's type and shape.
static bool takes_over(ad_context *ctx, const call *c, bool tracked) {
    if (!c->inputs || c->input[0].slot != ctx->spent) return false;
    ctx->spent = 0;
    return c->op->flags & AD_OP_IN_PLACE && !tracked && !ctx->force_record && !c->strided
        && c->out[0].type == c->in[0].type && !(c->types & NARROW_TYPES)
        && ad_view_same_shape(&c->in[0], &c->out[0]);
}

// Step 3: records for the outputs; bytes of their own, or a view of the first operand's.
static bool allocate(ad_context *ctx, call *c, const ad_infer *rule) {
    if (c->in_place) {
        c->slot[0] = c->input[0].slot;
        c->out[0].data = c->in[0].data, c->out_storage[0] = c->in_storage[0];
        return true;
    }
    for (int i = 0; i < c->outputs; i++) {
        const ad_view *y = &c->out[i];
        ad_record *record = ad_record_new(ctx, y->type, y->rank, y->size, &c->slot[i]);
        if (!record) return false;
        if (!(c->op->flags & AD_OP_VIEW ? share_bytes(ctx, c, rule, record)
                                        : ad_record_allocate(ctx, record)))
            return false;
        c->out[i].data = record->storage->data;
        c->out_storage[i] = record->storage;
    }
    return true;
}

// Step 5: tangents of the outputs from tangents of the inputs. Inside a rule none are made.
static bool push_tangents(ad_context *ctx, call *c, const ad_tensor *output) {
    ad_tensor dx[AD_INPUTS_MAX], dy[AD_OUTPUTS_MAX] = {{0}};
    for (int i = 0; i < c->inputs; i++) {
        uint32_t tangent = c->input[i].slot ? ad_record_at(ctx, c->input[i].slot)->tangent : 0;
        dx[i] = tangent ? ad_handle(ctx, tangent) : (ad_tensor){0};
    }
    ctx->quiet++;
    if (c->op->jvp) {
        ad_jvp rule = {.ctx = ctx, .op = c->op, .attributes = c->attributes, .inputs = c->inputs,
                       .outputs = c->outputs, .input = c->input, .output = output, .dx = dx,
                       .dy = dy};
        c->op->jvp(&rule);
    } else if (c->op->flags & AD_OP_LINEAR) {
        // The operation itself, on tangents in the place of float operands.
        ad_tensor in[AD_INPUTS_MAX];
        for (int i = 0; i < c->inputs; i++) {
            bool real = c->input[i].slot && c->in[i].type != AD_I32 && c->in[i].type != AD_U32;
            in[i] = !real ? c->input[i] : dx[i].slot ? dx[i] : ad_zeros_like(ctx, c->input[i]);
        }
        ad_apply(ctx, c->op, c->inputs, in, c->attributes, dy);
    } else {
        ad_raise_op(ctx, c->op, "it has no forward-mode rule (jvp)");
    }
    ctx->quiet--;
    if (ctx->failed) return false;
    for (int i = 0; i < c->outputs; i++) {
        if (!dy[i].slot) continue;
        ad_record *tangent = ad_record_of(ctx, dy[i], c->op->name);
        ad_view view;
        if (!tangent) return false;
        ad_record_view(tangent, &view);
        if (!ad_view_same_shape(&view, &c->out[i])) {
            ad_raise_op(ctx, c->op, "its jvp gave a tangent of another shape than its output");
            return false;
        }
        ad_record_at(ctx, output[i].slot)->tangent = dy[i].slot;
        tangent->flags |= AD_REC_TANGENT;
        ctx->dual_count++;
    }
    return true;
}

// Asked for: the first operation that makes a NaN or an infinity is the error.
static bool check_numbers(ad_context *ctx, const call *c) {
    for (int i = 0; i < c->outputs; i++) {
        int64_t bad = c->op->flags & AD_OP_VIEW ? -1 : first_bad_number(ctx, &c->out[i]);
        if (bad < 0) continue;
        char text[160];
        ad_view_text(&c->out[i], text, sizeof text);
        ad_raise_op(ctx, c->op, "first made a number that is not finite: element %lld of output "
                    "%d, %s", (long long)bad, i, text);
        return false;
    }
    return true;
}

// Step 4: the kernel runs.
static bool launch(ad_context *ctx, call *c, const ad_infer *rule) {
    const ad_op *op = c->op;
    if (!(op->flags & AD_OP_VIEW)) {
        ad_launch job = {.op = op, .attributes = c->attributes, .inputs = c->inputs,
                         .outputs = c->outputs, .input = c->in, .output = c->out};
        bool plain = !c->strided && !(c->types & NARROW_TYPES);
        if (!(plain ? ad_run_plain : ad_run)(ctx, &job, rule->workspace, c->in_storage,
                                             c->out_storage)) {
            ad_raise_op(ctx, op, "the kernel could not be run");
            return false;
        }
    }
    if (op->cost) {
        double flops = 0, bytes = 0;
        op->cost(rule, &flops, &bytes);
        ctx->flops += flops;
    }
    // Writes bump the version that saved operands remember.
    for (int i = 0; op->writes >> i && i < c->inputs; i++)
        if (op->writes >> i & 1 && c->in_storage[i]) c->in_storage[i]->version++;
    return !ctx->options.check_numbers || check_numbers(ctx, c);
}

static bool composed(ad_context *ctx, call *c, ad_tensor *output) {
    ad_vjp given = {.ctx = ctx, .op = c->op, .attributes = c->attributes, .inputs = c->inputs,
                    .outputs = c->op->outputs, .input = c->input};
    c->op->compose(ctx, &given, output);
    return !ctx->failed;
}

bool ad_apply(ad_context *ctx, const ad_op *op, int inputs, const ad_tensor *input,
              const void *attributes, ad_tensor *output) {
    for (int i = 0; i < op->outputs; i++) output[i] = (ad_tensor){0};
    if (!ad_ready(ctx)) return false;
    ctx->scopes[ctx->scope_count - 1].ordinal++;
    call c;
    c.op = op, c.inputs = inputs, c.input = input, c.attributes = attributes;
    if (!check_operands(ctx, &c)) return false;
    bool grad = !(op->flags & AD_OP_NO_GRADIENT), f64 = c.types >> AD_F64 & 1;
    bool dual = c.tangent && grad && !ctx->quiet;
    if (op->compose && (!op->cpu || f64 || dual)) {
        ctx->spent = 0; // several operations read it
        return composed(ctx, &c, output);
    }
    bool tracked = c.flags & AD_REC_TRACKED && grad && !ctx->no_grad;
    if (tracked && c.flags & AD_REC_SEVERED) {
        ad_raise_op(ctx, op, "an operand lost its history at the end of its scope, so no gradient "
                    "would reach what made it; if that is meant, pass it through ad_stop_gradient");
        return false;
    }
    ad_infer rule;
    if (!infer(ctx, &c, &rule)) return false;
    ad_tensor packed;
    if (op->flags & AD_OP_VIEW && view_start(ctx, &c, &rule) < 0) { // no such view exists
        packed = ad_contiguous(ctx, input[0]);
        if (!packed.slot) return false;
        c.input = &packed;
        ad_record_view(ad_record_at(ctx, packed.slot), &c.in[0]);
        c.in_storage[0] = ad_record_at(ctx, packed.slot)->storage;
        if (!infer(ctx, &c, &rule)) return false;
    }
    c.in_place = ctx->spent && takes_over(ctx, &c, tracked);
    if (!allocate(ctx, &c, &rule) || !launch(ctx, &c, &rule)) return false;
    if ((tracked || ctx->force_record) && !ad_tape_record(ctx, &rule, c.input, c.slot, tracked))
        return false;
    for (int i = 0; i < c.outputs; i++) output[i] = ad_handle(ctx, c.slot[i]);
    return !dual || push_tangents(ctx, &c, output);
}

ad_tensor ad_apply1(ad_context *ctx, const ad_op *op, int inputs, const ad_tensor *input,
                    const void *attributes) {
    ad_tensor output[AD_OUTPUTS_MAX];
    output[0] = (ad_tensor){0};
    ad_apply(ctx, op, inputs, input, attributes, output);
    return output[0];
}

bool ad_node_rerun(ad_context *ctx, ad_node *node) {
    ad_operand *operand = ad_node_inputs(node);
    ad_tensor input[AD_INPUTS_MAX];
    call c = {.op = node->op, .inputs = node->inputs, .attributes = ad_node_attributes(node)};
    for (int i = 0; i < node->inputs; i++) {
        c.in[i].rank = -1, c.in[i].data = NULL, c.in_storage[i] = NULL;
        input[i] = operand[i].slot ? ad_handle(ctx, operand[i].slot) : (ad_tensor){0};
        if (!operand[i].slot) continue;
        ad_record *record = ad_record_at(ctx, operand[i].slot);
        if (!record->storage) {
            ad_raise_op(ctx, node->op, "what it needs to be run again was given back");
            return false;
        }
        if (record->storage->version != operand[i].version) {
            ad_raise_op(ctx, node->op, "its operand %d was written after the checkpoint scope ran",
                        i);
            return false;
        }
        ad_record_view(record, &c.in[i]);
        c.in_storage[i] = record->storage;
    }
    c.input = input;
    ad_infer rule;
    if (!infer(ctx, &c, &rule)) return false;
    for (int i = 0; i < c.outputs; i++) {
        ad_record *record = ad_record_at(ctx, ad_node_outputs(node)[i]);
        if (node->op->flags & AD_OP_VIEW) {
            if (!record->storage) record->storage = c.in_storage[0], record->storage->references++;
        } else if (!record->storage && !ad_record_allocate(ctx, record)) {
            return false;
        }
        record->flags &= (uint16_t)~AD_REC_RELEASED;
        c.out[i].data = record->storage->data, c.out_storage[i] = record->storage;
    }
    ad_launch job = {.op = c.op, .attributes = c.attributes, .inputs = c.inputs,
                     .outputs = c.outputs, .input = c.in, .output = c.out};
    return c.op->flags & AD_OP_VIEW
        || ad_run(ctx, &job, rule.workspace, c.in_storage, c.out_storage);
}
