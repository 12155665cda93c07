/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/digest.h"

#ifdef HAVE_GCRYPT

#include "crypto/library.h"
#include "crypto/library_internal.h"

#include <errno.h>
#include <gcrypt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct digest {
    gcry_md_hd_t state;
    int number; /* the library's, of the algorithm */
};

int digest_create(const char *algorithm, struct digest **digest)
{
    struct digest *made;
    int number, result = crypto_begin();

    *digest = NULL;
    if (result < 0) {
        return result;
    }
    /* LUKS has no name for BLAKE2. */
    number = strcmp(algorithm, "b2") == 0 ? GCRY_MD_BLAKE2B_512 : crypto_hash(algorithm);
    if (number == 0 || gcry_md_test_algo(number) != 0) {
        return -ENOTSUP;
    }
    made = malloc(sizeof(*made));
    if (made == NULL) {
        return -ENOMEM;
    }
    made->number = number;
    if (gcry_md_open(&made->state, number, 0) != 0) {
        free(made);
        return -ENOMEM;
    }
    *digest = made;
    return 0;
}

void digest_destroy(struct digest *digest)
{
    if (digest != NULL) {
        gcry_md_close(digest->state);
        free(digest);
    }
}

void digest_add(struct digest *digest, const void *bytes, size_t length)
{
    gcry_md_write(digest->state, bytes, length);
}

void digest_take(struct digest *digest, char text[DIGEST_TEXT_MAX])
{
    size_t length = gcry_md_get_algo_dlen(digest->number);
    const uint8_t *bytes = gcry_md_read(digest->state, digest->number);

    for (size_t i = 0; i < length && 2 * i + 2 < DIGEST_TEXT_MAX; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    gcry_md_reset(digest->state);
}

#endif
