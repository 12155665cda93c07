/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/snapshot_write.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* "at least 16 bytes in version 3": up to the size of the disk. */
#define EXTRA_NEEDED (SNAPSHOT_EXTRA_ICOUNT - SNAPSHOT_FIXED_LENGTH)

static size_t aligned(size_t length)
{
    return (length + 7) & ~(size_t)7;
}

/* Copies the entry at `from`, with what its extra data lacks; its length there, *written here. */
static size_t upgrade_entry(const uint8_t *from, const struct snapshot *snapshot, uint8_t *to,
                            size_t *written)
{
    size_t extra = load_be32(from + SNAPSHOT_EXTRA_DATA_SIZE);
    size_t names =
        (size_t)load_be16(from + SNAPSHOT_ID_LENGTH) + load_be16(from + SNAPSHOT_NAME_LENGTH);
    size_t kept = SNAPSHOT_FIXED_LENGTH + extra;
    size_t new_extra = in_memory(max_u64(extra, EXTRA_NEEDED));
    uint8_t *names_to = to + SNAPSHOT_FIXED_LENGTH + new_extra;

    memcpy(to, from, kept);
    if (extra < new_extra) {
        store_be32(to + SNAPSHOT_EXTRA_DATA_SIZE, (uint32_t)new_extra);
        store_be64(to + SNAPSHOT_EXTRA_VM_STATE_SIZE, snapshot->vm_state_size);
        store_be64(to + SNAPSHOT_EXTRA_DISK_SIZE, snapshot->disk_size);
    }
    memcpy(names_to, from + kept, names);
    *written = aligned(SNAPSHOT_FIXED_LENGTH + new_extra + names);
    return aligned(kept + names);
}

/* The new table in memory for it, and its length; whether it differs from the old one. */
static bool upgrade(const uint8_t *old, const struct snapshot_table *table, uint8_t *new,
                    size_t *length)
{
    size_t from = 0, to = 0;

    for (size_t i = 0; i < table->count; i++) {
        size_t written;

        from += upgrade_entry(old + from, &table->snapshots[i], new + to, &written);
        to += written;
    }
    *length = to;
    return to != from;
}

/* The table as the file has it, *old for the caller to free. 0 or a negative errno with a sentence.
 */
static int read_old(struct store *file, const struct header *header,
                    const struct snapshot_table *table, const char *name, uint8_t **old,
                    struct error *error)
{
    int result = -ENOMEM;

    *old = malloc(in_memory(table->size + 1));
    if (*old != NULL) {
        result = store_read(file, header->snapshots_offset, *old, in_memory(table->size));
    }
    if (result < 0) {
        free(*old);
        *old = NULL;
        return error_set(error, -result, "%s: the snapshot table cannot be read: %s", name,
                         strerror(-result));
    }
    return 0;
}

static int check_length(size_t length, const char *name, struct error *error)
{
    return length <= SNAPSHOT_TABLE_MAX
               ? 0
               : error_set(error, EFBIG,
                           "%s: its snapshot table would exceed the limit of 64 MiB; delete "
                           "snapshots first",
                           name);
}

int snapshot_table_upgrade(struct store *file, const struct header *header,
                           const struct snapshot_table *table, const char *name, uint8_t **bytes,
                           size_t *length, struct error *error)
{
    uint8_t *new = calloc(1, in_memory(table->size + table->count * (EXTRA_NEEDED + 8) + 1)),
            *old = NULL;
    int result = new == NULL ? error_set(error, ENOMEM, "%s: out of memory", name) : 0;

    *bytes = NULL;
    *length = 0;
    if (result == 0) {
        result = read_old(file, header, table, name, &old, error);
    }
    if (result == 0 && upgrade(old, table, new, length)) {
        result = check_length(*length, name, error);
        if (result == 0) {
            *bytes = new;
            new = NULL;
        }
    }
    free(old);
    free(new);
    return result;
}

/* --- One change ------------------------------------------------------------------------------ */

static size_t entry_length(const uint8_t *entry)
{
    return aligned((size_t)SNAPSHOT_FIXED_LENGTH + load_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE) +
                   load_be16(entry + SNAPSHOT_ID_LENGTH) + load_be16(entry + SNAPSHOT_NAME_LENGTH));
}

/* Copies an entry with another name; its length at `to`. */
static size_t rename_entry(const uint8_t *from, const char *name, uint8_t *to)
{
    size_t kept = (size_t)SNAPSHOT_FIXED_LENGTH + load_be32(from + SNAPSHOT_EXTRA_DATA_SIZE) +
                  load_be16(from + SNAPSHOT_ID_LENGTH);

    memcpy(to, from, kept);
    store_be16(to + SNAPSHOT_NAME_LENGTH, (uint16_t)strlen(name));
    memcpy(to + kept, name, strlen(name));
    return entry_length(to);
}

