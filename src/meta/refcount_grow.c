/* SPDX-License-Identifier: MIT */
/* New refcount blocks, and a larger refcount table. */
#include "config.h"

#include "cache/change.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "meta/refcount_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Writes the table's entry `index`, as far as the table in the file has it. */
static int write_entry(struct refcounts *refcounts, uint64_t index)
{
    uint8_t entry[sizeof(uint64_t)];

    if (index >= refcounts->disk_capacity) {
        return 0; /* Written with the whole table, which is being made larger. */
    }
    store_be64(entry, refcounts->table[index]);
    return gate_write(refcounts->source.gate, GATE_REFCOUNT_TABLE,
                      refcounts->source.header->refcount_table_offset + index * sizeof(entry),
                      entry, sizeof(entry));
}

static int write_new_block(struct refcounts *refcounts, uint64_t cluster, uint64_t own_index)
{
    const struct header *header = refcounts->source.header;
    uint64_t host_offset = cluster << header->cluster_bits;
    uint8_t *block = calloc(1, header->cluster_size);
    int result;

    if (block == NULL) {
        return -ENOMEM;
    }
    if (own_index != UINT64_MAX) {
        refcount_store(block, own_index, refcounts->order, 1);
    }
    cache_pool_drop(refcounts->source.pool, refcount_block_key(refcounts, host_offset));
    result =
        gate_write(refcounts->source.gate, GATE_OTHER, host_offset, block, header->cluster_size);
    free(block);
    if (result == 0) { /* R3: the block before the entry that names it. */
        result = barrier_wait(refcounts->source.barrier, barrier_epoch(refcounts->source.barrier));
    }
    return result;
}

/* The block is none any more: its entry never came to the disk. */
static void forget_block(struct refcounts *refcounts, uint64_t index)
{
    uint64_t host_offset = refcounts->table[index];

    refcounts->table[index] = 0;
    if (host_offset != 0) {
        cache_pool_drop(refcounts->source.pool, refcount_block_key(refcounts, host_offset));
        gate_forget(refcounts->source.gate, GATE_TABLE_BLOCK, host_offset);
    }
}

int refcount_make_block(struct refcounts *refcounts, uint64_t index)
{
    uint32_t cluster_bits = refcounts->source.header->cluster_bits;
    uint64_t cluster = refcounts->end;
    bool counts_itself = cluster / refcounts->block_counts == index;
    int result;

    if (cluster >= ENTRY_HOST_OFFSET_MASK >> refcounts->source.header->cluster_bits) {
        return -EFBIG;
    }
    refcounts->end++;
    if (!counts_itself) {
        result = refcounts_add(refcounts, cluster, 1, 1);
        if (result < 0) {
            return result;
        }
        if (refcounts->table[index] != 0) {
            return 0; /* made on the way */
        }
    }
    result = write_new_block(refcounts, cluster,
                             counts_itself ? cluster % refcounts->block_counts : UINT64_MAX);
    if (result == 0) {
        result = gate_know(refcounts->source.gate, GATE_TABLE_BLOCK, cluster << cluster_bits);
    }
    if (result < 0) {
        return result;
    }
    refcounts->table[index] = cluster << cluster_bits;
    result = write_entry(refcounts, index);
    if (result < 0) {
        forget_block(refcounts, index); /* what only memory knows must not count anything (R2) */
    }
    return result;
}

/* More entries in memory; the table in the file follows in refcount_move_table(). */
static int grow_capacity(struct refcounts *refcounts, uint64_t entries)
{
    uint64_t *table;

    if (entries > HEADER_REFCOUNT_TABLE_SIZE_MAX / sizeof(uint64_t)) {
        return -EFBIG;
    }
    table = realloc(refcounts->table, entries * sizeof(*table));
    if (table == NULL) {
        return -ENOMEM;
    }
    memset(table + refcounts->capacity, 0, (entries - refcounts->capacity) * sizeof(*table));
    refcounts->table = table;
    refcounts->capacity = entries;
    return 0;
}

