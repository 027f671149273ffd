/* Implicit differentiation: y = f(y, x) found by repetition, differentiated where it ended.
 *
 * The search leaves nothing on the tape. Its result enters as one node, whose rules follow from
 * dy = f_y dy + f_x dx alone:
 *
 *     reverse: l = g + f_y' l, then dx = f_x' l       forward: t = f_x dx + f_y t
 *
 * Both are fixed points themselves, of affine maps with the same f_y, and are found by the same
 * search and enter by the same node. So a gradient of a gradient is a fixed point of a fixed point,
 * and every order exists. A map is therefore the user's step and a list of what was derived from
 * it: ADJOINT is (l; c, y, x) -> c + f_y' l and TANGENT is (t; c, y, x) -> c + f_y t, of the map
 * before it in the list.
 *
 * Forward products f_y t are two reverse ones: f_y' u is linear in u, and f_y t is the derivative
 * of <f_y' u, t> in u. Rules may not start tangents of their own. */
#include "autodiff/core.h"

#include <float.h>
#include <math.h>

enum { DERIVED_MAX = 6, DEFAULT_STEPS = 1000 };
enum { ADJOINT, TANGENT };

typedef struct map {
    ad_fixed_step step;
    void *user;
    double tolerance;
    int steps, derived_count;
    uint8_t derived[8]; // ADJOINT or TANGENT
} map;

extern const ad_op ad_op_fixed_point;
static ad_tensor evaluate(ad_context *ctx, const map *f, int depth, ad_tensor y, int n,
                          const ad_tensor *x);

/* ---- products with the derivatives of a map */

// f at leaves in the place of y (leaf 0) and x, with recording on. Where the caller records, the
// leaves stay connected with what they stand for.
static ad_tensor at_leaves(ad_context *ctx, const map *f, int depth, ad_tensor y, int n,
                           const ad_tensor *x, ad_tensor *leaf) {
    int no_grad = ctx->no_grad;
    for (int i = 0; i <= n; i++) {
        ad_tensor value = i ? x[i - 1] : y;
        leaf[i] = ad_is_tracked(ctx, value) ? ad_apply1(ctx, &ad_op_identity, 1, &value, NULL)
                                            : ad_watch(ctx, value);
    }
    ctx->no_grad = 0;
    ad_tensor z = evaluate(ctx, f, depth, leaf[0], n, leaf + 1);
    ctx->no_grad = no_grad;
    return z;
}

// d[0] = f_y' v and d[i] = f_x[i-1]' v.
static void pull(ad_context *ctx, const map *f, int depth, ad_tensor y, int n, const ad_tensor *x,
                 ad_tensor v, ad_tensor *d) {
    ad_tensor leaf[AD_INPUTS_MAX];
    size_t nodes = ctx->node_count;
    bool record = !ctx->no_grad;
    ad_tensor z = at_leaves(ctx, f, depth, y, n, x, leaf);
    ad_grad_many(ctx, 1, &z, &v, n + 1, leaf, d, false, record ? AD_GRAD_RECORD : 0);
    if (!record) ctx->node_count = nodes;
}

// f_y v[0] + f_x v[1 ...]; a null v stands for zero.
static ad_tensor push(ad_context *ctx, const map *f, int depth, ad_tensor y, int n,
                      const ad_tensor *x, const ad_tensor *v) {
    ad_tensor leaf[AD_INPUTS_MAX], w[AD_INPUTS_MAX], product = {0};
    size_t nodes = ctx->node_count;
    bool record = !ctx->no_grad;
    int no_grad = ctx->no_grad;
    ad_tensor z = at_leaves(ctx, f, depth, y, n, x, leaf);
    ad_tensor u = ad_watch(ctx, ad_full(ctx, ad_type_of(ctx, z), ad_shape_of(ctx, z), 1));
    ctx->no_grad = 0;
    ad_grad_many(ctx, 1, &z, &u, n + 1, leaf, w, false, AD_GRAD_RECORD);
    ctx->no_grad = no_grad;
    ad_grad_many(ctx, n + 1, w, v, 1, &u, &product, false, record ? AD_GRAD_RECORD : 0);
    if (!record) ctx->node_count = nodes;
    return product;
}

