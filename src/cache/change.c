/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/change.h"

#include "cache/pool_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512

/* --- Which sectors are dirty -------------------------------------------------------- */

static size_t sector_count(const struct block *block)
{
    return (block->entry.size + SECTOR - 1) / SECTOR;
}

static bool sector_is_dirty(const struct dirty *dirty, size_t sector)
{
    return (dirty->sectors[sector / 8] & (1U << (sector % 8))) != 0;
}

static void mark_range(struct dirty *dirty, size_t offset, size_t length)
{
    size_t sector;

    for (sector = offset / SECTOR; sector <= (offset + length - 1) / SECTOR; sector++) {
        dirty->sectors[sector / 8] |= (uint8_t)(1U << (sector % 8));
    }
}

static void mark_all_of(struct dirty *dirty, const struct dirty *other, size_t sectors)
{
    size_t i;

    for (i = 0; i < (sectors + 7) / 8; i++) {
        dirty->sectors[i] |= other->sectors[i];
    }
    dirty->epoch = max_u64(dirty->epoch, other->epoch);
}

static struct dirty *dirty_create(const struct block *block)
{
    return calloc(1, sizeof(struct dirty) + (sector_count(block) + 7) / 8);
}

/* --- Changing a block ----------------------------------------------------------------- */

/* A copy of the pinned block, with the change applied. NULL when memory ran out. */
static struct block *changed_copy(struct cache_pool *pool, const struct block *old,
                                  const struct cache_change *change)
{
    struct block *copy = malloc(sizeof(*copy));

    if (copy == NULL) {
        return NULL;
    }
    *copy = (struct block){
        .entry = {.key = old->entry.key, .size = old->entry.size},
        .pins = 1,
        .state = BLOCK_READY,
    };
    copy->dirty = dirty_create(copy);
    if (copy->dirty == NULL || slab_alloc(&pool->slabs, copy->entry.size, &copy->memory) != 0) {
        free(copy->dirty);
        free(copy);
        return NULL;
    }
    copy->entry.data = copy->memory.data;
    memcpy(copy->entry.data, old->entry.data, copy->entry.size);
    change->apply(change->context, copy->entry.data);
    return copy;
}

/* Puts `copy` in the place of `old` in the table and in the list of dirty blocks. */
static void replace(struct cache_pool *pool, struct shard *shard, struct block *old,
                    struct block *copy)
{
    bool was_dirty = old->listed;
    size_t sectors = sector_count(copy);

    if (old->dirty != NULL) {
        /* Also what is just being written: the copy may be newer there. */
        mark_all_of(copy->dirty, old->dirty, sectors);
    }
    shard_replace(shard, old, copy);
    old->state = BLOCK_STALE;
    if (was_dirty) {
        shard_unlist_dirty(shard, old);
        old->pins--; /* never the last: the caller has one */
        atomic_fetch_sub_explicit(&pool->dirty_bytes, old->entry.size, memory_order_relaxed);
    }
}

/* Has the next write-back take a block that is in no list. With the mutex held. */
static void list_dirty(struct cache_pool *pool, struct shard *shard, struct block *block)
{
    block->pins++;
    shard_list_dirty(shard, block);
    atomic_fetch_add_explicit(&pool->dirty_bytes, block->entry.size, memory_order_relaxed);
}

/* False: `old` is not what the pool has there any more, and nothing was done. */
static bool publish(struct cache_pool *pool, struct block *old, struct block *copy,
                    const struct cache_change *change)
{
    struct shard *shard = shard_of_key(pool, copy->entry.key);
    bool dirty;

    pthread_mutex_lock(&shard->mutex);
    if (old->state == BLOCK_STALE) {
        pthread_mutex_unlock(&shard->mutex);
        return false;
    }
    dirty = change->write_through == NULL || old->dirty != NULL;
    if (change->write_through == NULL) {
        mark_range(copy->dirty, change->offset, change->length);
        copy->dirty->epoch = change->epoch;
    }
    replace(pool, shard, old, copy);
    atomic_fetch_add_explicit(&pool->bytes, copy->entry.size, memory_order_relaxed);
    if (dirty) {
        list_dirty(pool, shard, copy);
    } else {
        free(copy->dirty);
        copy->dirty = NULL;
    }
    pthread_mutex_unlock(&shard->mutex);
    cache_pool_unpin(pool, &copy->entry);
    return true;
}

/*
 * Changes the block itself, where our pin, and that of the list of dirty blocks,
 * are all there are: nobody reads it, and no write-back has taken it. False: it
 * has to be a copy.
 */
