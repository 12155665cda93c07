/* SPDX-License-Identifier: MIT */
/*
 * The library that has the ciphers and the hashes, libgcrypt: whether this build has it, and its
 * one beginning in each process, whose only state is its own. The names of hashes are those of LUKS
 * headers.
 */
#ifndef CRYPTO_LIBRARY_H
#define CRYPTO_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* The library that this build lacks to read encrypted images ("libgcrypt"), or NULL. */
const char *crypto_missing(void);

/*
 * Begins with it, once in a process; to be called by its first thread before it has others, and
 * by any thread, any number of times, from then on. 0, or -ENOSYS where it is not there, or is too
 * old for what it was built for.
 */
int crypto_begin(void);

/*
 * Locks the pages in which the library keeps keys again: a child does not inherit that. Whether
 * they are locked now.
 */
bool crypto_lock(void);

/* Bytes that nobody can guess. 0, or -ENOSYS. */
int crypto_random(void *bytes, size_t length);

/* Whether the hash is known: "sha256". */
bool crypto_knows_hash(const char *name);

/* The length of its digests in bytes; 0 where it is not. */
size_t crypto_hash_length(const char *name);

#endif
