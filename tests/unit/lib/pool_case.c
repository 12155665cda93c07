/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "pool_case.h"

#include <check.h>
#include <string.h>

uint8_t source_stamp(struct cache_key key)
{
    return (uint8_t)(key.host_offset / 512 * 7 + key.owner * 31 + 1);
}

int source_fill(void *context, void *data, size_t size)
{
    struct source *source = context;

    source->fills++;
    memset(data, source_stamp(source->key), size);
    return source->error;
}

struct cache_pool *source_pool(uint64_t budget)
{
    struct cache_pool *pool;

    ck_assert_int_eq(cache_pool_create(budget, BLOCK, &pool), 0);
    return pool;
}

struct cache_pool_stats source_stats(struct cache_pool *pool)
{
    struct cache_pool_stats stats;

    cache_pool_stats(pool, &stats);
    return stats;
}
