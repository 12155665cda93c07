/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/snapshot_write.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
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
    size_t new_extra = max_u64(extra, EXTRA_NEEDED);
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

int snapshot_table_upgrade(struct store *file, const struct header *header,
                           const struct snapshot_table *table, const char *name, uint8_t **bytes,
                           size_t *length, struct error *error)
{
    uint8_t *old = malloc(table->size + 1);
    uint8_t *new = calloc(1, table->size + table->count * (EXTRA_NEEDED + 8) + 1);
    int result = old != NULL && new != NULL ? 0 : -ENOMEM;

    *bytes = NULL;
    *length = 0;
    if (result == 0) {
        result = store_read(file, header->snapshots_offset, old, table->size);
    }
    if (result < 0) {
        error_set(error, -result, "%s: the snapshot table cannot be read: %s", name,
                  strerror(-result));
    } else if (upgrade(old, table, new, length)) {
        *bytes = new;
        new = NULL;
    }
    free(old);
    free(new);
    if (result == 0 && *length > SNAPSHOT_TABLE_MAX) {
        free(*bytes);
        *bytes = NULL;
        result = error_set(error, EFBIG,
                           "%s: its snapshot table would exceed the limit of 64 MiB; delete "
                           "snapshots first",
                           name);
    }
    return result;
}
