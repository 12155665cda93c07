/* SPDX-License-Identifier: MIT */
/*
 * What was asked of this daemon and how it went: counters that any thread adds
 * to without a lock, and stats.json, which shows them. stats.json needs the
 * JSON library that configure found; the counters do not.
 */
#ifndef FUSE_STATS_H
#define FUSE_STATS_H

#include "disk/image.h"
#include "util/box.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum request_kind {
    REQUEST_LOOKUP,
    REQUEST_GETATTR,
    REQUEST_OPEN,
    REQUEST_READ,
    REQUEST_WRITE,
    REQUEST_FALLOCATE,
    REQUEST_FLUSH,
    REQUEST_FSYNC,
    REQUEST_SETATTR,
    REQUEST_LSEEK,
    REQUEST_RELEASE,
    REQUEST_OPENDIR,
    REQUEST_READDIR,
    REQUEST_STATFS,
    REQUEST_MKDIR,
    REQUEST_RMDIR,
    REQUEST_RENAME,
    REQUEST_KINDS,
};

struct stats {
    struct timespec started; /* CLOCK_MONOTONIC */
    atomic_uint_fast64_t requests[REQUEST_KINDS];
    atomic_uint_fast64_t bytes_read;    /* that were given to the kernel */
    atomic_uint_fast64_t bytes_written; /* that came from it */
    atomic_uint_fast64_t errors;        /* requests that failed by no fault of who asked */
    struct box box;                     /* what is in force; known before the first request */
};

void stats_init(struct stats *stats);

static inline void stats_add(atomic_uint_fast64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* False where this build has no JSON library (jansson). */
bool stats_available(void);

/*
 * With the cache of `image` and, where that is one, the overlay. A string for the caller to free,
 * ending in a newline; NULL when memory ran out.
 */
char *stats_json(const struct stats *stats, const struct image *image);

#endif
