/* SPDX-License-Identifier: MIT */
/*
 * The LUKS header of an encrypted image ("Full disk encryption header pointer",
 * LUKS version 1): what is said of the encryption. No key is ever read.
 */
#ifndef META_LUKS_H
#define META_LUKS_H

#include "meta/format.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

struct luks_slot {
    bool active;
    uint32_t iterations;
    uint64_t key_offset; /* bytes, in the area of the encryption header */
    uint32_t stripes;
};

/* Texts are NUL-terminated, and hold whatever the image holds. */
struct luks {
    char cipher[LUKS_TEXT_LENGTH + 16]; /* with the size of its key: "aes-256" */
    char mode[LUKS_TEXT_LENGTH + 1];    /* "xts" */
    char iv[LUKS_TEXT_LENGTH + 1];      /* how the IV is made: "plain64" */
    char iv_hash[LUKS_TEXT_LENGTH + 1]; /* empty where that needs none */
    char hash[LUKS_TEXT_LENGTH + 1];
    char uuid[LUKS_UUID_LENGTH + 1];
    uint32_t master_key_iterations;
    uint64_t payload_offset; /* bytes, in the area of the encryption header */
    struct luks_slot slots[LUKS_SLOTS];
};

/*
 * Reads the header in the area [offset, offset + length) of the file. 0; -EINVAL
 * with a sentence that begins with `name` when there is none; -EIO.
 */
int luks_read(struct store *file, uint64_t offset, uint64_t length, const char *name,
              struct luks *luks, struct error *error);

#endif
