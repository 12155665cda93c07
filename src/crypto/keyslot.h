/* SPDX-License-Identifier: MIT */
/*
 * What is done with a key slot of LUKS: from a passphrase to a key (PBKDF2, RFC 8018), and from a
 * key to the many stripes in which it is kept, and back (the splitter of TKS1: who lacks a stripe,
 * since it was overwritten, has nothing). Pure functions; `hash` is one that crypto_knows_hash(),
 * else -ENOTSUP. All return 0, -ENOSYS without the library, -ENOMEM, or -EIO where that fails.
 */
#ifndef CRYPTO_KEYSLOT_H
#define CRYPTO_KEYSLOT_H

#include "crypto/secret.h"

#include <stddef.h>
#include <stdint.h>

#define KEYSLOT_SALT_LENGTH 32 /* bytes */

/* Takes as long as `iterations` say: at least 1. */
int keyslot_derive(const char *hash, const struct secret *passphrase, const uint8_t *salt,
                   uint32_t iterations, void *key, size_t key_length);

/*
 * How many iterations keyslot_derive() does in so many milliseconds of this processor, for a key
 * of that length. Measuring takes a tenth of a second at most.
 */
int keyslot_measure(const char *hash, size_t key_length, uint32_t milliseconds,
                    uint64_t *iterations);

/* `split` is of key_length * stripes bytes, which must be possible. */
int keyslot_merge(const char *hash, const void *split, size_t key_length, uint32_t stripes,
                  void *key);
int keyslot_split(const char *hash, const void *key, size_t key_length, uint32_t stripes,
                  void *split);

#endif
