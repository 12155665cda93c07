/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * The new tables, behind all that is in the file:
 *
 *     ... old file | snapshot table | refcount table | block | block | ...
 *                  first
 *
 * The snapshot table is only there where the old one has faults. Only blocks that count something
 * are made, and they count themselves.
 */
struct layout {
    uint64_t first;             /* cluster number */
    uint64_t snapshot_clusters; /* 0: the old snapshot table stays */
    uint64_t table_clusters;
    uint64_t block_clusters;
    uint64_t blocks_needed;  /* indices of blocks: 0 to blocks_needed - 1 */
    uint64_t *table;         /* one entry a block, host offset; 0: not needed */
    uint8_t *snapshots;      /* the new snapshot table, NULL: none */
    uint64_t snapshots_size; /* bytes */
};

/* Cluster number of the refcount table. */
static uint64_t layout_table(const struct layout *layout)
{
    return layout->first + layout->snapshot_clusters;
}

/* Marks (with 1) the blocks that count clusters of the old file; how many. */
static uint64_t mark_old_blocks(const struct check *check, uint64_t *table)
{
    uint64_t cluster = check_counts_next(check->counts, 0, check->limit), marked = 0;

    while (cluster < check->limit) {
        uint64_t index = cluster / check->block_counts;

        table[index] = 1;
        marked++;
        cluster = check_counts_next(check->counts, (index + 1) * check->block_counts, check->limit);
    }
    return marked;
}

/* The new tables need blocks too, and these a larger table: until it is enough for itself. */
static int plan_layout(const struct check *check, struct layout *layout)
{
    const struct header *header = check->header;
    uint64_t entries_max = HEADER_REFCOUNT_TABLE_SIZE_MAX / REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t first_index = layout->first / check->block_counts, old_blocks, i, end;
    bool enough = false;

    old_blocks = mark_old_blocks(check, layout->table);
    if (layout->table[first_index] != 0) {
        old_blocks--; /* counted with the new ones */
    }
    layout->table_clusters = 1;
    layout->block_clusters = old_blocks + 1;
    while (!enough) {
        uint64_t table_clusters, block_clusters;

        end = layout_table(layout) + layout->table_clusters + layout->block_clusters;
        layout->blocks_needed = (end - 1) / check->block_counts + 1;
        if (layout->blocks_needed > entries_max) {
            return -EFBIG;
        }
        table_clusters =
            div_round_up(layout->blocks_needed * REFCOUNT_TABLE_ENTRY_BYTES, header->cluster_size);
        block_clusters = old_blocks + layout->blocks_needed - first_index;
        enough =
            table_clusters == layout->table_clusters && block_clusters == layout->block_clusters;
        layout->table_clusters = table_clusters;
        layout->block_clusters = block_clusters;
    }
    for (i = first_index; i < layout->blocks_needed; i++) {
        layout->table[i] = 1;
    }
    return 0;
}

/* Where each block comes, and one reference to each new cluster. */
static int place_blocks(struct check *check, struct layout *layout)
{
    uint64_t next = layout_table(layout) + layout->table_clusters, i;
    uint64_t end = next + layout->block_clusters;
    int result;

    for (i = 0; i < layout->blocks_needed; i++) {
        if (layout->table[i] != 0) {
            layout->table[i] = next++ << check->header->cluster_bits;
        }
    }
    result = check_counts_grow(check->counts, end);
    for (i = layout->first; i < end && result == 0; i++) {
        result = check_counts_set(check->counts, i, 1);
    }
    check->limit = max_u64(check->limit, end);
    check->result->image_end_offset = end << check->header->cluster_bits;
    return result;
}

static int write_block(struct check *check, const struct layout *layout, uint64_t index)
{
    const struct header *header = check->header;
    uint64_t first = index * check->block_counts, end = first + check->block_counts;
    uint64_t cluster = check_counts_next(check->counts, first, end);

    memset(check->buffer, 0, in_memory(header->cluster_size));
    while (cluster < end) {
        refcount_store(check->buffer, cluster - first, header->refcount_order,
                       check_counts_get(check->counts, cluster));
        cluster = check_counts_next(check->counts, cluster + 1, end);
    }
    return store_write(check->file, layout->table[index], check->buffer,
                       in_memory(header->cluster_size));
}

