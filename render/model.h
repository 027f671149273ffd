/* model.h: the inside of a model and the interface of fields, for the files of render/.
 *
 * A field is a table of functions: it makes its parameters, traces rays to pixels, and keeps
 * whatever tells it where space is empty; and the phases of its training. The trainer and the
 * viewer know nothing else of it. */
#ifndef ADJOINT_RENDER_MODEL_H
#define ADJOINT_RENDER_MODEL_H

#include "render/render.h"

enum { MODEL_PARAMETERS_MAX = 64, MODEL_STATES_MAX = 8 };

typedef struct render_traced {
    render_pixels pixels;
    ad_tensor rays;        // () u32: rays traced whole; null: all
    ad_tensor count;       // () u32: samples; null: unknown
    ad_tensor extra_loss;  // () or null: the field's own terms, weighted
    render_samples samples; // the hash field's, for what is derived from them
    render_pixels coarse;  // of a coarse pass, or null
    ad_tensor points, features; // the hash field's samples in the cube, and its grid's values there
} render_traced;

typedef struct render_tracing {
    ad_tensor live;        // () u32: rays from here on are not traced; null: all are
    int64_t capacity;      // most samples; for views, where there is no look: at least one ray's
    bool training;         // jitter and losses
    double stretch;        // steps along a ray are so many times as long as usual; 0: 1
} render_tracing;

// A part of the training's schedule, in which all steps are of one kind.
typedef struct render_phase {
    double end;            // share of the schedule
    double stretch;        // see render_tracing
    int growth;            // so many times the samples, rays and rate
} render_phase;

typedef struct render_field {
    const char *name;
    const render_phase *phases; // the last one's end is 1; or NULL: steps are alike
    bool (*open)(render_model *model, ad_message *error);
    // Rays in the unit cube.
    void (*trace)(render_model *model, ad_tensor origins, ad_tensor directions,
                  const render_tracing *how, render_traced *traced);
    // The next piece of each ray, for views: at most `most` samples behind from (rays). May be
    // NULL: rays are then traced whole.
    void (*look)(render_model *model, ad_tensor origins, ad_tensor directions, ad_tensor from,
                 int most, render_traced *traced);
    // sigma (n) at points (n, 3), differentiable
    ad_tensor (*density)(render_model *model, ad_tensor points, ad_tensor count);
    // After an optimiser step with this number: learn where space is empty. May be NULL.
    void (*update)(render_model *model, int64_t step);
} render_field;

extern const render_field render_field_hash, render_field_mlp;

struct render_model {
    ad_context *ctx;
    const render_field *field;
    render_settings settings;
    render_scene scene;
    render_domain domain;
    double cone_angle, near_distance; // in the unit cube
    ad_tensor parameters[MODEL_PARAMETERS_MAX]; // in the order they were made
    int parameter_count;
    int grid_count;        // the first so many are tables: sparse Adam, no decay
    ad_tensor states[MODEL_STATES_MAX];         // occupancy
    int state_count;
};

ad_tensor render_model_parameter(render_model *model, const char *name, ad_tensor initial);
ad_tensor render_model_state(render_model *model, const char *name, ad_tensor initial);

#endif
