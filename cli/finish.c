/* After training: the held-out views are measured, the report is written, and the last line says
 * what came of it. An interrupted run is not measured; it is told how to go on. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/text.h"
#include "cli/training.h"

enum { VIEWS = 4, ROWS = 16, PIXELS = 300000 }; // PIXELS: of a picture in the report, at most

/* ---- the command that goes on */

static void add_word(ad_text *text, const char *word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./:,=+@%";
    if (*word && strspn(word, plain) == strlen(word)) {
        ad_text_string(text, word);
        return;
    }
    ad_text_string(text, "'");
    for (const char *c = word; *c; c++)
        if (*c == '\'') ad_text_string(text, "'\\''");
        else ad_text_add(text, c, 1);
    ad_text_string(text, "'");
}

void cli_training_command(const cli_training *t, ad_text *command) {
    ad_text_string(command, "adjoint reconstruct ");
    add_word(command, t->options->place);
    ad_text_string(command, " --out ");
    add_word(command, t->run.path);
    ad_text_string(command, " --resume");
}

/* ---- measuring */

typedef struct kept_view { // a picture for the report, smaller by a whole factor if need be
    const char *name;
    render_camera camera;
    uint8_t *pixels;       // target, result, depth, normal: (4, height, width, 3)
    double psnr, ssim;
} kept_view;

typedef struct measuring {
    cli_training *training;
    kept_view views[VIEWS];
    int view_count, seen;
} measuring;

// Means over factor x factor blocks; width and height are those of the small picture.
static void shrink(uint8_t *small, const uint8_t *rgb, int width, int height, int factor,
                   int full_width) {
    for (int y = 0; y < height; y++)
        for (int i = 0; i < 3 * width; i++) {
            unsigned sum = 0, area = (unsigned)(factor * factor);
            for (int block = 0; block < factor * factor; block++) {
                size_t row = (size_t)(y * factor + block / factor);
                size_t column = (size_t)(i / 3 * factor + block % factor);
                sum += rgb[3 * (row * (size_t)full_width + column) + (size_t)(i % 3)];
            }
            small[(size_t)y * 3 * (size_t)width + (size_t)i] = (uint8_t)((sum + area / 2) / area);
        }
}

static bool keep_view(kept_view *view, const render_frame *frame, const uint8_t *result,
                      const uint8_t *target, double psnr, double ssim) {
    int full = frame->image.width, factor = 1;
    while (full / factor * (frame->image.height / factor) > PIXELS) factor++;
    int width = full / factor, height = frame->image.height / factor;
    size_t bytes = (size_t)width * (size_t)height * 3;
    *view = (kept_view){frame->name, frame->camera, malloc(4 * bytes), psnr, ssim};
    if (!view->pixels) return false;
    render_camera_scale(&view->camera, 1.0 / factor, 1.0 / factor);
    view->camera.width = width, view->camera.height = height;
    shrink(view->pixels, target, width, height, factor, full);
    shrink(view->pixels + bytes, result, width, height, factor, full);
    return true;
}

static bool keep(void *user, const render_frame *frame, const uint8_t *result,
                 const uint8_t *target, double psnr, double ssim) {
    measuring *m = user;
    cli_training *t = m->training;
    int count = t->dataset.held_out_count, wanted = count < VIEWS ? count : VIEWS;
    // Views from all over the split.
    if (m->view_count < wanted && m->seen >= m->view_count * count / wanted)
        m->view_count += keep_view(&m->views[m->view_count], frame, result, target, psnr, ssim);
    m->seen++;
    cli_progress_state state = {.share = (double)m->seen / count, .step = -1, .loss = NAN,
                                .psnr = psnr, .seconds = cli_clock() - t->started};
    cli_progress_update(&t->out.progress, &state);
    return !cli_interrupted();
}

static bool measure(cli_training *t, measuring *m, ad_message *error) {
    char colour[48];
    const render_dataset *d = &t->dataset;
    render_json *line = &t->out.line;
    double start = cli_clock();
    if (d->held_out_count < 1 || t->interrupted) return true;
    cli_note(&t->out, "measuring %d held-out views", d->held_out_count);
    cli_progress_begin(&t->out.progress, stderr, t->out.quiet);
    bool good = render_evaluate(t->model, d, d->held_out, 0, t->scene.background, keep, m,
                                &t->score, error);
    cli_progress_end(&t->out.progress, NULL);
    t->eval_seconds = cli_clock() - start;
    if (!good) return false;
    if (t->score.images < d->held_out_count) { // interrupted: a part is no figure of the split
        t->interrupted = true;
        t->score.images = 0;
        return true;
    }
    cli_event_begin(&t->out, "eval");
    render_json_string(line, "split", cli_split_name(d->held_out));
    render_json_integer(line, "images", t->score.images);
    render_json_integer(line, "width", t->score.width);
    render_json_integer(line, "height", t->score.height);
    render_json_string(line, "background", cli_colour_text(colour, t->scene.background));
    render_json_number(line, "psnr", t->score.psnr);
    render_json_number(line, "ssim", t->score.ssim);
    render_json_number(line, "seconds", t->score.seconds);
    return cli_event_send(&t->out, error);
}

