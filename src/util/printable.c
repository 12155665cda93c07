/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/printable.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes of the sequence that `lead` announces; 1 where it announces none. */
static size_t announced_length(unsigned char lead)
{
    if (lead < 0xc0) {
        return 1;
    }
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

size_t printable_decode(const char *text, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)text;
    size_t length = announced_length(bytes[0]);

    if (length == 1) {
        *code = bytes[0];
        return bytes[0] < 0x80 ? 1 : 0;
    }
    *code = bytes[0] & (0x7fU >> length);
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(bytes[i])) {
            return 0;
        }
        *code = *code << 6 | (bytes[i] & 0x3fU);
    }
    /* Overlong forms, surrogates, and what lies past the last plane (0xf8 to 0xff lead there). */
    if (*code < least[length] || (*code >= 0xd800 && *code <= 0xdfff) || *code > 0x10ffff ||
        bytes[0] >= 0xf8) {
        return 0;
    }
    return length;
}

/* Of no letter: they command the terminal, or decide how the letters around them are shown. */
static const struct {
    uint32_t first, last;
} commands[] = {
    {0x0000, 0x001f},   /* C0 */
    {0x007f, 0x009f},   /* DEL, C1 */
    {0x061c, 0x061c},   /* the Arabic letter mark, */
    {0x200e, 0x200f},   /* the marks of a direction, */
    {0x2028, 0x202e},   /* ends of lines and paragraphs; embeddings, overrides, */
    {0x2066, 0x206f},   /* and isolates; deprecated ones of the same kind */
    {0xfeff, 0xfeff},   /* shown as nothing at all */
    {0xfff9, 0xfffb},   /* annotations: text that replaces other text */
    {0xe0000, 0xe007f}, /* tags, which nobody sees */
};

bool printable_is_command(uint32_t code)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (code >= commands[i].first && code <= commands[i].last) {
            return true;
        }
    }
    return false;
}

void printable_clean(char *text)
{
    while (*text != '\0') {
        uint32_t code;
        size_t length = printable_decode(text, &code);

        if (length == 0) {
            *text = '?';
            length = 1;
        } else if (printable_is_command(code)) {
            memset(text, '?', length);
        }
        text += length;
    }
}

size_t printable_cut(const char *text, size_t length)
{
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char byte = (unsigned char)text[length - back];

        if (!is_continuation(byte)) {
            return announced_length(byte) > back ? length - back : length;
        }
    }
    return length;
}

void printable_format(char *text, size_t size, const char *format, va_list arguments)
{
    int length = vsnprintf(text, size, format, arguments);

    if (length < 0) {
        snprintf(text, size, "(a message that could not be formatted)");
    } else if ((size_t)length >= size) {
        text[printable_cut(text, size - 1)] = '\0';
    }
    printable_clean(text);
}

static void print_line(FILE *out, bool clean, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));

static void print_line(FILE *out, bool clean, const char *format, va_list arguments)
{
    char *line = NULL;

    if (vasprintf(&line, format, arguments) < 0) {
        fputs("(a line that memory did not suffice for)\n", out);
        return;
    }
    if (clean) {
        printable_clean(line);
    }
    fprintf(out, "%s\n", line);
    free(line);
}

void printable_vline(FILE *out, const char *format, va_list arguments)
{
    print_line(out, true, format, arguments);
}

void printable_exact_line(FILE *out, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print_line(out, isatty(fileno(out)) == 1, format, arguments);
    va_end(arguments);
}

void printable_line(FILE *out, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    printable_vline(out, format, arguments);
    va_end(arguments);
}

int printable_flush(FILE *out)
{
    errno = 0;
    if (fflush(out) == 0 && !ferror(out)) {
        return 0;
    }
    return errno != 0 ? -errno : -EIO;
}
