/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/printable.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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

/*
 * Bytes of the UTF-8 sequence at `bytes` (RFC 3629), or 0 where there is none.
 * Does not look past a NUL, since that continues no sequence.
 */
static size_t decode(const unsigned char *bytes, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
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

static bool is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

void printable_clean(char *text)
{
    unsigned char *bytes = (unsigned char *)text;

    while (*bytes != 0) {
        uint32_t code;
        size_t length = decode(bytes, &code);

        if (length == 0) {
            *bytes = '?';
            length = 1;
        } else if (is_control(code)) {
            memset(bytes, '?', length);
        }
        bytes += length;
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
