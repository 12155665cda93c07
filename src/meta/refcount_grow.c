/* SPDX-License-Identifier: MIT */
/*
 * New refcount blocks, and a larger refcount table.
 *
 *     plan      which blocks, how large a table: of the clusters to be counted, and of its own
 *     prepare   all of it behind the end of the file, its clusters counted; a sync (R3)
 *     name      the entries of the table, or the table in the header
 *
 * Until the last step nothing refers to what was made. When a step fails the counts fall again, and
 * the end comes back to where it was.
 */
#include "config.h"

#include "cache/change.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "meta/refcount_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TABLE_ENTRIES_MAX (HEADER_REFCOUNT_TABLE_SIZE_MAX / sizeof(uint64_t))

static uint32_t bits_of(const struct refcounts *refcounts)
{
    return refcounts->source.header->cluster_bits;
}

static bool has_block(const struct refcounts *refcounts, uint64_t index)
{
    return index < refcounts->capacity && refcounts->table[index] != 0;
}

/* The first cluster behind it. */
static uint64_t growth_end(const struct growth *growth)
{
    return growth->first + growth->table_clusters + growth->blocks;
}

static uint64_t block_offset(const struct refcounts *refcounts, const struct growth *growth,
                             uint64_t number)
{
    return (growth->first + growth->table_clusters + number) << bits_of(refcounts);
}

static int sync_now(const struct refcounts *refcounts)
{
    return barrier_wait(refcounts->source.barrier, barrier_epoch(refcounts->source.barrier));
}

/* --- The plan ------------------------------------------------------------------------------ */

/* Clusters of a table with an entry `index`, at least half as large again; 0 where there is one. */
static uint64_t table_wanted(const struct refcounts *refcounts, uint64_t index)
{
    uint64_t in_cluster = refcounts->source.header->cluster_size / sizeof(uint64_t);
    uint64_t roomy = min_u64(refcounts->capacity + refcounts->capacity / 2, TABLE_ENTRIES_MAX);

    return index < refcounts->capacity ? 0 : div_round_up(max_u64(roomy, index + 1), in_cluster);
}

/* Entries from `from`, before `end`, that name no block: how many, and which (NULL: no matter). */
static uint64_t find_missing(const struct refcounts *refcounts, uint64_t from, uint64_t end,
                             uint64_t *indices)
{
    uint64_t index, found = 0;

    for (index = from; index < end; index++) {
        if (has_block(refcounts, index)) {
            continue;
        }
        if (indices != NULL) {
            indices[found] = index;
        }
        found++;
    }
    return found;
}

/*
 * Each cluster that is made has to be counted as well, maybe by one more block, maybe by an entry
 * that only a larger table has: until nothing is added any more.
 */
static int plan_growth(const struct refcounts *refcounts, uint64_t first, uint64_t length,
                       struct growth *growth)
{
    uint64_t from = first / refcounts->block_counts;
    uint64_t to = (first + length - 1) / refcounts->block_counts;
    uint64_t own = refcounts->end / refcounts->block_counts; /* not before `to` */
    uint64_t last, clusters, before = 0;

    *growth = (struct growth){.first = refcounts->end};
    do {
        clusters = growth->table_clusters + growth->blocks;
        last = clusters > 0 ? (growth->first + clusters - 1) / refcounts->block_counts : to;
        if (last >= TABLE_ENTRIES_MAX ||
            growth->first + clusters > (ENTRY_HOST_OFFSET_MASK >> bits_of(refcounts)) + 1) {
            return -EFBIG;
        }
        before = find_missing(refcounts, own, last + 1, NULL);
        growth->table_clusters = table_wanted(refcounts, last);
        growth->blocks = before + find_missing(refcounts, from, min_u64(to + 1, own), NULL);
    } while (growth->table_clusters + growth->blocks > clusters);
    growth->indices = calloc(in_memory(growth->blocks), sizeof(*growth->indices));
    if (growth->indices == NULL) {
        return -ENOMEM;
    }
    (void)find_missing(refcounts, own, last + 1, growth->indices);
    (void)find_missing(refcounts, from, min_u64(to + 1, own), growth->indices + before);
    return 0;
}

