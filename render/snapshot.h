/* snapshot.h: what a snapshot says in words, for snapshot.c and snapshot_settings.c. */
#ifndef ADJOINT_RENDER_SNAPSHOT_H
#define ADJOINT_RENDER_SNAPSHOT_H

#include "autodiff/safetensors.h"
#include "autodiff/text.h"
#include "render/model.h"

enum { SNAPSHOT_OWN_KEYS = 4 }; // format, settings, scene, seed

typedef struct snapshot_texts {
    ad_text settings, scene;
    char seed[24];
    ad_safetensors_pair pairs[SNAPSHOT_OWN_KEYS];
} snapshot_texts;

bool render_snapshot_texts_make(snapshot_texts *texts, const render_model *model,
                                ad_message *error);
void render_snapshot_texts_free(snapshot_texts *texts);
bool render_snapshot_key_is_own(const char *key);
// Checked for type and range; names point to constants. seed may be NULL.
bool render_snapshot_texts_read(const ad_safetensors *file, render_settings *settings,
                         render_scene *scene, int *cascades, uint64_t *seed, ad_message *error);

#endif
