/* Every operation of autodiff/ops/ops.def and render/ops/ops.def through the harness.
 *
 * The shapes are chosen here: ranks 0 to 6, axes of size 1, empty axes, more than 2^20 elements. A
 * table of what ran is printed. What cannot run by an operation's nature (no gradient, nothing to
 * lay out otherwise) is a dot; any other hole must be named by the operation's exempt text, or the
 * test fails. Wrong rules that are planted must all be caught. */
#include "tests/harness.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fixtures.h"

#define AD_OP(op) extern const ad_op op;
#include "autodiff/ops/ops.def"
#include "render/ops/ops.def"
#undef AD_OP

#define AD_OP(op) &op,
static const ad_op *const operations[] = {
#include "autodiff/ops/ops.def"
#include "render/ops/ops.def"
};
#undef AD_OP
enum { OPERATIONS = sizeof operations / sizeof *operations };

#define R AD_RANK_MAX
static const ad_shape small[] = {
    {2, {3, 4}}, {1, {7}}, {3, {2, 3, 4}}, {2, {5, 1}}, {0, {0}}, {2, {1, 6}}, {1, {16}},
    {4, {2, 1, 3, 2}}, {1, {1}}, {2, {4, 4}}, {5, {2, 1, 2, 1, 3}}, {6, {1, 2, 1, 3, 1, 2}}};
static const ad_shape empty[] = {{1, {0}}, {2, {0, 3}}, {2, {3, 0}}, {3, {2, 0, 2}}};
static const ad_shape medium[] = {{2, {300, 70}}, {1, {40000}}};
// From AD_PARALLEL_LEAST on, so that threads do share the work.
static const ad_shape shared[] = {{2, {700, 110}}, {1, {70000}}};
static const ad_shape large[] = {{1, {(1 << 20) + 77}}, {2, {1100, 1000}}};
#undef R
#define COUNT(array) (int)(sizeof array / sizeof *array)

typedef struct stage {
    harness_category category;
    harness_check check;
    ad_type type;
    const ad_shape *shapes;
    int count, variants; // at most
    bool gradient;       // needs derivatives
} stage;

#define SMALL small, COUNT(small), 16
static const stage stages[] = {
    {HARNESS_AGREE, harness_check_agree, AD_F32, SMALL, false},
    {HARNESS_INTEGER, harness_check_integer, AD_I32, SMALL, false},
    {HARNESS_INTEGER, harness_check_integer, AD_U32, SMALL, false},
    {HARNESS_STORAGE, harness_check_storage, AD_BF16, small, 4, 4, false},
    {HARNESS_STORAGE, harness_check_storage, AD_F16, small, 4, 4, false},
    {HARNESS_GRADIENT, harness_check_gradient, AD_F64, SMALL, true},
    {HARNESS_DOT, harness_check_dot, AD_F64, SMALL, true},
    {HARNESS_TAYLOR, harness_check_taylor, AD_F64, small, 7, 8, true},
    {HARNESS_SECOND, harness_check_second, AD_F64, small, 8, 8, true},
    {HARNESS_MIXED, harness_check_mixed, AD_F64, small, 8, 8, true},
    {HARNESS_FUSED, harness_check_fused, AD_F32, SMALL, true},
    {HARNESS_FUSED, harness_check_fused, AD_F32, medium, COUNT(medium), 1, true},
    {HARNESS_FUSED, harness_check_fused, AD_F64, SMALL, true},
    {HARNESS_ZERO, harness_check_zero, AD_F64, small, 7, 8, true},
    {HARNESS_SAME, harness_check_same, AD_F64, small, 4, 8, true},
    {HARNESS_VIEWS, harness_check_views, AD_F32, small, 7, 6, false},
    {HARNESS_VIEWS, harness_check_views, AD_U32, small, 3, 2, false},
    {HARNESS_EMPTY, harness_check_runs, AD_F32, empty, COUNT(empty), 8, false},
    {HARNESS_EMPTY, harness_check_runs, AD_U32, empty, COUNT(empty), 8, false},
    {HARNESS_LARGE, harness_check_agree, AD_F32, large, COUNT(large), 1, false},
    {HARNESS_LARGE, harness_check_integer, AD_U32, large, 1, 1, false},
    {HARNESS_BITS, harness_check_bits, AD_F32, shared, COUNT(shared), 3, false},
    {HARNESS_BITS, harness_check_bits, AD_F32, small, 5, 3, false},
    {HARNESS_BITS, harness_check_bits, AD_U32, shared, COUNT(shared), 2, false},
    {HARNESS_REPLAY, harness_check_replay, AD_F32, small, 5, 4, false},
    {HARNESS_REPLAY, harness_check_replay, AD_U32, small, 3, 2, false},
};

