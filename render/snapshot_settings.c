/* A snapshot's metadata: settings and scene as JSON, each number the shortest text that reads back
 * to the same bits. One table says which members there are, so that writer and reader agree.
 *
 * A file may come from anywhere: every number is checked for its range before it is used. */
#include "render/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "render/json_fields.h"

static const char format_name[] = "adjoint snapshot 1";
static const char *const own_keys[SNAPSHOT_OWN_KEYS] = {"format", "settings", "scene", "seed"};

typedef enum member_kind { MEMBER_BOOL, MEMBER_INT, MEMBER_INT64, MEMBER_DOUBLE } member_kind;
typedef struct member {
    const char *name;
    member_kind kind;
    size_t offset;
    double low, high;
} member;

#define AT(name) offsetof(render_settings, name)
static const member settings_members[] = {
    {"bf16", MEMBER_BOOL, AT(bf16), 0, 1},
    {"levels", MEMBER_INT, AT(grid.levels), 1, RENDER_GRID_LEVELS_MAX},
    {"features", MEMBER_INT, AT(grid.features), 1, 8},
    {"log2_entries", MEMBER_INT, AT(grid.log2_entries), 3, 26},
    {"n_min", MEMBER_DOUBLE, AT(grid.n_min), 1, 1e6},
    {"n_max", MEMBER_DOUBLE, AT(grid.n_max), 1, 1e6},
    {"width", MEMBER_INT, AT(width), 1, 256},
    {"batch", MEMBER_INT64, AT(batch), 1, 1 << 24},
    {"rays", MEMBER_INT64, AT(rays), 1, 1 << 20},
    {"march_steps", MEMBER_INT, AT(march_steps), 1, 1 << 16},
    {"learning_rate", MEMBER_DOUBLE, AT(learning_rate), 0, 1e3},
    {"learning_rate_end", MEMBER_DOUBLE, AT(learning_rate_end), 0, 1e3},
    {"opacity_loss", MEMBER_DOUBLE, AT(opacity_loss), 0, 1e6},
    {"distortion_loss", MEMBER_DOUBLE, AT(distortion_loss), 0, 1e6},
    {"squared_loss", MEMBER_BOOL, AT(squared_loss), 0, 1},
    {"random_background", MEMBER_BOOL, AT(random_background), 0, 1},
    {"steps", MEMBER_INT64, AT(steps), 0, INT32_MAX},
    {"seconds", MEMBER_DOUBLE, AT(seconds), 0, 1e9},
};
#undef AT
enum { SETTINGS_MEMBERS = sizeof settings_members / sizeof *settings_members };

/* ---- writing */

static void put_name(ad_text *text, const char *name) {
    ad_text_string(text, text->count > 1 ? "," : "");
    ad_text_json_string(text, name);
    ad_text_string(text, ":");
}

static void put_numbers(ad_text *text, const char *name, const double *values, int count) {
    put_name(text, name);
    for (int i = 0; i < count; i++) {
        ad_text_string(text, i ? "," : "[");
        ad_text_json_number(text, values[i]);
    }
    ad_text_string(text, "]");
}

static void put_member(ad_text *text, const member *m, const void *base) {
    const char *at = (const char *)base + m->offset;
    put_name(text, m->name);
    switch (m->kind) {
    case MEMBER_BOOL: ad_text_string(text, *(const bool *)at ? "true" : "false"); break;
    case MEMBER_INT: ad_text_format(text, "%d", *(const int *)at); break;
    case MEMBER_INT64: ad_text_format(text, "%" PRId64, *(const int64_t *)at); break;
    case MEMBER_DOUBLE: ad_text_json_number(text, *(const double *)at); break;
    }
}

bool render_snapshot_texts_make(snapshot_texts *texts, const render_model *model,
                                ad_message *error) {
    const render_settings *s = &model->settings;
    const render_scene *scene = &model->scene;
    ad_text *text = &texts->settings;
    ad_text_string(text, "{");
    put_name(text, "field"), ad_text_json_string(text, s->field);
    put_name(text, "preset"), ad_text_json_string(text, s->preset);
    for (int i = 0; i < SETTINGS_MEMBERS; i++) put_member(text, &settings_members[i], s);
    ad_text_string(text, "}");

    text = &texts->scene;
    double background[3] = {scene->background[0], scene->background[1], scene->background[2]};
    double cascades = model->domain.cascades;
    ad_text_string(text, "{");
    put_numbers(text, "box_min", scene->box_min, 3);
    put_numbers(text, "box_max", scene->box_max, 3);
    put_name(text, "near"), ad_text_json_number(text, scene->near_distance);
    put_numbers(text, "background", background, 3);
    put_name(text, "cascades"), ad_text_json_number(text, cascades);
    put_name(text, "box_reason"), ad_text_json_string(text, scene->box_reason);
    put_name(text, "near_reason"), ad_text_json_string(text, scene->near_reason);
    put_name(text, "background_reason"), ad_text_json_string(text, scene->background_reason);
    ad_text_string(text, "}");

    snprintf(texts->seed, sizeof texts->seed, "%" PRIu64, ad_seed(model->ctx));
    if (texts->settings.failed || texts->scene.failed)
        return ad_fail(error, "out of memory for the settings of a snapshot");
    const char *const values[] = {format_name, texts->settings.bytes, texts->scene.bytes,
                                  texts->seed};
    for (int i = 0; i < SNAPSHOT_OWN_KEYS; i++)
        texts->pairs[i] = (ad_safetensors_pair){own_keys[i], values[i]};
    return true;
}

