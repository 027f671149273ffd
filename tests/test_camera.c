/* Cameras: known rays, the forward distortion against numbers worked out apart, the inverse against
 * the forward, and folds that are noticed. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>

/* The lens of the fox photos and a pose that is no axis permutation. */
static render_camera fox_camera(void) {
    render_camera camera = {.fx = 1375.52, .fy = 1374.49, .cx = 554.558, .cy = 965.268,
                            .k = {0.0578421, -0.0805099}, .p = {-0.000980296, 0.00015575},
                            .width = 1080, .height = 1920};
    /* Turned by a about z after b about x: columns are right, up, backward. */
    double a = 0.7, b = -0.4;
    double pose[3][4] = {{cos(a), -sin(a) * cos(b), sin(a) * sin(b), 3},
                         {sin(a), cos(a) * cos(b), -cos(a) * sin(b), -5},
                         {0, sin(b), cos(b), -1}};
    for (int i = 0; i < 12; i++) camera.pose[i / 4][i % 4] = pose[i / 4][i % 4];
    return camera;
}

static render_camera fisheye_camera(void) {
    render_camera camera = fox_camera();
    camera.model = RENDER_CAMERA_FISHEYE;
    camera.fx = camera.fy = 600;
    camera.k[0] = -0.03, camera.k[1] = 0.011, camera.k[2] = -0.007, camera.k[3] = 0.0009;
    camera.p[0] = camera.p[1] = 0;
    return camera;
}

static void expect_near(double found, double expected, double tolerance, const char *what) {
    cr_assert(fabs(found - expected) <= tolerance, "%s: expected %.15g, found %.15g", what,
              expected, found);
}

Test(camera, a_pinhole_sees_along_minus_z_with_y_up) {
    render_camera camera = {.fx = 100, .fy = 200, .cx = 50, .cy = 40, .width = 100, .height = 80};
    camera.pose[0][0] = camera.pose[1][1] = camera.pose[2][2] = 1;
    camera.pose[0][3] = 7;
    double o[3], d[3], x, y;
    cr_assert(render_camera_ray(&camera, 50, 40, o, d));
    cr_assert(o[0] == 7 && o[1] == 0 && o[2] == 0);
    cr_assert(d[0] == 0 && d[1] == 0 && d[2] == -1);
    cr_assert(render_camera_ray(&camera, 150, 40, o, d)); /* one focal length to the right */
    expect_near(d[0], sqrt(0.5), 1e-15, "right");
    cr_assert(render_camera_ray(&camera, 50, -160, o, d)); /* above the image is up */
    expect_near(d[1], sqrt(0.5), 1e-15, "up");
    cr_assert(render_camera_project(&camera, (double[3]){8, 0.5, -2}, &x, &y));
    expect_near(x, 100, 1e-12, "x");
    expect_near(y, -10, 1e-12, "y");
    cr_assert_not(render_camera_project(&camera, (double[3]){7, 0, 2}, &x, &y), "seen from behind");
}

/* Numbers from a separate program that writes out the OpenCV manual's formulas. */
Test(camera, forward_distortion_has_the_known_values) {
    double x, y;
    render_camera camera = {.fx = 1375.52, .fy = 1374.49, .cx = 554.558, .cy = 965.268};
    camera.pose[0][0] = camera.pose[1][1] = camera.pose[2][2] = 1;
    double k[4] = {0.0578421, -0.0805099, 0.02, -0.003};
    for (int i = 0; i < 4; i++) camera.k[i] = k[i];
    camera.p[0] = -0.000980296, camera.p[1] = 0.00015575;
    const double point[3] = {0.6, -0.9, -2}; /* x = 0.3, y = 0.45 */
    cr_assert(render_camera_project(&camera, point, &x, &y));
    expect_near(x, 971.28785285829, 1e-9, "OPENCV x");
    expect_near(y, 1589.40666072319, 1e-9, "OPENCV y");
    camera.model = RENDER_CAMERA_FISHEYE;
    cr_assert(render_camera_project(&camera, point, &x, &y));
    expect_near(x, 936.48337331923, 1e-9, "FISHEYE x");
    expect_near(y, 1537.72707697476, 1e-9, "FISHEYE y");
}

