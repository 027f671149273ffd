/* Where words go. People read stderr; stdout is for what was asked for: a result in words, or with
 * --json one object a line and nothing else. A line is built whole and written in one piece.
 *
 * A reader of stdout that goes away (adjoint ... | head) does not end hours of training: writing
 * there is given up, the run goes on. */
#include "cli/output.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted, silent; // told to stop; not to say so

void cli_output_begin(cli_output *out, const cli_options *options) {
    *out = (cli_output){.json = options->value[CLI_JSON].given,
                        .quiet = options->value[CLI_QUIET].given};
    silent = out->quiet;
}

void cli_output_end(cli_output *out) {
    cli_progress_end(&out->progress, NULL);
    render_json_free(&out->line);
}

static void say(cli_output *out, FILE *stream, const char *start, const char *format,
                va_list arguments) {
    cli_progress_clear(&out->progress);
    fputs(start, stream);
    vfprintf(stream, format, arguments);
    fputc('\n', stream);
    fflush(stream);
}

void cli_note(cli_output *out, const char *format, ...) {
    va_list arguments;
    if (out->quiet) return;
    va_start(arguments, format);
    say(out, stderr, "", format, arguments);
    va_end(arguments);
}

void cli_warn(cli_output *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(out, stderr, "warning: ", format, arguments);
    va_end(arguments);
}

void cli_result(cli_output *out, const char *format, ...) {
    va_list arguments;
    if (out->json) return;
    va_start(arguments, format);
    say(out, stdout, "", format, arguments);
    va_end(arguments);
}

int cli_failed(cli_output *out, const ad_message *error) {
    ad_message ignored;
    cli_progress_clear(&out->progress);
    fprintf(stderr, "adjoint: %s\n", error->text);
    cli_event_begin(out, "error");
    render_json_string(&out->line, "message", error->text);
    cli_event_send(out, &ignored);
    return 1;
}

void cli_event_begin(cli_output *out, const char *event) {
    render_json_begin(&out->line);
    render_json_string(&out->line, "event", event);
}

static bool keep(cli_output *out, const char *text, ad_message *error) {
    if (!out->metrics) return true;
    if (fputs(text, out->metrics) >= 0 && fflush(out->metrics) == 0) return true;
    int reason = errno;
    return ad_fail(error, "metrics.jsonl: cannot be written%s: %s",
                   reason == ENOSPC ? ", the disk is full" : "", strerror(reason));
}

bool cli_event_keep(cli_output *out, ad_message *error) {
    const char *text = render_json_end(&out->line);
    return text ? keep(out, text, error) : ad_fail(error, "out of memory for a line of JSON");
}

bool cli_event_send(cli_output *out, ad_message *error) {
    const char *text = render_json_end(&out->line);
    if (!text) return ad_fail(error, "out of memory for a line of JSON");
    if (out->json && !ferror(stdout)) {
        cli_progress_clear(&out->progress);
        fputs(text, stdout);
        fflush(stdout);
    }
    return keep(out, text, error);
}

bool cli_stdout_close(ad_message *error) {
    errno = 0;
    bool flushed = fflush(stdout) == 0 && !ferror(stdout);
    if (flushed || errno == EPIPE) return true;
    // The write that failed may be long past and its reason gone; a pipe without a reader still
    // says so itself.
    int reason = errno;
    struct pollfd pipe = {.fd = STDOUT_FILENO};
    if (poll(&pipe, 1, 0) > 0 && (pipe.revents & POLLERR)) return true;
    errno = reason;
    return ad_fail(error, "standard output: cannot be written%s%s", errno ? ": " : "",
                   errno ? strerror(errno) : "");
}

double cli_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int64_t cli_peak_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    return (int64_t)usage.ru_maxrss * 1024;
}

const char *cli_colour_text(char text[48], const float colour[3]) {
    bool white = true, black = true;
    for (int i = 0; i < 3; i++) white = white && colour[i] == 1, black = black && colour[i] == 0;
    if (white || black) strcpy(text, white ? "white" : "black");
    else snprintf(text, 48, "%.6g,%.6g,%.6g", (double)colour[0], (double)colour[1],
                  (double)colour[2]);
    return text;
}

const char *cli_views_text(char text[48], int count, int of) {
    if (count < of) snprintf(text, 48, "%d of %d views", count, of);
    else snprintf(text, 48, count == 1 ? "1 view" : "%d views", count);
    return text;
}

const char *cli_ssim_text(char text[32], double ssim) {
    if (isfinite(ssim)) snprintf(text, 32, "%.4f", ssim);
    else strcpy(text, "none (below 11 x 11)");
    return text;
}

/* ---- signals */

// The work goes on to where it can stop, which may take seconds; write is safe in a handler.
static void note_signal(int number) {
    static const char text[] = "\nstopping as soon as it can; once more ends it at once\n";
    const int kept = errno;
    (void)number;
    interrupted = 1;
    ssize_t written = silent ? 0 : write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    errno = kept;
}

void cli_signals_install(void) {
    struct sigaction once = {.sa_handler = note_signal, .sa_flags = SA_RESETHAND | SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &once, NULL);
    sigaction(SIGTERM, &once, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
}

bool cli_interrupted(void) { return interrupted != 0; }
