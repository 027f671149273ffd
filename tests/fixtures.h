/* What tests of readers and writers share: a folder of their own, small pictures, and memory that
 * runs out on demand. Failures here are failures of the test. */
#ifndef ADJOINT_TESTS_FIXTURES_H
#define ADJOINT_TESTS_FIXTURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A fresh folder below $TMPDIR or /tmp; fixture_remove deletes it with all it holds. */
typedef struct fixture_folder {
    char path[256];
} fixture_folder;

void fixture_make(fixture_folder *folder);
void fixture_remove(fixture_folder *folder);
/* folder/name, in one of eight static buffers; folders on the way are made. */
const char *fixture_path(const fixture_folder *folder, const char *name);
void fixture_write(const fixture_folder *folder, const char *name, const void *bytes, size_t size);
void fixture_text(const fixture_folder *folder, const char *name, const char *text);
/* An 8-bit PNG with channels 1 (grey), 3 (RGB) or 4 (RGBA), by an encoder of a few lines that
 * shares nothing with the library's. pixels: (height, width, channels). */
void fixture_png(const fixture_folder *folder, const char *name, const uint8_t *pixels, int width,
                 int height, int channels);
/* Length, type, data and checksum at `at`; the byte after them. */
uint8_t *fixture_png_chunk(uint8_t *at, const char *type, const void *data, size_t size);
/* A PNG of one colour. */
void fixture_flat(const fixture_folder *folder, const char *name, int width, int height,
                  const uint8_t rgba[4]);
bool fixture_exists(const fixture_folder *folder, const char *name);
/* All of a file, and a zero behind it; free(). */
uint8_t *fixture_read(const char *path, size_t *size);

bool fixture_reduced(void); /* ADJOINT_TEST_SIZE=reduced: under sanitizers, or on one thread */

/* The k-th allocation of this thread fails from now on, counted from 0 (and only that one). */
bool failing_memory_available(void); /* false under AddressSanitizer, which brings its own malloc */
void failing_memory_begin(long k);
/* Ends it; true if an allocation did fail. */
bool failing_memory_end(void);

#endif
