/* ad_save and ad_load: training that was broken off goes on bitwise as if it had not been, and a
 * file that does not fit is refused in a sentence, with nothing changed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "autodiff/save.h"
#include "tests/fixtures.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static fixture_folder folder;
static void folder_make(void) { fixture_make(&folder); }
static void folder_remove(void) { fixture_remove(&folder); }
static const char *in_folder(const char *name) { return fixture_path(&folder, name); }
TestSuite(save, .init = folder_make, .fini = folder_remove);

enum { TENSORS = 9 };

typedef struct training {
    ad_context *ctx;
    ad_optimizer *adam;
    ad_tensor all[TENSORS]; // w, b, their moments and step counters, the random stream's step
} training;

static void begin(training *t) {
    ad_context *ctx = t->ctx = ad_open(&(ad_options){.threads = 1, .seed = 3});
    t->all[0] = ad_parameter(ctx, "w", ad_full(ctx, AD_F32, AD_SHAPE(3, 2), .5));
    t->all[1] = ad_parameter(ctx, "b", ad_zeros(ctx, 3));
    t->adam = ad_adam(ctx, t->all, 2, NULL);
    cr_assert_eq(ad_optimizer_states(t->adam, 6, t->all + 2), 6);
    t->all[8] = ad_step_tensor(ctx);
    cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
}

static void train(training *t, int steps) {
    ad_context *ctx = t->ctx;
    for (int i = 0; i < steps; i++) {
        ad_scope_begin(ctx, "step");
        ad_tensor x = ad_normal(ctx, AD_F32, AD_SHAPE(4, 2), 0, 1);
        ad_tensor y = ad_tanh(ctx, ad_linear(ctx, x, t->all[0], t->all[1]));
        ad_grad_add(ctx, ad_mean(ctx, ad_square(ctx, y), AD_ALL_AXES, false), 2, t->all, 0);
        ad_optimizer_step(t->adam);
        ad_step_advance(ctx);
        ad_scope_end(ctx);
    }
    cr_assert_not(ad_failed(ctx), "%s", ad_error_text(ctx));
}

static void expect_same(training *a, training *b) {
    for (int i = 0; i < TENSORS; i++) {
        char x[64], y[64];
        size_t bytes = 4 * (size_t)ad_count(a->ctx, a->all[i]);
        cr_assert(ad_read(a->ctx, a->all[i], x, bytes) && ad_read(b->ctx, b->all[i], y, bytes));
        cr_assert_eq(memcmp(x, y, bytes), 0, "%s differs", ad_name(a->ctx, a->all[i]));
    }
}

// Files are written in pieces of 1 MiB: every byte of a longer tensor comes back, of every type.
Test(save, long_tensors_of_every_type_come_back) {
    enum { MANY = 400001, BYTES = 8 * MANY };
    static const char *const names[AD_TYPES] = {"f32", "f64", "f16", "bf16", "i32", "u32"};
    static uint8_t saved[BYTES], loaded[BYTES];
    ad_message error = {""};
    for (int i = 0; i < BYTES; i++) saved[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
    for (int to_file = 1; to_file >= 0; to_file--) {
        ad_context *ctx = ad_open(&(ad_options){.threads = 1});
        ad_tensor all[AD_TYPES];
        for (int i = 0; i < AD_TYPES; i++) {
            all[i] = ad_state(ctx, names[i], ad_full(ctx, (ad_type)i, AD_SHAPE(MANY), 0));
            if (to_file) ad_write(ctx, all[i], saved, MANY * ad_type_bytes((ad_type)i));
        }
        const char *path = in_folder("long.safetensors");
        bool good = to_file ? ad_save(ctx, path, AD_TYPES, all, &error)
                            : ad_load(ctx, path, AD_TYPES, all, &error);
        cr_assert(good && !ad_failed(ctx), "%s %s", error.text, ad_error_text(ctx));
        for (int i = 0; i < AD_TYPES && !to_file; i++) {
            size_t bytes = MANY * ad_type_bytes((ad_type)i);
            ad_read(ctx, all[i], loaded, bytes);
            cr_expect_eq(memcmp(loaded, saved, bytes), 0, "%s", names[i]);
        }
        ad_close(ctx);
    }
}

Test(save, training_goes_on_bitwise_as_if_it_had_not_been_broken_off) {
    training whole, first, second;
    ad_message error = {""};
    begin(&whole), begin(&first), begin(&second);
    train(&whole, 20), train(&first, 12);
    const char *path = in_folder("run.safetensors");
    cr_assert(ad_save(first.ctx, path, TENSORS, first.all, &error), "%s", error.text);
    cr_assert(ad_load(second.ctx, path, TENSORS, second.all, &error), "%s", error.text);
    train(&second, 8);
    expect_same(&whole, &second);
    ad_close(whole.ctx), ad_close(first.ctx), ad_close(second.ctx);
}

static void expect_refused(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
                           const char *part) {
    ad_message error = {""};
    cr_assert_not(ad_load(ctx, path, count, tensors, &error), "no error: %s", part);
    cr_assert(strstr(error.text, part), "'%s' lacks '%s'", error.text, part);
    cr_assert_not(ad_failed(ctx), "a file that does not fit is no failure of the context");
}

Test(save, a_file_that_does_not_fit_changes_nothing) {
    training t;
    ad_message error = {""};
    begin(&t);
    ad_context *ctx = t.ctx;
    const char *path = in_folder("run.safetensors");
    cr_assert(ad_save(ctx, path, 2, t.all, &error), "%s", error.text);
    train(&t, 1);
    float before[6], after[6];
    cr_assert(ad_read(ctx, t.all[0], before, sizeof before));

    expect_refused(ctx, path, TENSORS, t.all, "w.adam_m"); // a name that is missing
    ad_tensor wrong[] = {t.all[0], ad_state(ctx, "b", ad_zeros(ctx, 4))};
    expect_refused(ctx, path, 2, wrong, "\"b\"");
    wrong[1] = ad_state(ctx, "b", ad_full(ctx, AD_F64, AD_SHAPE(3), 0));
    expect_refused(ctx, path, 2, wrong, "F64");
    wrong[1] = ad_ones(ctx, 3);
    expect_refused(ctx, path, 2, wrong, "tensor 1 of 2 has no name");
    expect_refused(ctx, path, 2, (ad_tensor[]){t.all[0], {0}}, path);
    expect_refused(ctx, in_folder("none.safetensors"), 2, t.all, "none.safetensors");

    // Cut short by one byte.
    char bytes[4096];
    FILE *file = fopen(path, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    file = fopen(in_folder("cut.safetensors"), "wb");
    fwrite(bytes, 1, size - 1, file);
    fclose(file);
    expect_refused(ctx, in_folder("cut.safetensors"), 2, t.all, "cut.safetensors");

    cr_assert(ad_read(ctx, t.all[0], after, sizeof after));
    cr_assert_eq(memcmp(before, after, sizeof before), 0);
    ad_close(ctx);
}

// A disk that fails: in the place of the C library's, for the whole program. The library reads by
// no other call. reads_left < 0: none fails.
static int reads_left = -1;
ssize_t pread(int descriptor, void *bytes, size_t count, off_t at) {
    if (reads_left < 0 || reads_left-- > 0)
        return syscall(SYS_pread64, descriptor, bytes, count, at);
    reads_left = 0, errno = EIO;
    return -1;
}

Test(save, a_disk_that_fails_midway_changes_nothing) {
    training t, before;
    ad_message error = {""};
    begin(&t), begin(&before);
    const char *path = in_folder("run.safetensors");
    cr_assert(ad_save(t.ctx, path, TENSORS, t.all, &error), "%s", error.text);
    train(&t, 3), train(&before, 3);
    int failed = 0;
    for (bool loaded = false; !loaded && failed < 100; failed += !loaded) {
        reads_left = failed;
        loaded = ad_load(t.ctx, path, TENSORS, t.all, &error);
        reads_left = -1;
        if (loaded) break;
        cr_assert(strstr(error.text, "run.safetensors: cannot be read"), "%s", error.text);
        expect_same(&t, &before);
    }
    cr_assert_eq(failed, 2 + TENSORS, "two reads for the header, one for each tensor");
    ad_close(t.ctx), ad_close(before.ctx);
}

// Names need not be unique in a context (two optimisers have a learning_rate each), in a file they
// must: nothing is lost silently, and the file before stays.
Test(save, two_tensors_of_one_name_are_refused) {
    training t, again;
    ad_message error = {""};
    begin(&t), begin(&again);
    const char *path = in_folder("run.safetensors");
    cr_assert(ad_save(t.ctx, path, TENSORS, t.all, &error), "%s", error.text);
    ad_tensor twice[] = {t.all[0], ad_parameter(t.ctx, "w", ad_ones(t.ctx, 3, 2))};
    cr_assert_not(ad_save(t.ctx, path, 2, twice, &error));
    cr_assert(strstr(error.text, "\"w\" twice"), "%s", error.text);
    cr_assert(ad_load(again.ctx, path, TENSORS, again.all, &error), "%s", error.text);
    ad_raise(t.ctx, "a loss of nan");
    cr_assert_not(ad_save(t.ctx, path, 2, t.all, &error));
    cr_assert(strstr(error.text, "a loss of nan"), "%s", error.text);
    ad_close(t.ctx), ad_close(again.ctx);
}
