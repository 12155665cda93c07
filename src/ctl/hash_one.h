/* SPDX-License-Identifier: MIT */
/* The digest of one file of qcow2ctl hash, and of its pieces. */
#ifndef CTL_HASH_ONE_H
#define CTL_HASH_ONE_H

#include "ctl/hash_files.h"

#define HASH_BUFFER ((size_t)1 << 20) /* bytes */

struct hash_how {
    const char *algorithm;
    uint64_t piece; /* bytes, each with a digest of its own; 0: none */
    void (*progress)(void *context, uint64_t bytes); /* so many more have been looked at */
    void *context;
};

/* How many pieces a file of so many bytes has; the last may be shorter. */
uint64_t hash_pieces(const struct hash_how *how, uint64_t size);

/*
 * Reads the file with a buffer of HASH_BUFFER bytes, but for what is known to be zeros, and fills
 * in what comes of it. Several threads may do so at once, each with a file of its own.
 */
void hash_one(const struct hash_how *how, struct hash_file *file, uint8_t *buffer);

#endif
