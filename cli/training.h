/* One call of `reconstruct`: what its files share. */
#ifndef ADJOINT_CLI_TRAINING_H
#define ADJOINT_CLI_TRAINING_H
#include "cli/commands.h"

enum { CLI_KEPT = 4 };

typedef struct cli_kept_view { // a picture for the report, smaller by a whole factor if need be
    const char *name;
    render_camera camera;
    uint8_t *pixels;           // target, result, depth, normal: (4, height, width, 3)
    bool drawn;                // depth and normal are there
    double psnr, ssim;
} cli_kept_view;

typedef struct cli_training {
    const cli_options *options;
    cli_output out;
    cli_run run;
    cli_run_mode mode;
    uint64_t seed;
    int64_t stop_at;                  // 0: none
    int limit;                        // of views to measure; negative: none but time
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
    double preview_at, preview_pixels; // the last one: when, and of how many pixels,
    double pixel_seconds, preview_occupied; // what each cost, and the share of occupied cells then
    double view_pixel_seconds;        // of a view at the end
    bool interrupted, measuring_interrupted;
    render_score score;               // of the held-out views; images 0: none
    cli_kept_view kept[CLI_KEPT];
    int kept_count;
} cli_training;

static const double CLI_PREVIEW_SHARE = 0.005; // of the time should go to previews
enum { CLI_PREVIEW_PIXELS = 512 };             // the smallest of them

/* reconstruct.c: opens everything; training.c: trains; preview.c; measure.c; finish.c: reports. */
bool cli_training_run(cli_training *t, ad_message *error);
bool cli_training_snapshot(cli_training *t, ad_message *error);
bool cli_training_preview(cli_training *t, ad_message *error);
/* Seconds that a pixel of the next preview will cost, judged from the last one. */
double cli_training_pixel_cost(const cli_training *t);
bool cli_training_finish(cli_training *t, ad_message *error);
bool cli_training_measure(cli_training *t, ad_message *error);
bool cli_training_draw(cli_training *t, ad_message *error); // depth and normals of the kept views
void cli_training_forget(cli_training *t);                  // the kept views
/* The horizon is reached. */
bool cli_training_over(const cli_training *t);
/* A resumed run of which nothing is left to do, and what is said of it. */
bool cli_training_settled(const cli_training *t);
bool cli_training_say_settled(cli_training *t, ad_message *error);
/* The commands that measure this run, go on with it, and make such a run, for a shell. */
void cli_training_eval_command(const cli_training *t, ad_text *command);
void cli_training_command(const cli_training *t, ad_text *command);
void cli_training_make_command(const cli_training *t, ad_text *command);

#endif
