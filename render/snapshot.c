/* Snapshots: everything that training goes on from, in one safetensors file.
 *
 * Tensors: the parameters and the field's states under their own names, the optimisers' moments
 * and step counters, "cameras" (the rows of the training views: for flights around the scene, and
 * so that a run goes on with no other images than its own), and three small ones: "trainer.totals"
 * (steps, samples, rays), "trainer.live_rays" (of the next step) and "trainer.random_step".
 * Settings, scene and seed are JSON in the metadata (snapshot_settings.c).
 *
 * Training is a pure function of these, of the images and of the share of the schedule that is
 * over. Nothing of the clock, the threads or the machine is in the file, so that two runs with the
 * same seed and horizon give the same bytes; what was summed since the last line of a log is not in
 * it either. The file appears whole or not at all: a kill leaves the one before. */
#include "render/snapshot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/tensor_file.h"
#include "render/train.h"

enum { SOURCES_MAX = MODEL_PARAMETERS_MAX * 4 + MODEL_STATES_MAX + 8, EXTRA_MAX = 64 };

// Of a camera's numbers, by their size: rounding of another build, not another camera.
static const float CAMERA_TOLERANCE = 1e-4f;

/* ---- writing */

typedef struct writing {
    ad_context *ctx;
    const char *path;
    ad_safetensors_source sources[SOURCES_MAX];
    ad_file_tensor tensors[SOURCES_MAX];
    size_t count;
} writing;

static void add(writing *w, ad_tensor tensor, const char *name) {
    if (!tensor.slot || w->count >= SOURCES_MAX) return;
    w->sources[w->count] = ad_file_source(w->ctx, w->path, tensor, name, &w->tensors[w->count]);
    w->count++;
}

// The states of both optimisers; returns how many there are.
static int optimiser_states(render_trainer *t, ad_tensor *states, int most) {
    int tables = ad_optimizer_states(t->grid_adam, most, states);
    if (tables > most) tables = most;
    int nets = ad_optimizer_states(t->net_adam, most - tables, states + tables);
    return tables + nets < most ? tables + nets : most;
}

bool render_snapshot_write(render_model *model, render_trainer *t, const char *path,
                           const render_text *extra, int extra_count, ad_message *error) {
    ad_context *ctx = model->ctx;
    ad_tensor states[MODEL_PARAMETERS_MAX * 3];
    ad_safetensors_pair metadata[SNAPSHOT_OWN_KEYS + EXTRA_MAX];
    uint64_t totals[3];
    if (extra_count > EXTRA_MAX)
        return ad_fail(error, "%s: expected at most %d texts of the caller's, found %d", path,
                       EXTRA_MAX, extra_count);
    writing *w = calloc(1, sizeof *w);
    if (!w) return ad_fail(error, "%s: out of memory", path);
    w->ctx = ctx, w->path = path;
    if (t) {
        render_trainer_collect(t);
        totals[0] = (uint64_t)t->step, totals[1] = t->samples, totals[2] = t->rays;
        w->sources[w->count++] = (ad_safetensors_source){.name = "trainer.totals", .dtype = "U64",
                                                         .rank = 1, .shape = {3}, .data = totals};
    }
    for (int i = 0; i < model->parameter_count; i++) add(w, model->parameters[i], NULL);
    for (int i = 0; i < model->state_count; i++) add(w, model->states[i], NULL);
    if (t) {
        int count = optimiser_states(t, states, MODEL_PARAMETERS_MAX * 3);
        for (int i = 0; i < count; i++) add(w, states[i], NULL);
        add(w, t->cameras, "cameras");
        add(w, t->live, "trainer.live_rays");
        add(w, ad_step_tensor(ctx), "trainer.random_step");
    }
    snapshot_texts texts = {0};
    ad_message reason;
    bool good = !ad_failed(ctx) || ad_fail(&reason, "%s", ad_error_text(ctx));
    good = good && render_snapshot_texts_make(&texts, model, &reason);
    if (!good) ad_fail(error, "%s: %.900s", path, reason.text);
    if (good) memcpy(metadata, texts.pairs, sizeof texts.pairs);
    for (int i = 0; i < extra_count; i++)
        metadata[SNAPSHOT_OWN_KEYS + i] = (ad_safetensors_pair){extra[i].name, extra[i].text};
    good = good && ad_safetensors_write(path, w->sources, w->count, metadata,
                                        SNAPSHOT_OWN_KEYS + (size_t)extra_count, error);
    for (size_t i = 0; i < w->count; i++) free(w->tensors[i].copy);
    render_snapshot_texts_free(&texts);
    free(w);
    return good;
}

