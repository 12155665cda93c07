/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots of the disk ("Snapshots"): made, removed, renamed, and gone back to.
 *
 *     made      for each L2 table: counts of what it has + 1 -> sync (R2), COPIED cleared;
 *               a copy of the L1 table as it was at first, a table with one entry more
 *                         -> sync (R2, R3), the header names it -> sync
 *     removed   a table with one entry less -> sync (R3), the header names it -> sync (R4),
 *               counts - 1, COPIED as the counts are
 *     gone back counts of all that the snapshot has + 1, a copy of its L1 table -> sync (R2),
 *               the header names that as the active one -> sync (R4),
 *               counts of what the disk had - 1, COPIED as the counts are
 *
 * A crash leaves one table or the other. While COPIED bits and counts do not agree, an image of
 * version 3 is marked dirty, and repaired when it is opened; one of version 2 has leaks and COPIED
 * bits to be corrected by a check, which do no harm: counts are never too low, and no cluster that
 * two states share says that it has one owner.
 *
 * Requests that change the disk wait meanwhile (writer_pause()), reading goes on. But what takes
 * long is done while others go on: making lets writes pass, which first share what they are about
 * to change (snapshot_make.c), and removing everything, but for parts of the COPIED bits.
 */
#ifndef IMAGE_SNAPSHOTS_H
#define IMAGE_SNAPSHOTS_H

#include "disk/writer.h"
#include "util/error.h"

#include <stddef.h>
#include <stdint.h>

/* The bytes of an id or a name that an entry can hold. */
#define SNAPSHOT_NAME_BYTES_MAX 65535

/*
 * Makes a snapshot of the disk as it is now, called `name`, with the next id. image->snapshots is
 * read anew by these four. 0, or a negative errno with a sentence: -EEXIST for a name that there is
 * already, -EMLINK and -EFBIG at the limits of the table, -EOVERFLOW where a count cannot rise,
 * -ENOTSUP for a data file, -ENAMETOOLONG, -EINVAL for no name, -EUCLEAN for a damaged image,
 * -ENOSPC, -EROFS, -EIO, -ENOMEM. After an error nothing has changed, but where that cannot be said
 * (R7).
 */
int writer_snapshot_make(struct writer *writer, const char *name, struct error *error);

/* Removes snapshot `index` of image->snapshots. No view of it may be open. */
int writer_snapshot_remove(struct writer *writer, size_t index, struct error *error);

/* Gives snapshot `index` another name. */
int writer_snapshot_rename(struct writer *writer, size_t index, const char *name,
                           struct error *error);

/*
 * The disk becomes what it was in snapshot `index`, its size included; what it is now is lost. No
 * view may be open, nor may any be read afterwards but new ones.
 */
int writer_snapshot_apply(struct writer *writer, size_t index, struct error *error);

/*
 * The disk has nothing of its own any more: what is behind the image shows, or zeros. As going back
 * to a snapshot without clusters; the image's snapshots keep theirs.
 */
int writer_empty(struct writer *writer, struct error *error);

/*
 * Has the header name another snapshot table, of `count` entries, once that is stable (R3), and
 * drops the old one. For the above, and for who rewrites the table. After an error *begun is
 * whether the header may name the new one all the same.
 */
int writer_replace_snapshot_table(struct writer *writer, const uint8_t *bytes, size_t length,
                                  uint32_t count, bool *begun, struct error *error);

#endif
