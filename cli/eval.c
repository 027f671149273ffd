/* adjoint eval: how good a run is on a split of its images, by the protocol of render/evaluate.c.
 * Split, size and background are said with every figure, since each of them moves it. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"

typedef struct evaluating {
    cli_output *out;
    const char *folder; // NULL: no pictures
    int count, seen;
    double start;
    bool failed;
    ad_message *error;
} evaluating;

static bool write_pictures(const evaluating *e, const render_frame *frame, const uint8_t *result,
                           const uint8_t *target) {
    char name[256], file[300], path[CLI_PATH_BYTES];
    int width = frame->image.width, height = frame->image.height;
    size_t pixels = (size_t)width * (size_t)height;
    cli_frame_name(name, frame);
    snprintf(file, sizeof file, "%s.png", name);
    if (!cli_path(path, e->folder, file, e->error)
        || !render_png_write(path, result, width, height, 3, e->error))
        return false;
    uint8_t *heat = malloc(pixels * 3);
    if (!heat) return ad_fail(e->error, "out of memory for an error map");
    render_colour_error(heat, result, target, pixels, 3, 0);
    snprintf(file, sizeof file, "%s.error.png", name);
    bool good = cli_path(path, e->folder, file, e->error)
             && render_png_write(path, heat, width, height, 3, e->error);
    free(heat);
    return good;
}

static bool each(void *user, const render_frame *frame, const uint8_t *result,
                 const uint8_t *target, double psnr, double ssim) {
    evaluating *e = user;
    (void)ssim;
    e->seen++;
    if (e->folder && !write_pictures(e, frame, result, target)) return e->failed = true, false;
    cli_progress_state state = {.share = (double)e->seen / e->count, .step = -1, .loss = NAN,
                                .psnr = psnr, .seconds = cli_clock() - e->start};
    cli_progress_update(&e->out->progress, &state);
    return !cli_interrupted();
}

static bool load(const cli_options *options, const cli_opened *opened, render_dataset *dataset,
                 render_split *split, ad_message *error) {
    char data[CLI_PATH_BYTES];
    const cli_value *v = options->value;
    render_dataset_options read = {0};
    if (!cli_run_dataset_options(&opened->run, &read, error)) return false;
    if (v[CLI_DATA].given) snprintf(data, sizeof data, "%s", v[CLI_DATA].text);
    else if (!cli_run_data(&opened->run, data, error)) {
        if (error && strlen(error->text) < sizeof error->text - 32)
            strcat(error->text, "; --data FOLDER says it");
        return false;
    }
    read.threads = ad_threads(opened->ctx);
    if (v[CLI_SPLIT].given) read.splits = cli_split_find(v[CLI_SPLIT].text);
    if (!render_dataset_load(dataset, data, &read, error)) {
        if (!v[CLI_DATA].given && access(data, F_OK) != 0 && errno == ENOENT)
            ad_fail(error, "%s: the images that the run was made from are not there any more; "
                    "--data FOLDER says where they are", data);
        return false;
    }
    *split = v[CLI_SPLIT].given ? cli_split_find(v[CLI_SPLIT].text) : dataset->held_out;
    return cli_split_has(dataset, *split, error);
}

static bool send_score(cli_output *out, render_split split, const render_score *score,
                       int of, const float background[3], ad_message *error) {
    char colour[48], views[48], ssim[32];
    cli_colour_text(colour, background);
    cli_event_begin(out, "eval");
    render_json_string(&out->line, "split", cli_split_name(split));
    render_json_integer(&out->line, "images", score->images);
    render_json_integer(&out->line, "split_images", of);
    render_json_integer(&out->line, "width", score->width);
    render_json_integer(&out->line, "height", score->height);
    render_json_string(&out->line, "background", colour);
    render_json_number(&out->line, "psnr", score->psnr);
    render_json_number(&out->line, "ssim", score->ssim);
    render_json_number(&out->line, "seconds", score->seconds);
    cli_result(out, "PSNR %.2f dB, SSIM %s on %s (%s, %d x %d, over %s), %.1f s", score->psnr,
               cli_ssim_text(ssim, score->ssim), cli_split_name(split),
               cli_views_text(views, score->images, of), score->width, score->height, colour,
               score->seconds);
    return cli_event_send(out, error);
}

static bool evaluate(const cli_options *options, cli_output *out, const cli_opened *opened,
                     const render_dataset *dataset, render_split split, ad_message *error) {
    const cli_value *v = options->value;
    const render_scene *scene = render_model_scene(opened->model);
    render_score score;
    int limit = (int)v[CLI_LIMIT].integer;
    evaluating e = {.out = out, .folder = v[CLI_OUT].text, .start = cli_clock(), .error = error};
    for (int i = 0; i < dataset->count; i++) e.count += dataset->frames[i].split == split;
    int of = e.count;
    if (limit && limit < e.count) e.count = limit;
    if (e.folder && !cli_folder_make(e.folder, error)) return false;
    cli_progress_begin(&out->progress, stderr, out->quiet);
    bool good = render_evaluate(opened->model, dataset, split, limit, scene->background, each, &e,
                                &score, error);
    cli_progress_end(&out->progress, NULL);
    if (!good || e.failed) return false;
    if (score.images < e.count)
        return ad_fail(error, "interrupted after %d of %d views", score.images, e.count);
    if (!send_score(out, split, &score, of, scene->background, error)) return false;
    if (e.folder) cli_note(out, "pictures    %s", e.folder);
    return true;
}

int cli_eval(const cli_options *options) {
    ad_message error = {{0}};
    cli_output out;
    cli_opened opened = {0};
    render_dataset dataset = {0};
    render_split split;
    cli_output_begin(&out, options);
    bool good = cli_run_open(&opened, options, options->place, &error)
             && load(options, &opened, &dataset, &split, &error);
    if (good) cli_dataset_warn(&out, &dataset);
    good = good && evaluate(options, &out, &opened, &dataset, split, &error);
    int status = good ? 0 : cli_failed(&out, &error);
    cli_output_end(&out);
    render_dataset_free(&dataset);
    cli_run_close(&opened);
    return status;
}
