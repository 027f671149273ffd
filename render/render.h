/* adjoint/render.h: images and cameras in, radiance field, images out.
 *
 * One line a function, grouped in the order of the pipeline. Every function that can meet the
 * outside world returns bool and takes `ad_message *error` last (may be NULL): one sentence with
 * file and place. A zero-initialised struct is valid and empty; x_free may be called twice.
 * Coordinates: right-handed world; cameras as in OpenGL (x right, y up, looking along -z);
 * pixels start at the upper left corner, the centre of the first pixel is (0.5, 0.5). */
#ifndef ADJOINT_RENDER_H
#define ADJOINT_RENDER_H

#include "autodiff/autodiff.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Images ------------------------------------------------------------------------------ */

/* 8-bit RGBA, straight alpha, sRGB values as the file has them. Owned by the struct. */
typedef struct render_image {
    int width, height;
    uint8_t *pixels; /* (height, width, 4) */
    uint8_t *mask;   /* (height, width), 255 = use this pixel, 0 = do not; NULL = use all */
    bool has_alpha;  /* some pixel is not opaque */
} render_image;

typedef struct render_image_options {
    int64_t pixels_max;      /* refuse larger images before allocating; 0 = 2^27 (134 million) */
    bool ignore_orientation; /* do not turn a JPEG as its EXIF orientation says */
} render_image_options;

/* PNG (all kinds; 16 bits are rounded to 8) and JPEG (turned by EXIF orientation), told apart by
 * content. `name` only appears in messages. options may be NULL. */
bool render_image_load(render_image *image, const char *path, const render_image_options *options,
                       ad_message *error);
bool render_image_decode(render_image *image, const char *name, const uint8_t *bytes, size_t size,
                         const render_image_options *options, ad_message *error);
/* Size and orientation from the header alone: width and height after turning. */
bool render_image_probe(int *width, int *height, bool *turned, const char *path,
                        ad_message *error);
/* Mean over factor x factor blocks of sRGB values weighted by alpha; incomplete blocks at the
 * right and lower edge are dropped. A pixel of the mask is kept if its whole block is. */
bool render_image_downscale(render_image *image, int factor, ad_message *error);
void render_image_free(render_image *image);

/* ---- Cameras ----------------------------------------------------------------------------- */

typedef enum render_camera_model {
    RENDER_CAMERA_OPENCV, /* radial k[0..3], tangential p[0..1]; all zero = pinhole */
    RENDER_CAMERA_FISHEYE /* OpenCV fisheye, k[0..3] on powers of the angle */
} render_camera_model;

typedef struct render_camera {
    double pose[3][4];     /* camera to world, rigid: columns right, up, backward, position */
    double fx, fy, cx, cy; /* pixels */
    double k[4], p[2];
    render_camera_model model;
    int width, height; /* pixels */
} render_camera;

/* Origin and unit direction of the ray through a point of the image, in the world. False where
 * the distortion has no inverse (beyond its fold); the direction is then the undistorted one. */
bool render_camera_ray(const render_camera *camera, double px, double py, double origin[3],
                       double direction[3]);
/* The pixel that sees a point of the world; false if the camera cannot see it. */
bool render_camera_project(const render_camera *camera, const double point[3], double *px,
                           double *py);
/* The same view at another size: intrinsics times the factor in x and in y. */
void render_camera_scale(render_camera *camera, double factor_x, double factor_y);

/* ---- Datasets ---------------------------------------------------------------------------- */

/* Splits are bits, so that a set of them is a number. */
typedef enum render_split { RENDER_TRAIN = 1, RENDER_VAL = 2, RENDER_TEST = 4 } render_split;

typedef struct render_frame {
    char *name;           /* path below the folder, with forward slashes */
    char *path;           /* path to open */
    char *mask_path;      /* NULL without a mask */
    render_camera camera; /* at the loaded size */
    render_image image;   /* at the loaded size; empty with cameras_only */
    render_split split;
} render_frame;

