/* Camera mathematics: from a point of the image to a ray in the world, and back. All in double:
 * these functions define what the ray operation on tensors must compute.
 *
 * A point in camera coordinates (OpenCV's here: x right, y down, z forward) is seen at
 *   x = X / Z, y = Y / Z, r^2 = x^2 + y^2,
 * OPENCV (Brown's model as OpenCV and nerfstudio write it, k4 the fourth radial coefficient):
 *   x' = x d + 2 p1 x y + p2 (r^2 + 2 x^2),  d = 1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8
 *   y' = y d + 2 p2 x y + p1 (r^2 + 2 y^2)
 * FISHEYE (Kannala and Brandt as OpenCV writes it), t the angle to the optical axis:
 *   t' = t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8),  (x', y') = (x, y) / r t'
 * and lands on the pixel (fx x' + cx, fy y' + cy).
 *
 * Both models are polynomials without a closed inverse, and far from the axis they fold: two
 * directions share a pixel. The inverse is Newton's method started at the distorted point, which
 * ends on the branch that contains the axis; it is accepted only if the residual is at rounding
 * level and the map still grows there (positive Jacobian), otherwise the caller is told. The
 * usual fixed-point iteration is slower and settles for 1e-6 near the corners. */
#include "render/render.h"

#include <math.h>

enum { NEWTON_STEPS = 50 };

/* (x', y') and its Jacobian dx'/dx, dx'/dy = dy'/dx, dy'/dy. */
static void opencv_distort(const render_camera *c, double x, double y, double out[2],
                           double jacobian[3]) {
    double r2 = x * x + y * y;
    double d = 1 + r2 * (c->k[0] + r2 * (c->k[1] + r2 * (c->k[2] + r2 * c->k[3])));
    double slope = c->k[0] + r2 * (2 * c->k[1] + r2 * (3 * c->k[2] + r2 * 4 * c->k[3]));
    double p1 = c->p[0], p2 = c->p[1];
    out[0] = x * d + 2 * p1 * x * y + p2 * (r2 + 2 * x * x);
    out[1] = y * d + 2 * p2 * x * y + p1 * (r2 + 2 * y * y);
    if (!jacobian) return;
    jacobian[0] = d + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x;
    jacobian[1] = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y;
    jacobian[2] = d + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y;
}

/* Solves opencv_distort(x, y) = target. Steps that do not bring the residual down are halved. */
static bool opencv_undistort(const render_camera *c, const double target[2], double *x,
                             double *y) {
    double at[2], j[3];
    *x = target[0], *y = target[1];
    double limit = 1e-14 * (1 + fabs(target[0]) + fabs(target[1]));
    opencv_distort(c, *x, *y, at, j);
    double residual = hypot(at[0] - target[0], at[1] - target[1]);
    for (int step = 0; step < NEWTON_STEPS && residual > 0; step++) {
        double det = j[0] * j[2] - j[1] * j[1];
        if (!(det > 0)) return false;
        double ex = at[0] - target[0], ey = at[1] - target[1];
        double dx = (j[2] * ex - j[1] * ey) / det, dy = (j[0] * ey - j[1] * ex) / det;
        double scale = 1, tried = residual, tried_j[3] = {0}, tried_at[2] = {0};
        for (; scale > 1e-6; scale *= 0.5) {
            opencv_distort(c, *x - scale * dx, *y - scale * dy, tried_at, tried_j);
            tried = hypot(tried_at[0] - target[0], tried_at[1] - target[1]);
            if (tried < residual) break;
        }
        if (!(tried < residual)) break; /* rounding level, or stuck beside a fold */
        *x -= scale * dx, *y -= scale * dy;
        residual = tried, at[0] = tried_at[0], at[1] = tried_at[1];
        for (int i = 0; i < 3; i++) j[i] = tried_j[i];
    }
    return residual <= limit && j[0] * j[2] - j[1] * j[1] > 0 && j[0] + j[2] > 0;
}

static double fisheye_distort(const render_camera *c, double t, double *slope) {
    double t2 = t * t, k1 = c->k[0], k2 = c->k[1], k3 = c->k[2], k4 = c->k[3];
    if (slope) *slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)));
    return t * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))));
}

/* Solves fisheye_distort(t) = target for an angle from 0 to pi. */
static bool fisheye_undistort(const render_camera *c, double target, double *t) {
    const double pi = 3.14159265358979323846;
    double slope, best = INFINITY;
    *t = fmin(target, pi);
    for (int step = 0; step < NEWTON_STEPS; step++) {
        double residual = fisheye_distort(c, *t, &slope) - target;
        if (!(slope > 0) || !(*t >= 0 && *t <= pi)) return false;
        if (!(fabs(residual) < best)) break;
        best = fabs(residual);
        if (best == 0) break;
        *t -= residual / slope;
    }
    return best <= 1e-14 * (1 + target);
}

bool render_camera_ray(const render_camera *camera, double px, double py, double origin[3],
                       double direction[3]) {
    /* The pixel on the plane at distance 1, still distorted. */
    double target[2] = {(px - camera->cx) / camera->fx, (py - camera->cy) / camera->fy};
    double x = target[0], y = target[1], z = 1; /* direction, OpenCV axes */
    bool found;
    if (camera->model == RENDER_CAMERA_FISHEYE) {
        double radius = hypot(x, y), t = 0;
        found = fisheye_undistort(camera, radius, &t);
        if (!found) t = fmin(radius, 3);
        double share = radius > 0 ? sin(t) / radius : 1;
        x *= share, y *= share, z = cos(t);
    } else {
        found = opencv_undistort(camera, target, &x, &y);
        if (!found) x = target[0], y = target[1];
    }

    /* To OpenGL axes (y up, z backward), then turned into the world and made a unit vector. */
    double length = sqrt(x * x + y * y + z * z);
    x /= length, y /= -length, z /= -length;
    for (int i = 0; i < 3; i++) {
        const double *row = camera->pose[i];
        direction[i] = row[0] * x + row[1] * y + row[2] * z;
        origin[i] = row[3];
    }
    return found;
}

bool render_camera_project(const render_camera *camera, const double point[3], double *px,
                           double *py) {
    /* Into the camera (the inverse of a rotation is its transpose), then to OpenCV axes. */
    double q[3] = {0};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            q[j] += camera->pose[i][j] * (point[i] - camera->pose[i][3]);
    double x = q[0], y = -q[1], z = -q[2], seen[2];
    if (camera->model == RENDER_CAMERA_FISHEYE) {
        double radius = hypot(x, y);
        double slope, t = atan2(radius, z), bent = fisheye_distort(camera, t, &slope);
        double share = radius > 0 ? bent / radius : 0;
        seen[0] = x * share, seen[1] = y * share;
        if (!(slope > 0) || (radius == 0 && z <= 0)) return false;
    } else {
        double jacobian[3];
        if (!(z > 0)) return false;
        opencv_distort(camera, x / z, y / z, seen, jacobian);
        if (!(jacobian[0] * jacobian[2] - jacobian[1] * jacobian[1] > 0)) return false;
    }
    *px = camera->fx * seen[0] + camera->cx;
    *py = camera->fy * seen[1] + camera->cy;
    return true;
}

void render_camera_scale(render_camera *camera, double factor_x, double factor_y) {
    camera->fx *= factor_x, camera->cx *= factor_x;
    camera->fy *= factor_y, camera->cy *= factor_y;
}
