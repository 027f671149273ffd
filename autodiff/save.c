/* ad_save and ad_load: tensors of a context as the arrays of a safetensors file.
 *
 * A file is written with the bytes of one tensor at a time on the host. A file is read whole before
 * anything is changed: neither one of another model nor a disk that fails midway changes a
 * tensor. */
#include "autodiff/save.h"

#include <stdlib.h>
#include <string.h>

#include "autodiff/safetensors.h"

static const char *const dtypes[AD_TYPES] = {"F32", "F64", "F16", "BF16", "I32", "U32"};

typedef struct source_tensor {
    ad_context *ctx;
    const char *path; // for messages
    ad_tensor tensor;
    size_t bytes;
    unsigned char *copy; // while its pieces are asked for
} source_tensor;

// The context's error becomes the caller's sentence, and the context is used on.
static bool context_failed(ad_context *ctx, const char *path, ad_message *error) {
    ad_fail(error, "%s: %.900s", path, ad_error_text(ctx));
    ad_error_clear(ctx);
    return false;
}

static bool read_piece(void *user, void *bytes, uint64_t offset, size_t count, ad_message *error) {
    source_tensor *from = user;
    if (!from->copy) {
        from->copy = malloc(from->bytes + 1);
        if (!from->copy) return ad_fail(error, "%s: out of memory", from->path);
        if (!ad_read(from->ctx, from->tensor, from->copy, from->bytes))
            return context_failed(from->ctx, from->path, error);
    }
    memcpy(bytes, from->copy + offset, count);
    if (offset + count == from->bytes) {
        free(from->copy);
        from->copy = NULL;
    }
    return true;
}

// What the file says of each tensor; sources (count).
static bool describe(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
                     ad_safetensors_source *sources, ad_message *error) {
    if (ad_failed(ctx))
        return ad_fail(error, "%s: the context has failed before: %.900s", path,
                       ad_error_text(ctx));
    for (int i = 0; i < count; i++) {
        ad_shape shape = ad_shape_of(ctx, tensors[i]);
        if (ad_failed(ctx)) return context_failed(ctx, path, error);
        sources[i] = (ad_safetensors_source){.name = ad_name(ctx, tensors[i]), .rank = shape.rank,
                                             .dtype = dtypes[ad_type_of(ctx, tensors[i])]};
        if (!sources[i].name[0])
            return ad_fail(error, "%s: tensor %d of %d has no name; ad_parameter and ad_state give "
                           "one", path, i, count);
        for (int j = 0; j < shape.rank; j++) sources[i].shape[j] = (uint64_t)shape.size[j];
    }
    return true;
}

bool ad_save(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
             ad_message *error) {
    size_t n = count > 0 ? (size_t)count : 0;
    ad_safetensors_source *sources = calloc(n + 1, sizeof *sources);
    source_tensor *from = calloc(n + 1, sizeof *from);
    bool good = sources && from ? true : ad_fail(error, "%s: out of memory", path);
    good = good && describe(ctx, path, count, tensors, sources, error);
    for (size_t i = 0; i < n && good; i++) {
        from[i] = (source_tensor){.ctx = ctx, .path = path, .tensor = tensors[i],
                                  .bytes = (size_t)ad_count(ctx, tensors[i])
                                         * ad_type_bytes(ad_type_of(ctx, tensors[i]))};
        sources[i].read = read_piece, sources[i].user = &from[i];
    }
    good = good && ad_safetensors_write(path, sources, n, NULL, 0, error);
    for (size_t i = 0; i < n && from; i++) free(from[i].copy);
    free(from), free(sources);
    return good;
}

static void *read_whole(const ad_safetensors *file, const ad_safetensors_tensor *found,
                        ad_message *error) {
    void *data = malloc((size_t)found->bytes + 1);
    if (!data) ad_fail(error, "%s: out of memory", file->path);
    else if (ad_safetensors_read(file, data, found, 0, (size_t)found->bytes, error)) return data;
    free(data);
    return NULL;
}

bool ad_load(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
             ad_message *error) {
    size_t n = count > 0 ? (size_t)count : 0;
    ad_safetensors file = {0};
    ad_safetensors_source *wanted = calloc(n + 1, sizeof *wanted);
    const ad_safetensors_tensor **found = calloc(n + 1, sizeof *found);
    void **data = calloc(n + 1, sizeof *data);
    bool good = wanted && found && data ? true : ad_fail(error, "%s: out of memory", path);
    good = good && describe(ctx, path, count, tensors, wanted, error)
        && ad_safetensors_open(&file, path, error);
    for (size_t i = 0; i < n && good; i++) {
        const ad_safetensors_source *w = &wanted[i];
        found[i] = ad_safetensors_expect(&file, w->name, w->dtype, w->rank, w->shape, error);
        good = found[i] != NULL;
    }
    for (size_t i = 0; i < n && good; i++)
        good = (data[i] = read_whole(&file, found[i], error)) != NULL;
    for (size_t i = 0; i < n && good; i++)
        good = ad_write(ctx, tensors[i], data[i], (size_t)found[i]->bytes)
            || context_failed(ctx, path, error);
    ad_safetensors_free(&file);
    for (size_t i = 0; i < n && data; i++) free(data[i]);
    free(data), free(found), free(wanted);
    return good;
}
