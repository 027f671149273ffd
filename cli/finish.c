/* The end of a call: the held-out views are measured (measure.c), the report is written, and the
 * last line says what came of it. An interrupted run is not measured; it is told how to go on. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "autodiff/text.h"
#include "cli/training.h"

enum { ROWS = 16 };

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
    const bool hash = strcmp(s->field, "hash") == 0;
    if (hash)
        add_row(rows, "grid", "%d levels x %d features, 2^%d entries, %g to %g", s->grid.levels,
                s->grid.features, s->grid.log2_entries, s->grid.n_min, s->grid.n_max);
    add_row(rows, "step", "%lld samples, at most %lld rays", (long long)s->batch,
            (long long)s->rays);
    add_row(rows, "learning rate", "%g to %g", s->learning_rate, s->learning_rate_end);
    if (hash) add_row(rows, "from 0.6 of the schedule on", "twice the samples, rays and rate");
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

static bool report(cli_training *t, ad_message *error) {
    char path[CLI_PATH_BYTES], protocol[256] = "", summary[256], name[256];
    char colour[48], views_text[48];
    table *tables = calloc(4, sizeof *tables);
    ad_text command = {0};
    cli_curves curves = {0};
    render_report_view views[CLI_KEPT] = {{0}};
    if (!tables) return ad_fail(error, "out of memory for the report");
    table *settings = tables, *machine = tables + 1, *timings = tables + 2, *figures = tables + 3;
    if (cli_training_over(t)) cli_training_make_command(t, &command);
    else cli_training_command(t, &command);
    cli_curves_read(&t->run, &curves);
    add_settings(t, settings), add_timings(t, timings);
    processor_name(name, sizeof name);
    add_row(machine, "processor", "%s", name);
    add_row(machine, "device", "%s", ad_device_name(t->ctx));
    add_row(machine, "built with", "%s", ad_build_text());
    if (t->score.images) {
        add_row(figures, "PSNR", "%.2f dB", t->score.psnr);
        if (isfinite(t->score.ssim)) add_row(figures, "SSIM", "%.4f", t->score.ssim);
        snprintf(protocol, sizeof protocol, "%s split, %s of %d x %d over %s, 8-bit, mean of "
                 "the views", cli_split_name(t->dataset.held_out),
                 cli_views_text(views_text, t->score.images, t->dataset.held_out_count),
                 t->score.width, t->score.height, cli_colour_text(colour, t->scene.background));
    }
    add_row(figures, "steps", "%" PRId64, t->step);
    add_row(figures, "trained", "%.0f s", t->seconds);
    snprintf(summary, sizeof summary, "%" PRId64 " steps in %.0f s%s", t->step, t->seconds,
             t->interrupted ? "; interrupted, not measured"
             : t->score.images ? "" : "; not measured");
    for (int i = 0; i < t->kept_count; i++) {
        const cli_kept_view *kept = &t->kept[i];
        size_t bytes = (size_t)kept->camera.width * (size_t)kept->camera.height * 3;
        views[i] = (render_report_view){
            .name = kept->name, .width = kept->camera.width, .height = kept->camera.height,
            .target = kept->pixels,
            .result = kept->pixels + bytes, .depth = kept->drawn ? kept->pixels + 2 * bytes : NULL,
            .normal = kept->drawn ? kept->pixels + 3 * bytes : NULL,
            .psnr = kept->psnr, .ssim = kept->ssim};
    }
    render_report page = {
        .title = t->run.path, .summary = summary, .protocol = protocol,
        .highlights = figures->rows, .highlight_count = figures->count,
        .loss = {curves.step, curves.loss, curves.count},
        .psnr = {curves.step, curves.psnr, curves.count},
        .psnr_held_out = {curves.held_out_step, curves.held_out, curves.held_out_count},
        .views = views, .view_count = (size_t)t->kept_count, .settings = settings->rows,
        .machine = machine->rows, .timings = timings->rows, .setting_count = settings->count,
        .machine_count = machine->count, .timing_count = timings->count,
        .command = command.bytes};
    if (t->kept_count) {
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
    render_json_boolean(line, "finished", cli_training_over(t));
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
    char colour[48], views[48], ssim[32];
    ad_text command = {0};
    if (t->score.images)
        cli_result(&t->out, "PSNR %.2f dB, SSIM %s on %s (%s, %d x %d, over %s)", t->score.psnr,
                   cli_ssim_text(ssim, t->score.ssim), cli_split_name(t->dataset.held_out),
                   cli_views_text(views, t->score.images, t->dataset.held_out_count),
                   t->score.width, t->score.height, cli_colour_text(colour, t->scene.background));
    cli_note(&t->out, "report      %s/report.html", t->run.path);
    if (t->measuring_interrupted) {
        cli_training_eval_command(t, &command);
        cli_note(&t->out, "interrupted while measuring; to measure: %s",
                 command.bytes ? command.bytes : "");
        ad_text_free(&command);
    }
    if (cli_training_over(t)) return;
    cli_training_command(t, &command);
    cli_note(&t->out, "%s at step %" PRId64 "; to go on: %s",
             t->interrupted ? "interrupted" : "stopped", t->step,
             command.bytes ? command.bytes : "");
    ad_text_free(&command);
}

bool cli_training_finish(cli_training *t, ad_message *error) {
    bool good = cli_training_measure(t, error) && cli_training_draw(t, error) && report(t, error)
             && send_done(t, error);
    if (good) say_end(t);
    cli_training_forget(t);
    return good;
}

/* ---- a run that is at its end already */

bool cli_training_over(const cli_training *t) {
    const render_settings *s = &t->settings;
    return s->steps ? t->step >= s->steps : t->seconds >= s->seconds;
}

bool cli_training_settled(const cli_training *t) {
    cli_measured measured;
    return t->mode == CLI_RUN_RESUME && cli_training_over(t)
        && cli_run_done(&t->run, t->step, &measured)
        && (isfinite(measured.psnr) || t->limit == 0 || t->dataset.held_out_count < 1);
}

bool cli_training_say_settled(cli_training *t, ad_message *error) {
    const render_settings *s = &t->settings;
    ad_text command = {0};
    cli_measured measured;
    cli_run_done(&t->run, t->step, &measured);
    cli_training_make_command(t, &command);
    if (s->steps)
        cli_note(&t->out, "finished: %" PRId64 " of %" PRId64 " steps, nothing is left to train",
                 t->step, s->steps);
    else if (t->options->value[CLI_TIME].given && t->seconds > s->seconds + 1)
        cli_note(&t->out, "finished: it has trained %.0f s already, %" PRId64 " steps, and --time "
                 "asks for %.0f s; a --time beyond that goes on", t->seconds, t->step, s->seconds);
    else
        cli_note(&t->out, "finished: %.0f of %.0f s, %" PRId64 " steps; a longer --time goes on",
                 t->seconds, s->seconds, t->step);
    cli_note(&t->out, "anew        %s --force", command.bytes ? command.bytes : "");
    ad_text_free(&command);
    t->score.psnr = measured.psnr, t->score.images = isfinite(measured.psnr);
    return send_done(t, error);
}
