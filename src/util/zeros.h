/* SPDX-License-Identifier: MIT */
/* Whether there is anything in a buffer. */
#ifndef UTIL_ZEROS_H
#define UTIL_ZEROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Whether all bytes are 0; also of none. As fast as memcmp(). */
static inline bool is_all_zeros(const void *buffer, size_t size)
{
    const uint8_t *bytes = buffer;

    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

#endif
