/* The tape under stress: bytes a node, versions, giving memory back, checkpoint scopes, capture and
 * replay, and the k-th allocation failing anywhere in a training step. */
#include "autodiff/core.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ad_context *open_context(void) {
    return ad_open(&(ad_options){.threads = 2, .seed = 1, .poison = true});
}

static void expect_error(ad_context *ctx, const char *part) {
    cr_assert(ad_failed(ctx), "no error where '%s' was expected", part);
    cr_assert(strstr(ad_error_text(ctx), part), "'%s' lacks '%s'", ad_error_text(ctx), part);
    ad_error_clear(ctx);
}

static ad_tensor total(ad_context *ctx, ad_tensor x) {
    return ad_sum(ctx, x, AD_ALL_AXES, false);
}

/* ---- nodes and versions */

typedef ad_tensor (*link)(ad_context *ctx, ad_tensor x);

static ad_tensor doubled(ad_context *ctx, ad_tensor x) { return ad_add(ctx, x, x); }
static ad_tensor scaled(ad_context *ctx, ad_tensor x) { return ad_affine(ctx, x, 0.5, 1); }
static ad_tensor regrouped(ad_context *ctx, ad_tensor x) {
    bool flat = ad_shape_of(ctx, x).rank == 1;
    return ad_reshape(ctx, x, flat ? AD_SHAPE(2, 3) : AD_SHAPE(6));
}
static ad_tensor turned(ad_context *ctx, ad_tensor x) { return ad_transpose(ctx, x); }
static ad_tensor column(ad_context *ctx, ad_tensor x) { return ad_slice(ctx, x, 1, 0, 2, 1); }

Test(tape, a_node_with_its_record_takes_128_bytes) {
    static const struct {
        const char *name;
        link next;
    } links[] = {{"add", doubled}, {"affine", scaled}, {"reshape", regrouped},
                 {"transpose", turned}, {"slice", column}};
    enum { N = 20000 };
    for (size_t c = 0; c < sizeof links / sizeof *links; c++) {
        ad_context *ctx = open_context();
        ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 2, 3)), x = w;
        ad_scope_begin(ctx, "warm"), links[c].next(ctx, x), ad_scope_end(ctx);
        size_t before = ad_memory_read(ctx).tape_bytes;
        for (int i = 0; i < N; i++) x = links[c].next(ctx, x);
        double bytes = (double)(ad_memory_read(ctx).tape_bytes - before) / N + sizeof(ad_record);
        cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
        cr_assert_eq(ad_memory_read(ctx).node_count, N);
        cr_assert_leq(bytes, 128.1, "%s: %g bytes", links[c].name, bytes);
        ad_close(ctx);
    }
}

// Views of equal strides share them, but not beyond the scope that holds them.
Test(tape, shared_strides_end_with_their_scope) {
    ad_context *ctx = open_context();
    const float values[6] = {0, 1, 2, 3, 4, 5};
    ad_tensor x = ad_from(ctx, AD_F32, AD_SHAPE(2, 3), values);
    ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 3));
    for (int round = 0; round < 3; round++) {
        ad_scope_begin(ctx, "round");
        ad_tensor y = ad_transpose(ctx, x);
        ad_square(ctx, w); // its node takes memory that the strides had in the round before
        float found[6];
        ad_read(ctx, y, found, sizeof found);
        for (int i = 0; i < 6; i++) cr_assert_eq(found[i], values[i % 2 * 3 + i / 2]);
        ad_scope_end(ctx);
    }
    cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(tape, an_overwritten_operand_is_a_named_error) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "weights", ad_ones(ctx, 3)), dw[1];
    ad_tensor y = total(ctx, ad_square(ctx, w));
    ad_accumulate(ctx, w, ad_ones(ctx, 3));
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0) && ad_is_null(dw[0]));
    cr_assert(strstr(ad_error_text(ctx), "square"), "%s", ad_error_text(ctx));
    expect_error(ctx, "weights was overwritten");
    // What no rule reads may be written: add's gradient does not depend on its operands.
    y = total(ctx, ad_add(ctx, w, w));
    float two[3] = {2, 2, 2};
    ad_write(ctx, w, two, sizeof two);
    cr_assert(ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0), "%s", ad_error_text(ctx));
    // A state is no different.
    ad_tensor state = ad_state(ctx, "average", ad_ones(ctx, 3));
    y = total(ctx, ad_mul(ctx, w, state));
    ad_assign(ctx, state, ad_zeros(ctx, 3));
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0));
    expect_error(ctx, "average was overwritten");
    // Nor is a view of one.
    y = total(ctx, ad_square(ctx, ad_slice(ctx, w, 0, 1, 3, 1)));
    ad_write(ctx, w, two, sizeof two);
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0));
    expect_error(ctx, "overwritten");
    // Nor a step of an optimiser between the forward and the backward pass.
    ad_optimizer *sgd = ad_sgd(ctx, &w, 1, NULL);
    y = total(ctx, ad_square(ctx, w));
    ad_optimizer_step(sgd);
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0));
    expect_error(ctx, "overwritten");
    // Nor the step that random numbers depend on.
    y = total(ctx, ad_dropout(ctx, ad_square(ctx, w), .5));
    ad_step_advance(ctx);
    cr_assert(!ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0));
    expect_error(ctx, "overwritten");
    ad_close(ctx);
}

