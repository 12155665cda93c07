/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table ("Snapshots"): read and validated as a whole when the
 * image is opened.
 */
#ifndef META_SNAPSHOT_H
#define META_SNAPSHOT_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* QEMU's limits. */
#define SNAPSHOTS_MAX           65536
#define SNAPSHOT_TABLE_MAX      (UINT64_C(1024) * SNAPSHOTS_MAX) /* bytes */
#define SNAPSHOT_EXTRA_DATA_MAX 1024                             /* bytes */

struct snapshot {
    char *id; /* NUL-terminated copies; the bytes are whatever the image holds */
    char *name;
    uint64_t l1_offset; /* host offset, bytes */
    uint32_t l1_entries;
    uint64_t disk_size; /* bytes; that of the image's disk where none is recorded */
    bool records_disk_size;
    uint64_t vm_state_size; /* bytes; 0 without VM state */
    uint32_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t icount; /* UINT64_MAX when not recorded */
};

struct snapshot_table {
    size_t count;
    struct snapshot *snapshots; /* in the order of the table */
    uint64_t size;              /* bytes that the table takes on disk */
    bool cut_off;               /* the file ends, or cannot be read, before the table does */
};

/*
 * Reads the table that `header` names. -EINVAL with a sentence that begins with
 * `name` (a file name) when an entry runs over the table's limits or the file,
 * or the table overlaps another; -EIO; -ENOMEM. The L1 tables of the snapshots
 * are not looked at: a bad one makes only that snapshot unreadable.
 */
int snapshot_table_read(struct store *file, const struct header *header, uint64_t file_size,
                        const char *name, struct snapshot_table **table, struct error *error);
void snapshot_table_free(struct snapshot_table *table);

/* Forgets all entries but the first `count`. */
void snapshot_table_shorten(struct snapshot_table *table, size_t count);

/*
 * The same, but where an entry has a problem *table has those before it: the
 * caller frees it also after a failure. NULL where there is nothing to be had.
 */
int snapshot_table_examine(struct store *file, const struct header *header, uint64_t file_size,
                           const char *name, struct snapshot_table **table, struct error *error);

/*
 * Whether the snapshot's L1 table and its disk size are possible in this image,
 * and, of a snapshot for which they are, its VM state: 0, or -EINVAL with a
 * sentence.
 */
int snapshot_validate(const struct header *header, const struct snapshot *snapshot,
                      const char *name, struct error *error);
int snapshot_validate_vm_state(const struct header *header, const struct snapshot *snapshot,
                               const char *name, struct error *error);

/*
 * The guest offset at which the snapshot's VM state starts: that of the first
 * L1 entry that maps no part of its disk.
 */
uint64_t snapshot_vm_state_offset(const struct header *header, const struct snapshot *snapshot);

#endif