static ad_tensor evaluate(ad_context *ctx, const map *f, int depth, ad_tensor y, int n,
                          const ad_tensor *x) {
    if (depth == 0) return f->step(ctx, y, x, f->user);
    // Derived maps have c and the y of the map before them in front of its x.
    ad_tensor product[AD_INPUTS_MAX] = {{0}};
    if (f->derived[depth - 1] == ADJOINT) {
        pull(ctx, f, depth - 1, x[1], n - 2, x + 2, y, product);
    } else {
        const ad_tensor v[AD_INPUTS_MAX] = {y};
        product[0] = push(ctx, f, depth - 1, x[1], n - 2, x + 2, v);
    }
    return ad_add(ctx, x[0], product[0]);
}

/* ---- the search */

static double largest(ad_context *ctx, ad_tensor x) {
    return ad_item(ctx, ad_max(ctx, ad_abs(ctx, x), AD_ALL_AXES, false));
}

// One step in a scope of its own; the old y ends. change: how far y moved, by 1 + max |y|. What is
// derived is linear in its cotangent or tangent, which may be of any size: by max |y| alone. The
// smallest number there makes 0 / 0 zero.
static ad_tensor advance(ad_context *ctx, const map *f, ad_tensor y, int n, const ad_tensor *x,
                         double *change) {
    ad_scope_begin(ctx, "step");
    ad_tensor z = evaluate(ctx, f, f->derived_count, y, n, x);
    const ad_record *from = ad_record_of(ctx, y, "fixed_point");
    const ad_record *to = from ? ad_record_of(ctx, z, "fixed_point") : NULL;
    if (to && (to->type != from->type || !ad_record_same_shape(to, from)))
        ad_raise(ctx, "fixed_point: the step gives another shape or type than it is given");
    double one = !f->derived_count ? 1 : ad_type_of(ctx, z) == AD_F64 ? DBL_MIN : (double)FLT_MIN;
    *change = largest(ctx, ad_sub(ctx, z, y)) / (one + largest(ctx, z));
    z = ad_keep(ctx, ad_apply1(ctx, &ad_op_identity, 1, &z, NULL));
    ad_scope_end(ctx);
    return z;
}

static ad_tensor search(ad_context *ctx, const map *f, ad_tensor start, int n,
                        const ad_tensor *x) {
    int force_record = ctx->force_record, done = 0;
    double change = INFINITY;
    ctx->force_record = 0, ctx->no_grad++, ctx->quiet++;
    ad_scope_begin(ctx, "fixed_point");
    ad_tensor y = start;
    for (; done < f->steps && change > f->tolerance && !ctx->failed; done++) {
        ad_tensor next = advance(ctx, f, y, n, x, &change);
        if (done) ad_free(ctx, y);
        y = next;
    }
    if (isnan(change) || change > f->tolerance)
        ad_raise(ctx, "fixed_point: after %d steps y still changed by %g of %smax |y|, %g was "
                 "asked for: does the step contract%s?", done, change,
                 f->derived_count ? "" : "1 + ", f->tolerance,
                 f->derived_count ? " at the solution" : "");
    y = ad_keep(ctx, y);
    ad_scope_end(ctx);
    ctx->force_record = force_record, ctx->no_grad--, ctx->quiet--;
    return ctx->failed ? (ad_tensor){0} : y;
}

static ad_tensor solve(ad_context *ctx, const map *f, ad_tensor start, int n,
                       const ad_tensor *x) {
    ad_tensor operand[AD_INPUTS_MAX];
    if (n + 1 > AD_INPUTS_MAX || f->derived_count > DERIVED_MAX) {
        ad_raise(ctx, "fixed_point: too many tensors, or derivatives of too high an order");
        return (ad_tensor){0};
    }
    operand[0] = search(ctx, f, start, n, x);
    for (int i = 0; i < n; i++) operand[i + 1] = x[i];
    return ad_apply1(ctx, &ad_op_fixed_point, n + 1, operand, f);
}

