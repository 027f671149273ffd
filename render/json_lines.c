/* JSON objects of one line. The line grows in memory and is written in one piece, so that a reader
   of the stream or of the file never sees half of one. Numbers are the shortest that read back to
   the same double; what JSON cannot say (NaN, infinity) is null; strings may hold any bytes. */
#include "render/json_lines.h"

#include <inttypes.h>

void render_json_begin(render_json *line) {
    line->text.count = 0;
    ad_text_string(&line->text, "{");
}

/* A comma unless this is the first member, the quoted name, a colon. */
static void member(render_json *line, const char *name) {
    if (line->text.count && line->text.bytes[line->text.count - 1] != '{')
        ad_text_string(&line->text, ",");
    ad_text_json_string(&line->text, name);
    ad_text_string(&line->text, ":");
}

void render_json_string(render_json *line, const char *name, const char *value) {
    member(line, name);
    ad_text_json_string(&line->text, value);
}

void render_json_number(render_json *line, const char *name, double value) {
    member(line, name);
    ad_text_json_number(&line->text, value);
}

void render_json_integer(render_json *line, const char *name, int64_t value) {
    member(line, name);
    ad_text_format(&line->text, "%" PRId64, value);
}

void render_json_boolean(render_json *line, const char *name, bool value) {
    member(line, name);
    ad_text_string(&line->text, value ? "true" : "false");
}

void render_json_numbers(render_json *line, const char *name, const double *values, size_t count) {
    member(line, name);
    ad_text_string(&line->text, "[");
    for (size_t i = 0; i < count; i++) {
        if (i) ad_text_string(&line->text, ",");
        ad_text_json_number(&line->text, values[i]);
    }
    ad_text_string(&line->text, "]");
}

void render_json_object_begin(render_json *line, const char *name) {
    member(line, name);
    ad_text_string(&line->text, "{");
}

void render_json_object_end(render_json *line) {
    ad_text_string(&line->text, "}");
}

const char *render_json_end(render_json *line) {
    ad_text_string(&line->text, "}\n");
    return line->text.failed ? NULL : line->text.bytes;
}

void render_json_free(render_json *line) {
    ad_text_free(&line->text);
}
