/* What a command says: messages on stderr, results or JSON lines on stdout. */
#ifndef ADJOINT_CLI_OUTPUT_H
#define ADJOINT_CLI_OUTPUT_H
#include <stdbool.h>
#include <stdio.h>

#include "cli/options.h"
#include "cli/progress.h"
#include "render/json_lines.h"
#include "render/render.h"

typedef struct cli_output {
    bool json, quiet;
    FILE *metrics;         // every line goes here as well; NULL = none
    render_json line;
    cli_progress progress; // cleared before anything is printed
} cli_output;

void cli_output_begin(cli_output *out, const cli_options *options);
void cli_output_end(cli_output *out);

void cli_note(cli_output *out, const char *format, ...);    // to stderr, unless quiet
void cli_warn(cli_output *out, const char *format, ...);    // to stderr
void cli_result(cli_output *out, const char *format, ...);  // to stdout, unless --json; also quiet
int cli_failed(cli_output *out, const ad_message *error);   // says so, and gives exit status 1

/* Between begin and send members are added to out->line. */
void cli_event_begin(cli_output *out, const char *event);
bool cli_event_send(cli_output *out, ad_message *error);    // to stdout with --json, and metrics
bool cli_event_keep(cli_output *out, ad_message *error);    // to metrics alone
/* True when all that went to stdout arrived. A pipe that was closed is no error. */
bool cli_stdout_close(ad_message *error);

double cli_clock(void);                // seconds
int64_t cli_peak_bytes(void);          // of this process, resident
const char *cli_colour_text(char text[48], const float colour[3]); // "white", "0.2,0.3,0.4"
const char *cli_views_text(char text[48], int count, int of);      // "1 view", "7 of 20 views"
const char *cli_ssim_text(char text[32], double ssim);             // "0.9876", "none (too small)"

/* SIGINT and SIGTERM: remembered once, the second one ends the program as usual. SIGPIPE and
   SIGXFSZ: ignored, writing fails instead. */
void cli_signals_install(void);
bool cli_interrupted(void);

#endif
