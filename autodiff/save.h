/* adjoint/save.h: named tensors to a file and back, so that training goes on another day.
 *
 *     ad_tensor all[64] = { w, b };                       // parameters and states, by their names
 *     int count = 2 + ad_optimizer_states(adam, 62, all + 2);
 *     if (!ad_save(ctx, "run.safetensors", count, all, &error)) puts(error.text);
 *
 * and in another process, after the same calls have made the same parameters and optimiser:
 *
 *     if (!ad_load(ctx, "run.safetensors", count, all, &error)) puts(error.text);
 *
 * What follows is bitwise the same as if there had been no break; a step that draws random numbers
 * saves ad_step_tensor(ctx) as well, and runs in a context of the same seed. The file is a plain
 * safetensors file, which Python and Rust tools read. */
#ifndef ADJOINT_SAVE_H
#define ADJOINT_SAVE_H

#include "autodiff/autodiff.h"

#ifdef __cplusplus
extern "C" {
#endif

// Both: each tensor must have a name (ad_parameter, ad_state), and no two the same. False, and one
// sentence, after a failure; a context that has failed before is one. Not within a capture.

// The file appears whole or not at all: after a failure the one before is still there.
bool ad_save(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
             ad_message *error);
// Each name must be in the file with this type and shape; what else is there is passed over. No
// tensor is written before all have been found and read.
bool ad_load(ad_context *ctx, const char *path, int count, const ad_tensor *tensors,
             ad_message *error);

#ifdef __cplusplus
}
#endif
#endif