static int write_table(struct check *check, const struct layout *layout)
{
    uint32_t bits = check->header->cluster_bits;
    uint8_t *raw =
        calloc(in_memory(layout->table_clusters), in_memory(check->header->cluster_size));
    uint64_t i;
    int result;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < layout->blocks_needed; i++) {
        store_be64(raw + i * REFCOUNT_TABLE_ENTRY_BYTES, layout->table[i]);
    }
    result = store_write(check->file, layout_table(layout) << bits, raw,
                         in_memory(layout->table_clusters << bits));
    free(raw);
    return result;
}

static int write_snapshots(struct check *check, const struct layout *layout)
{
    if (layout->snapshots == NULL) {
        return 0;
    }
    return store_write(check->file, layout->first << check->header->cluster_bits, layout->snapshots,
                       in_memory(layout->snapshots_size));
}

/* The fields of the header from HEADER_REFCOUNT_TABLE_OFFSET on; how many bytes are to be written.
 */
static size_t encode_fields(const struct header *header, uint8_t *fields)
{
    store_be64(fields, header->refcount_table_offset);
    store_be32(fields + (HEADER_REFCOUNT_TABLE_CLUSTERS - HEADER_REFCOUNT_TABLE_OFFSET),
               header->refcount_table_clusters);
    store_be32(fields + (HEADER_NB_SNAPSHOTS - HEADER_REFCOUNT_TABLE_OFFSET),
               header->snapshot_count);
    store_be64(fields + (HEADER_SNAPSHOTS_OFFSET - HEADER_REFCOUNT_TABLE_OFFSET),
               header->snapshots_offset);
    if (header->version < 3) {
        return HEADER_V2_LENGTH - HEADER_REFCOUNT_TABLE_OFFSET;
    }
    store_be32(fields + (HEADER_REFCOUNT_ORDER - HEADER_REFCOUNT_TABLE_OFFSET),
               header->refcount_order);
    return HEADER_HEADER_LENGTH - HEADER_REFCOUNT_TABLE_OFFSET;
}

/*
 * R3: the header names the new tables once all of them are stable; in version 3
 * the same write, within a sector, says how wide the counts are.
 */
static int switch_tables(struct check *check, const struct layout *layout)
{
    struct header *header = check->header;
    uint8_t fields[HEADER_HEADER_LENGTH - HEADER_REFCOUNT_TABLE_OFFSET];
    size_t length;
    int result = store_sync(check->file);

    if (result == 0) {
        result = store_read(check->file, HEADER_REFCOUNT_TABLE_OFFSET, fields, sizeof(fields));
    }
    if (result < 0) {
        return result;
    }
    header->refcount_table_offset = layout_table(layout) << header->cluster_bits;
    header->refcount_table_clusters = (uint32_t)layout->table_clusters;
    if (layout->snapshots != NULL) {
        header->snapshots_offset = layout->first << header->cluster_bits;
    }
    length = encode_fields(header, fields);
    result = store_write(check->file, HEADER_REFCOUNT_TABLE_OFFSET, fields, length);
    return result < 0 ? result : store_sync(check->file);
}

static int write_layout(struct check *check, struct layout *layout)
{
    uint64_t i;
    int result = plan_layout(check, layout);

    if (result == 0) {
        result = place_blocks(check, layout);
    }
    for (i = 0; i < layout->blocks_needed && result == 0; i++) {
        result = stop_requested(check->options->stop) ? -EINTR : 0;
        if (result == 0 && layout->table[i] != 0) {
            result = write_block(check, layout, i);
        }
    }
    if (result == 0) {
        result = write_table(check, layout);
    }
    if (result == 0) {
        result = write_snapshots(check, layout);
    }
    return result < 0 ? result : switch_tables(check, layout);
}

int check_rebuild(struct check *check, uint64_t first)
{
    struct layout layout = {.first = first};
    int result = 0;

    if (check->limit / check->block_counts >=
        HEADER_REFCOUNT_TABLE_SIZE_MAX / REFCOUNT_TABLE_ENTRY_BYTES) {
        return check_failed(check, -EFBIG, "making a new refcount table");
    }
    layout.table = calloc(HEADER_REFCOUNT_TABLE_SIZE_MAX, 1);
    if (layout.table == NULL) {
        return check_failed(check, -ENOMEM, "making a new refcount table");
    }
    if (check->unsound_snapshots > 0) {
        result = check_rewrite_snapshots(check, &layout.snapshots, &layout.snapshots_size);
        layout.snapshot_clusters = div_round_up(layout.snapshots_size, check->header->cluster_size);
    }
    if (result == 0) {
        result = write_layout(check, &layout);
    }
    free(layout.snapshots);
    free(layout.table);
    return result < 0 ? check_failed(check, result, "making a new refcount table") : 0;
}
