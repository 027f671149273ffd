/* The progress of long work. On a terminal one line is redrawn: share, bar, step, loss, PSNR,
   samples a second, time left; what does not fit the width is left out, the bar last of all. In a
   log file, where redrawing would be noise, whole lines come now and then.

   Time left is judged from the share done since the first update, not since zero: a resumed run
   begins in the middle. The only clock is the caller's, so that a test can turn it. */
#define _DEFAULT_SOURCE 1
#include "cli/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { FIELDS = 5, FIELD_BYTES = 48, BAR_LEAST = 8, BAR_MOST = 32 };

/* The locale by its environment variables, the first that is set: no setlocale needed. */
static bool utf8_terminal(void) {
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
    for (int i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strstr(value, "UTF-8") || strstr(value, "utf8") || strstr(value, "utf-8");
    }
    return false;
}

void cli_progress_begin(cli_progress *progress, FILE *stream, bool quiet) {
    const char *kind = getenv("TERM");
    *progress = (cli_progress){ .stream = quiet ? NULL : stream };
    if (quiet) return;
    progress->terminal = isatty(fileno(stream)) && kind && strcmp(kind, "dumb") != 0;
    progress->unicode = progress->terminal && utf8_terminal();
}

static int columns_of(const cli_progress *progress) {
    struct winsize size = { 0 };
    if (progress->columns) return progress->columns;
    if (ioctl(fileno(progress->stream), TIOCGWINSZ, &size) == 0 && size.ws_col) return size.ws_col;
    return 80;
}

/* 1234567 as "1,234,567". */
static void print_grouped(char *out, size_t size, int64_t value) {
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRId64, value);
    size_t used = 0;
    for (int i = 0; i < count && used + 2 < size; i++) {
        if (i && (count - i) % 3 == 0) out[used++] = ',';
        out[used++] = digits[i];
    }
    out[used] = 0;
}

/* 75 as "1:15", 3700 as "1:01:40". */
static void print_time(char *out, size_t size, double seconds) {
    int64_t whole = (int64_t)fmin(fmax(seconds, 0) + 0.5, 359999);
    int hours = (int)(whole / 3600), minutes = (int)(whole / 60 % 60), rest = (int)(whole % 60);
    if (hours)
        snprintf(out, size, "%d:%02d:%02d", hours, minutes, rest);
    else
        snprintf(out, size, "%d:%02d", minutes, rest);
}

/* The parts of the line in the order shown; those without a value are empty. */
static void fields_print(char fields[FIELDS][FIELD_BYTES], const cli_progress *progress,
                         const cli_progress_state *state) {
    char number[32];
    memset(fields, 0, FIELDS * sizeof *fields);
    if (state->step >= 0) {
        print_grouped(number, sizeof number, state->step);
        snprintf(fields[0], FIELD_BYTES, "step %s", number);
    }
    if (isfinite(state->loss)) snprintf(fields[1], FIELD_BYTES, "loss %.3g", state->loss);
    if (isfinite(state->psnr)) snprintf(fields[2], FIELD_BYTES, "PSNR %.2f dB", state->psnr);
    double rate = state->samples_per_second;
    if (rate >= 1e6)
        snprintf(fields[3], FIELD_BYTES, "%.2f M samples/s", rate / 1e6);
    else if (rate > 0)
        snprintf(fields[3], FIELD_BYTES, "%.0f k samples/s", rate / 1e3);

    double done = state->share - progress->first_share;
    double passed = state->seconds - progress->first_seconds;
    if (state->share >= 0 && state->share < 1 && done > 0 && passed > 0) {
        print_time(number, sizeof number, passed / done * (1 - state->share));
        snprintf(fields[4], FIELD_BYTES, "%s left", number);
    }
}

