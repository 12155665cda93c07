/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/*
 * L2 tables that one L1 table may name beyond as many as the file has clusters:
 * no sound one names any table twice, and an impossible one that names a full
 * table a million times must not keep the checker busy for hours.
 */
#define TABLES_MORE 16

#define SECTOR_BITS 9

#define PIECE_ENTRIES (CHECK_READ_SIZE / L1_ENTRY_BYTES) /* of an L1 table, read at once */

/* A piece of an L1 table. */
struct piece {
    uint64_t host_offset;
    uint64_t first; /* index of its first entry */
    size_t count;
    uint8_t raw[CHECK_READ_SIZE];
    uint64_t tables[PIECE_ENTRIES]; /* host offsets to go on with */
    uint64_t weights[PIECE_ENTRIES];
    size_t table_count;
};

void check_dirty_add(struct check_dirty *dirty, size_t begin, size_t length)
{
    if (dirty->end == 0) {
        dirty->begin = begin;
    }
    dirty->begin = min_size(dirty->begin, begin);
    dirty->end = in_memory(max_u64(dirty->end, begin + length));
}

static int write_dirty(const struct check *check, uint64_t host_offset, const uint8_t *data,
                       const struct check_dirty *dirty)
{
    int result;

    if (dirty->end == 0) {
        return 0;
    }
    result = store_write(check->file, host_offset + dirty->begin, data + dirty->begin,
                         dirty->end - dirty->begin);
    return result < 0 ? check_failed(check, result, "correcting COPIED bits") : 0;
}

static int visit_l1_entries(struct check *check, struct piece *piece,
                            const struct check_visitor *visitor)
{
    struct check_dirty dirty = {0};
    size_t i;

    piece->table_count = 0;
    for (i = 0; i < piece->count; i++) {
        uint8_t *raw = piece->raw + i * L1_ENTRY_BYTES;
        uint64_t entry = load_be64(raw);
        bool changed = false;
        int result;

        if (entry == 0) {
            continue;
        }
        result = visitor->l1_entry(check, piece->first + i, &entry, &changed);
        if (result < 0) {
            return result;
        }
        if (result > 0) {
            piece->weights[piece->table_count] = check->weight;
            piece->tables[piece->table_count++] = l1_entry_table(entry);
        }
        if (changed) {
            store_be64(raw, entry);
            check_dirty_add(&dirty, i * L1_ENTRY_BYTES, L1_ENTRY_BYTES);
        }
    }
    return write_dirty(check, piece->host_offset, piece->raw, &dirty);
}

static int visit_table(struct check *check, uint64_t host_offset, uint8_t *table,
                       const struct check_visitor *visitor)
{
    struct check_dirty dirty = {0};
    int result = visitor->l2_table(check, host_offset, table, &dirty);

    return result < 0 ? result : write_dirty(check, host_offset, table, &dirty);
}

static int visit_l2_tables(struct check *check, const struct piece *piece,
                           const struct check_visitor *visitor)
{
    uint64_t begun = check->work_done, weight = check->weight;
    size_t done = 0, read, i;

    while (done < piece->table_count) {
        int result = check_go_on(check);

        if (result < 0) {
            return result;
        }
        result = check_read_run(check, piece->tables + done, piece->table_count - done, &read);
        if (result == -ENOMEM) {
            return check_failed(check, result, "reading L2 tables");
        }
        if (result < 0) {
            check->weight = piece->weights[done];
            check_found(check, CHECK_UNREADABLE, "L2 table at 0x%" PRIx64 " cannot be read: %s",
                        piece->tables[done], strerror(-result));
            check->weight = weight;
            done++;
            continue;
        }
        for (i = 0; i < read && result == 0; i++) {
            check->weight = piece->weights[done + i];
            result = visit_table(check, piece->tables[done + i],
                                 check->buffer + (i << check->header->cluster_bits), visitor);
        }
        check->weight = weight;
        if (result < 0) {
            return result;
        }
        done += read;
        check->work_done = begun + piece->count * done / piece->table_count;
        check_progress(check);
    }
    return 0;
}

/* --- Tables that were met before --------------------------------------------------- */

uint64_t check_hole(struct check *check, uint64_t offset, uint64_t length)
{
    uint64_t limit = max_u64(length, check->file_size - min_u64(offset, check->file_size));
    uint64_t run = 0;
    bool is_data = true;

    if (offset >= check->hole_begin && offset < check->hole_end) {
        return min_u64(check->hole_end - offset, length);
    }
    if (check->unasked >= length) { /* a look at it costs no more than the question */
        check->unasked -= length;
        return 0;
    }
    if (!check->sparse || store_extent(check->file, offset, limit, &is_data, &run) < 0 || is_data) {
        return 0;
    }
    check->hole_begin = offset;
    check->hole_end = offset + run;
    return min_u64(run, length);
}

void check_holes_forget(struct check *check)
{
    check->hole_begin = check->hole_end = 0;
    check->unasked = check->allocated;
}

/*
 * The number of a table: of its cluster, and behind all of these, for what is not aligned as it
 * should be, of its sector. So sound tables, which lie far apart, have numbers close together.
 */
static uint64_t table_clusters(const struct check *check)
{
    return (check->file_size >> check->header->cluster_bits) + 1;
}

static uint64_t table_keys(const struct check *check)
{
    return table_clusters(check) + (check->file_size >> SECTOR_BITS) + 1;
}

