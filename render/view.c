/* Views: the picture, depth, normals and opacity that a camera sees of a model.
 *
 * Rays are traced from the camera on, piece by piece: a pool of them takes the next few samples of
 * each, those that light no longer passes leave it for their pixel, and new rays take their place.
 * So what lies behind a surface is not even looked for, and work comes in batches of one size. With
 * T the transmittance in front of a piece, each ray sums T colour, T opacity, T depth and T normal.
 *
 * There is neither jitter nor a tape, but for normals: these are the directions in which the
 * density falls, by the same reverse mode that trains, the gradient of the density at each sample
 * weighted as its colour is. A field that knows no pieces traces its rays whole. */
#include "render/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 1 << 13, PIECE = 12, CAPACITY = 1 << 17 };

// With less light than this a ray ends: a quarter of an 8-bit level at most, which may still round
// to the next one.
static const float dark = 1e-3f;

typedef struct ray {
    int64_t pixel;
    float from, light; // where it goes on, and its transmittance there
    float colour[3], opacity, depth, normal[3], direction[3];
} ray;

typedef struct look { // what the camera sees along one piece of the pool's rays
    uint32_t *ids, *offsets;                             // (POOL, 2), (POOL + 1)
    float *from, *colour, *opacity, *depth, *normal, *direction; // (POOL, ...)
    float *t, *delta;                                    // (POOL PIECE), of the samples
} look;

typedef struct viewing {
    render_model *model;
    const render_camera *camera;
    const float *background; // (3)
    render_view *view;
    ad_tensor row;           // the camera's numbers
    ray *pool;
    int64_t count, most;     // rays in the pool, and those that are traced at once, at most
    look look;
    void *memory;
} viewing;

// Unit normals of the samples' points, summed with their weights: (rays, 3).
static ad_tensor ray_normals(render_model *model, ad_tensor origins, ad_tensor directions,
                             const render_traced *traced) {
    ad_context *ctx = model->ctx;
    const render_samples *at = &traced->samples;
    if (!at->t.slot) return (ad_tensor){0};
    ad_tensor points = ad_watch(ctx, render_points(ctx, origins, directions, at->t, at->offsets));
    ad_tensor slope = {0}, sigma = model->field->density(model, points, at->count);
    ad_grad(ctx, ad_sum(ctx, sigma, AD_ALL_AXES, false), (ad_tensor){0}, 1, &points, &slope, 0);
    ad_no_grad_begin(ctx);
    ad_tensor length = ad_norm(ctx, slope, AD_AXIS(1), true);
    ad_tensor unit = ad_div(ctx, slope, ad_affine(ctx, length, -1, -1e-12));
    ad_tensor weight = ad_reshape(ctx, traced->pixels.weight,
                                  AD_SHAPE(ad_count(ctx, traced->pixels.weight), 1));
    ad_tensor normals = ad_segment_sum(ctx, ad_mul(ctx, unit, weight), at->offsets);
    ad_no_grad_end(ctx);
    return normals;
}

/* ---- one piece of all rays */

// Traces it for the pool's first `count` rays; returns how many were traced, again the first ones.
static int64_t trace_piece(viewing *v, int64_t count) {
    render_model *model = v->model;
    ad_context *ctx = model->ctx;
    look *l = &v->look;
    ad_tensor origins, directions, normal = {0};
    render_traced traced = {0};
    uint32_t whole = (uint32_t)count;
    size_t rays = (size_t)count;
    bool pieces = model->field->look != NULL;
    for (int64_t i = 0; i < count; i++) {
        l->ids[2 * i] = 0, l->ids[2 * i + 1] = (uint32_t)v->pool[i].pixel;
        l->from[i] = v->pool[i].from;
    }
    ad_scope_begin(ctx, "view");
    ad_no_grad_begin(ctx);
    ad_tensor ids = ad_from(ctx, AD_U32, AD_SHAPE(count, 2), l->ids);
    render_camera_rays(ctx, v->row, (ad_tensor){0}, ids, &origins, &directions);
    if (pieces)
        model->field->look(model, origins, directions,
                           ad_from(ctx, AD_F32, AD_SHAPE(count), l->from), PIECE, &traced);
    else
        model->field->trace(model, origins, directions,
                            &(render_tracing){.capacity = CAPACITY}, &traced);
    ad_no_grad_end(ctx);
    if (v->view->normal) normal = ray_normals(model, origins, directions, &traced);
    ad_read(ctx, traced.pixels.colour, l->colour, rays * 12);
    ad_read(ctx, traced.pixels.opacity, l->opacity, rays * 4);
    ad_read(ctx, traced.pixels.depth, l->depth, rays * 4);
    ad_read(ctx, directions, l->direction, rays * 12);
    if (normal.slot) ad_read(ctx, normal, l->normal, rays * 12);
    if (pieces) {
        ad_read(ctx, traced.samples.offsets, l->offsets, (rays + 1) * 4);
        ad_read(ctx, traced.samples.t, l->t, rays * PIECE * 4);
        ad_read(ctx, traced.samples.delta, l->delta, rays * PIECE * 4);
    }
    if (traced.rays.slot) ad_read(ctx, traced.rays, &whole, sizeof whole);
    ad_scope_end(ctx);
    return ad_failed(ctx) ? 0 : whole;
}

