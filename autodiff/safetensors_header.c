/* The header of a safetensors file, read from a stranger. It is one JSON object,

       {"__metadata__": {"key": "value", ...},
        "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

   padded with spaces. The format allows so little of JSON (objects of known depth, strings, whole
   numbers) that a scanner for exactly this grammar is smaller and stricter than a general parser:
   no recursion, hence no nesting to bound; no numbers but 64-bit ones. Strings are decoded where
   they stand, since an escape is never shorter than what it stands for, so the names of the tensors
   point into the header's own bytes.

   What must hold afterwards, so that nobody has to check again: well-formed UTF-8, unique names,
   known types, shape times element size equal to the data's length, and the data of all tensors
   covering the rest of the file without hole or overlap. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/safetensors.h"
#include "autodiff/text.h"

typedef struct scanner {
    char *start, *at, *end; // *end is readable and NUL
    const char *path;
    ad_message *error;
} scanner;

static bool scan_fail(const scanner *scan, const char *expected) {
    return ad_fail(scan->error, "%s: header, byte %zu: expected %s", scan->path,
                   (size_t)(scan->at - scan->start), expected);
}

static void scan_blanks(scanner *scan) {
    while (scan->at < scan->end && strchr(" \t\n\r", *scan->at) && *scan->at) scan->at++;
}

/* Steps over `c` if it comes next. */
static bool scan_next(scanner *scan, char c) {
    scan_blanks(scan);
    if (scan->at >= scan->end || *scan->at != c) return false;
    scan->at++;
    return true;
}

static bool scan_expect(scanner *scan, char c, const char *expected) {
    return scan_next(scan, c) || scan_fail(scan, expected);
}