/* --- Preparing ----------------------------------------------------------------------------- */

/* How many clusters from `first` on, before `end`, one entry of the table counts. */
static uint64_t part_of(const struct refcounts *refcounts, uint64_t first, uint64_t end)
{
    return min_u64(end, (first / refcounts->block_counts + 1) * refcounts->block_counts) - first;
}

/* The counts of clusters of a growth fall, as far as blocks in the table count them. */
static void release_in_blocks(struct refcounts *refcounts, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t part = part_of(refcounts, first, end);

        if (has_block(refcounts, first / refcounts->block_counts)) {
            refcount_release(refcounts, first, part);
        }
        first += part;
    }
}

/* They rise: all of them or none. */
static int count_in_blocks(struct refcounts *refcounts, uint64_t first, uint64_t end)
{
    uint64_t cluster = first;

    while (cluster < end) {
        uint64_t part = part_of(refcounts, cluster, end);

        if (has_block(refcounts, cluster / refcounts->block_counts)) {
            int result = refcount_change(refcounts, cluster, part, 1);

            if (result < 0) {
                release_in_blocks(refcounts, first, cluster);
                return result;
            }
        }
        cluster += part;
    }
    return 0;
}

/* The blocks lie one behind the other, and count those of the new clusters that fall to them. */
static int write_blocks(struct refcounts *refcounts, const struct growth *growth)
{
    uint64_t size = growth->blocks << bits_of(refcounts), number = 0, cluster;
    uint8_t *blocks;
    int result;

    if (growth->blocks == 0) {
        return 0;
    }
    blocks = calloc(in_memory(growth->blocks), in_memory(refcounts->source.header->cluster_size));
    if (blocks == NULL) {
        return -ENOMEM;
    }
    for (cluster = growth->first; cluster < growth_end(growth); cluster++) {
        uint64_t index = cluster / refcounts->block_counts;

        while (number < growth->blocks && growth->indices[number] < index) {
            number++;
        }
        if (number < growth->blocks && growth->indices[number] == index) {
            refcount_store(blocks + (number << bits_of(refcounts)),
                           cluster % refcounts->block_counts, refcounts->order, 1);
        }
    }
    result = gate_write(refcounts->source.gate, GATE_OTHER, block_offset(refcounts, growth, 0),
                        blocks, size);
    free(blocks);
    return result;
}

/* The larger table, in memory and at its place. */
static int write_table(struct refcounts *refcounts, struct growth *growth)
{
    uint64_t size = growth->table_clusters << bits_of(refcounts), i;
    uint64_t *raw;
    int result = -ENOMEM;

    if (growth->table_clusters == 0) {
        return 0;
    }
    raw = malloc(in_memory(size));
    growth->table = calloc(1, in_memory(size));
    if (raw != NULL && growth->table != NULL) {
        memcpy(growth->table, refcounts->table,
               in_memory(refcounts->capacity * sizeof(*growth->table)));
        for (i = 0; i < growth->blocks; i++) {
            growth->table[growth->indices[i]] = block_offset(refcounts, growth, i);
        }
        for (i = 0; i < size / sizeof(*raw); i++) {
            store_be64(&raw[i], growth->table[i]);
        }
        result = gate_write(refcounts->source.gate, GATE_OTHER, growth->first << bits_of(refcounts),
                            raw, size);
    }
    free(raw);
    return result;
}

static int know_blocks(struct refcounts *refcounts, const struct growth *growth)
{
    uint64_t i;
    int result = 0;

    for (i = 0; i < growth->blocks && result == 0; i++) {
        uint64_t host_offset = block_offset(refcounts, growth, i);

        cache_pool_drop(refcounts->source.pool, refcount_block_key(refcounts, host_offset));
        result = gate_know(refcounts->source.gate, GATE_TABLE_BLOCK, host_offset);
    }
    return result;
}

