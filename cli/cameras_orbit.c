/* A flight around the scene: cameras on a circle around the middle of the box, at the median height
 * and distance of the training cameras, upright as they are on average.
 *
 * The training cameras are rows of the snapshot, in the unit cube (render/domain.c); the first of
 * them lends its lens and its size, and its direction is where the flight begins. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

static const double PI = 3.14159265358979323846;

static double dot(const double a[3], const double b[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void cross(const double a[3], const double b[3], double c[3]) {
    for (int i = 0; i < 3; i++)
        c[i] = a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3];
}

static bool normalize(double v[3]) {
    double length = sqrt(dot(v, v));
    if (!(length > 1e-9)) return false;
    for (int i = 0; i < 3; i++) v[i] /= length;
    return true;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    return values[count / 2];
}

// The rows of the snapshot's "cameras"; free(*rows).
static bool rows_read(const char *snapshot, float **rows, size_t *count, ad_message *error) {
    ad_safetensors file = {0};
    if (!ad_safetensors_open(&file, snapshot, error)) return false;
    const ad_safetensors_tensor *found = ad_safetensors_find(&file, "cameras");
    bool good = found && strcmp(found->dtype, "F32") == 0 && found->rank == 2
             && found->shape[0] > 0 && found->shape[1] == RENDER_CAMERA_NUMBERS;
    if (!good) ad_fail(error, "%s: it has no cameras to fly along", snapshot);
    *rows = good ? malloc((size_t)found->bytes) : NULL;
    if (good && !*rows) good = ad_fail(error, "%s: out of memory", snapshot);
    good = good && ad_safetensors_read(&file, *rows, found, 0, (size_t)found->bytes, error);
    if (good) *count = (size_t)found->shape[0];
    ad_safetensors_free(&file);
    return good;
}

typedef struct circle {
    double centre[3], up[3], ahead[3], aside[3]; // the last two span the plane
    double radius, height;
} circle;

// Height above the middle and distance from its axis: medians over the cameras.
static bool circle_find(circle *c, const float *rows, size_t count, const render_domain *domain,
                        ad_message *error) {
    double *values = malloc(2 * count * sizeof *values);
    if (!values) return ad_fail(error, "out of memory for an orbit");
    for (int k = 0; k < 3; k++) c->centre[k] = domain->centre[k], c->up[k] = 0;
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 3; k++) c->up[k] += rows[i * RENDER_CAMERA_NUMBERS + 4 * k + 1];
    if (!normalize(c->up)) c->up[0] = c->up[1] = 0, c->up[2] = 1;
    for (size_t i = 0; i < count; i++) {
        double to[3], flat[3];
        for (int k = 0; k < 3; k++)
            to[k] = (rows[i * RENDER_CAMERA_NUMBERS + 4 * k + 3] - 0.5) / domain->scale;
        double height = dot(to, c->up);
        for (int k = 0; k < 3; k++) flat[k] = to[k] - height * c->up[k];
        values[i] = height, values[count + i] = sqrt(dot(flat, flat));
        if (i == 0) memcpy(c->ahead, flat, sizeof flat);
    }
    c->height = median(values, count), c->radius = median(values + count, count);
    free(values);
    // A first camera right above the middle: any direction will do.
    if (!normalize(c->ahead)) {
        double any[3] = {c->up[1], c->up[2], c->up[0]};
        cross(c->up, any, c->ahead);
        if (!normalize(c->ahead)) c->ahead[0] = 1, c->ahead[1] = c->ahead[2] = 0;
    }
    cross(c->up, c->ahead, c->aside);
    if (c->radius < 1e-6) c->radius = 1 / domain->scale;
    return true;
}

// Degrees of the longest stretch of the circle on which no training camera stands. One right above
// or below the middle has no place on it.
static bool gap_find(double *gap, const circle *c, const float *rows, size_t count,
                     ad_message *error) {
    double *angle = malloc(count * sizeof *angle);
    if (!angle) return ad_fail(error, "out of memory for an orbit");
    size_t placed = 0;
    for (size_t i = 0; i < count; i++) {
        double to[3], x, y;
        for (int k = 0; k < 3; k++) to[k] = rows[i * RENDER_CAMERA_NUMBERS + 4 * k + 3] - 0.5;
        x = dot(to, c->ahead), y = dot(to, c->aside);
        if (hypot(x, y) > 0.01 * hypot(hypot(x, y), dot(to, c->up)))
            angle[placed++] = atan2(y, x) * 180 / PI;
    }
    qsort(angle, placed, sizeof *angle, compare);
    *gap = placed ? angle[0] + 360 - angle[placed - 1] : 360;
    for (size_t i = 1; i < placed; i++) *gap = fmax(*gap, angle[i] - angle[i - 1]);
    free(angle);
    return true;
}

static void camera_at(render_camera *camera, const circle *c, double angle) {
    double place[3], right[3], up[3], back[3];
    for (int k = 0; k < 3; k++) {
        back[k] = c->radius * (cos(angle) * c->ahead[k] + sin(angle) * c->aside[k])
                + c->height * c->up[k];
        place[k] = c->centre[k] + back[k];
    }
    normalize(back); // looks along -back, at the middle
    cross(c->up, back, right);
    normalize(right);
    cross(back, right, up);
    for (int k = 0; k < 3; k++) {
        camera->pose[k][0] = right[k], camera->pose[k][1] = up[k];
        camera->pose[k][2] = back[k], camera->pose[k][3] = place[k];
    }
}

bool cli_cameras_orbit(render_camera **cameras, int count, const char *snapshot,
                       const render_scene *scene, double *gap, ad_message *error) {
    float *rows = NULL;
    size_t row_count = 0;
    render_domain domain;
    circle c;
    *cameras = NULL;
    if (!render_domain_make(scene->box_min, scene->box_max, 1, &domain))
        return ad_fail(error, "%s: its box is empty", snapshot);
    bool good = rows_read(snapshot, &rows, &row_count, error)
             && circle_find(&c, rows, row_count, &domain, error)
             && gap_find(gap, &c, rows, row_count, error);
    if (good && !(*cameras = calloc((size_t)count, sizeof **cameras)))
        good = ad_fail(error, "out of memory for an orbit");
    for (int i = 0; good && i < count; i++) {
        render_camera *camera = &(*cameras)[i];
        camera->fx = rows[12], camera->fy = rows[13], camera->cx = rows[14], camera->cy = rows[15];
        for (int k = 0; k < 4; k++) camera->k[k] = rows[16 + k];
        camera->p[0] = rows[20], camera->p[1] = rows[21];
        camera->model = rows[22] > 0 ? RENDER_CAMERA_FISHEYE : RENDER_CAMERA_OPENCV;
        camera->width = (int)rows[23], camera->height = (int)rows[24];
        camera_at(camera, &c, 2 * PI * i / count);
    }
    free(rows);
    return good;
}
