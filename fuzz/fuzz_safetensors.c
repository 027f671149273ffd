/* Fuzz target: any bytes at all, opened as a safetensors file and read where that succeeds. */
#include <stdlib.h>

#include "autodiff/safetensors.h"
#include "fuzz/fuzz.h"

int fuzz_safetensors(const uint8_t *bytes, size_t count) {
    ad_safetensors file;
    ad_message error;
    if (!ad_safetensors_open_memory(&file, bytes, count, "fuzz", &error)) return 0;

    // What opened must be readable to the last byte, and found under its own name.
    for (size_t i = 0; i < file.tensor_count; i++) {
        const ad_safetensors_tensor *tensor = &file.tensors[i];
        if (tensor->bytes > count || ad_safetensors_find(&file, tensor->name) != tensor) abort();
        void *data = malloc((size_t)tensor->bytes + 1);
        if (!ad_safetensors_read(&file, data, tensor, 0, (size_t)tensor->bytes, &error)) abort();
        free(data);
    }
    for (size_t i = 0; i < file.metadata_count; i++)
        if (!ad_safetensors_value(&file, file.metadata[i].key)) abort();
    ad_safetensors_free(&file);
    return 0;
}
