/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps ("Bitmaps"): made, removed, cleared, switched on and off, merged. Of a disk
 * that is written those that record are stored first, and record again with the next change.
 *
 *     what is new (bits, their table, the directory) goes to clusters of its own -> sync (R2, R3),
 *     the header names the new directory -> sync, what was before is freed (R4)
 *
 * A crash leaves the old bitmaps or the new ones. Requests that change something wait meanwhile.
 * All take the bitmap's name, and return 0, or a negative errno with a sentence: -ENOENT, -EEXIST,
 * -EINVAL for one that cannot be used, -ENOTSUP for version 2, -ENOSPC, -EROFS, -EIO, -ENOMEM.
 * After an error nothing has changed, but where that cannot be said (R7): then nothing is changed
 * any more.
 */
#ifndef DISK_BITMAPS_H
#define DISK_BITMAPS_H

#include "disk/writer.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * An empty bitmap with a bit for each `granularity` bytes of the disk, a power of two of 512 bytes
 * to 2 GiB; 0: that of QEMU, a cluster, but 4 to 64 KiB. Enabled, so that programs which know
 * bitmaps write down in it what they change. -EFBIG: it would have more than 512 MiB.
 */
int writer_bitmap_add(struct writer *writer, const char *name, uint64_t granularity,
                      struct error *error);

/*
 * The bitmap of that name of `source`, an open image with a disk of the same size, with its
 * granularity, its bits, and whether it is enabled: all of it is there at once.
 */
int writer_bitmap_copy(struct writer *writer, const char *name, struct image *source,
                       struct error *error);

int writer_bitmap_remove(struct writer *writer, const char *name, struct error *error);

/* No bit of it is set any more. */
int writer_bitmap_clear(struct writer *writer, const char *name, struct error *error);

/* Whether changes are to be written down in it. */
int writer_bitmap_enable(struct writer *writer, const char *name, bool enabled,
                         struct error *error);

/*
 * What is set in bitmap `from` of `source`, an open image with a disk of the same size, which may
 * be the writer's own, is set in it, too.
 */
int writer_bitmap_merge(struct writer *writer, const char *name, struct image *source,
                        const char *from, struct error *error);

#endif
