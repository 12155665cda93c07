/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/snapshot.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SHOWN 255 /* bytes of a snapshot's name in a finding */

/* "Snapshots": version 3 asks for the size of the VM state and that of the disk. */
#define EXTRA_NEEDED (SNAPSHOT_EXTRA_ICOUNT - SNAPSHOT_FIXED_LENGTH)
#define EXTRA_KNOWN  (SNAPSHOT_EXTRA_ICOUNT + 8 - SNAPSHOT_FIXED_LENGTH)

/* An entry of the table, as far as it matters here. */
struct check_snapshot {
    uint64_t position; /* host offset of the entry, bytes */
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t extra_size;
    uint16_t id_length, name_length;
};

/* --- Reading ----------------------------------------------------------------------- */

static int damaged(const struct check *check, size_t index, uint64_t position, const char *why)
{
    return error_set(
        check->error, EINVAL,
        "%s: entry %zu of the snapshot table, at offset 0x%" PRIx64
        ", runs over %s; the snapshot table is damaged, use an intact copy of the image",
        check->name, index + 1, position, why);
}

static int read_failed(const struct check *check, uint64_t offset, int result)
{
    return error_set(check->error, -result,
                     "%s: the snapshot table at offset 0x%" PRIx64 " cannot be read: %s",
                     check->name, offset, strerror(-result));
}

static uint64_t names_position(const struct check_snapshot *snapshot)
{
    return snapshot->position + SNAPSHOT_FIXED_LENGTH + snapshot->extra_size;
}

/* Host offset behind the entry, with its padding. */
static uint64_t entry_end(const struct check_snapshot *snapshot)
{
    uint64_t end = names_position(snapshot) + snapshot->id_length + snapshot->name_length;

    return (end + 7) & ~UINT64_C(7);
}

static int read_entry(struct check *check, size_t index, uint64_t position,
                      struct check_snapshot *snapshot)
{
    uint64_t begin = check->header->snapshots_offset, end;
    uint8_t entry[SNAPSHOT_FIXED_LENGTH];
    int result;

    if (!range_within(position, sizeof(entry), check->file_size)) {
        return damaged(check, index, position, "the end of the file");
    }
    result = store_read(check->file, position, entry, sizeof(entry));
    if (result < 0) {
        return read_failed(check, position, result);
    }
    *snapshot = (struct check_snapshot){
        .position = position,
        .l1_offset = load_be64(entry + SNAPSHOT_L1_TABLE_OFFSET),
        .l1_entries = load_be32(entry + SNAPSHOT_L1_SIZE),
        .extra_size = load_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE),
        .id_length = load_be16(entry + SNAPSHOT_ID_LENGTH),
        .name_length = load_be16(entry + SNAPSHOT_NAME_LENGTH),
    };
    end = names_position(snapshot) + snapshot->id_length + snapshot->name_length;
    if (end > check->file_size) {
        return damaged(check, index, position, "the end of the file");
    }
    if (end - begin > SNAPSHOT_TABLE_MAX) {
        return damaged(check, index, position, "the table's limit of 64 MiB");
    }
    return 0;
}

/* What a reader can live with, or could if the entry were shorter. */
static void judge_entry(struct check *check, size_t index, const struct check_snapshot *snapshot)
{
    if (snapshot->extra_size > SNAPSHOT_EXTRA_DATA_MAX) {
        check->unsound_snapshots++;
        check_found(check, CHECK_ERROR,
                    "entry %zu of the snapshot table has %" PRIu32
                    " bytes of extra data, at most %d are possible",
                    index + 1, snapshot->extra_size, SNAPSHOT_EXTRA_DATA_MAX);
    } else if (check->header->version >= 3 && snapshot->extra_size < EXTRA_NEEDED) {
        check->unsound_snapshots++;
        check_found(check, CHECK_ERROR,
                    "entry %zu of the snapshot table has %" PRIu32
                    " bytes of extra data, version 3 needs %d",
                    index + 1, snapshot->extra_size, EXTRA_NEEDED);
    }
}

