/* Commands for a shell: the one that goes on with a run, and the one that makes such a run. */
#include <string.h>

#include "autodiff/text.h"
#include "cli/training.h"

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

static void add_place(const cli_training *t, ad_text *command) {
    ad_text_string(command, "adjoint reconstruct ");
    add_word(command, t->options->place);
    ad_text_string(command, " --out ");
    add_word(command, t->run.path);
}

// What is computed on is not in the run folder.
static void add_device(const cli_training *t, ad_text *command) {
    const cli_value *v = t->options->value;
    if (v[CLI_DEVICE].given) ad_text_format(command, " --device %s", v[CLI_DEVICE].text);
    if (v[CLI_THREADS].given) ad_text_format(command, " --threads %s", v[CLI_THREADS].text);
}

void cli_training_eval_command(const cli_training *t, ad_text *command) {
    ad_text_string(command, "adjoint eval ");
    add_word(command, t->run.path);
    add_device(t, command);
}

void cli_training_command(const cli_training *t, ad_text *command) {
    add_place(t, command);
    ad_text_string(command, " --resume");
    add_device(t, command);
}

static void add_scene(const cli_training *t, ad_text *command) {
    char colour[48];
    const render_scene *scene = &t->scene;
    if (strcmp(scene->background_reason, "given by --background") == 0)
        ad_text_format(command, " --background %s", cli_colour_text(colour, scene->background));
    if (strcmp(scene->box_reason, "given by --box") == 0) {
        for (int i = 0; i < 6; i++) {
            ad_text_string(command, i ? "," : " --box=");
            ad_text_json_number(command, i < 3 ? scene->box_min[i] : scene->box_max[i - 3]);
        }
    }
    if (strcmp(scene->near_reason, "given by --near") == 0) {
        ad_text_string(command, " --near ");
        ad_text_json_number(command, scene->near_distance);
    }
}

void cli_training_make_command(const cli_training *t, ad_text *command) {
    const render_settings *s = &t->settings;
    render_settings usual = {.field = s->field, .preset = s->preset};
    render_settings_fill(&usual, NULL);
    add_place(t, command);
    ad_text_format(command, " --field %s --preset %s --precision %s", s->field, s->preset,
                   s->bf16 ? "bf16" : "f32");
    if (s->steps) {
        ad_text_format(command, " --steps %lld", (long long)s->steps);
    } else {
        ad_text_string(command, " --time ");
        ad_text_json_number(command, s->seconds);
        ad_text_string(command, "s");
    }
    if (s->batch != usual.batch) ad_text_format(command, " --batch %lld", (long long)s->batch);
    if (s->rays != usual.rays) ad_text_format(command, " --rays %lld", (long long)s->rays);
    if (t->read.downscale > 1) ad_text_format(command, " --downscale %d", t->read.downscale);
    if (t->read.hold_out)
        ad_text_format(command, " --hold-out %d", t->read.hold_out > 0 ? t->read.hold_out : 0);
    if (t->read.tolerate != 0) {
        ad_text_string(command, " --tolerate ");
        ad_text_json_number(command, t->read.tolerate > 0 ? 100 * t->read.tolerate : 0);
    }
    add_scene(t, command);
    ad_text_format(command, " --seed %llu", (unsigned long long)t->seed);
    add_device(t, command);
}
