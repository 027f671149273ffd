/* Growing text. Everything this program writes as JSON or HTML is built here in memory first and
   goes to a file in one piece, so that no writer ever leaves half a line behind. An allocation that
   fails is remembered in the text itself: twenty appends need one check.

   Strings come from file names and user input, hence any bytes at all. What is not well-formed
   UTF-8 (Unicode 15, table 3-7: no overlong forms, no surrogates, at most U+10FFFF) becomes
   U+FFFD, one for each bad byte, so that every line we write is valid JSON whatever it names. */
#include "autodiff/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `more` bytes and the NUL behind them. */
static bool text_reserve(ad_text *text, size_t more) {
    if (text->failed) return false;
    if (more < text->capacity && text->count < text->capacity - more) return true;
    size_t wanted = text->count + more + 1;
    if (wanted < more) return !(text->failed = true);
    size_t capacity = text->capacity ? text->capacity : 256;
    while (capacity < wanted) {
        if (capacity > SIZE_MAX / 2) return !(text->failed = true);
        capacity *= 2;
    }
    char *bytes = realloc(text->bytes, capacity);
    if (!bytes) return !(text->failed = true);
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

void ad_text_add(ad_text *text, const void *bytes, size_t count) {
    if (!text_reserve(text, count)) return;
    if (count) memcpy(text->bytes + text->count, bytes, count);
    text->count += count;
    text->bytes[text->count] = 0;
}

void ad_text_string(ad_text *text, const char *string) {
    if (string) ad_text_add(text, string, strlen(string));
}

void ad_text_format(ad_text *text, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int count = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (count < 0) text->failed = true;
    if (count >= 0 && text_reserve(text, (size_t)count)) {
        vsnprintf(text->bytes + text->count, (size_t)count + 1, format, again);
        text->count += (size_t)count;
    }
    va_end(again);
}

void ad_text_free(ad_text *text) {
    free(text->bytes);
    *text = (ad_text){ 0 };
}

int ad_utf8_length(const char *bytes, size_t count) {
    const unsigned char *b = (const unsigned char *)bytes;
    if (count == 0) return 0;
    if (b[0] < 0x80) return 1;
    int length = b[0] >= 0xc2 && b[0] <= 0xdf ? 2
               : b[0] >= 0xe0 && b[0] <= 0xef ? 3
               : b[0] >= 0xf0 && b[0] <= 0xf4 ? 4
                                              : 0;
    if (length == 0 || count < (size_t)length) return 0;

    // The second byte has a narrower range after four of the leads: overlong, surrogate, too large.
    unsigned char least = b[0] == 0xe0 ? 0xa0 : b[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char most = b[0] == 0xed ? 0x9f : b[0] == 0xf4 ? 0x8f : 0xbf;
    if (b[1] < least || b[1] > most) return 0;
    for (int i = 2; i < length; i++)
        if ((b[i] & 0xc0) != 0x80) return 0;
    return length;
}

void ad_text_json_string(ad_text *text, const char *string) {
    if (!string) {
        ad_text_string(text, "null");
        return;
    }
    size_t left = strlen(string);
    ad_text_add(text, "\"", 1);
    while (left > 0 && !text->failed) {
        int length = ad_utf8_length(string, left);
        unsigned char c = (unsigned char)*string;
        if (length == 0)
            ad_text_string(text, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            ad_text_format(text, "\\%c", c);
        else if (c == '\n')
            ad_text_string(text, "\\n");
        else if (c == '\t')
            ad_text_string(text, "\\t");
        else if (c < 0x20 || c == 0x7f)
            ad_text_format(text, "\\u%04x", c);
        else
            ad_text_add(text, string, (size_t)length);
        size_t step = length ? (size_t)length : 1;
        string += step;
        left -= step;
    }
    ad_text_add(text, "\"", 1);
}

void ad_text_json_number(ad_text *text, double number) {
    char digits[40];
    if (!isfinite(number)) {
        ad_text_string(text, "null");
        return;
    }
    // Whole numbers that a double holds exactly are written without an exponent.
    if (number == floor(number) && fabs(number) < 1e15) {
        ad_text_format(text, "%.0f", number);
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, number);
        if (strtod(digits, NULL) == number) break;
    }
    // A caller may have set a locale whose decimal point is a comma; JSON knows only the point.
    for (char *c = digits; *c; c++)
        if (*c == ',') *c = '.';
    ad_text_string(text, digits);
}
