/* SPDX-License-Identifier: MIT */
/*
 * Text for people's terminals and logs, made of strings that may come from an
 * image or a file name. What a terminal could take for a command does not get
 * through: control characters (C0, DEL, and the C1 controls U+0080 to U+009F)
 * and bytes that are not UTF-8 become `?`, one for each byte.
 */
#ifndef UTIL_PRINTABLE_H
#define UTIL_PRINTABLE_H

#include <stdarg.h>
#include <stddef.h>

/* Replaces in place; the length stays. */
void printable_clean(char *text);

/*
 * The longest length <= `length` at which `text` can be cut without leaving the
 * beginning of a UTF-8 sequence behind. `text` has at least `length` bytes.
 */
size_t printable_cut(const char *text, size_t length);

/* Formats into `text` of `size` (> 0) bytes, cut to fit, and cleans. */
void printable_format(char *text, size_t size, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));

#endif
