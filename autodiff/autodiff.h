/* adjoint/autodiff.h: placeholder while the header is being written (the lead owns this file). */
#ifndef ADJOINT_AUTODIFF_H
#define ADJOINT_AUTODIFF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* A failure of the outside world (a file, memory, user input) in one sentence. */
typedef struct ad_message {
    char text[1024];
} ad_message;

/* Formats the sentence into error->text (error may be NULL) and returns false. */
bool ad_fail(ad_message *error, const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
