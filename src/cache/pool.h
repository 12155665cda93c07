/* SPDX-License-Identifier: MIT */
/*
 * One pool of the shared cache: blocks of bytes found by (owner, host offset),
 * within a budget of memory.
 *
 *     shard 0:  [hash buckets] -> entries    LRU list: newest ... oldest
 *     shard 1:  ...                          each shard under a mutex of its own
 *
 * Lookups of different blocks go to different shards and do not wait for each
 * other. The budget belongs to the pool, not to a shard: an insertion over it
 * evicts the oldest unpinned entry of its own shard, or, where there is none,
 * of the next. The memory of pinned entries can exceed the budget for as long
 * as they are pinned; it is given back by the last unpin. A budget of 0 keeps
 * nothing.
 *
 * A miss is filled outside every lock, by the thread that missed first; others
 * that want the same block wait for it, so each block is read once. A failed
 * fill is reported to all that waited, and leaves nothing behind.
 *
 * Lock order: a shard's mutex is a leaf. No callback runs under it.
 */
#ifndef CACHE_POOL_H
#define CACHE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache_pool;

struct cache_key {
    uint64_t owner;       /* the image's number within this daemon */
    uint64_t host_offset; /* of the block in that image's file, bytes */
};

/* A pinned block. `data` has `size` bytes and is shared: read it, never write it. */
struct cache_entry {
    struct cache_key key;
    size_t size;
    void *data;
};

struct cache_pool_stats {
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
    uint64_t writebacks;
    uint64_t bytes;   /* in the pool now */
    uint64_t entries; /* in the pool now */
    uint64_t budget;  /* bytes */
};

/* Fills `data` with `size` bytes: 0 or a negative errno. Runs in the thread that missed. */
typedef int cache_fill_fn(void *context, void *data, size_t size);

/* 0 or -ENOMEM. `typical_size`: of an entry, bytes, to size the hash table. */
int cache_pool_create(uint64_t budget, size_t typical_size, struct cache_pool **pool);

/* No entry may be pinned; what is dirty is lost. `pool` may be NULL. */
void cache_pool_destroy(struct cache_pool *pool);

/*
 * Finds the block, or makes it with `fill`, and pins it; *entry is valid until
 * cache_pool_unpin(). Blocks of one key have one size. 0, what `fill` returned,
 * or -ENOMEM. `data` is aligned to 4096 bytes, or to `size` where that is less.
 */
int cache_pool_get(struct cache_pool *pool, struct cache_key key, size_t size, cache_fill_fn *fill,
                   void *context, const struct cache_entry **entry);
void cache_pool_unpin(struct cache_pool *pool, const struct cache_entry *entry);

/*
 * Finds and pins the block where the pool has it, or somebody is filling it
 * just now. Else -ENOENT; or why that fill failed.
 */
int cache_pool_find(struct cache_pool *pool, struct cache_key key, size_t size,
                    const struct cache_entry **entry);

/* As cache_pool_unpin(), of what is not expected to be used again: it makes room at once. */
void cache_pool_unpin_last(struct cache_pool *pool, const struct cache_entry *entry);

/* Drops every unpinned entry not used since the last call of this function; returns the bytes. */
uint64_t cache_pool_clean(struct cache_pool *pool);

void cache_pool_stats(struct cache_pool *pool, struct cache_pool_stats *stats);

#endif
