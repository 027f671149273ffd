/* The table of options: what each is called, takes and means. */
#ifndef ADJOINT_CLI_OPTIONS_TABLE_H
#define ADJOINT_CLI_OPTIONS_TABLE_H
#include "cli/options.h"

typedef enum cli_kind {
    CLI_KIND_FLAG, CLI_KIND_TEXT, CLI_KIND_INTEGER, CLI_KIND_NUMBER, CLI_KIND_TIME,
    CLI_KIND_WORD,  // one of those in `argument`
    CLI_KIND_WORDS, // some of those in `words`
    CLI_KIND_COLOUR, CLI_KIND_BOX, CLI_KIND_SIZE
} cli_kind;

typedef struct cli_option {
    const char *name, *argument;
    cli_kind kind;
    unsigned commands;    // bits of cli_command_id
    double low, high;     // of a number
    const char *words;
    const char *expected; // ends the sentence "--x y: expected ..."
    const char *help;
} cli_option;

extern const cli_option cli_option_table[CLI_OPTIONS];

#endif
