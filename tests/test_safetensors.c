/* safetensors files written by us and read back: the values, the bytes of the file, and that a
   failure midway leaves the old file as it was. What strangers write is the matter of
   test_safetensors_header.c. */
#define _DEFAULT_SOURCE 1
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "autodiff/file.h"
#include "autodiff/safetensors.h"
#include "tests/fixtures.h"

static fixture_folder folder;

static void folder_make(void) { fixture_make(&folder); }
static void folder_remove(void) { fixture_remove(&folder); }
static const char *in_folder(const char *name) { return fixture_path(&folder, name); }

TestSuite(safetensors, .init = folder_make, .fini = folder_remove);

static const float weights[2][3] = { { 1, 2, 3 }, { 4, 5, 6.5f } };
static const uint8_t flags[3] = { 7, 8, 9 };
static const double moments[2] = { 0.1, -1e300 };

/* Reads `moments` through the callback. */
static bool moments_read(void *user, void *bytes, uint64_t offset, size_t count,
                         ad_message *error) {
    (void)error;
    ++*(int *)user;
    memcpy(bytes, (const char *)moments + offset, count);
    return true;
}

static int moments_calls;
static const ad_safetensors_source sources[] = {
    { .name = "flags", .dtype = "U8", .rank = 1, .shape = { 3 }, .data = flags },
    { .name = "w\"1\"", .dtype = "F32", .rank = 2, .shape = { 2, 3 }, .data = weights },
    { .name = "empty", .dtype = "I32", .rank = 2, .shape = { 0, 5 } },
    { .name = "moments/\xc3\xa4",
      .dtype = "F64",
      .rank = 1,
      .shape = { 2 },
      .read = moments_read,
      .user = &moments_calls },
    { .name = "scalar", .dtype = "F32", .rank = 0, .data = &weights[1][2] },
};
static const ad_safetensors_pair metadata[] = { { "settings", "{\"a\":\n1}" }, { "step", "12" } };

Test(safetensors, round_trip) {
    const char *path = in_folder("a.safetensors");
    ad_message error = { "" };
    cr_assert(ad_safetensors_write(path, sources, 5, metadata, 2, &error), "%s", error.text);
    cr_expect_eq(moments_calls, 1);
    cr_expect_neq(access(in_folder("a.safetensors.part"), F_OK), 0, "temporary file left");

    ad_safetensors file;
    path = in_folder("a.safetensors");
    cr_assert(ad_safetensors_open(&file, path, &error), "%s", error.text);
    cr_expect_eq(file.tensor_count, 5);
    cr_expect_str_eq(ad_safetensors_value(&file, "settings"), "{\"a\":\n1}");
    cr_expect_str_eq(ad_safetensors_value(&file, "step"), "12");
    cr_expect_null(ad_safetensors_value(&file, "flags"));
    cr_expect_null(ad_safetensors_find(&file, "w1"));

    // Values come back, whole and in part, and every array is aligned to its element.
    float w[2][3] = { { 0 } }, scalar = 0;
    uint8_t f[2] = { 0 };
    double m[2] = { 0 };
    const ad_safetensors_tensor *t =
        ad_safetensors_expect(&file, "w\"1\"", "F32", 2, (uint64_t[]){ 2, 3 }, &error);
    cr_assert_not_null(t, "%s", error.text);
    cr_assert(ad_safetensors_read(&file, w, t, 0, sizeof w, &error));
    cr_expect_arr_eq(w, weights, sizeof w);
    t = ad_safetensors_expect(&file, "moments/\xc3\xa4", "F64", 1, (uint64_t[]){ 2 }, &error);
    cr_assert_not_null(t, "%s", error.text);
    cr_assert(ad_safetensors_read(&file, m, t, 0, sizeof m, &error));
    cr_expect_arr_eq(m, moments, sizeof m);
    t = ad_safetensors_expect(&file, "scalar", "F32", 0, NULL, &error);
    cr_assert_not_null(t, "%s", error.text);
    cr_assert(ad_safetensors_read(&file, &scalar, t, 0, sizeof scalar, &error));
    cr_expect_eq(scalar, 6.5f);
    t = ad_safetensors_find(&file, "flags");
    cr_assert(ad_safetensors_read(&file, f, t, 1, 2, &error));
    cr_expect(f[0] == 8 && f[1] == 9);
    t = ad_safetensors_find(&file, "w\"1\""); // others follow it in the file
    cr_expect_not(ad_safetensors_read(&file, f, t, 23, 2, &error), "read past the end");
    cr_expect(strstr(error.text, "past its end"), "%s", error.text);
    cr_expect_not(ad_safetensors_read(&file, f, t, UINT64_MAX, 2, &error));
    for (size_t i = 0; i < file.tensor_count; i++) {
        const ad_safetensors_tensor *any = &file.tensors[i];
        cr_expect_eq((file.data_start + any->offset) % ad_safetensors_element_bytes(any->dtype), 0,
                     "%s is not aligned", any->name);
    }

    // What is not as expected is told with both shapes.
    t = ad_safetensors_expect(&file, "w\"1\"", "F32", 2, (uint64_t[]){ 3, 2 }, &error);
    cr_expect_null(t);
    cr_expect(strstr(error.text, "expected F32 (3, 2), found F32 (2, 3)"), "%s", error.text);
    cr_expect_null(ad_safetensors_expect(&file, "nobody", "F32", 0, NULL, &error));
    cr_expect(strstr(error.text, "found none"), "%s", error.text);
    ad_safetensors_free(&file);
    ad_safetensors_free(&file);
}

