/* SPDX-License-Identifier: MIT */
/*
 * Digests of bytes that come piece by piece, as lower case hexadecimal text. A digest is of one
 * thread at a time; any number may be under way.
 */
#ifndef CRYPTO_DIGEST_H
#define CRYPTO_DIGEST_H

#include <stddef.h>

#define DIGEST_TEXT_MAX ((size_t)64 * 2 + 1) /* with its NUL */

/*
 * For lists of options: each is what the command of that name, and "sum", makes: those of
 * coreutils, and b3sum.
 */
#define DIGEST_ALGORITHMS "sha256 sha1 sha224 sha384 sha512 md5 b2 b3"

struct digest;

/* The library that is missing to make one, a name for people; NULL: none is. */
const char *digest_missing(const char *algorithm);

/* 0; -ENOSYS without a library, -ENOTSUP where that does not know it, -ENOMEM. */
int digest_create(const char *algorithm, struct digest **digest);
void digest_destroy(struct digest *digest);

void digest_add(struct digest *digest, const void *bytes, size_t length);

/* What was added since the beginning, or the last time that this was called. */
void digest_take(struct digest *digest, char text[DIGEST_TEXT_MAX]);

#endif
