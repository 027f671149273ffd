/* The core's promises about handles, scopes, errors and memory, tried from outside.
 *
 * Nothing here knows how a context is made inside: only what autodiff.h says. Every test that
 * provokes an error reads its sentence, and uses the context again after ad_error_clear. */
#include "autodiff/autodiff.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static ad_context *open_context(void) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 2, .seed = 1, .poison = true});
    cr_assert(ctx && !ad_failed(ctx), "%s", ad_error_text(ctx));
    return ctx;
}

static void expect_error(ad_context *ctx, const char *part) {
    cr_assert(ad_failed(ctx), "no error where '%s' was expected", part);
    cr_assert(strstr(ad_error_text(ctx), part), "'%s' lacks '%s'", ad_error_text(ctx), part);
    ad_error_clear(ctx);
    cr_assert(!ad_failed(ctx));
}

static ad_tensor counted(ad_context *ctx, int64_t n) { return ad_range(ctx, AD_F32, n); }

/* ---- handles */

Test(core, null_stale_and_foreign_handles_are_errors) {
    ad_context *ctx = open_context(), *other = open_context();
    ad_tensor x = counted(ctx, 3), y = counted(other, 3), out[1];
    cr_assert(ad_is_null(ad_exp(ctx, (ad_tensor){0})));
    expect_error(ctx, "exp: the tensor is null");
    cr_assert(ad_is_null(ad_add(ctx, x, y)));
    expect_error(ctx, "add: the tensor belongs to another context");
    const ad_op pair = {.name = "pair", .inputs_min = 2, .inputs_max = 2, .outputs = 1};
    cr_assert(!ad_apply(ctx, &pair, 1, &x, NULL, out));
    expect_error(ctx, "pair (operation 4): 1 operands given, 2 to 2 expected");
    ad_free(ctx, x);
    ad_exp(ctx, x);
    expect_error(ctx, "stale");
    // A new tensor takes the slot; the old handle does not see it.
    ad_tensor again = counted(ctx, 3);
    cr_assert_eq(again.slot, x.slot);
    ad_exp(ctx, x);
    expect_error(ctx, "stale");
    // Slots out of nowhere, and freeing what is not ours, do no harm.
    ad_exp(ctx, (ad_tensor){.slot = 4000000000u, .generation = 1, .context = ctx});
    expect_error(ctx, "stale");
    ad_free(ctx, y), ad_free(ctx, x), ad_free(ctx, (ad_tensor){0}), ad_free(NULL, x);
    cr_assert(!ad_failed(ctx) && ad_count(other, y) == 3);
    ad_close(ctx), ad_close(other), ad_close(NULL);
}

Test(core, a_handle_ends_with_its_scope) {
    ad_context *ctx = open_context();
    ad_scope_begin(ctx, "inner");
    ad_tensor x = counted(ctx, 3);
    ad_scope_end(ctx);
    float values[3];
    cr_assert(!ad_read(ctx, x, values, sizeof values));
    expect_error(ctx, "stale");
    ad_close(ctx);
}

Test(core, every_function_accepts_a_failed_context) {
    ad_context *ctx = open_context();
    ad_tensor x = counted(ctx, 4), w = ad_parameter(ctx, "w", x), grads[1];
    ad_raise(ctx, "first");
    ad_raise(ctx, "second");
    ad_tensor y = ad_mul(ctx, x, ad_sum(ctx, x, AD_ALL_AXES, false));
    cr_assert(ad_is_null(y) && ad_is_null(ad_exp(ctx, y)) && ad_is_null(ad_keep(ctx, x)));
    cr_assert(!ad_grad(ctx, x, (ad_tensor){0}, 1, &w, grads, 0) && ad_is_null(grads[0]));
    cr_assert(!ad_grad_add(ctx, x, 1, &w, 0) && ad_is_null(ad_watch(ctx, x)));
    cr_assert(ad_is_null(ad_parameter(ctx, "v", x)) && ad_is_null(ad_gradient(ctx, w)));
    cr_assert(ad_is_null(ad_dual(ctx, x, x)) && ad_is_null(ad_tangent(ctx, x)));
    cr_assert(isnan(ad_item(ctx, x)) || ad_item(ctx, x) == 0);
    ad_checkpoint_begin(ctx), ad_checkpoint_end(ctx), ad_capture_begin(ctx);
    cr_assert_null(ad_capture_end(ctx));
    cr_assert_null(ad_sgd(ctx, &w, 1, NULL));
    ad_optimizer_step(NULL), ad_optimizer_free(NULL), ad_program_free(NULL);
    cr_assert_str_eq(ad_error_text(ctx), "first");
    ad_error_clear(ctx);
    cr_assert_eq(ad_item(ctx, ad_sum(ctx, x, AD_ALL_AXES, false)), 6);
    ad_close(ctx);
}

