/* adjoint info: what a run or a snapshot holds. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "render/json_fields.h"

static bool totals_read(const ad_safetensors *file, uint64_t totals[3], ad_message *error) {
    static const uint64_t shape[] = {3};
    const ad_safetensors_tensor *found =
        ad_safetensors_expect(file, "trainer.totals", "U64", 1, shape, error);
    return found && ad_safetensors_read(file, totals, found, 0, 3 * sizeof *totals, error);
}

/* How it was read: what applied, where the snapshot has 0 for the usual. */
typedef struct reading {
    int downscale, hold_out; // 0: no image was held out by number
    double tolerate;         // per cent
    double cascades;
    uint64_t seed;
} reading;

static bool reading_find(reading *r, const cli_run *run, const ad_safetensors *file,
                         ad_message *error) {
    render_dataset_options o;
    if (!cli_run_dataset_options(run, &o, error)) return false;
    const char *seed = ad_safetensors_value(file, "seed");
    const char *scene = ad_safetensors_value(file, "scene");
    *r = (reading){.downscale = o.downscale > 1 ? o.downscale : 1,
                   .hold_out = o.hold_out > 0 ? o.hold_out : o.hold_out < 0 ? 0 : 8,
                   .tolerate = o.tolerate > 0 ? 100 * o.tolerate : o.tolerate < 0 ? 0 : 10,
                   .cascades = 1, .seed = seed ? strtoull(seed, NULL, 10) : 0};
    if (scene) render_json_get_number(scene, "cascades", &r->cascades);
    return true;
}

// Whether a member of the snapshot is in the line already, under its own or another name.
static bool is_told(const char *name) {
    return strcmp(name, "downscale") == 0 || strcmp(name, "hold_out") == 0
        || strcmp(name, "tolerate") == 0 || strcmp(name, "horizon") == 0;
}

// The seconds that the schedule has now: --time may have been given again.
static double horizon_find(const cli_opened *opened) {
    for (int i = 0; i < opened->extra_count; i++)
        if (strcmp(opened->extra[i].name, "horizon") == 0) return atof(opened->extra[i].text);
    return render_model_settings(opened->model)->seconds;
}

// What the call that ended with this snapshot measured; of another file nothing is known.
static cli_measured measured_find(const cli_opened *opened, const uint64_t totals[3]) {
    cli_measured measured;
    char own[CLI_PATH_BYTES];
    cli_run_done(&opened->run, (int64_t)totals[0], &measured);
    if (!cli_path(own, opened->run.path, "snapshot.safetensors", NULL)
        || strcmp(own, opened->run.snapshot) != 0)
        measured.psnr = NAN;
    return measured;
}

static bool send_json(cli_output *out, const cli_opened *opened, const reading *r,
                      const uint64_t totals[3], const cli_measured *measured, ad_message *error) {
    char colour[48], data[CLI_PATH_BYTES];
    const render_settings *s = render_model_settings(opened->model);
    const render_scene *scene = render_model_scene(opened->model);
    render_json *line = &out->line;
    double box[6];
    memcpy(box, scene->box_min, 3 * sizeof *box);
    memcpy(box + 3, scene->box_max, 3 * sizeof *box);
    cli_event_begin(out, "info");
    render_json_string(line, "snapshot", opened->run.snapshot);
    if (cli_run_data(&opened->run, data, NULL)) render_json_string(line, "data", data);
    render_json_string(line, "field", s->field);
    render_json_string(line, "preset", s->preset);
    render_json_string(line, "precision", s->bf16 ? "bf16" : "f32");
    render_json_integer(line, "parameters", render_model_parameters(opened->model));
    render_json_integer(line, "steps", (int64_t)totals[0]);
    render_json_integer(line, "samples", (int64_t)totals[1]);
    render_json_integer(line, "rays", (int64_t)totals[2]);
    render_json_number(line, "psnr", measured->psnr);
    render_json_number(line, "horizon_steps", s->steps ? (double)s->steps : NAN);
    render_json_number(line, "horizon_seconds", s->steps ? NAN : horizon_find(opened));
    render_json_integer(line, "batch", s->batch);
    render_json_integer(line, "step_rays", s->rays);
    render_json_number(line, "learning_rate", s->learning_rate);
    render_json_number(line, "learning_rate_end", s->learning_rate_end);
    render_json_integer(line, "cascades", (int64_t)r->cascades);
    render_json_numbers(line, "box", box, 6);
    render_json_number(line, "near", scene->near_distance);
    render_json_string(line, "background", cli_colour_text(colour, scene->background));
    render_json_number(line, "occupied", render_model_occupied(opened->model));
    render_json_integer(line, "seed", (int64_t)r->seed);
    render_json_integer(line, "downscale", r->downscale);
    render_json_integer(line, "hold_out", r->hold_out);
    render_json_number(line, "tolerate", r->tolerate);
    for (int i = 0; i < opened->extra_count; i++) {
        const render_text *extra = &opened->extra[i];
        if (strcmp(extra->name, "seconds") == 0)
            render_json_number(line, extra->name, atof(extra->text));
        else if (!is_told(extra->name))
            render_json_string(line, extra->name, extra->text);
    }
    return cli_event_send(out, error);
}

