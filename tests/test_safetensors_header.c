/* safetensors headers by strangers: every way in which one can lie must end in a sentence. A file
   of the format's own Python package opens. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/safetensors.h"
#include "fuzz/fuzz.h"

/* Written by safetensors 0.8.0 for Python: {"b": int32 [[1,2,3]], "a": float16 [1.5]}, k -> v. */
static const char known_foreign[] =
    "\x90\0\0\0\0\0\0\0"
    "{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"I32\",\"shape\":[1,3],\"data_offsets\":"
    "[0,12]},\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[12,14]}}       "
    "\1\0\0\0\2\0\0\0\3\0\0\0\0\x3e";

Test(safetensors_header, opens_a_foreign_file_and_no_truncation_of_it) {
    size_t count = sizeof known_foreign - 1;
    ad_safetensors file;
    ad_message error = { "" };
    cr_assert(ad_safetensors_open_memory(&file, known_foreign, count, "foreign", &error), "%s",
              error.text);
    int32_t b[3];
    const ad_safetensors_tensor *t =
        ad_safetensors_expect(&file, "b", "I32", 2, (uint64_t[]){ 1, 3 }, &error);
    cr_assert_not_null(t, "%s", error.text);
    cr_assert(ad_safetensors_read(&file, b, t, 0, sizeof b, &error));
    cr_expect(b[0] == 1 && b[1] == 2 && b[2] == 3);
    cr_expect_str_eq(ad_safetensors_value(&file, "k"), "v");
    ad_safetensors_free(&file);

    for (size_t cut = 0; cut < count; cut++) {
        char *exact = malloc(cut + 1); // exactly as long, so that ASan sees a read past the end
        memcpy(exact, known_foreign, cut);
        error.text[0] = 0;
        cr_expect_not(ad_safetensors_open_memory(&file, exact, cut, "cut", &error), "%zu", cut);
        cr_expect_neq(error.text[0], 0);
        free(exact);
    }
}

/* Opens a file of this header and `data` zero bytes; returns the sentence, "" if it opened. */
static const char *open_header(const char *header, size_t data) {
    static ad_message error;
    size_t length = strlen(header);
    unsigned char *bytes = calloc(1, 8 + length + data);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    ad_safetensors file;
    error.text[0] = 0;
    bool opened = ad_safetensors_open_memory(&file, bytes, 8 + length + data, "x", &error);
    cr_expect_eq(opened, error.text[0] == 0);
    ad_safetensors_free(&file);
    free(bytes);
    return error.text;
}

#define ONE(shape, offsets)                                                                        \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}}"

