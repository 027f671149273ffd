// still_life: renders the still life of this folder into a Blender-style data set.
//
//   still_life OUT [--size N] [--seed S] [--threads T]   write the whole data set
//   still_life OUT --view SPLIT:I [--size N] ...         write one picture OUT/SPLIT/r_I.png
//   still_life --check FOLDER                            re-render two views and one depth, compare
//
// Each pixel is 4 x 4 rays on a regular grid. A ray that meets nothing is transparent; the colour
// of a pixel is the mean display value of the rays that met something, its alpha their share. So a
// picture laid over any background in display space is exact (straight alpha). Depth and normals
// belong to the ray through the pixel's centre; depth is measured along the camera's axis.
//
// Rows are independent and shared out to threads; no result depends on how.
#define _DEFAULT_SOURCE
#include "scene.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#pragma STDC FP_CONTRACT OFF

#define GRID 4

typedef struct options {
    const char *out, *check, *view;
    int size, threads;
    unsigned seed;
} options;

// What one view gives; the arrays are (size, size, 4), (size, size) and (size, size, 3).
typedef struct view {
    unsigned char *rgba;
    float *depth, *normal;
    int size;
} view;

// The exact geometry is stored for these test views; normals, three times as large, for fewer.
static const int depth_views[] = { 0, 7, 13 };
static const int normal_views[] = { 0, 7 };

static bool listed(int index, const int *list, size_t count) {
    for (size_t k = 0; k < count; k++)
        if (list[k] == index)
            return true;
    return false;
}

static vec3 ray_direction(const scene_camera *camera, double x, double y, int size) {
    double focal = 0.5 * size / tan(0.5 * scene_camera_angle_x);
    vec3 d = scale(camera->back, -1.0);
    d = add(d, scale(camera->right, (x - 0.5 * size) / focal));
    return add(d, scale(camera->up, (0.5 * size - y) / focal)); // its part along the axis is 1
}

static void render_pixel(view *v, const scene_camera *camera, int x, int y) {
    vec3 sum = v3(0.0, 0.0, 0.0);
    int hits = 0;
    for (int k = 0; k < GRID * GRID; k++) {
        double sx = x + (k % GRID + 0.5) / GRID, sy = y + (k / GRID + 0.5) / GRID, t = 0.0;
        vec3 direction = unit(ray_direction(camera, sx, sy, v->size));
        scene_surface surface;
        if (!scene_trace(camera->position, direction, &t, &surface))
            continue;
        sum = add(sum, scene_develop(scene_radiance(camera->position, direction, t, surface)));
        hits++;
    }
    size_t at = (size_t)y * (size_t)v->size + (size_t)x;
    double share = hits ? 255.0 / hits : 0.0;
    v->rgba[4 * at + 0] = (unsigned char)(sum.x * share + 0.5);
    v->rgba[4 * at + 1] = (unsigned char)(sum.y * share + 0.5);
    v->rgba[4 * at + 2] = (unsigned char)(sum.z * share + 0.5);
    v->rgba[4 * at + 3] = (unsigned char)(255.0 * hits / (GRID * GRID) + 0.5);
    if (!v->depth)
        return;

    vec3 axis = ray_direction(camera, x + 0.5, y + 0.5, v->size), n = v3(0.0, 0.0, 0.0);
    double t = 0.0, z = 0.0;
    scene_surface surface;
    if (scene_trace(camera->position, unit(axis), &t, &surface)) {
        z = t / length3(axis);
        n = scene_normal(add(camera->position, scale(unit(axis), t)));
    }
    v->depth[at] = (float)z;
    v->normal[3 * at + 0] = (float)n.x;
    v->normal[3 * at + 1] = (float)n.y;
    v->normal[3 * at + 2] = (float)n.z;
}

static void view_render(view *v, const scene_camera *camera, int threads) {
    (void)threads; // named only in a pragma
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int y = 0; y < v->size; y++)
        for (int x = 0; x < v->size; x++)
            render_pixel(v, camera, x, y);
}