/* Eighths of a cell where the terminal has them, whole cells of ASCII elsewhere. */
static void bar_draw(FILE *stream, bool unicode, int cells, double share) {
    static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int filled = (int)(fmin(fmax(share, 0), 1) * cells * 8 + 0.5);
    if (!unicode) filled -= filled % 8;
    for (int i = 0; i < filled / 8; i++) fputs(unicode ? "█" : "#", stream);
    fputs(eighths[filled % 8], stream);
    for (int i = (filled + 7) / 8; i < cells; i++) fputc(unicode ? ' ' : '.', stream);
}

static void line_draw(cli_progress *progress, const cli_progress_state *state) {
    // What goes first when the terminal is narrow: rate, loss, step, PSNR, time left.
    static const int dispensable[FIELDS] = { 3, 1, 0, 2, 4 };
    char fields[FIELDS][FIELD_BYTES];
    int columns = columns_of(progress) - 1, bar = state->share >= 0 ? BAR_LEAST : 0;
    int fixed = state->share >= 0 ? 5 : 0; // "100% "
    int used = 0, next = 0;
    fields_print(fields, progress, state);
    for (int i = 0; i < FIELDS; i++) used += *fields[i] ? (int)strlen(fields[i]) + 2 : 0;
    while (fixed + bar + used > columns && next < FIELDS) {
        char *field = fields[dispensable[next++]];
        used -= *field ? (int)strlen(field) + 2 : 0;
        *field = 0;
    }
    if (bar) bar = columns - fixed - used;
    if (bar > BAR_MOST) bar = BAR_MOST;

    fputc('\r', progress->stream);
    if (state->share >= 0 && columns >= fixed)
        fprintf(progress->stream, "%3d%% ", (int)(fmin(state->share, 1) * 100));
    if (bar > 0) bar_draw(progress->stream, progress->unicode, bar, state->share);
    for (int i = 0; i < FIELDS; i++)
        if (*fields[i]) fprintf(progress->stream, "  %s", fields[i]);
    fputs("\033[K", progress->stream);
    progress->shown = true;
}

static void line_print(cli_progress *progress, const cli_progress_state *state) {
    char fields[FIELDS][FIELD_BYTES], passed[16];
    fields_print(fields, progress, state);
    print_time(passed, sizeof passed, state->seconds);
    fprintf(progress->stream, "%s", passed);
    if (state->share >= 0) fprintf(progress->stream, "  %d%%", (int)(fmin(state->share, 1) * 100));
    for (int i = 0; i < FIELDS; i++)
        if (*fields[i]) fprintf(progress->stream, "  %s", fields[i]);
    fputc('\n', progress->stream);
}

void cli_progress_update(cli_progress *progress, const cli_progress_state *state) {
    if (!progress->stream) return;
    if (!progress->started) {
        progress->started = true;
        progress->first_share = fmax(state->share, 0);
        progress->first_seconds = state->seconds;
        progress->drawn_seconds = progress->terminal ? -INFINITY : state->seconds;
    }
    double interval = progress->terminal ? 0.1 : state->seconds < 120 ? 5 : 30;
    if (state->seconds - progress->drawn_seconds < interval) return;
    progress->drawn_seconds = state->seconds, progress->drawn = *state;
    if (progress->terminal)
        line_draw(progress, state);
    else
        line_print(progress, state);
    fflush(progress->stream);
}

void cli_progress_clear(cli_progress *progress) {
    if (!progress->stream || !progress->shown) return;
    fputs("\r\033[K", progress->stream);
    fflush(progress->stream);
    progress->shown = false;
    progress->drawn_seconds = -INFINITY; // the next update draws it again
}

void cli_progress_end(cli_progress *progress, const cli_progress_state *state) {
    if (!progress->stream) return;
    cli_progress_clear(progress);
    const cli_progress_state *drawn = &progress->drawn;
    bool printed = !progress->terminal && state && state->step > 0 && state->step == drawn->step
                && state->loss == drawn->loss && state->psnr == drawn->psnr;
    if (state && !printed) line_print(progress, state);
    fflush(progress->stream);
    progress->stream = NULL;
}
