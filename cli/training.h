/* One call of `reconstruct`: what its files share. */
#ifndef ADJOINT_CLI_TRAINING_H
#define ADJOINT_CLI_TRAINING_H
#include "cli/commands.h"

typedef struct cli_training {
    const cli_options *options;
    cli_output out;
    cli_run run;
    cli_run_mode mode;
    uint64_t seed;
    int64_t stop_at;                  // 0: none
    char data[CLI_PATH_BYTES];        // the images' folder
    render_dataset_options read;      // how they are read
    render_settings settings;
    ad_context *ctx;
    render_dataset dataset;
    render_scene scene;
    int cascades;
    render_model *model;
    render_trainer *trainer;
    render_progress progress;         // as last read
    int64_t step;                     // done

    double opened;                    // when this call began, by cli_clock
    double started;                   // when it began to train
    double seconds_before;            // trained in earlier calls
    double seconds;                   // trained in all
    double load_seconds, snapshot_seconds, preview_seconds, eval_seconds;
    double preview_interval, first_preview_seconds;
    double rays_per_second;           // in training, of late
    double pixel_seconds;             // of the last preview
    bool interrupted;
    render_score score;               // of the held-out views; images 0: none
} cli_training;

static const double CLI_PREVIEW_SHARE = 0.005; // of the time goes to previews
enum { CLI_PREVIEW_PIXELS = 1024 };            // the smallest of them

/* reconstruct.c: opens everything; training.c: trains; preview.c; finish.c: measures, reports. */
bool cli_training_run(cli_training *t, ad_message *error);
bool cli_training_snapshot(cli_training *t, ad_message *error);
bool cli_training_preview(cli_training *t, ad_message *error);
bool cli_training_finish(cli_training *t, ad_message *error);
/* The command that goes on with this run, for a shell. */
void cli_training_command(const cli_training *t, ad_text *command);

#endif