/* ---- errors */

typedef struct heard {
    int times;
    char text[2048];
} heard;

static void listen(void *user, const char *text) {
    heard *h = user;
    h->times++;
    snprintf(h->text, sizeof h->text, "%s", text);
}

Test(core, an_error_names_operation_shapes_and_scopes_once) {
    heard h = {0};
    ad_context *ctx = ad_open(&(ad_options){.threads = 1, .on_error = listen, .user = &h});
    ad_scope_begin(ctx, "epoch");
    ad_scope_begin(ctx, "step");
    ad_add(ctx, ad_zeros(ctx, 4, 5), ad_zeros(ctx, 3, 5));
    const char *text = ad_error_text(ctx);
    const char *parts[] = {"add", "(4, 5)", "(3, 5)", "f32", "epoch > step", "operation 3"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cr_assert(strstr(text, parts[i]), "'%s' lacks '%s'", text, parts[i]);
    ad_exp(ctx, (ad_tensor){0});
    cr_assert_eq(h.times, 1);
    cr_assert_str_eq(h.text, text);
    // begin and end stay paired in a failed context.
    ad_scope_begin(ctx, "after"), ad_scope_end(ctx), ad_scope_end(ctx), ad_scope_end(ctx);
    ad_error_clear(ctx);
    cr_assert(!ad_failed(ctx));
    ad_scope_end(ctx);
    expect_error(ctx, "ad_scope_end without a scope");
    ad_close(ctx);
}

Test(core, mistakes_of_use_are_errors) {
    ad_context *ctx = open_context();
    ad_tensor x = counted(ctx, 4), w = ad_parameter(ctx, "w", x), got[1];
    float four[4] = {0};
    cr_assert(!ad_write(ctx, x, four, sizeof four));
    expect_error(ctx, "only parameters and states are written");
    cr_assert(!ad_write(ctx, w, four, 12));
    expect_error(ctx, "16 bytes");
    cr_assert(!ad_read(ctx, w, four, 12));
    expect_error(ctx, "16 bytes");
    ad_item(ctx, x);
    expect_error(ctx, "4 elements");
    ad_assign(ctx, x, w);
    expect_error(ctx, "neither a parameter nor a state");
    ad_assign(ctx, w, ad_zeros(ctx, 3));
    expect_error(ctx, "(3)");
    ad_parameter(ctx, "i", ad_range(ctx, AD_I32, 3));
    expect_error(ctx, "integer");
    ad_full(ctx, AD_F32, AD_SHAPE(-5), 0);
    expect_error(ctx, "-5");
    ad_full(ctx, AD_F32, AD_SHAPE(2147483647, 2147483647, 2147483647), 0);
    expect_error(ctx, "size");
    ad_from(ctx, (ad_type)17, AD_SHAPE(1), four);
    expect_error(ctx, "type");
    ad_grad(ctx, x, (ad_tensor){0}, 1, &w, got, 0);
    expect_error(ctx, "derives from no parameter");
    ad_grad(ctx, ad_exp(ctx, w), (ad_tensor){0}, 1, &w, got, 0);
    expect_error(ctx, "4 elements");
    ad_grad(ctx, ad_exp(ctx, w), ad_zeros(ctx, 3), 1, &w, got, 0);
    expect_error(ctx, "cotangent");
    ad_grad(ctx, ad_sum(ctx, w, AD_ALL_AXES, false), (ad_tensor){0}, 1, &x, got, 0);
    expect_error(ctx, "neither a parameter nor watched");
    ad_no_grad_end(ctx);
    expect_error(ctx, "ad_no_grad_begin");
    ad_checkpoint_end(ctx);
    expect_error(ctx, "ad_checkpoint_begin");
    ad_dual(ctx, w, ad_zeros(ctx, 3));
    expect_error(ctx, "tangent");
    for (int i = 0; i < 80; i++) ad_scope_begin(ctx, "deep");
    expect_error(ctx, "scopes inside one another");
    ad_close(ctx);
    ctx = ad_open(&(ad_options){.device = "abacus"});
    expect_error(ctx, "abacus");
    ad_close(ctx);
}

Test(core, cancel_makes_the_next_call_fail) {
    ad_context *ctx = open_context();
    ad_cancel(ctx);
    cr_assert(ad_is_null(counted(ctx, 3)));
    expect_error(ctx, "cancelled");
    cr_assert_eq(ad_count(ctx, counted(ctx, 3)), 3);
    ad_close(ctx);
}

Test(core, the_finder_names_the_first_culprit) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1, .check_numbers = true});
    ad_tensor x = ad_watch(ctx, ad_sub(ctx, counted(ctx, 5), ad_scalar(ctx, AD_F32, 2)));
    ad_scope_begin(ctx, "forward");
    ad_exp(ctx, ad_log(ctx, x));
    cr_assert(strstr(ad_error_text(ctx), "in forward"), "%s", ad_error_text(ctx));
    expect_error(ctx, "log (operation 1): first made a number that is not finite: element 0");
    // Backwards too: the square root's slope at 0 is infinite.
    ad_tensor y = ad_sum(ctx, ad_sqrt(ctx, ad_relu(ctx, x)), AD_ALL_AXES, false), dx[1];
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &x, dx, 0));
    expect_error(ctx, "not finite");
    ad_close(ctx);
}

