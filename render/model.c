/* Models: settings, presets, a field in its box. */
#include "render/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct preset {
    const char *name;
    render_settings settings;
} preset;

/* A preset is a row of settings; docs/field.md says what each does. */
static const preset presets[] = {
    {"fast", {.grid = {8, 4, 15, 16, 1024}, .width = 32, .batch = 1 << 14, .rays = 1 << 13,
              .march_steps = 512, .learning_rate = 2e-2, .learning_rate_end = 5e-4}},
    {"default", {.grid = {8, 4, 17, 16, 2048}, .width = 64, .batch = 1 << 15, .rays = 1 << 14,
                 .march_steps = 512, .learning_rate = 2e-2, .learning_rate_end = 2e-4}},
    {"quality", {.grid = {8, 4, 19, 16, 2048}, .width = 64, .batch = 1 << 16, .rays = 1 << 15,
                 .march_steps = 1024, .learning_rate = 2e-2, .learning_rate_end = 1e-4}},
};

bool render_settings_fill(render_settings *s, ad_message *error) {
    if (!s->preset) s->preset = "default";
    if (!s->field) s->field = "hash";
    const render_settings *row = NULL;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(s->preset, presets[i].name) == 0) row = &presets[i].settings;
    if (!row)
        return ad_fail(error, "unknown preset '%s': expected fast, default or quality", s->preset);
    if (strcmp(s->field, "hash") != 0 && strcmp(s->field, "mlp") != 0)
        return ad_fail(error, "unknown field '%s': expected hash or mlp", s->field);
    render_settings reference = *row; // of the reference field: the paper's numbers
    if (strcmp(s->field, "mlp") == 0) {
        reference.width = 256, reference.march_steps = 192, reference.rays = row->rays / 256;
        reference.learning_rate = 5e-4, reference.learning_rate_end = 5e-5;
        row = &reference;
    }
    if (!s->grid.levels) s->grid.levels = row->grid.levels;
    if (!s->grid.features) s->grid.features = row->grid.features;
    if (!s->grid.log2_entries) s->grid.log2_entries = row->grid.log2_entries;
    if (s->grid.n_min == 0) s->grid.n_min = row->grid.n_min;
    if (s->grid.n_max == 0) s->grid.n_max = row->grid.n_max;
    if (!s->width) s->width = row->width;
    if (!s->batch) s->batch = row->batch;
    if (!s->rays) s->rays = row->rays;
    if (!s->march_steps) s->march_steps = row->march_steps;
    if (s->learning_rate == 0) s->learning_rate = row->learning_rate;
    if (s->learning_rate_end == 0) s->learning_rate_end = row->learning_rate_end;
    if (s->batch < 1024 || s->batch > 1 << 24)
        return ad_fail(error, "a batch of %lld samples: expected 1024 to 2^24",
                       (long long)s->batch);
    if (s->rays < 1 || s->rays > 1 << 20)
        return ad_fail(error, "%lld rays a step: expected 1 to 2^20", (long long)s->rays);
    if (s->width < 1 || s->width > 256)
        return ad_fail(error, "networks %d wide: expected 1 to 256", s->width);
    return true;
}

ad_tensor render_model_parameter(render_model *model, const char *name, ad_tensor initial) {
    ad_tensor parameter = ad_parameter(model->ctx, name, initial);
    if (model->parameter_count < MODEL_PARAMETERS_MAX)
        model->parameters[model->parameter_count++] = parameter;
    return parameter;
}

ad_tensor render_model_state(render_model *model, const char *name, ad_tensor initial) {
    ad_tensor state = ad_state(model->ctx, name, initial);
    if (model->state_count < MODEL_STATES_MAX) model->states[model->state_count++] = state;
    return state;
}

render_model *render_model_open(ad_context *ctx, const render_settings *settings,
                                const render_scene *scene, int cascades, ad_message *error) {
    render_settings filled = *settings;
    if (!render_settings_fill(&filled, error)) return NULL;
    for (int axis = 0; axis < 3; axis++)
        if (!(scene->box_min[axis] < scene->box_max[axis]) || !isfinite(scene->box_min[axis])
            || !isfinite(scene->box_max[axis])) {
            ad_fail(error, "the scene box is empty along axis %d: %g to %g", axis,
                    scene->box_min[axis], scene->box_max[axis]);
            return NULL;
        }
    render_model *model = calloc(1, sizeof *model);
    if (!model) {
        ad_fail(error, "out of memory for a model");
        return NULL;
    }
    model->ctx = ctx, model->scene = *scene;
    model->settings = filled;
    model->field = strcmp(filled.field, "mlp") == 0 ? &render_field_mlp : &render_field_hash;
    // Names outlive the caller's strings.
    model->settings.field = model->field->name;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(filled.preset, presets[i].name) == 0) model->settings.preset = presets[i].name;
    cascades = cascades < 1 ? 1 : cascades > 8 ? 8 : cascades;
    render_domain_make(scene->box_min, scene->box_max, cascades, &model->domain);
    // In a large scene steps grow with distance, and the finest cells stay as fine as inside.
    model->cone_angle = cascades > 1 ? 1.0 / 256 : 0;
    model->near_distance = scene->near_distance * model->domain.scale;
    if (!model->field->open(model, error)) {
        render_model_close(model);
        return NULL;
    }
    return model;
}

void render_model_close(render_model *model) { free(model); }

int64_t render_model_parameters(const render_model *model) {
    int64_t count = 0;
    for (int i = 0; i < model->parameter_count; i++)
        count += ad_count(model->ctx, model->parameters[i]);
    return count;
}

const render_scene *render_model_scene(const render_model *model) { return &model->scene; }
const render_settings *render_model_settings(const render_model *model) {
    return &model->settings;
}

double render_model_occupied(render_model *model) {
    if (model->state_count < 2) return 1;
    // The bits come last; cells first among them.
    ad_context *ctx = model->ctx;
    int64_t words = ad_count(ctx, model->states[1]), cells = ad_count(ctx, model->states[0]);
    uint32_t *bits = malloc((size_t)words * 4);
    uint64_t set = 0;
    if (bits && ad_read(ctx, model->states[1], bits, (size_t)words * 4))
        for (int64_t i = 0; i < cells / 32; i++) set += (uint64_t)__builtin_popcount(bits[i]);
    free(bits);
    return (double)set / (double)cells;
}
