/* Reads transforms.json in its three dialects: Blender/NeRF (camera_angle_x, file_path without
 * extension), instant-ngp (fl_x, k1 ..., aabb_scale) and nerfstudio (camera_model, per-frame
 * intrinsics, mask_path, lists of file names for train, val and test).
 *
 * The text is hostile until proven otherwise: its nesting is bounded before the parser recurses,
 * every number is checked to be finite, every matrix to be a rigid motion, and every file name to
 * stay below its folder, before the frame exists. What the fields mean is in
 * load_transforms_fields.c; this file walks the document and owns the memory.
 *
 * Messages name the file and the frame, counted from 0 as in the file:
 * `photos/transforms.json: frame 3: expected a 4 x 4 matrix, found 3 x 3`. */
#include "render/load.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t FILE_SIZE_MAX = (size_t)1 << 25; /* bytes; 20,000 frames fit */
enum { NESTING_MAX = 64, PLACE_MAX = 512, BEFORE = 12, EXCERPT = 36, FOUND_MAX = 64 };

static int line_of(const char *bytes, const char *at) {
    int line = 1;
    for (; bytes < at; bytes++) line += *bytes == '\n';
    return line;
}

/* What stands around a place of a line, in quotes, without what is not printable. */
static void excerpt(char text[FOUND_MAX], const char *line, const char *at, const char *end) {
    int used = 0;
    text[used++] = '"';
    for (at = at - line > BEFORE ? at - BEFORE : line; at < end && used <= EXCERPT; at++) {
        if (*at == '\n' || *at == '\r') break;
        text[used++] = *at >= ' ' && *at <= '~' ? *at : '?';
    }
    text[used++] = '"', text[used] = 0;
}

/* Brackets outside strings may be nested NESTING_MAX deep; cJSON recurses once for each. */
static bool check_nesting(const char *path, const char *bytes, size_t size, ad_message *error) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > NESTING_MAX)
                return ad_fail(error, "%s:%d: expected JSON nested at most %d deep, found more",
                               path, line_of(bytes, bytes + i), NESTING_MAX);
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return true;
}

/* A file that cannot be meant: an empty one, or a picture in place of its folder. */
static bool check_kind(const char *path, const char *bytes, size_t size, ad_message *error) {
    const char *at = bytes;
    while (at < bytes + size && isspace((unsigned char)*at)) at++;
    if (at == bytes + size) return ad_fail(error, "%s: expected JSON, found an empty file", path);
    if (size > 3 && (memcmp(bytes, "\xff\xd8\xff", 3) == 0 || memcmp(bytes, "\x89PNG", 4) == 0))
        return ad_fail(error, "%s: expected transforms.json, or the folder with it and its images, "
                       "found an image", path);
    return true;
}

static cJSON *parse_json(const char *path, const char *bytes, size_t size, ad_message *error) {
    if (!check_kind(path, bytes, size, error)) return NULL;
    if (!check_nesting(path, bytes, size, error)) return NULL;
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(bytes, size, &end, false);
    if (!root) {
        /* cJSON does not tell bad text from a failed allocation; the position does not hurt. */
        if (!end || end < bytes || end > bytes + size) end = bytes;
        // It points behind the first character of what should have been a string.
        if (end > bytes && end < bytes + size && (isalpha((unsigned char)end[-1])
                                                  || memchr("_'\"", end[-1], 3))) end--;
        const char *line = end;
        while (line > bytes && line[-1] != '\n') line--;
        char found[FOUND_MAX];
        excerpt(found, line, end, bytes + size);
        const char *rest = end;
        while (rest < bytes + size && isspace((unsigned char)*rest)) rest++;
        bool over = bytes + size - rest <= 1;
        ad_fail(error, "%s:%d:%d: expected JSON, found something else near %s%s (or memory is out)",
                path, line_of(bytes, end), (int)(end - line) + 1, found,
                over ? " at the end of the file" : "");
        return NULL;
    }
    while (end < bytes + size && (isspace((unsigned char)*end) || !*end)) end++;
    if (end < bytes + size) {
        ad_fail(error, "%s:%d: expected the end of the file after the JSON, found more", path,
                line_of(bytes, end));
        cJSON_Delete(root), root = NULL;
    } else if (!cJSON_IsObject(root)) {
        ad_fail(error, "%s: expected a JSON object with \"frames\", found another value", path);
        cJSON_Delete(root), root = NULL;
    }
    return root;
}

