/* SPDX-License-Identifier: MIT */
/*
 * How many references each host cluster has ("Host cluster management"): the
 * refcount table, in memory as a whole, and the refcount blocks, through the
 * shared cache.
 *
 * Counts that rise are written to the file at once (R2 wants them stable before
 * the reference is; the caller waits for that with the barrier), counts that
 * fall stay in the cache until refcounts_write_back(): a leak is allowed after
 * a crash. While the counts are lazy (R5) nothing has to be written but new
 * blocks.
 *
 * Takes no lock of its own: the allocator's mutex protects it.
 */
#ifndef META_REFCOUNT_H
#define META_REFCOUNT_H

#include "cache/pool.h"
#include "meta/gate.h"
#include "meta/header.h"
#include "store/barrier.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

struct refcounts;

/* All is borrowed. `header` is changed when the refcount table moves. */
struct refcounts_source {
    struct header *header;
    struct store *file;
    struct cache_pool *pool;
    struct barrier *barrier;
    struct gate *gate; /* learns of the blocks; NULL: nothing is ever changed */
    uint64_t owner;    /* in cache keys */
};

/*
 * Reads the refcount table. `name` begins the sentences: -EINVAL for a table
 * that names impossible blocks, -EIO, -ENOMEM.
 */
int refcounts_open(const struct refcounts_source *source, const char *name,
                   struct refcounts **refcounts, struct error *error);
void refcounts_close(struct refcounts *refcounts);

/*
 * The next refcount block that the table names: true, and its host offset; false after the last.
 * *index is 0 for the first.
 */
bool refcounts_next_block(const struct refcounts *refcounts, uint64_t *index,
                          uint64_t *host_offset);

/* The count of a host cluster (number, not offset); what no block covers has 0. */
int refcounts_get(struct refcounts *refcounts, uint64_t cluster, uint64_t *count);

/*
 * Adds `delta` (+1 or -1) to the counts of `length` clusters before the end, of all or of none.
 * -EOVERFLOW where the width of the counts, -EIO where 0, is in the way. Counts that rise get the
 * blocks, and the larger table, that they need; these clusters come from the end (see below). Where
 * that fails, all is as it was, the end as well.
 */
int refcounts_add(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta);

/*
 * Finishes what a host in trouble did not let be undone, if there is such a thing: until then maybe
 * no blocks can be made, no free clusters found, and the file not be cut. 0, or why it failed
 * again.
 */
int refcounts_settle(struct refcounts *refcounts);

/*
 * The same before clusters are chosen: what may move the end has to be finished, or nobody may take
 * clusters behind it; what is still to be taken off counts is tried. 0, or why the first failed
 * again.
 */
int refcounts_settle_end(struct refcounts *refcounts);

/*
 * Adds 1 to the counts of `length` clusters that are in use already: *done of them, all or an
 * error. It stays in the cache until refcounts_write_back(). -EOVERFLOW where the width of the
 * counts is in the way, -EUCLEAN where one is 0.
 */
int refcounts_share(struct refcounts *refcounts, uint64_t first, uint64_t length, uint64_t *done);

/* Of `length` clusters from `first` on: ones[i] is whether the count of each is 1. */
int refcounts_are_one(struct refcounts *refcounts, uint64_t first, uint64_t length, bool *ones);

/*
 * The first run of free clusters at or behind `from`, before `limit`: its
 * beginning, and its length, at most `want`. *length is 0 where there is none.
 */
int refcounts_find_free(struct refcounts *refcounts, uint64_t from, uint64_t limit, uint64_t want,
                        uint64_t *first, uint64_t *length);

/*
 * The end of the file: the first cluster behind all that were ever counted or
 * written. What lies from there on reads as zeros.
 */
uint64_t refcounts_end(const struct refcounts *refcounts);
void refcounts_set_end(struct refcounts *refcounts, uint64_t cluster);

/* The lowest that it came back to since this was asked last; UINT64_MAX: it did not. */
uint64_t refcounts_lowered_end(struct refcounts *refcounts);

/* With true, rising counts stay in the cache as well (R5: the dirty bit is set). */
void refcounts_set_lazy(struct refcounts *refcounts, bool lazy);

/* Writes what only the cache has. When it has returned, a sync makes it stable. */
int refcounts_write_back(struct refcounts *refcounts);

#endif
