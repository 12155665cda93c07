/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/salvage.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define READ_ONLY "or mount it with -o ro, which shows what can be read"

/* A table that could be there, were the file longer. */
static bool is_cut_off(const struct header *header, uint64_t offset, uint64_t length,
                       uint64_t file_size)
{
    uint64_t end;

    return offset % header->cluster_size == 0 && checked_add(offset, length, &end) &&
           end <= INT64_MAX && end > file_size;
}

/* A part of the L1 table, or snapshots, whose L1 tables may lie elsewhere. */
static bool has_something(const struct header_examination *examination, uint64_t file_size)
{
    const struct header *header = examination->header;

    return range_within(header->l1_offset, L1_ENTRY_BYTES, file_size) ||
           (header->snapshot_count > 0 && !header_part_failed(examination, HEADER_PART_SNAPSHOTS));
}

/* Whether the disk, or a part of it, can be read without what the failed part of the header names.
 */
static bool can_do_without(const struct header_examination *examination, int part,
                           uint64_t file_size)
{
    const struct header *header = examination->header;
    uint64_t refcounts = (uint64_t)header->refcount_table_clusters << header->cluster_bits;

    switch (part) {
    case HEADER_PART_REFCOUNTS: /* who only reads believes the entries */
        return header->refcount_order <= REFCOUNT_ORDER_MAX &&
               header->refcount_table_clusters > 0 && refcounts <= HEADER_REFCOUNT_TABLE_SIZE_MAX &&
               is_cut_off(header, header->refcount_table_offset, refcounts, file_size);
    case HEADER_PART_SNAPSHOTS:
        return header->snapshot_count <= SNAPSHOTS_MAX &&
               is_cut_off(header, header->snapshots_offset,
                          (uint64_t)header->snapshot_count * SNAPSHOT_FIXED_LENGTH, file_size);
    case HEADER_PART_BITMAPS:
        return is_cut_off(header, header->bitmap_directory_offset, header->bitmap_directory_size,
                          file_size);
    case HEADER_PART_L1:
        return header->virtual_size <= INT64_MAX &&
               header->l1_entries <= HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES &&
               header->l1_entries >= header_l1_entries_for(header, header->virtual_size) &&
               is_cut_off(header, header->l1_offset, (uint64_t)header->l1_entries * L1_ENTRY_BYTES,
                          file_size) &&
               has_something(examination, file_size);
    default:
        return false;
    }
}

static bool can_be_read(const struct header_examination *examination, uint64_t file_size)
{
    for (int part = 0; part < HEADER_PARTS; part++) {
        if (header_part_failed(examination, part) &&
            (header_part_failed(examination, HEADER_PART_CLUSTER_SIZE) ||
             !can_do_without(examination, part, file_size))) {
            return false;
        }
    }
    return true;
}

/* Says of each table that it is missing. */
static void tell_what_is_missing(const struct header_examination *examination, struct log *log)
{
    for (int part = 0; part < HEADER_PARTS; part++) {
        if (header_part_failed(examination, part)) {
            log_line(log, LOG_LEVEL_WARNING, "%s; what can be read without it is shown",
                     examination->problems[part].text);
        }
    }
}

int salvage_header(const struct salvage *salvage, struct header **header, struct error *error)
{
    struct header_examination *examination = calloc(1, sizeof(*examination));
    int result = -error->code;

    if (examination == NULL ||
        header_examine(salvage->file, salvage->file_size, salvage->path, examination) < 0) {
        free(examination);
        return error_set(error, ENOMEM, "%s: out of memory", salvage->path);
    }
    if (can_be_read(examination, salvage->file_size)) {
        if (salvage->read_only) {
            tell_what_is_missing(examination, salvage->log);
            *header = examination->header;
            examination->header = NULL;
            result = 0;
        } else {
            error_set(error, error->code, "%s, " READ_ONLY, error->text);
        }
    }
    header_examination_release(examination);
    free(examination);
    return result;
}

int salvage_snapshots(const struct salvage *salvage, const struct header *header,
                      struct snapshot_table **table, struct error *error)
{
    int result = snapshot_table_examine(salvage->file, header, salvage->file_size, salvage->path,
                                        table, error);
    bool cut_off = result < 0 && *table != NULL && (*table)->cut_off;

    if (cut_off && salvage->read_only) {
        log_line(salvage->log, LOG_LEVEL_WARNING,
                 "%s; of its %" PRIu32 " snapshots %zu can be shown, and the disk", error->text,
                 header->snapshot_count, (*table)->count);
        *error = (struct error){0};
        return 0;
    }
    if (cut_off) {
        error_set(error, error->code, "%s, " READ_ONLY, error->text);
    }
    if (result < 0) {
        snapshot_table_free(*table);
        *table = NULL;
    }
    return result;
}
