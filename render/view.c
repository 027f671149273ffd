/* Views: the picture, depth, normals and opacity that a camera sees of a model.
 *
 * Rays are traced a few thousand at a time without jitter and without a tape. Normals are the
 * directions in which the density falls, by the same reverse mode that trains: the gradient of
 * the density at each sample, weighted as its colour is. */
#include "render/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 14, CAPACITY = 1 << 17 };

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

typedef struct chunk {
    int64_t first, count;    // pixels
    float *colour, *opacity, *depth, *normal, *direction; // (CHUNK, ...)
    uint32_t *ids;           // (CHUNK, 2)
} chunk;

// Traces pixels [first, first + count) of the camera; returns how many were traced whole.
static int64_t trace_chunk(render_model *model, ad_tensor camera, chunk *c, bool normals) {
    ad_context *ctx = model->ctx;
    ad_tensor origins, directions;
    render_traced traced = {0};
    uint32_t whole = (uint32_t)c->count;
    size_t rays = (size_t)c->count;
    for (int64_t i = 0; i < c->count; i++) {
        c->ids[2 * i] = 0;
        c->ids[2 * i + 1] = (uint32_t)(c->first + i);
    }
    ad_scope_begin(ctx, "view");
    if (!normals) ad_no_grad_begin(ctx);
    ad_tensor ids = ad_from(ctx, AD_U32, AD_SHAPE(c->count, 2), c->ids);
    render_camera_rays(ctx, camera, (ad_tensor){0}, ids, &origins, &directions);
    model->field->trace(model, origins, directions, (ad_tensor){0}, CAPACITY, false, &traced);
    ad_tensor normal = normals ? ray_normals(model, origins, directions, &traced) : (ad_tensor){0};
    ad_read(ctx, traced.pixels.colour, c->colour, rays * 12);
    ad_read(ctx, traced.pixels.opacity, c->opacity, rays * 4);
    ad_read(ctx, traced.pixels.depth, c->depth, rays * 4);
    ad_read(ctx, directions, c->direction, rays * 12);
    if (normal.slot) ad_read(ctx, normal, c->normal, rays * 12);
    else memset(c->normal, 0, rays * 12);
    if (traced.rays.slot) ad_read(ctx, traced.rays, &whole, sizeof whole);
    if (!normals) ad_no_grad_end(ctx);
    ad_scope_end(ctx);
    return ad_failed(ctx) ? 0 : whole;
}

static void put_pixels(const render_model *model, const render_camera *camera, const chunk *c,
                       int64_t count, const float background[3], render_view *view) {
    for (int64_t i = 0; i < count; i++) {
        int64_t to = c->first + i;
        float opacity = c->opacity[i], open = 1 - opacity;
        if (view->opacity) view->opacity[to] = opacity;
        for (int k = 0; view->colour && k < 3; k++) {
            float value = c->colour[3 * i + k] + open * background[k];
            view->colour[3 * to + k] = value < 0 ? 0 : value > 1 ? 1 : value;
        }
        if (view->depth) {
            // Mean distance along the ray, as a distance along the camera's axis, world units.
            double along = 0;
            for (int k = 0; k < 3; k++) along -= c->direction[3 * i + k] * camera->pose[k][2];
            bool seen = opacity > 0.5f;
            view->depth[to] = seen ? (float)(c->depth[i] / opacity / model->domain.scale * along)
                                   : 0;
        }
        if (view->normal) {
            const float *n = c->normal + 3 * i;
            float length = sqrtf(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
            for (int k = 0; k < 3; k++)
                view->normal[3 * to + k] = length > 0 && opacity > 0.5f ? n[k] / length : 0;
        }
    }
}

bool render_model_view(render_model *model, const render_camera *camera,
                       const float background[3], render_view *view, ad_message *error) {
    ad_context *ctx = model->ctx;
    int64_t pixels = (int64_t)camera->width * camera->height, rays = CHUNK;
    float row[RENDER_CAMERA_NUMBERS], *memory = malloc(CHUNK * 11 * sizeof *memory);
    chunk c = {.colour = memory, .ids = malloc(CHUNK * 2 * sizeof *c.ids)};
    bool good = memory && c.ids && render_cameras_pack(camera, 1, &model->domain, row);
    if (!good) ad_fail(error, "out of memory for a view");
    c.opacity = memory + 3 * CHUNK, c.depth = c.opacity + CHUNK, c.normal = c.depth + CHUNK;
    c.direction = c.normal + 3 * CHUNK;
    ad_scope_begin(ctx, "camera");
    ad_tensor rows = good ? ad_from(ctx, AD_F32, AD_SHAPE(1, RENDER_CAMERA_NUMBERS), row)
                          : (ad_tensor){0};
    for (c.first = 0; c.first < pixels && good;) {
        c.count = pixels - c.first < rays ? pixels - c.first : rays;
        int64_t whole = trace_chunk(model, rows, &c, view->normal != NULL);
        if (ad_failed(ctx)) good = ad_fail(error, "%s", ad_error_text(ctx));
        else if (whole == 0 && rays == 1) whole = 1; // one ray with too many samples: leave it
        put_pixels(model, camera, &c, whole, background, view);
        c.first += whole;
        // Where samples are many, fewer rays fit.
        if (whole < c.count) rays = whole ? whole : (rays + 1) / 2;
        else if (rays < CHUNK) rays = rays * 2 < CHUNK ? rays * 2 : CHUNK;
    }
    ad_scope_end(ctx);
    free(memory), free(c.ids);
    return good;
}
