/* What a folder offers, before an image is opened: which transforms files, which of their images
 * exist, and to which split each belongs.
 *
 * The rule that matters: no held-out view is ever trained on. Held out is test; else val, also
 * when a test file is there but none of its images (datasets are published that way); else every
 * Nth image by byte-wise sorted name. An image that is listed twice counts once, and one that is
 * listed both for training and for measuring is taken out of the training, with a warning.
 * The choice depends on names alone: a photo that later cannot be decoded moves no other photo
 * across the border. */
#include "render/load.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { NAMES_SHOWN = 3, FRAMES_MIN = 3 };

static const char *const extensions[] = {"", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"};
static const render_split splits[3] = {RENDER_TRAIN, RENDER_VAL, RENDER_TEST};
static const char *const split_names[3] = {"train", "val", "test"};

void render_listing_free(render_listing *listing) {
    for (int i = 0; i < listing->count; i++) {
        free(listing->entries[i].name);
        free(listing->entries[i].path);
        free(listing->entries[i].mask_path);
    }
    free(listing->entries);
    for (int i = 0; i < 3; i++) render_transforms_free(&listing->transforms[i]);
    memset(listing, 0, sizeof *listing);
}

static int compare_entries(const void *a, const void *b) {
    const render_listing_entry *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (int)y->split - (int)x->split; /* measured before trained */
}

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* ---- Which files ---- */

/* No transforms file: says what is in the folder instead, and what is missing. */
static bool fail_without_transforms(const char *folder, ad_message *error) {
    static const char *const endings[] = {"png", "jpg", "jpeg", "heic", "heif"};
    DIR *listing = opendir(folder);
    if (!listing) return ad_fail(error, "%s: cannot be opened as a folder", folder);
    int files = 0, images = 0, heic = 0;
    for (const struct dirent *entry; (entry = readdir(listing));) {
        if (entry->d_name[0] == '.') continue;
        const char *dot = strrchr(entry->d_name, '.');
        files++;
        for (int i = 0; dot && i < 5; i++) {
            size_t length = strlen(endings[i]), at = 0;
            while (at < length && (dot[1 + at] | 0x20) == endings[i][at]) at++;
            if (at == length && !dot[1 + at]) images++, heic += i >= 3;
        }
    }
    closedir(listing);
    if (files == 0) return ad_fail(error, "%s: expected images and transforms.json, found an "
                                   "empty folder", folder);
    if (images == 0) return ad_fail(error, "%s: expected transforms.json or "
                                    "transforms_train.json, found neither", folder);
    return ad_fail(error, "%s: expected transforms.json or transforms_train.json, found %d image%s "
                   "without camera poses; run COLMAP or nerfstudio's ns-process-data to make one%s",
                   folder, images, images == 1 ? "" : "s",
                   heic ? "; HEIC images must first be converted: heif-convert IN.heic OUT.jpg"
                        : "");
}

/* transforms_train.json, or transforms.json in its place, and the files of the other splits. */
static bool load_files(render_listing *listing, char **base, const char *folder,
                       ad_message *error) {
    if (!is_folder(folder)) {
        const char *slash = strrchr(folder, '/');
        *base = slash ? render_format("%.*s", (int)(slash - folder), folder) : render_format(".");
        if (!*base) return ad_fail(error, "%s: out of memory", folder);
        return render_transforms_load(&listing->transforms[0], folder, error);
    }
    *base = render_format("%s", folder);
    bool done = *base || ad_fail(error, "%s: out of memory", folder), found = false;
    for (int i = 0; i < 4 && done; i++) {
        int which = i == 3 ? 0 : i; /* the name without a split comes last, in train's place */
        if (i == 3 && found) break;
        char *path = i == 3 ? render_format("%s/transforms.json", folder)
                            : render_format("%s/transforms_%s.json", folder, split_names[i]);
        if (!path) {
            done = ad_fail(error, "%s: out of memory", folder);
        } else if (render_file_exists(path)) {
            done = render_transforms_load(&listing->transforms[which], path, error);
            found = found || which == 0;
        }
        free(path);
    }
    if (done && !found) return fail_without_transforms(folder, error);
    return done;
}

/* ---- Which images ---- */

/* The image of a frame as written, or with an ending added. False only when memory is out. */
static bool find_image(render_listing_entry *entry, const char *base, const char *name,
                       ad_message *error) {
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        char *path = render_format("%s/%s%s", base, name, extensions[i]);
        if (!path) return ad_fail(error, "%s: out of memory", base);
        if (render_file_exists(path)) {
            entry->path = path;
            entry->name = render_format("%s%s", name, extensions[i]);
            return entry->name || ad_fail(error, "%s: out of memory", base);
        }
        free(path);
    }
    return true;
}

