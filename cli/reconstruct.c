/* adjoint reconstruct: images in, a run folder out.
 *
 * First everything that can be wrong is looked at (the run folder, the options, the images), then
 * box, near plane and background are chosen and said with their reasons, then it trains, measures
 * and writes the report. A resumed run takes its settings from its snapshot; an option that
 * contradicts them is refused rather than ignored. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cli/training.h"

/* ---- settings */

static uint64_t fresh_seed(void) {
    uint32_t seed = 1;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = (uint32_t)(cli_clock() * 1e6);
    return seed % 1000000; // short enough to be typed again
}

static void take_settings(cli_training *t) {
    const cli_value *v = t->options->value;
    render_settings *s = &t->settings;
    bool bf16 = strstr(ad_build_text(), "bf16") != NULL;
    s->field = v[CLI_FIELD].text, s->preset = v[CLI_PRESET].text;
    s->bf16 = v[CLI_PRECISION].given ? strcmp(v[CLI_PRECISION].text, "bf16") == 0 : bf16;
    s->batch = v[CLI_BATCH].integer, s->rays = v[CLI_RAYS].integer;
    s->steps = v[CLI_STEPS].integer;
    s->seconds = s->steps ? 0 : v[CLI_TIME].given ? v[CLI_TIME].number[0] : 300;
    s->random_background =
        !v[CLI_BACKGROUND].given || strcmp(v[CLI_BACKGROUND].text, "random") == 0;
    t->read.downscale = (int)v[CLI_DOWNSCALE].integer;
    if (v[CLI_HOLD_OUT].given)
        t->read.hold_out = v[CLI_HOLD_OUT].integer ? (int)v[CLI_HOLD_OUT].integer : -1;
    if (v[CLI_TOLERATE].given) {
        double share = v[CLI_TOLERATE].number[0] / 100;
        t->read.tolerate = share > 0 ? share : -1;
    }
    t->seed = v[CLI_SEED].given ? (uint64_t)v[CLI_SEED].integer : fresh_seed();
}

static bool contradiction(const cli_training *t, const char *option, ad_message *error) {
    return ad_fail(error, "%s: --%s differs from what the run was begun with: leave it out, or "
                   "begin anew with --force", t->run.path, option);
}

// What the snapshot says, and what was asked for now, must agree. --time may be changed.
static bool settings_agree(const cli_training *t, const render_settings *asked, uint64_t seed,
                           const render_dataset_options *read, ad_message *error) {
    const cli_value *v = t->options->value;
    const render_settings *s = &t->settings;
    if (v[CLI_FIELD].given && strcmp(asked->field, s->field) != 0)
        return contradiction(t, "field", error);
    if (v[CLI_PRESET].given && strcmp(asked->preset, s->preset) != 0)
        return contradiction(t, "preset", error);
    if (v[CLI_PRECISION].given && asked->bf16 != s->bf16)
        return contradiction(t, "precision", error);
    if (v[CLI_BATCH].given && asked->batch != s->batch) return contradiction(t, "batch", error);
    if (v[CLI_RAYS].given && asked->rays != s->rays) return contradiction(t, "rays", error);
    if (v[CLI_STEPS].given && asked->steps != s->steps) return contradiction(t, "steps", error);
    if (v[CLI_TIME].given && s->steps) return contradiction(t, "time", error);
    if (v[CLI_SEED].given && seed != t->seed) return contradiction(t, "seed", error);
    // 0 and 1 both leave the images as they are.
    if (v[CLI_DOWNSCALE].given && read->downscale != t->read.downscale
        && read->downscale + t->read.downscale != 1)
        return contradiction(t, "downscale", error);
    if (v[CLI_HOLD_OUT].given && read->hold_out != t->read.hold_out
        && (read->hold_out ? read->hold_out : 8) != (t->read.hold_out ? t->read.hold_out : 8))
        return contradiction(t, "hold-out", error);
    if (v[CLI_TOLERATE].given && fabs(read->tolerate - t->read.tolerate) > 1e-12)
        return contradiction(t, "tolerate", error);
    if (v[CLI_BACKGROUND].given && asked->random_background != s->random_background)
        return contradiction(t, "background", error);
    return true;
}

