/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/refcount.h"

#include "cache/change.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "meta/refcount_internal.h"
#include "util/checked.h"
#include "util/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- Opening ------------------------------------------------------------------------- */

static int read_table(struct refcounts *refcounts, const char *name, struct error *error)
{
    const struct header *header = refcounts->source.header;
    uint64_t size = (uint64_t)header->refcount_table_clusters << header->cluster_bits, i;
    int result;

    refcounts->capacity = size / sizeof(uint64_t);
    refcounts->table = malloc(in_memory(size));
    if (refcounts->table == NULL) {
        return error_set(error, ENOMEM, "%s: no memory for the refcount table of %" PRIu64 " bytes",
                         name, size);
    }
    memory_map(refcounts->table, in_memory(size));
    result = store_read(refcounts->source.file, header->refcount_table_offset, refcounts->table,
                        in_memory(size));
    if (result < 0) {
        return error_set(error, -result, "%s: the refcount table cannot be read: %s", name,
                         strerror(-result));
    }
    for (i = 0; i < refcounts->capacity; i++) {
        refcounts->table[i] = load_be64(&refcounts->table[i]);
    }
    return 0;
}

/* The blocks lie in the file, at clusters; the end is behind all that has a count. */
static int check_table(struct refcounts *refcounts, uint64_t file_size, const char *name,
                       struct error *error)
{
    const struct header *header = refcounts->source.header;
    uint64_t i;

    for (i = 0; i < refcounts->capacity; i++) {
        uint64_t block = refcounts->table[i];

        if (block % header->cluster_size != 0 ||
            (block != 0 && !range_within(block, header->cluster_size, file_size))) {
            return error_set(error, EINVAL,
                             "%s: entry %" PRIu64 " of the refcount table is 0x%" PRIx64
                             ", which is no cluster of the file; mount it with -o ro, or repair "
                             "it first",
                             name, i, block);
        }
    }
    return 0;
}