/* ---- reading */

// Fills a tensor of the context from the one of that name, which must look the same.
static bool load(const ad_safetensors *file, ad_context *ctx, ad_tensor tensor, const char *name,
                 ad_message *error) {
    ad_safetensors_source wanted = ad_file_describe(ctx, tensor, name);
    const ad_safetensors_tensor *found = ad_safetensors_expect(file, wanted.name, wanted.dtype,
                                                               wanted.rank, wanted.shape, error);
    if (!found) return false;
    void *bytes = malloc(found->bytes ? (size_t)found->bytes : 1);
    bool good = bytes || ad_fail(error, "%s: out of memory", file->path);
    good = good && ad_safetensors_read(file, bytes, found, 0, (size_t)found->bytes, error);
    if (good && !ad_write(ctx, tensor, bytes, (size_t)found->bytes))
        good = ad_fail(error, "%s", ad_error_text(ctx));
    free(bytes);
    return good;
}

// The caller's texts: all that are not ours.
static bool copy_extra(const ad_safetensors *file, render_text **extra, int *count,
                       ad_message *error) {
    *extra = calloc(file->metadata_count + 1, sizeof **extra);
    *count = 0;
    bool good = *extra != NULL;
    for (size_t i = 0; i < file->metadata_count && good; i++) {
        const ad_safetensors_pair *pair = &file->metadata[i];
        if (render_snapshot_key_is_own(pair->key)) continue;
        render_text *text = &(*extra)[(*count)++];
        text->name = strdup(pair->key), text->text = strdup(pair->value);
        good = text->name && text->text;
    }
    if (good) return true;
    render_texts_free(*extra, *count);
    *extra = NULL, *count = 0;
    return ad_fail(error, "%s: out of memory", file->path);
}

void render_texts_free(render_text *texts, int count) {
    for (int i = 0; texts && i < count; i++) {
        free((char *)texts[i].name);
        free((char *)texts[i].text);
    }
    free(texts);
}

// No settings may ask for more memory than a file with such a table would have.
static bool sizes_agree(const ad_safetensors *file, const render_settings *settings,
                        ad_message *error) {
    if (strcmp(settings->field, "hash") != 0) return true;
    const ad_safetensors_tensor *table = ad_safetensors_find(file, "grid.table");
    int64_t entries = render_grid_entries(&settings->grid);
    if (table && table->rank == 2 && entries > 0 && table->shape[0] == (uint64_t)entries
        && table->shape[1] == (uint64_t)settings->grid.features)
        return true;
    return ad_fail(error, "%s: tensor \"grid.table\": expected shape (%lld, %d) for its settings",
                   file->path, (long long)entries, settings->grid.features);
}

render_model *render_snapshot_open(ad_context *ctx, const char *path, render_text **extra,
                                   int *extra_count, ad_message *error) {
    ad_safetensors file = {0};
    render_settings settings;
    render_scene scene;
    int cascades = 1;
    render_model *model = NULL;
    if (extra) *extra = NULL, *extra_count = 0;
    bool good = ad_safetensors_open(&file, path, error)
             && render_snapshot_texts_read(&file, &settings, &scene, &cascades, NULL, error)
             && render_settings_fill(&settings, error) && sizes_agree(&file, &settings, error);
    model = good ? render_model_open(ctx, &settings, &scene, cascades, error) : NULL;
    good = model != NULL;
    for (int i = 0; good && i < model->parameter_count; i++)
        good = load(&file, ctx, model->parameters[i], NULL, error);
    for (int i = 0; good && i < model->state_count; i++)
        good = load(&file, ctx, model->states[i], NULL, error);
    good = good && (!extra || copy_extra(&file, extra, extra_count, error));
    if (!good) {
        render_model_close(model);
        model = NULL;
    }
    ad_safetensors_free(&file);
    return model;
}

