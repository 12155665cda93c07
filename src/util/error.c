/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/error.h"

#include "util/printable.h"

#include <stdarg.h>
#include <string.h>

int error_set(struct error *error, int code, const char *format, ...)
{
    /* A text of its own: a caller may put error->text itself into a longer sentence. */
    char text[ERROR_TEXT_MAX];
    va_list arguments;

    if (error == NULL) {
        return -code;
    }
    va_start(arguments, format);
    printable_format(text, sizeof(text), format, arguments);
    va_end(arguments);
    memcpy(error->text, text, strlen(text) + 1);
    error->code = code;
    return -code;
}