typedef struct render_dataset {
    char *folder;
    render_frame *frames; /* byte-wise sorted by split, then by name */
    int count;              /* loaded */
    int train_count, val_count, test_count; /* of the folder; splits not loaded count as well */
    render_split held_out;  /* the split that is never trained on: RENDER_TEST or RENDER_VAL */
    int held_out_count;     /* frames in it */
    char split_rule[128];   /* how it was chosen, for people */
    int width, height;      /* of all loaded frames; the largest where they differ */
    bool same_size;         /* all frames are width x height */
    bool has_alpha;         /* some pixel of some frame is not opaque */
    bool has_mask;          /* some frame has a mask, or pixels that no ray reaches */
    double masked_share;    /* share of the pixels that masks and folded distortion take out */
    double aabb_scale;      /* as instant-ngp writes it; 0 = not given */
    double ngp_scale, ngp_offset[3]; /* instant-ngp's unit cube: world * scale + offset */
    bool field_of_view_only; /* cameras given by camera_angle_x alone, as Blender scenes are */
    int missing, undecoded; /* frames left out: no file; a file that cannot be decoded */
    size_t bytes;           /* of pixels and masks held */
    char **warnings;        /* lines for people; the library prints nothing */
    int warning_count;
} render_dataset;

typedef struct render_dataset_options {
    int downscale;        /* 0 or 1 = none */
    int hold_out;         /* every Nth image if no file names test or val; 0 = 8, -1 = none */
    double tolerate;      /* share of undecodable images skipped; 0 = 0.10, negative = none */
    size_t memory_budget; /* bytes for decoded images, most held at once; 0 = 2 GiB */
    int threads;          /* 0 = 1 */
    unsigned splits;      /* bits of render_split to load; 0 = train and the held-out split */
    bool cameras_only;    /* check files and sizes, decode nothing */
} render_dataset_options;

/* A folder with transforms_train.json (and _val, _test) or transforms.json, or such a file.
 * Held out is test, else val (also if no test image exists), else every Nth image by sorted
 * name. options may be NULL. On failure the dataset is empty. */
bool render_dataset_load(render_dataset *dataset, const char *folder,
                         const render_dataset_options *options, ad_message *error);
void render_dataset_free(render_dataset *dataset);

/* The cameras of one transforms file, no images needed: for rendering new views. width and
 * height serve frames without w and h (0 = such a frame is an error). free(*cameras). */
bool render_cameras_load(render_camera **cameras, int *count, const char *path, int width,
                         int height, ad_message *error);

/* ---- Scene: box, near plane and background ----------------------------------------------- */

typedef struct render_scene {
    double box_min[3], box_max[3]; /* world units */
    double near_distance;          /* nothing is sampled nearer to a camera than this */
    float background[3];           /* sRGB, behind everything when measuring */
    char box_reason[160], near_reason[160], background_reason[160]; /* for people */
} render_scene;

/* Chosen from cameras and images; every field may be overridden afterwards. */
void render_scene_guess(render_scene *scene, const render_dataset *dataset);
// Share of the training images' rays that pass the box beyond the near plane, by 289 of each.
double render_scene_seen(const render_scene *scene, const render_dataset *dataset);

/* ---- outputs ----------------------------------------------------------------------------- */

/* PNG files, 8 bits a channel: pixels (height, width, channels); channels 1 grey, 3 RGB, 4 RGBA.
 * The same pixels give the same bytes. Files appear whole or not at all. free(*png). */
bool render_png_write(const char *path, const uint8_t *pixels, int width, int height,
                      int channels, ad_message *error);
bool render_png_encode(uint8_t **png, size_t *count, const uint8_t *pixels, int width,
                       int height, int channels, ad_message *error);
/* NumPy .npy, f32: values (height, width), or with channels > 0 (height, width, channels). */
bool render_npy_write(const char *path, const float *values, int height, int width, int channels,
                      ad_message *error);

