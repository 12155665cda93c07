/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of a disk that is mounted: made, removed, renamed, and shown so at once. Each of these
 * is called by one thread alone (filesystem->changes), which answers no requests: it waits for the
 * kernel, which hands over what it caches of the disk by requests that others answer, and for all
 * requests that write (writer_pause()).
 *
 * Locks: tree->change_mutex around the change, outside all of the writer's.
 */
#ifndef FUSE_SNAPSHOTS_H
#define FUSE_SNAPSHOTS_H

#include "fuse/ops.h"
#include "util/error.h"
#include "util/stop.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Has the kernel hand over what it caches of the disk. 0, or the errno with which something that
 * was written was lost, with a sentence: `what` says what is not done, as far as "what was
 * written".
 */
int snapshots_hand_over(struct filesystem *filesystem, const char *what, struct error *error);

/*
 * Makes a snapshot of the disk as it is: of everything that was written before the call began,
 * also of what the kernel has cached. 0 with its key; what writer_snapshot_make() returns; the
 * errno with which something that was written was lost; -EINTR, with nothing done. Always with a
 * sentence.
 */
int snapshots_make(struct filesystem *filesystem, const char *name, const struct stop *stop,
                   uint64_t *key, struct error *error);

/* The key of number `index` of image->snapshots. 0; -ENOENT, -ENOMEM with a sentence. */
int snapshots_key(struct filesystem *filesystem, size_t index, uint64_t *key, struct error *error);

/* Also -EBUSY where a view of it is open, and -ENOENT. */
int snapshots_remove(struct filesystem *filesystem, uint64_t key, struct error *error);

int snapshots_rename(struct filesystem *filesystem, uint64_t key, const char *name,
                     struct error *error);

#endif