static void run_stage(harness *h, const ad_op *op, const stage *s) {
    h->category = s->category;
    int shapes = h->reduced && s->count > 5 ? 5 : s->count; // ranks 0 to 3
    for (int i = 0; i < shapes; i++)
        for (int variant = 0; variant < s->variants; variant++) {
            harness_case c;
            bool has = harness_open(&c, op, s->type, s->shapes[i], variant);
            if (has) {
                ad_scope_begin(h->ctx, harness_names[s->category]);
                s->check(h, &c);
                ad_scope_end(h->ctx);
                ad_error_clear(h->ctx);
            }
            harness_close(&c);
            if (!has) break;
        }
}

/* ---- what need not run */

// By nature: told by the operation's fields and its samples.
static bool by_nature(const ad_op *op, harness_category category) {
    bool real = false, whole = false, operands = false, pair = false, differentiable = false;
    for (int s = 0; s < COUNT(small); s++)
        for (int t = 0; t < AD_TYPES; t++) {
            harness_case c;
            if (harness_open(&c, op, (ad_type)t, small[s], 0)) {
                real |= harness_real((ad_type)t), whole |= !harness_real((ad_type)t);
                for (int i = 0; i < c.sample.inputs; i++) {
                    operands |= c.sample.input[i].shape.rank > 0 && !(op->writes >> i & 1);
                    differentiable |= harness_differentiable(&c, i);
                    for (int j = 0; j < i && harness_differentiable(&c, i); j++) {
                        ad_shape a = c.sample.input[i].shape, b = c.sample.input[j].shape;
                        pair |= harness_differentiable(&c, j) && harness_same_shape(a, b);
                    }
                }
            }
            harness_close(&c);
        }
    bool gradient = !(op->flags & (AD_OP_NO_GRADIENT | AD_OP_STATEFUL)) && differentiable;
    switch (category) {
    case HARNESS_AGREE: return !real;
    case HARNESS_INTEGER: return !whole;
    case HARNESS_STORAGE: return !real || op->flags & AD_OP_STATEFUL;
    case HARNESS_FUSED: return !op->vjp_fused;
    case HARNESS_SAME: return !gradient || !pair;
    case HARNESS_VIEWS: return !operands;
    case HARNESS_DOT: case HARNESS_TAYLOR: case HARNESS_GRADIENT: case HARNESS_SECOND:
    case HARNESS_MIXED: case HARNESS_ZERO: return !gradient || op->flags & AD_OP_INEXACT;
    case HARNESS_MUTATION: return !gradient || (op->compose && !op->vjp_fused);
    default: return false;
    }
}

// "category: reason; category: reason", of the operation or from here.
static const char *const exemptions[][2] = {
    {"sign", "mutation: its slope is zero everywhere"},
    {"floor", "mutation: its slope is zero everywhere"},
    {"ceil", "mutation: its slope is zero everywhere"},
    {"round", "mutation: its slope is zero everywhere"},
    {"add", "two swapped: both gradients are the cotangent"},
    {"gate", "one operand's part dropped: what opens the gate has slope zero"},
    {"concat", "broadcast sum dropped: it repeats nothing"},
    {"scatter_add", "broadcast sum dropped: it repeats nothing"},
    {"beside_ray", "broadcast sum dropped: it repeats rows by offsets, not by size 1"},
    {"density_beside", "broadcast sum dropped: it repeats rows by offsets, not by size 1"},
    {"composite", "broadcast sum dropped: it repeats nothing"},
    {"pixel_loss", "cotangent replaced by its mean: its cotangents are one number each"},
    {"step_advance", "empty: it writes one number; large: it writes one number"},
    {"fetch_pixels", "empty: images have pixels"},
    {"sample_pixels", "empty: images have pixels"},
    {"camera_rays", "empty: there is a camera; storage: poses need their digits"},
    {"stratified", "agree: f32 only; storage: f32 only; empty: there is a ray"},
    {"importance", "agree: f32 only; storage: f32 only; empty: there is a ray"},
};

static bool says(const char *text, const char *what) {
    const char *at = text ? strstr(text, what) : NULL;
    return at && at[strlen(what)] == ':';
}

bool harness_exempt(const ad_op *op, const char *what) {
    bool has = says(op->exempt, what);
    for (int i = 0; i < COUNT(exemptions) && !has; i++)
        has = !strcmp(exemptions[i][0], op->name) && says(exemptions[i][1], what);
    return has;
}

// ADJOINT_TEST_OP asks for one operation: how many there are of that name, or all without one.
static int chosen(const char *only, const ad_op **some) {
    int count = 0;
    for (int i = 0; i < OPERATIONS; i++)
        if (!only || !strcmp(only, operations[i]->name)) some[count++] = operations[i];
    return count;
}

