/* SPDX-License-Identifier: MIT */
/*
 * Changing blocks of a pool, and writing them back.
 *
 * A block that somebody reads never changes: a change makes a copy, which takes
 * the block's place in the pool, while readers that have the old one pinned go
 * on reading that. Where nobody has it pinned, and it is not being written, the
 * block itself changes, under the mutex that whoever wants to pin it must take.
 *
 *     CLEAN --change--> DIRTY (a copy) --begin--> being written --end--> CLEAN
 *       ^                 |    ^                     |
 *       |                 +----+ change (a copy)     +--change--> DIRTY, all sectors again
 *
 * Dirty blocks are pinned: they leave the pool only after they were written.
 * What is dirty is known by sectors of 512 bytes, and only those are written.
 *
 * Of two changes of one block at the same time the later one is made again, from what the other
 * has left. The callers see to it that none changes bytes which another one changes, or writes
 * through; in a damaged image two tables may be one, and then no memory is at risk. And they see to
 * it that one write-back of a pool is under way at a time.
 */
#ifndef CACHE_CHANGE_H
#define CACHE_CHANGE_H

#include "cache/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache_change {
    size_t offset, length; /* bytes that `apply` changes */
    uint64_t epoch;        /* of the barrier: must be stable before the block is written */
    /* May be called twice; must call nothing of the pool: it may run under a shard's mutex. */
    void (*apply)(void *context, void *data);
    void *context;
    /*
     * Writes the changed bytes to their place at once, before anybody sees the
     * change; the block then does not become dirty by it. NULL: the block does. Where that fails
     * the block is as it was, and dirty: the next write-back mends what a part of a write has done.
     */
    int (*write_through)(void *context, uint64_t host_offset, const void *data, size_t length);
    void *write_context;
};

/* Changes the block, which is read with `fill` where the pool has none. 0 or a negative errno. */
int cache_pool_change(struct cache_pool *pool, struct cache_key key, size_t size,
                      cache_fill_fn *fill, void *fill_context, const struct cache_change *change);

/* Forgets the block, dirty or not: its place on the disk is used for something else now. */
void cache_pool_drop(struct cache_pool *pool, struct cache_key key);

/* Whether the pool has the block. */
bool cache_pool_has(struct cache_pool *pool, struct cache_key key);

/*
 * Whether the pool has a block that begins at `first`, or any number of `step`
 * bytes behind it, before first.host_offset + length. Takes no lock for a range
 * that no block is near.
 */
bool cache_pool_has_any(struct cache_pool *pool, struct cache_key first, uint64_t length,
                        uint64_t step);

/* Bytes in dirty blocks. */
uint64_t cache_pool_dirty_bytes(struct cache_pool *pool);

/* The dirty blocks of a pool, as they were at one moment. */
struct cache_writeback;

/* 0 or -ENOMEM. */
int cache_writeback_begin(struct cache_pool *pool, struct cache_writeback **writeback);

bool cache_writeback_is_empty(const struct cache_writeback *writeback);

/* The epoch that must be stable before any of it is written. */
uint64_t cache_writeback_epoch(const struct cache_writeback *writeback);

/* Writes the dirty sectors, neighbours together. 0, or the first error of `write`. */
int cache_writeback_write(const struct cache_writeback *writeback,
                          int (*write)(void *context, uint64_t host_offset, const void *data,
                                       size_t length),
                          void *context);

/* Ends it. Where it was not `written`, the blocks are dirty again. */
void cache_writeback_end(struct cache_writeback *writeback, bool written);

#endif
