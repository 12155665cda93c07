/* SPDX-License-Identifier: MIT */
/* What refcount.c and refcount_grow.c share. */
#ifndef META_REFCOUNT_INTERNAL_H
#define META_REFCOUNT_INTERNAL_H

#include "meta/refcount.h"

struct refcounts {
    struct refcounts_source source;
    bool lazy;
    uint32_t order;         /* log2 of the bits of a count */
    uint64_t block_counts;  /* counts in a block */
    uint64_t *table;        /* host offsets of the blocks, in host byte order */
    uint64_t capacity;      /* entries of `table` */
    uint64_t disk_capacity; /* entries of the table in the file; fewer only while it moves */
    bool moving;            /* it does */
    uint64_t end;           /* cluster number: see refcounts_end() */
};

/* The cache's key of the block at that host offset. */
static inline struct cache_key refcount_block_key(const struct refcounts *refcounts, uint64_t block)
{
    return (struct cache_key){.owner = refcounts->source.owner, .host_offset = block};
}

/*
 * Makes the block `index` of the table, in the first cluster behind the end. It
 * either counts itself, or belongs to the last block that exists: at the end,
 * clusters are taken one after the other.
 */
int refcount_make_block(struct refcounts *refcounts, uint64_t index);

/* Moves the table, half as large again, behind the end, so that it covers `index`. */
int refcount_move_table(struct refcounts *refcounts, uint64_t index);

#endif
