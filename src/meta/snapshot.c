/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/snapshot.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DAMAGED "the snapshot table is damaged, use an intact copy of the image"

#define PIECE ((size_t)128 << 10) /* bytes that are read at once; no part of an entry is longer */

/* The table while it is being read. */
struct reader {
    struct store *file;
    const struct header *header;
    uint64_t file_size;
    const char *name;
    struct error *error;
    uint64_t position; /* host offset of the next entry */
    bool *cut_off;
    char string[UINT16_MAX]; /* the one that is being read */
    /* What was read of the file last, since entries are small: [piece_offset, + piece_length). */
    uint64_t piece_offset;
    size_t piece_length;
    uint8_t piece[PIECE];
};

/* Reads from the file ahead up to `limit`, but only what is asked for must be there. */
static int read_ahead(struct reader *reader, uint64_t offset, void *buffer, size_t length,
                      uint64_t limit)
{
    uint64_t begin = reader->piece_offset;

    if (!range_within(offset, length, begin + reader->piece_length) || offset < begin) {
        size_t ahead = (size_t)min_u64(PIECE, limit - offset);

        reader->piece_length = 0;
        if (store_read(reader->file, offset, reader->piece, ahead) < 0) {
            return store_read(reader->file, offset, buffer, length);
        }
        reader->piece_offset = begin = offset;
        reader->piece_length = ahead;
    }
    memcpy(buffer, reader->piece + (offset - begin), length);
    return 0;
}

/* Reads a part of entry `index`; the table may end neither past the file nor past its limit. */
static int read_part(struct reader *reader, size_t index, uint64_t offset, void *buffer,
                     size_t length)
{
    uint64_t limit;
    int result;

    if (!checked_add(reader->header->snapshots_offset, SNAPSHOT_TABLE_MAX, &limit) ||
        limit > reader->file_size) {
        limit = reader->file_size;
    }
    if (!range_within(offset, length, limit)) {
        *reader->cut_off = limit == reader->file_size;
        return error_set(
            reader->error, EINVAL,
            "%s: entry %zu of the snapshot table, at offset 0x%" PRIx64 ", runs over %s; " DAMAGED,
            reader->name, index + 1, reader->position,
            limit == reader->file_size ? "the end of the file" : "the table's limit of 64 MiB");
    }
    result = read_ahead(reader, offset, buffer, length, limit);
    if (result < 0) {
        *reader->cut_off = true;
        return error_set(reader->error, -result,
                         "%s: the snapshot table at offset 0x%" PRIx64 " cannot be read: %s",
                         reader->name, offset, strerror(-result));
    }
    return 0;
}

/* The fields that every entry has, and those of its extra data as far as that goes. */
static void decode_fields(const uint8_t *entry, uint32_t extra_size, const struct header *header,
                          struct snapshot *snapshot)
{
    uint64_t length = (uint64_t)SNAPSHOT_FIXED_LENGTH + extra_size;

    snapshot->l1_offset = load_be64(entry + SNAPSHOT_L1_TABLE_OFFSET);
    snapshot->l1_entries = load_be32(entry + SNAPSHOT_L1_SIZE);
    snapshot->date_sec = load_be32(entry + SNAPSHOT_DATE_SEC);
    snapshot->date_nsec = load_be32(entry + SNAPSHOT_DATE_NSEC);
    snapshot->vm_clock_nsec = load_be64(entry + SNAPSHOT_VM_CLOCK_NSEC);
    snapshot->vm_state_size = load_be32(entry + SNAPSHOT_VM_STATE_SIZE);
    snapshot->disk_size = header->virtual_size;
    snapshot->icount = UINT64_MAX;
    if (length >= SNAPSHOT_EXTRA_VM_STATE_SIZE + 8) {
        snapshot->vm_state_size = load_be64(entry + SNAPSHOT_EXTRA_VM_STATE_SIZE);
    }
    if (length >= SNAPSHOT_EXTRA_DISK_SIZE + 8) {
        snapshot->disk_size = load_be64(entry + SNAPSHOT_EXTRA_DISK_SIZE);
        snapshot->records_disk_size = true;
    }
    if (length >= SNAPSHOT_EXTRA_ICOUNT + 8) {
        snapshot->icount = load_be64(entry + SNAPSHOT_EXTRA_ICOUNT);
    }
}

