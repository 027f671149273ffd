// The still life in one page: what the generator's files offer each other.
//
// The scene is z-up and fits into [-1.2, 1.2]^3. Distances are scene units, colours linear RGB
// until they are written, cameras look along their own -z (the OpenGL convention of NeRF's data).
#ifndef SCENES_SCENE_H
#define SCENES_SCENE_H

#include "vector.h"
#include <stdbool.h>
#include <stddef.h>

// distance.c: the shapes ---------------------------------------------------------------------

typedef enum scene_material {
    SCENE_NOTHING,
    SCENE_BOARD,
    SCENE_CLOTH,
    SCENE_ENAMEL,
    SCENE_WIRE,
    SCENE_GRIP,
    SCENE_VASE,
    SCENE_TWIG,
    SCENE_BERRY,
    SCENE_LEAF,
    SCENE_CUP,
    SCENE_TEA,
    SCENE_COVER,
    SCENE_PAGES,
    SCENE_APPLE,
    SCENE_LEMON,
    SCENE_PEAR,
    SCENE_MATERIALS
} scene_material;

typedef struct scene_surface {
    double distance;         // signed, a lower bound of the true one when far away
    scene_material material; // of the nearest thing
    vec3 local;              // the point in that thing's own frame, for its texture
} scene_surface;

scene_surface scene_nearest(vec3 point);
vec3 scene_normal(vec3 point);
// The first surface along a ray (direction of unit length); false where it leaves the scene.
bool scene_trace(vec3 origin, vec3 direction, double *t, scene_surface *surface);

// shade.c: materials and light ---------------------------------------------------------------

// Radiance (linear RGB) seen along a ray that met `surface` at distance t.
vec3 scene_radiance(vec3 origin, vec3 direction, double t, scene_surface surface);
// Display value in [0, 1] of a radiance: film curve, then sRGB.
vec3 scene_develop(vec3 radiance);

// cameras.c: where the pictures are taken from -----------------------------------------------

typedef enum scene_split { SCENE_TRAIN, SCENE_VAL, SCENE_TEST, SCENE_SPLITS } scene_split;

typedef struct scene_camera {
    vec3 right, up, back; // columns of the rotation
    vec3 position;
} scene_camera;

extern const char *const scene_split_names[SCENE_SPLITS];
extern const int scene_split_sizes[SCENE_SPLITS];
extern const double scene_camera_angle_x; // horizontal field of view, radians

scene_camera scene_camera_at(scene_split split, int index, unsigned seed);
// The split's transforms_*.json as text; the caller frees it. Null when out of memory.
char *scene_transforms(scene_split split, unsigned seed);

// picture.c: files ---------------------------------------------------------------------------

// All return false and say why on stderr. rgba is (size, size, 4) uint8, straight alpha.
bool scene_write_png(const char *path, const unsigned char *rgba, int size);
bool scene_write_npy(const char *path, const float *values, int size, int channels);
bool scene_write_text(const char *path, const char *text);
// The readers allocate; the caller frees.
bool scene_read_png(const char *path, unsigned char **rgba, int *size);
bool scene_read_file(const char *path, unsigned char **bytes, size_t *length);

#endif
