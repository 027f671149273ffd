/* adjoint render: views of a run, as pictures of colour, depth, normals and opacity. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

typedef struct views { // what is rendered
    render_camera *cameras;
    char (*names)[256];
    int count;
    const char *folder;
    bool colour, depth, normal, opacity;
} views;

/* ---- which views */

enum { ORBIT_GAP = 95 }; // degrees of a circle without a camera that are worth a warning

static bool names_make(views *v, const char *prefix, ad_message *error) {
    v->names = calloc((size_t)v->count, sizeof *v->names);
    if (!v->names) return ad_fail(error, "out of memory for %d views", v->count);
    for (int i = 0; i < v->count; i++)
        snprintf(v->names[i], sizeof *v->names, "%s_%04d", prefix, i);
    return true;
}

// The cameras of a split; the images themselves are not decoded.
static bool views_of_split(views *v, const cli_options *options, const cli_opened *opened,
                           cli_output *out, ad_message *error) {
    char data[CLI_PATH_BYTES];
    render_dataset dataset = {0};
    render_dataset_options read = {0};
    const cli_value *value = &options->value[CLI_SPLIT];
    if (!cli_run_dataset_options(&opened->run, &read, error)
        || !cli_run_data(&opened->run, data, error))
        return false;
    read.cameras_only = true, read.threads = ad_threads(opened->ctx);
    if (value->given) read.splits = cli_split_find(value->text);
    if (!render_dataset_load(&dataset, data, &read, error)) return false;
    cli_dataset_warn(out, &dataset);
    render_split split = value->given ? cli_split_find(value->text) : dataset.held_out;
    if (!value->given && dataset.held_out_count == 0) {
        split = RENDER_TRAIN;
        cli_note(out, "no views were held out: those it was trained on are rendered");
    }
    bool good = cli_split_has(&dataset, split, error);
    v->cameras = calloc((size_t)dataset.count + 1, sizeof *v->cameras);
    v->names = calloc((size_t)dataset.count + 1, sizeof *v->names);
    if (good && (!v->cameras || !v->names)) good = ad_fail(error, "out of memory for the views");
    for (int i = 0; good && i < dataset.count; i++) {
        const render_frame *frame = &dataset.frames[i];
        if (frame->split != split) continue;
        cli_frame_name(v->names[v->count], frame);
        v->cameras[v->count++] = frame->camera;
    }
    render_dataset_free(&dataset);
    return good;
}

static bool views_find(views *v, const cli_options *options, const cli_opened *opened,
                       cli_output *out, ad_message *error) {
    const cli_value *value = options->value;
    if (value[CLI_ORBIT].given) {
        double gap;
        v->count = (int)value[CLI_ORBIT].integer;
        if (!cli_cameras_orbit(&v->cameras, v->count, opened->run.snapshot,
                               render_model_scene(opened->model), &gap, error))
            return false;
        if (gap > ORBIT_GAP)
            cli_warn(out, "no camera stood on a stretch of %.0f degrees of the circle: views from "
                     "there may show what was never photographed; --camera FILE flies where you "
                     "say", gap);
        return names_make(v, "orbit", error);
    }
    if (value[CLI_CAMERA].given) {
        int width = (int)value[CLI_SIZE].number[0], height = (int)value[CLI_SIZE].number[1];
        return render_cameras_load(&v->cameras, &v->count, value[CLI_CAMERA].text, width, height,
                                   error)
            && names_make(v, "camera", error);
    }
    return views_of_split(v, options, opened, out, error);
}

/* ---- one view */

static bool write_bytes(const views *v, const char *name, const char *ending, const uint8_t *bytes,
                        const render_camera *camera, int channels, ad_message *error) {
    char file[300], path[CLI_PATH_BYTES];
    snprintf(file, sizeof file, "%s%s", name, ending);
    return cli_path(path, v->folder, file, error)
        && render_png_write(path, bytes, camera->width, camera->height, channels, error);
}

static bool write_view(const views *v, int index, const render_view *view, uint8_t *bytes,
                       ad_message *error) {
    const render_camera *camera = &v->cameras[index];
    const char *name = v->names[index];
    char file[300], path[CLI_PATH_BYTES];
    size_t pixels = (size_t)camera->width * (size_t)camera->height;
    if (v->colour) {
        render_round_u8(bytes, view->colour, pixels * 3);
        if (!write_bytes(v, name, ".png", bytes, camera, 3, error)) return false;
    }
    if (v->depth) {
        snprintf(file, sizeof file, "%s.depth.npy", name);
        if (!cli_path(path, v->folder, file, error)
            || !render_npy_write(path, view->depth, camera->height, camera->width, 0, error))
            return false;
        render_colour_depth(bytes, view->depth, view->opacity, pixels, NULL);
        if (!write_bytes(v, name, ".depth.png", bytes, camera, 3, error)) return false;
    }
    if (v->normal) {
        render_colour_normal(bytes, view->normal, view->opacity, pixels);
        if (!write_bytes(v, name, ".normal.png", bytes, camera, 3, error)) return false;
    }
    if (v->opacity) {
        render_round_u8(bytes, view->opacity, pixels);
        if (!write_bytes(v, name, ".opacity.png", bytes, camera, 1, error)) return false;
    }
    return true;
}