/* Reads `length` bytes as a string; what follows a NUL in them is not seen by anybody. */
static int read_string(struct reader *reader, size_t index, uint64_t offset, uint16_t length,
                       char **string)
{
    int result = read_part(reader, index, offset, reader->string, length);

    if (result < 0) {
        return result;
    }
    /* No longer than it is: a hole of the file would be many strings of 64 KiB. */
    *string = strndup(reader->string, length);
    return *string == NULL ? error_set(reader->error, ENOMEM, "%s: out of memory", reader->name)
                           : 0;
}

/* "Snapshot table entry" */
static int read_entry(struct reader *reader, size_t index, struct snapshot *snapshot)
{
    uint8_t entry[SNAPSHOT_FIXED_LENGTH + SNAPSHOT_EXTRA_DATA_MAX];
    uint64_t position = reader->position + SNAPSHOT_FIXED_LENGTH;
    uint16_t id_length, name_length;
    uint32_t extra_size;
    int result;

    result = read_part(reader, index, reader->position, entry, SNAPSHOT_FIXED_LENGTH);
    if (result < 0) {
        return result;
    }
    extra_size = load_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE);
    if (extra_size > SNAPSHOT_EXTRA_DATA_MAX) {
        return error_set(reader->error, EINVAL,
                         "%s: entry %zu of the snapshot table has %" PRIu32
                         " bytes of extra data, at most %d are possible; " DAMAGED,
                         reader->name, index + 1, extra_size, SNAPSHOT_EXTRA_DATA_MAX);
    }
    result = read_part(reader, index, position, entry + SNAPSHOT_FIXED_LENGTH, extra_size);
    if (result < 0) {
        return result;
    }
    position += extra_size;
    decode_fields(entry, extra_size, reader->header, snapshot);
    id_length = load_be16(entry + SNAPSHOT_ID_LENGTH);
    name_length = load_be16(entry + SNAPSHOT_NAME_LENGTH);
    result = read_string(reader, index, position, id_length, &snapshot->id);
    if (result == 0) {
        result = read_string(reader, index, position + id_length, name_length, &snapshot->name);
    }
    position += (uint64_t)id_length + name_length;
    reader->position = (position + 7) & ~UINT64_C(7);
    return result;
}

static int read_entries(struct reader *reader, struct snapshot_table *table)
{
    uint64_t begin = reader->header->snapshots_offset;
    uint32_t count = reader->header->snapshot_count;
    const char *other;

    reader->position = begin;
    while (table->count < count) {
        struct snapshot *snapshot = &table->snapshots[table->count];
        int result = read_entry(reader, table->count, snapshot);

        if (result < 0) {
            free(snapshot->id);
            free(snapshot->name);
            return result;
        }
        table->count++;
    }
    table->size = reader->position - begin;
    other = header_overlap(reader->header, HEADER_TABLE_NONE, begin, table->size);
    if (other != NULL) {
        return error_set(reader->error, EINVAL,
                         "%s: the snapshot table at offset 0x%" PRIx64 " (%" PRIu64
                         " bytes) overlaps the %s; the header is damaged, use an intact copy of "
                         "the image",
                         reader->name, begin, table->size, other);
    }
    return 0;
}

