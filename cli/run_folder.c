/* Run folders. What a run owns is named here, and nothing else in the folder is ever touched: even
 * --force removes only files that carry these names. While a run trains, its metrics.jsonl is
 * locked, so that a second process on the same folder is turned away. */
#include "cli/run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "render/json_fields.h"

static const char *const own_files[] = {"snapshot.safetensors", "metrics.jsonl", "report.html"};
enum { OWN_FILES = sizeof own_files / sizeof *own_files };

bool cli_path(char path[CLI_PATH_BYTES], const char *folder, const char *name, ad_message *error) {
    size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] == '/' ? "" : "/";
    int count = snprintf(path, CLI_PATH_BYTES, "%s%s%s", folder, slash, name);
    return count < CLI_PATH_BYTES - 8 || ad_fail(error, "%.200s...: the path is too long", path);
}

bool cli_folder_make(const char *path, ad_message *error) {
    char part[CLI_PATH_BYTES];
    struct stat found;
    if (strlen(path) >= sizeof part) return ad_fail(error, "%.200s...: the path is too long", path);
    strcpy(part, path);
    for (char *at = part + 1;; at++) {
        if (*at && *at != '/') continue;
        char kept = *at;
        *at = 0;
        const int why = mkdir(part, 0777) == 0 ? 0 : errno == EEXIST ? ENOTDIR : errno;
        if (why && (stat(part, &found) != 0 || !S_ISDIR(found.st_mode)))
            return ad_fail(error, "%s: the folder cannot be made: %s", part, strerror(why));
        *at = kept;
        if (!kept) return true;
    }
}

bool cli_run_name(char name[CLI_PATH_BYTES], const char *folder, ad_message *error) {
    char real[CLI_PATH_BYTES];
    if (!realpath(folder, real)) return ad_fail(error, "%s: %s", folder, strerror(errno));
    struct stat found; // of a transforms file, the folder it lies in
    char *slash = strrchr(real, '/');
    if (stat(real, &found) == 0 && S_ISREG(found.st_mode) && slash && slash != real) *slash = 0;
    slash = strrchr(real, '/');
    const char *last = slash && slash[1] ? slash + 1 : "scene";
    int count = snprintf(name, CLI_PATH_BYTES, "%s.adjoint", last);
    return count < CLI_PATH_BYTES || ad_fail(error, "%s: the name is too long", folder);
}

// Whether another process trains here: it holds a lock on the metrics.
static bool is_busy(const char *folder) {
    char name[CLI_PATH_BYTES];
    if (!cli_path(name, folder, "metrics.jsonl", NULL)) return false;
    int descriptor = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return false;
    bool busy = flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(descriptor);
    return busy;
}

bool cli_run_check(cli_run *run, const char *path, cli_run_mode mode, ad_message *error) {
    char name[CLI_PATH_BYTES];
    struct stat found;
    *run = (cli_run){0};
    if (!cli_path(name, path, "preview", error)) return false;
    strcpy(run->path, path);
    if (!cli_path(run->snapshot, path, own_files[0], error)) return false;
    bool exists = stat(path, &found) == 0, used = false;
    if (exists && !S_ISDIR(found.st_mode))
        return ad_fail(error, "%s: expected a folder for the run, found a file", path);
    if (is_busy(path)) return ad_fail(error, "%s: another process is working on this run", path);
    if (mode == CLI_RUN_RESUME) {
        if (stat(run->snapshot, &found) == 0) return true;
        return ad_fail(error, "%s: %s: there is nothing to resume; --force begins anew",
                       run->snapshot, strerror(errno));
    }
    for (int i = 0; i < OWN_FILES && !used; i++) {
        if (!cli_path(name, path, own_files[i], error)) return false;
        used = stat(name, &found) == 0;
    }
    if (used && mode == CLI_RUN_NEW && stat(run->snapshot, &found) != 0)
        return ad_fail(error, "%s: there are files of a run without a snapshot: --force removes "
                       "them and begins anew, --out names another folder", path);
    if (used && mode == CLI_RUN_NEW)
        return ad_fail(error, "%s: there is a run already: --resume goes on with it, --force "
                       "begins anew, --out names another folder", path);
    return true;
}

