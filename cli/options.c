/* The options: reading them by the table in options_table.c.
 *
 * Both `--name value` and `--name=value` are read, and a value may begin with a dash. Every mistake
 * is answered with the name of what is wrong and what would be right; nothing is guessed. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options_table.h"

/* ---- values */

bool cli_time_read(const char *text, double *seconds) {
    double total = 0;
    if (!*text) return false;
    while (*text) {
        char *end;
        if (*text < '0' || *text > '9') return false;
        double part = strtod(text, &end);
        double unit = *end == 'h' ? 3600 : *end == 'm' ? 60 : 1;
        if (*end == 'h' || *end == 'm' || *end == 's') end++;
        else if (*end) return false;
        total += part * unit;
        text = end;
    }
    *seconds = total;
    return isfinite(total) && total > 0;
}

// Exactly `count` finite numbers with commas between.
static bool numbers_read(const char *text, double *numbers, int count) {
    for (int i = 0; i < count; i++) {
        char *end;
        numbers[i] = strtod(text, &end);
        if (end == text || !isfinite(numbers[i])) return false;
        if (*end != (i + 1 < count ? ',' : 0)) return false;
        text = end + 1;
    }
    return true;
}

bool cli_colour_read(const char *text, float colour[3]) {
    double numbers[3] = {0, 0, 0};
    bool white = strcmp(text, "white") == 0;
    if (!white && strcmp(text, "black") != 0 && !numbers_read(text, numbers, 3)) return false;
    for (int i = 0; i < 3; i++) {
        colour[i] = white ? 1 : (float)numbers[i];
        if (!(colour[i] >= 0 && colour[i] <= 1)) return false;
    }
    return true;
}

// One of the words in "a|b|c"; with `list`, one or more of them with commas between.
static bool word_read(const char *text, const char *words, bool list) {
    do {
        size_t length = strcspn(text, list ? "," : "");
        const char *at = words;
        for (; *at; at += strcspn(at, "|"), at += *at == '|')
            if (strcspn(at, "|") == length && length && strncmp(at, text, length) == 0) break;
        if (!*at) return false;
        text += length;
    } while (list && *text == ',' && *++text);
    return !*text;
}

static bool integer_read(const char *text, int64_t *integer) {
    char *end;
    errno = 0;
    *integer = strtoll(text, &end, 10);
    return end != text && !*end && !errno;
}

// The value by its kind; false where it is not one.
static bool value_read(const cli_option *option, cli_value *value) {
    const char *text = value->text;
    char *end;
    float colour[3];
    double *number = value->number;
    switch (option->kind) {
    case CLI_KIND_FLAG: return true;
    case CLI_KIND_TEXT: return *text != 0;
    case CLI_KIND_INTEGER:
        return integer_read(text, &value->integer) && (double)value->integer >= option->low
            && (double)value->integer <= option->high;
    case CLI_KIND_NUMBER:
        *number = strtod(text, &end);
        return end != text && (!*end || strcmp(end, "%") == 0) && *number >= option->low
            && *number <= option->high;
    case CLI_KIND_TIME: // the words stand for no time at all
        if (option->words && word_read(text, option->words, false)) return *number = 0, true;
        return cli_time_read(text, number);
    case CLI_KIND_WORD: return word_read(text, option->argument, false);
    case CLI_KIND_WORDS: return word_read(text, option->words, true);
    case CLI_KIND_COLOUR: return strcmp(text, "random") == 0 || cli_colour_read(text, colour);
    case CLI_KIND_BOX:
        return numbers_read(text, number, 6) && number[0] < number[3] && number[1] < number[4]
            && number[2] < number[5];
    case CLI_KIND_SIZE: {
        long width = strtol(text, &end, 10);
        if (end == text || (*end != 'x' && *end != 'X')) return false;
        char *height = end + 1;
        number[0] = (double)width, number[1] = (double)strtol(height, &end, 10);
        return end != height && !*end && width >= 1 && number[1] >= 1
            && number[0] * number[1] <= 1 << 27;
    }
    }
    return false;
}

/* ---- names */

// Edit distance of two short names; long ones are far apart.
static int distance(const char *a, size_t a_length, const char *b, size_t b_length) {
    int row[33];
    if (a_length > 32 || b_length > 32) return 99;
    for (size_t j = 0; j <= b_length; j++) row[j] = (int)j;
    for (size_t i = 1; i <= a_length; i++) {
        int corner = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_length; j++) {
            int change = corner + (a[i - 1] != b[j - 1]), least = row[j] + 1;
            corner = row[j];
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            row[j] = change < least ? change : least;
        }
    }
    return row[b_length];
}

// Of a short name one letter may be wrong, of a long one two.
static bool closer(int far, size_t length, int least) {
    return far < least && 3 * far <= (int)length;
}

const char *cli_command_nearest(const char *name) {
    static const cli_command_id ids[] = {CLI_RECONSTRUCT, CLI_RENDER, CLI_EVAL, CLI_INFO};
    const char *nearest = NULL;
    const size_t length = strlen(name);
    int least = 3;
    for (int i = 0; i < 4; i++) {
        const char *command = cli_command_name(ids[i]);
        int far = distance(name, length, command, strlen(command));
        if (closer(far, length, least)) least = far, nearest = command;
    }
    return nearest;
}

