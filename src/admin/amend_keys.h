/* SPDX-License-Identifier: MIT */
/*
 * Key slots of an image with LUKS: a passphrase is added, exchanged, or erased. Each is a step that
 * no crash can cut in two (meta/luks_write.h): a new slot opens the disk before an old one is
 * emptied, and what was emptied is overwritten before it is said to be.
 */
#ifndef ADMIN_AMEND_KEYS_H
#define ADMIN_AMEND_KEYS_H

#include "crypto/secret.h"
#include "disk/image.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

#define AMEND_ANY_SLOT UINT32_MAX

/* What shall be; all borrowed. */
struct amend_keys {
    const struct secret *key;   /* one that opens the disk: where new_key is added */
    const struct secret *fresh; /* gets a slot; NULL: none is added */
    const struct secret *old;   /* all slots of it are emptied, after that; NULL: none */
    uint32_t slot;              /* where `fresh` goes, or what is emptied; AMEND_ANY_SLOT */
    uint32_t iteration_time;    /* milliseconds */
    uint32_t iterations_max;    /* that an existing slot may ask for */
    bool force;                 /* also the last one */
};

/* Which slots were filled and emptied, as bits by their numbers. */
struct amend_keys_done {
    uint32_t filled, emptied;
};

/*
 * Changes the slots of the image, which was opened with STORE_WRITE, with nobody else. 0, or a
 * negative errno with a sentence; *done says what was done in either case.
 */
int amend_keys(struct image *image, const struct amend_keys *keys, struct amend_keys_done *done,
               struct error *error);

#endif
