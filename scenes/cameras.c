// Where the pictures are taken from, and the transforms_*.json files that say so.
//
// As in NeRF's synthetic data set: cameras on the upper hemisphere, about four units away, looking
// at the origin. Training views follow a Fibonacci spiral (equal areas, no two views alike, any
// number of them well spread), validation views lie on a second spiral between them, and test views
// go once around while rising and sinking, so that they also make a film.
//
// A camera is a 4 x 4 matrix from camera to world whose columns are right, up, back and position:
// the OpenGL convention, the camera looks along its own -z.
#include "scene.h"

#include <stdio.h>
#include <stdlib.h>

#pragma STDC FP_CONTRACT OFF

const char *const scene_split_names[SCENE_SPLITS] = { "train", "val", "test" };
const int scene_split_sizes[SCENE_SPLITS] = { 60, 10, 20 };
const double scene_camera_angle_x = 0.69;

static const double pi = 3.14159265358979323846;
static const double camera_radius = 4.0;

scene_camera scene_camera_at(scene_split split, int index, unsigned seed) {
    double part = (index + 0.5) / scene_split_sizes[split];
    double golden_angle = pi * (3.0 - sqrt(5.0));
    double first = 2.0 * pi * fmod(0.5698402909980532 * seed, 1.0); // one turn of the spiral a seed
    double azimuth, elevation;
    if (split == SCENE_TEST) {
        azimuth = 2.0 * pi * part - 0.5 * pi;
        elevation = (28.0 + 16.0 * cos(4.0 * pi * part)) * pi / 180.0;
    } else {
        azimuth = first + golden_angle * index + (split == SCENE_VAL ? 1.0 : 0.0);
        elevation = asin(0.03 + 0.94 * part);
    }

    scene_camera camera;
    camera.back = v3(cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation));
    camera.right = v3(-sin(azimuth), cos(azimuth), 0.0);
    camera.up = cross(camera.back, camera.right);
    camera.position = scale(camera.back, camera_radius);
    return camera;
}

char *scene_transforms(scene_split split, unsigned seed) {
    size_t capacity = 256 + 512 * (size_t)scene_split_sizes[split], used = 0;
    char *text = malloc(capacity);
    if (!text)
        return NULL;
    used += (size_t)snprintf(text, capacity, "{\n  \"camera_angle_x\": %.8f,\n  \"frames\": [\n",
                             scene_camera_angle_x);
    for (int i = 0; i < scene_split_sizes[split]; i++) {
        scene_camera c = scene_camera_at(split, i, seed);
        const double rows[3][4] = { { c.right.x, c.up.x, c.back.x, c.position.x },
                                    { c.right.y, c.up.y, c.back.y, c.position.y },
                                    { c.right.z, c.up.z, c.back.z, c.position.z } };
        used += (size_t)snprintf(text + used, capacity - used,
                                 "    { \"file_path\": \"./%s/r_%d\", \"transform_matrix\": [",
                                 scene_split_names[split], i);
        for (int r = 0; r < 3; r++)
            used += (size_t)snprintf(text + used, capacity - used,
                                     "\n      [%.8f, %.8f, %.8f, %.8f],", rows[r][0] + 0.0,
                                     rows[r][1] + 0.0, rows[r][2] + 0.0, rows[r][3] + 0.0);
        used += (size_t)snprintf(text + used, capacity - used, "\n      [0, 0, 0, 1]] }%s\n",
                                 i + 1 < scene_split_sizes[split] ? "," : "");
    }
    snprintf(text + used, capacity - used, "  ]\n}\n");
    return text;
}
