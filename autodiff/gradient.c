/* Reverse mode: walk the tape backwards, from cotangents of outputs to cotangents of inputs.
 *
 * First a forward sweep marks the nodes between the wanted tensors and y, so that nothing else is
 * differentiated. Then each marked node, last to first, turns the cotangents of its outputs into
 * those of its inputs by its operation's rule. There are three ways to run a rule: `vjp`, written
 * in public operations and therefore differentiable again; `vjp_fused`, a kernel, for first order
 * in narrow types; and, for a fused operation whose gradient is itself differentiated, the
 * composition of public operations that it stands for, run again and walked by a nested sweep.
 *
 * Invariant: while recording is off, each pending cotangent owns its record, so that its bytes go
 * back to the pool as soon as it has been used, sums of cotangents are made in place, and a rule
 * may write over a cotangent that ends with it (ad_spend). */
#include "autodiff/core.h"

#include <string.h>

typedef struct sweep {
    ad_context *ctx;
    size_t first, last;       // nodes first ... last-1 are looked at
    uint32_t depth;           // tag of this sweep's marks
    unsigned flags;
    bool accumulate;          // into the parameters' gradient buffers
    bool own;                 // cotangents are ours to free: nothing is recorded
    int n;
    const ad_tensor *xs;
    ad_tensor *dxs;           // accumulate: unused
    uint8_t *reach;           // per node: it lies between xs and y
    uint32_t *base;           // per node: index of its first output's cotangent
    ad_tensor *pending;       // cotangents of node outputs
} sweep;

enum { MARK_BITS = 24 };

static int wanted_index(const sweep *s, const ad_record *record) {
    return record->mark >> MARK_BITS == s->depth ? (int)(record->mark & ((1u << MARK_BITS) - 1)) - 1
                                                 : -1;
}

// What a cotangent of this tensor is good for.
typedef struct place {
    int index;                // of the wanted tensor that it is; -1
    bool inner;               // made by a node that lies between xs and y
} place;

static place place_of(const sweep *s, const ad_record *record) {
    bool derived = (record->flags & (AD_REC_TRACKED | AD_REC_LEAF)) == AD_REC_TRACKED;
    size_t node = (size_t)record->node - s->first; // huge where it is none, or before the first
    return (place){wanted_index(s, record),
                   derived && node < s->last - s->first && s->reach[node]};
}

// The forward sweep: which nodes derive from xs.
static size_t mark_nodes(sweep *s) {
    ad_context *ctx = s->ctx;
    size_t outputs = 0;
    for (size_t i = s->first; i < s->last; i++) {
        ad_node *node = ctx->nodes[i];
        const ad_operand *operand = ad_node_inputs(node);
        bool reach = false;
        for (int j = 0; node->tracked && j < node->inputs && !reach; j++) {
            if (!operand[j].slot) continue;
            place at = place_of(s, ad_record_at(ctx, operand[j].slot));
            reach = at.index >= 0 || at.inner;
        }
        s->reach[i - s->first] = reach;
        s->base[i - s->first] = (uint32_t)outputs;
        outputs += node->outputs;
    }
    return outputs;
}

// Ends a cotangent that is ours. Tangents may be anywhere: then everything waits for its scope.
static void end_cotangent(const sweep *s, ad_tensor x) {
    ad_context *ctx = s->ctx;
    if (!s->own || ctx->dual_count || !x.slot) return;
    if (ad_record_at(ctx, x.slot)->flags & (AD_REC_ON_TAPE | AD_REC_TANGENT)) ad_free(ctx, x);
    else ad_record_free(ctx, x.slot);
}

// sum += term, taking over term's record when we own it.
static void add_cotangent(sweep *s, ad_tensor *sum, ad_tensor term) {
    ad_context *ctx = s->ctx;
    if (!sum->slot) {
        *sum = term;
        return;
    }
    ad_record *total = ad_record_at(ctx, sum->slot);
    if (s->own && !ctx->dual_count && total->storage->references == 1 && !total->layout
        && !(total->flags & (AD_REC_PARAMETER | AD_REC_ON_TAPE))
        && !ad_type_is_narrow((ad_type)total->type)) {
        // In place: the sum is nobody else's. Same bits as an addition into fresh memory.
        ad_view view[2];
        ad_storage *storage[2] = {total->storage, ad_record_at(ctx, term.slot)->storage};
        ad_record_view(total, &view[0]);
        ad_record_view(ad_record_at(ctx, term.slot), &view[1]);
        ad_launch add = {.op = &ad_op_add, .inputs = 2, .outputs = 1, .input = view,
                         .output = view};
        ad_run(ctx, &add, 0, storage, storage);
        ad_record_free(ctx, term.slot);
        return;
    }
    ad_tensor fresh = ad_add(ctx, *sum, term);
    end_cotangent(s, *sum), end_cotangent(s, term);
    *sum = fresh;
}