/* Of a header without snapshots, where nothing else looks at the field; but QEMU does. */
static int judge_offset(struct check *check)
{
    uint8_t raw[sizeof(uint64_t)];
    int result = store_read(check->file, HEADER_SNAPSHOTS_OFFSET, raw, sizeof(raw));

    if (result < 0) {
        return check_failed(check, result, "reading the header");
    }
    if (load_be64(raw) % check->header->cluster_size != 0) {
        check->stray_snapshots = true;
        check_found(check, CHECK_ERROR,
                    "there are no snapshots, but the header names 0x%" PRIx64
                    ", which is not the start of a cluster, as the place of their table",
                    load_be64(raw));
    }
    return 0;
}

int check_clear_snapshots(struct check *check)
{
    const uint8_t raw[sizeof(uint64_t)] = {0};
    int result = store_write(check->file, HEADER_SNAPSHOTS_OFFSET, raw, sizeof(raw));

    if (result < 0) {
        return check_failed(check, result, "correcting the header");
    }
    check->result->fixed_errors++;
    return check_sync(check);
}

int check_open_snapshots(struct check *check)
{
    const struct header *header = check->header;
    uint64_t position = header->snapshots_offset;
    size_t i;

    if (header->snapshot_count == 0) {
        return judge_offset(check);
    }

    if (header->snapshot_count > SNAPSHOTS_MAX) {
        return error_set(check->error, EINVAL,
                         "%s: the header field nb_snapshots is %" PRIu32
                         ", at most %d are supported; the header is damaged, use an intact copy "
                         "of the image",
                         check->name, header->snapshot_count, SNAPSHOTS_MAX);
    }
    check->snapshots = calloc((size_t)header->snapshot_count + 1, sizeof(*check->snapshots));
    if (check->snapshots == NULL) {
        return check_failed(check, -ENOMEM, "reading the snapshot table");
    }
    for (i = 0; i < header->snapshot_count; i++) {
        int result = check_go_on(check);

        if (result == 0) {
            result = read_entry(check, i, position, &check->snapshots[i]);
        }
        if (result < 0) {
            return result;
        }
        judge_entry(check, i, &check->snapshots[i]);
        position = entry_end(&check->snapshots[i]);
        check->work_total += check->snapshots[i].l1_entries;
    }
    check->snapshots_size = position - header->snapshots_offset;
    if (header->external_data_file && header->snapshot_count > 0) {
        check_found(check, CHECK_ERROR,
                    "the image has snapshots and an external data file, which cannot be");
    }
    return 0;
}

/* --- Counting ---------------------------------------------------------------------- */

/* An empty name where it cannot be read. */
static void read_name(struct check *check, const struct check_snapshot *snapshot,
                      char name[NAME_SHOWN + 1])
{
    uint64_t position = names_position(snapshot) + snapshot->id_length;
    size_t length = (size_t)min_u64(snapshot->name_length, NAME_SHOWN);

    name[length] = '\0';
    if (store_read(check->file, position, name, length) < 0) {
        name[0] = '\0';
    }
}

/*
 * Its L1 table, as a range of the file, empty where that cannot be; but the table's own clusters
 * are counted for each.
 */
static int count_snapshot(struct check *check, const struct check_snapshot *snapshot,
                          struct check_range *table)
{
    const struct header *header = check->header;
    char name[NAME_SHOWN + 1];

