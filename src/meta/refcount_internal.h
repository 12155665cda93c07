/* SPDX-License-Identifier: MIT */
/* What refcount.c and refcount_grow.c share. */
#ifndef META_REFCOUNT_INTERNAL_H
#define META_REFCOUNT_INTERNAL_H

#include "meta/refcount.h"

/*
 * What is to be made so that some clusters can be counted, planned as a whole before any of it is
 * made. It lies in one piece behind the end: a larger table, where one is wanted, then the blocks.
 */
struct growth {
    uint64_t first;          /* cluster: the end before it, and to go back to */
    uint64_t table_clusters; /* 0: the table has room */
    uint64_t blocks, named;  /* how many; how many of them are no part of it any more */
    uint64_t *indices; /* in the table, of those that count the growth itself first, ascending */
    uint64_t *table;   /* the larger one, as `table` below */
    bool counted;      /* its clusters, where older blocks count them */
};

/* Clusters of one block whose counts are to fall, and that the host in trouble did not let fall. */
struct owed {
    uint64_t first, length; /* cluster numbers */
};

struct refcounts {
    struct refcounts_source source;
    bool lazy;
    uint32_t order;        /* log2 of the bits of a count */
    uint64_t block_counts; /* counts in a block */
    uint64_t *table;       /* host offsets of the blocks, in host byte order */
    uint64_t capacity;     /* entries of `table` */
    uint64_t end;          /* cluster number: see refcounts_end() */
    uint64_t lowered;      /* see refcounts_lowered_end() */
    /*
     * The pointers to what `failed` made, in the table or the header, could be written neither as
     * they shall be nor as they were: nobody knows what the file says. Its clusters are nobody's.
     */
    bool unsure;
    struct growth failed;
    struct owed *owed;
    size_t owed_count, owed_capacity;
};

/* The cache's key of the block at that host offset. */
static inline struct cache_key refcount_block_key(const struct refcounts *refcounts, uint64_t block)
{
    return (struct cache_key){.owner = refcounts->source.owner, .host_offset = block};
}

/*
 * Sees to it that blocks count these clusters, which lie before the end: makes those that there are
 * not, and a larger table for them. All of it, or nothing: then all is as it was.
 */
int refcount_cover(struct refcounts *refcounts, uint64_t first, uint64_t length);

/* Changes counts in blocks that there are: all, or none. Errors as of refcounts_add(). */
int refcount_change(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta);

/*
 * The counts of these clusters, to which nothing refers, fall by one: now, or with a later call of
 * refcounts_settle(), where the host is in trouble.
 */
void refcount_release(struct refcounts *refcounts, uint64_t first, uint64_t length);

/* Tries again what refcount_release() could not do: true when all is done. */
bool refcount_pay(struct refcounts *refcounts);

#endif