Test(safetensors, same_input_same_bytes) {
    size_t counts[2];
    unsigned char *bytes[2];
    ad_message error = { "" };
    for (int i = 0; i < 2; i++) {
        const char *path = in_folder(i ? "b" : "a");
        cr_assert(ad_safetensors_write(path, sources, 5, metadata, 2, &error), "%s", error.text);
        bytes[i] = fixture_read(path, &counts[i]);
    }
    cr_assert_eq(counts[0], counts[1]);
    cr_expect_arr_eq(bytes[0], bytes[1], counts[0]);

    // The whole layout, once by hand: wide first, header padded to eight, no hole.
    static const char header[] =
        "{\"__metadata__\":{\"settings\":\"{\\\"a\\\":\\n1}\",\"step\":\"12\"},"
        "\"moments/\xc3\xa4\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},"
        "\"w\\\"1\\\"\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[16,40]},"
        "\"empty\":{\"dtype\":\"I32\",\"shape\":[0,5],\"data_offsets\":[40,40]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[40,44]},"
        "\"flags\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[44,47]}}";
    size_t length = (sizeof header - 1 + 7) / 8 * 8;
    cr_assert_eq(counts[0], 8 + length + 47, "%zu bytes", counts[0]);
    cr_expect_eq(bytes[0][0] + 256 * bytes[0][1], (int)length);
    cr_expect_eq(memcmp(bytes[0] + 8, header, sizeof header - 1), 0);
    free(bytes[0]);
    free(bytes[1]);
}

Test(safetensors, many_tensors) {
    enum { COUNT = 1000 };
    static char names[COUNT][16];
    static ad_safetensors_source many[COUNT];
    ad_message error = { "" };
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        many[i] = (ad_safetensors_source){ .name = names[i],
                                           .dtype = i % 3 ? "U8" : "F32",
                                           .rank = 1,
                                           .shape = { 2 },
                                           .data = weights };
    }
    const char *path = in_folder("many");
    cr_assert(ad_safetensors_write(path, many, COUNT, NULL, 0, &error), "%s", error.text);
    ad_safetensors file;
    cr_assert(ad_safetensors_open(&file, path, &error), "%s", error.text);
    cr_expect_eq(file.tensor_count, (size_t)COUNT);
    ad_safetensors_free(&file);

    // Two of one name are refused before anything is written.
    strcpy(names[7], "t8");
    cr_expect_not(ad_safetensors_write(in_folder("twice"), many, COUNT, NULL, 0, &error));
    cr_expect(strstr(error.text, "\"t8\" twice"), "%s", error.text);
    cr_expect_neq(access(in_folder("twice"), F_OK), 0);
}

Test(safetensors, bad_sources) {
    ad_message error;
    ad_safetensors_source source = { .name = "", .dtype = "F32", .data = weights };
    cr_expect_not(ad_safetensors_write(in_folder("x"), &source, 1, NULL, 0, &error));
    source.name = "__metadata__";
    cr_expect_not(ad_safetensors_write(in_folder("x"), &source, 1, NULL, 0, &error));
    source = (ad_safetensors_source){ .name = "a", .dtype = "FLOAT", .data = weights };
    cr_expect_not(ad_safetensors_write(in_folder("x"), &source, 1, NULL, 0, &error));
    cr_expect(strstr(error.text, "a known type"), "%s", error.text);
    source = (ad_safetensors_source){ .name = "a", .dtype = "F32" };
    cr_expect_not(ad_safetensors_write(in_folder("x"), &source, 1, NULL, 0, &error));
    cr_expect(strstr(error.text, "expected data"), "%s", error.text);
}

static bool refusing_read(void *user, void *bytes, uint64_t offset, size_t count,
                          ad_message *error) {
    (void)user, (void)bytes, (void)offset, (void)count;
    return ad_fail(error, "the device is lost");
}

