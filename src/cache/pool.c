/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/pool.h"

#include "cache/pool_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define FIRST_BUCKETS     ((size_t)16) /* of a shard, at least */
#define FIRST_BUCKETS_MAX ((size_t)512)

/* Every bit of the key moves about half of the result's: neighbours go to different shards. */
uint64_t key_hash(struct cache_key key)
{
    uint64_t hash = key.host_offset ^ (key.owner * UINT64_C(0x9e3779b97f4a7c15));

    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

static unsigned shard_index(uint64_t hash)
{
    return (unsigned)(hash >> (64 - SHARD_BITS));
}

static struct shard *shard_of(struct cache_pool *pool, uint64_t hash)
{
    return &pool->shards[shard_index(hash)];
}

struct shard *shard_of_key(struct cache_pool *pool, struct cache_key key)
{
    return shard_of(pool, key_hash(key));
}

atomic_uint *region_of_key(struct cache_pool *pool, struct cache_key key)
{
    struct cache_key region = {key.owner, key.host_offset >> REGION_BITS};

    return &pool->regions[key_hash(region) % REGIONS];
}

/* --- The table ---------------------------------------------------------------- */

static struct block **bucket_of(const struct shard *shard, uint64_t hash)
{
    return &shard->buckets[hash & (shard->bucket_count - 1)];
}

static bool same_key(struct cache_key a, struct cache_key b)
{
    return a.host_offset == b.host_offset && a.owner == b.owner;
}

struct block *table_find(const struct shard *shard, uint64_t hash, struct cache_key key)
{
    struct block *block = shard->buckets != NULL ? *bucket_of(shard, hash) : NULL;

    while (block != NULL && !same_key(block->entry.key, key)) {
        block = block->next;
    }
    return block;
}

/* Moves the entries over to `count` buckets. On failure all stays as it was. */
static int table_resize(struct shard *shard, size_t count)
{
    struct block **old = shard->buckets;
    size_t old_count = old != NULL ? shard->bucket_count : 0;
    struct block **buckets = calloc(count, sizeof(struct block *));

    if (buckets == NULL) {
        return -ENOMEM;
    }
    shard->buckets = buckets;
    shard->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        while (old[i] != NULL) {
            struct block *block = old[i];
            struct block **bucket = bucket_of(shard, key_hash(block->entry.key));

            old[i] = block->next;
            block->next = *bucket;
            *bucket = block;
        }
    }
    free(old);
    return 0;
}

static int table_insert(struct cache_pool *pool, struct shard *shard, uint64_t hash,
                        struct block *block)
{
    struct block **bucket;

    if (shard->buckets == NULL) {
        if (table_resize(shard, pool->first_buckets) != 0) {
            return -ENOMEM;
        }
    } else if (shard->entries >= shard->bucket_count) {
        /* Where there is no memory for it, longer chains have to do. */
        (void)table_resize(shard, 2 * shard->bucket_count);
    }
    bucket = bucket_of(shard, hash);
    block->next = *bucket;
    *bucket = block;
    shard->entries++;
    atomic_fetch_add_explicit(region_of_key(pool, block->entry.key), 1, memory_order_relaxed);
    return 0;
}

void table_remove(struct cache_pool *pool, struct shard *shard, struct block *block)
{
    struct block **link = bucket_of(shard, key_hash(block->entry.key));

    while (*link != block) {
        link = &(*link)->next;
    }
    *link = block->next;
    block->next = NULL;
    shard->entries--;
    atomic_fetch_sub_explicit(region_of_key(pool, block->entry.key), 1, memory_order_relaxed);
}

void shard_replace(struct shard *shard, struct block *old, struct block *copy)
{
    struct block **link = bucket_of(shard, key_hash(old->entry.key));

    while (*link != old) {
        link = &(*link)->next;
    }
    copy->next = old->next;
    *link = copy;
    old->next = NULL;
}

/* --- The list of dirty blocks ------------------------------------------------- */

void shard_list_dirty(struct shard *shard, struct block *block)
{
    block->listed = true;
    block->previous_dirty = NULL;
    block->next_dirty = shard->dirty;
    if (shard->dirty != NULL) {
        shard->dirty->previous_dirty = block;
    }
    shard->dirty = block;
}

void shard_unlist_dirty(struct shard *shard, struct block *block)
{
    block->listed = false;
    if (block->previous_dirty != NULL) {
        block->previous_dirty->next_dirty = block->next_dirty;
    } else {
        shard->dirty = block->next_dirty;
    }
    if (block->next_dirty != NULL) {
        block->next_dirty->previous_dirty = block->previous_dirty;
    }
}