static void view_free(view *v) {
    free(v->rgba);
    free(v->depth);
    free(v->normal);
    *v = (view){ 0 };
}

static bool view_open(view *v, int size, bool geometry) {
    size_t pixels = (size_t)size * (size_t)size;
    *v = (view){ .rgba = malloc(pixels * 4), .size = size };
    if (geometry) {
        v->depth = malloc(pixels * sizeof(float));
        v->normal = malloc(pixels * 3 * sizeof(float));
    }
    if (v->rgba && (!geometry || (v->depth && v->normal)))
        return true;
    view_free(v);
    fprintf(stderr, "still_life: out of memory for a view of %d x %d\n", size, size);
    return false;
}

static bool make_folder(const char *path) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return true;
    fprintf(stderr, "still_life: %s: cannot create the folder: %s\n", path, strerror(errno));
    return false;
}

static bool write_view(const options *o, scene_split split, int index) {
    bool depth = split == SCENE_TEST && listed(index, depth_views, 3);
    bool normal = depth && listed(index, normal_views, 2);
    scene_camera camera = scene_camera_at(split, index, o->seed);
    view v;
    if (!view_open(&v, o->size, depth))
        return false;
    view_render(&v, &camera, o->threads);

    char path[4096];
    const char *name = scene_split_names[split];
    snprintf(path, sizeof path, "%s/%s/r_%d.png", o->out, name, index);
    bool ok = scene_write_png(path, v.rgba, v.size);
    snprintf(path, sizeof path, "%s/%s/depth_%d.npy", o->out, name, index);
    if (ok && depth)
        ok = scene_write_npy(path, v.depth, v.size, 1);
    snprintf(path, sizeof path, "%s/%s/normal_%d.npy", o->out, name, index);
    if (ok && normal)
        ok = scene_write_npy(path, v.normal, v.size, 3);
    view_free(&v);
    return ok;
}

static bool write_split(const options *o, scene_split split) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->out, scene_split_names[split]);
    if (!make_folder(path))
        return false;
    char *text = scene_transforms(split, o->seed);
    snprintf(path, sizeof path, "%s/transforms_%s.json", o->out, scene_split_names[split]);
    bool ok = text && scene_write_text(path, text);
    free(text);
    for (int i = 0; i < scene_split_sizes[split] && ok; i++) {
        ok = write_view(o, split, i);
        printf("%s %d of %d\n", scene_split_names[split], i + 1, scene_split_sizes[split]);
        fflush(stdout);
    }
    return ok;
}

static bool write_one(const options *o) {
    char path[4096];
    for (int split = 0; split < SCENE_SPLITS; split++) {
        const char *name = scene_split_names[split];
        size_t n = strlen(name);
        if (strncmp(o->view, name, n) != 0 || o->view[n] != ':')
            continue;
        int index = atoi(o->view + n + 1);
        if (index < 0 || index >= scene_split_sizes[split])
            break;
        snprintf(path, sizeof path, "%s/%s", o->out, name);
        return make_folder(path) && write_view(o, (scene_split)split, index);
    }
    fprintf(stderr, "still_life: --view expects SPLIT:INDEX such as test:0 with an index below "
                    "the number of views, found %s\n", o->view);
    return false;
}

// Checking --------------------------------------------------------------------------------------

// A view agrees when no alpha and no colour weighed by it is off by more than one grey level.
static bool check_view(const options *o, scene_split split, int index) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/r_%d.png", o->check, scene_split_names[split], index);
    unsigned char *stored;
    int size;
    if (!scene_read_png(path, &stored, &size))
        return false;
    scene_camera camera = scene_camera_at(split, index, o->seed);
    view v;
    if (!view_open(&v, size, false)) {
        free(stored);
        return false;
    }
    view_render(&v, &camera, o->threads);
    int worst = 0, different = 0;
    for (size_t i = 0; i < (size_t)size * (size_t)size * 4; i++) {
        int off = abs(v.rgba[i] - stored[i]);
        if (i % 4 != 3)
            off = (off * v.rgba[i | 3] + 254) / 255;
        worst = off > worst ? off : worst;
        different += off > 0;
    }
    printf("%s: %d of %d values differ, worst by %d\n", path, different, size * size * 4, worst);
    view_free(&v);
    free(stored);
    return worst <= 1;
}

