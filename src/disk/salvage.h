/* SPDX-License-Identifier: MIT */
/*
 * An image that was cut off, where all of the chain is only read: what is missing is
 * told, and the rest is shown. The refcount table, the snapshot table and the bitmap
 * directory are not needed to read the disk, and of an L1 table or a snapshot table a
 * part is better than none. Part of opening an image (disk/image.c). Takes no locks.
 */
#ifndef DISK_SALVAGE_H
#define DISK_SALVAGE_H

#include "meta/header.h"
#include "meta/snapshot.h"
#include "store/store.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdint.h>

/* An image that is being opened. All is borrowed. */
struct salvage {
    struct store *file;
    uint64_t file_size; /* bytes */
    const char *path;   /* for sentences */
    struct log *log;    /* hears of what is missing */
    bool read_only;     /* else nothing is salvaged, but the sentence says that it could be */
};

/*
 * To be called when header_read() has failed with -EINVAL and `error`: 0, and *header, where only
 * such tables do not lie within the file. Otherwise the same error; -ENOMEM.
 */
int salvage_header(const struct salvage *salvage, struct header **header, struct error *error);

/* As snapshot_table_read(), but with the entries before the place where the file ends. */
int salvage_snapshots(const struct salvage *salvage, const struct header *header,
                      struct snapshot_table **table, struct error *error);

#endif