/* An optional text field of a frame, as a canonical name. */
static bool read_name(char **name, const cJSON *object, const char *key, const char *place,
                      ad_message *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item || cJSON_IsNull(item)) return true;
    if (!cJSON_IsString(item) || !item->valuestring[0])
        return ad_fail(error, "%s: expected \"%s\" to be a file name", place, key);
    *name = render_transforms_name(item->valuestring, place, error);
    return *name != NULL;
}

/* The lists of names with which nerfstudio spells out its splits. */
static bool read_name_list(render_transforms *transforms, int which, const cJSON *root,
                           ad_message *error) {
    static const char *const keys[3] = {"train_filenames", "val_filenames", "test_filenames"};
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, keys[which]);
    if (!list || cJSON_IsNull(list)) return true;
    if (!cJSON_IsArray(list))
        return ad_fail(error, "%s: expected \"%s\" to be a list", transforms->path, keys[which]);
    size_t count = (size_t)cJSON_GetArraySize(list);
    transforms->names[which] = calloc(count + 1, sizeof(char *));
    if (!transforms->names[which]) return ad_fail(error, "%s: out of memory", transforms->path);
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item))
            return ad_fail(error, "%s: expected \"%s\" to list file names", transforms->path,
                           keys[which]);
        char *name = render_transforms_name(item->valuestring, transforms->path, error);
        if (!name) return false;
        transforms->names[which][transforms->name_counts[which]++] = name;
    }
    return true;
}

/* What instant-ngp says about its unit cube. */
static bool read_cube(render_transforms *transforms, const cJSON *root, ad_message *error) {
    const char *path = transforms->path;
    transforms->scale = 0.33;
    for (int i = 0; i < 3; i++) transforms->offset[i] = 0.5;
    if (!render_transforms_number(&transforms->aabb_scale, root, "aabb_scale", path, error) ||
        !render_transforms_number(&transforms->scale, root, "scale", path, error))
        return false;
    if (transforms->aabb_scale < 0 || transforms->aabb_scale > 1e6 || transforms->scale < 1e-9)
        return ad_fail(error, "%s: expected positive aabb_scale and scale, found %g and %g", path,
                       transforms->aabb_scale, transforms->scale);
    const cJSON *offset = cJSON_GetObjectItemCaseSensitive(root, "offset");
    for (int i = 0; i < 3 && cJSON_IsArray(offset); i++) {
        const cJSON *item = cJSON_GetArrayItem(offset, i);
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
            return ad_fail(error, "%s: expected \"offset\" to be 3 numbers", path);
        transforms->offset[i] = item->valuedouble;
    }
    return true;
}

static bool read_frame(render_transforms *transforms, const render_lens *shared,
                       const cJSON *object, ad_message *error) {
    render_transforms_frame *frame = &transforms->frames[transforms->count];
    char place[PLACE_MAX];
    snprintf(place, sizeof place, "%s: frame %d", transforms->path, transforms->count++);
    if (!cJSON_IsObject(object)) return ad_fail(error, "%s: expected a JSON object", place);
    if (!read_name(&frame->name, object, "file_path", place, error) ||
        !read_name(&frame->mask_name, object, "mask_path", place, error))
        return false;
    if (!frame->name) return ad_fail(error, "%s: expected a \"file_path\", found none", place);
    frame->lens = *shared;
    if (!render_transforms_lens(&frame->lens, object, place, error)) return false;
    const cJSON *matrix = cJSON_GetObjectItemCaseSensitive(object, "transform_matrix");
    return render_transforms_pose(frame->pose, matrix, place, error);
}