/* ---- scopes and memory */

Test(core, counters_return_to_where_they_were) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", counted(ctx, 1000));
    ad_memory before = {0};
    for (int step = 0; step < 3; step++) {
        ad_scope_begin(ctx, "step");
        ad_tensor y = ad_sum(ctx, ad_tanh(ctx, ad_mul(ctx, w, w)), AD_ALL_AXES, false), dw[1];
        ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, AD_GRAD_RECORD);
        ad_grad_add(ctx, ad_sum(ctx, ad_square(ctx, w), AD_ALL_AXES, false), 1, &w, 0);
        ad_scope_end(ctx);
        ad_memory now = ad_memory_read(ctx);
        if (step) {
            cr_assert_eq(now.live_bytes, before.live_bytes);
            cr_assert_eq(now.tensor_count, before.tensor_count);
            cr_assert_eq(now.cached_bytes, before.cached_bytes, "the second step asks for no more");
        }
        cr_assert_eq(now.node_count, 0);
        cr_assert_eq(now.tape_bytes, 0);
        before = now;
    }
    char text[200];
    ad_memory_text(ctx, text, sizeof text);
    cr_assert(strstr(text, "root"), "%s", text);
    ad_close(ctx);
}

Test(core, kept_tensors_move_to_the_parent_without_history) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", counted(ctx, 3)), kept, view, dw[1];
    ad_scope_begin(ctx, "outer");
    ad_scope_begin(ctx, "inner");
    kept = ad_keep(ctx, ad_exp(ctx, w));
    view = ad_keep(ctx, ad_slice(ctx, ad_exp(ctx, w), 0, 1, 3, 1));
    ad_scope_end(ctx);
    float values[3], two[2];
    cr_assert(ad_read(ctx, kept, values, sizeof values) && ad_read(ctx, view, two, sizeof two));
    cr_assert_float_eq(values[2], expf(2), 1e-5);
    cr_assert_eq(two[0], values[1]);
    ad_tensor y = ad_sum(ctx, ad_mul(ctx, kept, w), AD_ALL_AXES, false);
    cr_assert(ad_is_null(y));
    expect_error(ctx, "lost its history");
    y = ad_sum(ctx, ad_mul(ctx, ad_stop_gradient(ctx, kept), w), AD_ALL_AXES, false);
    cr_assert(ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0), "%s", ad_error_text(ctx));
    ad_scope_end(ctx);
    cr_assert(!ad_read(ctx, kept, values, sizeof values), "it ends with the parent");
    expect_error(ctx, "stale");
    ad_close(ctx);
}