// Depth and normals of the kept views, coloured.
static bool draw_geometry(cli_training *t, measuring *m, ad_message *error) {
    bool good = true;
    for (int i = 0; i < m->view_count && good; i++) {
        kept_view *kept = &m->views[i];
        size_t pixels = (size_t)kept->camera.width * (size_t)kept->camera.height;
        float *values = malloc(pixels * 5 * sizeof *values);
        if (!values) return ad_fail(error, "out of memory for the report's pictures");
        render_view view = {.depth = values, .opacity = values + pixels,
                            .normal = values + 2 * pixels};
        good = render_model_view(t->model, &kept->camera, t->scene.background, &view, error);
        if (good) {
            render_colour_depth(kept->pixels + 6 * pixels, view.depth, view.opacity, pixels, NULL);
            render_colour_normal(kept->pixels + 9 * pixels, view.normal, view.opacity, pixels);
        }
        free(values);
    }
    return good;
}

/* ---- the report */

typedef struct table { // rows of name and value, with the memory of the values
    render_row rows[ROWS];
    char values[ROWS][256];
    size_t count;
} table;

__attribute__((format(printf, 3, 4)))
static void add_row(table *rows, const char *name, const char *format, ...) {
    va_list arguments;
    if (rows->count >= ROWS) return;
    va_start(arguments, format);
    vsnprintf(rows->values[rows->count], sizeof rows->values[0], format, arguments);
    va_end(arguments);
    rows->rows[rows->count] = (render_row){name, rows->values[rows->count]};
    rows->count++;
}

static void processor_name(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, size, "%s", colon + 2);
        break;
    }
    if (file) fclose(file);
}

static void add_settings(const cli_training *t, table *rows) {
    const render_settings *s = &t->settings;
    const render_scene *scene = &t->scene;
    char colour[48];
    add_row(rows, "images", "%s", t->data);
    add_row(rows, "splits", "%d train, %d val, %d test: %s", t->dataset.train_count,
            t->dataset.val_count, t->dataset.test_count, t->dataset.split_rule);
    add_row(rows, "field", "%s, %lld parameters", s->field,
            (long long)render_model_parameters(t->model));
    add_row(rows, "preset", "%s, %s", s->preset, s->bf16 ? "bf16" : "f32");
    if (strcmp(s->field, "hash") == 0)
        add_row(rows, "grid", "%d levels x %d features, 2^%d entries, %g to %g", s->grid.levels,
                s->grid.features, s->grid.log2_entries, s->grid.n_min, s->grid.n_max);
    add_row(rows, "step", "%lld samples, at most %lld rays", (long long)s->batch,
            (long long)s->rays);
    add_row(rows, "learning rate", "%g to %g", s->learning_rate, s->learning_rate_end);
    if (s->steps) add_row(rows, "schedule", "%lld steps", (long long)s->steps);
    else add_row(rows, "schedule", "%g s", s->seconds);
    add_row(rows, "box", "%.4g,%.4g,%.4g,%.4g,%.4g,%.4g: %s", scene->box_min[0],
            scene->box_min[1], scene->box_min[2], scene->box_max[0], scene->box_max[1],
            scene->box_max[2], scene->box_reason);
    add_row(rows, "near", "%.4g: %s", scene->near_distance, scene->near_reason);
    add_row(rows, "background", "%s: %s", cli_colour_text(colour, scene->background),
            scene->background_reason);
    add_row(rows, "seed", "%llu", (unsigned long long)t->seed);
}

static void add_timings(const cli_training *t, table *rows) {
    double trained = t->seconds - t->seconds_before;
    add_row(rows, "images read", "%.2f s", t->load_seconds);
    add_row(rows, "trained", "%.1f s in all, %.1f s in this call", t->seconds, trained);
    if (t->first_preview_seconds > 0)
        add_row(rows, "first picture", "%.1f s after the command", t->first_preview_seconds);
    add_row(rows, "previews and snapshots", "%.2f s and %.2f s, %.2f %% of the training",
            t->preview_seconds, t->snapshot_seconds,
            100 * (t->preview_seconds + t->snapshot_seconds) / (trained > 0 ? trained : 1));
    if (t->score.images)
        add_row(rows, "measured", "%.1f s, %.2f s a view", t->eval_seconds,
                t->score.seconds / t->score.images);
    add_row(rows, "most memory", "%.0f MB", (double)cli_peak_bytes() / 1e6);
}

