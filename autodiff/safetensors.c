/* safetensors files: 8 bytes little endian with the length of the header, the header (JSON, see
   safetensors_header.c), then the arrays' bytes back to back. Chosen for snapshots because every
   tool reads it, it cannot execute anything, and it is simple enough to be checked completely.

   Writing: the same input gives the same bytes, so that two runs can be compared with cmp. Arrays
   of wide elements come first and the header is padded to 8 bytes, as the format's own library does
   it: every array is then aligned, which readers that map the file need (there may be no holes).

   Reading: the header is checked as a whole on opening; data is copied with pread when asked for.
   A mapping would save the copy but turns a file that shrinks under us into a signal. */
#define _DEFAULT_SOURCE 1
#include "autodiff/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "autodiff/file.h"
#include "autodiff/text.h"

enum { HEADER_BYTES_MAX = 100000000, PIECE_BYTES = 1 << 20 }; // the first is the format's own bound

unsigned ad_safetensors_element_bytes(const char *dtype) {
    static const struct {
        char name[9];
        unsigned char bytes;
    } types[] = {
        { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "U32", 4 },     { "I32", 4 },
        { "U8", 1 },  { "F64", 8 }, { "I64", 8 },  { "U64", 8 },     { "BOOL", 1 },
        { "I8", 1 },  { "I16", 2 }, { "U16", 2 },  { "F8_E5M2", 1 }, { "F8_E4M3", 1 },
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(dtype, types[i].name)) return types[i].bytes;
    return 0;
}

bool ad_safetensors_array_bytes(uint64_t *bytes, const char *dtype, int rank,
                                const uint64_t *shape) {
    uint64_t product = ad_safetensors_element_bytes(dtype);
    if (product == 0 || rank < 0 || rank > AD_SAFETENSORS_RANK_MAX) return false;
    // An empty axis makes the array empty, however large the others are.
    for (int i = 0; i < rank; i++)
        if (shape[i] == 0) product = 0;
    for (int i = 0; i < rank && product != 0; i++) {
        if (shape[i] > INT64_MAX / product) return false;
        product *= shape[i];
    }
    *bytes = product;
    return true;
}

static bool path_keep(ad_safetensors *file, const char *path, ad_message *error) {
    *file = (ad_safetensors){ 0 };
    file->path = malloc(strlen(path) + 1);
    if (file->path) strcpy(file->path, path);
    return file->path || ad_fail(error, "%s: out of memory", path);
}

/* ---- writing ---- */

static bool source_check(const char *path, const ad_safetensors_source *source, ad_message *error) {
    uint64_t bytes;
    const char *name = source->name ? source->name : "";
    bool named = *name && strcmp(name, "__metadata__") != 0;
    for (const char *c = name; *c; c++) named = named && (unsigned char)*c >= 0x20 && *c != 0x7f;
    if (!named) return ad_fail(error, "%s: \"%.100s\" cannot be the name of a tensor", path, name);
    if (!source->dtype ||
        !ad_safetensors_array_bytes(&bytes, source->dtype, source->rank, source->shape))
        return ad_fail(
            error,
            "%s: tensor \"%.100s\": expected a known type and at most 8 axes, found %s of rank %d",
            path, name, source->dtype ? source->dtype : "none", source->rank);
    if (bytes && !source->data && !source->read)
        return ad_fail(error, "%s: tensor \"%.100s\": expected data or a function that reads it",
                       path, name);
    return true;
}

/* The header for the arrays in `order`, with its length in front, padded so that the data is
   aligned. Returns how many bytes the data will take. */
static uint64_t header_write(ad_text *text, const ad_safetensors_source *sources,
                             const size_t *order, size_t source_count,
                             const ad_safetensors_pair *metadata, size_t metadata_count) {
    uint64_t offset = 0, bytes = 0;
    const char *separator = "";
    ad_text_add(text, "\0\0\0\0\0\0\0\0{", 9);
    if (metadata_count) {
        ad_text_string(text, "\"__metadata__\":{");
        for (size_t i = 0; i < metadata_count; i++) {
            ad_text_string(text, i ? "," : "");
            ad_text_json_string(text, metadata[i].key);
            ad_text_string(text, ":");
            ad_text_json_string(text, metadata[i].value);
        }
        ad_text_string(text, "}");
        separator = ",";
    }
    for (size_t i = 0; i < source_count; i++, separator = ",") {
        const ad_safetensors_source *source = &sources[order[i]];
        ad_safetensors_array_bytes(&bytes, source->dtype, source->rank, source->shape);
        ad_text_string(text, separator);
        ad_text_json_string(text, source->name);
        ad_text_format(text, ":{\"dtype\":\"%s\",\"shape\":[", source->dtype);
        for (int axis = 0; axis < source->rank; axis++)
            ad_text_format(text, axis ? ",%" PRIu64 : "%" PRIu64, source->shape[axis]);
        ad_text_format(text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
                       offset + bytes);
        offset += bytes;
    }
    ad_text_string(text, "}");
    while (text->count % 8 && !text->failed) ad_text_string(text, " ");
    uint64_t length = text->count - 8;
    for (int i = 0; i < 8 && !text->failed; i++) text->bytes[i] = (char)(length >> (8 * i));
    return offset;
}