static uint64_t table_key(const struct check *check, uint64_t table)
{
    return table % check->header->cluster_size == 0
               ? table >> check->header->cluster_bits
               : table_clusters(check) + (table >> SECTOR_BITS);
}

static uint64_t table_of_key(const struct check *check, uint64_t key)
{
    return key < table_clusters(check) ? key << check->header->cluster_bits
                                       : (key - table_clusters(check)) << SECTOR_BITS;
}

int check_walk_begin(struct check *check)
{
    int result;

    check_walk_end(check);
    check_holes_forget(check);
    result = check_counts_create(table_keys(check), &check->tables_seen);
    for (int i = 0; i < 2 && result == 0; i++) {
        result = check_counts_create(table_keys(check), &check->tables_again[i]);
    }
    return result < 0 ? check_failed(check, result, "reading L2 tables") : 0;
}

void check_walk_end(struct check *check)
{
    check_counts_destroy(check->tables_seen);
    check->tables_seen = NULL;
    for (int i = 0; i < 2; i++) {
        check_counts_destroy(check->tables_again[i]);
        check->tables_again[i] = NULL;
    }
}

/*
 * Leaves in the piece what is met for the first time. A hole names nothing, and is not remembered:
 * what is takes memory only for what the file holds.
 */
static int set_aside(struct check *check, struct piece *piece, bool active)
{
    struct check_counts *again = check->tables_again[active];
    uint64_t size = check->header->cluster_size;
    size_t kept = 0;
    int result = 0;

    for (size_t i = 0; i < piece->table_count && result == 0; i++) {
        uint64_t key = table_key(check, piece->tables[i]);

        if (check_counts_get(check->tables_seen, key) == 0) {
            if (check_hole(check, piece->tables[i], size) == size) {
                continue;
            }
            result = check_counts_set(check->tables_seen, key, 1);
            piece->weights[kept] = piece->weights[i];
            piece->tables[kept++] = piece->tables[i];
        } else {
            result = check_counts_set(again, key, check_counts_get(again, key) + check->weight);
        }
    }
    piece->table_count = kept;
    return result < 0 ? check_failed(check, result, "reading L2 tables") : 0;
}

int check_walk_again(struct check *check, bool active, const struct check_visitor *visitor)
{
    const struct check_counts *again = check->tables_again[active];
    uint64_t end = table_keys(check);
    uint64_t key = check_counts_next(again, 0, end);
    struct piece *piece;
    int result = 0;

    if (key == end) {
        return 0;
    }
    piece = malloc(sizeof(*piece));
    if (piece == NULL) {
        return check_failed(check, -ENOMEM, "reading L2 tables");
    }
    while (key < end && result == 0) {
        piece->table_count = 0;
        for (; key < end && piece->table_count < PIECE_ENTRIES;
             key = check_counts_next(again, key + 1, end)) {
            piece->weights[piece->table_count] = check_counts_get(again, key);
            piece->tables[piece->table_count++] = table_of_key(check, key);
        }
        result = visit_l2_tables(check, piece, visitor);
    }
    free(piece);
    return result;
}

static int walk_piece(struct check *check, struct piece *piece, const struct check_visitor *visitor,
                      uint64_t *tables_left)
{
    uint64_t bytes = piece->count * L1_ENTRY_BYTES;
    int result = check_go_on(check);

    if (result < 0) {
        return result;
    }
    if (check_hole(check, piece->host_offset, bytes) == bytes) {
        return 0;
    }
    result = store_read(check->file, piece->host_offset, piece->raw, in_memory(bytes));
    if (result < 0) {
        check_found(check, CHECK_UNREADABLE, "L1 table at 0x%" PRIx64 " cannot be read: %s",
                    piece->host_offset, strerror(-result));
        return 0;
    }
    result = visit_l1_entries(check, piece, visitor);
    if (result < 0) {
        return result;
    }
    if (piece->table_count > *tables_left) {
        piece->table_count = (size_t)*tables_left;
        check->walk_cut = true;
    }
    *tables_left -= piece->table_count;
    result = set_aside(check, piece, visitor->active);
    return result < 0 ? result : visit_l2_tables(check, piece, visitor);
}

/* How many of the entries lie in the file; those past its end are nothing. */
static uint64_t entries_inside(const struct check *check, uint64_t l1_offset, uint64_t entries)
{
    return l1_offset < check->file_size
               ? min_u64(entries, (check->file_size - l1_offset) / L1_ENTRY_BYTES)
               : 0;
}

int check_walk(struct check *check, uint64_t l1_offset, uint64_t entries,
               const struct check_visitor *visitor)
{
    struct piece *piece = malloc(sizeof(*piece));
    uint64_t begun = check->work_done, done = 0;
    uint64_t inside = entries_inside(check, l1_offset, entries);
    uint64_t tables_left = check->limit + TABLES_MORE;
    int result = 0;

    if (piece == NULL) {
        return check_failed(check, -ENOMEM, "reading an L1 table");
    }
    while (done < inside && result == 0) {
        piece->host_offset = l1_offset + done * L1_ENTRY_BYTES;
        piece->first = done;
        piece->count = (size_t)min_u64(inside - done, PIECE_ENTRIES);
        result = walk_piece(check, piece, visitor, &tables_left);
        done += piece->count;
        check->work_done = begun + done;
        check_progress(check);
    }
    free(piece);
    check->work_done = begun + entries;
    return result;
}
