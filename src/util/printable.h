/* SPDX-License-Identifier: MIT */
/*
 * Text for people's terminals and logs, made of strings that may come from an
 * image, a file name or a command line. What a terminal could take for a command
 * does not get through: control characters (C0, DEL, and the C1 controls U+0080
 * to U+009F), those that turn the direction of the text around them or are ends
 * of lines (Unicode's bidirectional controls, U+2028 and U+2029, tags), and bytes
 * that are not UTF-8 become `?`, one for each byte.
 *
 * All that the programs print goes through here: lines for people through
 * printable_line(), sentences and log lines through printable_format(), text of a
 * picture through printable_clean(); JSON (util/json) asks
 * printable_is_command() what to print as \u escapes. tests/floors finds code
 * that writes to the terminal otherwise.
 */
#ifndef UTIL_PRINTABLE_H
#define UTIL_PRINTABLE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Bytes of the UTF-8 sequence at `text` (RFC 3629), and what it stands for; 0
 * where there is none. Does not look past a NUL, since that continues no sequence.
 */
size_t printable_decode(const char *text, uint32_t *code);

/* Whether a terminal could take that code point for a command. */
bool printable_is_command(uint32_t code);

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

/* Prints one line of any length, cleaned, and a newline; `format` has none. Errors stay in `out`.
 */
void printable_line(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void printable_vline(FILE *out, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

/* The same, but cleaned only where `out` is a terminal: what a program reads names files by. */
void printable_exact_line(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Hands over what was printed. 0, or a negative errno: not all of it, now or before, arrived. */
int printable_flush(FILE *out);

#endif