/* mask_path, which must then exist, or NAME.mask.png with or without the image's ending. */
static bool find_mask(render_listing_entry *entry, const char *base, const char *place,
                      const char *mask_name, int frame, ad_message *error) {
    if (mask_name) {
        entry->mask_path = render_format("%s/%s", base, mask_name);
        if (!entry->mask_path) return ad_fail(error, "%s: out of memory", base);
        if (render_file_exists(entry->mask_path)) return true;
        return ad_fail(error, "%s: frame %d: expected the mask %s, found no such file", place,
                       frame, mask_name);
    }
    size_t length = strlen(entry->path);
    const char *dot = strrchr(entry->path, '.'), *slash = strrchr(entry->path, '/');
    size_t stem = dot && dot > slash ? (size_t)(dot - entry->path) : length;
    for (int with_ending = 0; with_ending < 2; with_ending++) {
        int kept = (int)(with_ending ? length : stem);
        char *path = render_format("%.*s.mask.png", kept, entry->path);
        if (!path) return ad_fail(error, "%s: out of memory", base);
        if (render_file_exists(path)) return entry->mask_path = path, true;
        free(path);
    }
    return true;
}

/* The split of a frame of one file: the file's, unless nerfstudio's lists name it. Returns 0 for
 * a frame that the lists leave out. */
static render_split split_of(const render_transforms *transforms, int file, const char *name) {
    const char *const *names[3] = {NULL};
    bool listed = false;
    for (int i = 0; i < 3; i++) {
        names[i] = (const char *const *)transforms->names[i];
        listed = listed || transforms->name_counts[i] > 0;
    }
    if (!listed) return splits[file];
    for (int i = 2; i >= 0; i--)
        for (int j = 0; j < transforms->name_counts[i]; j++)
            if (strcmp(names[i][j], name) == 0) return splits[i];
    return 0;
}

/* Adds the frames of one file whose images exist; one warning tells of the others. */
static bool list_file(render_listing *listing, render_dataset *dataset, int file,
                      const char *base, ad_message *error) {
    const render_transforms *transforms = &listing->transforms[file];
    char shown[256] = "";
    int missing = 0, unlisted = 0;
    for (int i = 0; i < transforms->count; i++) {
        const render_transforms_frame *frame = &transforms->frames[i];
        render_listing_entry *entry = &listing->entries[listing->count];
        *entry = (render_listing_entry){.file = file, .frame = i};
        entry->split = split_of(transforms, file, frame->name);
        if (!entry->split) {
            unlisted++;
            continue;
        }
        if (!find_image(entry, base, frame->name, error)) return free(entry->path), false;
        if (!entry->path) {
            size_t used = strlen(shown);
            if (missing++ < NAMES_SHOWN)
                snprintf(shown + used, sizeof shown - used, "%s%.70s", used ? ", " : "",
                         frame->name);
            continue;
        }
        listing->count++;
        if (!find_mask(entry, base, transforms->path, frame->mask_name, i, error)) return false;
    }
    listing->missing += missing;
    if (missing && !render_dataset_warn(dataset, error, "%s: %d of %d images do not exist and are "
                                        "left out: %s%s", transforms->path, missing,
                                        transforms->count, shown,
                                        missing > NAMES_SHOWN ? ", ..." : ""))
        return false;
    return !unlisted || render_dataset_warn(dataset, error, "%s: %d of %d frames are in none of "
                                            "the lists of file names and are left out",
                                            transforms->path, unlisted, transforms->count);
}

