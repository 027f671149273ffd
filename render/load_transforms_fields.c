/* What the fields of transforms.json mean: names, intrinsics and poses, each checked.
 *
 * Intrinsics may stand at the top of the file, in a frame, or partly in both; a frame overrides
 * the file field by field. Focal lengths are pixels (fl_x, fl_y) or fields of view in radians
 * (camera_angle_x, camera_angle_y); pixels win, and fl_y missing means square pixels. If the file
 * gives w and h and the image has another size of the same shape, it was resized after the
 * calibration and the intrinsics are scaled; a different shape is an error.
 *
 * A pose maps camera to world and must be a rigid motion: R^T R = 1 within 1e-3 and det R > 0.
 * The rounding left after that check is removed by Newton's iteration for the nearest rotation,
 * R <- R (3 - R^T R) / 2, so that a camera is exactly invertible by its transpose. */
#include "render/load.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double RIGID_TOLERANCE = 1e-3;
static const double POSITION_MAX = 1e9;
static const double SIDE_MAX = 1 << 20; /* pixels */

bool render_transforms_number(double *value, const void *object, const char *key,
                              const char *place, ad_message *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item || cJSON_IsNull(item)) return true;
    if (!cJSON_IsNumber(item))
        return ad_fail(error, "%s: expected \"%s\" to be a number", place, key);
    if (!isfinite(item->valuedouble))
        return ad_fail(error, "%s: expected \"%s\" to be finite", place, key);
    *value = item->valuedouble;
    return true;
}

static bool has(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item && !cJSON_IsNull(item);
}

/* ---- Names ---- */

/* Takes "." and ".." out of the path and turns backslashes round. The result is what is sorted,
 * compared and opened below the folder, so it cannot lead out of it. Links in the folder are
 * followed: whoever made them owns the folder. */
char *render_transforms_name(const char *text, const char *place, ad_message *error) {
    size_t length = strlen(text);
    bool drive = length >= 2 && text[1] == ':';
    char *name = malloc(length + 1);
    if (!name) {
        ad_fail(error, "%s: out of memory", place);
        return NULL;
    }
    size_t used = 0; /* bytes of name, always whole components, each but the first after a '/' */
    bool escapes = drive || text[0] == '/' || text[0] == '\\';
    for (size_t i = 0; i < length && !escapes;) {
        size_t end = i;
        while (end < length && text[end] != '/' && text[end] != '\\') end++;
        size_t part = end - i;
        if (part == 2 && text[i] == '.' && text[i + 1] == '.') {
            escapes = used == 0;
            while (used > 0 && name[used - 1] != '/') used--;
            if (used > 0) used--;
        } else if (part > 0 && !(part == 1 && text[i] == '.')) {
            if (used > 0) name[used++] = '/';
            memcpy(name + used, text + i, part);
            used += part;
        }
        i = end + 1;
    }
    name[used] = 0;
    if (escapes || used == 0) {
        ad_fail(error, "%s: expected a file below the folder, found \"%.200s\"", place, text);
        free(name), name = NULL;
    }
    return name;
}

/* ---- Intrinsics ---- */

static bool read_side(int *side, const cJSON *object, const char *key, const char *place,
                      ad_message *error) {
    double value = 0;
    if (!render_transforms_number(&value, object, key, place, error)) return false;
    if (!has(object, key)) return true;
    if (value < 1 || value > SIDE_MAX || value != floor(value))
        return ad_fail(error, "%s: expected \"%s\" to be a number of pixels, found %g", place, key,
                       value);
    *side = (int)value;
    return true;
}

/* A focal length or field of view that is given must be above zero and below `limit`. */
static bool read_positive(double *value, const cJSON *object, const char *key, double limit,
                          const char *place, ad_message *error) {
    if (!render_transforms_number(value, object, key, place, error)) return false;
    if (has(object, key) && !(*value > 0 && *value < limit))
        return ad_fail(error, "%s: expected \"%s\" above 0 and below %.4g, found %g", place, key,
                       limit, *value);
    return true;
}

