/* Messages: how code that has no context reports a failure of the outside world. */
#include "autodiff/autodiff.h"

#include <stdarg.h>
#include <stdio.h>

bool ad_fail(ad_message *error, const char *format, ...) {
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return false;
}