static bool unknown_option(const cli_options *options, const char *name, size_t length,
                           ad_message *error) {
    const cli_option *nearest = NULL;
    int least = 3;
    for (int i = 0; i < CLI_OPTIONS; i++) {
        const cli_option *option = &cli_option_table[i];
        if (length == strlen(option->name) && strncmp(name, option->name, length) == 0)
            return ad_fail(error, "--%s is not an option of %s; see 'adjoint help %s'",
                           option->name, options->name, options->name);
        if (!(option->commands & options->command)) continue;
        int far = distance(name, length, option->name, strlen(option->name));
        if (closer(far, length, least)) least = far, nearest = option;
    }
    if (nearest)
        return ad_fail(error, "unknown option '--%.*s': did you mean '--%s'?", (int)length, name,
                       nearest->name);
    return ad_fail(error, "unknown option '--%.*s'; 'adjoint help %s' lists them", (int)length,
                   name, options->name);
}

/* ---- the line */

// The option at arguments[*at], and its value; moves *at past the value.
static bool option_read(cli_options *options, int count, char **arguments, int *at,
                        ad_message *error) {
    const char *name = arguments[*at] + 2;
    size_t length = strcspn(name, "=");
    int id = 0;
    for (; id < CLI_OPTIONS; id++)
        if ((cli_option_table[id].commands & options->command)
            && strlen(cli_option_table[id].name) == length
            && strncmp(name, cli_option_table[id].name, length) == 0)
            break;
    if (id == CLI_OPTIONS) return unknown_option(options, name, length, error);
    const cli_option *option = &cli_option_table[id];
    cli_value *value = &options->value[id];
    if (value->given) return ad_fail(error, "--%s is given twice", option->name);
    value->given = true;
    if (option->kind == CLI_KIND_FLAG) {
        if (name[length]) return ad_fail(error, "--%s takes no value", option->name);
        return true;
    }
    if (name[length]) value->text = name + length + 1;
    else if (*at + 1 < count) value->text = arguments[++*at];
    else
        return ad_fail(error, "--%s needs a value: --%s %s", option->name, option->name,
                       option->argument);
    bool none = id == CLI_LIMIT && options->command == CLI_EVAL; // there is nothing else to do
    if (value_read(option, value) && !(none && value->integer == 0)) return true;
    return ad_fail(error, "--%s %s: expected %s", option->name, *value->text ? value->text : "''",
                   none ? "a number of views from 1 on" : option->expected);
}

static bool exclusive(const cli_options *options, const int *ids, int count, ad_message *error) {
    int first = -1;
    for (int i = 0; i < count; i++) {
        if (!options->value[ids[i]].given) continue;
        if (first >= 0)
            return ad_fail(error, "--%s and --%s exclude each other: leave one out",
                           cli_option_table[first].name, cli_option_table[ids[i]].name);
        first = ids[i];
    }
    return true;
}

bool cli_options_read(cli_options *options, cli_command_id command, int count, char **arguments,
                      ad_message *error) {
    static const int horizon[] = {CLI_TIME, CLI_STEPS}, existing[] = {CLI_RESUME, CLI_FORCE};
    static const int cameras[] = {CLI_SPLIT, CLI_ORBIT, CLI_CAMERA};
    const char *extra = NULL;
    bool ended = false;
    *options = (cli_options){.command = command, .name = cli_command_name(command)};
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i];
        if (!ended && strcmp(argument, "--") == 0) ended = true;
        else if (!ended && strcmp(argument, "-h") == 0) options->value[CLI_HELP].given = true;
        else if (!ended && strncmp(argument, "--", 2) == 0) {
            if (!option_read(options, count, arguments, &i, error)) return false;
        } else if (!ended && argument[0] == '-' && argument[1])
            return ad_fail(error, "unknown option '%s': options begin with two dashes", argument);
        else if (!options->place) options->place = argument;
        else if (!extra) extra = argument;
    }
    if (options->value[CLI_HELP].given) return true;
    const char *place = command == CLI_RECONSTRUCT ? "FOLDER" : "RUN";
    if (!options->place || !*options->place)
        return ad_fail(error, "which %s? adjoint %s %s; see 'adjoint help %s'",
                       command == CLI_RECONSTRUCT ? "folder" : "run", options->name, place,
                       options->name);
    if (extra)
        return ad_fail(error, "one %s is expected, and '%s' is one too many; see 'adjoint help %s'",
                       place, extra, options->name);
    const cli_value *steps = &options->value[CLI_STEPS], *stop = &options->value[CLI_STOP_AT];
    if (steps->given && stop->given && stop->integer > steps->integer)
        return ad_fail(error, "--stop-at %s lies behind the last of --steps %s", stop->text,
                       steps->text);
    return exclusive(options, horizon, 2, error) && exclusive(options, existing, 2, error)
        && exclusive(options, cameras, 3, error);
}
