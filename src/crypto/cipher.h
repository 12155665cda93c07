/* SPDX-License-Identifier: MIT */
/*
 * The encryption of sectors of 512 bytes: sector number and bytes in, bytes out. A `struct cipher`
 * owns a key; what the library expands it to is lent to the threads that use it (the mutex covers
 * only the list of idle contexts, never the work). Any number of threads may use one.
 */
#ifndef CRYPTO_CIPHER_H
#define CRYPTO_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CIPHER_SECTOR  512
#define CIPHER_KEY_MAX 64 /* bytes: two keys of 256 bits, of XTS */

/* In the words of LUKS headers; all borrowed for the call. */
struct cipher_kind {
    const char *name;    /* "aes" */
    const char *mode;    /* "xts" */
    const char *iv;      /* "plain64": the IV of a sector; empty where the mode has none */
    const char *iv_hash; /* of "essiv"; else empty */
};

struct cipher;

/*
 * 0; -ENOTSUP for a cipher, a mode, an IV, or a length of the key, that is not known, or a
 * combination that is none; -ENOSYS without the library; -ENOMEM.
 */
int cipher_create(const struct cipher_kind *kind, const void *key, size_t key_length,
                  struct cipher **cipher);

/* AES-256-XTS with a key that nobody knows: for what ends with this process. As cipher_create(). */
int cipher_create_random(struct cipher **cipher);

/* No thread uses it. The key is wiped. `cipher` may be NULL. */
void cipher_destroy(struct cipher *cipher);

/* After a fork, secret_lock(). Whether its key is locked in memory now. */
bool cipher_lock(const struct cipher *cipher);

/* How many bytes, a multiple of CIPHER_SECTOR, are worth waking another processor for. */
size_t cipher_piece(const struct cipher *cipher);

/*
 * Sector number `sector` and those behind it. The last one may be a part of a sector, as at the end
 * of the material of a key slot, of whole blocks of the cipher (-EINVAL). 0, -ENOMEM, -EIO.
 */
int cipher_decrypt(struct cipher *cipher, uint64_t sector, void *bytes, size_t length);

/* `from` is left as it is; `to` may be the same. */
int cipher_encrypt(struct cipher *cipher, uint64_t sector, const void *from, void *to,
                   size_t length);

#endif
