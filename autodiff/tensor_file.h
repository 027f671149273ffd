/* tensor_file.h: a tensor of a context as an array of a safetensors file, for those that write such
 * files: ad_save and the snapshots of radiance fields. Its bytes come to the host when their turn
 * is, one tensor at a time. */
#ifndef ADJOINT_TENSOR_FILE_H
#define ADJOINT_TENSOR_FILE_H

#include "autodiff/autodiff.h"
#include "autodiff/safetensors.h"

typedef struct ad_file_tensor {
    ad_context *ctx;
    const char *path; // for messages
    ad_tensor tensor;
    size_t bytes;
    unsigned char *copy; // while its pieces are asked for; free() it when the file is written
} ad_file_tensor;

// What a file says of a tensor, under its own name or (not NULL) another; no data yet.
ad_safetensors_source ad_file_describe(ad_context *ctx, ad_tensor tensor, const char *name);

// The same with its data, which *from reads while the file is written.
ad_safetensors_source ad_file_source(ad_context *ctx, const char *path, ad_tensor tensor,
                                     const char *name, ad_file_tensor *from);

#endif
