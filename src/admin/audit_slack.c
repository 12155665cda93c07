/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/audit_internal.h"

#include "meta/format.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((size_t)16384) /* bytes of one read */

/* Where bytes are that no reader looks at. */
struct place {
    enum audit_grade grade;
    const char *code;
    const char *what; /* "behind the L1 table" */
    uint64_t begin, end;
};

/* Counts the bytes of [begin, end) that are not 0. 0 or a negative errno. */
static int count_bytes(struct store *file, uint64_t begin, uint64_t end, uint64_t *count,
                       uint64_t *first)
{
    uint8_t bytes[PIECE];
    int result = 0;

    *count = 0;
    while (begin < end && result == 0) {
        size_t length = (size_t)min_u64(end - begin, sizeof(bytes));

        result = store_read(file, begin, bytes, length);
        for (size_t i = 0; result == 0 && i < length; i++) {
            if (bytes[i] != 0 && (*count)++ == 0) {
                *first = begin + i;
            }
        }
        begin += length;
    }
    return result;
}

static void look(struct audit *audit, const struct inspection *image, const struct place *place)
{
    uint64_t end = min_u64(place->end, image->info.size), count, first = 0;
    int result;

    if (place->begin >= end) {
        return;
    }
    result = count_bytes(image->file, place->begin, end, &count, &first);
    if (result < 0) {
        audit_add_at(audit, AUDIT_DANGER, "unreadable", image, place->begin,
                     "the bytes %s cannot be read: %s", place->what, strerror(-result));
    } else if (count > 0) {
        audit_add_at(audit, place->grade, place->code, image, first,
                     "bytes %s that are not zero: %" PRIu64, place->what, count);
    }
}

/* From the end of a table to the end of its cluster. */
static void look_behind(struct audit *audit, const struct inspection *image, const char *code,
                        const char *what, uint64_t offset, uint64_t length)
{
    struct place place = {.grade = AUDIT_WARNING, .code = code, .what = what};

    if (checked_add(offset, length, &place.begin) &&
        checked_round_up(place.begin, image->header->cluster_size, &place.end)) {
        look(audit, image, &place);
    }
}

static void look_at_first_cluster(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;
    const struct place places[] = {
        {AUDIT_WARNING, "header-slack", "behind the header extensions", image->slack[0].begin,
         image->slack[0].end},
        {AUDIT_WARNING, "header-slack", "behind the backing file name in the first cluster",
         image->slack[1].begin, image->slack[1].end},
        {AUDIT_NOTE, "header-fields", "in additional fields of the header", HEADER_FULL_LENGTH,
         header->header_length},
    };

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        look(audit, image, &places[i]);
    }
}

static void look_behind_snapshots(struct audit *audit, const struct inspection *image)
{
    const struct snapshot_table *table = image->snapshots;

    if (!image->snapshots_whole || table->count == 0) {
        return;
    }
    look_behind(audit, image, "snapshot-table-slack", "behind the snapshot table",
                image->header->snapshots_offset, table->size);
    for (size_t i = 0; i < table->count && i < AUDIT_LIST_MAX; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        char what[64];

        snprintf(what, sizeof(what), "behind the L1 table of snapshot %zu", i + 1);
        look_behind(audit, image, "l1-slack", what, snapshot->l1_offset,
                    (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES);
    }
}

/* L1 entries that map no part of the disk. */
static void look_past_the_disk(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;
    uint64_t needed = header_l1_entries_for(header, header->virtual_size);
    const struct place place = {
        .grade = AUDIT_NOTE, /* QEMU leaves these behind after saving a machine's state */
        .code = "l1-past-disk",
        .what = "in L1 entries behind the end of the disk",
        .begin = header->l1_offset + needed * L1_ENTRY_BYTES,
        .end = header->l1_offset + (uint64_t)header->l1_entries * L1_ENTRY_BYTES,
    };

    look(audit, image, &place);
}

void audit_slack(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;

    if (!inspect_has_geometry(image) || inspect_part_failed(image, HEADER_PART_FIRST_CLUSTER)) {
        return;
    }
    if (!inspect_part_failed(image, HEADER_PART_STRINGS) &&
        !inspect_part_failed(image, HEADER_PART_BITMAPS)) {
        look_at_first_cluster(audit, image);
        look_behind(audit, image, "bitmap-directory-slack", "behind the bitmap directory",
                    header->bitmap_directory_offset, header->bitmap_directory_size);
    }
    look_behind_snapshots(audit, image);
    if (!inspect_part_failed(image, HEADER_PART_L1) && header->l1_entries > 0) {
        look_behind(audit, image, "l1-slack", "behind the L1 table", header->l1_offset,
                    (uint64_t)header->l1_entries * L1_ENTRY_BYTES);
        look_past_the_disk(audit, image);
    }
}