Test(ops, one_can_be_asked_for_by_name) {
    const ad_op *some[OPERATIONS];
    cr_assert_eq(chosen(NULL, some), OPERATIONS);
    cr_assert(chosen("erf", some) == 1 && !strcmp(some[0]->name, "erf"));
    cr_assert_eq(chosen("efr", some), 0);
}

// Fused operations are for real numbers.
Test(ops, fused_ones_refuse_integers) {
    for (int i = 0; i < OPERATIONS; i++) {
        const ad_op *op = operations[i];
        for (int variant = 0; op->compose && variant < 4; variant++) {
            harness_case c;
            bool has = false;
            for (int s = 0; s < COUNT(small) && !has; s++) {
                has = harness_open(&c, op, AD_F32, small[s], variant);
                if (!has) harness_close(&c);
            }
            if (!has) break;
            ad_context *ctx = ad_open(NULL);
            ad_tensor in[AD_INPUTS_MAX] = {{0}}, out[AD_OUTPUTS_MAX];
            for (int j = 0; j < c.sample.inputs; j++) {
                ad_type type = c.sample.input[j].type;
                in[j] = ad_full(ctx, type == AD_F32 ? AD_I32 : type, c.sample.input[j].shape, 0);
            }
            cr_assert_not(ad_failed(ctx), "%s: %s", op->name, ad_error_text(ctx));
            cr_expect_not(ad_apply(ctx, op, c.sample.inputs, in, &c.sample.attributes, out),
                          "%s takes integers", op->name);
            ad_close(ctx);
            harness_close(&c);
        }
    }
}

Test(ops, every_operation_passes_the_harness, .timeout = 600) {
    const char *only = getenv("ADJOINT_TEST_OP");
    harness_count all = {0};
    long faults = 0, checks = 0, kinks = 0;
    int holes = 0;
    const ad_op *some[OPERATIONS];
    int operation_count = chosen(only, some);
    cr_assert(operation_count, "ADJOINT_TEST_OP: no such operation: '%s'", only ? only : "");
    fprintf(stderr, "%-20s", "operation");
    for (int k = 0; k < HARNESS_CATEGORIES; k++) fprintf(stderr, " %.6s", harness_names[k]);
    fprintf(stderr, "  planted caught\n");
    for (int i = 0; i < operation_count; i++) {
        const ad_op *op = some[i];
        harness h = {.ctx = ad_open(&(ad_options){.threads = 2, .seed = 5, .poison = true}),
                     .reduced = fixture_reduced()};
        bool skip[HARNESS_CATEGORIES];
        for (int k = 0; k < HARNESS_CATEGORIES; k++)
            skip[k] = by_nature(op, k) || harness_exempt(op, harness_names[k]);
        for (int s = 0; s < COUNT(stages); s++)
            if (!skip[stages[s].category] && !(h.reduced && stages[s].category == HARNESS_LARGE))
                run_stage(&h, op, &stages[s]);
        harness_count count = {0};
        h.category = HARNESS_MUTATION;
        if (!skip[HARNESS_MUTATION]) {
            harness_mutate(&h, op, small, h.reduced ? 3 : 8, &count);
            if (count.planted == 0) h.ran[HARNESS_MUTATION] = 0;
        }
        fprintf(stderr, "%-20s", op->name);
        for (int k = 0; k < HARNESS_CATEGORIES; k++) {
            bool hole = !h.ran[k] && !skip[k] && !(h.reduced && k == HARNESS_LARGE);
            char cell[16];
            snprintf(cell, sizeof cell, "%d", h.ran[k]);
            fprintf(stderr, " %6s", hole ? "HOLE" : h.ran[k] ? cell : skip[k] ? "." : "-");
            holes += hole;
        }
        fprintf(stderr, "  %4ld %4ld%s\n", count.planted, count.caught, h.faults ? "  FAULTY" : "");
        all.planted += count.planted, all.caught += count.caught;
        all.without_effect += count.without_effect;
        faults += h.faults, checks += h.checks, kinks += h.kinks;
        ad_close(h.ctx);
    }
    fprintf(stderr, "%d operations, %ld comparisons, %ld faults, %d holes, %ld kinks passed over\n"
            "wrong rules: %ld planted, %ld caught (%ld more have no effect, for a named reason)\n",
            operation_count, checks, faults, holes, kinks, all.planted, all.caught,
            all.without_effect);
    cr_assert_eq(faults, 0, "%ld faults", faults);
    cr_assert_eq(holes, 0, "%d categories did not run and have no reason", holes);
    cr_assert_eq(all.planted, all.caught);
    cr_assert_leq(kinks, checks / 20);
}