/* Measures of 8-bit pictures, count = height x width x channels. */
void render_round_u8(uint8_t *bytes, const float *values, size_t count); /* [0, 1]; NaN is 0 */
/* dB of one image; a split's figure is the mean over its images. Equal images: infinity. */
double render_psnr(const uint8_t *image, const uint8_t *target, size_t count);
/* Gaussian 11 x 11, sigma 1.5, as scikit-image; pictures smaller than the window: NaN. */
double render_ssim(const uint8_t *image, const uint8_t *target, int width, int height,
                   int channels);

/* Colours for people: rgb (count, 3). opacity (count) fades to white; NULL = opaque.
 * Depth: near is red, far is blue; range NULL = from the depths' 1st to their 99th percentile.
 * Normals: (x, y, z) from [-1, 1] to (r, g, b). Error: mean absolute difference of the
 * channels, black for none, brightest at `brightest` of the full range (0 = 0.2). */
void render_depth_range(float range[2], const float *depth, const float *opacity, size_t count);
void render_colour_depth(uint8_t *rgb, const float *depth, const float *opacity, size_t count,
                         const float *range);
void render_colour_normal(uint8_t *rgb, const float *normal, const float *opacity, size_t count);
void render_colour_error(uint8_t *rgb, const uint8_t *image, const uint8_t *target, size_t count,
                         int channels, double brightest);

/* The report of a run: one HTML file that needs nothing else. Every pointer may be NULL (the part
 * is left out), strings may hold any bytes, nothing is kept after the call. */
typedef struct render_curve {
    const double *x, *y; /* (count); points that are not finite are gaps */
    size_t count;
} render_curve;

typedef struct render_row {
    const char *name, *value;
} render_row;

typedef struct render_report_view {
    const char *name;
    int width, height;
    const uint8_t *target, *result; /* (height, width, 3) */
    const uint8_t *depth, *normal;  /* (height, width, 3), already coloured */
    double psnr, ssim;              /* NaN = not shown */
} render_report_view;

typedef struct render_report {
    const char *title;            /* of the run */
    const char *summary;          /* one line of result */
    const char *protocol;         /* how it was measured: split, size, background */
    const char *picture_name;     /* of the picture at the top */
    const uint8_t *picture;       /* (picture_height, picture_width, 3) */
    int picture_width, picture_height;
    const render_row *highlights; /* a few large figures: "31.2 dB", "PSNR" as value, name */
    size_t highlight_count;
    const char *x_name;           /* what the curves' x counts; NULL = "step" */
    render_curve loss, psnr, psnr_held_out;
    const render_report_view *views;
    size_t view_count;
    const render_row *settings, *machine, *timings;
    size_t setting_count, machine_count, timing_count;
    const char *command; /* that reproduces or resumes it */
} render_report;

bool render_report_write(const render_report *report, const char *path, ad_message *error);

/* ---- Operations of the radiance field ------------------------------------------------------ */
/* Each is an operation on the tape, usable alone. Points lie in the unit cube that the scene box
 * is scaled into, t and delta in its units. Samples are packed: rows of one capacity, ray after
 * ray, near to far; offsets (rays + 1) u32 say where each ray's rows start, count () u32 how many
 * rows are live. Rows past the count are dead: zero, with no gradient. */

enum { RENDER_GRID_LEVELS_MAX = 16 };

// Pictures and cameras on the device. A camera row holds 26 numbers: pose (3, 4) row-major in
// unit-cube coordinates, fx, fy, cx, cy, k[4], p[2], model (0 opencv, 1 fisheye), width, height,
// and one spare.
enum { RENDER_CAMERA_NUMBERS = 26 };
typedef struct render_domain {            // the scene box and its unit cube
    double centre[3], scale;              // unit = (world - centre) scale + 1/2
    double low[3], high[3];               // the box, in the unit cube
    int cascades;                         // 1: one grid; n: the box is 2^(n-1) times the inner one
} render_domain;

