/* SPDX-License-Identifier: MIT */
/*
 * The keys that a user gives, for encrypted images of a chain: files, a credential of systemd, or
 * what is typed at a terminal. Used by one thread, while images are opened, and gone afterwards:
 * what stays is each image's cipher.
 */
#ifndef IMAGE_KEYS_H
#define IMAGE_KEYS_H

#include "crypto/cipher.h"
#include "store/store.h"
#include "util/error.h"
#include "util/options.h"

#include <stddef.h>
#include <stdint.h>

#define KEYS_FILES_MAX  64
#define KEY_LENGTH_MAX  ((size_t)8 << 20) /* bytes of a file */
#define KEY_TYPED_MAX   512               /* bytes at a terminal */
#define KEYS_CREDENTIAL "qcow2fs.key"     /* its name in $CREDENTIALS_DIRECTORY */

struct keys;
struct secret;

/* How many iterations an image may ask for, by the option key-iterations-max. */
uint32_t keys_iterations_max(const struct option_number *option);

/*
 * Reads the key files that `list` names (as OPTION_SEVERAL collects them; "-" is standard input;
 * NULL: none, then the credential where there is one). An image may ask for at
 * most `iterations_max` iterations (0: as many as it wants). 0, or a negative errno with a
 * sentence.
 */
int keys_open(const char *list, uint32_t iterations_max, struct keys **keys, struct error *error);

/* Wipes them. NULL is possible. */
void keys_close(struct keys *keys);

/* An encrypted image that is being opened; borrowed. */
struct keys_image {
    struct store *file;
    const char *path;
    uint32_t crypt_method;
    uint64_t crypt_header_offset, crypt_header_length; /* bytes */
};

/*
 * The cipher of the image, by whichever key is its own, or what is typed where no key was given.
 * -ENOSYS with a sentence where this build cannot; -EKEYREJECTED where no key is right; any other
 * negative errno, with a sentence.
 */
int keys_unlock(struct keys *keys, const struct keys_image *image, struct cipher **cipher,
                struct error *error);

/*
 * The one key that was given for an image that exists, or is typed; for something new, `what` is
 * not NULL, and this is keys_new(). Borrowed.
 */
int keys_one(struct keys *keys, const char *path, const char *what, const struct secret **secret,
             struct error *error);

/*
 * The passphrase for something new, `what` of sentences ("an encrypted image"): the one key file or
 * the credential that was given, or what is typed, twice. Borrowed, of at least one byte.
 */
int keys_new(struct keys *keys, const char *path, const char *what, const struct secret **secret,
             struct error *error);

#endif
