/* The commands. Each returns the program's exit status. */
#ifndef ADJOINT_CLI_COMMANDS_H
#define ADJOINT_CLI_COMMANDS_H
#include "cli/output.h"
#include "cli/run_folder.h"

int cli_reconstruct(const cli_options *options);
int cli_render(const cli_options *options);
int cli_eval(const cli_options *options);
int cli_info(const cli_options *options);

/* The whole program without main: argv as main has it. */
int cli_main(int argc, char **argv);

/* ---- shared by the commands that read a run ---- */

typedef struct cli_opened {
    cli_run run;
    ad_context *ctx;
    render_model *model;
    render_text *extra;
    int extra_count;
} cli_opened;
bool cli_run_open(cli_opened *opened, const cli_options *options, const char *place,
                  ad_message *error);
void cli_run_close(cli_opened *opened);
/* A context by --device, --threads and this seed. */
ad_context *cli_context_open(const cli_options *options, uint64_t seed, ad_message *error);

/* A file name for a frame: its path with slashes made _, and without its ending. */
void cli_frame_name(char name[256], const render_frame *frame);

/* `count` cameras on a circle around what the training cameras (read from the snapshot) look at, as
   high and as far as they are, upright as they are; `gap`: degrees of its longest stretch on which
   none of them stands. free(*cameras). */
bool cli_cameras_orbit(render_camera **cameras, int count, const char *snapshot,
                       const render_scene *scene, double *gap, ad_message *error);

/* Warnings of a dataset, to stderr. */
void cli_dataset_warn(cli_output *out, const render_dataset *dataset);
render_split cli_split_find(const char *name);       // "train", "val", "test"
const char *cli_split_name(render_split split);
bool cli_split_has(const render_dataset *dataset, render_split split, ad_message *error);

#endif