// The cube around a box; false for a box without volume or cascades outside 1 ... 8.
bool render_domain_make(const double box_min[3], const double box_max[3], int cascades,
                        render_domain *domain);
// rows (count, RENDER_CAMERA_NUMBERS); false if a number is not finite in f32.
bool render_cameras_pack(const render_camera *cameras, int count, const render_domain *domain,
                         float *rows);

// All images' pixels are one list; pixel_starts (images + 1) u32 says where each image's start.
// Random pixels: ids (rays, 2) u32, image and pixel (y width + x); drawn from all, or from the
// list `allowed` (m) u32 of their numbers. A pure function of seed, step, operation and ray. Rays
// past live () u32 get an image that does not exist; their colours and rays are zero. allowed and
// live may be null.
ad_tensor render_sample_pixels(ad_context *ctx, ad_tensor pixel_starts, ad_tensor allowed,
                               ad_tensor live, int64_t rays);
// pixels (total) u32 RGBA little-endian -> (rays, 4) f32 in [0, 1]
ad_tensor render_fetch_pixels(ad_context *ctx, ad_tensor pixels, ad_tensor pixel_starts,
                              ad_tensor ids);
// cameras (images, 26), increments (images, 6) se(3) twists (rotation, translation) applied on the
// left of each pose, or null
// -> origins (rays, 3), unit directions (rays, 3); differentiable in the increments.
bool render_camera_rays(ad_context *ctx, ad_tensor cameras, ad_tensor increments, ad_tensor ids,
                        ad_tensor *origins, ad_tensor *directions);
// origin + t direction of each sample: (capacity, 3)
ad_tensor render_points(ad_context *ctx, ad_tensor origins, ad_tensor directions, ad_tensor t,
                        ad_tensor offsets);

typedef struct render_march_options {
    render_domain domain;
    int resolution;        // cells of the occupancy grid along an axis; 0: 128
    int steps;             // across the inner cube's diagonal; 0: 1024
    double cone_angle;     // steps grow with distance; 0: none
    double near_distance;  // in the unit cube
    int64_t capacity;      // samples
    bool jitter;
    int most;              // samples a ray; 0: 2048
    ad_tensor from;        // (rays): only the samples behind this t; null: all
    // A ray's samples end behind the one where the values (cells) of the occupancy grid add up to
    // more than share x (-log(stop) - tau): about where light ends. tau (rays): optical depth in
    // front of them; null: 0. value null: they do not end there.
    ad_tensor value, tau;
    double stop, share;
    uint32_t *draw;        // jitter: which; 0: a new one, whose number is left here; NULL: new
} render_march_options;
typedef struct render_samples {
    ad_tensor t, delta;    // (capacity)
    ad_tensor offsets;     // (rays + 1) u32
    ad_tensor count;       // () u32
    ad_tensor rays;        // () u32: rays whose samples all fit; later ones have none
    ad_tensor next;        // (rays): behind this t there may be more of them, 1e9: there are none;
                           // of march and cull, else null
} render_samples;
// bits (words) u32 of the occupancy grid, live () u32 rays or null.
// Sampling is a stop-gradient.
bool render_march(ad_context *ctx, ad_tensor origins, ad_tensor directions, ad_tensor bits,
                  ad_tensor live, const render_march_options *options,
                  render_samples *samples);

// Samples without a grid, `each` a ray of the first `rays` (0: all): one in every equal part of its
// way through the box; and those with `more` drawn where the weights (samples) are, near to far.
bool render_stratified(ad_context *ctx, ad_tensor origins, ad_tensor directions,
                       const render_domain *domain, double near_distance, int each, int64_t rays,
                       bool jitter, render_samples *samples);
bool render_importance(ad_context *ctx, const render_samples *coarse, ad_tensor weight, int each,
                       int more, bool jitter, render_samples *samples);