/* A failure midway must leave the old file as it was and nothing beside it. */
static void expect_old_file_kept(const ad_message *error, const char *sentence) {
    cr_expect(strstr(error->text, sentence), "expected '%s', got '%s'", sentence, error->text);
    ad_safetensors file;
    ad_message opening = { "" };
    cr_assert(ad_safetensors_open(&file, in_folder("s"), &opening), "%s", opening.text);
    cr_expect_eq(file.tensor_count, 5);
    ad_safetensors_free(&file);
    cr_expect_neq(access(in_folder("s.part"), F_OK), 0, "temporary file left");
}

Test(safetensors, failures_midway_keep_the_old_file) {
    ad_message error = { "" };
    static char large[1 << 18];
    ad_safetensors_source source = {
        .name = "a", .dtype = "U8", .rank = 1, .shape = { sizeof large }, .read = refusing_read
    };
    cr_assert(ad_safetensors_write(in_folder("s"), sources, 5, metadata, 2, &error));
    cr_expect_not(ad_safetensors_write(in_folder("s"), &source, 1, NULL, 0, &error));
    expect_old_file_kept(&error, "the device is lost");

    // A disk that is full: a limit on file sizes fails the same writes as ENOSPC would.
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit, narrow;
    getrlimit(RLIMIT_FSIZE, &limit);
    narrow = limit;
    narrow.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &narrow);
    source.read = NULL;
    source.data = large;
    bool written = ad_safetensors_write(in_folder("s"), &source, 1, NULL, 0, &error);
    cr_expect_not(written);
    expect_old_file_kept(&error, "cannot be written");
    narrow.rlim_cur = 100; // so little that everything still waits in the buffer at the commit
    setrlimit(RLIMIT_FSIZE, &narrow);
    written = ad_safetensors_write(in_folder("s"), sources, 4, metadata, 2, &error);
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_expect_not(written);
    expect_old_file_kept(&error, "cannot be written");

    // Another process in the middle of the same file.
    ad_file other;
    cr_assert(ad_file_begin(&other, in_folder("s"), &error), "%s", error.text);
    cr_expect_not(ad_safetensors_write(in_folder("s"), sources, 5, NULL, 0, &error));
    cr_expect(strstr(error.text, "another process"), "%s", error.text);
    ad_file_discard(&other);
    expect_old_file_kept(&error, "another process");

    // A stale temporary file of a killed run is taken over.
    cr_assert(ad_file_save(in_folder("s.part"), large, sizeof large, &error), "%s", error.text);
    cr_assert(ad_safetensors_write(in_folder("s"), sources, 5, metadata, 2, &error));
    expect_old_file_kept(&(ad_message){ "taken over" }, "taken over");
}

Test(safetensors, places_that_cannot_be_written) {
    ad_message error = { "" };
    fixture_text(&folder, "no", "a file where a folder is wanted");
    cr_expect_not(ad_safetensors_write(in_folder("no/where"), sources, 5, NULL, 0, &error));
    cr_expect(strstr(error.text, "cannot be created"), "%s", error.text);
    cr_expect_not(ad_safetensors_write(folder.path, sources, 5, NULL, 0, &error));
    cr_expect(strstr(error.text, "found a folder"), "%s", error.text);
    if (access("/dev/full", W_OK) == 0) {
        cr_expect_not(ad_safetensors_write("/dev/full", sources, 5, NULL, 0, &error));
        cr_expect(strstr(error.text, "the disk is full"), "%s", error.text);
        struct stat status;
        cr_expect(stat("/dev/full", &status) == 0 && S_ISCHR(status.st_mode), "replaced a device");
    }

    // The owner's missing right to write means nothing to root, who must become somebody first.
    cr_assert_eq(chmod(folder.path, 0555), 0);
    bool root = geteuid() == 0;
    cr_assert(!root || seteuid(65534) == 0);
    bool written = ad_safetensors_write(in_folder("s"), sources, 5, NULL, 0, &error);
    cr_assert(!root || seteuid(0) == 0);
    chmod(folder.path, 0755);
    cr_expect_not(written);
    cr_expect(strstr(error.text, "cannot be created: Permission denied"), "%s", error.text);
}

Test(safetensors, places_that_cannot_be_read) {
    ad_safetensors file;
    ad_message error;
    cr_expect_not(ad_safetensors_open(&file, in_folder("none"), &error));
    cr_expect(strstr(error.text, "cannot be opened"), "%s", error.text);
    cr_expect_not(ad_safetensors_open(&file, folder.path, &error));
    cr_expect(strstr(error.text, "expected a file"), "%s", error.text);
    cr_expect_not(ad_safetensors_open(&file, "/dev/zero", &error));
    cr_expect_eq(mkfifo(in_folder("pipe"), 0600), 0);
    cr_expect_not(ad_safetensors_open(&file, in_folder("pipe"), &error));
    ad_safetensors_free(&file);
}
