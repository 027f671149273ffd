/* How far long work has come: a bar on a terminal, plain lines elsewhere. */
#ifndef ADJOINT_CLI_PROGRESS_H
#define ADJOINT_CLI_PROGRESS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct cli_progress_state {
    double share;              // of the work that is done, 0 ... 1; negative = unknown
    double seconds;            // since the work began; the only clock used
    int64_t step;              // negative = not shown
    double loss, psnr;         // NaN = not shown
    double samples_per_second; // NaN or 0 = not shown
} cli_progress_state;

typedef struct cli_progress {
    FILE *stream;           // NULL: quiet
    int columns;            // of the terminal; 0 = ask it at every drawing
    bool terminal, unicode; // found by begin; may be set afterwards
    bool shown;             // there is a bar on the screen now
    bool started;
    double first_share, first_seconds, drawn_seconds;
    cli_progress_state drawn; // of the last line
} cli_progress;

/* Looks at the stream (usually stderr) and the environment. quiet: every later call does nothing.
 */
void cli_progress_begin(cli_progress *progress, FILE *stream, bool quiet);
/* May be called as often as one likes; draws at most ten times a second, prints a line every five
   seconds (every thirty after the first two minutes). */
void cli_progress_update(cli_progress *progress, const cli_progress_state *state);
/* Takes the bar off the screen, before something else is printed. */
void cli_progress_clear(cli_progress *progress);
/* Clears, and prints the last state as a plain line, unless a log has it already. state NULL: only
   clears. */
void cli_progress_end(cli_progress *progress, const cli_progress_state *state);

#endif