// Of each ray's candidates those in front of the point where the transmittance falls below stop;
// sigma (n): the candidates' densities.
typedef struct render_cull_options {
    double stop;
    int64_t capacity;
    ad_tensor tau;         // (rays): optical depth in front of the candidates; null: 0
} render_cull_options;
typedef struct render_culled {
    ad_tensor rows;        // (capacity) u32: which candidate each sample was
    ad_tensor tau;         // (rays): optical depth behind the samples
} render_culled;
// samples.next: that of the candidates where light still goes on behind them, for the next march.
bool render_cull(ad_context *ctx, ad_tensor sigma, const render_samples *candidates,
                 const render_cull_options *options, render_samples *samples,
                 render_culled *culled);
// Each ray's samples of the first piece, then those of the second and so on. rows: which candidate
// of its piece each one was; joined, numbers among the candidates (so many a piece) of all of them.
enum { RENDER_PIECES_MAX = 4 };
typedef struct render_piece {
    render_samples samples;
    ad_tensor rows;
    int64_t candidates;
} render_piece;
bool render_join_samples(ad_context *ctx, int count, const render_piece *pieces, int64_t capacity,
                         render_samples *samples, ad_tensor *rows);

// The occupancy grid's states: value (cells) f32, bits (words) u32.
int64_t render_occupancy_cells(int cascades, int resolution);
int64_t render_occupancy_words(int cascades, int resolution);
// Cells (n) u32, the first `uniform` anywhere (or from `start` on where that is not negative), the
// rest among the occupied, and a random point in each (n, 3); the field's densities there (n) then
// update the states. step: the least step; fade: let old values fade first.
bool render_occupancy_draw(ad_context *ctx, ad_tensor bits, int cascades, int resolution,
                           int64_t start, int64_t uniform, int64_t occupied, ad_tensor *cells,
                           ad_tensor *points);
void render_occupancy_update(ad_context *ctx, ad_tensor value, ad_tensor bits, ad_tensor cells,
                             ad_tensor densities, int cascades, int resolution, double step,
                             bool fade);

typedef struct render_grid_options {
    int levels, features, log2_entries; // 0: 8, 4, 17
    double n_min, n_max;                // 0: 16, 2048
} render_grid_options;
int64_t render_grid_entries(const render_grid_options *options); // rows of the table
// points (n, 3), table (entries, features) -> (n, levels features)
ad_tensor render_hash_grid(ad_context *ctx, ad_tensor points, ad_tensor table, ad_tensor count,
                           const render_grid_options *options);
// The same where the values were found before, without a tape, for more points than these: they are
// copied, for point i row rows[i] of the tables known[0], known[1] ... one behind the other (up to
// RENDER_PIECES_MAX), and gradients flow as if they had been found here.
ad_tensor render_hash_grid_known(ad_context *ctx, ad_tensor points, ad_tensor table,
                                 ad_tensor count, int tables, const ad_tensor *known,
                                 ad_tensor rows, const render_grid_options *options);
// A step of sparse Adam on the table, a parameter of `adam`, from the cotangents of such features,
// slopes (n, levels features): the same bits as adding their gradient to ad_gradient (table) while
// that is zero and ad_optimizer_step, but the gradient is spent level by level and never stored
// (and not looked at: under a loss scale, check the slopes).
bool render_hash_grid_step(ad_context *ctx, ad_optimizer *adam, ad_tensor points, ad_tensor table,
                           ad_tensor count, ad_tensor slopes, const render_grid_options *options);
