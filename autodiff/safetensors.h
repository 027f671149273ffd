/* safetensors files: named arrays in one file that any Python or Rust tool reads. Internal header;
   the public part of it is to live in autodiff.h. */
#ifndef ADJOINT_SAFETENSORS_H
#define ADJOINT_SAFETENSORS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autodiff/autodiff.h"

enum { AD_SAFETENSORS_RANK_MAX = 8 };

/* ---- writing ---- */

/* One array to write. Either `data` holds all its bytes (row-major, little endian), or `read`
   copies `count` of them, from byte `offset` on, to `bytes` (in pieces of at most 1 MiB; it returns
   false with a sentence when it cannot). */
typedef struct ad_safetensors_source {
    const char *name;  // unique, not empty, no control characters
    const char *dtype; // BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64
    int rank;          // 0 for a scalar
    uint64_t shape[AD_SAFETENSORS_RANK_MAX];
    const void *data;
    bool (*read)(void *user, void *bytes, uint64_t offset, size_t count, ad_message *error);
    void *user;
} ad_safetensors_source;

typedef struct ad_safetensors_pair {
    const char *key, *value; // the metadata is strings only; keys are unique
} ad_safetensors_pair;

/* Writes PATH by a temporary file, sync and rename: the old file or the new one, never a mixture.
   The same input gives the same bytes. Arrays lie in the order given, wide types before narrow. */
bool ad_safetensors_write(const char *path, const ad_safetensors_source *sources,
                          size_t source_count, const ad_safetensors_pair *metadata,
                          size_t metadata_count, ad_message *error);

/* ---- reading ---- */

typedef struct ad_safetensors_tensor {
    const char *name, *dtype;
    int rank;
    uint64_t shape[AD_SAFETENSORS_RANK_MAX];
    uint64_t offset, bytes; // of its data, counted from the end of the header
} ad_safetensors_tensor;

/* An open file: all of the header is checked and here, the data is read when asked for. The strings
   belong to the struct. Zero-initialised is valid and closed. */
typedef struct ad_safetensors {
    ad_safetensors_tensor *tensors; // (tensor_count), in the order of the header
    ad_safetensors_pair *metadata;  // (metadata_count)
    size_t tensor_count, metadata_count;
    char *header, *path;
    const unsigned char *memory; // the file, when it was opened from memory
    int descriptor;              // the file's, plus one; 0 when there is none
    uint64_t data_start;
} ad_safetensors;

bool ad_safetensors_open(ad_safetensors *file, const char *path, ad_message *error);

/* The same for a file that is in memory already and stays there; `path` only names it in messages.
 */
bool ad_safetensors_open_memory(ad_safetensors *file, const void *bytes, size_t count,
                                const char *path, ad_message *error);

/* NULL when there is none of that name. */
const ad_safetensors_tensor *ad_safetensors_find(const ad_safetensors *file, const char *name);
const char *ad_safetensors_value(const ad_safetensors *file, const char *key);

/* Finds the array and checks that its type, rank and shape are the ones expected; else a sentence.
 */
const ad_safetensors_tensor *ad_safetensors_expect(const ad_safetensors *file, const char *name,
                                                   const char *dtype, int rank,
                                                   const uint64_t *shape, ad_message *error);

/* Copies `count` bytes of the array's data, from its byte `offset` on. */
bool ad_safetensors_read(const ad_safetensors *file, void *bytes,
                         const ad_safetensors_tensor *tensor, uint64_t offset, size_t count,
                         ad_message *error);

void ad_safetensors_free(ad_safetensors *file); // may be called twice

/* ---- shared by the two files that implement this ---- */

/* Bytes of one element; 0 for a type we do not know. */
unsigned ad_safetensors_element_bytes(const char *dtype);

/* Bytes of an array; false when the product does not fit. */
bool ad_safetensors_array_bytes(uint64_t *bytes, const char *dtype, int rank,
                                const uint64_t *shape);

/* Reads file->header (`count` bytes, changed in place) into tensors and metadata, checked against
   `data_bytes`, the length of what follows the header. */
bool ad_safetensors_header_read(ad_safetensors *file, size_t count, uint64_t data_bytes,
                                ad_message *error);

#endif