/* Four hexadecimal digits of \uXXXX; -1 if they are not. */
static int32_t scan_hex(scanner *scan) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++, scan->at++) {
        char c = scan->at < scan->end ? *scan->at : 0;
        int digit = c >= '0' && c <= '9' ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The code point after "\u", which may take a second escape; 0 if there is none that we accept. */
static uint32_t scan_code_point(scanner *scan) {
    int32_t high = scan_hex(scan);
    if (high < 0xd800 || high > 0xdfff) return high > 0 ? (uint32_t)high : 0;
    if (high > 0xdbff || scan->end - scan->at < 2 || scan->at[0] != '\\' || scan->at[1] != 'u')
        return 0;
    scan->at += 2;
    int32_t low = scan_hex(scan);
    if (low < 0xdc00 || low > 0xdfff) return 0;
    return 0x10000u + (((uint32_t)high - 0xd800u) << 10) + ((uint32_t)low - 0xdc00u);
}

static char *utf8_put(char *out, uint32_t c) {
    if (c < 0x80)
        *out++ = (char)c;
    else {
        if (c < 0x800)
            *out++ = (char)(0xc0 | c >> 6);
        else {
            if (c < 0x10000)
                *out++ = (char)(0xe0 | c >> 12);
            else {
                *out++ = (char)(0xf0 | c >> 18);
                *out++ = (char)(0x80 | (c >> 12 & 0x3f));
            }
            *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        }
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* Decodes a string where it stands and ends it with a NUL; *string points to it. */
static bool scan_string(scanner *scan, char **string) {
    if (!scan_expect(scan, '"', "a string")) return false;
    char *out = *string = scan->at;
    while (scan->at < scan->end && *scan->at != '"') {
        int length = ad_utf8_length(scan->at, (size_t)(scan->end - scan->at));
        if (length == 0) return scan_fail(scan, "well-formed UTF-8");
        if ((unsigned char)*scan->at < 0x20)
            return scan_fail(scan, "a string without raw control characters");
        if (*scan->at != '\\') {
            memmove(out, scan->at, (size_t)length);
            out += length;
            scan->at += length;
            continue;
        }
        static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        char letter = scan->at[1]; // at worst the NUL at the end
        const char *found = letter ? strchr(letters, letter) : NULL;
        scan->at += letter ? 2 : 1;
        uint32_t code = found         ? (unsigned char)meanings[found - letters]
                      : letter == 'u' ? scan_code_point(scan)
                                      : 0;
        if (code == 0) return scan_fail(scan, "a valid escape in the string");
        out = utf8_put(out, code);
    }
    if (scan->at >= scan->end) return scan_fail(scan, "the end of the string");
    scan->at++;
    *out = 0;
    return true;
}

/* A whole number that fits 64 bits. */
static bool scan_integer(scanner *scan, uint64_t *value) {
    scan_blanks(scan);
    const char *first = scan->at;
    uint64_t sum = 0;
    for (; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) {
        uint64_t digit = (uint64_t)(*scan->at - '0');
        if (sum > (UINT64_MAX - digit) / 10) return scan_fail(scan, "a number below 2^64");
        sum = sum * 10 + digit;
    }
    if (scan->at == first || (*first == '0' && scan->at - first > 1))
        return scan_fail(scan, "a whole number");
    *value = sum;
    return true;
}

/* "[1, 2, ...]" with at most `most` numbers. */
static bool scan_integers(scanner *scan, uint64_t *values, int *count, int most) {
    *count = 0;
    if (!scan_expect(scan, '[', "a list of numbers")) return false;
    if (scan_next(scan, ']')) return true;
    do {
        if (*count == most) return scan_fail(scan, most == 2 ? "two offsets" : "at most 8 axes");
        if (!scan_integer(scan, &values[(*count)++])) return false;
    } while (scan_next(scan, ','));
    return scan_expect(scan, ']', "',' or ']'");
}

/* Room for one more element of `size` bytes: capacities are the powers of two from 16 on. */
static bool grow(void **array, size_t count, size_t size) {
    if (count != 0 && (count < 16 || (count & (count - 1)) != 0)) return true;
    size_t capacity = count ? count * 2 : 16;
    void *larger = capacity > SIZE_MAX / size ? NULL : realloc(*array, capacity * size);
    if (larger) *array = larger;
    return larger != NULL;
}

static bool scan_metadata(scanner *scan, ad_safetensors *file) {
    if (!scan_expect(scan, '{', "an object of strings")) return false;
    if (scan_next(scan, '}')) return true;
    do {
        char *key, *value;
        if (!scan_string(scan, &key) || !scan_expect(scan, ':', "':'") ||
            !scan_string(scan, &value))
            return false;
        if (!grow((void **)&file->metadata, file->metadata_count, sizeof *file->metadata))
            return scan_fail(scan, "enough memory for the metadata");
        file->metadata[file->metadata_count++] = (ad_safetensors_pair){ key, value };
    } while (scan_next(scan, ','));
    return scan_expect(scan, '}', "',' or '}'");
}

/* {"dtype": ..., "shape": ..., "data_offsets": ...}: each once, in any order. */
static bool scan_tensor(scanner *scan, ad_safetensors *file, const char *name) {
    ad_safetensors_tensor tensor = { .name = name };
    uint64_t offsets[2] = { 0 }, bytes;
    int offset_count = 0;
    bool shaped = false;
    if (!scan_expect(scan, '{', "an object that describes a tensor")) return false;
    do {
        char *key;
        if (!scan_string(scan, &key) || !scan_expect(scan, ':', "':'")) return false;
        bool read;
        if (!strcmp(key, "dtype") && !tensor.dtype) {
            read = scan_string(scan, (char **)&tensor.dtype);
        } else if (!strcmp(key, "shape") && !shaped) {
            shaped = true;
            read = scan_integers(scan, tensor.shape, &tensor.rank, AD_SAFETENSORS_RANK_MAX);
        } else if (!strcmp(key, "data_offsets") && offset_count == 0) {
            read = scan_integers(scan, offsets, &offset_count, 2);
        } else {
            return scan_fail(scan, "'dtype', 'shape' and 'data_offsets', each once");
        }
        if (!read) return false;
    } while (scan_next(scan, ','));
    if (!scan_expect(scan, '}', "',' or '}'")) return false;
    if (!tensor.dtype || !shaped || offset_count != 2)
        return scan_fail(scan, "'dtype', 'shape' and two 'data_offsets' before this");
    if (!ad_safetensors_array_bytes(&bytes, tensor.dtype, tensor.rank, tensor.shape))
        return ad_fail(scan->error,
                       "%s: tensor \"%.100s\": expected a known type and a size below 2^63",
                       scan->path, name);
    if (offsets[0] > offsets[1] || offsets[1] - offsets[0] != bytes)
        return ad_fail(scan->error,
                       "%s: tensor \"%.100s\": its shape and type need %" PRIu64
                       " bytes, its offsets are %" PRIu64 " and %" PRIu64,
                       scan->path, name, bytes, offsets[0], offsets[1]);
    tensor.offset = offsets[0];
    tensor.bytes = bytes;
    if (!grow((void **)&file->tensors, file->tensor_count, sizeof *file->tensors))
        return scan_fail(scan, "enough memory for the tensors");
    file->tensors[file->tensor_count++] = tensor;
    return true;
}

static int by_string(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Names (or keys) `stride` bytes apart from one another must differ; sorted pointers tell. */
static bool unique_strings(const void *first, size_t count, size_t stride, const char *what,
                           const char *path, ad_message *error) {
    const char **names = malloc((count ? count : 1) * sizeof *names);
    if (!names) return ad_fail(error, "%s: out of memory", path);
    for (size_t i = 0; i < count; i++)
        names[i] = *(char *const *)(const void *)((const char *)first + i * stride);
    qsort(names, count, sizeof *names, by_string);
    bool unique = true;
    for (size_t i = 1; i < count && unique; i++)
        if (!strcmp(names[i - 1], names[i]))
            unique = ad_fail(error, "%s: expected unique names, found the %s \"%.100s\" twice",
                             path, what, names[i]);
    free(names);
    return unique;
}

static int by_offset(const void *left, const void *right) {
    const uint64_t *a = left, *b = right;
    return a[0] != b[0] ? (a[0] < b[0] ? -1 : 1) : (a[1] > b[1]) - (a[1] < b[1]);
}

/* Sorted by where they begin, each must begin where the one before ended. */
static bool covers_all_data(const ad_safetensors *file, uint64_t data_bytes, ad_message *error) {
    uint64_t (*spans)[2] =
        malloc((file->tensor_count ? file->tensor_count : 1) * sizeof *spans); // begin, end
    if (!spans) return ad_fail(error, "%s: out of memory", file->path);
    for (size_t i = 0; i < file->tensor_count; i++) {
        spans[i][0] = file->tensors[i].offset;
        spans[i][1] = file->tensors[i].offset + file->tensors[i].bytes;
    }
    qsort(spans, file->tensor_count, sizeof *spans, by_offset);
    uint64_t reached = 0;
    bool covered = true;
    for (size_t i = 0; i < file->tensor_count && covered; i++) {
        if (spans[i][0] != reached)
            covered = ad_fail(
                error, "%s: expected a tensor's data to begin at byte %" PRIu64 ", found %" PRIu64,
                file->path, reached, spans[i][0]);
        reached = spans[i][1];
    }
    if (covered && reached != data_bytes)
        covered = ad_fail(
            error, "%s: expected %" PRIu64 " bytes of data behind the header, found %" PRIu64,
            file->path, reached, data_bytes);
    free(spans);
    return covered;
}

bool ad_safetensors_header_read(ad_safetensors *file, size_t count, uint64_t data_bytes,
                                ad_message *error) {
    scanner scan = { file->header, file->header, file->header + count, file->path, error };
    bool metadata_seen = false;
    if (!scan_expect(&scan, '{', "'{'")) return false;
    if (!scan_next(&scan, '}')) {
        do {
            char *name;
            if (!scan_string(&scan, &name) || !scan_expect(&scan, ':', "':'")) return false;
            for (const char *c = name; *c; c++)
                if ((unsigned char)*c < 0x20 || *c == 0x7f)
                    return scan_fail(&scan, "a name without control characters");
            bool metadata = !strcmp(name, "__metadata__");
            if (metadata && metadata_seen) return scan_fail(&scan, "'__metadata__' only once");
            if (!(metadata ? scan_metadata(&scan, file) : scan_tensor(&scan, file, name)))
                return false;
            metadata_seen |= metadata;
        } while (scan_next(&scan, ','));
        if (!scan_expect(&scan, '}', "',' or '}'")) return false;
    }
    scan_blanks(&scan);
    if (scan.at != scan.end) return scan_fail(&scan, "nothing but spaces");
    return unique_strings(file->tensors, file->tensor_count, sizeof *file->tensors, "tensor",
                          file->path, error) &&
           unique_strings(file->metadata, file->metadata_count, sizeof *file->metadata, "key",
                          file->path, error) &&
           covers_all_data(file, data_bytes, error);
}