// Real spherical harmonics of unit vectors, degree 1 ... 4 (n, degree^2), as tiny-cuda-nn orders
ad_tensor render_spherical_harmonics(ad_context *ctx, ad_tensor directions, int degree);
// (n, d) -> (n, d + 2 d levels): x, sin(2^l pi x), cos(2^l pi x) for l = 0 ... levels - 1
ad_tensor render_positional_encoding(ad_context *ctx, ad_tensor x, int levels);
// Rows of a (rows, a) beside those of each sample's ray b (rays, c): (rows, a + c)
ad_tensor render_beside_ray(ad_context *ctx, ad_tensor a, ad_tensor b, ad_tensor offsets);
// exp(x), its slope taken at min(x, 15): densities that cannot blow up (first column of h (n, c))
ad_tensor render_density(ad_context *ctx, ad_tensor h);
// Both of h (n, a) at once: its density sigma (n), and its rows beside those of b, (n, a + c)
bool render_density_beside(ad_context *ctx, ad_tensor h, ad_tensor b, ad_tensor offsets,
                           ad_tensor *sigma, ad_tensor *rows);
ad_tensor render_mask_rows(ad_context *ctx, ad_tensor x, ad_tensor count); // dead rows to zero

typedef struct render_pixels {
    ad_tensor colour;      // (rays, 3)
    ad_tensor opacity;     // (rays)
    ad_tensor depth;       // (rays): sum of weight x t, not divided by opacity
    ad_tensor weight;      // (capacity)
} render_pixels;
// sigma (n), colour (n, 3), t (n), delta (n); a ray ends where its transmittance falls below stop
bool render_composite(ad_context *ctx, ad_tensor sigma, ad_tensor colour, ad_tensor t,
                      ad_tensor delta, ad_tensor offsets, double stop, render_pixels *pixels);
// sum over pairs w_i w_j |m_i - m_j| + sum w_i^2 delta_i / 3 of each ray, (rays): Mip-NeRF 360, 15
ad_tensor render_distortion(ad_context *ctx, ad_tensor weight, ad_tensor t, ad_tensor delta,
                            ad_tensor offsets);
// Colours (rays, 3) with opacities (rays) against pictures (rays, 4) RGBA, both over a background
// (rays, 3) or (1, 3): means over the channels of the first `rays` () u32 rays. loss: Huber, e^2 up
// to delta, then linear (0: squares); squares: e^2.
bool render_pixel_loss(ad_context *ctx, ad_tensor colour, ad_tensor opacity, ad_tensor picture,
                       ad_tensor background, ad_tensor rays, double delta, ad_tensor *loss,
                       ad_tensor *squares);

/* ---- The model: a field in its box --------------------------------------------------------- */
/* A render_model is what a snapshot holds: parameters, occupancy, box, background. It lives in a
 * context of the caller's, which must outlive it. */

typedef struct render_settings {        // 0 or NULL: the default of the preset
    const char *field;                  // "hash" or "mlp"
    const char *preset;                 // "fast", "default", "quality"
    bool bf16;                          // products of bf16 operands in the networks
    render_grid_options grid;
    int width;                          // of the networks' hidden layers
    // These three at the usual size: the hash field's schedule (docs/field.md) begins with fewer
    // steps along a ray and ends with twice the samples, rays and rate.
    int64_t batch;                      // samples of an optimiser step
    int64_t rays;                       // most rays of a step
    int march_steps;                    // across the box's diagonal
    double learning_rate, learning_rate_end;
    double opacity_loss, distortion_loss; // weights
    bool squared_loss;                  // L2 instead of Huber
    bool random_background;             // while training: what a picture shows must be there
    int64_t steps;                      // the schedule's horizon; 0: by time
    double seconds;                     // the schedule's horizon where steps is 0
} render_settings;

// Fills every field that is 0 or NULL from the preset; false for an unknown name.
bool render_settings_fill(render_settings *settings, ad_message *error);

typedef struct render_model render_model;
// cascades: the box is 2^(cascades - 1) times as wide as what the cameras look at: 1 for an object
// (or a box of yours), 2 for a place, 1 + log2(aabb_scale) where the dataset gives that.
render_model *render_model_open(ad_context *ctx, const render_settings *settings,
                                const render_scene *scene, int cascades, ad_message *error);
