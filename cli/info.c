/* adjoint info: what a run or a snapshot holds. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

static bool totals_read(const ad_safetensors *file, uint64_t totals[3], ad_message *error) {
    static const uint64_t shape[] = {3};
    const ad_safetensors_tensor *found =
        ad_safetensors_expect(file, "trainer.totals", "U64", 1, shape, error);
    return found && ad_safetensors_read(file, totals, found, 0, 3 * sizeof *totals, error);
}

static bool send_json(cli_output *out, const cli_opened *opened, const ad_safetensors *file,
                      const uint64_t totals[3], ad_message *error) {
    char colour[48];
    const render_settings *s = render_model_settings(opened->model);
    const render_scene *scene = render_model_scene(opened->model);
    render_json *line = &out->line;
    double box[6];
    memcpy(box, scene->box_min, 3 * sizeof *box);
    memcpy(box + 3, scene->box_max, 3 * sizeof *box);
    cli_event_begin(out, "info");
    render_json_string(line, "snapshot", opened->run.snapshot);
    render_json_string(line, "field", s->field);
    render_json_string(line, "preset", s->preset);
    render_json_string(line, "precision", s->bf16 ? "bf16" : "f32");
    render_json_integer(line, "parameters", render_model_parameters(opened->model));
    render_json_integer(line, "steps", (int64_t)totals[0]);
    render_json_integer(line, "samples", (int64_t)totals[1]);
    render_json_integer(line, "rays", (int64_t)totals[2]);
    render_json_integer(line, "horizon_steps", s->steps);
    render_json_number(line, "horizon_seconds", s->seconds);
    render_json_integer(line, "batch", s->batch);
    render_json_numbers(line, "box", box, 6);
    render_json_number(line, "near", scene->near_distance);
    render_json_string(line, "background", cli_colour_text(colour, scene->background));
    render_json_number(line, "occupied", render_model_occupied(opened->model));
    render_json_string(line, "seed", ad_safetensors_value(file, "seed"));
    for (int i = 0; i < opened->extra_count; i++)
        render_json_string(line, opened->extra[i].name, opened->extra[i].text);
    return cli_event_send(out, error);
}

static void print(cli_output *out, const cli_opened *opened, const ad_safetensors *file,
                  const uint64_t totals[3]) {
    char colour[48], data[CLI_PATH_BYTES];
    const render_settings *s = render_model_settings(opened->model);
    const render_scene *scene = render_model_scene(opened->model);
    cli_result(out, "snapshot    %s", opened->run.snapshot);
    if (cli_run_data(&opened->run, data, NULL)) cli_result(out, "images      %s", data);
    cli_result(out, "field       %s, %" PRId64 " parameters, preset %s, %s", s->field,
               render_model_parameters(opened->model), s->preset, s->bf16 ? "bf16" : "f32");
    if (s->steps)
        cli_result(out, "trained     %" PRIu64 " of %" PRId64 " steps, %.1f M samples", totals[0],
                   s->steps, (double)totals[1] / 1e6);
    else
        cli_result(out, "trained     %" PRIu64 " steps, %.1f M samples, schedule of %g s",
                   totals[0], (double)totals[1] / 1e6, s->seconds);
    cli_result(out, "box         %.4g,%.4g,%.4g,%.4g,%.4g,%.4g: %s", scene->box_min[0],
               scene->box_min[1], scene->box_min[2], scene->box_max[0], scene->box_max[1],
               scene->box_max[2], scene->box_reason);
    cli_result(out, "near        %.4g: %s", scene->near_distance, scene->near_reason);
    cli_result(out, "background  %s: %s", cli_colour_text(colour, scene->background),
               scene->background_reason);
    cli_result(out, "occupied    %.2f %% of the cells",
               100 * render_model_occupied(opened->model));
    cli_result(out, "seed        %s", ad_safetensors_value(file, "seed"));
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
    cli_output_begin(&out, options);
    bool good = cli_run_open(&opened, options, options->place, &error)
             && ad_safetensors_open(&file, opened.run.snapshot, &error)
             && totals_read(&file, totals, &error);
    if (good && !options->value[CLI_JSON].given) print(&out, &opened, &file, totals);
    good = good && send_json(&out, &opened, &file, totals, &error);
    int status = good ? 0 : cli_failed(&out, &error);
    ad_safetensors_free(&file);
    cli_output_end(&out);
    cli_run_close(&opened);
    return status;
}