void render_snapshot_texts_free(snapshot_texts *texts) {
    ad_text_free(&texts->settings);
    ad_text_free(&texts->scene);
}

bool render_snapshot_key_is_own(const char *key) {
    for (int i = 0; i < SNAPSHOT_OWN_KEYS; i++)
        if (strcmp(key, own_keys[i]) == 0) return true;
    return false;
}

/* ---- reading */

static bool get_member(const ad_safetensors *file, const char *object, const member *m, void *base,
                       ad_message *error) {
    char *at = (char *)base + m->offset;
    double value = 0;
    bool truth = false;
    bool known = m->kind == MEMBER_BOOL ? render_json_get_boolean(object, m->name, &truth)
                                        : render_json_get_number(object, m->name, &value);
    bool whole = m->kind == MEMBER_DOUBLE || floor(value) == value;
    if (!known || !whole || !(value >= m->low && value <= m->high))
        return ad_fail(error, "%s: settings: %s: expected %s from %g to %g", file->path, m->name,
                       m->kind == MEMBER_DOUBLE ? "a number" : "a whole number or a truth value",
                       m->low, m->high);
    switch (m->kind) {
    case MEMBER_BOOL: *(bool *)at = truth; break;
    case MEMBER_INT: *(int *)at = (int)value; break;
    case MEMBER_INT64: *(int64_t *)at = (int64_t)value; break;
    case MEMBER_DOUBLE: *(double *)at = value; break;
    }
    return true;
}

static bool get_numbers(const ad_safetensors *file, const char *object, const char *name,
                        double *values, size_t count, ad_message *error) {
    bool good = render_json_get_numbers(object, name, values, count);
    for (size_t i = 0; i < count && good; i++) good = fabs(values[i]) < 1e12;
    return good || ad_fail(error, "%s: scene: %s: expected %zu numbers", file->path, name, count);
}

static bool read_scene(const ad_safetensors *file, const char *object, render_scene *scene,
                       int *cascades, ad_message *error) {
    double background[3], depth = 0;
    *scene = (render_scene){0};
    if (!get_numbers(file, object, "box_min", scene->box_min, 3, error)
        || !get_numbers(file, object, "box_max", scene->box_max, 3, error)
        || !get_numbers(file, object, "background", background, 3, error))
        return false;
    if (!render_json_get_number(object, "near", &scene->near_distance)
        || !(scene->near_distance >= 0 && scene->near_distance < 1e12))
        return ad_fail(error, "%s: scene: near: expected a distance", file->path);
    if (!render_json_get_number(object, "cascades", &depth) || !(depth >= 1 && depth <= 8))
        return ad_fail(error, "%s: scene: cascades: expected 1 to 8", file->path);
    *cascades = (int)depth;
    for (int i = 0; i < 3; i++) scene->background[i] = (float)background[i];
    // Words for people: what does not fit is cut.
    const size_t size = sizeof scene->box_reason;
    render_json_get_string(object, "box_reason", scene->box_reason, size);
    render_json_get_string(object, "near_reason", scene->near_reason, size);
    render_json_get_string(object, "background_reason", scene->background_reason, size);
    return true;
}

// The one of the names that is meant, as a constant.
static const char *constant(const char *object, const char *name, const char *const *names) {
    char text[32];
    if (!render_json_get_string(object, name, text, sizeof text)) return NULL;
    for (; *names; names++)
        if (strcmp(text, *names) == 0) return *names;
    return NULL;
}

bool render_snapshot_texts_read(const ad_safetensors *file, render_settings *settings,
                         render_scene *scene, int *cascades, uint64_t *seed, ad_message *error) {
    static const char *const fields[] = {"hash", "mlp", NULL};
    static const char *const presets[] = {"fast", "default", "quality", NULL};
    const char *texts[SNAPSHOT_OWN_KEYS];
    for (int i = 0; i < SNAPSHOT_OWN_KEYS; i++) {
        texts[i] = ad_safetensors_value(file, own_keys[i]);
        if (!texts[i])
            return ad_fail(error, "%s: not a snapshot: its metadata has no \"%s\"", file->path,
                           own_keys[i]);
    }
    if (strcmp(texts[0], format_name) != 0)
        return ad_fail(error, "%s: expected the format \"%s\", found \"%.40s\"", file->path,
                       format_name, texts[0]);
    char *end;
    errno = 0;
    unsigned long long number = strtoull(texts[3], &end, 10);
    if (end == texts[3] || *end || errno || texts[3][0] == '-')
        return ad_fail(error, "%s: seed: expected a number, found \"%.40s\"", file->path,
                       texts[3]);
    if (seed) *seed = number;

    const char *object = texts[1], *place = texts[2];
    *settings = (render_settings){0};
    if (!render_json_is_object(object) || !render_json_is_object(place))
        return ad_fail(error, "%s: settings and scene: expected JSON objects", file->path);
    settings->field = constant(object, "field", fields);
    settings->preset = constant(object, "preset", presets);
    if (!settings->field || !settings->preset)
        return ad_fail(error, "%s: settings: expected a known field and preset", file->path);
    for (int i = 0; i < SETTINGS_MEMBERS; i++)
        if (!get_member(file, object, &settings_members[i], settings, error)) return false;
    return read_scene(file, place, scene, cascades, error);
}
