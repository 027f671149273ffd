/* Loads a folder: lists its frames (dataset_list.c), looks at every image's header, checks sizes,
 * masks and the memory budget, and only then decodes, all cores at once.
 *
 * Images stay 8-bit RGBA: a quarter of what floats would take, and exactly what the file says.
 * The budget covers the pixels kept and the full-size pictures in flight while they are made
 * smaller; it is checked from the headers, before the first large allocation, and what would fit
 * is named. An image that cannot be decoded is skipped with a warning up to the tolerance; more
 * than that is an error with the reason of the first.
 *
 * Decoding writes frame i from iteration i alone, so the result does not depend on threads. */
#include "render/load.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t BUDGET_DEFAULT = (size_t)2 << 30;
static const double TOLERANCE_DEFAULT = 0.10;
enum { FRAMES_MIN = 3 };

/* What is known of a frame besides the frame: kept beside it while loading. */
typedef struct frame_work {
    int file, frame;        /* where its transforms are */
    int width, height;      /* full size, upright or as stored, see ignore_orientation */
    bool ignore_orientation;
    bool folds;             /* some pixels have no ray */
    bool failed;
    bool no_memory; /* no fault of the image: an error, whatever is tolerated */
    ad_message reason;
} frame_work;

bool render_dataset_warn(render_dataset *dataset, ad_message *error, const char *format, ...) {
    ad_message line;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line.text, sizeof line.text, format, arguments);
    va_end(arguments);
    size_t count = (size_t)dataset->warning_count;
    char **grown = realloc(dataset->warnings, (count + 1) * sizeof *grown);
    if (grown) dataset->warnings = grown;
    if (!grown || !(grown[count] = render_format("%s", line.text)))
        return ad_fail(error, "%s: out of memory", dataset->folder);
    dataset->warning_count++;
    return true;
}

static void free_frame(render_frame *frame) {
    free(frame->name);
    free(frame->path);
    free(frame->mask_path);
    render_image_free(&frame->image);
}

void render_dataset_free(render_dataset *dataset) {
    for (int i = 0; i < dataset->count; i++) free_frame(&dataset->frames[i]);
    for (int i = 0; i < dataset->warning_count; i++) free(dataset->warnings[i]);
    free(dataset->frames);
    free(dataset->warnings);
    free(dataset->folder);
    memset(dataset, 0, sizeof *dataset);
}

/* ---- From the listing to frames ---- */

/* Moves the wanted entries into frames, sorted by split, then by name as the listing is. */
static bool take_frames(render_dataset *dataset, frame_work **work, render_listing *listing,
                        unsigned wanted, ad_message *error) {
    size_t count = 0;
    int train = 0, val = 0, test = 0;
    for (int i = 0; i < listing->count; i++) {
        const unsigned split = listing->entries[i].split;
        count += (split & wanted) != 0;
        train += split == RENDER_TRAIN, val += split == RENDER_VAL, test += split == RENDER_TEST;
    }
    if (count == 0)
        return ad_fail(error, "%s: expected images of the split asked for, found none: there are "
                       "%d in train, %d in val and %d in test", dataset->folder, train, val, test);
    dataset->frames = calloc(count, sizeof *dataset->frames);
    *work = calloc(count, sizeof **work);
    if (!dataset->frames || !*work)
        return ad_fail(error, "%s: out of memory for %zu frames", dataset->folder, count);
    for (unsigned split = RENDER_TRAIN; split <= RENDER_TEST; split <<= 1) {
        for (int i = 0; i < listing->count && (split & wanted); i++) {
            render_listing_entry *entry = &listing->entries[i];
            if ((unsigned)entry->split != split) continue;
            render_frame *frame = &dataset->frames[dataset->count];
            (*work)[dataset->count].file = entry->file;
            (*work)[dataset->count++].frame = entry->frame;
            frame->name = entry->name, frame->path = entry->path;
            frame->mask_path = entry->mask_path, frame->split = entry->split;
            entry->name = entry->path = entry->mask_path = NULL;
        }
    }
    return true;
}

/* ---- Headers ---- */

/* Looks at the header of an image and makes its camera. A header that cannot be read only marks
 * the frame; what contradicts the transforms file is an error. */