/* ---- Which split ---- */

/* The entries are sorted, of one name the measured before the trained: what is listed again
 * for the same split, or for training although it is measured, goes. */
static bool drop_repeated(render_listing *listing, render_dataset *dataset, ad_message *error) {
    int kept = 0, leaked = 0, repeated = 0;
    for (int i = 0; i < listing->count; i++) {
        render_listing_entry *entry = &listing->entries[i];
        bool same = kept && strcmp(listing->entries[kept - 1].name, entry->name) == 0;
        bool again = same && listing->entries[kept - 1].split == entry->split;
        bool leak = same && !again && entry->split == RENDER_TRAIN;
        repeated += again, leaked += leak;
        if (again || leak) {
            free(entry->name);
            free(entry->path);
            free(entry->mask_path);
        } else {
            listing->entries[kept++] = *entry;
        }
    }
    listing->count = kept;
    if (repeated && !render_dataset_warn(dataset, error, "%s: %d images are listed twice and used "
                                         "once", dataset->folder, repeated))
        return false;
    return !leaked || render_dataset_warn(dataset, error, "%s: %d images listed for training are "
                                          "held out as well and are not trained on",
                                          dataset->folder, leaked);
}

static int count_split(const render_listing *listing, render_split split) {
    int count = 0;
    for (int i = 0; i < listing->count; i++) count += listing->entries[i].split == split;
    return count;
}

static void choose_held_out(render_listing *listing, int hold_out) {
    char *rule = listing->split_rule;
    size_t size = sizeof listing->split_rule;
    int train = count_split(listing, RENDER_TRAIN), val = count_split(listing, RENDER_VAL);
    int test = count_split(listing, RENDER_TEST);
    listing->held_out = test == 0 && val > 0 ? RENDER_VAL : RENDER_TEST;
    if (test > 0) {
        snprintf(rule, size, "test: %d images named by the dataset", test);
    } else if (val > 0) {
        snprintf(rule, size, "val: %d images named by the dataset, which has none for test", val);
    } else if (hold_out > 0) {
        for (int i = 0; i < listing->count; i += hold_out) {
            listing->entries[i].split = RENDER_TEST;
            test++;
        }
        snprintf(rule, size, "every %dth image by name: %d of %d", hold_out, test, train);
    } else {
        snprintf(rule, size, "none");
    }
}

bool render_listing_load(render_listing *listing, render_dataset *dataset, const char *folder,
                         const render_dataset_options *options, ad_message *error) {
    memset(listing, 0, sizeof *listing);
    char *base = NULL;
    bool done = load_files(listing, &base, folder, error);
    size_t total = 0;
    for (int file = 0; file < 3; file++) total += (size_t)listing->transforms[file].count;
    if (done && !(listing->entries = calloc(total, sizeof *listing->entries)))
        done = ad_fail(error, "%s: out of memory for %zu frames", folder, total);
    for (int file = 0; file < 3 && done; file++)
        done = list_file(listing, dataset, file, base, error);
    if (done && listing->count < FRAMES_MIN)
        done = ad_fail(error, "%s: expected at least %d images, found %d of the %zu listed", folder,
                       FRAMES_MIN, listing->count, total);
    if (done) {
        qsort(listing->entries, (size_t)listing->count, sizeof *listing->entries, compare_entries);
        done = drop_repeated(listing, dataset, error);
    }
    if (done) choose_held_out(listing, options->hold_out == 0 ? 8 : options->hold_out);
    free(base);
    if (!done) render_listing_free(listing);
    return done;
}