// Where a wanted or inner cotangent goes: a result, a gradient buffer, a pending cotangent.
__attribute__((always_inline)) static inline void deliver(sweep *s, uint32_t slot,
                                                          const ad_record *record, place at,
                                                          ad_tensor dx) {
    ad_context *ctx = s->ctx;
    if (at.index >= 0 && s->accumulate) {
        ad_accumulate(ctx, ad_gradient(ctx, s->xs[at.index]), dx);
        end_cotangent(s, dx);
        return;
    }
    if (at.index >= 0) {
        ad_tensor mine = at.inner && s->own ? ad_alias(ctx, dx) : dx;
        add_cotangent(s, &s->dxs[at.index], mine);
    }
    if (at.inner) {
        const uint32_t *output = ad_node_outputs(ctx->nodes[record->node]);
        ad_tensor *sum = &s->pending[s->base[record->node - s->first]];
        while (*output++ != slot) sum++;
        if (sum->slot) add_cotangent(s, sum, dx);
        else *sum = dx;
    } else if (at.index < 0) {
        end_cotangent(s, dx);
    }
}

// A rule may not read what was overwritten or given back.
static bool check_saved(sweep *s, ad_node *node) {
    ad_context *ctx = s->ctx;
    const ad_operand *operand = ad_node_inputs(node);
    bool missing = false;
    if (!node->saved_inputs && !node->saved_outputs) return true;
    for (int i = 0; i < node->inputs; i++) {
        if (!operand[i].slot || !(node->saved_inputs >> i & 1)) continue;
        const ad_record *record = ad_record_at(ctx, operand[i].slot);
        missing |= !record->storage;
        if (record->storage && record->storage->version != operand[i].version) {
            const char *name = ad_name(ctx, ad_handle(ctx, operand[i].slot));
            ad_raise_op(ctx, node->op, "its operand %d%s%s was overwritten after operation %u of "
                        "the forward pass had read it: take the gradient first, or make a copy", i,
                        *name ? ", " : "", name, node->ordinal);
            return false;
        }
    }
    for (int i = 0; i < node->outputs; i++)
        if (node->saved_outputs >> i & 1)
            missing |= !ad_record_at(ctx, ad_node_outputs(node)[i])->storage;
    if (!missing) return true;
    if (node->checkpoint) return ad_checkpoint_restore(ctx, node->checkpoint, s->last);
    ad_raise_op(ctx, node->op, "what its rule needs was given back by an earlier backward pass: "
                "pass AD_GRAD_KEEP to that one, or ad_grad without AD_GRAD_RELEASE");
    return false;
}

// The rule of a fused operation by its composition: run it again on leaves, sweep over that.
static void vjp_composed(sweep *s, ad_vjp *rule) {
    ad_context *ctx = s->ctx;
    bool record = s->flags & AD_GRAD_RECORD;
    ad_tensor leaf[AD_INPUTS_MAX], output[AD_OUTPUTS_MAX] = {{0}}, want[AD_INPUTS_MAX];
    ad_tensor dx[AD_INPUTS_MAX];
    int no_grad = ctx->no_grad, n = 0;
    size_t nodes = ctx->node_count;
    ctx->no_grad = 0;
    for (int i = 0; i < rule->inputs; i++) {
        leaf[i] = rule->input[i];
        if (!(rule->wanted >> i & 1)) continue;
        leaf[i] = record ? ad_apply1(ctx, &ad_op_identity, 1, &rule->input[i], NULL)
                         : ad_watch(ctx, rule->input[i]);
        want[n++] = leaf[i];
    }
    ad_vjp given = *rule;
    given.input = leaf;
    rule->op->compose(ctx, &given, output);
    ctx->no_grad = no_grad;
    ad_grad_many(ctx, rule->outputs, output, rule->dy, n, want, dx, false,
                 s->flags & AD_GRAD_RECORD);
    if (!record) ctx->node_count = nodes;
    n = 0;
    for (int i = 0; i < rule->inputs; i++)
        if (rule->wanted >> i & 1) rule->dx[i] = dx[n++];
}