static bool probe_frame(render_frame *frame, frame_work *work, const render_transforms *transforms,
                        int downscale, ad_message *error) {
    bool turned;
    int *width = &work->width, *height = &work->height;
    errno = 0;
    if (!render_image_probe(width, height, &turned, frame->path, &work->reason)) {
        work->failed = true, work->no_memory = errno == ENOMEM;
        return true;
    }

    /* EXIF turns the picture, unless the calibration was made with the picture as stored: the
     * file then gives that size. */
    const render_lens *lens = &transforms->frames[work->frame].lens;
    if (turned && *width != *height && lens->width == *height && lens->height == *width) {
        work->ignore_orientation = true;
        int exchanged = *width;
        *width = *height, *height = exchanged;
    }
    if (!render_transforms_camera(&frame->camera, transforms, work->frame, *width, *height, error))
        return false;
    int small_width = *width / downscale, small_height = *height / downscale;
    if (small_width < 1 || small_height < 1)
        return ad_fail(error, "%s: expected at least %d x %d pixels for --downscale %d, found "
                       "%d x %d", frame->path, downscale, downscale, downscale, *width, *height);
    render_camera_scale(&frame->camera, 1.0 / downscale, 1.0 / downscale);
    frame->camera.width = small_width, frame->camera.height = small_height;

    /* Where the distortion folds a pixel has no ray. It does so in the corners first, in those of
     * a round fisheye picture always; in the middle it is a mistake. */
    double origin[3], direction[3];
    for (int corner = 0; corner < 4; corner++)
        if (!render_camera_ray(&frame->camera, (corner & 1) * small_width,
                               (corner >> 1) * small_height, origin, direction))
            work->folds = true;
    return render_camera_ray(&frame->camera, 0.5 * small_width, 0.5 * small_height, origin,
                             direction) ||
           ad_fail(error, "%s: frame %d: expected distortion that can be undone, found "
                   "coefficients that fold the image's middle", transforms->path, work->frame);
}

/* Focal lengths in pixels for a whole file, without w and h: all its images must be one size. */
static bool check_shared_sizes(const render_dataset *dataset, const frame_work *work,
                               const render_listing *listing, ad_message *error) {
    int first[3] = {-1, -1, -1};
    for (int i = 0; i < dataset->count; i++) {
        const render_transforms *transforms = &listing->transforms[work[i].file];
        const render_lens *lens = &transforms->frames[work[i].frame].lens;
        if (work[i].failed || !lens->shared || lens->width || lens->height) continue;
        int *seen = &first[work[i].file];
        if (*seen < 0) *seen = i;
        if (work[i].width != work[*seen].width || work[i].height != work[*seen].height)
            return ad_fail(error, "%s: frame %d: expected %s to be %d x %d pixels like the others "
                           "that share fl_x, found %d x %d", transforms->path, work[i].frame,
                           dataset->frames[i].name, work[*seen].width, work[*seen].height,
                           work[i].width, work[i].height);
    }
    return true;
}

/* ---- Memory ---- */

static double kept_bytes(const render_dataset *dataset, const frame_work *work, int downscale) {
    double total = 0;
    for (int i = 0; i < dataset->count; i++)
        total += (double)(work[i].width / downscale) * (work[i].height / downscale) *
                 (dataset->frames[i].mask_path || work[i].folds ? 5 : 4);
    return total;
}

/* How many images may be decoded at once within the budget; 0 with a message if not one. */
static int plan_memory(const render_dataset *dataset, const frame_work *work, int downscale,
                       int threads, size_t budget, ad_message *error) {
    double kept = kept_bytes(dataset, work, downscale), flight = 0;
    for (int i = 0; i < dataset->count; i++) /* file, picture, turned or mask */
        flight = fmax(flight, 10.0 * work[i].width * work[i].height);
    double left = (double)budget - kept;
    if (left >= flight) return flight > 0 ? (int)fmin(threads, left / flight) : threads;
    int fits = downscale + 1;
    while (fits < 64 && kept_bytes(dataset, work, fits) + flight > (double)budget) fits++;
    ad_fail(error, "%s: %d images need %.4g MB, more than the budget of %.4g MB; --downscale %d "
            "%s", dataset->folder, dataset->count, (kept + flight) / 1e6, (double)budget / 1e6,
            fits, fits < 64 ? "fits" : "is not enough");
    return 0;
}

/* ---- Pixels ---- */

/* A mask keeps what is brighter than half of its brightest pixel, so 0/1 and 0/255 files both
 * mean what their makers meant. */