Test(core, free_keeps_what_the_tape_needs) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", counted(ctx, 256)), dw[1];
    ad_tensor a = ad_exp(ctx, w), b = ad_affine(ctx, a, 2, 1);
    ad_tensor y = ad_sum(ctx, b, AD_ALL_AXES, false);
    size_t live = ad_memory_read(ctx).live_bytes;
    ad_free(ctx, b);
    cr_assert_lt(ad_memory_read(ctx).live_bytes, live, "no rule reads it: its bytes go");
    live = ad_memory_read(ctx).live_bytes;
    ad_free(ctx, a);
    cr_assert_eq(ad_memory_read(ctx).live_bytes, live, "exp's rule reads its output");
    cr_assert(ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0), "%s", ad_error_text(ctx));
    float values[256];
    ad_read(ctx, dw[0], values, sizeof values);
    cr_assert_float_eq(values[1], 2 * expf(1), 1e-5);
    ad_exp(ctx, a);
    expect_error(ctx, "stale");
    ad_close(ctx);
}

Test(core, freeing_in_a_loop_holds_no_memory) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", counted(ctx, 64));
    size_t live = 0, count = 0;
    for (int step = 0; step < 10; step++) {
        ad_tensor batch = counted(ctx, 64);
        ad_scope_begin(ctx, "step");
        ad_grad_add(ctx, ad_sum(ctx, ad_mul(ctx, w, batch), AD_ALL_AXES, false), 1, &w, 0);
        ad_scope_end(ctx);
        ad_free(ctx, batch);
        ad_memory now = ad_memory_read(ctx);
        if (step) cr_assert_eq(now.live_bytes, live, "step %d", step);
        if (step) cr_assert_eq(now.tensor_count, count, "step %d", step);
        live = now.live_bytes, count = now.tensor_count;
    }
    ad_close(ctx);
}

Test(core, a_freed_tangent_is_never_taken_for_another_tensor) {
    ad_context *ctx = open_context();
    ad_tensor x = counted(ctx, 3), t = ad_ones(ctx, 3), dual = ad_dual(ctx, x, t);
    ad_free(ctx, t);
    ad_tensor other = counted(ctx, 3), y = ad_square(ctx, dual);
    expect_error(ctx, "stale");
    cr_assert(ad_is_null(y) || ad_is_null(ad_tangent(ctx, y)));
    cr_assert_eq(ad_count(ctx, other), 3);
    // Once no dual is left, tangents are ordinary tensors, freed as others are.
    ad_scope_begin(ctx, "forward");
    ad_tensor kept = ad_keep(ctx, ad_exp(ctx, ad_dual(ctx, x, ad_ones(ctx, 3))));
    ad_scope_end(ctx);
    ad_free(ctx, kept), ad_free(ctx, dual);
    size_t live = ad_memory_read(ctx).live_bytes;
    ad_tensor last = ad_ones(ctx, 300);
    ad_free(ctx, ad_dual(ctx, ad_reshape(ctx, last, AD_SHAPE(300)), last));
    ad_free(ctx, last);
    cr_assert_eq(ad_memory_read(ctx).live_bytes, live);
    ad_close(ctx);
}

Test(core, a_limit_is_an_error_and_leaves_the_context_usable) {
    ad_context *ctx = ad_open(&(ad_options){.threads = 1, .memory_limit = 1 << 20});
    ad_tensor x = counted(ctx, 1000);
    cr_assert(ad_is_null(ad_zeros(ctx, 1 << 20)));
    expect_error(ctx, "of the limit of 1048576");
    // What waits for reuse is given back before that happens.
    for (int64_t n = 1000; n < 200000; n += 7001) ad_free(ctx, ad_zeros(ctx, n));
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    cr_assert_leq(ad_memory_read(ctx).live_bytes + ad_memory_read(ctx).cached_bytes, 1 << 20);
    cr_assert_eq(ad_item(ctx, ad_max(ctx, x, AD_ALL_AXES, false)), 999);
    ad_close(ctx);
}