// Whether a first-order kernel will do: nothing is f64, nothing is differentiated further.
static bool is_first_order(const sweep *s, const ad_vjp *rule) {
    bool plain = !(s->flags & AD_GRAD_RECORD);
    for (int i = 0; i < rule->inputs && plain; i++)
        if (rule->input[i].slot) {
            const ad_record *record = ad_record_at(s->ctx, rule->input[i].slot);
            plain = record->type != AD_F64 && !record->tangent;
        }
    for (int i = 0; i < rule->outputs && plain; i++)
        if (rule->dy[i].slot) plain = !ad_record_at(s->ctx, rule->dy[i].slot)->tangent;
    return plain;
}

static void run_fused(sweep *s, ad_vjp *rule) {
    const ad_op *op = rule->op;
    if (op->vjp_fused && is_first_order(s, rule)) op->vjp_fused(rule);
    else if (op->compose) vjp_composed(s, rule);
    else if (op->vjp) op->vjp(rule);
    else ad_raise_op(s->ctx, op, "it has no gradient rule (vjp)");
}

__attribute__((cold)) static bool wrong_shape(ad_context *ctx, const ad_op *op, int i,
                                              const ad_record *dx, const ad_record *x) {
    ad_view a, b;
    char given[160], expected[160];
    ad_record_view(dx, &a), ad_record_view(x, &b);
    ad_view_text(&a, given, sizeof given), ad_view_text(&b, expected, sizeof expected);
    ad_raise_op(ctx, op, "its vjp gave %s for operand %d of %s", given, i, expected);
    return false;
}

// Takes a rule's result over: same shape as the operand, and a record that is ours alone. Counts
// the results among what the rule made.
static bool adopt(sweep *s, ad_vjp *rule, int i, const ad_record *x, size_t mark, ad_tensor *dy,
                  size_t *made) {
    ad_context *ctx = s->ctx;
    ad_tensor given = rule->dx[i];
    const ad_record *dx = ad_record_of(ctx, given, rule->op->name);
    if (!dx) return false;
    if (!ad_record_same_shape(dx, x)) return wrong_shape(ctx, rule->op, i, dx, x);
    if (!s->own) return true;
    // Handed out before? Made by this rule? The cotangent itself, passed on? Else share its bytes.
    bool ours = true, fresh = false;
    for (int j = 0; j < i && ours; j++) ours = rule->dx[j].slot != given.slot;
    for (size_t j = mark; j < ctx->owned_count && ours && !fresh; j++)
        fresh = ctx->owned[j].slot == given.slot && ctx->owned[j].generation == given.generation;
    for (int j = 0; j < rule->outputs && ours && !fresh && !ctx->dual_count; j++)
        if (dy[j].slot == given.slot) {
            dy[j] = (ad_tensor){0}; // moved
            return true;
        }
    if (!fresh) rule->dx[i] = ad_alias(ctx, given);
    ++*made;
    return rule->dx[i].slot;
}

// Ends what a rule made on the way, all but its results.
static void end_temporaries(sweep *s, const ad_vjp *rule, size_t results, size_t mark) {
    ad_context *ctx = s->ctx;
    if (!s->own || ctx->dual_count || ctx->owned_count == mark + results) return;
    size_t left = mark;
    for (size_t j = mark; j < ctx->owned_count; j++) {
        ad_owned owned = ctx->owned[j];
        ad_record *record = ad_record_at(ctx, owned.slot);
        if (record->generation != owned.generation) continue;
        bool result = record->flags & AD_REC_KEPT;
        for (int i = 0; i < rule->inputs && !result; i++) result = rule->dx[i].slot == owned.slot;
        if (result) ctx->owned[left++] = owned;
        else ad_record_free(ctx, owned.slot);
    }
    ctx->owned_count = left;
}

// Rules may read operands whose handles the user has ended: opens those, and closes them again.
static void open_handles(ad_context *ctx, ad_node *node, bool *closed, bool open) {
    for (int i = 0; i < node->inputs + node->outputs; i++) {
        uint32_t slot = i < node->inputs ? ad_node_inputs(node)[i].slot
                                         : ad_node_outputs(node)[i - node->inputs];
        ad_record *record = ad_record_at(ctx, slot);
        if (open) {
            closed[i] = slot && record->flags & AD_REC_CLOSED;
            if (closed[i]) record->flags &= (uint16_t)~AD_REC_CLOSED;
        } else if (closed[i]) {
            record->flags |= AD_REC_CLOSED;
        }
    }
}

