/* SPDX-License-Identifier: MIT */
/* Where the tables are that the header names, also while they move. */
#include "config.h"

#include "meta/format.h"
#include "meta/header.h"
#include "util/checked.h"

static uint64_t table_length(const struct header *header, enum header_table table)
{
    switch (table) {
    case HEADER_TABLE_HEADER:
        return header->cluster_size;
    case HEADER_TABLE_L1:
        return (uint64_t)header->l1_entries * L1_ENTRY_BYTES;
    case HEADER_TABLE_REFCOUNT:
        return (uint64_t)header->refcount_table_clusters << header->cluster_bits;
    case HEADER_TABLE_BITMAPS:
        return header->bitmap_directory_size;
    case HEADER_TABLE_CRYPT:
        return header->crypt_header_length;
    default:
        return 0;
    }
}

static uint64_t table_offset(const struct header *header, enum header_table table)
{
    switch (table) {
    case HEADER_TABLE_L1:
        return header->l1_offset;
    case HEADER_TABLE_REFCOUNT:
        return header->refcount_table_offset;
    case HEADER_TABLE_BITMAPS:
        return header->bitmap_directory_offset;
    case HEADER_TABLE_CRYPT:
        return header->crypt_header_offset;
    default:
        return 0;
    }
}

/*
 * While one move is made its table is at the old place and then at the new one, and is no longer
 * than at both: an offset that was read between two equal lengths goes with them. Several moves
 * in that time may have come back to a length, and are seen by their number.
 */
static bool is_in_table(const struct header *header, enum header_table table, uint64_t offset,
                        uint64_t length)
{
    uint64_t table_at, bytes, moves;

    do {
        moves = header->table_moves;
        bytes = table_length(header, table);
        table_at = table_offset(header, table);
    } while (table_length(header, table) != bytes || header->table_moves != moves);
    return ranges_overlap(offset, length, table_at, bytes);
}

const char *header_overlap(const struct header *header, enum header_table except, uint64_t offset,
                           uint64_t length)
{
    static const char *const names[] = {
        [HEADER_TABLE_HEADER] = "header",           [HEADER_TABLE_L1] = "L1 table",
        [HEADER_TABLE_REFCOUNT] = "refcount table", [HEADER_TABLE_BITMAPS] = "bitmap directory",
        [HEADER_TABLE_CRYPT] = "encryption header",
    };

    for (enum header_table table = HEADER_TABLE_HEADER; table <= HEADER_TABLE_CRYPT; table++) {
        if (table != except && is_in_table(header, table, offset, length)) {
            return names[table];
        }
    }
    return NULL;
}

void header_move_l1(struct header *header, uint64_t offset, uint32_t entries)
{
    header->table_moves++;
    header->l1_entries = (uint32_t)min_u64(header->l1_entries, entries);
    header->l1_offset = offset;
    header->l1_entries = entries;
}

void header_move_refcount_table(struct header *header, uint64_t offset, uint32_t clusters)
{
    header->table_moves++;
    header->refcount_table_clusters = (uint32_t)min_u64(header->refcount_table_clusters, clusters);
    header->refcount_table_offset = offset;
    header->refcount_table_clusters = clusters;
}

void header_move_bitmaps(struct header *header, uint64_t offset, uint64_t bytes, uint32_t count)
{
    header->table_moves++;
    header->bitmap_count = count;
    header->bitmap_directory_size = min_u64(header->bitmap_directory_size, bytes);
    header->bitmap_directory_offset = offset;
    header->bitmap_directory_size = bytes;
}