static bool report(cli_training *t, measuring *m, ad_message *error) {
    char path[CLI_PATH_BYTES], protocol[256] = "", summary[256], name[256], colour[48];
    table *tables = calloc(4, sizeof *tables);
    ad_text command = {0};
    cli_curves curves = {0};
    render_report_view views[VIEWS] = {{0}};
    if (!tables) return ad_fail(error, "out of memory for the report");
    table *settings = tables, *machine = tables + 1, *timings = tables + 2, *figures = tables + 3;
    cli_training_command(t, &command);
    cli_curves_read(&t->run, &curves);
    add_settings(t, settings), add_timings(t, timings);
    processor_name(name, sizeof name);
    add_row(machine, "processor", "%s", name);
    add_row(machine, "device", "%s", ad_device_name(t->ctx));
    add_row(machine, "built with", "%s", ad_build_text());
    if (t->score.images) {
        add_row(figures, "PSNR", "%.2f dB", t->score.psnr);
        add_row(figures, "SSIM", "%.4f", t->score.ssim);
        snprintf(protocol, sizeof protocol, "%s split, %d views of %d x %d over %s, 8-bit, mean of "
                 "the views", cli_split_name(t->dataset.held_out), t->score.images,
                 t->score.width, t->score.height, cli_colour_text(colour, t->scene.background));
    }
    add_row(figures, "steps", "%" PRId64, t->step);
    add_row(figures, "trained", "%.0f s", t->seconds);
    snprintf(summary, sizeof summary, "%" PRId64 " steps in %.0f s%s", t->step, t->seconds,
             t->interrupted ? "; interrupted, not measured" : "");
    for (int i = 0; i < m->view_count; i++) {
        const kept_view *kept = &m->views[i];
        size_t bytes = (size_t)kept->camera.width * (size_t)kept->camera.height * 3;
        views[i] = (render_report_view){
            .name = kept->name, .width = kept->camera.width, .height = kept->camera.height,
            .target = kept->pixels,
            .result = kept->pixels + bytes, .depth = kept->pixels + 2 * bytes,
            .normal = kept->pixels + 3 * bytes, .psnr = kept->psnr, .ssim = kept->ssim};
    }
    render_report page = {
        .title = t->run.path, .summary = summary, .protocol = protocol,
        .highlights = figures->rows, .highlight_count = figures->count,
        .loss = {curves.step, curves.loss, curves.count},
        .psnr = {curves.step, curves.psnr, curves.count},
        .psnr_held_out = {curves.held_out_step, curves.held_out, curves.held_out_count},
        .views = views, .view_count = (size_t)m->view_count, .settings = settings->rows,
        .machine = machine->rows, .timings = timings->rows, .setting_count = settings->count,
        .machine_count = machine->count, .timing_count = timings->count,
        .command = command.bytes};
    if (m->view_count) {
        page.picture_name = views[0].name, page.picture = views[0].result;
        page.picture_width = views[0].width, page.picture_height = views[0].height;
    }
    bool good = cli_path(path, t->run.path, "report.html", error)
             && render_report_write(&page, path, error);
    cli_curves_free(&curves);
    ad_text_free(&command);
    free(tables);
    return good;
}

/* ---- the end */

static bool send_done(cli_training *t, ad_message *error) {
    render_json *line = &t->out.line;
    cli_event_begin(&t->out, "done");
    render_json_integer(line, "steps", t->step);
    render_json_number(line, "seconds", t->seconds);
    render_json_integer(line, "samples", (int64_t)t->progress.samples);
    render_json_number(line, "psnr", t->score.images ? t->score.psnr : NAN);
    render_json_integer(line, "peak_rss_bytes", cli_peak_bytes());
    render_json_number(line, "load_seconds", t->load_seconds);
    render_json_number(line, "first_preview_seconds",
                       t->first_preview_seconds > 0 ? t->first_preview_seconds : NAN);
    render_json_number(line, "preview_seconds", t->preview_seconds);
    render_json_number(line, "snapshot_seconds", t->snapshot_seconds);
    render_json_string(line, "snapshot", t->run.snapshot);
    return cli_event_send(&t->out, error);
}

static void say_end(cli_training *t) {
    char colour[48];
    ad_text command = {0};
    if (t->score.images)
        cli_result(&t->out, "PSNR %.2f dB, SSIM %.4f on %s (%d views, %d x %d, over %s)",
                   t->score.psnr, t->score.ssim, cli_split_name(t->dataset.held_out),
                   t->score.images, t->score.width, t->score.height,
                   cli_colour_text(colour, t->scene.background));
    const render_settings *s = &t->settings;
    bool finished = s->steps ? t->step >= s->steps : t->seconds >= s->seconds;
    cli_note(&t->out, "report      %s/report.html", t->run.path);
    if (finished) return;
    cli_training_command(t, &command);
    cli_note(&t->out, "%s at step %" PRId64 "; to go on: %s",
             t->interrupted ? "interrupted" : "stopped", t->step,
             command.bytes ? command.bytes : "");
    ad_text_free(&command);
}

bool cli_training_finish(cli_training *t, ad_message *error) {
    measuring m = {.training = t};
    bool good = measure(t, &m, error) && draw_geometry(t, &m, error) && report(t, &m, error)
             && send_done(t, error);
    if (good) say_end(t);
    for (int i = 0; i < m.view_count; i++) free(m.views[i].pixels);
    return good;
}
