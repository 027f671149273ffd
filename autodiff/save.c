/* ad_save and ad_load: tensors of a context as the arrays of a safetensors file.
 *
 * A file is written with the bytes of one tensor at a time on the host. A file is read whole before
 * anything is changed: neither one of another model nor a disk that fails midway changes a
 * tensor. */
#include "autodiff/save.h"

#include <stdlib.h>
#include <string.h>

#include "autodiff/tensor_file.h"

/* ---- a tensor as an array of a file */

static bool read_piece(void *user, void *bytes, uint64_t offset, size_t count, ad_message *error) {
    ad_file_tensor *from = user;
    if (!from->copy) {
        from->copy = malloc(from->bytes + 1);
        if (!from->copy) return ad_fail(error, "%s: out of memory", from->path);
        if (!ad_read(from->ctx, from->tensor, from->copy, from->bytes))
            return ad_fail(error, "%s: %.900s", from->path, ad_error_text(from->ctx));
    }
    memcpy(bytes, from->copy + offset, count);
    if (offset + count == from->bytes) {
        free(from->copy);
        from->copy = NULL;
    }
    return true;
}

ad_safetensors_source ad_file_describe(ad_context *ctx, ad_tensor tensor, const char *name) {
    static const char *const dtypes[AD_TYPES] = {"F32", "F64", "F16", "BF16", "I32", "U32"};
    ad_shape shape = ad_shape_of(ctx, tensor);
    ad_safetensors_source source = {.name = name ? name : ad_name(ctx, tensor),
                                    .dtype = dtypes[ad_type_of(ctx, tensor)], .rank = shape.rank};
    for (int i = 0; i < shape.rank; i++) source.shape[i] = (uint64_t)shape.size[i];
    return source;
}

ad_safetensors_source ad_file_source(ad_context *ctx, const char *path, ad_tensor tensor,
                                     const char *name, ad_file_tensor *from) {
    ad_safetensors_source source = ad_file_describe(ctx, tensor, name);
    *from = (ad_file_tensor){.ctx = ctx, .path = path, .tensor = tensor,
                             .bytes = (size_t)ad_count(ctx, tensor)
                                    * ad_type_bytes(ad_type_of(ctx, tensor))};
    source.read = read_piece, source.user = from;
    return source;
}

/* ---- saving and loading by name */

// The context's error becomes the caller's sentence, and the context is used on.
static bool context_failed(ad_context *ctx, const char *path, ad_message *error) {
    ad_fail(error, "%s: %.900s", path, ad_error_text(ctx));
    ad_error_clear(ctx);
    return false;
}

// All tensors exist and have a name, in a context that has not failed.
static bool good_tensors(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
                         ad_message *error) {
    if (ad_failed(ctx))
        return ad_fail(error, "%s: the context has failed before: %.900s", path,
                       ad_error_text(ctx));
    for (int i = 0; i < count; i++) {
        ad_shape_of(ctx, tensors[i]);
        if (ad_failed(ctx)) return context_failed(ctx, path, error);
        if (!ad_name(ctx, tensors[i])[0])
            return ad_fail(error, "%s: tensor %d of %d has no name; ad_parameter and ad_state give "
                           "one", path, i, count);
    }
    return true;
}

bool ad_save(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
             ad_message *error) {
    size_t n = count > 0 ? (size_t)count : 0;
    if (!good_tensors(ctx, path, count, tensors, error)) return false;
    ad_safetensors_source *sources = calloc(n + 1, sizeof *sources);
    ad_file_tensor *from = calloc(n + 1, sizeof *from);
    bool good = sources && from ? true : ad_fail(error, "%s: out of memory", path);
    for (size_t i = 0; i < n && good; i++)
        sources[i] = ad_file_source(ctx, path, tensors[i], NULL, &from[i]);
    good = good && ad_safetensors_write(path, sources, n, NULL, 0, error);
    if (ad_failed(ctx)) ad_error_clear(ctx); // said in the sentence
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
    if (!good_tensors(ctx, path, count, tensors, error)) return false;
    const ad_safetensors_tensor **found = calloc(n + 1, sizeof *found);
    void **data = calloc(n + 1, sizeof *data);
    bool good = found && data ? true : ad_fail(error, "%s: out of memory", path);
    good = good && ad_safetensors_open(&file, path, error);
    for (size_t i = 0; i < n && good; i++) {
        ad_safetensors_source wanted = ad_file_describe(ctx, tensors[i], NULL);
        found[i] = ad_safetensors_expect(&file, wanted.name, wanted.dtype, wanted.rank,
                                         wanted.shape, error);
        good = found[i] != NULL;
    }
    for (size_t i = 0; i < n && good; i++)
        good = (data[i] = read_whole(&file, found[i], error)) != NULL;
    for (size_t i = 0; i < n && good; i++)
        good = ad_write(ctx, tensors[i], data[i], (size_t)found[i]->bytes)
            || context_failed(ctx, path, error);
    ad_safetensors_free(&file);
    for (size_t i = 0; i < n && data; i++) free(data[i]);
    free(data), free(found);
    return good;
}