/* Writes it, counts its own clusters, and makes that stable. */
static int prepare(struct refcounts *refcounts, struct growth *growth)
{
    int result = write_blocks(refcounts, growth);

    if (result == 0) {
        result = write_table(refcounts, growth);
    }
    if (result == 0) {
        result = know_blocks(refcounts, growth);
    }
    if (result == 0) {
        result = count_in_blocks(refcounts, growth->first, growth_end(growth));
        growth->counted = result == 0;
    }
    return result == 0 ? sync_now(refcounts) : result; /* R2, R3 */
}

/* --- Undoing ------------------------------------------------------------------------------- */

/*
 * What was written behind the end must read as zeros again before the end can come back there: who
 * takes clusters behind it relies on that. Else it stays where it is, with nothing counted before.
 */
static void lower_end(struct refcounts *refcounts, uint64_t end)
{
    uint64_t size = end << bits_of(refcounts);
    struct store *file = refcounts->source.file;
    struct store_info info;
    int result = store_info(file, &info);

    if (result == 0 && !S_ISBLK(info.mode) && info.size > size) {
        result = store_resize(file, size);
    }
    if (result == 0) {
        refcounts_set_end(refcounts, end);
    }
}

/* Nothing names what was made, but for the first blocks, which stay. */
static void undo(struct refcounts *refcounts, struct growth *growth)
{
    uint64_t first = growth->first + growth->named, i;

    for (i = growth->named; i < growth->blocks; i++) {
        gate_forget(refcounts->source.gate, GATE_TABLE_BLOCK, block_offset(refcounts, growth, i));
    }
    if (growth->counted) {
        release_in_blocks(refcounts, first, growth_end(growth));
    }
    lower_end(refcounts, first);
}

static void release(struct growth *growth)
{
    free(growth->table);
    free(growth->indices);
    *growth = (struct growth){.first = 0};
}

/* --- Naming -------------------------------------------------------------------------------- */

static int write_header(const struct refcounts *refcounts, uint64_t host_offset, uint64_t clusters)
{
    uint8_t fields[HEADER_NB_SNAPSHOTS - HEADER_REFCOUNT_TABLE_OFFSET];

    store_be64(fields, host_offset);
    store_be32(fields + (HEADER_REFCOUNT_TABLE_CLUSTERS - HEADER_REFCOUNT_TABLE_OFFSET),
               (uint32_t)clusters);
    return gate_write(refcounts->source.gate, GATE_HEADER, HEADER_REFCOUNT_TABLE_OFFSET, fields,
                      sizeof(fields));
}

/* The entries of blocks [first, end) of the growth; not `named`: as they are without it. */
static int write_entries(const struct refcounts *refcounts, const struct growth *growth,
                         uint64_t first, uint64_t end, bool named)
{
    uint64_t table = refcounts->source.header->refcount_table_offset, i;
    int result = 0;

    for (i = first; i < end && result == 0; i++) {
        uint8_t entry[sizeof(uint64_t)];

        store_be64(entry, named ? block_offset(refcounts, growth, i) : 0);
        result = gate_write(refcounts->source.gate, GATE_REFCOUNT_TABLE,
                            table + growth->indices[i] * sizeof(entry), entry, sizeof(entry));
    }
    return result;
}

/* What the file had where the pointers of the growth are that could not be written. */
static int restore_pointers(const struct refcounts *refcounts, const struct growth *growth)
{
    const struct header *header = refcounts->source.header;

    return growth->table_clusters > 0
               ? write_header(refcounts, header->refcount_table_offset,
                              header->refcount_table_clusters)
               : write_entries(refcounts, growth, growth->named, growth->blocks, false);
}

int refcounts_settle(struct refcounts *refcounts)
{
    int result = 0;

    if (refcounts->unsure) {
        result = restore_pointers(refcounts, &refcounts->failed);
        if (result == 0) { /* before its clusters can be anything else */
            result = sync_now(refcounts);
        }
        if (result == 0) {
            refcounts->unsure = false;
            undo(refcounts, &refcounts->failed);
            release(&refcounts->failed);
        }
    }
    if (!refcount_pay(refcounts) && result == 0) {
        result = -EIO;
    }
    return result;
}

