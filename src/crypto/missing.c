/* SPDX-License-Identifier: MIT */
/* This room where it is built without libgcrypt: nothing is known, and nothing can be made. */
#include "config.h"

#include "crypto/cipher.h"
#include "crypto/keyslot.h"
#include "crypto/library.h"

#ifndef HAVE_GCRYPT

#include <errno.h>

const char *crypto_missing(void)
{
    return "libgcrypt";
}

int crypto_begin(void)
{
    return -ENOSYS;
}

bool crypto_lock(void)
{
    return false;
}

int crypto_random(void *bytes, size_t length)
{
    (void)bytes;
    (void)length;
    return -ENOSYS;
}

bool crypto_knows_hash(const char *name)
{
    (void)name;
    return false;
}

size_t crypto_hash_length(const char *name)
{
    (void)name;
    return 0;
}

int cipher_create(const struct cipher_kind *kind, const void *key, size_t key_length,
                  struct cipher **cipher)
{
    (void)kind;
    (void)key;
    (void)key_length;
    *cipher = NULL;
    return -ENOSYS;
}

int cipher_create_random(struct cipher **cipher)
{
    *cipher = NULL;
    return -ENOSYS;
}

void cipher_destroy(struct cipher *cipher)
{
    (void)cipher;
}

bool cipher_lock(const struct cipher *cipher)
{
    (void)cipher;
    return false;
}

size_t cipher_piece(const struct cipher *cipher)
{
    (void)cipher;
    return CIPHER_SECTOR;
}

int cipher_decrypt(struct cipher *cipher, uint64_t sector, void *bytes, size_t length)
{
    (void)cipher;
    (void)sector;
    (void)bytes;
    (void)length;
    return -ENOSYS;
}

int cipher_encrypt(struct cipher *cipher, uint64_t sector, const void *from, void *to,
                   size_t length)
{
    (void)cipher;
    (void)sector;
    (void)from;
    (void)to;
    (void)length;
    return -ENOSYS;
}

int keyslot_derive(const char *hash, const struct secret *passphrase, const uint8_t *salt,
                   uint32_t iterations, void *key, size_t key_length)
{
    (void)hash;
    (void)passphrase;
    (void)salt;
    (void)iterations;
    (void)key;
    (void)key_length;
    return -ENOSYS;
}

int keyslot_measure(const char *hash, size_t key_length, uint32_t milliseconds,
                    uint64_t *iterations)
{
    (void)hash;
    (void)key_length;
    (void)milliseconds;
    (void)iterations;
    return -ENOSYS;
}

int keyslot_merge(const char *hash, const void *split, size_t key_length, uint32_t stripes,
                  void *key)
{
    (void)hash;
    (void)split;
    (void)key_length;
    (void)stripes;
    (void)key;
    return -ENOSYS;
}

int keyslot_split(const char *hash, const void *key, size_t key_length, uint32_t stripes,
                  void *split)
{
    (void)hash;
    (void)key;
    (void)key_length;
    (void)stripes;
    (void)split;
    return -ENOSYS;
}

#endif
