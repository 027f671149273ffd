/* What can be written after a command: one table of all options, shared by the commands. */
#ifndef ADJOINT_CLI_OPTIONS_H
#define ADJOINT_CLI_OPTIONS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "autodiff/autodiff.h"

typedef enum cli_command_id {
    CLI_RECONSTRUCT = 1, // bits: an option belongs to a set of commands
    CLI_RENDER = 2,
    CLI_EVAL = 4,
    CLI_INFO = 8
} cli_command_id;

typedef enum cli_option_id {
    CLI_OUT, CLI_FIELD, CLI_PRESET, CLI_TIME, CLI_STEPS, CLI_STOP_AT, CLI_BATCH, CLI_RAYS,
    CLI_PRECISION, CLI_DOWNSCALE, CLI_HOLD_OUT, CLI_TOLERATE, CLI_BACKGROUND, CLI_BOX, CLI_NEAR,
    CLI_PREVIEW, CLI_RESUME, CLI_FORCE, CLI_ORBIT, CLI_CAMERA, CLI_SIZE, CLI_WHAT, CLI_DATA,
    CLI_SPLIT, CLI_LIMIT, CLI_DEVICE, CLI_THREADS, CLI_SEED, CLI_JSON, CLI_QUIET, CLI_HELP,
    CLI_OPTIONS
} cli_option_id;

typedef struct cli_value {
    bool given;
    const char *text;   // as written
    double number[6];   // a time is in seconds
    int64_t integer;
} cli_value;

typedef struct cli_options {
    cli_command_id command;
    const char *name;   // of the command
    const char *place;  // the folder or the run
    cli_value value[CLI_OPTIONS];
} cli_options;

/* Reads what follows the command's name. False with a sentence that hints at what would be right:
   exit status 2. With --help nothing else is asked for. */
bool cli_options_read(cli_options *options, cli_command_id command, int count, char **arguments,
                      ad_message *error);

/* The command of that name, or 0. */
cli_command_id cli_command_find(const char *name);
const char *cli_command_name(cli_command_id command);
/* The command whose name is nearest to a mistyped one, or NULL. */
const char *cli_command_nearest(const char *name);

void cli_help_print(FILE *stream);                            // all commands
void cli_help_command(FILE *stream, cli_command_id command);  // one command

/* "white", "black" or "R,G,B" from 0 to 1. */
bool cli_colour_read(const char *text, float colour[3]);
/* "90", "60s", "5m", "1h30m": seconds. */
bool cli_time_read(const char *text, double *seconds);

#endif
