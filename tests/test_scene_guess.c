/* The scene's box, near plane and background from cameras whose answer is known. */
#include "render/render.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { COUNT = 24 };

/* Cameras on a circle of the given radius around `middle`, all looking at it, a little from
 * above; a field of view of 0.69 radians. */
static void ring(render_frame frames[COUNT], const double middle[3], double radius) {
    memset(frames, 0, COUNT * sizeof *frames);
    for (int n = 0; n < COUNT; n++) {
        render_camera *c = &frames[n].camera;
        double a = 6.283185307179586 * n / COUNT, e = 0.4;
        double back[3] = {cos(a) * cos(e), sin(a) * cos(e), sin(e)};
        double right[3] = {-sin(a), cos(a), 0};
        for (int i = 0; i < 3; i++) {
            int j = (i + 1) % 3, k = (i + 2) % 3;
            c->pose[i][0] = right[i];
            c->pose[i][1] = back[j] * right[k] - back[k] * right[j];
            c->pose[i][2] = back[i];
            c->pose[i][3] = middle[i] + radius * back[i];
        }
        c->width = c->height = 100;
        c->fx = c->fy = 50 / tan(0.345);
    }
}

static void expect_box(const render_scene *scene, const double middle[3], double half,
                       double tolerance) {
    for (int i = 0; i < 3; i++) {
        double low = middle[i] - half, high = middle[i] + half;
        cr_assert(fabs(scene->box_min[i] - low) < tolerance &&
                  fabs(scene->box_max[i] - high) < tolerance,
                  "axis %d: expected %g .. %g, found %g .. %g (%s)", i, low, high,
                  scene->box_min[i], scene->box_max[i], scene->box_reason);
    }
}

static const double origin[3], away[3] = {10, -20, 5};

Test(scene_guess, a_blender_scene_gets_its_box_and_white) {
    render_frame frames[COUNT];
    render_dataset dataset = {.frames = frames, .count = COUNT, .has_alpha = true,
                              .field_of_view_only = true, .ngp_scale = 0.33};
    ring(frames, origin, 4.03);
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, origin, 1.5, 1e-12);
    cr_assert_float_eq(scene.near_distance, 0.05 * 4.03, 1e-9);
    for (int i = 0; i < 3; i++) cr_assert_eq(scene.background[i], 1);
    cr_assert(strstr(scene.box_reason, "Blender"));
    cr_assert(strncmp(scene.background_reason, "the images have transparent", 27) == 0);
}

Test(scene_guess, an_object_elsewhere_is_found) {
    render_frame frames[COUNT];
    render_dataset dataset = {.frames = frames, .count = COUNT, .has_alpha = true,
                              .field_of_view_only = true, .ngp_scale = 0.33};
    ring(frames, away, 40);
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, away, 1.05 * 40 * tan(0.345), 1e-6);
}

Test(scene_guess, a_place_has_all_cameras_inside_and_black) {
    render_frame frames[COUNT];
    render_dataset dataset = {.frames = frames, .count = COUNT, .ngp_scale = 0.33};
    ring(frames, away, 3);
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, away, 6, 1e-6);
    cr_assert_eq(scene.background[0], 0);
    frames[5].camera.pose[2][3] += 30; /* one camera far above, looking as before */
    render_scene_guess(&scene, &dataset);
    cr_assert_gt(scene.box_max[2], frames[5].camera.pose[2][3]);
}

Test(scene_guess, aabb_scale_wins) {
    render_frame frames[COUNT];
    render_dataset dataset = {.frames = frames, .count = COUNT, .aabb_scale = 4, .ngp_scale = 0.33,
                              .ngp_offset = {0.5, 0.5, 0.5}};
    ring(frames, origin, 5);
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, origin, 2 / 0.33, 1e-12);
    dataset.ngp_scale = 0.5, dataset.ngp_offset[0] = 0;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, (double[3]){1, 0, 0}, 4, 1e-12);
}

/* All look along -z from a grid in the plane z = 0: no common point; the box lies ahead. */
Test(scene_guess, cameras_side_by_side_look_ahead) {
    render_frame frames[COUNT];
    memset(frames, 0, sizeof frames);
    render_dataset dataset = {.frames = frames, .count = COUNT, .ngp_scale = 0.33};
    for (int n = 0; n < COUNT; n++) {
        render_camera *c = &frames[n].camera;
        c->pose[0][0] = c->pose[1][1] = c->pose[2][2] = 1;
        c->pose[0][3] = n % 6, c->pose[1][3] = n / 6;
        c->fx = c->fy = 100, c->width = c->height = 100;
    }
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    double centre = 0.5 * (scene.box_min[2] + scene.box_max[2]);
    cr_assert_lt(centre, -5);
    for (int n = 0; n < COUNT; n++)
        for (int i = 0; i < 3; i++) {
            double o = frames[n].camera.pose[i][3];
            cr_assert(o > scene.box_min[i] && o < scene.box_max[i], "camera %d is outside", n);
        }
    cr_assert_gt(scene.near_distance, 0);
    cr_assert(strstr(scene.box_reason, "the same way"));
}

Test(scene_guess, no_cameras_is_no_crash) {
    render_dataset dataset = {0};
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    expect_box(&scene, origin, 1.5, 1e-12);
}

Test(scene_guess, how_much_of_the_pictures_a_box_fills) {
    render_frame frames[COUNT];
    render_dataset dataset = {.frames = frames, .count = COUNT, .has_alpha = true,
                              .field_of_view_only = true, .ngp_scale = 0.33};
    ring(frames, origin, 4);
    for (int n = 0; n < COUNT; n++) {
        frames[n].camera.cx = frames[n].camera.cy = 50;
        frames[n].split = RENDER_TRAIN;
    }
    render_scene scene;
    render_scene_guess(&scene, &dataset);
    cr_expect_eq(scene.near_distance, 0.2, "%.17g", scene.near_distance);
    cr_expect_gt(render_scene_seen(&scene, &dataset), 0.9);
    for (int i = 0; i < 3; i++) scene.box_min[i] = -0.1, scene.box_max[i] = 0.1;
    double seen = render_scene_seen(&scene, &dataset);
    cr_expect(seen > 0.002 && seen < 0.02, "%g", seen);
    scene.near_distance = 6; // beyond the box
    cr_expect_eq(render_scene_seen(&scene, &dataset), 0);
    scene.near_distance = 0.2;
    for (int i = 0; i < 3; i++) scene.box_min[i] = 90, scene.box_max[i] = 91;
    cr_expect_eq(render_scene_seen(&scene, &dataset), 0);
    for (int n = 0; n < COUNT; n++) frames[n].split = RENDER_TEST; // nothing to train on
    cr_expect_eq(render_scene_seen(&scene, &dataset), 0);
}
