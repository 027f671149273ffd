/* After training: held-out views are measured, and pictures for the report are made.
 *
 * A field that has seen few steps is a fog: light passes everywhere, and a view costs a hundred
 * times what one of a clear field does. So a small picture tells first what a view will take, and
 * all together get half a minute and as long as was trained. Where that does not do, fewer views
 * are measured, evenly spread over the split, and every figure says how many of how many; --limit
 * asks for a number of views, however long they take. The report's extras get less, and none where
 * there is nothing but fog to see. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/training.h"

enum { PIXELS = 300000, TRIED = 4096 }; // at most, of a picture in the report and of a trial

static const double MEASURE_SECONDS = 30;  // and the time trained
static const double DRAW_SECONDS = 10;     // and a twentieth of the time trained
static const double DRAW_COST = 2.5;       // normals take a gradient: times a picture's colour
static const double SLOW_SECONDS = 5;      // said before measuring begins

/* ---- views to keep */

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

// The camera of a picture of at most so many pixels, smaller by a whole factor, which it returns.
static int camera_within(render_camera *camera, int pixels) {
    int factor = 1, least = camera->width < camera->height ? camera->width : camera->height;
    while (factor < least && camera->width / factor * (camera->height / factor) > pixels) factor++;
    render_camera_scale(camera, 1.0 / factor, 1.0 / factor);
    camera->width /= factor, camera->height /= factor;
    return factor;
}

static bool keep_view(cli_kept_view *view, const render_frame *frame, const uint8_t *result,
                      const uint8_t *target, double psnr, double ssim) {
    *view = (cli_kept_view){.name = frame->name, .camera = frame->camera, .psnr = psnr,
                            .ssim = ssim};
    int factor = camera_within(&view->camera, PIXELS);
    int width = view->camera.width, height = view->camera.height;
    size_t bytes = (size_t)width * (size_t)height * 3;
    view->pixels = malloc(4 * bytes);
    if (!view->pixels) return false;
    shrink(view->pixels, target, width, height, factor, frame->image.width);
    shrink(view->pixels + bytes, result, width, height, factor, frame->image.width);
    return true;
}

/* ---- measuring */

typedef struct measuring {
    cli_training *training;
    int count, seen; // views to measure, and measured
    double start;
} measuring;

static bool each(void *user, const render_frame *frame, const uint8_t *result,
                 const uint8_t *target, double psnr, double ssim) {
    measuring *m = user;
    cli_training *t = m->training;
    int wanted = m->count < CLI_KEPT ? m->count : CLI_KEPT;
    // Views from all over the split.
    if (t->kept_count < wanted && m->seen >= t->kept_count * m->count / wanted)
        t->kept_count += keep_view(&t->kept[t->kept_count], frame, result, target, psnr, ssim);
    m->seen++;
    t->score.psnr += psnr, t->score.ssim += ssim;
    return true;
}

static void show(const measuring *m) {
    cli_progress_state state = {.share = (double)m->seen / m->count, .step = -1, .loss = NAN,
                                .psnr = m->seen ? m->training->score.psnr / m->seen : NAN,
                                .seconds = cli_clock() - m->start};
    cli_progress_update(&m->training->out.progress, &state);
}

// One view, as render_evaluate measures it.
static bool measure_one(measuring *m, render_frame *frame, ad_message *error) {
    cli_training *t = m->training;
    render_dataset one = t->dataset;
    render_score score;
    one.frames = frame, one.count = 1;
    if (!render_evaluate(t->model, &one, frame->split, 0, t->scene.background, each, m, &score,
                         error))
        return false;
    if (score.width > t->score.width) t->score.width = score.width;
    if (score.height > t->score.height) t->score.height = score.height;
    show(m);
    return true;
}

// Seconds that a view of this frame will take, by a small one.
static bool try_view(cli_training *t, const render_frame *frame, double *seconds,
                     ad_message *error) {
    render_camera camera = frame->camera;
    camera_within(&camera, TRIED);
    double start = cli_clock(), pixels = (double)camera.width * camera.height;
    float *colour = malloc((size_t)pixels * 3 * sizeof *colour);
    if (!colour) return ad_fail(error, "out of memory for a view");
    render_view view = {.colour = colour};
    bool good = render_model_view(t->model, &camera, t->scene.background, &view, error);
    free(colour);
    t->view_pixel_seconds = (cli_clock() - start) / pixels;
    *seconds = t->view_pixel_seconds * frame->image.width * frame->image.height;
    return good;
}

// How many of `all` views fit, when one takes so long and so many are measured already; says so
// where it is not all of them.
static int views_that_fit(cli_training *t, int all, int seen, double each_seconds) {
    double allowed = MEASURE_SECONDS + t->seconds;
    int fit = (int)fmin(all, allowed / fmax(each_seconds, 1e-9));
    if (fit < seen) fit = seen;
    if (t->limit >= 0 || fit >= all) return all;
    if (fit > 0)
        cli_note(&t->out, "measuring %d of %d held-out views, evenly spread: one takes %.1f s; "
                 "--limit %d asks for all", fit, all, each_seconds, t->dataset.held_out_count);
    else
        cli_note(&t->out, "not measured: one view of the field as it is takes about %.0f s; "
                 "adjoint eval %s --limit 1 waits for it", each_seconds, t->run.path);
    return fit;
}

