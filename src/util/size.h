/* SPDX-License-Identifier: MIT */
/*
 * Sizes as people write them: bytes, or a number with one of the suffixes
 * b, k, M, G, T, P, E (any case; powers of 1024), optionally followed by "iB"
 * or "B" ("64K", "10G", "1.5T", "64KiB"). The same as QEMU's, and no more.
 */
#ifndef UTIL_SIZE_H
#define UTIL_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* 0 and *bytes set; -EINVAL when it is not a size; -ERANGE when it exceeds 2^63 - 1 bytes. */
int size_parse(const char *text, uint64_t *bytes);

#define SIZE_TEXT_MAX 32
/*
 * "1.5 GiB", "512 B": rounded to three significant digits (a whole number below
 * 1024 may have four); `text` has SIZE_TEXT_MAX bytes and is returned.
 */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