static bool read_document(render_transforms *transforms, const cJSON *root, ad_message *error) {
    render_lens shared = {.cx = NAN, .cy = NAN};
    if (!render_transforms_lens(&shared, root, transforms->path, error)) return false;
    shared.shared = shared.fx > 0;
    if (!read_cube(transforms, root, error)) return false;
    for (int which = 0; which < 3; which++)
        if (!read_name_list(transforms, which, root, error)) return false;

    const cJSON *frames = cJSON_GetObjectItemCaseSensitive(root, "frames"), *object;
    if (!cJSON_IsArray(frames) || cJSON_GetArraySize(frames) == 0)
        return ad_fail(error, "%s: expected a list \"frames\" that is not empty, found none",
                       transforms->path);
    size_t count = (size_t)cJSON_GetArraySize(frames);
    transforms->frames = calloc(count, sizeof *transforms->frames);
    if (!transforms->frames)
        return ad_fail(error, "%s: out of memory for %zu frames", transforms->path, count);
    cJSON_ArrayForEach(object, frames) {
        if (!read_frame(transforms, &shared, object, error)) return false;
    }
    return true;
}

bool render_transforms_parse(render_transforms *transforms, const char *path, const char *bytes,
                             size_t size, ad_message *error) {
    memset(transforms, 0, sizeof *transforms);
    transforms->path = render_format("%s", path);
    if (!transforms->path) return ad_fail(error, "%s: out of memory", path);
    cJSON *root = parse_json(path, bytes, size, error);
    bool done = root && read_document(transforms, root, error);
    cJSON_Delete(root);
    if (!done) render_transforms_free(transforms);
    return done;
}

bool render_transforms_load(render_transforms *transforms, const char *path, ad_message *error) {
    memset(transforms, 0, sizeof *transforms);
    uint8_t *bytes;
    size_t size;
    if (!render_file_read(&bytes, &size, path, FILE_SIZE_MAX, error)) return false;
    bool done = render_transforms_parse(transforms, path, (const char *)bytes, size, error);
    free(bytes);
    return done;
}

void render_transforms_free(render_transforms *transforms) {
    for (int i = 0; i < transforms->count; i++) {
        free(transforms->frames[i].name);
        free(transforms->frames[i].mask_name);
    }
    for (int which = 0; which < 3; which++) {
        for (int i = 0; i < transforms->name_counts[which]; i++) free(transforms->names[which][i]);
        free(transforms->names[which]);
    }
    free(transforms->frames);
    free(transforms->path);
    memset(transforms, 0, sizeof *transforms);
}

bool render_cameras_load(render_camera **cameras, int *count, const char *path, int width,
                         int height, ad_message *error) {
    *cameras = NULL, *count = 0;
    render_transforms transforms;
    if (!render_transforms_load(&transforms, path, error)) return false;
    bool done = true;
    *cameras = calloc((size_t)transforms.count, sizeof **cameras);
    if (!*cameras) done = ad_fail(error, "%s: out of memory", path);
    for (int i = 0; i < transforms.count && done; i++) {
        const render_lens *lens = &transforms.frames[i].lens;
        int w = lens->width ? lens->width : width, h = lens->height ? lens->height : height;
        if (w < 1 || h < 1)
            done = ad_fail(error, "%s: frame %d: expected \"w\" and \"h\", found none; "
                           "--size WxH says them", path, i);
        else
            done = render_transforms_camera(&(*cameras)[i], &transforms, i, w, h, error);
    }
    *count = done ? transforms.count : 0;
    if (!done) free(*cameras), *cameras = NULL;
    render_transforms_free(&transforms);
    return done;
}

#define NUMBER_TEXT(number) #number
#define NUMBER(number) NUMBER_TEXT(number)
const char *render_json_library(void) {
    return "cJSON " NUMBER(CJSON_VERSION_MAJOR) "." NUMBER(CJSON_VERSION_MINOR) "."
        NUMBER(CJSON_VERSION_PATCH);
}