Test(tape, a_second_backward_pass_after_release_is_an_error) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 1000)), dw[1];
    ad_tensor h = ad_exp(ctx, w), y = total(ctx, ad_tanh(ctx, h));
    size_t live = ad_memory_read(ctx).live_bytes;
    cr_assert(ad_grad_add(ctx, y, 1, &w, AD_GRAD_KEEP));
    cr_assert(ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, AD_GRAD_RELEASE));
    cr_assert_lt(ad_memory_read(ctx).live_bytes, live + 4096, "both intermediates went");
    cr_assert(!ad_grad_add(ctx, y, 1, &w, 0));
    expect_error(ctx, "given back by an earlier backward pass");
    ad_exp(ctx, h);
    expect_error(ctx, "given back");
    cr_assert(ad_item(ctx, y) > 0, "y stays readable");
    ad_close(ctx);
}

Test(tape, memory_comes_back_while_the_backward_pass_runs) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 1024)), x = w;
    ad_gradient(ctx, w);
    for (int i = 0; i < 100; i++) x = ad_sin(ctx, x);
    ad_tensor y = total(ctx, x);
    ad_memory_peak_reset(ctx);
    size_t live = ad_memory_read(ctx).live_bytes;
    cr_assert(ad_grad_add(ctx, y, 1, &w, 0));
    cr_assert_leq(ad_memory_read(ctx).peak_bytes, live + 8 * 4096, "a few more at the peak");
    cr_assert_leq(ad_memory_read(ctx).live_bytes, live - 95 * 4096);
    ad_close(ctx);
}

Test(tape, micro_batches_add_up) {
    enum { N = 64, K = 8 };
    float x[N], whole[4], parts[2][4];
    for (int i = 0; i < N; i++) x[i] = sinf((float)i);
    ad_context *ctx = open_context();
    float start[4] = {1, -2, .5, 3};
    ad_tensor w = ad_parameter(ctx, "w", ad_from(ctx, AD_F32, AD_SHAPE(4), start));
    for (int run = 0; run < 3; run++) {
        int pieces = run ? K : 1, rows = N / 4 / pieces;
        for (int k = 0; k < pieces; k++) {
            ad_scope_begin(ctx, "micro-batch");
            ad_tensor b = ad_from(ctx, AD_F32, AD_SHAPE(rows, 4), x + k * rows * 4);
            ad_tensor y = ad_tanh(ctx, total(ctx, ad_mul(ctx, b, w)));
            y = ad_add(ctx, ad_affine(ctx, y, 0, 0), total(ctx, ad_tanh(ctx, ad_mul(ctx, b, w))));
            cr_assert(ad_grad_add(ctx, y, 1, &w, 0), "%s", ad_error_text(ctx));
            ad_scope_end(ctx);
        }
        ad_read(ctx, ad_gradient(ctx, w), run ? parts[run - 1] : whole, sizeof whole);
        ad_assign(ctx, ad_gradient(ctx, w), ad_zeros(ctx, 4));
    }
    for (int i = 0; i < 4; i++)
        cr_assert_float_eq(whole[i], parts[0][i], 1e-6 * 16, "%g, %g", whole[i], parts[0][i]);
    cr_assert_arr_eq(parts[0], parts[1], sizeof whole, "the same bits for the same K");
    ad_close(ctx);
}