// The slot of a cotangent that is ours alone and ends with the rule about to run; 0.
static uint32_t spare_slot(const sweep *s, const ad_node *node, const ad_tensor *dy) {
    const ad_context *ctx = s->ctx;
    if (!s->own || ctx->dual_count || node->outputs != 1) return 0;
    const ad_record *record = ad_record_at(ctx, dy->slot);
    bool alone = record->storage->references == 1 && !record->layout
              && !(record->flags & (AD_REC_PARAMETER | AD_REC_ON_TAPE | AD_REC_KEPT));
    return alone ? dy->slot : 0;
}

static bool step_back(sweep *s, ad_node *node, ad_tensor *dy) {
    ad_context *ctx = s->ctx;
    if (!check_saved(s, node)) return false;
    ad_tensor input[AD_INPUTS_MAX], output[AD_OUTPUTS_MAX];
    ad_tensor dx[AD_INPUTS_MAX], target[AD_INPUTS_MAX];
    const ad_record *x[AD_INPUTS_MAX];
    place at[AD_INPUTS_MAX];
    ad_vjp rule = {.ctx = ctx, .op = node->op, .attributes = ad_node_attributes(node),
                   .inputs = node->inputs, .outputs = node->outputs, .input = input,
                   .output = output, .dy = dy, .dx = dx, .target = target};
    for (int i = 0; i < node->inputs; i++) {
        uint32_t slot = ad_node_inputs(node)[i].slot;
        dx[i] = target[i] = input[i] = (ad_tensor){0};
        if (!slot) continue;
        const ad_record *record = x[i] = ad_record_at(ctx, slot);
        input[i] = ad_handle(ctx, slot);
        at[i] = place_of(s, record);
        if (at[i].index < 0 && !at[i].inner) continue;
        rule.wanted |= 1u << i;
        if (s->accumulate && at[i].index >= 0) target[i] = ad_gradient(ctx, s->xs[at[i].index]);
    }
    for (int i = 0; i < node->outputs; i++) output[i] = ad_handle(ctx, ad_node_outputs(node)[i]);
    size_t mark = ctx->owned_count;
    bool closed[AD_INPUTS_MAX + AD_OUTPUTS_MAX], any_closed = ctx->closed_count;
    if (any_closed) open_handles(ctx, node, closed, true);
    if (node->op->vjp && !node->op->vjp_fused && !node->op->compose) {
        uint32_t spare = ctx->spare; // a rule may run sweeps of its own
        ctx->spare = spare_slot(s, node, dy), ctx->spent = 0;
        node->op->vjp(&rule);
        ctx->spare = spare, ctx->spent = 0;
    } else {
        run_fused(s, &rule);
    }
    if (any_closed) open_handles(ctx, node, closed, false);
    if (ctx->failed) return false;
    size_t results = 0;
    for (int i = 0; i < rule.inputs; i++) {
        if (!(rule.wanted >> i & 1) || rule.done >> i & 1) dx[i] = (ad_tensor){0};
        if (!dx[i].slot) continue;
        if (!adopt(s, &rule, i, x[i], mark, dy, &results)) return false;
    }
    end_temporaries(s, &rule, results, mark);
    for (int i = 0; i < rule.inputs && !ctx->failed; i++)
        if (dx[i].slot) deliver(s, input[i].slot, x[i], at[i], dx[i]);
    return !ctx->failed;
}

// After a node's rule ran: its pending cotangents, and its outputs' bytes where asked.
static void let_go(sweep *s, ad_node *node, ad_tensor *dy, const ad_tensor *y, int ys) {
    ad_context *ctx = s->ctx;
    for (int i = 0; i < node->outputs; i++) {
        end_cotangent(s, dy[i]);
        dy[i] = (ad_tensor){0};
        if (!(s->flags & AD_GRAD_RELEASE)) continue;
        ad_record *record = ad_record_at(ctx, ad_node_outputs(node)[i]);
        bool keep = record->flags & (AD_REC_KEPT | AD_REC_PARAMETER) || !record->storage
                 || wanted_index(s, record) >= 0;
        for (int j = 0; j < ys && !keep; j++) keep = y[j].slot == ad_node_outputs(node)[i];
        if (!keep) ad_drop_bytes(ctx, record);
    }
}

// The range of nodes between the oldest wanted tensor and the youngest y.
static bool find_range(sweep *s, int ys, const ad_tensor *y) {
    ad_context *ctx = s->ctx;
    s->first = ctx->node_count, s->last = 0;
    for (int i = 0; i < s->n; i++) {
        const ad_record *record = ad_record_of(ctx, s->xs[i], "ad_grad");
        if (!record) return false;
        if (!(record->flags & AD_REC_TRACKED)) {
            ad_raise(ctx, "ad_grad: tensor %d is neither a parameter nor watched nor derived from "
                     "one (ad_watch)", i);
            return false;
        }
        if (record->node < s->first) s->first = record->node;
    }
    for (int i = 0; i < ys; i++) {
        if (!y[i].slot) continue;
        const ad_record *record = ad_record_of(ctx, y[i], "ad_grad");
        if (!record) return false;
        if (record->node != AD_NO_NODE && !(record->flags & AD_REC_LEAF)
            && record->node + 1 > s->last)
            s->last = record->node + 1;
    }
    if (s->last < s->first) s->last = s->first;
    return true;
}

