/* SPDX-License-Identifier: MIT */
/*
 * Reading compressed clusters, through the pool for data of the shared cache:
 * each is decompressed once, by whoever asks for it first.
 */
#ifndef IMAGE_COMPRESSED_H
#define IMAGE_COMPRESSED_H

#include "disk/view.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Reads `length` bytes of a COMPRESSED extent, which has as many. `once`: they are part of a
 * sequential reading, and the cluster is not expected to be wanted again when its last byte was
 * read; then it leaves the pool, or, where all of it is wanted at once, does not get there.
 * 0; -EBADMSG when it does not inflate to a cluster; -ENOMEM; what the store returned.
 */
int compressed_read(const struct view_extent *found, void *buffer, size_t length, bool once);

/* Has the cluster in the pool, for those who will read it. 0 or as compressed_read(). */
int compressed_fetch(const struct view_extent *found);

/* What the entry (of compressed data) names is something else from here on: no cluster of it is
 * kept. */
void compressed_forget(const struct image *image, uint64_t entry);

#endif