static void print(cli_output *out, const cli_opened *opened, const ad_safetensors *file,
                  const reading *r, const uint64_t totals[3], const cli_measured *measured) {
    char colour[48], data[CLI_PATH_BYTES];
    const render_settings *s = render_model_settings(opened->model);
    const render_scene *scene = render_model_scene(opened->model);
    cli_result(out, "snapshot    %s", opened->run.snapshot);
    if (cli_run_data(&opened->run, data, NULL)) cli_result(out, "images      %s", data);
    cli_result(out, "field       %s, %" PRId64 " parameters, preset %s, %s", s->field,
               render_model_parameters(opened->model), s->preset, s->bf16 ? "bf16" : "f32");
    int digits = totals[1] < 1000000 ? 3 : 1;
    if (s->steps)
        cli_result(out, "trained     %" PRIu64 " of %" PRId64 " steps, %.*f M samples", totals[0],
                   s->steps, digits, (double)totals[1] / 1e6);
    else
        cli_result(out, "trained     %" PRIu64 " steps, %.*f M samples, schedule of %g s",
                   totals[0], digits, (double)totals[1] / 1e6, horizon_find(opened));
    if (isfinite(measured->psnr))
        cli_result(out, "measured    PSNR %.2f dB on %.0f of %.0f views held out, at this step",
                   measured->psnr, measured->views, measured->of);
    cli_result(out, "step        %" PRId64 " samples, at most %" PRId64 " rays, rate %g to %g%s",
               s->batch, s->rays, s->learning_rate, s->learning_rate_end,
               strcmp(s->field, "hash") == 0 ? "; twice of each from 0.6 of the schedule on" : "");
    cli_result(out, "read        downscale %d, hold-out %d, tolerate %g %%", r->downscale,
               r->hold_out, r->tolerate);
    cli_result(out, "box         %.4g,%.4g,%.4g,%.4g,%.4g,%.4g: %s", scene->box_min[0],
               scene->box_min[1], scene->box_min[2], scene->box_max[0], scene->box_max[1],
               scene->box_max[2], scene->box_reason);
    cli_result(out, "near        %.4g: %s", scene->near_distance, scene->near_reason);
    cli_result(out, "background  %s: %s", cli_colour_text(colour, scene->background),
               scene->background_reason);
    cli_result(out, "occupied    %.2f %% of the cells of %g cascade%s",
               100 * render_model_occupied(opened->model), r->cascades, r->cascades > 1 ? "s" : "");
    cli_result(out, "seed        %" PRIu64, r->seed);
    for (size_t i = 0; i < file->tensor_count; i++) {
        char shape[128] = "";
        size_t used = 0;
        const ad_safetensors_tensor *tensor = &file->tensors[i];
        for (int k = 0; k < tensor->rank && used < sizeof shape - 24; k++)
            used += (size_t)snprintf(shape + used, sizeof shape - used, k ? ", %" PRIu64
                                     : "%" PRIu64, tensor->shape[k]);
        cli_result(out, "  %-4s (%s) %s", tensor->dtype, shape, tensor->name);
    }
}

int cli_info(const cli_options *options) {
    ad_message error = {{0}};
    cli_output out;
    cli_opened opened = {0};
    ad_safetensors file = {0};
    uint64_t totals[3];
    reading r;
    cli_output_begin(&out, options);
    bool good = cli_run_open(&opened, options, options->place, &error)
             && ad_safetensors_open(&file, opened.run.snapshot, &error)
             && totals_read(&file, totals, &error)
             && reading_find(&r, &opened.run, &file, &error);
    if (good) {
        cli_measured measured = measured_find(&opened, totals);
        if (!options->value[CLI_JSON].given) print(&out, &opened, &file, &r, totals, &measured);
        good = send_json(&out, &opened, &r, totals, &measured, &error);
    }
    int status = good ? 0 : cli_failed(&out, &error);
    ad_safetensors_free(&file);
    cli_output_end(&out);
    cli_run_close(&opened);
    return status;
}