/* The table as the file has it, at its new place. */
static int write_table(struct refcounts *refcounts, uint64_t host_offset)
{
    uint64_t *raw = malloc(refcounts->capacity * sizeof(*raw)), i;
    int result;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < refcounts->capacity; i++) {
        store_be64(&raw[i], refcounts->table[i]);
    }
    result = gate_write(refcounts->source.gate, GATE_OTHER, host_offset, raw,
                        refcounts->capacity * sizeof(*raw));
    free(raw);
    return result;
}

/* R3: the header names the new table when that is stable, and before the old one is free. */
static int switch_table(struct refcounts *refcounts, uint64_t host_offset, uint64_t clusters)
{
    struct header *header = refcounts->source.header;
    uint8_t fields[HEADER_NB_SNAPSHOTS - HEADER_REFCOUNT_TABLE_OFFSET];
    int result;

    result = barrier_wait(refcounts->source.barrier, barrier_epoch(refcounts->source.barrier));
    if (result < 0) {
        return result;
    }
    store_be64(fields, host_offset);
    store_be32(fields + (HEADER_REFCOUNT_TABLE_CLUSTERS - HEADER_REFCOUNT_TABLE_OFFSET),
               (uint32_t)clusters);
    result = gate_write(refcounts->source.gate, GATE_HEADER, HEADER_REFCOUNT_TABLE_OFFSET, fields,
                        sizeof(fields));
    if (result < 0) {
        return result;
    }
    header->refcount_table_offset = host_offset;
    header->refcount_table_clusters = (uint32_t)clusters;
    refcounts->disk_capacity = refcounts->capacity;
    return barrier_wait(refcounts->source.barrier, barrier_epoch(refcounts->source.barrier));
}

/*
 * Clusters of a table that covers the block `index`, and whatever is taken at
 * the end while it is being made: its own clusters, and blocks for all of them.
 * At least half as large again as the one in the file, where that is possible.
 */
static uint64_t new_table_clusters(const struct refcounts *refcounts, uint64_t index)
{
    uint64_t in_cluster = refcounts->source.header->cluster_size / sizeof(uint64_t);
    uint64_t entries, clusters, last = index;

    entries = min_u64(refcounts->disk_capacity + refcounts->disk_capacity / 2,
                      HEADER_REFCOUNT_TABLE_SIZE_MAX / sizeof(uint64_t));
    do {
        entries = max_u64(entries, last + 1);
        clusters = div_round_up(entries, in_cluster);
        last = refcounts->end + clusters + 2 * (clusters / refcounts->block_counts) + 8;
        last = max_u64(last / refcounts->block_counts, index);
    } while (last >= clusters * in_cluster);
    return clusters;
}

/* Makes the larger table behind the end, and has the header name it. */
static int place_table(struct refcounts *refcounts, uint64_t clusters)
{
    uint32_t cluster_bits = refcounts->source.header->cluster_bits;
    uint64_t first = refcounts->end;
    int result;

    refcounts->end += clusters;
    result = refcounts_add(refcounts, first, clusters, 1);
    if (result == 0) {
        result = write_table(refcounts, first << cluster_bits);
    }
    return result < 0 ? result : switch_table(refcounts, first << cluster_bits, clusters);
}

int refcount_move_table(struct refcounts *refcounts, uint64_t index)
{
    const struct header *header = refcounts->source.header;
    uint64_t old_first = header->refcount_table_offset >> header->cluster_bits;
    uint64_t old_clusters = header->refcount_table_clusters;
    uint64_t clusters = new_table_clusters(refcounts, index);
    int result = grow_capacity(refcounts, clusters * (header->cluster_size / sizeof(uint64_t)));

    if (result < 0) {
        return result;
    }
    refcounts->moving = true;
    result = place_table(refcounts, clusters);
    refcounts->moving = false;
    if (result < 0) {
        /* Blocks that no table in the file names must not count anything (R2). */
        while (refcounts->capacity > refcounts->disk_capacity) {
            forget_block(refcounts, --refcounts->capacity);
        }
        return result;
    }
    return refcounts_add(refcounts, old_first, old_clusters, -1);
}
