/* Growing text, and the two things every writer of JSON needs: escaped strings and shortest
   numbers. Internal to this repository (used by autodiff/, render/ and cli/), not installed. */
#ifndef ADJOINT_TEXT_H
#define ADJOINT_TEXT_H
#include <stdbool.h>
#include <stddef.h>

/* Zero-initialised is valid and empty. `bytes` ends in a NUL that `count` does not include. Once an
   allocation fails, `failed` stays set and later calls do nothing: check once, at the end. */
typedef struct ad_text {
    char *bytes;
    size_t count, capacity;
    bool failed;
} ad_text;

void ad_text_add(ad_text *text, const void *bytes, size_t count);
void ad_text_string(ad_text *text, const char *string); // up to its NUL; NULL adds nothing
void ad_text_format(ad_text *text, const char *format, ...);
void ad_text_json_string(ad_text *text, const char *string); // quoted and escaped; NULL is null
void ad_text_json_number(ad_text *text, double number); // shortest that reads back; NaN is null
void ad_text_free(ad_text *text);                       // may be called twice

/* Bytes (1 to 4) of the well-formed UTF-8 sequence at `bytes`, of which `count` may be read; else
 * 0. */
int ad_utf8_length(const char *bytes, size_t count);

#endif