/* --- The LRU list -------------------------------------------------------------- */

static void lru_insert(struct shard *shard, struct block *block)
{
    block->newer = NULL;
    block->older = shard->newest;
    if (shard->newest != NULL) {
        shard->newest->newer = block;
    } else {
        shard->oldest = block;
    }
    shard->newest = block;
}

void lru_remove(struct shard *shard, struct block *block)
{
    if (block->newer != NULL) {
        block->newer->older = block->older;
    } else {
        shard->newest = block->older;
    }
    if (block->older != NULL) {
        block->older->newer = block->newer;
    } else {
        shard->oldest = block->newer;
    }
}

/* --- Eviction -------------------------------------------------------------------- */

/* Gives the memory back; the block is in no table and no list. Under no lock. */
void block_free(struct cache_pool *pool, struct block *block)
{
    slab_free(&pool->slabs, &block->memory);
    free(block->dirty);
    free(block);
}

void stale_free(struct cache_pool *pool, struct block *block)
{
    atomic_fetch_sub_explicit(&pool->bytes, block->entry.size, memory_order_relaxed);
    block_free(pool, block);
}

/* Takes the oldest unpinned block out of the shard, whose mutex is held. NULL: there is none. */
static struct block *shard_take_oldest(struct cache_pool *pool, struct shard *shard)
{
    struct block *block = shard->oldest;

    if (block != NULL) {
        lru_remove(shard, block);
        table_remove(pool, shard, block);
        atomic_fetch_sub_explicit(&pool->bytes, block->entry.size, memory_order_relaxed);
    }
    return block;
}

static bool over_budget(struct cache_pool *pool)
{
    return atomic_load_explicit(&pool->bytes, memory_order_relaxed) > pool->budget;
}

/*
 * Evicts until the pool is within its budget, or nothing is left to evict,
 * first in the shard `first`, then in those behind it. No mutex is held on
 * entry, and one at a time inside.
 */
static void evict(struct cache_pool *pool, unsigned first)
{
    for (unsigned i = 0; i < SHARDS; i++) {
        struct shard *shard = &pool->shards[(first + i) % SHARDS];
        struct block *block;

        do {
            block = NULL;
            pthread_mutex_lock(&shard->mutex);
            if (over_budget(pool)) {
                block = shard_take_oldest(pool, shard);
                shard->evictions += block != NULL;
            }
            pthread_mutex_unlock(&shard->mutex);
            if (block != NULL) {
                block_free(pool, block);
            }
        } while (block != NULL);
        if (!over_budget(pool)) {
            return;
        }
    }
}

/* --- Life of a pool ------------------------------------------------------------- */

static size_t first_buckets(uint64_t budget, size_t typical_size)
{
    uint64_t entries = budget / max_u64(typical_size, 1) / SHARDS;
    size_t buckets = FIRST_BUCKETS;

    while (buckets < entries && buckets < FIRST_BUCKETS_MAX) {
        buckets *= 2;
    }
    return buckets;
}

int cache_pool_create(uint64_t budget, size_t typical_size, struct cache_pool **pool)
{
    struct cache_pool *created = aligned_alloc(CPU_CACHE_LINE, sizeof(*created));

    if (created == NULL) {
        return -ENOMEM;
    }
    *created = (struct cache_pool){
        .budget = budget,
        .first_buckets = first_buckets(budget, typical_size),
    };
    slab_allocator_init(&created->slabs);
    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&created->shards[i].mutex, NULL);
        pthread_cond_init(&created->shards[i].filled, NULL);
    }
    *pool = created;
    return 0;
}

static void shard_release(struct cache_pool *pool, struct shard *shard)
{
    struct block *block;

    while ((block = shard->dirty) != NULL) { /* could not be written back */
        shard_unlist_dirty(shard, block);
        table_remove(pool, shard, block);
        block_free(pool, block);
    }
    while ((block = shard_take_oldest(pool, shard)) != NULL) {
        block_free(pool, block);
    }
    free(shard->buckets);
    pthread_cond_destroy(&shard->filled);
    pthread_mutex_destroy(&shard->mutex);
}

void cache_pool_destroy(struct cache_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    for (unsigned i = 0; i < SHARDS; i++) {
        shard_release(pool, &pool->shards[i]);
    }
    slab_allocator_release(&pool->slabs);
    free(pool);
}

/* --- Get and unpin --------------------------------------------------------------- */

/*
 * A block that nobody knows of yet, pinned; NULL when memory ran out. Where the
 * pool is full, the oldest of the shard becomes the new one, memory and all, if
 * it has the size. The shard's mutex is held.
 */