Test(safetensors_header, malformed_and_hostile) {
    static const struct {
        const char *header;
        size_t data;
        const char *sentence;
    } cases[] = {
        { ONE("2", "0,8"), 8, "" },
        { "{}", 0, "" },
        { "{ } \n", 0, "" },
        { ONE("0,18446744073709551615", "0,0"), 0, "" }, // an empty axis: nothing to store
        { "{\"\\u00e4\\ud83d\\ude00\":{\"shape\":[],\"data_offsets\":[0,1],\"dtype\":\"U8\"}}", 1,
          "" },
        { "", 0, "expected '{'" },
        { "[]", 0, "expected '{'" },
        { "{}x", 0, "nothing but spaces" },
        { "{}", 1, "expected 0 bytes of data" },
        { ONE("2", "0,8"), 7, "expected 8 bytes of data" },
        { ONE("2", "0,8"), 9, "expected 8 bytes of data" },
        { ONE("2", "4,12"), 12, "begin at byte 0, found 4" },
        { ONE("2", "8,0"), 8, "its offsets are 8 and 0" },
        { ONE("2", "0,4"), 4, "need 8 bytes" },
        // Offsets that wrap around and would end where the data does.
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":"
          "[0,9223372036854775807]},\"b\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],"
          "\"data_offsets\":[9223372036854775807,18446744073709551614]},\"c\":{\"dtype\":\"U8\","
          "\"shape\":[8],\"data_offsets\":[18446744073709551614,6]}}",
          6, "its offsets are 18446744073709551614 and 6" },
        { ONE("2", "0"), 8, "two 'data_offsets'" },
        { ONE("2", "0,8,8"), 8, "two offsets" },
        { ONE("-2", "0,8"), 8, "a whole number" },
        { ONE("2.0", "0,8"), 8, "',' or ']'" },
        { ONE("02", "0,8"), 8, "a whole number" },
        { ONE("2,", "0,8"), 8, "a whole number" },
        { ONE("1,1,1,1,1,1,1,1,1", "0,4"), 4, "at most 8 axes" },
        { ONE("4611686018427387904,4", "0,0"), 0, "a size below 2^63" },
        { ONE("18446744073709551616", "0,0"), 0, "below 2^64" },
        { ONE("99999999999999999999999", "0,0"), 0, "below 2^64" },
        { ONE("2305843009213693951", "0,9223372036854775804"), 8, "expected 9223372036854775804" },
        { "{\"a\":{\"dtype\":\"F31\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "a known type" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "two 'data_offsets'" },
        { "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[]}}", 4, "each once" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"shape\":[],\"data_offsets\":[0,1]}}", 1,
          "each once" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", 4,
          "each once" },
        { "{\"a\":{}}", 0, "a string" },
        { "{\"a\":[[[[[[[[]]]]]]]]}", 0, "an object that describes a tensor" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
          2, "\"a\" twice" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
          "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
          2, "\"a\" twice" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
          3, "begin at byte 2, found 1" },
        { "{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", 0, "the key \"k\" twice" },
        { "{\"__metadata__\":{\"k\":1}}", 0, "a string" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "only once" },
        { "{\"a\\u0000b\":{}}", 0, "a valid escape" },
        { "{\"a\\ud800\":{}}", 0, "a valid escape" },
        { "{\"a\\ud800\\u0041\":{}}", 0, "a valid escape" },
        { "{\"a\\udc00\":{}}", 0, "a valid escape" },
        { "{\"a\\x\":{}}", 0, "a valid escape" },
        { "{\"a\\", 0, "a valid escape" },
        { "{\"a\\u12", 0, "a valid escape" },
        { "{\"a\xff\":{}}", 0, "well-formed UTF-8" },
        { "{\"a\xc0\x80\":{}}", 0, "well-formed UTF-8" },
        { "{\"a\nb\":{}}", 0, "control characters" },
        { "{\"\\u001b[31m\":{}}", 0, "control characters" },
        { "{\"a", 0, "the end of the string" },
        { "{\"a\"", 0, "':'" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},}", 1, "a string" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *sentence = open_header(cases[i].header, cases[i].data);
        bool good = *cases[i].sentence ? strstr(sentence, cases[i].sentence) != NULL : !*sentence;
        cr_expect(good, "%s: expected '%s', got '%s'", cases[i].header, cases[i].sentence,
                  sentence);
    }
}

Test(safetensors_header, header_lengths_that_lie) {
    ad_safetensors file;
    ad_message error;
    static const unsigned char lengths[][8] = {
        { 3 },
        { 255, 255, 255, 255, 255, 255, 255, 255 },
        { 0, 0, 0, 0, 0, 0, 0, 128 },
        { 0, 0, 0, 255 },
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char bytes[10] = "........{}";
        memcpy(bytes, lengths[i], 8);
        cr_expect_not(ad_safetensors_open_memory(&file, bytes, sizeof bytes, "x", &error));
        cr_expect(strstr(error.text, "expected a safetensors file"), "%s", error.text);
    }
}

/* What 104 million runs of the fuzzer found worth keeping, once more: no crash, no promise broken.
 */
Test(safetensors_header, the_fuzzers_corpus) {
    DIR *corpus = opendir("fuzz/corpus/safetensors");
    int replayed = 0;
    cr_assert_not_null(corpus);
    for (struct dirent *entry; (entry = readdir(corpus));) {
        char path[512];
        uint8_t bytes[8192];
        snprintf(path, sizeof path, "fuzz/corpus/safetensors/%s", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!file) continue;
        size_t count = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        cr_expect_eq(fuzz_safetensors(bytes, count), 0);
        replayed++;
    }
    closedir(corpus);
    cr_expect_geq(replayed, 50, "%d files replayed", replayed);
}