Test(core, no_grad_records_nothing) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", counted(ctx, 3));
    ad_no_grad_begin(ctx);
    ad_exp(ctx, w);
    cr_assert(!ad_is_tracked(ctx, w) && ad_memory_read(ctx).node_count == 0);
    ad_no_grad_end(ctx);
    ad_exp(ctx, counted(ctx, 3));
    cr_assert_eq(ad_memory_read(ctx).node_count, 0, "nothing tracked goes in");
    ad_greater(ctx, w, w), ad_stop_gradient(ctx, w);
    cr_assert_eq(ad_memory_read(ctx).node_count, 0, "nothing differentiable comes out");
    ad_exp(ctx, w);
    cr_assert_eq(ad_memory_read(ctx).node_count, 1);
    // A scope puts back what was begun and not ended inside it.
    ad_scope_begin(ctx, "s"), ad_no_grad_begin(ctx), ad_scope_end(ctx);
    cr_assert(ad_is_tracked(ctx, w));
    ad_close(ctx);
}

// The function in the sentence is the one that was called.
Test(core, errors_name_the_function_called) {
    ad_context *ctx = open_context();
    ad_tensor x = ad_ones(ctx, 2, 3), y = ad_sum(ctx, ad_watch(ctx, x), AD_ALL_AXES, false);
    ad_tensor none = {0};
    ad_adam(ctx, &x, 1, NULL);
    expect_error(ctx, "ad_adam: the tensor is not a parameter");
    ad_sgd(ctx, &x, 1, NULL);
    expect_error(ctx, "ad_sgd: the tensor is not a parameter");
    ad_clip_norm(ctx, 1, &x, 1);
    expect_error(ctx, "ad_clip_norm: the tensor is not a parameter");
    ad_grad_add(ctx, y, 1, &x, 0);
    expect_error(ctx, "ad_grad_add: the tensor is not a parameter");
    ad_gradient(ctx, x);
    expect_error(ctx, "ad_gradient: the tensor is not a parameter");
    ad_linear(ctx, x, ad_ones(ctx, 3, 2), none);
    expect_error(ctx, "linear (operation");
    ad_dense(ctx, x, ad_ones(ctx, 3, 2), none, AD_RELU);
    expect_error(ctx, "dense (operation");
    ad_sum(ctx, x, AD_AXIS(0) | AD_AXIS(5), false);
    expect_error(ctx, "sum: there is no axis 5 in a tensor of rank 2");
    ad_logsumexp(ctx, x, AD_AXIS(2), false);
    expect_error(ctx, "logsumexp: there is no axis 2 in a tensor of rank 2");
    ad_close(ctx);
}

Test(core, parameters_made_inside_a_scope_live_on) {
    ad_context *ctx = open_context();
    ad_tensor w[3], g;
    ad_scope_begin(ctx, "outer");
    ad_tensor before = counted(ctx, 2);
    ad_scope_begin(ctx, "inner");
    ad_tensor inside = counted(ctx, 5);
    for (int i = 0; i < 3; i++) w[i] = ad_parameter(ctx, i ? "w" : "first", counted(ctx, 4 + i));
    ad_sum(ctx, inside, AD_ALL_AXES, false);
    g = ad_gradient(ctx, w[1]);
    ad_scope_end(ctx);
    cr_assert_eq(ad_count(ctx, before), 2);
    ad_scope_end(ctx);
    cr_assert_str_eq(ad_name(ctx, w[0]), "first");
    cr_assert_str_eq(ad_name(ctx, g), "w.gradient");
    for (int i = 0; i < 3; i++) cr_assert_eq(ad_count(ctx, w[i]), 4 + i);
    cr_assert_eq(ad_item(ctx, ad_sum(ctx, g, AD_ALL_AXES, false)), 0);
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(core, flops_are_counted) {
    ad_context *ctx = open_context();
    ad_tensor column = ad_zeros(ctx, 3, 1), row = ad_zeros(ctx, 4);
    double start = ad_memory_read(ctx).flops;
    ad_add(ctx, column, row); // each element of the result, (3, 4)
    cr_assert_eq(ad_memory_read(ctx).flops - start, 12);
    ad_neg(ctx, row);
    cr_assert_eq(ad_memory_read(ctx).flops - start, 16);
    ad_close(ctx);
}
