/* SPDX-License-Identifier: MIT */
/* The snapshot table ("Snapshots") as it is to be, from what it is. */
#ifndef META_SNAPSHOT_WRITE_H
#define META_SNAPSHOT_WRITE_H

#include "meta/header.h"
#include "meta/snapshot.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The rest of a sentence, for an image of version 3 where that is not so. */
#define SNAPSHOTS_WITHOUT_SIZES                                                                \
    "has snapshots that do not record how large the disk was, as compat=1.1 asks for; repair " \
    "them with qcow2ctl check --repair=all"

/* Whether every snapshot says how large its disk is: that of the image may change then. */
static inline bool snapshot_table_has_sizes(const struct snapshot_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        if (!table->snapshots[i].records_disk_size) {
            return false;
        }
    }
    return true;
}

/*
 * The bytes of a table in which each entry has the extra data that version 3
 * asks for: the size of the VM state and that of the disk; all else stays byte
 * for byte. *bytes, for the caller to free, is NULL where `table` (which is of
 * this header) is such a table already. 0; -EIO, -ENOMEM or the like, and
 * -EFBIG where it would exceed SNAPSHOT_TABLE_MAX, with a sentence that begins with `name`.
 */
int snapshot_table_upgrade(struct store *file, const struct header *header,
                           const struct snapshot_table *table, const char *name, uint8_t **bytes,
                           size_t *length, struct error *error);

/* What is to become of a table: one change. */
struct snapshot_edit {
    const struct snapshot *added; /* behind all others; or NULL */
    size_t removed;               /* index; SNAPSHOT_NONE */
    size_t renamed;               /* index; SNAPSHOT_NONE */
    const char *name;             /* its new one */
};

#define SNAPSHOT_NONE SIZE_MAX

/*
 * The bytes of the table after the change, *bytes for the caller to free; every other entry stays
 * byte for byte. Errors as above; -EMLINK where there are SNAPSHOTS_MAX already.
 */
int snapshot_table_edit(struct store *file, const struct header *header,
                        const struct snapshot_table *table, const char *name,
                        const struct snapshot_edit *edit, uint8_t **bytes, size_t *length,
                        struct error *error);

#endif