static bool read_model(render_lens *lens, const cJSON *object, const char *place,
                       ad_message *error) {
    static const char *const opencv[] = {"OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL",
                                         "RADIAL", "PERSPECTIVE"};
    static const char *const fisheye[] = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE",
                                          "RADIAL_FISHEYE"};
    static const char *const unknown[] = {"ftheta_p0", "latlong", "equirectangular",
                                          "orthographic"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, unknown[i]);
        if (item && !cJSON_IsFalse(item) && !cJSON_IsNull(item))
            return ad_fail(error, "%s: expected a pinhole, OPENCV or OPENCV_FISHEYE camera, found "
                           "\"%s\"", place, unknown[i]);
    }
    const cJSON *flag = cJSON_GetObjectItemCaseSensitive(object, "is_fisheye");
    if (cJSON_IsTrue(flag)) lens->model = RENDER_CAMERA_FISHEYE;
    if (!has(object, "camera_model")) return true;
    const char *text = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(object, "camera_model"));
    if (!text) return ad_fail(error, "%s: expected \"camera_model\" to be a name", place);
    for (size_t i = 0; i < sizeof opencv / sizeof *opencv; i++)
        if (strcmp(text, opencv[i]) == 0) return lens->model = RENDER_CAMERA_OPENCV, true;
    for (size_t i = 0; i < sizeof fisheye / sizeof *fisheye; i++)
        if (strcmp(text, fisheye[i]) == 0) return lens->model = RENDER_CAMERA_FISHEYE, true;
    return ad_fail(error, "%s: expected a pinhole, OPENCV or OPENCV_FISHEYE camera, found "
                   "\"%.80s\"", place, text);
}

bool render_transforms_lens(render_lens *lens, const void *object, const char *place,
                            ad_message *error) {
    static const char *const k[4] = {"k1", "k2", "k3", "k4"}, *const p[2] = {"p1", "p2"};
    const double pixels_max = 1e9, half_turn = 3.14159265358979;

    /* A field of view closer to the frame than the pixels replaces them, and fl_x without fl_y
     * means that both are the same. */
    if (has(object, "fl_x")) lens->fy = 0, lens->shared = false;
    else if (has(object, "camera_angle_x")) lens->fx = lens->fy = 0;
    if (!read_positive(&lens->fx, object, "fl_x", pixels_max, place, error) ||
        !read_positive(&lens->fy, object, "fl_y", pixels_max, place, error) ||
        !read_positive(&lens->angle_x, object, "camera_angle_x", half_turn, place, error) ||
        !read_positive(&lens->angle_y, object, "camera_angle_y", half_turn, place, error) ||
        !render_transforms_number(&lens->cx, object, "cx", place, error) ||
        !render_transforms_number(&lens->cy, object, "cy", place, error) ||
        !read_side(&lens->width, object, "w", place, error) ||
        !read_side(&lens->height, object, "h", place, error) ||
        !read_model(lens, object, place, error))
        return false;
    for (int i = 0; i < 4; i++)
        if (!render_transforms_number(&lens->k[i], object, k[i], place, error)) return false;
    for (int i = 0; i < 2; i++)
        if (!render_transforms_number(&lens->p[i], object, p[i], place, error)) return false;
    return true;
}

bool render_transforms_camera(render_camera *camera, const render_transforms *transforms,
                              int index, int width, int height, ad_message *error) {
    const render_transforms_frame *frame = &transforms->frames[index];
    const render_lens *lens = &frame->lens;
    const char *path = transforms->path;

    /* The file's size and the image's must have the same shape, up to rounding to whole pixels
     * of the smaller one. */
    double factor_x = lens->width ? (double)width / lens->width : 1;
    double factor_y = lens->height ? (double)height / lens->height : 1;
    if (lens->width && lens->height) {
        double factor = fmin(factor_x, factor_y), slack = fmax(1, factor);
        if (fabs(lens->width * factor - width) > slack ||
            fabs(lens->height * factor - height) > slack)
            return ad_fail(error, "%s: frame %d: expected %s to have the shape of %d x %d pixels, "
                           "found %d x %d", path, index, frame->name, lens->width, lens->height,
                           width, height);
    }
    memset(camera, 0, sizeof *camera);
    memcpy(camera->pose, frame->pose, sizeof camera->pose);
    memcpy(camera->k, lens->k, sizeof camera->k);
    memcpy(camera->p, lens->p, sizeof camera->p);
    camera->model = lens->model;
    camera->width = width, camera->height = height;
    camera->cx = isnan(lens->cx) ? 0.5 * width : lens->cx * factor_x;
    camera->cy = isnan(lens->cy) ? 0.5 * height : lens->cy * factor_y;
    if (lens->fx > 0) {
        camera->fx = lens->fx * factor_x;
        camera->fy = (lens->fy > 0 ? lens->fy : lens->fx) * factor_y;
    } else if (lens->angle_x > 0) {
        camera->fx = 0.5 * width / tan(0.5 * lens->angle_x);
        camera->fy = lens->fy > 0 ? lens->fy * factor_y : camera->fx;
    } else if (lens->fy > 0) {
        camera->fx = camera->fy = lens->fy * factor_y;
    } else if (lens->angle_y > 0) {
        camera->fx = camera->fy = 0.5 * height / tan(0.5 * lens->angle_y);
    } else {
        return ad_fail(error, "%s: frame %d: expected a focal length (fl_x or camera_angle_x), "
                       "found none", path, index);
    }
    return true;
}