// Adds the piece to a ray; true where the ray has come to its end.
static bool add_piece(const look *l, int64_t i, bool pieces, bool normals, ray *r) {
    for (int k = 0; k < 3; k++) {
        r->colour[k] += r->light * l->colour[3 * i + k];
        if (normals) r->normal[k] += r->light * l->normal[3 * i + k];
        r->direction[k] = l->direction[3 * i + k];
    }
    r->opacity += r->light * l->opacity[i];
    r->depth += r->light * l->depth[i];
    r->light *= 1 - l->opacity[i];
    if (!pieces) return true;
    // Fewer samples than asked for: there are no more, or they lie in the dark.
    uint32_t end = l->offsets[i + 1];
    if (end - l->offsets[i] < PIECE || r->light < dark) return true;
    r->from = l->t[end - 1] + 0.5f * l->delta[end - 1];
    return false;
}

static void put_pixel(const viewing *v, const ray *r) {
    render_view *view = v->view;
    int64_t to = r->pixel;
    if (view->opacity) view->opacity[to] = r->opacity;
    for (int k = 0; view->colour && k < 3; k++) {
        float value = r->colour[k] + (1 - r->opacity) * v->background[k];
        view->colour[3 * to + k] = value < 0 ? 0 : value > 1 ? 1 : value;
    }
    bool seen = r->opacity > 0.5f;
    if (view->depth) {
        // Mean distance along the ray, as a distance along the camera's axis, world units.
        double along = 0;
        for (int k = 0; k < 3; k++) along -= r->direction[k] * v->camera->pose[k][2];
        double scale = v->model->domain.scale;
        view->depth[to] = seen ? (float)(r->depth / r->opacity / scale * along) : 0;
    }
    if (view->normal) {
        const float *n = r->normal;
        float length = sqrtf(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
        for (int k = 0; k < 3; k++)
            view->normal[3 * to + k] = length > 0 && seen ? n[k] / length : 0;
    }
}

// One round: the pool is filled, traced, and the rays at their end leave it.
static bool trace_round(viewing *v, int64_t *next, int64_t pixels, ad_message *error) {
    ad_context *ctx = v->model->ctx;
    while (v->count < v->most && *next < pixels)
        v->pool[v->count++] = (ray){.pixel = (*next)++, .light = 1};
    int64_t count = v->count < v->most ? v->count : v->most, kept = 0;
    int64_t whole = trace_piece(v, count);
    if (ad_failed(ctx)) return ad_fail(error, "%s", ad_error_text(ctx));
    bool pieces = v->model->field->look != NULL, normals = v->view->normal != NULL;
    for (int64_t i = 0; i < v->count; i++) {
        if (i < whole && add_piece(&v->look, i, pieces, normals, &v->pool[i]))
            put_pixel(v, &v->pool[i]);
        else
            v->pool[kept++] = v->pool[i];
    }
    // Where samples are many, fewer whole rays fit: no more are set up.
    if (whole < count) v->most = whole;
    v->count = kept;
    return true;
}

/* ---- the view */

// One block of memory for the pool and what is read back.
static bool open_memory(viewing *v) {
    size_t numbers = POOL * (2 + 1 + 1 + 11 + 2 * PIECE) + 1;
    float *at = v->memory = calloc(POOL * sizeof(ray) + numbers * 4, 1);
    if (!at) return false;
    look *l = &v->look;
    v->pool = v->memory;
    at = (float *)(v->pool + POOL);
    l->from = at, l->colour = l->from + POOL, l->opacity = l->colour + 3 * POOL;
    l->depth = l->opacity + POOL, l->normal = l->depth + POOL;
    l->direction = l->normal + 3 * POOL;
    l->t = l->direction + 3 * POOL, l->delta = l->t + POOL * PIECE;
    l->ids = (uint32_t *)(l->delta + POOL * PIECE), l->offsets = l->ids + 2 * POOL;
    return true;
}

bool render_model_view(render_model *model, const render_camera *camera,
                       const float background[3], render_view *view, ad_message *error) {
    ad_context *ctx = model->ctx;
    int64_t pixels = (int64_t)camera->width * camera->height, next = 0;
    float row[RENDER_CAMERA_NUMBERS];
    viewing v = {.model = model, .camera = camera, .background = background, .view = view,
                 .most = POOL};
    if (!render_cameras_pack(camera, 1, &model->domain, row))
        return ad_fail(error, "the camera of a view holds a number that is not finite");
    if (!open_memory(&v)) return ad_fail(error, "out of memory for a view");
    ad_scope_begin(ctx, "camera");
    v.row = ad_from(ctx, AD_F32, AD_SHAPE(1, RENDER_CAMERA_NUMBERS), row);
    bool good = true;
    while (good && (next < pixels || v.count > 0)) good = trace_round(&v, &next, pixels, error);
    ad_scope_end(ctx);
    free(v.memory);
    return good;
}
