/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots as what an image shows: which one a user means, and the mapping of its disk.
 * Takes no locks.
 */
#ifndef IMAGE_AT_SNAPSHOT_H
#define IMAGE_AT_SNAPSHOT_H

#include "disk/image.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The index of the snapshot whose ID is `wanted` or, where none has that, whose name is. -ENOENT,
 * or -EINVAL where several have that name, with a sentence that begins with `path`; with `strict`,
 * too, where it is the ID of one and the name of another.
 */
int snapshot_choose(const struct snapshot_table *table, const char *path, const char *wanted,
                    bool strict, size_t *index, struct error *error);

/*
 * Opens the mapping of the snapshot's disk; with `cached_l1` its L1 table is read in pieces,
 * through the L2 cache that mapping_set_cache() gives it. Negative errnos, with a sentence that
 * names file and snapshot: those of mapping_open().
 */
int snapshot_mapping_open(const struct image *image, const struct snapshot *snapshot,
                          bool cached_l1, struct mapping **mapping, struct error *error);

/*
 * Has `image`, which is being opened and whose snapshots are known, show the disk of the one that
 * is `wanted`: its mapping and its size. Negative errnos as above; -EINVAL for an impossible one.
 */
int image_set_snapshot(struct image *image, const char *wanted, struct error *error);

#endif