// Removes the pictures that the previews of a run are named like.
static void previews_remove(const char *folder) {
    char name[CLI_PATH_BYTES];
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, "step_", 5) != 0 || length < 9) continue;
        if (strcmp(entry->d_name + length - 4, ".png") != 0) continue;
        if (cli_path(name, folder, entry->d_name, NULL)) unlink(name);
    }
    if (directory) closedir(directory);
}

bool cli_run_begin(const cli_run *run, cli_run_mode mode, FILE **metrics, ad_message *error) {
    char name[CLI_PATH_BYTES];
    if (!cli_path(name, run->path, "preview", error) || !cli_folder_make(name, error)) return false;
    char file[CLI_PATH_BYTES];
    if (!cli_path(file, run->path, "metrics.jsonl", error)) return false;
    int descriptor = open(file, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (descriptor < 0)
        return ad_fail(error, "%s: cannot be written: %s", file, strerror(errno));
    // Another call may be looking just now (is_busy): that is over in a moment.
    int locked = -1;
    for (int i = 0; i < 5 && locked != 0; i++) {
        if (i > 0) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        locked = flock(descriptor, LOCK_EX | LOCK_NB);
        if (locked != 0 && errno != EWOULDBLOCK) locked = 0; // a file system without locks
    }
    if (locked != 0) {
        close(descriptor);
        return ad_fail(error, "%s: another process is working on this run", run->path);
    }
    if (mode == CLI_RUN_FORCE) {
        previews_remove(name);
        unlink(run->snapshot);
        if (cli_path(name, run->path, "report.html", error)) unlink(name);
        if (ftruncate(descriptor, 0) != 0)
            ad_fail(error, "%s: cannot be emptied: %s", file, strerror(errno));
    }
    // A killed run may have left half a line.
    char last = '\n';
    off_t size = lseek(descriptor, 0, SEEK_END);
    if (size > 0 && pread(descriptor, &last, 1, size - 1) == 1 && last != '\n'
        && write(descriptor, "\n", 1) != 1) {
        close(descriptor);
        return ad_fail(error, "%s: cannot be written: %s", file, strerror(errno));
    }
    *metrics = fdopen(descriptor, "a");
    if (*metrics) return true;
    close(descriptor);
    return ad_fail(error, "%s: %s", file, strerror(errno));
}

bool cli_run_find(cli_run *run, const char *path, ad_message *error) {
    struct stat found;
    *run = (cli_run){0};
    if (stat(path, &found) != 0) return ad_fail(error, "%s: %s", path, strerror(errno));
    if (strlen(path) >= CLI_PATH_BYTES) return ad_fail(error, "%.200s...: too long", path);
    if (S_ISDIR(found.st_mode)) {
        strcpy(run->path, path);
        if (!cli_path(run->snapshot, path, own_files[0], error)) return false;
        if (stat(run->snapshot, &found) == 0) return true;
        return ad_fail(error, "%s: expected a run, found a folder without %s", path, own_files[0]);
    }
    strcpy(run->snapshot, path);
    const char *slash = strrchr(path, '/');
    if (slash) memcpy(run->path, path, (size_t)(slash - path) + (slash == path));
    else strcpy(run->path, ".");
    return true;
}

/* ---- what a run remembers */

// The next line of the file that is a JSON object; false at the end. free(*line) then.
static bool next_line(FILE *file, char **line, size_t *capacity) {
    while (getline(line, capacity, file) > 0)
        if (render_json_is_object(*line)) return true;
    return false;
}

static bool is_event(const char *line, const char *event) {
    char found[16];
    return render_json_get_string(line, "event", found, sizeof found) && strcmp(found, event) == 0;
}

static double number_of(const char *line, const char *name) {
    double value;
    return render_json_get_number(line, name, &value) ? value : NAN;
}

bool cli_run_data(const cli_run *run, char folder[CLI_PATH_BYTES], ad_message *error) {
    char name[CLI_PATH_BYTES], found[CLI_PATH_BYTES], *line = NULL;
    size_t capacity = 0;
    *folder = 0;
    if (!cli_path(name, run->path, "metrics.jsonl", error)) return false;
    FILE *file = fopen(name, "r");
    while (file && next_line(file, &line, &capacity))
        if (is_event(line, "start") && render_json_get_string(line, "data", found, sizeof found))
            strcpy(folder, found);
    if (file) fclose(file);
    free(line);
    return *folder || ad_fail(error, "%s: it does not say where the run's images are", name);
}

bool cli_run_done(const cli_run *run, int64_t step, cli_measured *measured) {
    char name[CLI_PATH_BYTES], *line = NULL;
    size_t capacity = 0;
    double steps, views = 0, of = 0;
    bool found = false;
    *measured = (cli_measured){.psnr = NAN};
    FILE *file = cli_path(name, run->path, "metrics.jsonl", NULL) ? fopen(name, "r") : NULL;
    while (file && next_line(file, &line, &capacity)) {
        if (is_event(line, "eval")) {
            render_json_get_number(line, "images", &views);
            render_json_get_number(line, "split_images", &of);
        }
        if (!is_event(line, "done") || !render_json_get_number(line, "steps", &steps)) continue;
        found = steps == (double)step;
        *measured = (cli_measured){.psnr = found ? number_of(line, "psnr") : NAN, .views = views,
                                   .of = of};
    }
    if (file) fclose(file);
    free(line);
    return found;
}

bool cli_run_dataset_options(const cli_run *run, render_dataset_options *options,
                             ad_message *error) {
    ad_safetensors file = {0};
    if (!ad_safetensors_open(&file, run->snapshot, error)) return false;
    const char *downscale = ad_safetensors_value(&file, "downscale");
    const char *hold_out = ad_safetensors_value(&file, "hold_out");
    const char *tolerate = ad_safetensors_value(&file, "tolerate");
    *options = (render_dataset_options){0};
    if (downscale) options->downscale = atoi(downscale);
    if (hold_out) options->hold_out = atoi(hold_out);
    if (tolerate) options->tolerate = atof(tolerate);
    ad_safetensors_free(&file);
    return true;
}

static bool grow(double **values, size_t count) {
    if (count & (count - 1)) return true; // full at powers of two only
    double *more = realloc(*values, (count ? 2 * count : 1) * sizeof *more);
    if (more) *values = more;
    return more != NULL;
}

static void curve_add(cli_curves *c, const char *line) {
    double step = number_of(line, "step"), psnr = number_of(line, "psnr");
    if (!isfinite(step)) return;
    if (isfinite(psnr) && is_event(line, "preview")) {
        while (c->held_out_count && c->held_out_step[c->held_out_count - 1] >= step)
            c->held_out_count--;
        if (!grow(&c->held_out_step, c->held_out_count) || !grow(&c->held_out, c->held_out_count))
            return;
        c->held_out_step[c->held_out_count] = step, c->held_out[c->held_out_count++] = psnr;
    } else if (is_event(line, "train")) {
        while (c->count && c->step[c->count - 1] >= step) c->count--;
        if (!grow(&c->step, c->count) || !grow(&c->loss, c->count) || !grow(&c->psnr, c->count))
            return;
        c->step[c->count] = step, c->loss[c->count] = number_of(line, "loss");
        c->psnr[c->count++] = psnr;
    }
}

void cli_curves_read(const cli_run *run, cli_curves *curves) {
    char name[CLI_PATH_BYTES], *line = NULL;
    size_t capacity = 0;
    *curves = (cli_curves){0};
    FILE *file = cli_path(name, run->path, "metrics.jsonl", NULL) ? fopen(name, "r") : NULL;
    while (file && next_line(file, &line, &capacity)) curve_add(curves, line);
    if (file) fclose(file);
    free(line);
}

void cli_curves_free(cli_curves *c) {
    free(c->step), free(c->loss), free(c->psnr), free(c->held_out_step), free(c->held_out);
    *c = (cli_curves){0};
}
