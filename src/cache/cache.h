/* SPDX-License-Identifier: MIT */
/*
 * The shared cache of one daemon: three pools, used by every worker thread and
 * every image of the chain, and the thread that drops what nobody uses
 * (docs/design.md, section 4).
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "cache/pool.h"
#include "cache/sizes.h"

struct cache {
    struct cache_sizes sizes;
    struct cache_pool *l2;         /* L2 slices */
    struct cache_pool *refcount;   /* refcount blocks */
    struct cache_pool *data;       /* decompressed clusters */
    struct cache_cleaner *cleaner; /* NULL until cache_start_cleaner() */
};

/* 0 or -ENOMEM. */
int cache_create(const struct cache_sizes *sizes, struct cache **cache);

/*
 * Starts the thread that each sizes.clean_interval seconds drops the clean
 * entries unused for that long and returns the memory to the system. To be
 * called after the last fork(). Does nothing for an interval of 0. 0 or a
 * negative errno.
 */
int cache_start_cleaner(struct cache *cache);

/* What that thread does at each interval; returns the bytes dropped. */
uint64_t cache_clean(struct cache *cache);

/* Stops the cleaner, frees all. Nothing may be pinned. `cache` may be NULL. */
void cache_destroy(struct cache *cache);

#endif
