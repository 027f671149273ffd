/* The fuzz targets: each takes any bytes and returns 0, or crashes on a broken promise. The tests
 * replay the corpora through the same functions. */
#ifndef ADJOINT_FUZZ_H
#define ADJOINT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int fuzz_png(const uint8_t *data, size_t size);
int fuzz_jpeg(const uint8_t *data, size_t size);
int fuzz_transforms(const uint8_t *data, size_t size);
int fuzz_safetensors(const uint8_t *data, size_t size);

#endif