/* ---- Poses ---- */

/* gram = R^T R. */
static void gram_matrix(double gram[3][3], double pose[3][4]) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            gram[i][j] = pose[0][i] * pose[0][j] + pose[1][i] * pose[1][j] +
                         pose[2][i] * pose[2][j];
}

static double determinant(double m[3][4]) {
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
           m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

/* One step of R <- R (3 - R^T R) / 2: squares the distance from the nearest rotation. */
static void toward_rotation(double pose[3][4]) {
    double gram[3][3];
    gram_matrix(gram, pose);
    for (int i = 0; i < 3; i++) {
        double row[3] = {pose[i][0], pose[i][1], pose[i][2]};
        for (int j = 0; j < 3; j++)
            pose[i][j] = 1.5 * row[j] - 0.5 * (row[0] * gram[0][j] + row[1] * gram[1][j] +
                                               row[2] * gram[2][j]);
    }
}

/* Rows of 4 numbers into rows[4][4]; the fourth is 0 0 0 1 unless given. */
static bool read_rows(double rows[4][4], const cJSON *matrix, const char *place,
                      ad_message *error) {
    if (!cJSON_IsArray(matrix))
        return ad_fail(error, "%s: expected a 4 x 4 \"transform_matrix\", found %s", place,
                       matrix ? "another value" : "none");
    int row_count = cJSON_GetArraySize(matrix), i = 0;
    const cJSON *row, *item;
    if (row_count != 3 && row_count != 4)
        return ad_fail(error, "%s: expected a 4 x 4 or 3 x 4 matrix, found %d rows", place,
                       row_count);
    cJSON_ArrayForEach(row, matrix) {
        int columns = cJSON_IsArray(row) ? cJSON_GetArraySize(row) : 0, j = 0;
        if (columns != 4)
            return ad_fail(error, "%s: expected a 4 x 4 or 3 x 4 matrix, found %d numbers in row "
                           "%d", place, columns, i);
        cJSON_ArrayForEach(item, row) {
            if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
                return ad_fail(error, "%s: expected finite numbers in the matrix, found something "
                               "else in row %d, column %d", place, i, j);
            rows[i][j++] = item->valuedouble;
        }
        i++;
    }
    return true;
}

bool render_transforms_pose(double pose[3][4], const void *object, const char *place,
                            ad_message *error) {
    double rows[4][4] = {{0}, {0}, {0}, {0, 0, 0, 1}}, gram[3][3];
    if (!read_rows(rows, object, place, error)) return false;
    for (int j = 0; j < 4; j++)
        if (fabs(rows[3][j] - (j == 3)) > RIGID_TOLERANCE)
            return ad_fail(error, "%s: expected the last row of the matrix to be 0 0 0 1, found "
                           "%g %g %g %g", place, rows[3][0], rows[3][1], rows[3][2], rows[3][3]);
    for (int i = 0; i < 3; i++)
        if (fabs(rows[i][3]) > POSITION_MAX)
            return ad_fail(error, "%s: expected a position within %g of the origin, found %g",
                           place, POSITION_MAX, rows[i][3]);
    memcpy(pose, rows, 3 * sizeof rows[0]);
    gram_matrix(gram, pose);
    for (int i = 0; i < 3; i++)
        if (!(fabs(gram[i][i] - 1) <= RIGID_TOLERANCE))
            return ad_fail(error, "%s: expected a rigid pose, found column %d of length %.6g",
                           place, i, sqrt(gram[i][i]));
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < i; j++)
            if (!(fabs(gram[i][j]) <= RIGID_TOLERANCE))
                return ad_fail(error, "%s: expected a rigid pose, found columns %d and %d with "
                               "the dot product %.6g", place, j, i, gram[i][j]);
    if (determinant(pose) < 0)
        return ad_fail(error, "%s: expected a rigid pose, found a mirrored one", place);
    for (int step = 0; step < 3; step++) toward_rotation(pose);
    return true;
}