// The stored depth of a test view against the one traced now, to a ten-thousandth of a unit.
static bool check_depth(const options *o, int index) {
    const size_t head = 128;
    char path[4096];
    snprintf(path, sizeof path, "%s/test/depth_%d.npy", o->check, index);
    unsigned char *stored;
    size_t length;
    if (!scene_read_file(path, &stored, &length))
        return false;
    int size = (int)(sqrt((double)(length / sizeof(float))));
    size_t pixels = (size_t)size * (size_t)size;
    view v;
    if (length != head + pixels * sizeof(float) || !view_open(&v, size, true)) {
        fprintf(stderr, "still_life: %s: expected a square f32 array\n", path);
        free(stored);
        return false;
    }
    scene_camera camera = scene_camera_at(SCENE_TEST, index, o->seed);
    view_render(&v, &camera, o->threads);
    double worst = 0.0;
    for (size_t i = 0; i < pixels; i++) {
        float z;
        memcpy(&z, stored + head + i * sizeof z, sizeof z);
        worst = fmax(worst, fabs((double)z - (double)v.depth[i]));
    }
    printf("%s: worst by %.1e units\n", path, worst);
    view_free(&v);
    free(stored);
    return worst <= 1e-4;
}

static bool check(const options *o) {
    bool ok = true;
    for (int split = 0; split < SCENE_SPLITS; split++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/transforms_%s.json", o->check, scene_split_names[split]);
        char *text = scene_transforms((scene_split)split, o->seed);
        unsigned char *stored = NULL;
        size_t length = 0;
        bool same = text && scene_read_file(path, &stored, &length) && length == strlen(text) &&
                    memcmp(stored, text, length) == 0;
        printf("%s: %s\n", path, same ? "the same" : "differs");
        ok = ok && same;
        free(stored);
        free(text);
    }
    ok = check_view(o, SCENE_TRAIN, 20) && ok;
    ok = check_view(o, SCENE_TEST, 0) && ok;
    return check_depth(o, depth_views[0]) && ok;
}

static bool parse(options *o, int count, char **words) {
    for (int i = 1; i < count; i++) {
        const char *word = words[i];
        if (word[0] != '-') {
            o->out = word;
            continue;
        }
        if (++i == count)
            return false;
        if (strcmp(word, "--check") == 0)
            o->check = words[i];
        else if (strcmp(word, "--view") == 0)
            o->view = words[i];
        else if (strcmp(word, "--size") == 0)
            o->size = atoi(words[i]);
        else if (strcmp(word, "--threads") == 0)
            o->threads = atoi(words[i]);
        else if (strcmp(word, "--seed") == 0)
            o->seed = (unsigned)strtoul(words[i], NULL, 10);
        else
            return false;
    }
    return !o->out != !o->check && o->size >= 8 && o->size <= 4096 && o->threads >= 1;
}

int main(int count, char **words) {
    options o = { .size = 160, .seed = 1, .threads = (int)sysconf(_SC_NPROCESSORS_ONLN) };
    if (!parse(&o, count, words)) {
        fprintf(stderr, "usage: still_life OUT [--view SPLIT:I] [--size N] [--seed S]"
                        " [--threads T]\n"
                        "       still_life --check FOLDER [--seed S] [--threads T]\n");
        return 2;
    }
    if (o.check)
        return check(&o) ? 0 : 1;
    if (!make_folder(o.out))
        return 1;
    if (o.view)
        return write_one(&o) ? 0 : 1;
    for (int split = 0; split < SCENE_SPLITS; split++)
        if (!write_split(&o, (scene_split)split))
            return 1;
    return 0;
}
