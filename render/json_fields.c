/* Members of a JSON object by name: what the lines of metrics.jsonl and the metadata of snapshots
 * need, which are flat, short, and written by render/json_lines.c. Nothing is built in memory: the
 * text is walked to the member each time.
 *
 * Each function takes the place where a value should begin and gives the one behind it, or NULL
 * where the text is no JSON. Files come from anywhere, so nesting is bounded. */
#include "render/json_fields.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 32, NAME_BYTES = 64 };

static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }

static unsigned hex4(const char *at) {
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        int c = tolower((unsigned char)at[i]);
        if (!isxdigit(c)) return 0x10000;
        value = value * 16 + (unsigned)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    return value;
}

// The UTF-8 of a code point; returns its length.
static size_t encode(unsigned code, char bytes[4]) {
    if (code < 0x80) return bytes[0] = (char)code, 1;
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length; i-- > 1; code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3f));
    bytes[0] = (char)(lead[length] | code);
    return length;
}

// One character of a string, unescaped into bytes.
static const char *character(const char *at, char bytes[4], size_t *count) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *count = 1;
    if ((unsigned char)*at < 0x20) return NULL;
    if (*at != '\\') return bytes[0] = *at, at + 1;
    at++;
    if (*at == 'u') {
        unsigned code = hex4(at + 1);
        at += 5;
        if (code > 0xffff || code == 0) return NULL;
        if (code >= 0xd800 && code < 0xdc00 && at[0] == '\\' && at[1] == 'u') {
            unsigned low = hex4(at + 2);
            if (low < 0xdc00 || low > 0xdfff) return NULL;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00), at += 6;
        }
        *count = encode(code, bytes);
        return at;
    }
    const char *found = *at ? strchr(from, *at) : NULL;
    if (!found) return NULL;
    bytes[0] = to[found - from];
    return at + 1;
}

// A string; copied to text where there is room (*fits says so). text may be NULL.
static const char *string(const char *at, char *text, size_t size, bool *fits) {
    size_t used = 0;
    *fits = true;
    if (*at++ != '"') return NULL;
    while (*at != '"') {
        char bytes[4];
        size_t count;
        at = character(at, bytes, &count);
        if (!at) return NULL;
        if (text && used + count < size) memcpy(text + used, bytes, count), used += count;
        else if (text) *fits = false;
    }
    if (text && size) text[used] = 0;
    return at + 1;
}

static const char *number(const char *at, double *value) {
    char *end;
    const char *digits = at + (*at == '-');
    if (!isdigit((unsigned char)*digits)) return NULL;
    if (*digits == '0' && (digits[1] == 'x' || digits[1] == 'X')) return NULL; // no hexadecimal
    *value = strtod(at, &end);
    return end == at || !isfinite(*value) ? NULL : end;
}

static const char *skip_value(const char *at, int depth) {
    bool fits;
    double ignored;
    if (*at == '"') return string(at, NULL, 0, &fits);
    if (strncmp(at, "true", 4) == 0 || strncmp(at, "null", 4) == 0) return at + 4;
    if (strncmp(at, "false", 5) == 0) return at + 5;
    if (*at != '{' && *at != '[') return number(at, &ignored);
    char close = *at == '{' ? '}' : ']';
    at = skip_space(at + 1);
    if (*at == close) return at + 1;
    for (;;) {
        if (depth >= DEPTH_MAX) return NULL;
        if (close == '}') {
            at = string(at, NULL, 0, &fits);
            at = at ? skip_space(at) : at;
            if (!at || *at++ != ':') return NULL;
            at = skip_space(at);
        }
        at = skip_value(at, depth + 1);
        at = at ? skip_space(at) : at;
        if (!at || (*at != ',' && *at != close)) return NULL;
        if (*at == close) return at + 1;
        at = skip_space(at + 1);
    }
}

bool render_json_is_object(const char *object) {
    const char *at = skip_space(object);
    at = *at == '{' ? skip_value(at, 0) : NULL;
    return at && !*skip_space(at);
}

// Where the value of the first member of that name begins.
static const char *member(const char *object, const char *name) {
    char found[NAME_BYTES];
    bool fits;
    const char *at = skip_space(object);
    if (*at++ != '{') return NULL;
    for (;;) {
        at = string(skip_space(at), found, sizeof found, &fits);
        at = at ? skip_space(at) : at;
        if (!at || *at++ != ':') return NULL;
        at = skip_space(at);
        if (fits && strcmp(found, name) == 0) return at;
        at = skip_value(at, 1);
        at = at ? skip_space(at) : at;
        if (!at || *at++ != ',') return NULL;
    }
}

bool render_json_get_number(const char *object, const char *name, double *value) {
    const char *at = member(object, name);
    return at && number(at, value);
}

bool render_json_get_boolean(const char *object, const char *name, bool *value) {
    const char *at = member(object, name);
    if (!at || (strncmp(at, "true", 4) != 0 && strncmp(at, "false", 5) != 0)) return false;
    *value = *at == 't';
    return true;
}

bool render_json_get_numbers(const char *object, const char *name, double *values, size_t count) {
    const char *at = member(object, name);
    if (!at || *at++ != '[') return false;
    for (size_t i = 0; i < count; i++) {
        at = number(skip_space(at), &values[i]);
        at = at ? skip_space(at) : at;
        if (!at || *at++ != (i + 1 < count ? ',' : ']')) return false;
    }
    return count > 0;
}

bool render_json_get_string(const char *object, const char *name, char *text, size_t size) {
    bool fits;
    const char *at = member(object, name);
    return at && string(at, text, size, &fits) && fits;
}