/* An entry of version 3, with all the extra data that is known. */
static size_t new_entry(const struct snapshot *snapshot, uint8_t *to)
{
    size_t id_length = strlen(snapshot->id), name_length = strlen(snapshot->name);
    uint8_t *names = to + SNAPSHOT_EXTRA_ICOUNT + 8;

    store_be64(to + SNAPSHOT_L1_TABLE_OFFSET, snapshot->l1_offset);
    store_be32(to + SNAPSHOT_L1_SIZE, snapshot->l1_entries);
    store_be16(to + SNAPSHOT_ID_LENGTH, (uint16_t)id_length);
    store_be16(to + SNAPSHOT_NAME_LENGTH, (uint16_t)name_length);
    store_be32(to + SNAPSHOT_DATE_SEC, snapshot->date_sec);
    store_be32(to + SNAPSHOT_DATE_NSEC, snapshot->date_nsec);
    store_be64(to + SNAPSHOT_VM_CLOCK_NSEC, snapshot->vm_clock_nsec);
    store_be32(to + SNAPSHOT_VM_STATE_SIZE, (uint32_t)snapshot->vm_state_size);
    store_be32(to + SNAPSHOT_EXTRA_DATA_SIZE, SNAPSHOT_EXTRA_ICOUNT + 8 - SNAPSHOT_FIXED_LENGTH);
    store_be64(to + SNAPSHOT_EXTRA_VM_STATE_SIZE, snapshot->vm_state_size);
    store_be64(to + SNAPSHOT_EXTRA_DISK_SIZE, snapshot->disk_size);
    store_be64(to + SNAPSHOT_EXTRA_ICOUNT, snapshot->icount);
    memcpy(names, snapshot->id, id_length);
    memcpy(names + id_length, snapshot->name, name_length);
    return entry_length(to);
}

/* Whether the bytes are `count` entries: they were, when the table was read first. */
static bool has_entries(const uint8_t *old, size_t size, size_t count)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        if (size - at < SNAPSHOT_FIXED_LENGTH ||
            load_be32(old + at + SNAPSHOT_EXTRA_DATA_SIZE) > SNAPSHOT_EXTRA_DATA_MAX ||
            entry_length(old + at) > size - at) {
            return false;
        }
        at += entry_length(old + at);
    }
    return at == size;
}

static size_t edit_entries(const uint8_t *old, size_t count, const struct snapshot_edit *edit,
                           uint8_t *new)
{
    size_t to = 0;

    for (size_t i = 0; i < count; i++) {
        size_t length = entry_length(old);

        if (i == edit->renamed) {
            to += rename_entry(old, edit->name, new + to);
        } else if (i != edit->removed) {
            memcpy(new + to, old, length);
            to += length;
        }
        old += length;
    }
    return edit->added == NULL ? to : to + new_entry(edit->added, new + to);
}

/* Two names that each fill their field, and what is fixed. */
#define EDIT_MORE (2 * (UINT16_MAX + (size_t)1) + SNAPSHOT_EXTRA_ICOUNT + 16)

int snapshot_table_edit(struct store *file, const struct header *header,
                        const struct snapshot_table *table, const char *name,
                        const struct snapshot_edit *edit, uint8_t **bytes, size_t *length,
                        struct error *error)
{
    uint8_t *old;
    int result;

    *bytes = NULL;
    if (edit->added != NULL && table->count >= SNAPSHOTS_MAX) {
        return error_set(error, EMLINK,
                         "%s: has %zu snapshots already, and cannot have more; "
                         "delete some first",
                         name, table->count);
    }
    result = read_old(file, header, table, name, &old, error);
    if (result < 0) {
        return result;
    }
    *bytes = calloc(1, in_memory(table->size + EDIT_MORE));
    if (!has_entries(old, in_memory(table->size), table->count)) {
        result = error_set(error, EIO,
                           "%s: the snapshot table at offset 0x%" PRIx64
                           " is not what it was when the image was opened",
                           name, header->snapshots_offset);
    } else if (*bytes == NULL) {
        result = error_set(error, ENOMEM, "%s: out of memory", name);
    } else {
        *length = edit_entries(old, table->count, edit, *bytes);
        result = check_length(*length, name, error);
    }
    free(old);
    if (result < 0) {
        free(*bytes);
        *bytes = NULL;
    }
    return result;
}
