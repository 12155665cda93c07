/* SPDX-License-Identifier: MIT */
/*
 * What pool.c and change.c share. An entry is in one of these states, all
 * changes under its shard's mutex:
 *
 *     FILLING  in the table, pinned by the thread that fills it and by those
 *              that wait for it; `data` is the filler's alone
 *     READY    in the table; pinned, or else in the LRU list
 *     FAILED   in no table and no list; the last of those that waited frees it
 *     STALE    in no table and no list: replaced by a changed copy, or dropped;
 *              the last unpin frees it
 *
 * The LRU list holds the unpinned entries alone, in the order in which they
 * were unpinned: what to evict next is its tail, and what was not used since
 * some moment is a run of entries at its tail.
 */
#ifndef CACHE_POOL_INTERNAL_H
#define CACHE_POOL_INTERNAL_H

#include "cache/pool.h"
#include "cache/slab.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SHARD_BITS     4
#define SHARDS         (1U << SHARD_BITS)
#define CPU_CACHE_LINE 64
#define REGION_BITS    16
#define REGION_SIZE    (UINT64_C(1) << REGION_BITS)
#define REGIONS        4096U /* a power of two */

enum block_state {
    BLOCK_FILLING,
    BLOCK_READY,
    BLOCK_FAILED,
    BLOCK_STALE,
};

/* What of a block the disk does not have yet. */
struct dirty {
    uint64_t epoch;    /* of the barrier: must be stable before the block is written */
    uint8_t sectors[]; /* a bit for each 512 bytes */
};

struct block {
    struct cache_entry entry;    /* what users see; must be first */
    struct slab_block memory;    /* where entry.data comes from */
    struct block *next;          /* in its bucket; then in a list of blocks to free */
    struct block *newer, *older; /* in the LRU list */
    uint64_t epoch;              /* the pool's when it was last unpinned */
    unsigned pins;
    enum block_state state;
    int error;           /* FAILED: what `fill` returned */
    struct dirty *dirty; /* NULL while clean; stays until the write-back has ended */
    bool listed;         /* in the shard's list of dirty blocks, which holds a pin */
    struct block *next_dirty, *previous_dirty;
};

struct shard {
    _Alignas(CPU_CACHE_LINE) pthread_mutex_t mutex; /* guards all of the shard; a leaf */
    pthread_cond_t filled;                          /* some block of the shard is FILLING no more */
    struct block **buckets;                         /* NULL while the shard was never used */
    size_t bucket_count;                            /* a power of two */
    struct block *newest, *oldest;
    struct block *dirty; /* those that a write-back has to take */
    uint64_t entries;
    uint64_t hits, misses, evictions, writebacks;
};

struct cache_pool {
    /* Read by every hit. */
    uint64_t budget;
    size_t first_buckets;       /* of a shard */
    atomic_uint_fast64_t epoch; /* counts the calls of cache_pool_clean() */
    /* Written by every miss. */
    _Alignas(CPU_CACHE_LINE) atomic_uint_fast64_t bytes;
    atomic_uint_fast64_t dirty_bytes;
    struct slab_allocator slabs;
    struct shard shards[SHARDS];
    /*
     * Blocks in the table, by the 64 KiB of their file that they begin in; a few
     * of these may share a number. 0 answers cache_pool_has_any() without a lock.
     */
    atomic_uint regions[REGIONS];
};

uint64_t key_hash(struct cache_key key);
struct shard *shard_of_key(struct cache_pool *pool, struct cache_key key);
atomic_uint *region_of_key(struct cache_pool *pool, struct cache_key key);

static inline struct block *block_of_entry(const struct cache_entry *entry)
{
    return (struct block *)(uintptr_t)entry;
}

/* All of these with the shard's mutex held. */
struct block *table_find(const struct shard *shard, uint64_t hash, struct cache_key key);
void table_remove(struct cache_pool *pool, struct shard *shard, struct block *block);
void lru_remove(struct shard *shard, struct block *block);

/* Puts `copy`, of the same key, in the place of `old` in the table. */
void shard_replace(struct shard *shard, struct block *old, struct block *copy);
void shard_list_dirty(struct shard *shard, struct block *block);
void shard_unlist_dirty(struct shard *shard, struct block *block);

/* Frees a block that was never in the table. Under no lock. */
void block_free(struct cache_pool *pool, struct block *block);

/* Frees a STALE block that nobody has pinned. Under no lock. */
void stale_free(struct cache_pool *pool, struct block *block);

#endif
