/* SPDX-License-Identifier: MIT */
/*
 * Who has clusters of an image in memory: what it was handed out and has not given back, each range
 * with the epoch from which on its counts are stable. A range that comes twice fails the test.
 */
#ifndef UNIT_OWNER_CASE_H
#define UNIT_OWNER_CASE_H

#include "write_case.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLUSTER UINT64_C(512) /* of write_case_options() */

/* Clusters that were handed out, and that nobody has given back. */
struct owned {
    uint64_t first, length; /* cluster numbers */
    uint64_t epoch;
    size_t stable; /* entries of the log when the epoch was; 0: it is not yet */
};

#define OWNED_MAX 400

struct owner {
    struct write_case write_case;
    struct owned owned[OWNED_MAX];
    unsigned count;
    uint64_t commit; /* of what is dropped */
    unsigned seed;
};

void owner_open(struct owner *owner, bool discard);
void owner_close(struct owner *owner);

struct allocator *owner_allocator(struct owner *owner);

/* As allocator_take(), or allocator_take_exactly(): what comes is its own from then on. */
int owner_take(struct owner *owner, uint64_t want, bool exactly, struct allocation *taken);
/* The same where that must succeed. */
struct allocation owner_taken(struct owner *owner, uint64_t want);

/* A sync that somebody wanted. */
int owner_sync(struct owner *owner);

/* Clusters of the file, as long as it is. */
uint64_t owner_file_clusters(struct owner *owner);

#endif
