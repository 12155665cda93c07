/* SPDX-License-Identifier: MIT */
/*
 * The partitions of the disks under the mount point: of the active one, and of
 * each snapshot's. A table is read when somebody first looks at it, and that of
 * a disk that is written to again when what it was read from may have changed.
 * (The parser is deterministic: as long as no byte that it read has changed, and
 * the disk not its size, it would find the same.) Everything on a disk is hostile:
 * the work is bounded by guest/partitions.h, and of the tables of snapshots, which
 * can always be read again, only a few are kept. Labels and UUIDs of the file systems
 * (guest/label) are read when one of them is asked for, for a second at most: those of
 * the active disk again after any change.
 *
 * A partition of the active disk has a serial number. It is another one as soon as
 * the partition has another place: what the kernel has cached of an inode then
 * belongs to no other range, and who has the old one open keeps it.
 *
 * One mutex, under which a table is read, and the view of a snapshot opened (fuse/shown; nothing
 * else of the mount is waited for then); parts_changed() takes none.
 */
#ifndef FUSE_PARTS_H
#define FUSE_PARTS_H

#include "disk/image.h"
#include "fuse/names.h"
#include "fuse/shown.h"
#include "util/log.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Disks are counted: the active one, then that of the snapshot with key 0, ... */
#define PARTS_ACTIVE        UINT64_C(0)
#define PARTS_SNAPSHOT(key) ((key) + UINT64_C(1))

#define PARTS_NUMBER_MAX (1U << 16) /* of a partition: as many entries as a GPT may have */

struct part {
    unsigned number; /* 1 to PARTS_NUMBER_MAX */
    uint64_t serial; /* 0 of a snapshot's */
    uint64_t start;  /* bytes */
    uint64_t size;   /* bytes, > 0 */
};

/* By what else than its number a partition is found. */
enum part_key {
    PART_BY_LABEL,     /* of the file system in it */
    PART_BY_PARTLABEL, /* its name in a GPT */
    PART_BY_PARTUUID,
    PART_BY_TYPE, /* the type GUID in capitals, or two hexadecimal digits */
    PART_BY_UUID, /* of the file system */
};

#define PART_KEYS 5

struct parts {
    struct image *image;
    struct shown *shown;
    struct log *log;
    struct shelves *shelves; /* what was read */
    /*
     * A change that begins before the first, or ends behind the second, may be one of the table
     * of the active disk: bytes. Nothing is before 0.
     */
    _Atomic uint64_t head_end, tail_begin;
    atomic_bool is_stale;   /* there was such a change since the table was read */
    atomic_bool has_labels; /* those of the active disk are read, and nothing has changed since */
};

/* All is borrowed. 0 or -ENOMEM. */
int parts_create(struct image *image, struct shown *shown, struct log *log, struct parts **parts);
/* `parts` may be NULL. */
void parts_destroy(struct parts *parts);

/*
 * The partition of a disk with that number, or number `index` (from 0) in the order of their
 * numbers. 0; -ENOENT; -EIO after a log line; -ENOMEM.
 */
int parts_find(struct parts *parts, uint64_t disk, unsigned number, struct part *part);
int parts_at(struct parts *parts, uint64_t disk, uint64_t index, struct part *part);

/*
 * The partition that is called `name` by that key, or number `index` of those that have such a
 * name. A name is made fit to be a file's, and unlike all others, as names.h says; the ID is the
 * partition's number. As above.
 */
int parts_find_name(struct parts *parts, uint64_t disk, enum part_key key, const char *name,
                    struct part *part);
int parts_name_at(struct parts *parts, uint64_t disk, enum part_key key, uint64_t index,
                  char name[NAMES_MAX + 1], struct part *part);

/* Drops what was read of snapshots that are not shown any more. */
void parts_forget_gone(struct parts *parts);

/* Bytes [from, to) of the active disk have changed. */
static inline void parts_changed(struct parts *parts, uint64_t from, uint64_t to)
{
    if (from < atomic_load(&parts->head_end) || to > atomic_load(&parts->tail_begin)) {
        atomic_store(&parts->is_stale, true);
    }
    if (atomic_load(&parts->has_labels)) {
        atomic_store(&parts->has_labels, false);
    }
}

#endif