static bool change_in_place(struct cache_pool *pool, struct block *block,
                            const struct cache_change *change)
{
    struct shard *shard = shard_of_key(pool, block->entry.key);
    bool alone;

    if (change->write_through != NULL) {
        return false; /* what is to be seen only after it was written */
    }
    pthread_mutex_lock(&shard->mutex);
    alone = block->state == BLOCK_READY && block->pins == (block->listed ? 2 : 1);
    if (alone && block->dirty == NULL) {
        block->dirty = dirty_create(block);
        alone = block->dirty != NULL;
    }
    if (alone) {
        change->apply(change->context, block->entry.data);
        mark_range(block->dirty, change->offset, change->length);
        block->dirty->epoch = max_u64(block->dirty->epoch, change->epoch);
        if (!block->listed) {
            list_dirty(pool, shard, block);
        }
    }
    pthread_mutex_unlock(&shard->mutex);
    return alone;
}

static void change_nothing(void *context, void *data)
{
    (void)context;
    (void)data;
}

/*
 * What the file has there is unknown, since a write of it failed: it may be none, a part, or all.
 * The block is dirty there, as it is.
 */
static void rewrite_later(struct cache_pool *pool, struct cache_key key, size_t size,
                          cache_fill_fn *fill, void *fill_context,
                          const struct cache_change *failed)
{
    const struct cache_change change = {
        .offset = failed->offset,
        .length = failed->length,
        .epoch = failed->epoch,
        .apply = change_nothing,
    };

    (void)cache_pool_change(pool, key, size, fill, fill_context, &change);
}

/* As cache_pool_change(); *again: another change came first, and this one is still to be made. */
static int try_change(struct cache_pool *pool, struct cache_key key, size_t size,
                      cache_fill_fn *fill, void *fill_context, const struct cache_change *change,
                      bool *again)
{
    const struct cache_entry *entry;
    struct block *old, *copy;
    bool written = false;
    int result = cache_pool_get(pool, key, size, fill, fill_context, &entry);

    *again = false;
    if (result < 0) {
        return result;
    }
    old = block_of_entry(entry);
    if (change_in_place(pool, old, change)) {
        cache_pool_unpin(pool, entry);
        return 0;
    }
    copy = changed_copy(pool, old, change);
    if (copy == NULL) {
        result = -ENOMEM;
    } else if (change->write_through != NULL) {
        written = true;
        result = change->write_through(change->write_context, key.host_offset + change->offset,
                                       (const uint8_t *)copy->entry.data + change->offset,
                                       change->length);
    }
    *again = result == 0 && !publish(pool, old, copy, change);
    if ((result < 0 || *again) && copy != NULL) {
        block_free(pool, copy);
    }
    if (result < 0 && written) { /* with the old block pinned: it need not be read again */
        rewrite_later(pool, key, size, fill, fill_context, change);
    }
    cache_pool_unpin(pool, entry);
    return result;
}

int cache_pool_change(struct cache_pool *pool, struct cache_key key, size_t size,
                      cache_fill_fn *fill, void *fill_context, const struct cache_change *change)
{
    bool again;
    int result;

    do {
        result = try_change(pool, key, size, fill, fill_context, change, &again);
    } while (again);
    return result;
}

/* --- Forgetting a block ------------------------------------------------------------------ */

/* Takes the block out of the pool; true when nobody has it pinned, and it can be freed. */
static bool detach(struct cache_pool *pool, struct shard *shard, struct block *block)
{
    if (block->listed) {
        shard_unlist_dirty(shard, block);
        atomic_fetch_sub_explicit(&pool->dirty_bytes, block->entry.size, memory_order_relaxed);
        block->pins--;
    } else if (block->pins == 0) {
        lru_remove(shard, block);
    }
    table_remove(pool, shard, block);
    block->state = BLOCK_STALE;
    return block->pins == 0;
}

void cache_pool_drop(struct cache_pool *pool, struct cache_key key)
{
    struct shard *shard = shard_of_key(pool, key);
    struct block *block;
    bool unused = false;

    pthread_mutex_lock(&shard->mutex);
    block = table_find(shard, key_hash(key), key);
    while (block != NULL && block->state == BLOCK_FILLING) {
        pthread_cond_wait(&shard->filled, &shard->mutex);
        block = table_find(shard, key_hash(key), key);
    }
    if (block != NULL) {
        unused = detach(pool, shard, block);
    }
    pthread_mutex_unlock(&shard->mutex);
    if (unused) {
        stale_free(pool, block);
    }
}

bool cache_pool_has(struct cache_pool *pool, struct cache_key key)
{
    struct shard *shard = shard_of_key(pool, key);
    bool has;

    pthread_mutex_lock(&shard->mutex);
    has = table_find(shard, key_hash(key), key) != NULL;
    pthread_mutex_unlock(&shard->mutex);
    return has;
}

bool cache_pool_has_any(struct cache_pool *pool, struct cache_key first, uint64_t length,
                        uint64_t step)
{
    uint64_t end = first.host_offset + length;
    struct cache_key key = first;

    while (key.host_offset < end) {
        uint64_t left = REGION_SIZE - key.host_offset % REGION_SIZE;

        if (atomic_load_explicit(region_of_key(pool, key), memory_order_relaxed) == 0) {
            key.host_offset += div_round_up(left, step) * step;
        } else if (cache_pool_has(pool, key)) {
            return true;
        } else {
            key.host_offset += step;
        }
    }
    return false;
}