static bool decode_mask(render_frame *frame, const frame_work *work, ad_message *error) {
    render_image picture, *image = &frame->image;
    const render_image_options options = {.ignore_orientation = work->ignore_orientation};
    if (!render_image_load(&picture, frame->mask_path, &options, error)) return false;
    size_t count = (size_t)image->width * (size_t)image->height;
    bool done = true;
    if (picture.width != image->width || picture.height != image->height) {
        done = ad_fail(error, "%s: expected a mask of %d x %d pixels as the image, found %d x %d",
                       frame->mask_path, image->width, image->height, picture.width,
                       picture.height);
    } else if (!(image->mask = malloc(count))) {
        done = ad_fail(error, "%s: out of memory", frame->mask_path);
    }
    int brightest = 0;
    for (size_t i = 0; i < count && done; i++) {
        const uint8_t *p = picture.pixels + i * 4; /* grey, seen through alpha */
        int value = (p[0] + p[1] + p[2]) * p[3] / (3 * 255);
        image->mask[i] = (uint8_t)value;
        if (value > brightest) brightest = value;
    }
    for (size_t i = 0; i < count && done; i++)
        image->mask[i] = 2 * image->mask[i] > brightest ? 255 : 0;
    render_image_free(&picture);
    return done;
}

/* Takes out the pixels without a ray, at the size kept. */
static bool mask_folded(render_frame *frame, ad_message *error) {
    render_image *image = &frame->image;
    size_t count = (size_t)image->width * (size_t)image->height;
    if (!image->mask) {
        image->mask = malloc(count);
        if (!image->mask) return ad_fail(error, "%s: out of memory", frame->path);
        memset(image->mask, 255, count);
    }
    double origin[3], direction[3];
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++)
            if (!render_camera_ray(&frame->camera, x + 0.5, y + 0.5, origin, direction))
                image->mask[(size_t)y * (size_t)image->width + (size_t)x] = 0;
    return true;
}

static bool decode_pixels(render_frame *frame, frame_work *work, int downscale) {
    const render_image_options options = {.ignore_orientation = work->ignore_orientation};
    ad_message *error = &work->reason;
    if (!render_image_load(&frame->image, frame->path, &options, error)) return false;
    if (frame->image.width != work->width || frame->image.height != work->height)
        return ad_fail(error, "%s: expected %d x %d pixels, found %d x %d", frame->path,
                       work->width, work->height, frame->image.width, frame->image.height);
    if (frame->mask_path && !decode_mask(frame, work, error)) return false;
    if (!render_image_downscale(&frame->image, downscale, error)) return false;
    return !work->folds || mask_folded(frame, error);
}

static void decode_frame(render_frame *frame, frame_work *work, int downscale) {
    if (work->failed) return;
    errno = 0;
    work->failed = !decode_pixels(frame, work, downscale);
    work->no_memory = work->failed && errno == ENOMEM;
}

/* One thread stays away from OpenMP, whose runtime ends the program when memory is out. */
static void decode_all(render_dataset *dataset, frame_work *work, int downscale, int threads) {
    if (threads == 1) {
        for (int i = 0; i < dataset->count; i++)
            decode_frame(&dataset->frames[i], &work[i], downscale);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < dataset->count; i++)
        decode_frame(&dataset->frames[i], &work[i], downscale);
}

/* ---- What is left ---- */

/* The count of a split. */
static int *size_of_split(render_dataset *dataset, render_split split) {
    return split == RENDER_TRAIN ? &dataset->train_count
         : split == RENDER_VAL ? &dataset->val_count : &dataset->test_count;
}

/* Skips what could not be decoded, up to the tolerance. */
static bool drop_failed(render_dataset *dataset, frame_work *work, double tolerance,
                        ad_message *error) {
    int failed = 0, first = -1, kept = 0;
    for (int i = 0; i < dataset->count; i++) {
        if (work[i].failed && failed++ == 0) first = i;
        if (work[i].no_memory) return ad_fail(error, "%s", work[i].reason.text);
    }
    if (failed == 0) return true;
    dataset->undecoded = failed;
    if (failed > tolerance * dataset->count)
        return ad_fail(error, "%.700s (%d of %d images cannot be used; tolerated are %.0f %%)",
                       work[first].reason.text, failed, dataset->count, 100 * tolerance);
    if (!render_dataset_warn(dataset, error, "%s: %d of %d images cannot be used and are skipped; "
                             "the first: %.700s", dataset->folder, failed, dataset->count,
                             work[first].reason.text))
        return false;
    for (int i = 0; i < dataset->count; i++) {
        if (work[i].failed) {
            --*size_of_split(dataset, dataset->frames[i].split);
            free_frame(&dataset->frames[i]);
        } else {
            work[kept] = work[i];
            dataset->frames[kept++] = dataset->frames[i];
        }
    }
    dataset->count = kept;
    return true;
}

