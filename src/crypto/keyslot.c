/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/keyslot.h"

#ifdef HAVE_GCRYPT

#include "crypto/library.h"
#include "crypto/library_internal.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* The number of a hash in a library that is ready, in *number. */
static int find_hash(const char *name, int *number)
{
    int result = crypto_begin();

    if (result < 0) {
        return result;
    }
    *number = crypto_hash(name);
    return *number != 0 ? 0 : -ENOTSUP;
}

int keyslot_derive(const char *hash, const struct secret *passphrase, const uint8_t *salt,
                   uint32_t iterations, void *key, size_t key_length)
{
    int number, result = find_hash(hash, &number);
    gpg_error_t error;
    void *derived; /* where that is, the library works in memory that it wipes, else in any */

    if (result < 0) {
        return result;
    }
    derived = gcry_malloc_secure(key_length);
    if (derived == NULL) {
        return -ENOMEM;
    }
    error = gcry_kdf_derive(passphrase->bytes, passphrase->length, GCRY_KDF_PBKDF2, number, salt,
                            KEYSLOT_SALT_LENGTH, iterations, key_length, derived);
    memcpy(key, derived, key_length);
    gcry_free(derived); /* wipes it */
    return error == 0 ? 0 : gcry_err_code(error) == GPG_ERR_ENOMEM ? -ENOMEM : -EIO;
}

#define MEASURED_FIRST   UINT32_C(2048)    /* iterations */
#define MEASURED_LEAST   UINT64_C(1000000) /* nanoseconds */
#define MEASURED_ENOUGH  UINT64_C(50000000)
#define MEASURED_AT_MOST UINT32_C(1 << 28)

/* Of this thread alone: others may use the processor meanwhile. */
static uint64_t processor_time(void)
{
    struct timespec now = {0};

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int keyslot_measure(const char *hash, size_t key_length, uint32_t milliseconds,
                    uint64_t *iterations)
{
    static const uint8_t salt[KEYSLOT_SALT_LENGTH];
    uint32_t measured = MEASURED_FIRST;
    uint64_t half = UINT64_C(500000) * milliseconds, time = 0;
    uint64_t enough = min_u64(max_u64(half, MEASURED_LEAST), MEASURED_ENOUGH);
    struct secret *passphrase, *key;
    int result = secret_copy("measured", 8, &passphrase);

    if (result == 0) {
        result = secret_create(key_length, &key);
        if (result < 0) {
            secret_destroy(passphrase);
        }
    }
    if (result < 0) {
        return result;
    }
    for (;;) {
        uint64_t begin = processor_time();

        result = keyslot_derive(hash, passphrase, salt, measured, key->bytes, key_length);
        time = processor_time() - begin;
        if (result < 0 || time >= enough || measured >= MEASURED_AT_MOST) {
            break;
        }
        measured *= 2;
    }
    secret_destroy(key);
    secret_destroy(passphrase);
    /* At most 2^28 * 2^32 * 10^6 / 10^6. */
    *iterations = result == 0
                      ? (uint64_t)((double)measured * milliseconds * 1e6 / (double)max_u64(time, 1))
                      : 0;
    return result;
}

static void exclusive_or(uint8_t *to, const uint8_t *with, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        to[i] ^= with[i];
    }
}

/* Each piece of `bytes` as long as a digest becomes the digest of its number and itself. */
static void diffuse(gcry_md_hd_t md, int number, uint8_t *bytes, size_t length)
{
    size_t digest = gcry_md_get_algo_dlen(number);
    uint32_t piece = 0;

    while (length > 0) {
        size_t part = min_size(length, digest);
        uint8_t raw[sizeof(piece)];

        store_be32(raw, piece++);
        gcry_md_reset(md);
        gcry_md_write(md, raw, sizeof(raw));
        gcry_md_write(md, bytes, part);
        memcpy(bytes, gcry_md_read(md, number), part);
        bytes += part;
        length -= part;
    }
}

/* What all stripes but the last come to, in `key`. */
static int fold(const char *hash, const uint8_t *split, size_t key_length, uint32_t stripes,
                uint8_t *key)
{
    gcry_md_hd_t md;
    int number, result = find_hash(hash, &number);

    if (result < 0) {
        return result;
    }
    if (gcry_md_open(&md, number, GCRY_MD_FLAG_SECURE) != 0) {
        return -ENOMEM;
    }
    memset(key, 0, key_length);
    for (uint32_t i = 0; i + 1 < stripes; i++) {
        exclusive_or(key, split + i * key_length, key_length);
        diffuse(md, number, key, key_length);
    }
    gcry_md_close(md);
    return 0;
}

int keyslot_merge(const char *hash, const void *split, size_t key_length, uint32_t stripes,
                  void *key)
{
    const uint8_t *last = (const uint8_t *)split + (size_t)(stripes - 1) * key_length;
    int result = fold(hash, split, key_length, stripes, key);

    if (result == 0) {
        exclusive_or(key, last, key_length);
    }
    return result;
}

int keyslot_split(const char *hash, const void *key, size_t key_length, uint32_t stripes,
                  void *split)
{
    uint8_t *last = (uint8_t *)split + (size_t)(stripes - 1) * key_length;
    int result = crypto_begin();

    if (result < 0) {
        return result;
    }
    gcry_randomize(split, (size_t)(stripes - 1) * key_length, GCRY_STRONG_RANDOM);
    result = fold(hash, split, key_length, stripes, last);
    if (result == 0) {
        exclusive_or(last, key, key_length);
    }
    return result;
}

#endif