// Box, near plane and background given again must be the same ones.
static bool scene_agrees(const cli_training *t, ad_message *error) {
    const cli_value *v = t->options->value;
    const render_scene *scene = render_model_scene(t->model);
    float colour[3];
    for (int i = 0; i < 3 && v[CLI_BOX].given; i++)
        if (v[CLI_BOX].number[i] != scene->box_min[i]
            || v[CLI_BOX].number[i + 3] != scene->box_max[i])
            return contradiction(t, "box", error);
    if (v[CLI_NEAR].given && v[CLI_NEAR].number[0] != scene->near_distance)
        return contradiction(t, "near", error);
    if (v[CLI_BACKGROUND].given && cli_colour_read(v[CLI_BACKGROUND].text, colour)
        && memcmp(colour, scene->background, sizeof colour) != 0)
        return contradiction(t, "background", error);
    return true;
}

static bool resume(cli_training *t, ad_message *error) {
    ad_safetensors file = {0};
    if (!ad_safetensors_open(&file, t->run.snapshot, error)) return false;
    const char *seed = ad_safetensors_value(&file, "seed");
    const char *seconds = ad_safetensors_value(&file, "seconds");
    const char *horizon = ad_safetensors_value(&file, "horizon");
    uint64_t asked_seed = t->seed;
    t->seed = seed ? strtoull(seed, NULL, 10) : 0;
    t->seconds_before = seconds ? atof(seconds) : 0;
    if (!(t->seconds_before >= 0 && t->seconds_before < 1e9)) t->seconds_before = 0;
    double time = horizon ? atof(horizon) : 0; // --time of the last call
    ad_safetensors_free(&file);

    render_settings asked = t->settings;
    render_dataset_options asked_read = t->read;
    if (!cli_run_dataset_options(&t->run, &t->read, error)) return false;
    t->ctx = cli_context_open(t->options, t->seed, error);
    t->model = t->ctx ? render_snapshot_open(t->ctx, t->run.snapshot, NULL, NULL, error) : NULL;
    if (!t->model) return false;
    t->settings = *render_model_settings(t->model);
    if (!settings_agree(t, &asked, asked_seed, &asked_read, error) || !scene_agrees(t, error))
        return false;
    if (t->options->value[CLI_TIME].given) time = asked.seconds;
    if (!t->settings.steps && time > 0) t->settings.seconds = time;
    return true;
}

/* ---- the scene */

// No ray meets the box: says where it is, and where what the cameras look at is.
static bool unseen(const cli_training *t, ad_message *error) {
    render_scene found;
    const render_scene *s = &t->scene;
    char box[128] = "", near[48] = "";
    render_scene_guess(&found, &t->dataset);
    if (t->options->value[CLI_BOX].given)
        snprintf(box, sizeof box, " --box=%.4g,%.4g,%.4g,%.4g,%.4g,%.4g", found.box_min[0],
                 found.box_min[1], found.box_min[2], found.box_max[0], found.box_max[1],
                 found.box_max[2]);
    if (t->options->value[CLI_NEAR].given)
        snprintf(near, sizeof near, " --near %.4g", found.near_distance);
    return ad_fail(error, "no ray meets the box %.4g,%.4g,%.4g,%.4g,%.4g,%.4g beyond the near "
                   "distance %.4g%s%s%s", s->box_min[0], s->box_min[1], s->box_min[2],
                   s->box_max[0], s->box_max[1], s->box_max[2], s->near_distance,
                   *box || *near ? "; the cameras suggest" : "; --box and --near say where to look",
                   box, near);
}