/* Counts, sizes and flags over the frames that are left. */
static bool summarise(render_dataset *dataset, unsigned wanted, ad_message *error) {
    double pixels = 0, masked = 0;
    dataset->same_size = true;
    for (int i = 0; i < dataset->count; i++) {
        const render_frame *frame = &dataset->frames[i];
        int width = frame->camera.width, height = frame->camera.height;
        dataset->held_out_count += frame->split == dataset->held_out;
        if (i && (width != dataset->width || height != dataset->height)) dataset->same_size = false;
        if (width > dataset->width) dataset->width = width;
        if (height > dataset->height) dataset->height = height;
        dataset->has_alpha = dataset->has_alpha || frame->image.has_alpha;
        dataset->has_mask = dataset->has_mask || frame->mask_path || frame->image.mask;
        size_t count = (size_t)frame->image.width * (size_t)frame->image.height;
        dataset->bytes += count * (frame->image.mask ? 5 : 4);
        pixels += (double)count;
        for (size_t j = 0; j < count && frame->image.mask; j++) masked += !frame->image.mask[j];
    }
    dataset->masked_share = pixels > 0 ? masked / pixels : 0;
    if ((wanted & RENDER_TRAIN) && dataset->train_count + dataset->held_out_count < FRAMES_MIN)
        return ad_fail(error, "%s: expected at least %d images, found %d", dataset->folder,
                       FRAMES_MIN, dataset->count);
    if ((wanted & RENDER_TRAIN) && dataset->train_count == 0)
        return ad_fail(error, "%s: no image is left to train on: all %d are held out",
                       dataset->folder, dataset->held_out_count);
    return !dataset->has_mask || !dataset->bytes || masked > 0 ||
           render_dataset_warn(dataset, error, "%s: the masks take out no pixel",
                               dataset->folder);
}

/* What the transforms files say of the scene as a whole. Splits that are not loaded are counted
 * like the others. */
static void describe(render_dataset *dataset, const render_listing *listing) {
    const render_transforms *transforms = &listing->transforms[0];
    dataset->held_out = listing->held_out;
    for (int i = 0; i < listing->count; i++) ++*size_of_split(dataset, listing->entries[i].split);
    dataset->missing = listing->missing;
    dataset->aabb_scale = transforms->aabb_scale;
    dataset->ngp_scale = transforms->scale;
    memcpy(dataset->ngp_offset, transforms->offset, sizeof dataset->ngp_offset);
    memcpy(dataset->split_rule, listing->split_rule, sizeof dataset->split_rule);
    dataset->field_of_view_only = true;
    for (int i = 0; i < transforms->count; i++)
        if (transforms->frames[i].lens.fx > 0) dataset->field_of_view_only = false;
}

bool render_dataset_load(render_dataset *dataset, const char *folder,
                         const render_dataset_options *options, ad_message *error) {
    static const render_dataset_options defaults;
    if (!options) options = &defaults;
    int downscale = options->downscale > 1 ? options->downscale : 1;
    int threads = options->threads > 1 ? options->threads : 1;
    size_t budget = options->memory_budget ? options->memory_budget : BUDGET_DEFAULT;
    double tolerance = options->tolerate == 0 ? TOLERANCE_DEFAULT : fmax(0, options->tolerate);
    memset(dataset, 0, sizeof *dataset);
    render_listing listing = {0};
    frame_work *work = NULL;
    bool done = false;

    dataset->folder = render_format("%s", folder);
    if (!dataset->folder) {
        ad_fail(error, "%s: out of memory", folder);
        goto done;
    }
    if (!render_listing_load(&listing, dataset, folder, options, error)) goto done;
    describe(dataset, &listing);
    unsigned wanted = options->splits ? options->splits
                                      : (unsigned)(RENDER_TRAIN | dataset->held_out);
    if (!take_frames(dataset, &work, &listing, wanted, error)) goto done;
    for (int i = 0; i < dataset->count; i++)
        if (!probe_frame(&dataset->frames[i], &work[i], &listing.transforms[work[i].file],
                         downscale, error))
            goto done;
    if (!check_shared_sizes(dataset, work, &listing, error)) goto done;
    if (!options->cameras_only) {
        threads = plan_memory(dataset, work, downscale, threads, budget, error);
        if (!threads) goto done;
        decode_all(dataset, work, downscale, threads);
    }
    done = drop_failed(dataset, work, tolerance, error) &&
           summarise(dataset, wanted, error);
done:
    free(work);
    render_listing_free(&listing);
    if (!done) render_dataset_free(dataset);
    return done;
}