int refcounts_settle_end(struct refcounts *refcounts)
{
    bool is_due = refcounts->unsure || refcounts->owed_count > 0;
    int result = is_due ? refcounts_settle(refcounts) : 0;

    return refcounts->unsure ? result : 0;
}

/* The growth failed when its pointers were being written: it is undone when these are as before. */
static void undo_unsure(struct refcounts *refcounts, struct growth *growth)
{
    refcounts->failed = *growth;
    refcounts->unsure = true;
    *growth = (struct growth){.first = 0};
    (void)refcounts_settle(refcounts);
}

/* The header names the larger table, with all blocks. */
static int name_table(struct refcounts *refcounts, struct growth *growth)
{
    struct header *header = refcounts->source.header;
    uint64_t old_first = header->refcount_table_offset >> bits_of(refcounts);
    uint64_t old_clusters = header->refcount_table_clusters;
    int result =
        write_header(refcounts, growth->first << bits_of(refcounts), growth->table_clusters);

    if (result < 0) {
        undo_unsure(refcounts, growth);
        return result;
    }
    header_move_refcount_table(header, growth->first << bits_of(refcounts),
                               (uint32_t)growth->table_clusters);
    free(refcounts->table);
    refcounts->table = growth->table;
    refcounts->capacity = (growth->table_clusters << bits_of(refcounts)) / sizeof(uint64_t);
    growth->table = NULL;
    result = sync_now(refcounts); /* R3: the header, before the old table is free */
    if (result == 0) {
        refcount_release(refcounts, old_first, old_clusters);
    }
    return result;
}

/*
 * How many of the next blocks can be named at once: those that are counted by a block that is named
 * already, in the file too, or by themselves (R2). At least one, since each of those that count the
 * growth lies in what it counts itself, or one before it does.
 */
static uint64_t can_be_named(const struct refcounts *refcounts, const struct growth *growth)
{
    uint64_t number = growth->named;

    while (number < growth->blocks) {
        uint64_t counted_by = (growth->first + number) / refcounts->block_counts;

        if (!has_block(refcounts, counted_by) && counted_by != growth->indices[number]) {
            break;
        }
        number++;
    }
    return number - growth->named;
}

/* Entries of the table name the blocks. */
static int name_blocks(struct refcounts *refcounts, struct growth *growth)
{
    while (growth->named < growth->blocks) {
        uint64_t end = growth->named + can_be_named(refcounts, growth);
        int result = write_entries(refcounts, growth, growth->named, end, true);

        if (result < 0) {
            undo_unsure(refcounts, growth);
            return result;
        }
        for (; growth->named < end; growth->named++) {
            refcounts->table[growth->indices[growth->named]] =
                block_offset(refcounts, growth, growth->named);
        }
        if (end < growth->blocks) { /* R2: before what these count is named */
            result = sync_now(refcounts);
        }
        if (result < 0) {
            undo(refcounts, growth);
            return result;
        }
    }
    return 0;
}

static int grow(struct refcounts *refcounts, struct growth *growth)
{
    int result;

    refcounts->end = growth_end(growth);
    result = prepare(refcounts, growth);
    if (result < 0) {
        undo(refcounts, growth);
        return result;
    }
    return growth->table_clusters > 0 ? name_table(refcounts, growth)
                                      : name_blocks(refcounts, growth);
}

int refcount_cover(struct refcounts *refcounts, uint64_t first, uint64_t length)
{
    struct growth growth = {.first = 0};
    int result;

    if (find_missing(refcounts, first / refcounts->block_counts,
                     (first + length - 1) / refcounts->block_counts + 1, NULL) == 0) {
        return 0;
    }
    result = refcounts_settle(refcounts);
    if (!refcounts->unsure) { /* counts that could not fall yet are in nobody's way */
        result = plan_growth(refcounts, first, length, &growth);
    }
    if (result == 0) {
        result = grow(refcounts, &growth);
    }
    release(&growth);
    return result;
}