/* ---- checkpoint scopes */

typedef struct deep {
    float gradient[256];
    size_t peak;
    uint64_t launches;
    double flops;
} deep;

enum { LAYERS = 256, WIDTH = 256 };

static ad_tensor layer(ad_context *ctx, ad_tensor x, ad_tensor w, bool dropout) {
    x = ad_sin(ctx, ad_mul(ctx, x, w));
    return dropout ? ad_dropout(ctx, x, .1) : x;
}

static void run_deep(deep *result, int segments, bool dropout) {
    ad_context *ctx = open_context();
    float start[WIDTH];
    for (int i = 0; i < WIDTH; i++) start[i] = 1 + .5f * cosf((float)i);
    ad_tensor w = ad_parameter(ctx, "w", ad_from(ctx, AD_F32, AD_SHAPE(WIDTH), start)), x = w;
    ad_gradient(ctx, w), ad_step_tensor(ctx);
    size_t base = ad_memory_read(ctx).live_bytes;
    ad_memory_peak_reset(ctx);
    ad_scope_begin(ctx, "step");
    int each = LAYERS / (segments ? segments : 1);
    for (int i = 0; i < LAYERS; i++) {
        if (segments && i % each == 0) ad_checkpoint_begin(ctx);
        x = layer(ctx, x, w, dropout);
        if (segments && i % each == each - 1) ad_keep(ctx, x), ad_checkpoint_end(ctx);
    }
    result->launches = ad_memory_read(ctx).launches;
    cr_assert(ad_grad_add(ctx, total(ctx, x), 1, &w, 0), "%s", ad_error_text(ctx));
    result->launches = ad_memory_read(ctx).launches - result->launches;
    ad_read(ctx, ad_gradient(ctx, w), result->gradient, sizeof result->gradient);
    ad_scope_end(ctx);
    result->peak = ad_memory_read(ctx).peak_bytes - base;
    cr_assert(!ad_failed(ctx), "%s", ad_error_text(ctx));
    ad_close(ctx);
}

Test(tape, checkpoints_give_the_same_bits_in_root_memory) {
    static deep plain, segmented;
    for (int dropout = 0; dropout < 2; dropout++) {
        int parts = 2 + dropout; // tensors a layer
        run_deep(&plain, 0, dropout), run_deep(&segmented, 16, dropout);
        cr_assert_arr_eq(plain.gradient, segmented.gradient, sizeof plain.gradient);
        double blocks = (double)segmented.peak / (WIDTH * 4) / parts;
        cr_assert_leq(blocks, 32, "%g layers live at the peak", blocks);
        cr_assert_geq((double)plain.peak / (WIDTH * 4) / parts, 256);
        cr_assert_leq(segmented.launches - plain.launches, (uint64_t)(LAYERS * parts),
                      "at most one forward pass more: %lu and %lu", (unsigned long)plain.launches,
                      (unsigned long)segmented.launches);
    }
}