/* Reads our own header back: whatever could be wrong with it (two arrays of one name) is known
   before a file is begun. */
static bool header_check(const ad_text *text, uint64_t data_bytes, const char *path,
                         ad_message *error) {
    ad_safetensors check = { 0 };
    bool good = path_keep(&check, path, error);
    check.header = good ? malloc(text->count - 7) : NULL;
    if (good && !check.header) good = ad_fail(error, "%s: out of memory", path);
    if (good) {
        memcpy(check.header, text->bytes + 8, text->count - 7);
        good = ad_safetensors_header_read(&check, text->count - 8, data_bytes, error);
    }
    ad_safetensors_free(&check);
    return good;
}

/* The array's bytes, from memory or piece by piece from its `read`. */
static bool data_write(ad_file *file, const ad_safetensors_source *source, void *piece,
                       ad_message *error) {
    uint64_t bytes = 0;
    ad_safetensors_array_bytes(&bytes, source->dtype, source->rank, source->shape);
    if (source->data) return ad_file_write(file, source->data, (size_t)bytes, error);
    for (uint64_t offset = 0; offset < bytes; offset += PIECE_BYTES) {
        size_t count = bytes - offset < PIECE_BYTES ? (size_t)(bytes - offset) : PIECE_BYTES;
        if (!source->read(source->user, piece, offset, count, error)) return false;
        if (!ad_file_write(file, piece, count, error)) return false;
    }
    return true;
}

bool ad_safetensors_write(const char *path, const ad_safetensors_source *sources,
                          size_t source_count, const ad_safetensors_pair *metadata,
                          size_t metadata_count, ad_message *error) {
    ad_text header = { 0 };
    ad_file file = { 0 };
    bool done = false;
    void *piece = malloc(PIECE_BYTES);
    size_t *order = malloc((source_count + 1) * sizeof *order), placed = 0;
    if (!piece || !order) {
        ad_fail(error, "%s: out of memory", path);
        goto done;
    }
    for (size_t i = 0; i < source_count; i++)
        if (!source_check(path, &sources[i], error)) goto done;

    // Wide elements first, otherwise in the order given.
    for (unsigned width = 8; width >= 1; width /= 2)
        for (size_t i = 0; i < source_count; i++)
            if (ad_safetensors_element_bytes(sources[i].dtype) == width) order[placed++] = i;
    uint64_t data_bytes =
        header_write(&header, sources, order, source_count, metadata, metadata_count);
    if (header.failed || header.count > HEADER_BYTES_MAX) {
        ad_fail(error, "%s: %s", path, header.failed ? "out of memory"
                                                     : "a header of this size cannot be written");
        goto done;
    }
    if (!header_check(&header, data_bytes, path, error)) goto done;
    if (!ad_file_begin(&file, path, error) ||
        !ad_file_write(&file, header.bytes, header.count, error))
        goto done;
    for (size_t i = 0; i < source_count; i++)
        if (!data_write(&file, &sources[order[i]], piece, error)) goto done;
    done = ad_file_commit(&file, true, error);
done:
    ad_file_discard(&file);
    ad_text_free(&header);
    free(order);
    free(piece);
    return done;
}

/* ---- reading ---- */

/* `count` bytes of the file from byte `at` on, which the caller knows to be there. */
static bool bytes_read(const ad_safetensors *file, void *bytes, uint64_t at, size_t count,
                       ad_message *error) {
    if (file->memory) {
        if (count) memcpy(bytes, file->memory + at, count);
        return true;
    }
    for (size_t got = 0; got < count;) {
        ssize_t more =
            pread(file->descriptor - 1, (char *)bytes + got, count - got, (off_t)(at + got));
        if (more < 0 && errno == EINTR) continue;
        if (more < 0) return ad_fail(error, "%s: cannot be read: %s", file->path, strerror(errno));
        if (more == 0)
            return ad_fail(error, "%s: expected more data, found the end of the file", file->path);
        got += (size_t)more;
    }
    return true;
}

/* Checks the length in front, then the header; `file_bytes` bounds both before anything is
 * allocated. */
