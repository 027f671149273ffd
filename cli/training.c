/* Training by the clock or by steps, with a line, a picture and a snapshot from time to time.
 *
 * Pictures and snapshots take their time from training: about one per cent of it. So pictures
 * shrink with what they cost, and only where even the smallest would cost twice their share do they
 * come more rarely, until the field has cleared (preview.c). None of it changes what is
 * trained: with --steps, nothing here that looks at the clock enters the model. */
#include "cli/training.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double SNAPSHOT_SECONDS = 28;      // at least every 30 s
static const double PREVIEW_FIRST_SECONDS = 3;
static const double PREVIEW_EMPTY_SECONDS = 10; // before, a picture waits for space to be empty

/* ---- snapshots */

bool cli_training_snapshot(cli_training *t, ad_message *error) {
    char downscale[16], hold_out[16], tolerate[32], seconds[32], horizon[32];
    double start = cli_clock();
    snprintf(downscale, sizeof downscale, "%d", t->read.downscale);
    snprintf(hold_out, sizeof hold_out, "%d", t->read.hold_out);
    snprintf(tolerate, sizeof tolerate, "%.17g", t->read.tolerate);
    snprintf(seconds, sizeof seconds, "%.3f", t->seconds);
    snprintf(horizon, sizeof horizon, "%.17g", t->settings.seconds);
    const render_text extra[] = {{"downscale", downscale}, {"hold_out", hold_out},
                                 {"tolerate", tolerate}, {"seconds", seconds},
                                 {"horizon", horizon}};
    // Where steps are the horizon the clock stays out of the file: equal runs, equal bytes.
    int count = t->settings.steps > 0 ? 3 : 5;
    bool good = render_snapshot_write(t->model, t->trainer, t->run.snapshot, extra, count, error);
    t->snapshot_seconds += cli_clock() - start;
    return good;
}

/* ---- lines */

typedef struct pace { // when what comes next
    double line, snapshot;
    double line_seconds; // of the last line
    int64_t line_step;
    uint64_t line_samples;
    uint64_t line_rays;
    double samples_per_second, step_start, step_seconds;
} pace;

static bool send_line(cli_training *t, pace *p, ad_message *error) {
    render_json *line = &t->out.line;
    const render_progress *now = &t->progress;
    render_trainer_read(t->trainer, &t->progress);
    double passed = t->seconds - p->line_seconds;
    if (passed > 0) {
        p->samples_per_second = (double)(now->samples - p->line_samples) / passed;
        t->rays_per_second = (double)(now->rays - p->line_rays) / passed;
    }
    p->line_seconds = t->seconds, p->line_step = now->step;
    p->line_samples = now->samples, p->line_rays = now->rays;
    if (!isfinite(now->loss))
        return ad_fail(error, "the loss is not a number any more at step %" PRId64 "; the snapshot "
                       "before it is kept; --precision f32 or another --seed may help",
                       now->step);
    cli_event_begin(&t->out, "train");
    render_json_integer(line, "step", now->step);
    render_json_number(line, "seconds", t->seconds);
    render_json_number(line, "loss", now->loss);
    render_json_number(line, "psnr", now->psnr);
    render_json_integer(line, "samples", (int64_t)now->samples);
    render_json_integer(line, "rays", (int64_t)now->rays);
    render_json_number(line, "samples_per_second", p->samples_per_second);
    render_json_number(line, "occupied", now->occupied);
    render_json_number(line, "learning_rate", now->learning_rate);
    return cli_event_send(&t->out, error);
}

// The share of the schedule that is over.
static double share_of(const cli_training *t, int64_t step) {
    const render_settings *s = &t->settings;
    double share = s->steps > 0 ? (double)step / (double)s->steps : t->seconds / s->seconds;
    return share < 1 ? share : 1;
}

static bool preview_due(const cli_training *t, double now) {
    if (t->preview_interval <= 0) return false;
    if (t->preview_at <= 0) { // the first one
        double wait = fmin(t->preview_interval, PREVIEW_FIRST_SECONDS), passed = now - t->started;
        bool emptied = t->progress.occupied < 0.95 || passed > PREVIEW_EMPTY_SECONDS;
        return passed >= wait && emptied;
    }
    double least = fmin(CLI_PREVIEW_PIXELS, t->preview_pixels) * cli_training_pixel_cost(t);
    return now - t->preview_at >= fmax(t->preview_interval, least / (2 * CLI_PREVIEW_SHARE));
}

static bool between_steps(cli_training *t, pace *p, int64_t step, ad_message *error) {
    double now = cli_clock();
    p->step_seconds = now - p->step_start;
    if (now >= p->line) {
        if (!send_line(t, p, error)) return false;
        p->line = now + (t->seconds < 120 ? 1 : 5);
    }
    if (p->line_step > 0 && preview_due(t, now) && !cli_training_preview(t, error)) return false;
    if (now >= p->snapshot) {
        if (!cli_training_snapshot(t, error)) return false;
        p->snapshot = now + fmax(SNAPSHOT_SECONDS - 2 * p->step_seconds, 1);
    }
    cli_progress_state state = {.share = share_of(t, step), .seconds = t->seconds, .step = step,
                                .loss = p->line_step ? t->progress.loss : NAN,
                                .psnr = p->line_step ? t->progress.psnr : NAN,
                                .samples_per_second = p->samples_per_second};
    cli_progress_update(&t->out.progress, &state);
    return true;
}

bool cli_training_run(cli_training *t, ad_message *error) {
    int64_t first = t->step, step = first, end = t->settings.steps;
    if (t->stop_at > 0 && (end == 0 || t->stop_at < end)) end = t->stop_at;
    double now = cli_clock();
    t->started = now;
    pace p = {.line = now + 1, .snapshot = now + SNAPSHOT_SECONDS, .line_step = step,
              .line_seconds = t->seconds, .line_samples = t->progress.samples,
              .line_rays = t->progress.rays};
    cli_progress_begin(&t->out.progress, stderr, t->out.quiet);
    while ((end == 0 || step < end) && (t->settings.steps || t->seconds < t->settings.seconds)) {
        p.step_start = cli_clock();
        if (!render_trainer_step(t->trainer, share_of(t, step), error)) return false;
        t->step = ++step;
        t->seconds = t->seconds_before + (cli_clock() - t->started);
        if (!between_steps(t, &p, step, error)) return false;
        t->seconds = t->seconds_before + (cli_clock() - t->started);
        if ((t->interrupted = cli_interrupted())) break;
    }
    if (step > p.line_step && !send_line(t, &p, error)) return false;
    cli_progress_state last = {.share = share_of(t, step), .seconds = t->seconds, .step = step,
                               .loss = t->progress.loss, .psnr = t->progress.psnr,
                               .samples_per_second = p.samples_per_second};
    cli_progress_end(&t->out.progress, step > first ? &last : NULL);
    return cli_training_snapshot(t, error);
}
