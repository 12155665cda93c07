/* SPDX-License-Identifier: MIT */
/* What the suites of the pool share: where its blocks come from. */
#ifndef UNIT_POOL_CASE_H
#define UNIT_POOL_CASE_H

#include "cache/pool.h"

#include <stddef.h>
#include <stdint.h>

#define BLOCK ((size_t)4096)

/* What a fill is to do, and what it did. */
struct source {
    struct cache_key key;
    int error;      /* returned in place of a fill */
    unsigned fills; /* how often it ran */
};

/* Every byte tells the key, so that a foreign block cannot pass for the right one. */
uint8_t source_stamp(struct cache_key key);

/* For the pool: fills a block with its key's stamp. The context is a struct source. */
int source_fill(void *context, void *data, size_t size);

/* A pool with a budget in bytes, for the caller to destroy; and what it counts. */
struct cache_pool *source_pool(uint64_t budget);
struct cache_pool_stats source_stats(struct cache_pool *pool);

#endif