    if (snapshot->l1_offset % header->cluster_size != 0 ||
        snapshot->l1_entries > HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        check->references_unknown = true;
        read_name(check, snapshot, name);
        check_found(check, CHECK_ERROR,
                    "snapshot '%s' has an impossible L1 table, of %" PRIu32
                    " entries at 0x%" PRIx64,
                    name, snapshot->l1_entries, snapshot->l1_offset);
        return 0;
    }
    *table = (struct check_range){
        .begin = snapshot->l1_offset,
        .end = min_u64(check->file_size,
                       snapshot->l1_offset + (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES),
    };
    return check_count(check, snapshot->l1_offset, (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES,
                       CHECK_USE_L1_TABLE);
}

/* check_segment_fn: a part of the L1 tables of `weight` snapshots. */
static int count_part(struct check *check, void *context, uint64_t begin, uint64_t end,
                      const struct check_range *owner, uint64_t weight)
{
    (void)context;
    (void)owner;
    (void)weight;
    return check_count_l1(check, begin, (end - begin) / L1_ENTRY_BYTES, false);
}

int check_count_snapshots(struct check *check, bool with_table)
{
    const struct header *header = check->header;
    struct check_range *tables = calloc((size_t)header->snapshot_count + 1, sizeof(*tables));
    uint32_t i;
    int result = 0;

    if (tables == NULL) {
        return check_failed(check, -ENOMEM, "reading the snapshot table");
    }
    for (i = 0; i < header->snapshot_count && result == 0; i++) {
        result = count_snapshot(check, &check->snapshots[i], &tables[i]);
    }
    if (result == 0) {
        result = check_segments(check, tables, header->snapshot_count, count_part, NULL);
    }
    free(tables);
    if (result == 0 && with_table) {
        result = check_count(check, header->snapshots_offset, check->snapshots_size,
                             CHECK_USE_SNAPSHOT_TABLE);
    }
    return result;
}

/* --- A table without faults -------------------------------------------------------- */

static uint32_t right_extra_size(const struct check *check, const struct check_snapshot *snapshot)
{
    if (snapshot->extra_size > SNAPSHOT_EXTRA_DATA_MAX) {
        return EXTRA_KNOWN;
    }
    return (uint32_t)max_u64(snapshot->extra_size, check->header->version >= 3 ? EXTRA_NEEDED : 0);
}

/* What an entry without them means. */
static void complete_extra(const struct check *check, uint8_t *entry, uint32_t had)
{
    if (had < SNAPSHOT_EXTRA_DISK_SIZE - SNAPSHOT_FIXED_LENGTH) {
        store_be64(entry + SNAPSHOT_EXTRA_VM_STATE_SIZE, load_be32(entry + SNAPSHOT_VM_STATE_SIZE));
    }
    if (had < EXTRA_NEEDED) {
        store_be64(entry + SNAPSHOT_EXTRA_DISK_SIZE, check->header->virtual_size);
    }
}

/* Where there is room for what the old entry takes and EXTRA_NEEDED; *length: of the new one. */
static int rewrite_entry(const struct check *check, const struct check_snapshot *snapshot,
                         uint8_t *entry, uint64_t *length)
{
    uint32_t extra_size = right_extra_size(check, snapshot);
    size_t kept = (size_t)min_u64(extra_size, snapshot->extra_size);
    size_t names = (size_t)snapshot->id_length + snapshot->name_length;
    int result = store_read(check->file, snapshot->position, entry, SNAPSHOT_FIXED_LENGTH + kept);

    if (result == 0) {
        result = store_read(check->file, names_position(snapshot),
                            entry + SNAPSHOT_FIXED_LENGTH + extra_size, names);
    }
    if (result < 0) {
        return result;
    }
    store_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE, extra_size);
    if (extra_size >= EXTRA_NEEDED) {
        complete_extra(check, entry, snapshot->extra_size);
    }
    *length = (SNAPSHOT_FIXED_LENGTH + (uint64_t)extra_size + names + 7) & ~UINT64_C(7);
    return 0;
}

int check_rewrite_snapshots(const struct check *check, uint8_t **table, uint64_t *size)
{
    uint32_t count = check->header->snapshot_count, i;
    int result = 0;

    *size = 0;
    *table = calloc(1, in_memory(check->snapshots_size + (uint64_t)count * EXTRA_NEEDED + 1));
    if (*table == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < count && result == 0; i++) {
        uint64_t length = 0;

        result = rewrite_entry(check, &check->snapshots[i], *table + *size, &length);
        *size += length;
    }
    if (result < 0) {
        free(*table);
        *table = NULL;
    }
    return result;
}