static bool render_one(const views *v, int index, const cli_opened *opened, ad_message *error) {
    const render_camera *camera = &v->cameras[index];
    size_t pixels = (size_t)camera->width * (size_t)camera->height;
    float *values = malloc(pixels * 8 * sizeof *values);
    uint8_t *bytes = malloc(pixels * 3);
    bool good = (values && bytes) || ad_fail(error, "out of memory for a view of %d x %d",
                                             camera->width, camera->height);
    render_view view = {.colour = values};
    if (good) {
        view.opacity = values + 3 * pixels;
        if (v->depth) view.depth = values + 4 * pixels;
        if (v->normal) view.normal = values + 5 * pixels;
    }
    good = good
        && render_model_view(opened->model, camera, render_model_scene(opened->model)->background,
                             &view, error)
        && write_view(v, index, &view, bytes, error);
    free(values), free(bytes);
    return good;
}

/* ---- the command */

// A camera of a file or a split fills the size, stretched if need be, so that pixel stays beside
// pixel; one of an orbit has no picture to go with: all it saw stays in sight, pixels square.
static void resize(views *v, const cli_value *size, bool square) {
    for (int i = 0; i < v->count && size->given; i++) {
        render_camera *camera = &v->cameras[i];
        double x = size->number[0] / camera->width, y = size->number[1] / camera->height;
        double least = x < y ? x : y;
        if (square) x = y = least;
        render_camera_scale(camera, x, y);
        camera->cx += (size->number[0] - x * camera->width) / 2;
        camera->cy += (size->number[1] - y * camera->height) / 2;
        camera->width = (int)size->number[0], camera->height = (int)size->number[1];
    }
}

static bool render_all(const cli_options *options, cli_output *out, const cli_opened *opened,
                       ad_message *error) {
    char folder[CLI_PATH_BYTES];
    const cli_value *value = options->value;
    const char *what = value[CLI_WHAT].given ? value[CLI_WHAT].text : "color";
    views v = {.folder = folder, .colour = strstr(what, "color"), .depth = strstr(what, "depth"),
               .normal = strstr(what, "normal"), .opacity = strstr(what, "opacity")};
    bool good = true;
    double start = cli_clock();
    if (value[CLI_OUT].given) snprintf(folder, sizeof folder, "%s", value[CLI_OUT].text);
    else good = cli_path(folder, opened->run.path, "render", error);
    good = good && views_find(&v, options, opened, out, error) && cli_folder_make(folder, error);
    if (good) resize(&v, &value[CLI_SIZE], value[CLI_ORBIT].given);
    char count[48];
    if (good && v.count)
        cli_note(out, "rendering %s of %d x %d into %s", cli_views_text(count, v.count, v.count),
                 v.cameras[0].width, v.cameras[0].height, folder);
    cli_progress_begin(&out->progress, stderr, out->quiet);
    for (int i = 0; good && i < v.count; i++) {
        good = render_one(&v, i, opened, error);
        if (good && i + 1 < v.count && cli_interrupted())
            good = ad_fail(error, "%s: interrupted after %d of %d views", folder, i + 1, v.count);
        cli_progress_state state = {.share = (i + 1.0) / v.count, .step = -1, .loss = NAN,
                                    .psnr = NAN, .seconds = cli_clock() - start};
        cli_progress_update(&out->progress, &state);
    }
    cli_progress_end(&out->progress, NULL);
    if (good) {
        double seconds = cli_clock() - start;
        cli_event_begin(out, "done");
        render_json_integer(&out->line, "images", v.count);
        render_json_number(&out->line, "seconds", seconds);
        render_json_integer(&out->line, "peak_rss_bytes", cli_peak_bytes());
        render_json_string(&out->line, "snapshot", opened->run.snapshot);
        render_json_string(&out->line, "out", folder);
        good = cli_event_send(out, error);
        cli_result(out, "%s in %s, %.2f s a view", cli_views_text(count, v.count, v.count), folder,
                   seconds / (v.count ? v.count : 1));
    }
    free(v.cameras), free(v.names);
    return good;
}

int cli_render(const cli_options *options) {
    ad_message error = {{0}};
    cli_output out;
    cli_opened opened = {0};
    cli_output_begin(&out, options);
    bool good = cli_run_open(&opened, options, options->place, &error)
             && render_all(options, &out, &opened, &error);
    int status = good ? 0 : cli_failed(&out, &error);
    cli_output_end(&out);
    cli_run_close(&opened);
    return status;
}