/* Tells the gate of the blocks. */
static int know_blocks(const struct refcounts *refcounts)
{
    uint64_t i;

    for (i = 0; i < refcounts->capacity && refcounts->source.gate != NULL; i++) {
        int result = 0;

        if (refcounts->table[i] != 0) {
            result = gate_know(refcounts->source.gate, GATE_TABLE_BLOCK, refcounts->table[i]);
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

bool refcounts_next_block(const struct refcounts *refcounts, uint64_t *index, uint64_t *host_offset)
{
    while (*index < refcounts->capacity) {
        *host_offset = refcounts->table[(*index)++];
        if (*host_offset != 0) {
            return true;
        }
    }
    return false;
}

static int pin_block(struct refcounts *refcounts, uint64_t block, const struct cache_entry **entry);

/* *last: one more than the last cluster with a count that block `index` counts, at least `least`.
 */
static int last_counted(struct refcounts *refcounts, uint64_t index, uint64_t least, uint64_t *last)
{
    uint64_t first = index * refcounts->block_counts;
    const struct cache_entry *entry;
    int result = pin_block(refcounts, refcounts->table[index], &entry);

    if (result < 0) {
        return result;
    }
    *last = first + refcounts->block_counts;
    while (*last > max_u64(first, least) &&
           refcount_load(entry->data, *last - 1 - first, refcounts->order) == 0) {
        (*last)--;
    }
    *last = max_u64(*last, least);
    cache_pool_unpin(refcounts->source.pool, entry);
    return 0;
}

/*
 * Behind the file's last byte (of a block device that says nothing) and the
 * last count that is not 0: in a file counts behind its end are rare, after a
 * crash or in a damaged image.
 */
static int find_end(struct refcounts *refcounts, const struct store_info *info)
{
    const struct header *header = refcounts->source.header;
    uint64_t index, least = 0, end = 0;
    int result = 0;

    if (!S_ISBLK(info->mode)) {
        least = div_round_up(info->size, header->cluster_size);
    }
    for (index = refcounts->capacity; index > 0 && end <= least && result == 0; index--) {
        if (index * refcounts->block_counts <= least) {
            break;
        }
        if (refcounts->table[index - 1] != 0) {
            result = last_counted(refcounts, index - 1, least, &end);
        }
    }
    refcounts->end = max_u64(end, least);
    refcounts->lowered = UINT64_MAX;
    return result;
}

int refcounts_open(const struct refcounts_source *source, const char *name,
                   struct refcounts **refcounts, struct error *error)
{
    struct refcounts *opened = calloc(1, sizeof(*opened));
    struct store_info info;
    int result;

    *refcounts = NULL;
    if (opened == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    opened->source = *source;
    opened->order = source->header->refcount_order;
    opened->block_counts = source->header->cluster_size * 8 >> opened->order;
    result = store_info(source->file, &info);
    if (result < 0) {
        error_set(error, -result, "%s: its size cannot be found out: %s", name, strerror(-result));
    }
    if (result == 0) {
        result = read_table(opened, name, error);
    }
    if (result == 0) {
        result = check_table(opened, info.size, name, error);
    }
    if (result == 0 && know_blocks(opened) < 0) {
        result = error_set(error, ENOMEM, "%s: out of memory", name);
    }
    if (result == 0) {
        result = find_end(opened, &info);
        if (result < 0) {
            error_set(error, -result, "%s: a refcount block cannot be read: %s", name,
                      strerror(-result));
        }
    }
    if (result < 0) {
        refcounts_close(opened);
        return result;
    }
    *refcounts = opened;
    return 0;
}

void refcounts_close(struct refcounts *refcounts)
{
    if (refcounts != NULL) {
        free(refcounts->failed.indices);
        free(refcounts->failed.table);
        free(refcounts->owed);
        free(refcounts->table);
        free(refcounts);
    }
}

uint64_t refcounts_end(const struct refcounts *refcounts)
{
    return refcounts->end;
}

void refcounts_set_end(struct refcounts *refcounts, uint64_t cluster)
{
    if (cluster < refcounts->end) {
        refcounts->lowered = min_u64(refcounts->lowered, cluster);
    }
    refcounts->end = cluster;
}

uint64_t refcounts_lowered_end(struct refcounts *refcounts)
{
    uint64_t lowered = refcounts->lowered;

    refcounts->lowered = UINT64_MAX;
    return lowered;
}

void refcounts_set_lazy(struct refcounts *refcounts, bool lazy)
{
    refcounts->lazy = lazy;
}

/* --- Blocks in the cache --------------------------------------------------------------- */

struct block_source {
    struct store *file;
    uint64_t host_offset;
};

static int fill_block(void *context, void *data, size_t size)
{
    const struct block_source *source = context;

    return store_read(source->file, source->host_offset, data, size);
}

static int pin_block(struct refcounts *refcounts, uint64_t block, const struct cache_entry **entry)
{
    struct block_source source = {.file = refcounts->source.file, .host_offset = block};

    return cache_pool_get(refcounts->source.pool, refcount_block_key(refcounts, block),
                          in_memory(refcounts->source.header->cluster_size), fill_block, &source,
                          entry);
}

/* Host offset of the block that counts `cluster`, 0 where there is none. */
static uint64_t block_of(const struct refcounts *refcounts, uint64_t cluster)
{
    uint64_t index = cluster / refcounts->block_counts;

    return index < refcounts->capacity ? refcounts->table[index] : 0;
}

int refcounts_get(struct refcounts *refcounts, uint64_t cluster, uint64_t *count)
{
    uint64_t block = block_of(refcounts, cluster);
    const struct cache_entry *entry;
    int result;

    *count = 0;
    if (block == 0) {
        return 0;
    }
    result = pin_block(refcounts, block, &entry);
    if (result == 0) {
        *count = refcount_load(entry->data, cluster % refcounts->block_counts, refcounts->order);
        cache_pool_unpin(refcounts->source.pool, entry);
    }
    return result;
}

/* As refcounts_find_free(), within the block of `from`; `limit` lies in it, or at its end. */
static int find_free_in_block(struct refcounts *refcounts, uint64_t from, uint64_t limit,
                              uint64_t want, uint64_t *first, uint64_t *length)
{
    uint64_t block = block_of(refcounts, from), cluster;
    const struct cache_entry *entry;
    int result;

    *length = 0;
    if (block == 0) {
        *first = from;
        *length = min_u64(want, limit - from);
        return 0;
    }
    result = pin_block(refcounts, block, &entry);
    if (result < 0) {
        return result;
    }
    for (cluster = from; cluster < limit && *length < want; cluster++) {
        uint64_t index = cluster % refcounts->block_counts;

        if (refcount_load(entry->data, index, refcounts->order) == 0) {
            if (*length == 0) {
                *first = cluster;
            }
            (*length)++;
        } else if (*length > 0) {
            break;
        }
    }
    cache_pool_unpin(refcounts->source.pool, entry);
    return 0;
}

int refcounts_find_free(struct refcounts *refcounts, uint64_t from, uint64_t limit, uint64_t want,
                        uint64_t *first, uint64_t *length)
{
    int result = refcounts_settle_end(refcounts);

    *length = 0;
    while (result == 0 && from < limit && *length == 0) {
        uint64_t next =
            min_u64(limit, (from / refcounts->block_counts + 1) * refcounts->block_counts);

        result = find_free_in_block(refcounts, from, next, want, first, length);
        from = next;
    }
    return result;
}

/* --- Changing counts ------------------------------------------------------------------- */

/* Counts of one block that change together. */
struct count_change {
    uint64_t index, length; /* in the block */
    uint32_t order;
    int delta;
};

static void apply_change(void *context, void *data)
{
    const struct count_change *change = context;
    uint64_t i;

    for (i = change->index; i < change->index + change->length; i++) {
        uint64_t count = refcount_load(data, i, change->order);

        refcount_store(data, i, change->order, change->delta > 0 ? count + 1 : count - 1);
    }
}

/* Whether each of the counts can change so; -ERANGE: one of them is 0. */
static int check_change(struct refcounts *refcounts, uint64_t block,
                        const struct count_change *change)
{
    const struct cache_entry *entry;
    uint64_t i;
    int result = pin_block(refcounts, block, &entry);

    if (result < 0) {
        return result;
    }
    for (i = change->index; i < change->index + change->length && result == 0; i++) {
        uint64_t count = refcount_load(entry->data, i, change->order);

        if (change->delta > 0 && count == refcount_max(change->order)) {
            result = -EOVERFLOW;
        } else if (change->delta < 0 && count == 0) {
            result = -ERANGE;
        }
    }
    cache_pool_unpin(refcounts->source.pool, entry);
    return result;
}

static int write_counts(void *context, uint64_t host_offset, const void *data, size_t length)
{
    return gate_write(context, GATE_REFCOUNT_BLOCK, host_offset, data, length);
}

/* A change of counts of one block, which exists: the part of a range that begins there. */
static uint64_t part_in_block(const struct refcounts *refcounts, uint64_t first, uint64_t length,
                              int delta, struct count_change *part)
{
    *part = (struct count_change){
        .index = first % refcounts->block_counts,
        .length = min_u64(length, refcounts->block_counts - first % refcounts->block_counts),
        .order = refcounts->order,
        .delta = delta,
    };
    return part->length;
}

static int change_in_block(struct refcounts *refcounts, uint64_t block, struct count_change *counts,
                           bool write_through)
{
    struct block_source source = {.file = refcounts->source.file, .host_offset = block};
    uint64_t begin = (counts->index << counts->order) / 8;
    uint64_t end = div_round_up((counts->index + counts->length) << counts->order, 8);
    struct cache_change change = {
        .offset = in_memory(begin),
        .length = in_memory(end - begin),
        .apply = apply_change,
        .context = counts,
    };

    if (write_through) {
        change.write_through = write_counts;
        change.write_context = refcounts->source.gate;
    }
    return cache_pool_change(refcounts->source.pool, refcount_block_key(refcounts, block),
                             in_memory(refcounts->source.header->cluster_size), fill_block, &source,
                             &change);
}

/* Whether all of the range can change so. */
static int check_range(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t block = block_of(refcounts, first);
        struct count_change part;

        length -= part_in_block(refcounts, first, length, delta, &part);
        first += part.length;
        if (block == 0) {
            return -ERANGE;
        }
        /* R8: a block that is another table, too, is not even changed in memory. */
        result = gate_pass(refcounts->source.gate, GATE_REFCOUNT_BLOCK, block,
                           refcounts->source.header->cluster_size);
        if (result == 0) {
            result = check_change(refcounts, block, &part);
        }
    }
    return result;
}

/* Changes the counts of a range; *changed: of how many. */
static int change_range(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta,
                        bool write_through, uint64_t *changed)
{
    int result = 0;

    *changed = 0;
    while (*changed < length && result == 0) {
        struct count_change part;

        (void)part_in_block(refcounts, first + *changed, length - *changed, delta, &part);
        result =
            change_in_block(refcounts, block_of(refcounts, first + *changed), &part, write_through);
        *changed += result == 0 ? part.length : 0;
    }
    return result;
}

int refcount_change(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta)
{
    uint64_t changed = 0, back;
    int result = check_range(refcounts, first, length, delta);

    if (result == 0) {
        /* R2: a count that rises is on its way to the disk before it is used. */
        result =
            change_range(refcounts, first, length, delta, delta > 0 && !refcounts->lazy, &changed);
    }
    if (result < 0 && delta > 0) {
        refcount_release(refcounts, first, changed);
    } else if (result < 0) {
        /* These blocks are dirty, and thus there: nothing can fail. */
        (void)change_range(refcounts, first, changed, 1, false, &back);
    }
    return result;
}

int refcounts_add(struct refcounts *refcounts, uint64_t first, uint64_t length, int delta)
{
    int result = 0;

    if (length == 0) {
        return 0;
    }
    if (delta > 0) {
        result = refcount_cover(refcounts, first, length);
    }
    if (result == 0) {
        result = refcount_change(refcounts, first, length, delta);
    }
    return result == -ERANGE ? -EIO : result;
}

/* --- Sharing ----------------------------------------------------------------------------- */

/* Shows the counts of a range to `look`, which may end it. */
static int look_at_counts(struct refcounts *refcounts, uint64_t first, uint64_t length,
                          int (*look)(void *context, uint64_t count), void *context)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t index = first % refcounts->block_counts, block = block_of(refcounts, first);
        uint64_t part = min_u64(length, refcounts->block_counts - index);
        const struct cache_entry *entry = NULL;

        result = block == 0 ? 0 : pin_block(refcounts, block, &entry);
        for (uint64_t i = 0; i < part && result == 0; i++) {
            result =
                look(context,
                     entry == NULL ? 0 : refcount_load(entry->data, index + i, refcounts->order));
        }
        if (entry != NULL) {
            cache_pool_unpin(refcounts->source.pool, entry);
        }
        first += part;
        length -= part;
    }
    return result;
}

static int is_counted(void *context, uint64_t count)
{
    (void)context;
    return count > 0 ? 0 : -EUCLEAN;
}

int refcounts_share(struct refcounts *refcounts, uint64_t first, uint64_t length, uint64_t *done)
{
    int result = look_at_counts(refcounts, first, length, is_counted, NULL);

    *done = 0;
    if (result == 0) {
        result = check_range(refcounts, first, length, 1);
    }
    return result == 0 ? change_range(refcounts, first, length, 1, false, done) : result;
}

static int note_one(void *context, uint64_t count)
{
    bool **next = context;

    *(*next)++ = count == 1;
    return 0;
}

int refcounts_are_one(struct refcounts *refcounts, uint64_t first, uint64_t length, bool *ones)
{
    return look_at_counts(refcounts, first, length, note_one, &ones);
}

/* --- Giving back, whatever the host does ------------------------------------------------- */

/* Without memory to remember it, it is a leak. */
static void owe(struct refcounts *refcounts, const struct owed *part)
{
    if (refcounts->owed_count == refcounts->owed_capacity) {
        size_t capacity = in_memory(max_u64(refcounts->owed_capacity * 2, 8));
        struct owed *owed = realloc(refcounts->owed, capacity * sizeof(*owed));

        if (owed == NULL) {
            return;
        }
        refcounts->owed = owed;
        refcounts->owed_capacity = capacity;
    }
    refcounts->owed[refcounts->owed_count++] = *part;
}

/* Whether it is done. In a damaged image a count may be 0: then trying again would not help. */
static bool lower(struct refcounts *refcounts, const struct owed *part)
{
    int result = refcount_change(refcounts, part->first, part->length, -1);

    return result == 0 || result == -ERANGE;
}

void refcount_release(struct refcounts *refcounts, uint64_t first, uint64_t length)
{
    while (length > 0) {
        struct owed part = {
            .first = first,
            .length = min_u64(length, refcounts->block_counts - first % refcounts->block_counts),
        };

        if (!lower(refcounts, &part)) {
            owe(refcounts, &part);
        }
        first += part.length;
        length -= part.length;
    }
}

bool refcount_pay(struct refcounts *refcounts)
{
    size_t kept = 0, i;

    for (i = 0; i < refcounts->owed_count; i++) {
        if (!lower(refcounts, &refcounts->owed[i])) {
            refcounts->owed[kept++] = refcounts->owed[i];
        }
    }
    refcounts->owed_count = kept;
    return kept == 0;
}

/* Blocks may be written at any time: rising counts are there already, falling ones may wait. */
static int write_back_all(struct refcounts *refcounts)
{
    struct cache_writeback *writeback;
    int result = cache_writeback_begin(refcounts->source.pool, &writeback);

    if (result < 0) {
        return result;
    }
    result = cache_writeback_write(writeback, write_counts, refcounts->source.gate);
    cache_writeback_end(writeback, result == 0);
    return result;
}

/* Whether dirty blocks take more memory than the pool may: they cannot be evicted. */
static bool too_many_dirty(struct refcounts *refcounts)
{
    struct cache_pool_stats stats;

    cache_pool_stats(refcounts->source.pool, &stats);
    return cache_pool_dirty_bytes(refcounts->source.pool) > stats.budget;
}

int refcounts_write_back(struct refcounts *refcounts)
{
    /* What cannot be settled yet makes nothing less true that is written now. */
    (void)refcounts_settle(refcounts);
    if (refcounts->lazy && !too_many_dirty(refcounts)) {
        return 0; /* R5 */
    }
    return write_back_all(refcounts);
}
