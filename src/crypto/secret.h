/* SPDX-License-Identifier: MIT */
/*
 * Memory for keys and for what keys are made from: pages of their own, which are not swapped as far
 * as the system lets us (RLIMIT_MEMLOCK), are in no core dump, and are wiped before they are given
 * back. One owner; no lock.
 */
#ifndef CRYPTO_SECRET_H
#define CRYPTO_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct secret {
    uint8_t *bytes;
    size_t length; /* bytes of them that mean something; may be made smaller */
    size_t mapped; /* bytes of the pages */
};

/* `length` zeros (0 is possible). 0 or -ENOMEM, and then *secret is NULL. */
int secret_create(size_t length, struct secret **secret);

/* A copy. */
int secret_copy(const void *bytes, size_t length, struct secret **secret);

/* Wipes it and gives it back. NULL is possible. */
void secret_destroy(struct secret *secret);

/* Locks its pages again: a child does not inherit that. Whether they are locked now. */
bool secret_lock(const struct secret *secret);

#endif