static struct block *block_make(struct cache_pool *pool, struct shard *shard, struct cache_key key,
                                size_t size)
{
    uint64_t bytes = atomic_load_explicit(&pool->bytes, memory_order_relaxed);
    struct block *block = shard->oldest;
    struct slab_block memory = {0};

    if (block != NULL && block->entry.size == size && bytes + size > pool->budget) {
        memory = shard_take_oldest(pool, shard)->memory;
        shard->evictions++;
    } else {
        block = malloc(sizeof(*block));
    }
    if (block != NULL) {
        *block = (struct block){
            .entry = {.key = key, .size = size},
            .memory = memory,
            .pins = 1,
        };
    }
    return block;
}

/* Fills a block that is in the table already, for others to wait at. */
static int block_fill(struct cache_pool *pool, struct block *block, cache_fill_fn *fill,
                      void *context)
{
    if (block->memory.data == NULL &&
        slab_alloc(&pool->slabs, block->entry.size, &block->memory) != 0) {
        return -ENOMEM;
    }
    block->entry.data = block->memory.data;
    return fill(context, block->entry.data, block->entry.size);
}

/* Drops one pin of a FAILED block; returns it when it was the last. The mutex is held. */
static struct block *failed_unpin(struct block *block)
{
    block->pins--;
    return block->pins == 0 ? block : NULL;
}

/* Pins a block of the table, after its fill if need be. The mutex is held, and dropped. */
static int get_found(struct cache_pool *pool, struct shard *shard, struct block *block,
                     const struct cache_entry **entry)
{
    struct block *failed = NULL;
    int error = 0;

    if (block->state == BLOCK_READY && block->pins == 0) {
        lru_remove(shard, block);
    }
    block->pins++;
    while (block->state == BLOCK_FILLING) {
        pthread_cond_wait(&shard->filled, &shard->mutex);
    }
    if (block->state != BLOCK_FAILED) { /* READY, or replaced since: whole in any case */
        shard->hits++;
        *entry = &block->entry;
    } else {
        error = block->error;
        failed = failed_unpin(block);
    }
    pthread_mutex_unlock(&shard->mutex);
    if (failed != NULL) {
        block_free(pool, failed);
    }
    return error;
}

/* Ends the fill of a block: for better, or for worse. */
static void fill_end(struct cache_pool *pool, struct shard *shard, struct block *block, int error)
{
    struct block *failed = NULL;

    pthread_mutex_lock(&shard->mutex);
    if (error == 0) {
        block->state = BLOCK_READY;
    } else {
        block->state = BLOCK_FAILED;
        block->error = error;
        table_remove(pool, shard, block);
        atomic_fetch_sub_explicit(&pool->bytes, block->entry.size, memory_order_relaxed);
        failed = failed_unpin(block);
    }
    pthread_cond_broadcast(&shard->filled);
    pthread_mutex_unlock(&shard->mutex);
    if (failed != NULL) {
        block_free(pool, failed);
    }
}

/* Makes the block that the table does not have. The shard's mutex is held, and dropped. */
static int get_missing(struct cache_pool *pool, uint64_t hash, struct cache_key key, size_t size,
                       cache_fill_fn *fill, void *context, const struct cache_entry **entry)
{
    struct shard *shard = shard_of(pool, hash);
    struct block *block = block_make(pool, shard, key, size);
    int error;

    if (block == NULL || table_insert(pool, shard, hash, block) != 0) {
        pthread_mutex_unlock(&shard->mutex);
        if (block != NULL) {
            block_free(pool, block);
        }
        return -ENOMEM;
    }
    shard->misses++;
    atomic_fetch_add_explicit(&pool->bytes, size, memory_order_relaxed);
    pthread_mutex_unlock(&shard->mutex);

    /* Room is made before memory is taken, so that the budget is not exceeded in between. */
    if (over_budget(pool)) {
        evict(pool, shard_index(hash));
    }
    error = block_fill(pool, block, fill, context);
    if (error == 0) {
        *entry = &block->entry;
    }
    fill_end(pool, shard, block, error);
    return error;
}

/* As get_found(), after a look at the size. */
static int get_sized(struct cache_pool *pool, struct shard *shard, struct block *block, size_t size,
                     const struct cache_entry **entry)
{
    if (block->entry.size != size) {
        /* A caller's mistake, which must not become a read past the end of the block. */
        pthread_mutex_unlock(&shard->mutex);
        return -EINVAL;
    }
    return get_found(pool, shard, block, entry);
}

