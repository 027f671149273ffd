/* JSON objects of one line, for `--json` and metrics.jsonl. Internal header.

       render_json line = { 0 };
       render_json_begin(&line);
       render_json_string(&line, "event", "train");
       render_json_integer(&line, "step", step);
       render_json_number(&line, "loss", loss);
       const char *text = render_json_end(&line);          // {"event":"train",...} and a newline
       if (text) fputs(text, stdout);
       render_json_free(&line);                            // once, after the last line

   Zero-initialised is valid; begin starts a new line in the same memory. */
#ifndef ADJOINT_JSON_LINES_H
#define ADJOINT_JSON_LINES_H
#include <stdint.h>

#include "autodiff/text.h"

typedef struct render_json {
    ad_text text;
} render_json;

void render_json_begin(render_json *line);
void render_json_string(render_json *line, const char *name, const char *value); // NULL is null
void render_json_number(render_json *line, const char *name, double value); // NaN, inf are null
void render_json_integer(render_json *line, const char *name, int64_t value);
void render_json_boolean(render_json *line, const char *name, bool value);
void render_json_numbers(render_json *line, const char *name, const double *values, size_t count);
/* Numbers, integers and so on between these two become members of an object of their own. */
void render_json_object_begin(render_json *line, const char *name);
void render_json_object_end(render_json *line);
/* The line with its newline, or NULL when memory ran out. It stays until the next begin or free. */
const char *render_json_end(render_json *line);
void render_json_free(render_json *line);

#endif
