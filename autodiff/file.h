/* Files that appear whole or not at all. Internal to this repository, not installed. */
#ifndef ADJOINT_FILE_H
#define ADJOINT_FILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "autodiff/autodiff.h"

/* Zero-initialised is valid and closed. */
typedef struct ad_file {
    FILE *stream;
    char *path, *temporary; // temporary is NULL when a device or pipe is written directly
} ad_file;

/* begin, write as often as needed, commit. Each returns false with a sentence; after a failure, or
   instead of commit, discard removes the temporary file (it may be called at any time, also twice).
   With `durable` the file and its folder are synced to disk: it then outlives a power cut, too. */
bool ad_file_begin(ad_file *file, const char *path, ad_message *error);
bool ad_file_write(ad_file *file, const void *bytes, size_t count, ad_message *error);
bool ad_file_commit(ad_file *file, bool durable, ad_message *error);
void ad_file_discard(ad_file *file);

/* All of it for bytes that are already together in memory, not durable. */
bool ad_file_save(const char *path, const void *bytes, size_t count, ad_message *error);

#endif
