/* Internal to render/: what the readers share. Bytes in, plain data out; no printing. */
#ifndef ADJOINT_RENDER_LOAD_H
#define ADJOINT_RENDER_LOAD_H

#include <stdio.h>

#include "render/render.h"

/* ---- Files and strings ---- */

/* Whole file into malloc'd memory, with a zero byte after the end. Refuses what is not a regular
 * file and what is larger than size_max before allocating. */
bool render_file_read(uint8_t **bytes, size_t *size, const char *path, size_t size_max,
                      ad_message *error);
/* The first bytes of a file, at most `size` of them; returns how many, -1 on failure. */
int64_t render_file_head(uint8_t *bytes, size_t size, const char *path, ad_message *error);
bool render_file_exists(const char *path); /* a regular file */
/* malloc'd "format"; NULL when memory is out. */
char *render_format(const char *format, ...);

/* ---- Images ---- */

/* Refuses sizes that are empty, too large, or larger than file_size bytes can hold. */
bool render_image_size_check(const char *name, int64_t width, int64_t height, size_t file_size,
                             int64_t pixels_per_byte, int64_t pixels_max, ad_message *error);
bool render_png_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                       const render_image_options *options, ad_message *error);
bool render_jpeg_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                        const render_image_options *options, ad_message *error);
bool render_png_probe(int *width, int *height, const char *name, const uint8_t *bytes, size_t size,
                      ad_message *error);
bool render_jpeg_probe(int *width, int *height, bool *turned, const char *name,
                       const uint8_t *bytes, size_t size, ad_message *error);

/* The EXIF orientation in bytes that begin with "Exif\0\0": 1 upright ... 8, 1 when absent or
 * senseless; from 5 on rows and columns are exchanged. 0 when memory is out (errno: ENOMEM). */
int render_exif_orientation(const uint8_t *bytes, size_t size);
/* The same of a PNG: of bytes, or of a file where they are NULL. It may follow the pixels. */
int render_png_orientation(const uint8_t *bytes, FILE *file, size_t size);
bool render_image_orient(render_image *image, int orientation, const char *name,
                         ad_message *error);

/* Which libraries read the files: "libpng 1.6.39". */
const char *render_png_library(void);
const char *render_jpeg_library(void);
const char *render_json_library(void);

/* ---- transforms.json ---- */

/* Intrinsics as a file or one of its frames gives them. */
typedef struct render_lens {
    double fx, fy, cx, cy;   /* pixels at width x height; 0 = not given (cx, cy: NAN) */
    double angle_x, angle_y; /* radians, used where fx is 0; 0 = not given */
    double k[4], p[2];
    render_camera_model model;
    int width, height; /* 0 = not given */
    bool shared;       /* pixels given for the whole file, not for this frame */
} render_lens;

typedef struct render_transforms_frame {
    char *name;        /* canonical: forward slashes, no "." and ".." left */
    char *mask_name;   /* NULL = not given */
    double pose[3][4]; /* camera to world, rigid */
    render_lens lens;
} render_transforms_frame;

typedef struct render_transforms {
    char *path; /* for messages */
    render_transforms_frame *frames;
    int count;
    double aabb_scale;   /* 0 = not given */
    double scale;        /* instant-ngp's: world to its unit cube, 0.33 unless given */
    double offset[3];    /* 0.5 unless given */
    char **names[3];     /* canonical names listed as train, val, test; NULL = no list */
    int name_counts[3];
} render_transforms;

/* `path` appears in messages; the bytes need no zero at the end. */
bool render_transforms_parse(render_transforms *transforms, const char *path, const char *bytes,
                             size_t size, ad_message *error);
bool render_transforms_load(render_transforms *transforms, const char *path, ad_message *error);
void render_transforms_free(render_transforms *transforms);
/* The camera of a frame whose image has this size. */
bool render_transforms_camera(render_camera *camera, const render_transforms *transforms,
                              int frame, int width, int height, ad_message *error);

/* The fields of the JSON (cJSON objects passed as void *, so that cJSON stays in two files). */
bool render_transforms_lens(render_lens *lens, const void *object, const char *place,
                            ad_message *error);
bool render_transforms_pose(double pose[3][4], const void *object, const char *place,
                            ad_message *error);
bool render_transforms_number(double *value, const void *object, const char *key,
                              const char *place, ad_message *error);
/* malloc'd canonical form of a relative path; NULL with a message if it leaves the folder. */
char *render_transforms_name(const char *text, const char *place, ad_message *error);

/* ---- Datasets ---- */

/* What a folder offers, before any image is opened. */
typedef struct render_listing_entry {
    int file, frame; /* transforms[file].frames[frame] */
    render_split split;
    char *name, *path, *mask_path; /* as in render_frame */
} render_listing_entry;

typedef struct render_listing {
    render_transforms transforms[3]; /* train or all, val, test */
    render_listing_entry *entries;   /* sorted by name */
    int count, missing;
    render_split held_out;
    char split_rule[128];
} render_listing;

bool render_listing_load(render_listing *listing, render_dataset *dataset, const char *folder,
                         const render_dataset_options *options, ad_message *error);
void render_listing_free(render_listing *listing);
/* One line for people, kept in the dataset; false when memory is out. */
bool render_dataset_warn(render_dataset *dataset, ad_message *error, const char *format, ...);

#endif