Test(tape, checkpoints_refuse_what_cannot_be_run_again) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_parameter(ctx, "w", ad_ones(ctx, 4)), dw[1];
    ad_checkpoint_begin(ctx);
    ad_tensor y = ad_sin(ctx, ad_exp(ctx, w)), kept = ad_keep(ctx, ad_exp(ctx, y));
    ad_checkpoint_end(ctx);
    ad_exp(ctx, y);
    expect_error(ctx, "checkpoint");
    ad_tensor z = total(ctx, kept);
    ad_accumulate(ctx, w, ad_ones(ctx, 4));
    cr_assert(!ad_grad(ctx, z, (ad_tensor){0}, 1, &w, dw, 0));
    expect_error(ctx, "written after the checkpoint scope ran");
    ad_checkpoint_begin(ctx), ad_checkpoint_begin(ctx);
    expect_error(ctx, "nest");
    ad_assign(ctx, w, ad_zeros(ctx, 4)), ad_checkpoint_end(ctx);
    expect_error(ctx, "writes a state");
    // A gradient taken inside, and one left open when its scope ends, leave the tape sound.
    ad_scope_begin(ctx, "step");
    ad_checkpoint_begin(ctx);
    z = total(ctx, ad_square(ctx, ad_exp(ctx, w)));
    cr_assert(ad_grad(ctx, z, (ad_tensor){0}, 1, &w, dw, 0), "%s", ad_error_text(ctx));
    y = ad_keep(ctx, total(ctx, ad_mul(ctx, ad_exp(ctx, w), ad_add(ctx, dw[0], dw[0]))));
    ad_checkpoint_end(ctx);
    cr_assert(ad_grad(ctx, y, (ad_tensor){0}, 1, &w, dw, 0), "%s", ad_error_text(ctx));
    double sum = ad_item(ctx, total(ctx, dw[0]));
    cr_assert_float_eq(sum, 16, 1e-5, "%g", sum);
    ad_checkpoint_begin(ctx), ad_exp(ctx, w);
    ad_scope_end(ctx);
    size_t nodes = ad_memory_read(ctx).node_count;
    ad_exp(ctx, ad_ones(ctx, 2));
    cr_assert_eq(ad_memory_read(ctx).node_count, nodes);
    ad_close(ctx);
}

/* ---- capture and replay */

typedef struct trainer {
    ad_context *ctx;
    ad_tensor w, b, x, target, loss;
    ad_optimizer *adam;
} trainer;

enum { BATCH = 16, IN = 8, STEPS = 100 };

static void open_trainer(trainer *t, ad_options options) {
    t->ctx = ad_open(&options);
    if (!t->ctx) return;
    float w[IN * 4];
    for (int i = 0; i < IN * 4; i++) w[i] = sinf((float)i);
    ad_scope_begin(t->ctx, "set-up");
    t->w = ad_parameter(t->ctx, "w", ad_from(t->ctx, AD_F32, AD_SHAPE(IN, 4), w));
    t->b = ad_parameter(t->ctx, "b", ad_zeros(t->ctx, 4));
    t->x = ad_state(t->ctx, "x", ad_zeros(t->ctx, BATCH, IN));
    t->target = ad_state(t->ctx, "target", ad_zeros(t->ctx, BATCH, 4));
    t->loss = ad_state(t->ctx, "loss", ad_scalar(t->ctx, AD_F32, 0));
    t->adam = ad_adam(t->ctx, (ad_tensor[]){t->w, t->b}, 2, NULL);
    ad_step_tensor(t->ctx);
    ad_scope_end(t->ctx);
}

static void training_step(trainer *t) {
    ad_context *ctx = t->ctx;
    ad_scope_begin(ctx, "step");
    ad_tensor wide = ad_reshape(ctx, ad_dropout(ctx, t->x, .2), AD_SHAPE(BATCH, IN, 1));
    ad_checkpoint_begin(ctx);
    ad_tensor z = ad_sum(ctx, ad_mul(ctx, wide, t->w), AD_AXIS(1), false);
    ad_tensor y = ad_keep(ctx, ad_tanh(ctx, ad_add(ctx, z, t->b)));
    ad_checkpoint_end(ctx);
    ad_tensor noise = ad_normal(ctx, AD_F32, AD_SHAPE(BATCH, 4), 0, .01);
    ad_tensor loss = ad_mse(ctx, ad_add(ctx, y, noise), t->target);
    ad_assign(ctx, t->loss, loss);
    ad_grad_add(ctx, loss, 2, (ad_tensor[]){t->w, t->b}, 0);
    ad_clip_norm(ctx, 2, (ad_tensor[]){t->w, t->b}, .5);
    ad_optimizer_step(t->adam);
    ad_step_advance(ctx);
    ad_scope_end(ctx);
}

