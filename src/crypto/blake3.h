/* SPDX-License-Identifier: MIT */
/*
 * BLAKE3, of the reference's own library (libblake3), which is loaded when the first digest is
 * made: nobody else pays for it. A digest is of one thread at a time.
 */
#ifndef CRYPTO_BLAKE3_H
#define CRYPTO_BLAKE3_H

#include <stddef.h>
#include <stdint.h>

#define BLAKE3_BYTES ((size_t)32) /* of a digest */

/* The library that is missing to make one, a name for people, or NULL. Loads it. */
const char *blake3_missing(void);

struct blake3;

/* NULL without memory, or where something is missing. */
struct blake3 *blake3_create(void);
void blake3_destroy(struct blake3 *blake3);
void blake3_add(struct blake3 *blake3, const void *bytes, size_t length);

/* The digest of what was added; begins anew. */
void blake3_take(struct blake3 *blake3, uint8_t digest[BLAKE3_BYTES]);

#endif