bool ad_grad_many(ad_context *ctx, int ys, const ad_tensor *y, const ad_tensor *dy, int n,
                  const ad_tensor *xs, ad_tensor *dxs, bool accumulate, unsigned flags) {
    for (int i = 0; dxs && i < n; i++) dxs[i] = (ad_tensor){0};
    if (!ad_ready(ctx)) return false;
    sweep s = {.ctx = ctx, .depth = ctx->backward_depth + 1, .flags = flags,
               .accumulate = accumulate, .own = !(flags & AD_GRAD_RECORD), .n = n, .xs = xs,
               .dxs = dxs};
    if (s.depth >= 1u << (32 - MARK_BITS) || n >= 1 << MARK_BITS) {
        ad_raise(ctx, "ad_grad: nested too deeply, or too many tensors");
        return false;
    }
    if (!find_range(&s, ys, y)) return false;
    size_t owned = ctx->owned_count;
    size_t count = s.last - s.first, outputs = 0;
    for (size_t i = s.first; i < s.last; i++) outputs += ctx->nodes[i]->outputs;
    size_t bytes = (outputs + 1) * sizeof(ad_tensor) + count * 5 + (size_t)n * 4 + 16;
    char *memory = ad_host_allocate(ctx, bytes);
    if (!memory) {
        ad_raise(ctx, "ad_grad: out of memory: %zu bytes for the backward pass", bytes);
        return false;
    }
    memset(memory, 0, bytes);
    s.pending = (ad_tensor *)memory;
    s.base = (uint32_t *)(s.pending + outputs + 1);
    uint32_t *old_mark = s.base + count;
    s.reach = (uint8_t *)(old_mark + n);
    for (int i = 0; i < n; i++) {
        ad_record *record = ad_record_at(ctx, xs[i].slot);
        old_mark[i] = record->mark;
        record->mark = s.depth << MARK_BITS | (uint32_t)(i + 1);
    }
    ctx->backward_depth++;
    // A checkpoint scope around records everything, but not what is freed on the way.
    int force_record = ctx->force_record;
    if (s.own) ctx->no_grad++, ctx->force_record = 0;
    mark_nodes(&s);

    // Seed the cotangents of the ys, then walk back.
    for (int i = 0; i < ys && !ctx->failed; i++) {
        if (!y[i].slot || !dy[i].slot) continue;
        ad_tensor seed = s.own ? ad_alias(ctx, dy[i]) : dy[i];
        const ad_record *record = ad_record_at(ctx, y[i].slot);
        if (seed.slot) deliver(&s, y[i].slot, record, place_of(&s, record), seed);
    }
    for (size_t i = s.last; i-- > s.first && !ctx->failed;) {
        ad_node *node = ctx->nodes[i];
        ad_tensor *cotangent = &s.pending[s.base[i - s.first]];
        bool any = false;
        for (int j = 0; j < node->outputs; j++) any |= cotangent[j].slot != 0;
        if (s.reach[i - s.first] && any && !step_back(&s, node, cotangent)) break;
        if (any) let_go(&s, node, cotangent, y, ys);
    }
    // Of a tensor asked for several times the last entry has the gradient.
    for (int i = 0; i < n && !accumulate && !ctx->failed; i++) {
        int last = wanted_index(&s, ad_record_at(ctx, xs[i].slot));
        if (last > i && dxs[last].slot) dxs[i] = s.own ? ad_alias(ctx, dxs[last]) : dxs[last];
    }
    for (int i = n; i-- > 0;) ad_record_at(ctx, xs[i].slot)->mark = old_mark[i];
    if (s.own && !ctx->dual_count) ad_owned_compact(ctx, owned);
    if (s.own) ctx->no_grad--, ctx->force_record = force_record;
    ctx->backward_depth--;
    ad_host_release(ctx, memory);
    for (int i = 0; i < n && !accumulate && !ctx->failed; i++)
        if (!dxs[i].slot) dxs[i] = ad_zeros_like(ctx, xs[i]);
    return !ctx->failed;
}