static void feed(trainer *t, int step) {
    float x[BATCH * IN], y[BATCH * 4];
    for (int i = 0; i < BATCH * IN; i++) x[i] = cosf((float)(i * (step + 3)));
    for (int i = 0; i < BATCH * 4; i++) y[i] = .5f * sinf((float)(i + step));
    ad_write(t->ctx, t->x, x, sizeof x);
    ad_write(t->ctx, t->target, y, sizeof y);
}

// A live tensor of the program has other values after a replay: a rule that saved the first ones
// must not take those for them.
Test(tape, a_replay_overwrites_what_a_rule_saved) {
    ad_context *ctx = open_context();
    ad_tensor w = ad_state(ctx, "w", ad_ones(ctx, 3)), v = ad_watch(ctx, ad_ones(ctx, 3)), dv;
    ad_capture_begin(ctx);
    ad_tensor y = ad_affine(ctx, w, 2, 0);
    ad_program *program = ad_capture_end(ctx);
    ad_tensor before = total(ctx, ad_mul(ctx, y, v));
    ad_accumulate(ctx, w, ad_ones(ctx, 3));
    cr_assert(ad_grad(ctx, before, (ad_tensor){0}, 1, &v, &dv, 0), "w itself is not read");
    cr_assert(ad_replay(program), "%s", ad_error_text(ctx));
    cr_assert_not(ad_grad(ctx, before, (ad_tensor){0}, 1, &v, &dv, 0));
    expect_error(ctx, "overwritten");
    ad_tensor after = total(ctx, ad_mul(ctx, y, v));
    cr_assert_eq(ad_item(ctx, after), 12);
    cr_assert(ad_grad(ctx, after, (ad_tensor){0}, 1, &v, &dv, 0), "%s", ad_error_text(ctx));
    ad_program_free(program);
    ad_close(ctx);
}

Test(tape, a_replayed_step_has_the_bits_of_the_eager_one) {
    trainer eager, replayed;
    open_trainer(&eager, (ad_options){.threads = 2, .seed = 9, .poison = true});
    open_trainer(&replayed, (ad_options){.threads = 2, .seed = 9, .poison = true});
    ad_program *program = NULL;
    ad_memory before = {0};
    for (int step = 0; step < STEPS; step++) {
        feed(&eager, step), feed(&replayed, step);
        training_step(&eager);
        if (step == 0) {
            ad_capture_begin(replayed.ctx);
            training_step(&replayed);
            program = ad_capture_end(replayed.ctx);
            cr_assert(program, "%s", ad_error_text(replayed.ctx));
        } else {
            cr_assert(ad_replay(program), "%s", ad_error_text(replayed.ctx));
        }
        float a[IN * 4], b[IN * 4];
        ad_read(eager.ctx, eager.w, a, sizeof a), ad_read(replayed.ctx, replayed.w, b, sizeof b);
        cr_assert_arr_eq(a, b, sizeof a, "step %d", step);
        double loss[] = {ad_item(eager.ctx, eager.loss), ad_item(replayed.ctx, replayed.loss)};
        cr_assert(!memcmp(&loss[0], &loss[1], 8) && isfinite(loss[0]), "step %d", step);
        ad_memory now = ad_memory_read(replayed.ctx);
        if (step > 1) cr_assert_eq(now.live_bytes, before.live_bytes);
        before = now;
    }
    cr_assert(!ad_failed(eager.ctx) && !ad_failed(replayed.ctx));
    cr_assert_gt(ad_program_launches(program), 20);
    cr_assert_gt(ad_program_bytes(program), 0);
    ad_program_free(program);
    ad_close(eager.ctx), ad_close(replayed.ctx);
}

