/* SPDX-License-Identifier: MIT */
/*
 * What was asked of this daemon and how it went: counters that any thread adds
 * to without a lock, and the files that show them: stats.json, which needs the JSON library that
 * configure found, and stats.prom, in the text format of Prometheus (0.0.4), which needs nothing.
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

/*
 * How long the requests of a kind took: bucket b counts those of at most 2^(b + 11) ns, from 2 us
 * to 17 s, and the last one all that took longer. Each processor adds to the one of these tables
 * that is its own, as far as there are enough, so that no two write to one line of memory.
 */
#define STATS_BUCKETS      25
#define STATS_BUCKET_FIRST 11 /* the first one's limit, a power of two */
#define STATS_TABLES       16

struct stats_times {
    _Alignas(64) atomic_uint_fast64_t buckets[REQUEST_KINDS][STATS_BUCKETS];
    atomic_uint_fast64_t nanoseconds[REQUEST_KINDS]; /* all of them together */
};

struct stats {
    struct timespec started; /* CLOCK_MONOTONIC */
    atomic_uint_fast64_t requests[REQUEST_KINDS];
    atomic_uint_fast64_t bytes_read;    /* that were given to the kernel */
    atomic_uint_fast64_t bytes_written; /* that came from it */
    atomic_uint_fast64_t errors;        /* requests that failed by no fault of who asked */
    struct box box;                     /* what is in force; known before the first request */
    struct stats_times *times;          /* STATS_TABLES, of which memory is taken by those in use */
};

/* "lookup", "read" ... */
const char *stats_request_name(enum request_kind kind);

/* The most important of them, since the daemon began. */
struct stats_summary {
    uint64_t requests; /* of all kinds */
    uint64_t reads, writes, syncs;
    uint64_t bytes_read, bytes_written;
    uint64_t errors;
    uint64_t cache_hits, cache_misses; /* of all caches of `image` */
};

void stats_summarise(const struct stats *stats, const struct image *image,
                     struct stats_summary *summary);

/* Nanoseconds, of a clock that goes on. */
uint64_t stats_clock(void);

/* A request of this kind took so long. */
void stats_took(struct stats *stats, enum request_kind kind, uint64_t nanoseconds);

/* 0, or -ENOMEM. */
int stats_init(struct stats *stats);
void stats_release(struct stats *stats);

static inline void stats_add(atomic_uint_fast64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* False where this build has no JSON library (jansson). */
bool stats_available(void);

/*
 * The text of stats.prom, and that of stats.json.
 * With the cache of `image` and, where that is one, the overlay. A string for the caller to free,
 * ending in a newline; NULL when memory ran out.
 */
char *stats_metrics(const struct stats *stats, const struct image *image);
char *stats_json(const struct stats *stats, const struct image *image);

#endif