int cache_pool_get(struct cache_pool *pool, struct cache_key key, size_t size, cache_fill_fn *fill,
                   void *context, const struct cache_entry **entry)
{
    uint64_t hash = key_hash(key);
    struct shard *shard = shard_of(pool, hash);
    struct block *block;

    pthread_mutex_lock(&shard->mutex);
    block = table_find(shard, hash, key);
    if (block == NULL) {
        return get_missing(pool, hash, key, size, fill, context, entry);
    }
    return get_sized(pool, shard, block, size, entry);
}

int cache_pool_find(struct cache_pool *pool, struct cache_key key, size_t size,
                    const struct cache_entry **entry)
{
    uint64_t hash = key_hash(key);
    struct shard *shard = shard_of(pool, hash);
    struct block *block;

    pthread_mutex_lock(&shard->mutex);
    block = table_find(shard, hash, key);
    if (block == NULL) {
        shard->misses++;
        pthread_mutex_unlock(&shard->mutex);
        return -ENOENT;
    }
    return get_sized(pool, shard, block, size, entry);
}

static void unpin(struct cache_pool *pool, const struct cache_entry *entry, bool keep)
{
    struct block *block = block_of_entry(entry);
    uint64_t hash = key_hash(entry->key);
    struct shard *shard = shard_of(pool, hash);
    bool unpinned, stale;

    pthread_mutex_lock(&shard->mutex);
    block->pins--;
    unpinned = block->pins == 0;
    if (unpinned && !keep && block->state == BLOCK_READY) { /* dirty blocks stay pinned */
        block->state = BLOCK_STALE;
        table_remove(pool, shard, block);
    }
    stale = block->state == BLOCK_STALE;
    if (unpinned && !stale) {
        block->epoch = atomic_load_explicit(&pool->epoch, memory_order_relaxed);
        lru_insert(shard, block);
    }
    pthread_mutex_unlock(&shard->mutex);
    if (unpinned && stale) {
        stale_free(pool, block);
        return;
    }
    /* More was pinned than the budget holds: the first chance to give it back. */
    if (unpinned && over_budget(pool)) {
        evict(pool, shard_index(hash));
    }
}

void cache_pool_unpin(struct cache_pool *pool, const struct cache_entry *entry)
{
    unpin(pool, entry, true);
}

void cache_pool_unpin_last(struct cache_pool *pool, const struct cache_entry *entry)
{
    unpin(pool, entry, false);
}

/* --- Cleaning and statistics ------------------------------------------------------ */

/* Takes all blocks unpinned before `epoch` out of the shard: a list, linked by `next`. */
static struct block *shard_take_unused(struct cache_pool *pool, struct shard *shard, uint64_t epoch)
{
    struct block *unused = NULL;

    pthread_mutex_lock(&shard->mutex);
    while (shard->oldest != NULL && shard->oldest->epoch < epoch) {
        struct block *block = shard_take_oldest(pool, shard);

        block->next = unused;
        unused = block;
    }
    if (shard->entries == 0) {
        free(shard->buckets);
        shard->buckets = NULL;
        shard->bucket_count = 0;
    }
    pthread_mutex_unlock(&shard->mutex);
    return unused;
}

uint64_t cache_pool_clean(struct cache_pool *pool)
{
    /* From here on a use counts for the next call; one before it, for this call. */
    uint64_t epoch = atomic_fetch_add_explicit(&pool->epoch, 1, memory_order_relaxed);
    uint64_t dropped = 0;

    for (unsigned i = 0; i < SHARDS; i++) {
        struct block *block = shard_take_unused(pool, &pool->shards[i], epoch);

        while (block != NULL) {
            struct block *next = block->next;

            dropped += block->entry.size;
            block_free(pool, block);
            block = next;
        }
    }
    if (dropped > 0) {
        slab_trim(&pool->slabs);
    }
    return dropped;
}

void cache_pool_stats(struct cache_pool *pool, struct cache_pool_stats *stats)
{
    *stats = (struct cache_pool_stats){.budget = pool->budget};
    for (unsigned i = 0; i < SHARDS; i++) {
        struct shard *shard = &pool->shards[i];

        pthread_mutex_lock(&shard->mutex);
        stats->hits += shard->hits;
        stats->misses += shard->misses;
        stats->evictions += shard->evictions;
        stats->writebacks += shard->writebacks;
        stats->entries += shard->entries;
        pthread_mutex_unlock(&shard->mutex);
    }
    stats->bytes = atomic_load_explicit(&pool->bytes, memory_order_relaxed);
}