// The solution of a map derived from the one of a node: c, y and the node's x are its operands.
static ad_tensor solve_derived(ad_context *ctx, const map *f, uint8_t kind, ad_tensor c,
                               ad_tensor y, int n, const ad_tensor *x) {
    map derived = *f;
    derived.derived[derived.derived_count++] = kind;
    ad_tensor operand[AD_INPUTS_MAX + 2] = {c, y};
    for (int i = 0; i < n; i++) operand[i + 2] = x[i];
    return solve(ctx, &derived, c, n + 2, operand);
}

/* ---- the node: a view of what was found, and the rules */

static void fixed_point_infer(ad_infer *call) {
    call->output[0] = call->input[0];
    call->saved_inputs = ~1u; // the rules read x and the solution as the output
}

static void fixed_point_vjp(ad_vjp *call) {
    const map *f = call->attributes;
    ad_context *ctx = call->ctx;
    const ad_tensor y = call->output[0], *x = call->input + 1;
    int n = call->inputs - 1;
    ad_tensor d[AD_INPUTS_MAX] = {{0}};
    ad_tensor l = solve_derived(ctx, f, ADJOINT, call->dy[0], y, n, x);
    if (ad_failed(ctx)) return;
    pull(ctx, f, f->derived_count, y, n, x, l, d);
    for (int i = 1; i <= n; i++)
        if (call->wanted >> i & 1) call->dx[i] = d[i];
}

static void fixed_point_jvp(ad_jvp *call) {
    const map *f = call->attributes;
    ad_context *ctx = call->ctx;
    const ad_tensor y = call->output[0], *x = call->input + 1;
    int n = call->inputs - 1;
    ad_tensor v[AD_INPUTS_MAX] = {{0}};
    for (int i = 1; i <= n; i++) v[i] = call->dx[i];
    ad_tensor c = push(ctx, f, f->derived_count, y, n, x, v);
    if (!ad_failed(ctx)) call->dy[0] = solve_derived(ctx, f, TANGENT, c, y, n, x);
}

const ad_op ad_op_fixed_point = {
    .name = "fixed_point", .inputs_min = 1, .inputs_max = AD_INPUTS_MAX, .outputs = 1,
    .flags = AD_OP_VIEW, .attribute_bytes = sizeof(map), .infer = fixed_point_infer,
    .vjp = fixed_point_vjp, .jvp = fixed_point_jvp};

/* ---- public */

// A gradient would not reach what the step knows besides y and x: that is refused, not lost.
static void refuse_hidden(ad_context *ctx, const map *f, ad_tensor start, int n,
                          const ad_tensor *x) {
    ad_tensor value[AD_INPUTS_MAX];
    ad_scope_begin(ctx, "fixed_point");
    for (int i = 0; i < n; i++) value[i] = ad_stop_gradient(ctx, x[i]);
    ad_tensor z = f->step(ctx, ad_stop_gradient(ctx, start), value, f->user);
    const ad_record *record = ad_record_of(ctx, z, "fixed_point");
    if (record && (record->flags & AD_REC_TRACKED || record->tangent))
        ad_raise(ctx, "fixed_point: the step reads a tensor with a gradient or a tangent that is "
                 "not among x");
    ad_scope_end(ctx);
}

ad_tensor ad_fixed_point(ad_context *ctx, ad_fixed_step step, void *user, ad_tensor start, int n,
                         const ad_tensor *x, const ad_fixed_point_options *options) {
    if (!ad_ready(ctx)) return (ad_tensor){0};
    if (n < 0 || n + 1 > AD_INPUTS_MAX) {
        ad_raise(ctx, "fixed_point: %d tensors x, at most %d are possible", n, AD_INPUTS_MAX - 1);
        return (ad_tensor){0};
    }
    map f;
    memset(&f, 0, sizeof f);
    f.step = step, f.user = user;
    f.tolerance = options ? options->tolerance : 0;
    f.steps = options && options->steps ? options->steps : DEFAULT_STEPS;
    if (!(f.tolerance > 0)) f.tolerance = ad_type_of(ctx, start) == AD_F64 ? 1e-14 : 1e-6;
    refuse_hidden(ctx, &f, start, n, x);
    return ad_failed(ctx) ? (ad_tensor){0} : solve(ctx, &f, start, n, x);
}