static bool choose_scene(cli_training *t, ad_message *error) {
    const cli_value *v = t->options->value;
    render_scene *scene = &t->scene;
    double scale = t->dataset.aabb_scale;
    render_scene_guess(scene, &t->dataset);
    if (v[CLI_BOX].given) {
        memcpy(scene->box_min, v[CLI_BOX].number, sizeof scene->box_min);
        memcpy(scene->box_max, v[CLI_BOX].number + 3, sizeof scene->box_max);
        strcpy(scene->box_reason, "given by --box");
    }
    if (v[CLI_NEAR].given) {
        scene->near_distance = v[CLI_NEAR].number[0];
        strcpy(scene->near_reason, "given by --near");
    }
    if (v[CLI_BACKGROUND].given && cli_colour_read(v[CLI_BACKGROUND].text, scene->background))
        strcpy(scene->background_reason, "given by --background");
    double seen = render_scene_seen(scene, &t->dataset);
    if (seen <= 0) return unseen(t, error);
    if (seen < 0.02)
        cli_warn(&t->out, "only %.1f %% of the rays meet the box: is it where the cameras look?",
                 100 * seen);
    // An object alone has one grid of occupancy; a place has coarser ones around the middle.
    t->cascades = 1;
    if (scale > 1) t->cascades += (int)lround(log2(scale));
    else if (!t->dataset.has_alpha && !v[CLI_BOX].given) t->cascades = 2;
    if (t->cascades > 8) t->cascades = 8;
    return render_settings_fill(&t->settings, error);
}

static void say_scene(cli_training *t) {
    char colour[48];
    const render_scene *s = &t->scene;
    const render_dataset *d = &t->dataset;
    cli_note(&t->out, "%s: %d images of %d x %d, %d to train on, %d held out (%s)", t->data,
             d->count, d->width, d->height, d->train_count, d->held_out_count, d->split_rule);
    cli_note(&t->out, "box         %.4g,%.4g,%.4g,%.4g,%.4g,%.4g: %s", s->box_min[0],
             s->box_min[1], s->box_min[2], s->box_max[0], s->box_max[1], s->box_max[2],
             s->box_reason);
    cli_note(&t->out, "near        %.4g: %s", s->near_distance, s->near_reason);
    cli_note(&t->out, "background  %s%s: %s", cli_colour_text(colour, s->background),
             t->settings.random_background ? ", random while training" : "",
             s->background_reason);
    cli_note(&t->out, "field       %s, %lld parameters, preset %s, %s; seed %llu; %s",
             t->settings.field, (long long)render_model_parameters(t->model), t->settings.preset,
             t->settings.bf16 ? "bf16" : "f32", (unsigned long long)t->seed,
             ad_device_name(t->ctx));
}

// How long it will take, as far as that is known.
static void say_plan(cli_training *t) {
    char training[48], stop[48] = "", measuring[80] = "";
    const render_settings *s = &t->settings;
    int views = t->dataset.held_out_count;
    if (t->limit >= 0 && t->limit < views) views = t->limit;
    if (s->steps) snprintf(training, sizeof training, "%lld steps", (long long)s->steps);
    else snprintf(training, sizeof training, "%g s", s->seconds);
    if (t->stop_at) snprintf(stop, sizeof stop, ", to step %lld now", (long long)t->stop_at);
    if (views > 0)
        snprintf(measuring, sizeof measuring, "; then %s%d held-out view%s measured",
                 t->limit < 0 && views > 1 ? "up to " : "", views, views == 1 ? " is" : "s are");
    cli_note(&t->out, "schedule    %s%s%s", training, stop, measuring);
}

static bool send_start(cli_training *t, ad_message *error) {
    char colour[48];
    render_json *line = &t->out.line;
    const render_dataset *d = &t->dataset;
    double box[6];
    memcpy(box, t->scene.box_min, 3 * sizeof *box);
    memcpy(box + 3, t->scene.box_max, 3 * sizeof *box);
    cli_event_begin(&t->out, "start");
    render_json_integer(line, "images", d->count);
    render_json_integer(line, "width", d->width);
    render_json_integer(line, "height", d->height);
    render_json_object_begin(line, "splits");
    render_json_integer(line, "train", d->train_count);
    render_json_integer(line, "val", d->val_count);
    render_json_integer(line, "test", d->test_count);
    render_json_object_end(line);
    render_json_numbers(line, "box", box, 6);
    render_json_string(line, "background", cli_colour_text(colour, t->scene.background));
    render_json_boolean(line, "random_background", t->settings.random_background);
    render_json_number(line, "near", t->scene.near_distance);
    render_json_string(line, "device", ad_device_name(t->ctx));
    render_json_integer(line, "threads", ad_threads(t->ctx));
    render_json_integer(line, "parameters", render_model_parameters(t->model));
    render_json_integer(line, "seed", (int64_t)t->seed);
    render_json_string(line, "field", t->settings.field);
    render_json_string(line, "preset", t->settings.preset);
    render_json_string(line, "precision", t->settings.bf16 ? "bf16" : "f32");
    render_json_string(line, "data", t->data);
    render_json_string(line, "held_out", cli_split_name(d->held_out));
    return cli_event_send(&t->out, error);
}