int snapshot_table_examine(struct store *file, const struct header *header, uint64_t file_size,
                           const char *name, struct snapshot_table **table, struct error *error)
{
    struct reader *reader;
    struct snapshot_table *read;
    int result;

    *table = NULL;
    if (header->snapshot_count > SNAPSHOTS_MAX) {
        return error_set(error, EINVAL,
                         "%s: the header field nb_snapshots is %" PRIu32
                         ", at most %d are supported; the header is damaged, use an intact copy "
                         "of the image",
                         name, header->snapshot_count, SNAPSHOTS_MAX);
    }
    reader = malloc(sizeof(*reader));
    read = calloc(1, sizeof(*read));
    if (read != NULL) {
        read->snapshots = calloc((size_t)header->snapshot_count + 1, sizeof(*read->snapshots));
    }
    if (reader == NULL || read == NULL || read->snapshots == NULL) {
        free(reader);
        snapshot_table_free(read);
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    reader->file = file;
    reader->header = header;
    reader->file_size = file_size;
    reader->name = name;
    reader->error = error;
    reader->cut_off = &read->cut_off;
    reader->piece_length = 0;
    reader->piece_offset = 0;
    *table = read;
    result = read_entries(reader, read);
    free(reader);
    return result;
}

int snapshot_table_read(struct store *file, const struct header *header, uint64_t file_size,
                        const char *name, struct snapshot_table **table, struct error *error)
{
    int result = snapshot_table_examine(file, header, file_size, name, table, error);

    if (result < 0) {
        snapshot_table_free(*table);
        *table = NULL;
    }
    return result;
}

void snapshot_table_shorten(struct snapshot_table *table, size_t count)
{
    struct snapshot *shorter;

    while (table->count > count) {
        table->count--;
        free(table->snapshots[table->count].id);
        free(table->snapshots[table->count].name);
    }
    shorter = reallocarray(table->snapshots, count + 1, sizeof(*shorter));
    if (shorter != NULL) {
        table->snapshots = shorter;
    }
}

void snapshot_table_free(struct snapshot_table *table)
{
    if (table == NULL) {
        return;
    }
    for (size_t i = 0; i < table->count; i++) {
        free(table->snapshots[i].id);
        free(table->snapshots[i].name);
    }
    free(table->snapshots);
    free(table);
}

uint64_t snapshot_vm_state_offset(const struct header *header, const struct snapshot *snapshot)
{
    return header_l1_entries_for(header, snapshot->disk_size) << header_l1_entry_bits(header);
}

/* Whether the snapshot's L1 table can be where the entry says it is. */
static int validate_l1_table(const struct header *header, const struct snapshot *snapshot,
                             const char *name, struct error *error)
{
    const char *other;

    if (snapshot->l1_entries > HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' has an L1 table of %" PRIu32
                         " entries, at most 4194304 are supported",
                         name, snapshot->name, snapshot->l1_entries);
    }
    if (snapshot->l1_offset % header->cluster_size != 0) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' has its L1 table at offset 0x%" PRIx64
                         ", which is not the start of a cluster",
                         name, snapshot->name, snapshot->l1_offset);
    }
    other = header_overlap(header, HEADER_TABLE_NONE, snapshot->l1_offset,
                           (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES);
    if (other != NULL) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' has its L1 table at offset 0x%" PRIx64
                         ", where it overlaps the %s",
                         name, snapshot->name, snapshot->l1_offset, other);
    }
    return 0;
}

int snapshot_validate(const struct header *header, const struct snapshot *snapshot,
                      const char *name, struct error *error)
{
    int result;

    /* Its clusters would be those of the active state: "Header", incompatible feature bit 2. */
    if (header->external_data_file) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' cannot be read: an image with an external data file "
                         "can have no snapshots",
                         name, snapshot->name);
    }
    result = validate_l1_table(header, snapshot, name, error);
    if (result < 0) {
        return result;
    }
    if (snapshot->disk_size > INT64_MAX ||
        snapshot->l1_entries < header_l1_entries_for(header, snapshot->disk_size)) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' has an L1 table of %" PRIu32
                         " entries, too small for its disk of %" PRIu64 " bytes",
                         name, snapshot->name, snapshot->l1_entries, snapshot->disk_size);
    }
    return 0;
}

int snapshot_validate_vm_state(const struct header *header, const struct snapshot *snapshot,
                               const char *name, struct error *error)
{
    uint64_t vm_state_end;

    if (snapshot->vm_state_size > INT64_MAX ||
        !checked_add(snapshot_vm_state_offset(header, snapshot), snapshot->vm_state_size,
                     &vm_state_end) ||
        header_l1_entries_for(header, vm_state_end) > snapshot->l1_entries) {
        return error_set(error, EINVAL,
                         "%s: snapshot '%s' has a VM state of %" PRIu64
                         " bytes, more than its L1 table maps",
                         name, snapshot->name, snapshot->vm_state_size);
    }
    return 0;
}