/* Pixel to ray to a point to pixel, over the whole image: 1e-9 pixels. */
static void check_round_trip(const render_camera *camera) {
    double worst = 0, longest = 0;
    for (int py = 0; py < camera->height; py += 37)
        for (int px = 0; px < camera->width; px += 29) {
            double o[3], d[3], point[3], x, y;
            cr_assert(render_camera_ray(camera, px + 0.5, py + 0.5, o, d), "(%d, %d)", px, py);
            for (int i = 0; i < 3; i++) point[i] = o[i] + 2.5 * d[i];
            cr_assert(render_camera_project(camera, point, &x, &y), "(%d, %d)", px, py);
            worst = fmax(worst, hypot(x - px - 0.5, y - py - 0.5));
            longest = fmax(longest, fabs(d[0] * d[0] + d[1] * d[1] + d[2] * d[2] - 1));
        }
    expect_near(worst, 0, 1e-9, "pixels off after the round trip");
    expect_near(longest, 0, 1e-14, "length of a direction");
}

Test(camera, rays_invert_the_distortion) {
    render_camera camera = fox_camera();
    check_round_trip(&camera);
    camera = fisheye_camera(); /* sees more than 90 degrees to each side in the corners */
    check_round_trip(&camera);
    camera = fox_camera();
    for (int i = 0; i < 4; i++) camera.k[i] = 0;
    camera.p[0] = camera.p[1] = 0;
    check_round_trip(&camera);
}

Test(camera, a_fisheye_sees_behind_itself) {
    render_camera camera = {.fx = 100, .fy = 100, .cx = 0, .cy = 0};
    camera.model = RENDER_CAMERA_FISHEYE;
    camera.pose[0][0] = camera.pose[1][1] = camera.pose[2][2] = 1;
    double o[3], d[3], x, y;
    cr_assert(render_camera_ray(&camera, 200, 0, o, d)); /* 2 radians to the right */
    expect_near(d[0], sin(2), 1e-15, "x");
    expect_near(d[2], -cos(2), 1e-15, "z");
    cr_assert(render_camera_project(&camera, d, &x, &y));
    expect_near(x, 200, 1e-12, "pixel");
    cr_assert_not(render_camera_ray(&camera, 400, 0, o, d), "4 radians are more than a half turn");
}

/* k1 = -0.4: r (1 - 0.4 r^2) grows up to r = 0.9129, where it is 0.6086; nothing is seen beyond. */
Test(camera, a_fold_is_noticed) {
    render_camera camera = {.fx = 1, .fy = 1, .k = {-0.4}};
    camera.pose[0][0] = camera.pose[1][1] = camera.pose[2][2] = 1;
    double o[3], d[3], x, y, fold = sqrt(1 / 1.2);
    cr_assert(render_camera_ray(&camera, 0.6085, 0, o, d));
    cr_assert_lt(-d[0] / d[2], fold);
    cr_assert_not(render_camera_ray(&camera, 0.6087, 0, o, d));
    expect_near(d[0] * d[0] + d[1] * d[1] + d[2] * d[2], 1, 1e-14, "length");
    cr_assert(render_camera_project(&camera, (double[3]){0.9, 0, -1}, &x, &y));
    cr_assert_not(render_camera_project(&camera, (double[3]){0.93, 0, -1}, &x, &y));
    cr_assert_not(render_camera_project(&camera, (double[3]){0, 0.93, -1}, &x, &y));
    camera.model = RENDER_CAMERA_FISHEYE;
    cr_assert(render_camera_ray(&camera, 0.6085, 0, o, d));
    cr_assert_not(render_camera_ray(&camera, 0.6087, 0, o, d));
    cr_assert_not(render_camera_project(&camera, (double[3]){tan(0.93), 0, -1}, &x, &y));

    /* p1 = p2 = -0.2: on the axes v - 0.6 v^2, which turns at v = 0.8333. */
    render_camera bent = {.fx = 1, .fy = 1, .p = {-0.2, 0}};
    bent.pose[0][0] = bent.pose[1][1] = bent.pose[2][2] = 1;
    cr_assert(render_camera_project(&bent, (double[3]){0, -0.82, -1}, &x, &y));
    cr_assert_not(render_camera_project(&bent, (double[3]){0, -0.84, -1}, &x, &y));
    bent.p[0] = 0, bent.p[1] = -0.2;
    cr_assert(render_camera_project(&bent, (double[3]){0.82, 0, -1}, &x, &y));
    cr_assert_not(render_camera_project(&bent, (double[3]){0.84, 0, -1}, &x, &y));
}

Test(camera, scaling_keeps_the_rays) {
    render_camera camera = fox_camera(), half = camera;
    render_camera_scale(&half, 0.5, 0.25);
    double o[3], d[3], e[3];
    cr_assert(render_camera_ray(&camera, 200.5, 1500.5, o, d));
    cr_assert(render_camera_ray(&half, 100.25, 375.125, o, e));
    for (int i = 0; i < 3; i++) expect_near(e[i], d[i], 1e-15, "direction");
}