/* ---- the call */

static bool open_all(cli_training *t, ad_message *error) {
    char name[CLI_PATH_BYTES];
    const cli_options *options = t->options;
    const cli_value *v = options->value;
    t->mode = v[CLI_RESUME].given ? CLI_RUN_RESUME : v[CLI_FORCE].given ? CLI_RUN_FORCE
                                                                        : CLI_RUN_NEW;
    t->stop_at = v[CLI_STOP_AT].integer;
    t->limit = v[CLI_LIMIT].given ? (int)v[CLI_LIMIT].integer : -1;
    t->preview_interval = v[CLI_PREVIEW].given ? v[CLI_PREVIEW].number[0] : 10;
    if (!realpath(options->place, t->data))
        return ad_fail(error, "%s: %s", options->place, strerror(errno));
    if (v[CLI_OUT].given) snprintf(name, sizeof name, "%s", v[CLI_OUT].text);
    else if (!cli_run_name(name, options->place, error)) return false;
    if (!cli_run_check(&t->run, name, t->mode, error)) return false;
    take_settings(t);
    if (t->mode == CLI_RUN_RESUME && !resume(t, error)) return false;
    if (!t->ctx) t->ctx = cli_context_open(options, t->seed, error);
    if (!t->ctx) return false;

    t->read.threads = ad_threads(t->ctx);
    if (!render_dataset_load(&t->dataset, options->place, &t->read, error)) return false;
    cli_dataset_warn(&t->out, &t->dataset);
    if (t->mode == CLI_RUN_RESUME) {
        t->scene = *render_model_scene(t->model);
    } else {
        if (!choose_scene(t, error)) return false;
        t->model = render_model_open(t->ctx, &t->settings, &t->scene, t->cascades, error);
        if (!t->model) return false;
    }
    t->trainer = render_trainer_open(t->model, &t->dataset, error);
    if (!t->trainer
        || (t->mode == CLI_RUN_RESUME
            && !render_trainer_resume(t->trainer, t->run.snapshot, error)))
        return false;
    render_trainer_read(t->trainer, &t->progress); // what a snapshot brought
    t->step = t->progress.step, t->seconds = t->seconds_before;
    return cli_run_begin(&t->run, t->mode, &t->out.metrics, error);
}

int cli_reconstruct(const cli_options *options) {
    ad_message error = {{0}};
    int status = 1;
    cli_training *t = calloc(1, sizeof *t);
    if (!t) return fputs("adjoint: out of memory\n", stderr), 1;
    t->options = options, t->opened = cli_clock();
    cli_output_begin(&t->out, options);
    bool good = open_all(t, &error);
    if (good) {
        t->load_seconds = cli_clock() - t->opened;
        say_scene(t);
        good = send_start(t, &error);
        if (cli_training_settled(t)) good = good && cli_training_say_settled(t, &error);
        else {
            say_plan(t);
            good = good && cli_training_run(t, &error) && cli_training_finish(t, &error);
        }
    }
    status = good ? 0 : cli_failed(&t->out, &error);
    if (t->out.metrics) fclose(t->out.metrics);
    cli_output_end(&t->out);
    render_trainer_close(t->trainer);
    render_model_close(t->model);
    render_dataset_free(&t->dataset);
    ad_close(t->ctx);
    free(t);
    return status;
}
