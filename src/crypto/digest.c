/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/digest.h"

#include "crypto/blake3.h"
#include "crypto/library.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_GCRYPT
#include "crypto/library_internal.h"
#endif

struct digest {
    struct blake3 *blake3; /* or NULL, and there is: */
#ifdef HAVE_GCRYPT
    gcry_md_hd_t state;
    int number; /* libgcrypt's, of the algorithm */
#endif
};

static bool is_blake3(const char *algorithm)
{
    return strcmp(algorithm, "b3") == 0;
}

const char *digest_missing(const char *algorithm)
{
    if (is_blake3(algorithm)) {
        return blake3_missing();
    }
    if (crypto_missing() != NULL) {
        return crypto_missing();
    }
    return crypto_begin() < 0 ? "a libgcrypt that is new enough" : NULL;
}

/* What libgcrypt needs. */
static int begin(struct digest *digest, const char *algorithm)
{
#ifdef HAVE_GCRYPT
    /* LUKS has no name for BLAKE2. */
    digest->number = strcmp(algorithm, "b2") == 0 ? GCRY_MD_BLAKE2B_512 : crypto_hash(algorithm);
    if (digest->number == 0 || gcry_md_test_algo(digest->number) != 0) {
        return -ENOTSUP;
    }
    return gcry_md_open(&digest->state, digest->number, 0) != 0 ? -ENOMEM : 0;
#else
    (void)digest;
    (void)algorithm;
    return -ENOSYS;
#endif
}

int digest_create(const char *algorithm, struct digest **digest)
{
    struct digest *made;
    int result = 0;

    *digest = NULL;
    if (digest_missing(algorithm) != NULL) {
        return -ENOSYS;
    }
    made = calloc(1, sizeof(*made));
    if (made == NULL) {
        return -ENOMEM;
    }
    if (is_blake3(algorithm)) {
        made->blake3 = blake3_create();
        result = made->blake3 != NULL ? 0 : -ENOMEM;
    } else {
        result = begin(made, algorithm);
    }
    if (result < 0) {
        free(made);
        return result;
    }
    *digest = made;
    return 0;
}

void digest_destroy(struct digest *digest)
{
    if (digest == NULL) {
        return;
    }
    blake3_destroy(digest->blake3);
#ifdef HAVE_GCRYPT
    if (digest->blake3 == NULL) {
        gcry_md_close(digest->state);
    }
#endif
    free(digest);
}

void digest_add(struct digest *digest, const void *bytes, size_t length)
{
    if (digest->blake3 != NULL) {
        blake3_add(digest->blake3, bytes, length);
        return;
    }
#ifdef HAVE_GCRYPT
    gcry_md_write(digest->state, bytes, length);
#endif
}

static void print(const uint8_t *bytes, size_t length, char text[DIGEST_TEXT_MAX])
{
    for (size_t i = 0; i < length && 2 * i + 2 < DIGEST_TEXT_MAX; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
}

void digest_take(struct digest *digest, char text[DIGEST_TEXT_MAX])
{
    text[0] = '\0';
    if (digest->blake3 != NULL) {
        uint8_t bytes[BLAKE3_BYTES] = {0};

        blake3_take(digest->blake3, bytes);
        print(bytes, sizeof(bytes), text);
        return;
    }
#ifdef HAVE_GCRYPT
    print(gcry_md_read(digest->state, digest->number), gcry_md_get_algo_dlen(digest->number), text);
    gcry_md_reset(digest->state);
#endif
}