Test(tape, a_capture_refuses_values_of_the_host) {
    ad_context *ctx = open_context();
    ad_tensor s = ad_state(ctx, "s", ad_ones(ctx, 2));
    float two[2];
    const char *text[] = {"ad_read", "ad_read", "ad_write", "'new'", "being captured already"};
    for (int i = 0; i < 5; i++) {
        ad_capture_begin(ctx);
        ad_tensor y = ad_exp(ctx, s);
        if (i == 0) ad_read(ctx, y, two, sizeof two);
        if (i == 1) ad_item(ctx, total(ctx, y));
        if (i == 2) ad_write(ctx, s, two, sizeof two);
        if (i == 3) ad_state(ctx, "new", y);
        if (i == 4) ad_capture_begin(ctx);
        cr_assert_null(ad_capture_end(ctx));
        expect_error(ctx, text[i]);
    }
    cr_assert_null(ad_capture_end(ctx));
    expect_error(ctx, "ad_capture_begin");
    // What is alive at the end holds what the last run computed.
    ad_capture_begin(ctx);
    ad_tensor y = ad_affine(ctx, ad_add(ctx, s, s), 3, 0);
    ad_program *program = ad_capture_end(ctx);
    cr_assert(program, "%s", ad_error_text(ctx));
    ad_write(ctx, s, (float[]){5, 7}, 8);
    cr_assert(ad_replay(program) && ad_read(ctx, y, two, 8) && two[0] == 30 && two[1] == 42);
    ad_free(ctx, y), ad_free(ctx, s);
    cr_assert(ad_replay(program), "a program holds what it needs");
    ad_program_free(program);
    ad_close(ctx);
}

/* ---- the k-th allocation fails */

typedef struct memory {
    long count, fail_from, fail_to, outstanding;
} memory;

static void *counted_allocate(void *user, size_t bytes) {
    memory *m = user;
    long k = m->count++;
    if (k >= m->fail_from && k < m->fail_to) return NULL;
    void *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    m->outstanding += block != NULL;
    return block;
}

static void counted_release(void *user, void *block) {
    memory *m = user;
    m->outstanding -= block != NULL;
    free(block);
}

// Opens, trains a step, captures and replays one; then, with memory again, trains another.
static bool train_with(memory *m) {
    trainer t = {0};
    open_trainer(&t, (ad_options){.threads = 1, .seed = 9, .allocate = counted_allocate,
                                  .release = counted_release, .user = m});
    if (t.ctx) {
        feed(&t, 0), training_step(&t);
        ad_capture_begin(t.ctx);
        training_step(&t);
        ad_program *program = ad_capture_end(t.ctx);
        ad_replay(program);
        bool failed = ad_failed(t.ctx);
        if (failed)
            cr_assert(strstr(ad_error_text(t.ctx), "out of memory"), "allocation %ld: %s",
                      m->fail_from, ad_error_text(t.ctx));
        m->fail_from = m->fail_to = 1L << 40;
        ad_error_clear(t.ctx);
        if (program || !failed) ad_program_free(program);
        ad_tensor x = ad_watch(t.ctx, ad_full(t.ctx, AD_F32, AD_SHAPE(5), 2)), dx;
        ad_tensor y = total(t.ctx, ad_square(t.ctx, x));
        cr_assert(ad_grad(t.ctx, y, (ad_tensor){0}, 1, &x, &dx, 0), "%s", ad_error_text(t.ctx));
        cr_assert_eq(ad_item(t.ctx, total(t.ctx, dx)), 20);
        ad_close(t.ctx);
    }
    cr_assert_eq(m->outstanding, 0, "%ld blocks were not given back", m->outstanding);
    return true;
}

Test(tape, any_allocation_may_fail) {
    memory m = {.fail_from = 1L << 40, .fail_to = 1L << 40};
    train_with(&m);
    long all = m.count;
    cr_assert_gt(all, 50);
    for (long k = 0; k < all; k++) { // that one only, and all from there on
        m = (memory){.fail_from = k, .fail_to = k + 1};
        train_with(&m);
        m = (memory){.fail_from = k, .fail_to = 1L << 40};
        train_with(&m);
    }
}