void render_model_close(render_model *model);
int64_t render_model_parameters(const render_model *model);
const render_scene *render_model_scene(const render_model *model);
const render_settings *render_model_settings(const render_model *model);
double render_model_occupied(render_model *model);   // share of cells

// One view. Each picture may be NULL. Values are not rounded; colour is over `background`.
typedef struct render_view {
    float *colour;   // (height, width, 3) in [0, 1]
    float *depth;    // (height, width) along the camera's axis, world units; 0 where empty
    float *normal;   // (height, width, 3) unit, world, facing out; 0 where empty
    float *opacity;  // (height, width)
} render_view;
bool render_model_view(render_model *model, const render_camera *camera,
                       const float background[3], render_view *view, ad_message *error);

/* ---- The trainer ---------------------------------------------------------------------------- */

typedef struct render_trainer render_trainer;
typedef struct render_progress {
    int64_t step;                       // optimiser steps done
    double loss, psnr;                  // means since the last call; psnr of the training pixels
    uint64_t samples, rays;             // totals
    double occupied;                    // share of occupied cells
    double learning_rate;
} render_progress;

// Pictures of the train split move to the device as 8-bit values: the dataset's are freed, and it
// is not looked at again. Close the trainer, then the model, then the context.
render_trainer *render_trainer_open(render_model *model, render_dataset *dataset,
                                    ad_message *error);
void render_trainer_close(render_trainer *trainer);
// One optimiser step. progress: 0 ... 1, the share of the schedule that is over.
bool render_trainer_step(render_trainer *trainer, double progress, ad_message *error);
void render_trainer_read(render_trainer *trainer, render_progress *progress);

/* A snapshot is a safetensors file: docs/formats.md. extra: metadata of the caller's, pairs of
 * name and text. Resuming from one goes on bitwise as if there had been no stop. */
typedef struct render_text { const char *name, *text; } render_text;
bool render_snapshot_write(render_model *model, render_trainer *trainer, const char *path,
                           const render_text *extra, int extra_count, ad_message *error);
// Opens the model in ctx; *extra (free with render_texts_free) receives the caller's metadata.
render_model *render_snapshot_open(ad_context *ctx, const char *path, render_text **extra,
                                   int *extra_count, ad_message *error);
// After render_trainer_open on a model from a snapshot: optimiser states, step, totals. Refused
// where the cameras of the training images are not those of the snapshot.
bool render_trainer_resume(render_trainer *trainer, const char *path, ad_message *error);
void render_texts_free(render_text *texts, int count);

/* ---- Evaluation ------------------------------------------------------------------------------ */

typedef struct render_score {
    int images, width, height;
    double psnr, ssim;                  // means over images of uint8-rounded pictures
    double seconds;
} render_score;
// Every frame of `split` (at most `limit`, 0: all), RGBA over the background, sRGB. each: called
// with every picture, may be NULL; returning false ends early.
typedef bool (*render_evaluated)(void *user, const render_frame *frame, const uint8_t *result,
                                 const uint8_t *target, double psnr, double ssim);
bool render_evaluate(render_model *model, const render_dataset *dataset, render_split split,
                     int limit, const float background[3], render_evaluated each, void *user,
                     render_score *score, ad_message *error);


// The operations themselves, for a harness that walks them.
extern const ad_op render_op_hash_grid, render_op_composite, render_op_march, render_op_cull;
extern const ad_op render_op_join_samples;
extern const ad_op render_op_sample_pixels, render_op_fetch_pixels, render_op_camera_rays;
extern const ad_op render_op_points, render_op_beside_ray, render_op_mask_rows, render_op_density;
extern const ad_op render_op_spherical_harmonics, render_op_distortion, render_op_pixel_loss;
extern const ad_op render_op_density_beside;
extern const ad_op render_op_stratified, render_op_importance;

#ifdef __cplusplus
}
#endif
#endif