// The snapshot's training views must be the trainer's: another folder's would be learned over them.
static bool same_views(const ad_safetensors *file, const render_trainer *t, ad_message *error) {
    const int64_t views = ad_shape_of(t->ctx, t->cameras).size[0];
    const ad_safetensors_tensor *found = ad_safetensors_find(file, "cameras");
    if (found && found->rank == 2 && found->shape[0] != (uint64_t)views)
        return ad_fail(error, "%s: begun with %llu images to train on, found %lld: expected the "
                       "same images", file->path, (unsigned long long)found->shape[0],
                       (long long)views);
    const uint64_t shape[2] = {(uint64_t)views, RENDER_CAMERA_NUMBERS};
    found = ad_safetensors_expect(file, "cameras", "F32", 2, shape, error);
    if (!found) return false;
    float *was = malloc((size_t)found->bytes), *is = malloc((size_t)found->bytes);
    bool good = (was && is) || ad_fail(error, "%s: out of memory", file->path);
    good = good && ad_safetensors_read(file, was, found, 0, (size_t)found->bytes, error);
    if (good && !ad_read(t->ctx, t->cameras, is, (size_t)found->bytes))
        good = ad_fail(error, "%s", ad_error_text(t->ctx));
    for (int64_t i = 0; good && i < views * RENDER_CAMERA_NUMBERS; i++)
        if (!(fabsf(was[i] - is[i]) <= CAMERA_TOLERANCE * (1 + fabsf(was[i]))))
            good = ad_fail(error, "%s: begun with other cameras (the first is that of training "
                           "image %lld): expected the same images", file->path,
                           (long long)(i / RENDER_CAMERA_NUMBERS + 1));
    free(was), free(is);
    return good;
}

bool render_trainer_resume(render_trainer *t, const char *path, ad_message *error) {
    ad_context *ctx = t->ctx;
    ad_tensor states[MODEL_PARAMETERS_MAX * 3];
    ad_safetensors file = {0};
    uint64_t totals[3], shape[1] = {3}, seed = 0;
    render_settings settings;
    render_scene scene;
    int cascades;
    bool good = ad_safetensors_open(&file, path, error)
             && render_snapshot_texts_read(&file, &settings, &scene, &cascades, &seed, error);
    if (good && seed != ad_seed(ctx))
        good = ad_fail(error, "%s: expected a context with the seed %llu, found %llu", path,
                       (unsigned long long)seed, (unsigned long long)ad_seed(ctx));
    good = good && same_views(&file, t, error);
    const ad_safetensors_tensor *found =
        good ? ad_safetensors_expect(&file, "trainer.totals", "U64", 1, shape, error) : NULL;
    good = found && ad_safetensors_read(&file, totals, found, 0, sizeof totals, error);
    if (good && totals[0] > INT32_MAX)
        good = ad_fail(error, "%s: expected less than 2^31 steps, found %llu", path,
                       (unsigned long long)totals[0]);
    int count = good ? optimiser_states(t, states, MODEL_PARAMETERS_MAX * 3) : 0;
    for (int i = 0; good && i < count; i++) good = load(&file, ctx, states[i], NULL, error);
    good = good && load(&file, ctx, t->live, "trainer.live_rays", error)
        && load(&file, ctx, ad_step_tensor(ctx), "trainer.random_step", error);
    if (good) t->step = (int64_t)totals[0], t->samples = totals[1], t->rays = totals[2];
    ad_safetensors_free(&file);
    return good;
}
