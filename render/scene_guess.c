/* The scene's box, near plane and background, chosen from cameras and images.
 *
 * Users should not have to know about aabb_scale (the most asked question about instant-ngp), so
 * the box is found, and said with its reason:
 *   1. aabb_scale is given: instant-ngp's box, the unit cube enlarged by it, in world units:
 *      p * scale + offset = 0.5 +- 0.5 aabb_scale, with scale 0.33 and offset 0.5 as usual.
 *   2. Images with transparent pixels: an object, seen whole. A camera at distance d from the
 *      middle sees d tan(a / 2) to each side; the box reaches as far as the cameras see (median).
 *      Blender scenes (cameras at 4, angle 0.69: 1.45) get their customary +-1.5.
 *   3. Otherwise a place with surroundings: twice the median distance, and all cameras inside.
 * The middle is the point nearest to all optical axes in the sense of least squares,
 *   sum_i (1 - v_i v_i^T) (c - o_i) = 0.
 * Cameras that look the same way have no such point (the matrix is nearly singular) or have it
 * behind them; the box then starts at the cameras and extends ahead. */
#include "render/render.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double NEAR_SHARE = 0.05; /* of the distance to the middle */

static double dot(const double a[3], const double b[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void position_of(const render_camera *camera, double o[3]) {
    for (int i = 0; i < 3; i++) o[i] = camera->pose[i][3];
}

static void axis_of(const render_camera *camera, double v[3]) {
    for (int i = 0; i < 3; i++) v[i] = -camera->pose[i][2];
}

/* Solves the symmetric a x = b by Cramer's rule; returns the determinant of a. */
static double solve3(double a[3][3], const double b[3], double x[3]) {
    double cofactor[3][3], det = 0;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int i1 = (i + 1) % 3, i2 = (i + 2) % 3, j1 = (j + 1) % 3, j2 = (j + 2) % 3;
            cofactor[i][j] = a[i1][j1] * a[i2][j2] - a[i1][j2] * a[i2][j1];
        }
    for (int j = 0; j < 3; j++) det += a[0][j] * cofactor[0][j];
    for (int i = 0; i < 3; i++) x[i] = det > 0 ? dot(cofactor[i], b) / det : 0;
    return det;
}

/* The point nearest to all axes; false if they are nearly parallel or it lies behind more than
 * a tenth of the cameras. */
static bool common_point(const render_dataset *dataset, double middle[3]) {
    double a[3][3] = {{0}}, b[3] = {0}, o[3], v[3];
    for (int n = 0; n < dataset->count; n++) {
        position_of(&dataset->frames[n].camera, o);
        axis_of(&dataset->frames[n].camera, v);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                double p = ((i == j) - v[i] * v[j]) / dataset->count;
                a[i][j] += p, b[i] += p * o[j];
            }
    }
    if (!(solve3(a, b, middle) > 1e-3)) return false; /* at most 8/27, for axes all around */
    int behind = 0;
    for (int n = 0; n < dataset->count; n++) {
        position_of(&dataset->frames[n].camera, o);
        axis_of(&dataset->frames[n].camera, v);
        behind += dot(middle, v) - dot(o, v) <= 0;
    }
    return behind * 10 <= dataset->count;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median distance to the middle; median and largest half-width that a camera sees there. Without
 * memory the first camera speaks for all. */
static void survey(const render_dataset *dataset, const double middle[3], double *distance,
                   double *seen, double *farthest) {
    size_t count = (size_t)dataset->count;
    double *values = malloc(2 * count * sizeof *values), one[2], o[3];
    if (!values) values = one, count = 1;
    *farthest = 0;
    for (size_t n = 0; n < count; n++) {
        const render_camera *c = &dataset->frames[n].camera;
        position_of(c, o);
        for (int i = 0; i < 3; i++) {
            o[i] -= middle[i];
            *farthest = fmax(*farthest, fabs(o[i]));
        }
        values[n] = sqrt(dot(o, o));
        double side = fmax(c->width / c->fx, c->height / c->fy);
        values[count + n] = values[n] * 0.5 * side;
    }
    qsort(values, count, sizeof *values, compare_doubles);
    qsort(values + count, count, sizeof *values, compare_doubles);
    *distance = values[count / 2], *seen = values[count + count / 2];
    if (values != one) free(values);
}

static void set_box(render_scene *scene, const double middle[3], double half) {
    for (int i = 0; i < 3; i++) {
        scene->box_min[i] = middle[i] - half;
        scene->box_max[i] = middle[i] + half;
    }
}

/* Nobody means 0.20000000003. */
static double four_digits(double value) {
    char text[32];
    snprintf(text, sizeof text, "%.4g", value);
    return strtod(text, NULL);
}

/* Cameras side by side: a cube ahead of them, ten times as wide as they are spread. */
static void box_ahead(render_scene *scene, const render_dataset *dataset) {
    double middle[3] = {0}, ahead[3] = {0}, o[3], v[3], spread = 0;
    for (int n = 0; n < dataset->count; n++) {
        position_of(&dataset->frames[n].camera, o);
        axis_of(&dataset->frames[n].camera, v);
        for (int i = 0; i < 3; i++) {
            middle[i] += o[i] / dataset->count;
            ahead[i] += v[i] / dataset->count;
        }
    }
    for (int n = 0; n < dataset->count; n++) {
        position_of(&dataset->frames[n].camera, o);
        for (int i = 0; i < 3; i++) o[i] -= middle[i];
        spread = fmax(spread, sqrt(dot(o, o)));
    }
    if (!(spread > 0)) spread = 1;
    double length = sqrt(dot(ahead, ahead));
    for (int i = 0; i < 3; i++) middle[i] += (length > 0 ? ahead[i] / length : 0) * 4 * spread;
    set_box(scene, middle, 5.5 * spread);
    scene->near_distance = four_digits(0.1 * spread);
    snprintf(scene->box_reason, sizeof scene->box_reason,
             "cameras look the same way: ahead of them, 11 times their spread of %.3g", spread);
    snprintf(scene->near_reason, sizeof scene->near_reason, "a tenth of the cameras' spread");
}

void render_scene_guess(render_scene *scene, const render_dataset *dataset) {
    memset(scene, 0, sizeof *scene);
    double middle[3], distance = 0, seen = 0, farthest = 0;
    bool around = dataset->count > 0 && common_point(dataset, middle);
    if (around) {
        survey(dataset, middle, &distance, &seen, &farthest);
        scene->near_distance = four_digits(NEAR_SHARE * distance);
        snprintf(scene->near_reason, sizeof scene->near_reason,
                 "%.0f %% of the cameras' median distance of %.3g", 100 * NEAR_SHARE, distance);
    } else if (dataset->count > 0) {
        box_ahead(scene, dataset);
    }

    /* The box, by the rules above. */
    size_t size = sizeof scene->box_reason;
    double off_centre = around ? sqrt(dot(middle, middle)) : 0;
    if (dataset->aabb_scale > 0) {
        double cube[3];
        for (int i = 0; i < 3; i++) cube[i] = (0.5 - dataset->ngp_offset[i]) / dataset->ngp_scale;
        set_box(scene, cube, 0.5 * dataset->aabb_scale / dataset->ngp_scale);
        snprintf(scene->box_reason, size, "aabb_scale %g of the dataset, in instant-ngp's unit "
                 "cube", dataset->aabb_scale);
    } else if (around && dataset->has_alpha && dataset->field_of_view_only &&
               off_centre < 0.5 && seen > 1.2 && seen < 1.8) {
        set_box(scene, (double[3]){0}, 1.5);
        snprintf(scene->box_reason, size, "a Blender scene: cameras see %.3g around the origin",
                 seen);
    } else if (around && dataset->has_alpha) {
        set_box(scene, middle, 1.05 * seen);
        snprintf(scene->box_reason, size, "an object: what the median camera sees around the "
                 "point all look at, %.3g", seen);
    } else if (around) {
        double half = fmax(2 * distance, 1.1 * farthest);
        set_box(scene, middle, half);
        snprintf(scene->box_reason, size, "surroundings: twice the cameras' median distance of "
                 "%.3g, all cameras inside", distance);
    } else if (dataset->count == 0) {
        set_box(scene, (double[3]){0}, 1.5);
        snprintf(scene->box_reason, size, "no cameras: the box of a Blender scene");
    }

    for (int i = 0; i < 3; i++) scene->background[i] = dataset->has_alpha ? 1 : 0;
    snprintf(scene->background_reason, sizeof scene->background_reason, "%s",
             dataset->has_alpha ? "the images have transparent pixels"
                                : "the images have no transparent pixels");
}

/* ---- what is seen of a box */

/* Does the ray pass the box, farther than the near plane from where it begins? */
static bool passes(const double o[3], const double v[3], const render_scene *scene) {
    double from = scene->near_distance, to = INFINITY;
    for (int i = 0; i < 3; i++) {
        double a = (scene->box_min[i] - o[i]) / v[i], b = (scene->box_max[i] - o[i]) / v[i];
        if (v[i] != 0) from = fmax(from, fmin(a, b)), to = fmin(to, fmax(a, b));
        else if (o[i] < scene->box_min[i] || o[i] > scene->box_max[i]) return false;
    }
    return from < to;
}

double render_scene_seen(const render_scene *scene, const render_dataset *dataset) {
    enum { SIDE = 17 }; /* rays along each side of a picture */
    int64_t rays = 0, passed = 0;
    for (int n = 0; n < dataset->count; n++) {
        const render_camera *camera = &dataset->frames[n].camera;
        if (dataset->frames[n].split != RENDER_TRAIN) continue;
        for (int i = 0; i < SIDE * SIDE; i++) {
            double origin[3], direction[3];
            render_camera_ray(camera, (i % SIDE + 0.5) / SIDE * camera->width,
                              (i / SIDE + 0.5) / SIDE * camera->height, origin, direction);
            rays++, passed += passes(origin, direction, scene);
        }
    }
    return rays ? (double)passed / (double)rays : 0;
}
