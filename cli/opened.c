/* What the commands that read a run have in common: contexts, models, splits, names. */
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

ad_context *cli_context_open(const cli_options *options, uint64_t seed, ad_message *error) {
    const cli_value *v = options->value;
    ad_options wanted = {.device = v[CLI_DEVICE].given ? v[CLI_DEVICE].text : "auto",
                         .threads = (int)v[CLI_THREADS].integer, .seed = seed};
    ad_context *ctx = ad_open(&wanted);
    if (ctx && !ad_failed(ctx)) return ctx;
    ad_fail(error, "%s", ad_error_text(ctx));
    ad_close(ctx);
    return NULL;
}

bool cli_run_open(cli_opened *opened, const cli_options *options, const char *place,
                  ad_message *error) {
    *opened = (cli_opened){0};
    if (!cli_run_find(&opened->run, place, error)) return false;
    opened->ctx = cli_context_open(options, (uint64_t)options->value[CLI_SEED].integer, error);
    if (opened->ctx)
        opened->model = render_snapshot_open(opened->ctx, opened->run.snapshot, &opened->extra,
                                             &opened->extra_count, error);
    return opened->model != NULL;
}

void cli_run_close(cli_opened *opened) {
    render_texts_free(opened->extra, opened->extra_count);
    render_model_close(opened->model);
    ad_close(opened->ctx);
    *opened = (cli_opened){0};
}

void cli_frame_name(char name[256], const render_frame *frame) {
    const char *from = frame->name;
    while (from[0] == '.' && from[1] == '/') from += 2;
    snprintf(name, 200, "%s", from);
    for (char *c = name; *c; c++)
        if (*c == '/' || *c == '\\') *c = '_';
    char *dot = strrchr(name, '.');
    if (dot && dot != name) *dot = 0;
}

void cli_dataset_warn(cli_output *out, const render_dataset *dataset) {
    for (int i = 0; i < dataset->warning_count; i++) cli_warn(out, "%s", dataset->warnings[i]);
}

render_split cli_split_find(const char *name) {
    return strcmp(name, "train") == 0 ? RENDER_TRAIN
         : strcmp(name, "val") == 0 ? RENDER_VAL : RENDER_TEST;
}

const char *cli_split_name(render_split split) {
    return split == RENDER_TRAIN ? "train" : split == RENDER_VAL ? "val" : "test";
}

bool cli_split_has(const render_dataset *dataset, render_split split, ad_message *error) {
    for (int i = 0; i < dataset->count; i++)
        if (dataset->frames[i].split == split) return true;
    const int count[] = {dataset->train_count, dataset->val_count, dataset->test_count};
    const render_split of[] = {RENDER_TRAIN, RENDER_VAL, RENDER_TEST};
    char others[96] = "";
    for (int i = 0; i < 3; i++) {
        size_t used = strlen(others);
        if (count[i] > 0 && of[i] != split)
            snprintf(others + used, sizeof others - used, "%s %s (%d)", used ? "," : "; there are",
                     cli_split_name(of[i]), count[i]);
    }
    return ad_fail(error, "%s: there are no images in the split %s%s (held out: %s)",
                   dataset->folder, cli_split_name(split), others, dataset->split_rule);
}