static bool header_load(ad_safetensors *file, uint64_t file_bytes, ad_message *error) {
    unsigned char front[8];
    uint64_t length = 0;
    if (file_bytes < 8)
        return ad_fail(error, "%s: expected a safetensors file, found %" PRIu64 " bytes",
                       file->path, file_bytes);
    if (!bytes_read(file, front, 0, 8, error)) return false;
    for (int i = 0; i < 8; i++) length |= (uint64_t)front[i] << (8 * i);
    if (length > HEADER_BYTES_MAX)
        return ad_fail(error, "%s: expected a safetensors file, found another kind of file",
                       file->path);
    if (length > file_bytes - 8)
        return ad_fail(error,
                       "%s: expected a safetensors file, found only the beginning of one, or "
                       "another kind of file: its first 8 bytes mean a header of %" PRIu64
                       " bytes, and the file has %" PRIu64, file->path, length, file_bytes);
    file->header = malloc((size_t)length + 1);
    if (!file->header) return ad_fail(error, "%s: out of memory", file->path);
    if (!bytes_read(file, file->header, 8, (size_t)length, error)) return false;
    file->header[length] = 0;
    file->data_start = 8 + length;
    return ad_safetensors_header_read(file, (size_t)length, file_bytes - 8 - length, error);
}

bool ad_safetensors_open(ad_safetensors *file, const char *path, ad_message *error) {
    struct stat status;
    if (!path_keep(file, path, error)) return false;
    bool opened = false;
    // Not waiting for the writer of a named pipe; for a file the flag changes nothing.
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) + 1;
    if (file->descriptor == 0)
        ad_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    else if (fstat(file->descriptor - 1, &status) != 0 || !S_ISREG(status.st_mode))
        ad_fail(error, "%s: expected a file, found something else", path);
    else
        opened = header_load(file, (uint64_t)status.st_size, error);
    if (!opened) ad_safetensors_free(file);
    return opened;
}

bool ad_safetensors_open_memory(ad_safetensors *file, const void *bytes, size_t count,
                                const char *path, ad_message *error) {
    if (!path_keep(file, path, error)) return false;
    file->memory = bytes;
    bool opened = header_load(file, count, error);
    if (!opened) ad_safetensors_free(file);
    return opened;
}

const ad_safetensors_tensor *ad_safetensors_find(const ad_safetensors *file, const char *name) {
    for (size_t i = 0; i < file->tensor_count; i++)
        if (!strcmp(file->tensors[i].name, name)) return &file->tensors[i];
    return NULL;
}

const char *ad_safetensors_value(const ad_safetensors *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (!strcmp(file->metadata[i].key, key)) return file->metadata[i].value;
    return NULL;
}

/* "F32 (2, 3)", for messages. */
static void shape_print(ad_text *text, const char *dtype, int rank, const uint64_t *shape) {
    ad_text_format(text, "%.10s (", dtype);
    for (int i = 0; i < rank; i++) ad_text_format(text, i ? ", %" PRIu64 : "%" PRIu64, shape[i]);
    ad_text_string(text, ")");
}

const ad_safetensors_tensor *ad_safetensors_expect(const ad_safetensors *file, const char *name,
                                                   const char *dtype, int rank,
                                                   const uint64_t *shape, ad_message *error) {
    const ad_safetensors_tensor *found = ad_safetensors_find(file, name);
    ad_text text = { 0 };
    shape_print(&text, dtype, rank, shape);
    if (found && !strcmp(found->dtype, dtype) && found->rank == rank &&
        (rank == 0 || !memcmp(found->shape, shape, (size_t)rank * sizeof *shape))) {
        ad_text_free(&text);
        return found;
    }
    ad_text_string(&text, ", found ");
    if (found)
        shape_print(&text, found->dtype, found->rank, found->shape);
    else
        ad_text_string(&text, "none");
    ad_fail(error, "%s: tensor \"%.100s\": expected %s", file->path, name,
            text.failed ? "another shape" : text.bytes);
    ad_text_free(&text);
    return NULL;
}

bool ad_safetensors_read(const ad_safetensors *file, void *bytes,
                         const ad_safetensors_tensor *tensor, uint64_t offset, size_t count,
                         ad_message *error) {
    if (offset > tensor->bytes || count > tensor->bytes - offset)
        return ad_fail(error, "%s: tensor \"%.100s\": asked for bytes past its end", file->path,
                       tensor->name);
    return bytes_read(file, bytes, file->data_start + tensor->offset + offset, count, error);
}

void ad_safetensors_free(ad_safetensors *file) {
    if (file->descriptor > 0) close(file->descriptor - 1);
    free(file->tensors);
    free(file->metadata);
    free(file->header);
    free(file->path);
    *file = (ad_safetensors){ 0 };
}