uint64_t cache_pool_dirty_bytes(struct cache_pool *pool)
{
    return atomic_load_explicit(&pool->dirty_bytes, memory_order_relaxed);
}

/* --- Writing back -------------------------------------------------------------------------- */

struct cache_writeback {
    struct cache_pool *pool;
    size_t count, capacity;
    struct block **blocks; /* each pinned by us */
    uint64_t epoch;
};

static int add_block(struct cache_writeback *writeback, struct block *block)
{
    if (writeback->count == writeback->capacity) {
        size_t capacity = in_memory(max_u64(writeback->capacity * 2, 64));
        struct block **blocks = realloc(writeback->blocks, capacity * sizeof(struct block *));

        if (blocks == NULL) {
            return -ENOMEM;
        }
        writeback->blocks = blocks;
        writeback->capacity = capacity;
    }
    writeback->blocks[writeback->count++] = block;
    writeback->epoch = max_u64(writeback->epoch, block->dirty->epoch);
    return 0;
}

/* Takes over the shard's dirty blocks with their pins. */
static int take_dirty(struct cache_writeback *writeback, struct shard *shard)
{
    int result = 0;

    pthread_mutex_lock(&shard->mutex);
    while (shard->dirty != NULL && result == 0) {
        struct block *block = shard->dirty;

        result = add_block(writeback, block);
        if (result == 0) {
            shard_unlist_dirty(shard, block);
            atomic_fetch_sub_explicit(&writeback->pool->dirty_bytes, block->entry.size,
                                      memory_order_relaxed);
        }
    }
    pthread_mutex_unlock(&shard->mutex);
    return result;
}

int cache_writeback_begin(struct cache_pool *pool, struct cache_writeback **writeback)
{
    unsigned i;
    int result = 0;

    *writeback = calloc(1, sizeof(**writeback));
    if (*writeback == NULL) {
        return -ENOMEM;
    }
    (*writeback)->pool = pool;
    for (i = 0; i < SHARDS && result == 0; i++) {
        result = take_dirty(*writeback, &pool->shards[i]);
    }
    if (result < 0) {
        cache_writeback_end(*writeback, false);
        *writeback = NULL;
    }
    return result;
}

bool cache_writeback_is_empty(const struct cache_writeback *writeback)
{
    return writeback->count == 0;
}

uint64_t cache_writeback_epoch(const struct cache_writeback *writeback)
{
    return writeback->epoch;
}

/* Nobody changes a block, or its dirty sectors: what came later went into a copy. */
static int write_block(const struct block *block,
                       int (*write)(void *context, uint64_t host_offset, const void *data,
                                    size_t length),
                       void *context)
{
    size_t sectors = sector_count(block), sector = 0;

    while (sector < sectors) {
        size_t first, offset, length;
        int result;

        if (!sector_is_dirty(block->dirty, sector)) {
            sector++;
            continue;
        }
        first = sector;
        while (sector < sectors && sector_is_dirty(block->dirty, sector)) {
            sector++;
        }
        offset = first * SECTOR;
        length = in_memory(min_u64(sector * SECTOR, block->entry.size) - offset);
        result = write(context, block->entry.key.host_offset + offset,
                       (const uint8_t *)block->entry.data + offset, length);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

int cache_writeback_write(const struct cache_writeback *writeback,
                          int (*write)(void *context, uint64_t host_offset, const void *data,
                                       size_t length),
                          void *context)
{
    size_t i;

    for (i = 0; i < writeback->count; i++) {
        int result = write_block(writeback->blocks[i], write, context);

        if (result < 0) {
            return result;
        }
    }
    return 0;
}

/* A block that was replaced meanwhile left its sectors to the copy. */
static void end_block(struct cache_pool *pool, struct block *block, bool written)
{
    struct shard *shard = shard_of_key(pool, block->entry.key);
    bool keep_pin = false;

    pthread_mutex_lock(&shard->mutex);
    if (block->state == BLOCK_READY && !written) {
        shard_list_dirty(shard, block);
        atomic_fetch_add_explicit(&pool->dirty_bytes, block->entry.size, memory_order_relaxed);
        keep_pin = true;
    } else if (block->state == BLOCK_READY) {
        free(block->dirty);
        block->dirty = NULL;
        shard->writebacks++;
    }
    pthread_mutex_unlock(&shard->mutex);
    if (!keep_pin) {
        cache_pool_unpin(pool, &block->entry);
    }
}

void cache_writeback_end(struct cache_writeback *writeback, bool written)
{
    size_t i;

    for (i = 0; i < writeback->count; i++) {
        end_block(writeback->pool, writeback->blocks[i], written);
    }
    free(writeback->blocks);
    free(writeback);
}
