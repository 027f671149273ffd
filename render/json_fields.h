/* Reading back the JSON that this program writes: members of one object, by name. Internal header.
 * `object` ends in a NUL; what is not JSON, or not of the kind asked for, is simply not found. */
#ifndef ADJOINT_JSON_FIELDS_H
#define ADJOINT_JSON_FIELDS_H
#include <stdbool.h>
#include <stddef.h>

bool render_json_is_object(const char *object); // all of the text, and nothing else but space
bool render_json_get_number(const char *object, const char *name, double *value);
bool render_json_get_boolean(const char *object, const char *name, bool *value);
/* Exactly `count` numbers. */
bool render_json_get_numbers(const char *object, const char *name, double *values, size_t count);
/* False also where the text is longer than size - 1 bytes. */
bool render_json_get_string(const char *object, const char *name, char *text, size_t size);

#endif
