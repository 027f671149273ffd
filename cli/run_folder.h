/* A run folder: snapshot.safetensors, metrics.jsonl, preview/, report.html. */
#ifndef ADJOINT_CLI_RUN_FOLDER_H
#define ADJOINT_CLI_RUN_FOLDER_H
#include <stdio.h>

#include "autodiff/safetensors.h"
#include "render/render.h"

enum { CLI_PATH_BYTES = 4096 };

typedef struct cli_run {
    char path[CLI_PATH_BYTES];     // the folder; empty: there is a snapshot only
    char snapshot[CLI_PATH_BYTES];
} cli_run;

typedef enum cli_run_mode { CLI_RUN_NEW, CLI_RUN_RESUME, CLI_RUN_FORCE } cli_run_mode;

/* The default name of a run: that of the folder, + .adjoint, here. */
bool cli_run_name(char name[CLI_PATH_BYTES], const char *folder, ad_message *error);
/* Says early whether the run may be written: an existing one only with --resume or --force. */
bool cli_run_check(cli_run *run, const char *path, cli_run_mode mode, ad_message *error);
/* Makes the folder, removes an old run (--force), opens metrics.jsonl and keeps it locked. */
bool cli_run_begin(const cli_run *run, cli_run_mode mode, FILE **metrics, ad_message *error);
/* An existing run, by its folder or by its snapshot's name. */
bool cli_run_find(cli_run *run, const char *path, ad_message *error);
/* path/name; false when it is too long. */
bool cli_path(char path[CLI_PATH_BYTES], const char *folder, const char *name, ad_message *error);
bool cli_folder_make(const char *path, ad_message *error); // with the folders above it

/* The folder of the run's images, as its metrics tell. */
bool cli_run_data(const cli_run *run, char folder[CLI_PATH_BYTES], ad_message *error);
/* What a call measured of the views held out, and on how many of them; psnr: NaN if nothing. */
typedef struct cli_measured {
    double psnr, views, of;
} cli_measured;
/* True where the last call that has ended did so at this step. */
bool cli_run_done(const cli_run *run, int64_t step, cli_measured *measured);
/* How the run's images were read, as its snapshot tells. */
bool cli_run_dataset_options(const cli_run *run, render_dataset_options *options,
                             ad_message *error);

/* The curves of metrics.jsonl; lines that a resumed run left behind are dropped. Free each. */
typedef struct cli_curves {
    double *step, *loss, *psnr, *held_out_step, *held_out;
    size_t count, held_out_count;
} cli_curves;
void cli_curves_read(const cli_run *run, cli_curves *curves);
void cli_curves_free(cli_curves *curves);

#endif