static bool measure_all(measuring *m, render_frame **frames, ad_message *error) {
    cli_training *t = m->training;
    int all = m->count;
    double each_seconds;
    if (!try_view(t, frames[0], &each_seconds, error)) return false;
    if (t->limit < 0 && each_seconds > MEASURE_SECONDS + t->seconds) {
        views_that_fit(t, all, 0, each_seconds);
        m->count = 0;
        return true;
    }
    if (each_seconds * all > SLOW_SECONDS)
        cli_note(&t->out, "measuring %d held-out views, about %.1f s each", all, each_seconds);
    else
        cli_note(&t->out, "measuring %d held-out view%s", all, all == 1 ? "" : "s");
    cli_progress_begin(&t->out.progress, stderr, t->out.quiet);
    show(m);
    for (int i = 0; i < m->count && !cli_interrupted(); i++) {
        double start = cli_clock();
        if (!measure_one(m, frames[(int64_t)i * all / m->count], error)) return false;
        if (i == 0) m->count = views_that_fit(t, all, m->seen, cli_clock() - start);
    }
    return true;
}

static bool send_score(cli_training *t, ad_message *error) {
    char colour[48];
    render_json *line = &t->out.line;
    cli_event_begin(&t->out, "eval");
    render_json_string(line, "split", cli_split_name(t->dataset.held_out));
    render_json_integer(line, "images", t->score.images);
    render_json_integer(line, "split_images", t->dataset.held_out_count);
    render_json_integer(line, "width", t->score.width);
    render_json_integer(line, "height", t->score.height);
    render_json_string(line, "background", cli_colour_text(colour, t->scene.background));
    render_json_number(line, "psnr", t->score.psnr);
    render_json_number(line, "ssim", t->score.ssim);
    render_json_number(line, "seconds", t->score.seconds);
    return cli_event_send(&t->out, error);
}

bool cli_training_measure(cli_training *t, ad_message *error) {
    const render_dataset *d = &t->dataset;
    measuring m = {.training = t, .start = cli_clock(), .count = d->held_out_count};
    if (t->limit >= 0 && t->limit < m.count) m.count = t->limit;
    if (m.count < 1 || t->interrupted) return true;
    render_frame **frames = malloc((size_t)d->held_out_count * sizeof *frames);
    if (!frames) return ad_fail(error, "out of memory for %d views", t->dataset.held_out_count);
    int found = 0;
    for (int i = 0; i < d->count && found < t->dataset.held_out_count; i++)
        if (d->frames[i].split == d->held_out) frames[found++] = &d->frames[i];
    int wanted = m.count < found ? m.count : found;
    for (int i = 0; i < wanted; i++) frames[i] = frames[(int64_t)i * found / wanted];
    m.count = wanted;
    bool good = wanted < 1 || measure_all(&m, frames, error);
    cli_progress_end(&t->out.progress, NULL);
    free(frames);
    if (!good) return false;
    t->eval_seconds = t->score.seconds = cli_clock() - m.start;
    if (m.count < 1) return true;
    if (m.seen < m.count) { // interrupted: a part is no figure of the split
        t->measuring_interrupted = true;
        return true;
    }
    t->score.images = m.seen;
    t->score.psnr /= m.seen, t->score.ssim /= m.seen;
    return send_score(t, error);
}

/* ---- depth and normals of the kept views, coloured */

static bool draw_one(cli_training *t, cli_kept_view *kept, ad_message *error) {
    size_t pixels = (size_t)kept->camera.width * (size_t)kept->camera.height;
    float *values = malloc(pixels * 5 * sizeof *values);
    if (!values) return ad_fail(error, "out of memory for the report's pictures");
    render_view view = {.depth = values, .opacity = values + pixels, .normal = values + 2 * pixels};
    kept->drawn = render_model_view(t->model, &kept->camera, t->scene.background, &view, error);
    if (kept->drawn) {
        render_colour_depth(kept->pixels + 6 * pixels, view.depth, view.opacity, pixels, NULL);
        render_colour_normal(kept->pixels + 9 * pixels, view.normal, view.opacity, pixels);
    }
    free(values);
    return kept->drawn;
}

bool cli_training_draw(cli_training *t, ad_message *error) {
    double start = cli_clock(), allowed = DRAW_SECONDS + 0.05 * t->seconds;
    double cost = DRAW_COST * t->view_pixel_seconds; // of a pixel
    bool good = true;
    if (t->kept_count) cli_note(&t->out, "drawing the report");
    for (int i = 0; i < t->kept_count && good && !cli_interrupted(); i++) {
        cli_kept_view *kept = &t->kept[i];
        double pixels = (double)kept->camera.width * kept->camera.height;
        double passed = cli_clock() - start;
        if (passed + cost * pixels > allowed) break;
        good = draw_one(t, kept, error);
        cost = (cli_clock() - start - passed) / pixels;
    }
    return good;
}

void cli_training_forget(cli_training *t) {
    for (int i = 0; i < t->kept_count; i++) free(t->kept[i].pixels);
    t->kept_count = 0;
}
